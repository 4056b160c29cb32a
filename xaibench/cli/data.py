"""``xaibench data``: look after the data of a dataset."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from xaibench.errors import UsageError

if TYPE_CHECKING:
    from xaibench.datasets.audit import Audit


@click.group(name="data")
def command() -> None:
    """Check the data that a dataset needs."""


@command.command(name="check")
@click.argument("dataset", type=click.Choice(["chestxray8", "folder"]))
@click.option(
    "--data-root",
    required=True,
    type=click.Path(path_type=Path),
    help="Folder with the images and tables.",
)
@click.option(
    "-b", "--benchmark", metavar="FILE", help="folder: the benchmark, whose options say what the tables are called."
)
@click.option("--images", help="chestxray8: folder of the images in the data root.  [default: auto]")
@click.option("--decode", is_flag=True, help="Decode every file, not only its header and end, or a sample.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.pass_context
def check(
    context: click.Context,
    dataset: str,
    data_root: Path,
    benchmark: str | None,
    images: str | None,
    decode: bool,
    as_json: bool,
) -> None:
    """Print what of a dataset is there, what is missing and what is wrong.

    Exits with 0 when the data can be used, with 1 when something breaks a run.
    """
    from rich.console import Console

    from xaibench.cli.output import print_json

    audit = _audit_of(dataset, data_root, benchmark, images)
    errors = Console(stderr=True)
    if errors.is_terminal and not as_json:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("files"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=errors, transient=True) as bar:
            task = bar.add_task("files", total=None)
            result = audit(decode=decode, progress=lambda done, total: bar.update(task, completed=done, total=total))
    else:
        result = audit(decode=decode)
    if as_json:
        print_json(result.as_dict())
    else:
        _show(dataset, result)
    context.exit(0 if result.usable else 1)


def _audit_of(dataset: str, root: Path, benchmark: str | None, images: str | None) -> Callable[..., Audit]:
    """Return the check of a dataset, still to be given `decode` and `progress`.

    Raises:
        UsageError: an option that the dataset has no use for, or no benchmark of it.
    """
    if dataset == "chestxray8":
        from xaibench.datasets.chestxray8.audit import audit

        if benchmark is not None:
            raise UsageError("--benchmark goes with folder: chestxray8 is checked whole, whatever the benchmark")
        return partial(audit, root, images=images or "auto")
    from xaibench.benchmark import load_benchmark
    from xaibench.datasets.folder.audit import audit as audit_folder

    if images is not None:
        raise UsageError("--images goes with chestxray8: for folder it is an option in the benchmark")
    if benchmark is None:
        raise UsageError("folder needs --benchmark FILE: its [dataset.options] say what the tables are called")
    read = load_benchmark(benchmark)
    if read.dataset.name != "folder":
        raise UsageError(f"benchmark {read.name!r} is on {read.dataset.name}: give one on folder")
    return partial(audit_folder, root, read.classes, read.dataset.options, read.task)


def _show(dataset: str, result: Audit) -> None:
    from rich.text import Text

    from xaibench.cli.output import console, printable

    out = console()
    out.print(Text(printable(f"{dataset} in {result.root}"), style="bold"), soft_wrap=True)
    files = list(result.files.items())
    counts = [*result.counts.items(), *((f"files of {kind}", number) for kind, number in files[:8])]
    if len(files) > 8:
        counts.append((f"files of {len(files) - 8} other kinds", sum(number for _, number in files[8:])))
    _print_numbers(("counts", "number"), [(name, (number,)) for name, number in counts])
    if result.classes:
        columns = [column.name for column in fields(result.classes[0])]
        header = ("class", *(column.replace("_", " ") for column in columns[1:]))
        _print_numbers(header, [(row.name, [getattr(row, name) for name in columns[1:]]) for row in result.classes])
    colours = {"error": "bold red", "warning": "yellow", "info": "cyan"}
    for finding in result.findings:
        line = Text(f"{finding.level}: ", style=colours[finding.level])
        line.append(printable(finding.text + (f": {finding.remedy}" if finding.remedy else "")), style="default")
        out.print(line, soft_wrap=True)
        for example in finding.examples:
            out.print(Text(f"    {printable(example)}", style="dim"), soft_wrap=True)
    out.print(Text(result.verdict, style="bold green" if result.usable else "bold red"), soft_wrap=True)


def _print_numbers(header: Sequence[str], rows: Sequence[tuple[str, Sequence[int]]]) -> None:
    """Print a table of a name and whole numbers, right-aligned on a terminal, plain columns into a pipe."""
    from xaibench.cli.output import console, echo, is_terminal, plain_table, printable

    cells = [(name, *(f"{number:,}" for number in numbers)) for name, numbers in rows]
    if not is_terminal():
        echo("\n".join(plain_table(list(header), cells)))
        return
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, header_style="dim", pad_edge=False, padding=(0, 1, 0, 0))
    for index, name in enumerate(header):
        table.add_column(name, justify="right" if index else "left", style="" if index else "bold", no_wrap=True)
    for row in cells:
        table.add_row(*(Text(printable(cell)) for cell in row))
    console().print(table)
