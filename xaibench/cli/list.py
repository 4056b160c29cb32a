"""``xaibench list``: the plugins, and which of them are broken."""

from __future__ import annotations

from fnmatch import fnmatchcase

import click

from xaibench.cli.output import echo, is_terminal, print_json, print_table
from xaibench.plugin_status import Status, statuses
from xaibench.registry import Kind


@click.command(name="list")
@click.argument("kind", required=False, metavar="[KIND]")
@click.option("--pattern", default="*", metavar="WILDCARD", help="Only names that match, as in 'chest*'.")
@click.option("--check", is_flag=True, help="Import every plugin; exit with 1 if one is broken. Takes seconds.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
def command(kind: str | None, pattern: str, check: bool, as_json: bool) -> int:
    """List what is installed: classifiers, explainers, metrics, datasets and benchmarks.

    KIND is one of these; all of them without it. A plugin that is broken is listed with the reason.
    """
    kinds = [Kind.parse(kind)] if kind else [*Kind]
    found = {k: [s for s in statuses(k, check=check) if fnmatchcase(s.entry.name, pattern)] for k in kinds}
    everything = [status for group in found.values() for status in group]
    if as_json:
        print_json({"plugins": [as_dict(status) for status in everything]})
    elif is_terminal():
        for k in kinds:
            if found[k]:
                _print(found[k], title=k.value)
    else:
        _print(everything, title=None)
    if not everything:
        what = f"{kinds[0].singular} matches" if kind else "plugin's name matches"
        echo(f"No {what} {pattern!r}.", err=True)
    return int(check and any(status.reason for status in everything))


def as_dict(status: Status) -> dict[str, str | None]:
    entry = status.entry
    return {
        "kind": entry.kind.value,
        "name": entry.name,
        "description": status.description,
        "target": entry.target,
        "distribution": entry.distribution,
        "version": entry.version,
        "state": status.state,
        "reason": status.reason,
    }


def _print(found: list[Status], title: str | None) -> None:
    columns = {"name": "name", "what it is": "line", "package": "dim", "state": "state"}
    rows = [[s.entry.name, s.reason or s.description, s.entry.package, s.state] for s in found]
    if title is None:
        columns = {"kind": "dim", **columns}
        rows = [[s.entry.kind.singular, *row] for s, row in zip(found, rows, strict=True)]
    print_table(columns, rows, title=title, bad=[i for i, s in enumerate(found) if s.reason])
