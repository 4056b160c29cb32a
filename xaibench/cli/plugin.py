"""``xaibench plugin new NAME`` writes a package, ``xaibench plugin check PACKAGE`` puts one through the kit."""

from __future__ import annotations

from pathlib import Path

import click

from xaibench.cli.output import echo
from xaibench.errors import did_you_mean

KINDS = ("explainer", "classifier", "metric", "dataset", "benchmark")


@click.group(name="plugin")
def command() -> None:
    """Start a plugin package of your own, or check one."""


@command.command(name="new")
@click.argument("name")
@click.option("--kind", required=True, metavar="KIND", help=f"{', '.join(KINDS[:-1])} or {KINDS[-1]}.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    metavar="DIR",
    help="Folder to write the package's folder into; here by default.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
def new(name: str, kind: str, out: Path, as_json: bool) -> None:
    """Write an installable package xaibench-NAME with one plugin NAME, its tests and a README.

    \b
    xaibench plugin new brightness --kind explainer
    pip install -e xaibench-brightness && pytest xaibench-brightness
    """
    from xaibench.scaffold import write_package

    if kind not in KINDS:
        raise click.UsageError(f"--kind {kind}: there is no such kind. {did_you_mean(kind, KINDS)}")
    made = write_package(name, kind, out)
    if as_json:
        from xaibench.cli.output import print_json

        files = sorted(str(path) for path in made.folder.rglob("*") if path.is_file())
        print_json({"package": made.distribution, "folder": str(made.folder), "code": str(made.code), "files": files})
        return
    echo(f"Wrote {made.folder}: your {kind} is in {made.code.relative_to(made.folder)}.")
    echo(f"Next:  pip install -e {made.folder} && pytest {made.folder} && xaibench plugin check {made.distribution}")


@command.command(name="check")
@click.argument("package")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
def check(package: str, as_json: bool) -> int:
    """Put every plugin of an installed PACKAGE through the conformance kit.

    Exit code 1 when one does not conform; each failure comes with its remedy.
    """
    from xaibench.cli.output import print_json, print_table
    from xaibench.testing.package import check_package

    checked = check_package(package)
    failed = [one for one in checked if not one.conforms]
    if as_json:
        rows = [
            {
                "kind": one.entry.kind.singular,
                "name": one.entry.full_name,
                "conforms": one.conforms,
                "findings": [finding.to_json() for finding in one.findings],
            }
            for one in checked
        ]
        print_json({"package": package, "plugins": rows})
        return int(bool(failed))
    cells: list[list[str]] = []
    bad: list[int] = []
    for one in checked:
        kind, name = one.entry.kind.singular, one.entry.full_name
        for finding in one.findings:
            bad += [len(cells)] * (finding.severity == "error")
            cells.append([kind, name, finding.severity, f"{finding.check}: {finding.what}", finding.remedy])
        if not one.findings:
            cells.append([kind, name, "conforms", "", ""])
    columns = {"kind": "dim", "name": "name", "state": "state", "finding": "text", "remedy": "text"}
    print_table(columns, cells, bad=bad)
    echo(f"{len(checked) - len(failed)} of {len(checked)} plugins of {package} conform.")
    return int(bool(failed))
