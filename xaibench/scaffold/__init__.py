"""A plugin package to start from: what ``xaibench plugin new`` writes."""

from __future__ import annotations

import keyword
import re
from dataclasses import dataclass
from pathlib import Path

import jinja2

from xaibench import __version__, registry
from xaibench.errors import UsageError
from xaibench.registry import Kind

_TEMPLATES = Path(__file__).resolve().parent / "templates"
_NAME = re.compile(r"[a-z][a-z0-9]*([_-][a-z0-9]+)*")


@dataclass(frozen=True)
class Written:
    """A package that was written."""

    folder: Path
    distribution: str
    module: str
    code: Path


def write_package(name: str, kind: str, out: Path) -> Written:
    """Write a package with one plugin: pyproject.toml, a module with a working example, tests, a README.

    Args:
        name: of the plugin, in lower case; the package is called ``xaibench-NAME`` and its module ``xaibench_NAME``.
        kind: explainer, classifier, metric, dataset or benchmark.
        out: folder of the package's folder; made where it is missing.

    Raises:
        UsageError: a name that can't be one or is taken, an unknown kind, or a folder that is there already.
    """
    group = Kind.parse(kind)
    if not _NAME.fullmatch(name) or len(name) > 60 or keyword.iskeyword(name):
        raise UsageError(
            f"{name!r} can't name a plugin: write lower-case letters, digits, - and _, a letter first, such as my_map"
        )
    plugin = name.removeprefix("xaibench-").removeprefix("xaibench_").replace("-", "_")
    if claimed := registry.claims(group).get(plugin):
        raise UsageError(
            f"{group.singular} {plugin!r} is already there, from {claimed[0].package}: choose another name"
        )
    module, distribution = f"xaibench_{plugin}", f"xaibench-{plugin.replace('_', '-')}"
    folder = out / distribution
    if folder.exists():
        raise UsageError(f"{folder} is already there: nothing is overwritten; choose another name or --out DIR")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES), keep_trailing_newline=True, undefined=jinja2.StrictUndefined
    )
    values = {
        "plugin": plugin,
        "kind": group.singular,
        "group": group.group,
        "module": module,
        "distribution": distribution,
        "title": "".join(part.capitalize() for part in plugin.split("_")),
        "version": ".".join(__version__.split(".")[:2]),
    }
    code = folder / "src" / module / "__init__.py"
    files = {
        folder / "pyproject.toml": "pyproject.toml.j2",
        folder / "README.md": "README.md.j2",
        code: f"{group.singular}.py.j2",
        folder / "src" / module / "py.typed": "",
        folder / "tests" / f"test_{plugin}.py": f"test_{group.singular}.py.j2",
    }
    if group is Kind.BENCHMARKS:
        files[folder / "src" / module / f"{plugin}.toml"] = "benchmark.toml.j2"
    for path, template in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(environment.get_template(template).render(values) if template else "", encoding="utf-8")
    return Written(folder, distribution, module, code)
