"""``xaibench figures RUN --out DIR``: the paper's figures 5 to 9."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from xaibench.cli.options import reopen_options
from xaibench.cli.output import echo

if TYPE_CHECKING:
    from xaibench.reports.paper_figures import Scale


@click.command(name="figures")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), metavar="DIR", help="Folder to write into.")
@click.option("-e", "--explainer", metavar="NAME", help="Whose maps; cwm, or the run's first.")
@click.option(
    "--ratings",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="CSV",
    help="Hits and misses as persons marked them (xaibench rate).",
)
@click.option(
    "--scale",
    default="figure",
    show_default=True,
    type=click.Choice(["figure", "all", "image"]),
    help="Full colour: the largest value in each figure, in all, or in each image.",
)
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Of the draw of the images.")
@reopen_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
def command(
    run: Path,
    out: Path,
    explainer: str | None,
    ratings: tuple[Path, ...],
    scale: Scale,
    seed: int,
    data_root: Path | None,
    checkpoint: Path | None,
    device: str,
    quiet: bool,
    as_json: bool,
) -> None:
    """Draw the paper's figures 5 to 9 of RUN as PNG and PDF: hits, misses and normal images, boxes in blue.

    \b
    xaibench figures runs/A --out figures
    """
    from xaibench.cli.output import print_json
    from xaibench.cli.progress import progress_bars
    from xaibench.harness.run import Run
    from xaibench.reports.paper_figures import paper_figures

    with progress_bars(quiet=quiet or as_json) as progress:
        written = paper_figures(
            Run.load(run),
            out,
            explainer=explainer,
            ratings=ratings,
            scale=scale,
            seed=seed,
            data_root=data_root,
            checkpoint=checkpoint,
            device=device,
            progress=progress,
        )
    if as_json:
        print_json({"files": [str(path) for path in written]})
    else:
        for path in written:
            echo(path)
