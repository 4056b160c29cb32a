"""``xaibench leaderboard add RUN`` and ``xaibench leaderboard build``."""

from __future__ import annotations

from pathlib import Path

import click

from xaibench.cli.output import echo


@click.group(name="leaderboard")
def command() -> None:
    """Keep results of a benchmark side by side: check and add runs, write the page."""


@command.command(name="add")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--to", "folder", type=click.Path(path_type=Path), metavar="DIR", help="Folder of results.")
@click.option("--data-root", type=click.Path(path_type=Path), metavar="DIR", help="Folder of the dataset.")
def add(run: Path, folder: Path | None, data_root: Path | None) -> None:
    """Check RUN and copy its small JSON (no image's data) to the results; benchmarks/results when --to is left out.

    Turned away, with the reason: another protocol, another version of the data, boxed images in training.

    \b
    xaibench leaderboard add runs/A --data-root DIR
    """
    from xaibench.results.leaderboard import add_run

    echo(add_run(run, folder or _default(), data_root=data_root))


@command.command(name="build")
@click.argument("folder", required=False, type=click.Path(path_type=Path), metavar="[DIR]")
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    metavar="PAGE",
    help="The page; it is written as PAGE.md and PAGE.html.",
)
def build(folder: Path | None, out: Path) -> None:
    """Write the page of the results in DIR, benchmarks/results when left out; what is turned away is listed on it.

    \b
    xaibench leaderboard build --out leaderboard
    """
    from xaibench.reporting.leaderboard_page import write_leaderboard
    from xaibench.results.leaderboard import read_results

    results = read_results(folder or _default())
    for file, reason in results.turned_away.items():
        echo(f"turned away: {file}: {reason}", err=True)
    for path in write_leaderboard(results, out):
        echo(path)


def _default() -> Path:
    from xaibench.builtin_benchmarks import FOLDER

    return FOLDER / "results"
