"""Progress for long work: rich bars with rate and time left on a terminal, plain lines on standard error elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from xaibench.cli.output import echo, printable
from xaibench.progress import Progress


@contextmanager
def progress_bars(*, quiet: bool = False) -> Iterator[Progress]:
    """Give callbacks that show how far work is; everything goes to standard error, so that pipes stay clean."""
    if quiet:
        yield Progress(say=lambda text: echo(text, err=True))
        return
    if not sys.stderr.isatty():
        yield _lines()
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        SpinnerColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.progress import (
        Progress as Bars,
    )
    from rich.text import Text

    class Left(TimeRemainingColumn):
        """Time left as a task says it itself, else from its steps."""

        def render(self, task: Task) -> Text:
            return (
                Text(task.fields["left"], style="progress.remaining") if task.fields["left"] else super().render(task)
            )

    console = Console(stderr=True, highlight=False, markup=False)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}", style="dim", markup=False),
        Left(compact=True),
        TextColumn("{task.fields[note]}", style="dim", markup=False),
    )
    # A step may take minutes: rich forgets those of more than half a minute ago.
    with Bars(*columns, console=console, transient=True, speed_estimate_period=3600) as bars:
        task = bars.add_task("starting", total=None, rate="", note="", left=None)
        running = bars.add_task("", total=None, visible=False, rate="", note="", left=None)

        def stage(name: str, total: int) -> None:
            bars.update(running, visible=False)
            bars.reset(task, description=printable(name), total=total, rate="", note="", left=None)

        def advance(steps: int) -> None:
            bars.advance(task, steps)
            if speed := bars.tasks[0].speed:
                bars.update(task, rate=rate(speed))

        def epoch(record: Mapping[str, float | None]) -> None:
            bars.update(task, note=_epoch(record))

        def metric(name: str, done: int, total: int, seconds: float) -> None:
            each, left = pace(done, total, seconds)
            bars.update(
                running, description=printable(name), completed=done, total=total, rate=each, left=left, visible=True
            )

        def say(text: str) -> None:
            bars.console.print(printable(text))

        yield Progress(stage=stage, advance=advance, epoch=epoch, say=say, metric=metric)


def pace(done: int, total: int, seconds: float) -> tuple[str, str]:
    """Say how long a metric takes for a map, and how long its own work will still take, over all explainers.

    >>> pace(32, 96, 64.0), pace(0, 96, 0.0)
    (('2.0 s each', '2:08'), ('', '-:--'))
    """
    if not done or not seconds:
        return "", "-:--"
    minutes, rest = divmod(round(seconds / done * max(0, total - done)), 60)
    return rate(done / seconds), f"{minutes}:{rest:02d}"


def rate(speed: float) -> str:
    """Say how many steps a second, or how many seconds a step.

    >>> rate(12.3), rate(0.5)
    ('12/s', '2.0 s each')
    """
    return f"{speed:.0f}/s" if speed >= 2 else f"{1 / speed:.1f} s each"


def _lines() -> Progress:
    def epoch(record: Mapping[str, float | None]) -> None:
        echo(f"epoch {record['epoch']:.0f}: {_epoch(record)}", err=True)

    return Progress(epoch=epoch, say=lambda text: echo(text, err=True))


def _epoch(record: Mapping[str, float | None]) -> str:
    auc = record["auc"]
    return f"loss {record['loss']:.4f}" + ("" if auc is None else f", validation ROC-AUC {auc:.4f}")
