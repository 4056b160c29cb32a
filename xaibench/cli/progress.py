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
        """Time left as a task says it itself, else from its steps, however long each takes."""

        def render(self, task: Task) -> Text:
            if task.fields["left"]:
                return Text(task.fields["left"], style="progress.remaining")
            if task.speed is None and task.completed and task.total and task.elapsed:  # steps of half a minute or more
                left = time_left(task.completed, task.total, task.fields["at"], task.elapsed)
                return Text(left, style="progress.remaining")
            return super().render(task)

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
    with Bars(*columns, console=console, transient=True) as bars:
        task = bars.add_task("starting", total=None, rate="", note="", left=None, at=0.0)
        running = bars.add_task("", total=None, visible=False, rate="", note="", left=None, at=0.0)

        def stage(name: str, total: int) -> None:
            bars.update(running, visible=False)
            bars.reset(task, description=printable(name), total=total, rate="", note="", left=None, at=0.0)

        def advance(steps: int) -> None:
            bars.advance(task, steps)
            elapsed = bars.tasks[0].elapsed or 0.0
            bars.update(task, at=elapsed)
            if speed := bars.tasks[0].speed or (elapsed and bars.tasks[0].completed / elapsed):
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


def time_left(done: float, total: float, at: float, elapsed: float) -> str:
    """Say how long the rest will take where `done` of `total` steps took `at` seconds, `elapsed` seconds in.

    >>> time_left(8, 40, 120.0, 150.0)
    '7:30'
    """
    minutes, seconds = divmod(round(max(0.0, at * total / done - elapsed)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


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
