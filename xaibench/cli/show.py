"""``xaibench show NAME``: what a plugin is, where it comes from, and which parameters it takes."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from xaibench.cli.output import LONGEST_LINE, console, echo, is_terminal, print_json, print_table, printable, reflow
from xaibench.errors import PluginError, XaibenchError, did_you_mean
from xaibench.io.limits import TOML_BYTES, read_text
from xaibench.plugin_status import own_doc
from xaibench.registry import Entry, Kind, UnknownPluginError, claims, get, one_line

_DECLARED = ("title", "formula", "category", "direction", "range", "chance", "reference", "curve", "is_baseline")


@dataclass
class Description:
    """All that is known of a plugin."""

    entry: Entry
    doc: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    parameters: list[dict[str, Any]] = field(default_factory=list)
    toml: str | None = None
    reason: str | None = None


@click.command(name="show")
@click.argument("name")
@click.option("--kind", metavar="KIND", help="Only this kind, where several have the name.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
def command(name: str, kind: str | None, as_json: bool) -> int:
    """Show everything of that NAME: documentation, package, parameters; a benchmark's TOML."""
    found = [describe(entry) for entry in find(name, kind)]
    if as_json:
        print_json({"plugins": [_as_dict(description) for description in found]})
    else:
        for index, description in enumerate(found):
            if index:
                click.echo()
            _print(description)
    return int(any(description.reason for description in found))


def find(name: str, kind: str | None = None) -> list[Entry]:
    """Return the plugins of that name, of all kinds.

    Raises:
        UnknownPluginError: there is none; the message says what is near.
        PluginError: two distributions claim the name.
        UsageError: an unknown kind.
    """
    kinds = [Kind.parse(kind)] if kind else [*Kind]
    base = name.partition(":")[0]
    known = {k: claims(k) for k in kinds}
    found = [get(k, name) for k in kinds if base in known[k]]
    if not found:
        what = kinds[0].singular if kind else "plugin"
        raise UnknownPluginError(f"there is no {what} {base!r}. {did_you_mean(base, set().union(*known.values()))}")
    return found


def describe(entry: Entry) -> Description:
    """Import a plugin and read off what it declares; a broken one gives its reason instead."""
    description = Description(entry)
    try:
        loaded = entry.load()
        if entry.kind is Kind.BENCHMARKS:
            _describe_benchmark(description, loaded)
            return description
    except PluginError as error:
        description.reason = one_line(error.__cause__ or error)
        return description
    description.doc = own_doc(loaded) or ""
    if not inspect.isclass(loaded) or getattr(loaded, "is_baseline", False):
        declared = {key: getattr(loaded, key, None) for key in _DECLARED}
        description.facts = {k: _plain(v) for k, v in declared.items() if v is not None}
    description.parameters = parameters(loaded)
    return description


def _describe_benchmark(description: Description, path: Any) -> None:
    from xaibench.benchmark import load_benchmark

    description.facts["file"] = str(path)
    try:
        description.toml = read_text(Path(path), limit=TOML_BYTES)
        benchmark = load_benchmark(Path(path))
    except XaibenchError as error:
        description.reason = str(error)
    except (OSError, ValueError, TypeError) as error:
        description.reason = one_line(error)
    else:
        description.doc = "\n\n".join(filter(None, (benchmark.title, benchmark.description.strip())))
        description.facts |= {
            "hash": benchmark.hash,
            "dataset": benchmark.dataset.name,
            "classes": ", ".join(benchmark.classes),
            "input size": f"{benchmark.input_size} px",
            "recipes for": ", ".join(benchmark.classifiers),
            "metrics": ", ".join(metric.name for metric in benchmark.metrics),
        }


def parameters(loaded: Any) -> list[dict[str, Any]]:
    """Return name, type and default of every parameter: declared ones, pydantic fields, or the signature's.

    >>> def explain(size: int, *, sigma: float = 0.5) -> None: ...
    >>> [p["name"] for p in parameters(explain)]
    ['size', 'sigma']
    """
    declared = getattr(loaded, "parameters", None)
    if isinstance(declared, Mapping):
        return [
            {"name": k, "type": type(v).__name__, "required": False, "default": _plain(v)} for k, v in declared.items()
        ]
    fields = getattr(loaded, "model_fields", None)
    if isinstance(fields, Mapping):
        return [
            {
                "name": key,
                "type": inspect.formatannotation(info.annotation),
                "required": info.is_required(),
                "default": None if info.is_required() else _plain(info.get_default(call_default_factory=True)),
            }
            for key, info in fields.items()
        ]
    try:
        signature = inspect.signature(loaded)
    except (TypeError, ValueError):
        return []
    found = []
    for parameter in signature.parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        empty = parameter.default is parameter.empty
        annotation = "" if parameter.annotation is parameter.empty else parameter.annotation
        found.append(
            {
                "name": parameter.name,
                "type": annotation if isinstance(annotation, str) else inspect.formatannotation(annotation),
                "required": empty,
                "default": None if empty else _plain(parameter.default),
            }
        )
    return found


def _plain(value: Any) -> Any:
    """Return a value that JSON can hold."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if value - value == 0 else str(value)
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if callable(value):
        return "computed for each image" if inspect.isroutine(value) else type(value).__name__
    return str(value)


def _as_dict(description: Description) -> dict[str, Any]:
    entry = description.entry
    return {
        "kind": entry.kind.value,
        "name": entry.full_name,
        "target": entry.target,
        "distribution": entry.distribution,
        "version": entry.version,
        "state": "ok" if description.reason is None else "broken",
        "reason": description.reason,
        "doc": description.doc,
        "facts": description.facts,
        "parameters": description.parameters,
        "toml": description.toml,
    }


def _print(description: Description) -> None:
    entry, terminal = description.entry, is_terminal()
    out = console() if terminal else None
    width = min(out.width, LONGEST_LINE) if out else 10_000
    head = f"{entry.kind.singular} {entry.full_name}"
    click.echo(click.style(printable(head), bold=True))
    click.echo(click.style(printable(f"{entry.package}, {entry.target}"), dim=True))
    if description.reason is not None:
        click.echo(click.style("broken: ", fg="red", bold=True) + printable(description.reason))
    if description.doc:
        echo("\n" + (reflow(description.doc, width) if terminal else description.doc))
    if description.facts:
        click.echo()
        left = max(map(len, description.facts))
        for key, value in description.facts.items():
            text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            indent = " " * (left + 2)
            lines = textwrap.wrap(text, max(width - len(indent), 20), break_on_hyphens=False) or [""]
            echo(f"{key.replace('_', ' ').ljust(left)}  " + f"\n{indent}".join(lines))
    if description.parameters:
        if not terminal:  # on a terminal the table brings its own empty line
            click.echo()
        rows = [
            [p["name"], p["type"], "required" if p["required"] else repr(p["default"])] for p in description.parameters
        ]
        print_table({"parameter": "name", "type": "text", "default": "dim"}, rows)
    if description.toml is not None:
        click.echo()
        if out:
            from rich.syntax import Syntax

            text = printable(description.toml)
            out.print(Syntax(text, "toml", theme="ansi_dark", background_color="default", word_wrap=True))
        else:
            click.echo(printable(description.toml), nl=False)
