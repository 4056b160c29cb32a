"""``xaibench figures RUN... --out DIR``: forest plots, curves, and the paper's figures 5 to 9."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from xaibench.cli.options import reopen_options
from xaibench.cli.output import echo
from xaibench.errors import UsageError, XaibenchError

if TYPE_CHECKING:
    from xaibench.reporting.figures.charts import Format
    from xaibench.reporting.figures.contact_sheet import Colours
    from xaibench.results.run import Run
    from xaibench.studies.gcm_paper.paper_figures import Scale

_KINDS = ("forest", "roc", "curve", "grid", "tolerance")
_FORMATS = ("png", "pdf", "svg")


@click.command(name="figures")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), metavar="DIR", help="Folder to write into.")
@click.option(
    "-k",
    "--kind",
    "kinds",
    multiple=True,
    type=click.Choice(_KINDS),
    help="forest: each score with its interval and chance; roc: ROC curves; curve: scores against threshold; "
    "grid: the paper's figures 5 to 9; tolerance: hit rate against tolerance (makes all maps again).  "
    "[default: all but tolerance]",
)
@click.option(
    "-f", "--format", "formats", multiple=True, type=click.Choice(_FORMATS), help="File formats.  [default: all three]"
)
@click.option("--metric", "metrics", multiple=True, metavar="NAME", help="A metric of the forest plots and curves.")
@click.option("--class", "classes", multiple=True, metavar="NAME", help="A class of the charts, or macro: their mean.")
@click.option("-e", "--explainer", metavar="NAME", help="Whose maps the grids show; cwm, or the run's first.")
@click.option(
    "--ratings",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="CSV",
    help="Hits and misses of the grids as persons marked them (xaibench rate).",
)
@click.option(
    "--scale",
    default="figure",
    show_default=True,
    type=click.Choice(["figure", "all", "image"]),
    help="Full colour in the grids: the largest value in each figure, in all, or in each image.",
)
@click.option(
    "--colormap",
    default="signed",
    show_default=True,
    type=click.Choice(["signed", "cividis", "jet"]),
    help="Of maps in the grids; signed: red for, green against.",
)
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Of the draw of the images.")
@reopen_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
def command(
    runs: tuple[Path, ...],
    out: Path,
    kinds: tuple[str, ...],
    formats: tuple[Format, ...],
    metrics: tuple[str, ...],
    classes: tuple[str, ...],
    quiet: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Draw runs of one protocol for print: forest plots, curves with bands, and the paper's figures 5 to 9 of one run.

    The grids (figures 5 to 9) show hits, misses and normal images, boxes in blue; they are of a single run.

    \b
    xaibench figures runs/A --out figures
    xaibench figures runs/A runs/B --out figures -k forest --metric hit_rate -f pdf
    """
    if "grid" in kinds and len(runs) > 1:
        raise UsageError("--kind grid shows the maps of one run: give one RUN, or call it for each")
    kinds = kinds or tuple(kind for kind in _KINDS if kind != "tolerance" and (kind != "grid" or len(runs) == 1))
    if options["checkpoint"] is not None and len(runs) > 1:
        raise UsageError("--checkpoint is of one run: give one RUN")
    from xaibench.cli.output import print_json
    from xaibench.cli.progress import progress_bars
    from xaibench.results.run import Run

    loaded = [Run.load(run) for run in runs]
    written: list[Path] = []
    failed: XaibenchError | None = None
    with progress_bars(quiet=quiet or as_json) as progress:
        options |= {"formats": formats or _FORMATS, "progress": progress}
        if "grid" in kinds:
            try:
                written += _grids(loaded[0], out, **options)
            except UsageError:
                raise
            except XaibenchError as error:  # the charts need no maps
                failed = error
        if charts := [kind for kind in kinds if kind != "grid"]:
            written += _charts(loaded, out, kinds=charts, metrics=metrics, classes=classes, **options)
    if as_json:
        print_json({"files": [str(path) for path in written]})
    else:
        for path in written:
            echo(path)
    if failed is not None:
        raise failed


def _grids(run: Run, out: Path, *, scale: Scale, colormap: Colours, **options: Any) -> list[Path]:
    from xaibench.studies.gcm_paper.paper_figures import paper_figures

    return paper_figures(run, out, scale=scale, colours=colormap, **options)


def _charts(
    runs: list[Run],
    out: Path,
    *,
    data_root: Path | None,
    checkpoint: Path | None,
    device: str,
    formats: tuple[Format, ...],
    progress: Any,
    kinds: Any,
    metrics: tuple[str, ...],
    classes: tuple[str, ...],
    **_: Any,
) -> list[Path]:
    from xaibench.evaluation.restore import reopen
    from xaibench.reporting.figures.files import write_charts

    return write_charts(
        runs,
        out,
        kinds=kinds,
        metrics=metrics,
        classes=classes,
        formats=formats,
        opened=lambda run: reopen(run, data_root=data_root, checkpoint=checkpoint, device=device),
        progress=progress,
    )
