"""Forest plots and curves of runs as files: what `xaibench figures` writes beside the paper's grids."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from matplotlib.figure import Figure

from xaibench.errors import UsageError
from xaibench.evaluation.restore import Reopened
from xaibench.progress import Progress
from xaibench.reporting.figures.charts import FORMATS, Format, chosen_classes, chosen_metrics, save
from xaibench.reporting.figures.curves import roc_figure, threshold_figures, tolerance_figure
from xaibench.reporting.figures.forest import forest_plots
from xaibench.reporting.html.data import Report
from xaibench.reporting.html.tolerance import tolerance_curves
from xaibench.results.run import Run

Kind = Literal["forest", "roc", "curve", "tolerance"]


def write_charts(
    runs: Sequence[Run],
    out: Path,
    *,
    kinds: Sequence[Kind] = ("forest", "roc", "curve"),
    metrics: Sequence[str] = (),
    classes: Sequence[str] = (),
    formats: Sequence[Format] = FORMATS,
    opened: Callable[[Run], Reopened] | None = None,
    progress: Progress | None = None,
) -> list[Path]:
    """Draw charts of runs of one protocol into a folder, and return the files.

    Args:
        kinds: "forest": each headline score of every explainer with its interval and chance. "roc": the classifiers'
            ROC curves. "curve": scores kept at several thresholds. "tolerance": the pointing game's hit rate against
            its tolerance; for it alone the maps of all pairs with a box are made again.
        metrics: registered names, of "forest" and "curve"; none: all of the benchmark.
        classes: classes, or "macro"; none: all.
        opened: how a run is reopened, for "tolerance".

    Raises:
        UsageError: runs of different protocols or images; a metric or class that they have not; nothing to draw.
        XaibenchError: maps can't be made again, or a file can't be written.
    """
    report = Report(runs)
    chosen_metrics(report, metrics)  # a wrong name is said, whatever the kinds
    chosen_classes(report, classes, ())
    figures: dict[str, Figure] = {}
    missing = []
    for kind in dict.fromkeys(kinds):
        if kind == "forest":
            made = forest_plots(report, metrics=metrics, classes=classes)
        elif kind == "roc":
            made = roc_figure(report, classes=classes)
        elif kind == "curve":
            made = threshold_figures(report, metrics=metrics, classes=classes)
        else:
            made = _tolerance(report, classes, opened, progress)
        figures |= made
        if not made:
            missing.append(kind)
    if not figures:
        raise UsageError(f"nothing to draw: the runs have no data for {', '.join(missing)}")
    return [path for name, figure in figures.items() for path in save(figure, out / name, formats)]


def _tolerance(
    report: Report,
    classes: Sequence[str],
    opened: Callable[[Run], Reopened] | None,
    progress: Progress | None,
) -> dict[str, Figure]:
    if opened is None:
        raise UsageError("hit rate against tolerance needs the maps: say how a run is reopened")
    table = report.runs[0].images()[["image", "class"]].drop_duplicates().astype(str)
    pairs = set(table.itertuples(index=False, name=None))
    if not pairs:
        return {}
    again = {index: opened(run) for index, run in enumerate(report.runs)}
    return tolerance_figure(report, tolerance_curves(report, again, pairs, progress), len(pairs), classes=classes)
