"""``xaibench report RUN... --html FILE``: runs of one protocol as one HTML file."""

from __future__ import annotations

from pathlib import Path

import click

from xaibench.cli.options import reopen_options
from xaibench.cli.output import echo


@click.command(name="report")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", type=click.Path(path_type=Path))
@click.option(
    "--html",
    default=Path("report.html"),
    show_default=True,
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="The file to write.",
)
@click.option(
    "--images",
    default=200,
    show_default=True,
    type=click.IntRange(min=0),
    metavar="N",
    help="At most so many test images in the gallery, whose maps are made again; 0: no gallery.",
)
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Of the draw of the images.")
@reopen_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
def command(
    runs: tuple[Path, ...],
    html: Path,
    images: int,
    seed: int,
    data_root: Path | None,
    checkpoint: Path | None,
    device: str,
    quiet: bool,
    as_json: bool,
) -> None:
    """Write runs of one protocol as one HTML file that opens without a network: summary, tables, charts, gallery.

    \b
    xaibench report runs/A
    xaibench report runs/A runs/B --html ab.html --images 400
    """
    from xaibench.cli.output import print_json
    from xaibench.cli.progress import progress_bars
    from xaibench.reporting.html import write_report
    from xaibench.results.run import Run

    with progress_bars(quiet=quiet or as_json) as progress:
        made = write_report(
            [Run.load(run) for run in runs],
            html,
            images=images,
            seed=seed,
            data_root=data_root,
            checkpoint=checkpoint,
            device=device,
            progress=progress,
        )
    if as_json:
        print_json(made)
    else:
        size = made["bytes"] / 1e6
        echo(f"{made['path']}: {made['methods']} methods, {made['pairs']} pairs in the gallery, {size:.1f} MB")
