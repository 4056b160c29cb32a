"""Progress for long work: rich bars with rate and time left on a terminal, plain lines on standard error elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import click

from xaibench.progress import Progress


@contextmanager
def progress_bars(*, quiet: bool = False) -> Iterator[Progress]:
    """Give callbacks that show how far work is; everything goes to standard error, so that pipes stay clean."""
    if quiet:
        yield Progress(say=lambda text: click.echo(text, err=True))
        return
    if not sys.stderr.isatty():
        yield _lines()
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        SpinnerColumn,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.progress import (
        Progress as Bars,
    )

    console = Console(stderr=True, highlight=False, markup=False)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}", style="dim"),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[note]}", style="dim"),
    )
    with Bars(*columns, console=console, transient=True) as bars:
        task = bars.add_task("starting", total=None, rate="", note="")

        def stage(name: str, total: int) -> None:
            bars.reset(task, description=name, total=total, rate="", note="")

        def advance(steps: int) -> None:
            bars.advance(task, steps)
            speed = bars.tasks[0].speed
            if speed:
                bars.update(task, rate=f"{speed:.0f}/s" if speed >= 2 else f"{1 / speed:.1f} s each")

        def epoch(record: Mapping[str, float | None]) -> None:
            bars.update(task, note=_epoch(record))

        yield Progress(stage=stage, advance=advance, epoch=epoch, say=lambda text: bars.console.print(text))


def _lines() -> Progress:
    def epoch(record: Mapping[str, float | None]) -> None:
        click.echo(f"epoch {record['epoch']:.0f}: {_epoch(record)}", err=True)

    return Progress(epoch=epoch, say=lambda text: click.echo(text, err=True))


def _epoch(record: Mapping[str, float | None]) -> str:
    auc = record["auc"]
    return f"loss {record['loss']:.4f}" + ("" if auc is None else f", validation ROC-AUC {auc:.4f}")
