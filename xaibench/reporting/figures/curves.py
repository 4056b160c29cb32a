"""Curves for print: ROC with bands, scores against threshold, hit rate against tolerance; chance is always drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from xaibench.metrics.base import Metric
from xaibench.reporting.figures.charts import (
    CHANCE,
    MARGIN,
    WIDTH,
    Look,
    Sheet,
    chosen_classes,
    chosen_metrics,
    class_title,
    looks,
    slug,
    source,
)
from xaibench.reporting.figures.lettering import FONT
from xaibench.reporting.html.curves import roc_curves
from xaibench.reporting.html.data import Report, clean, run_names
from xaibench.reporting.html.tolerance import TOLERANCES
from xaibench.results.run import MACRO, Score

_HEAD, _TITLE, _LEFT, _BELOW, _GAP, _KEY, _FOOT = 0.36, 0.24, 0.42, 0.46, 0.26, 0.18, 0.24  # inches
_SAMPLE = 0.34  # a legend's line
OPERATING = ("visible_in_box", "visible_outside")
"""Metrics that are one operating point at each threshold."""


@dataclass(frozen=True)
class Line:
    """A method's curve in one panel: all of one length, None where undefined."""

    label: str
    look: Look
    x: Sequence[float]
    y: Sequence[float | None]
    band_x: Sequence[float]
    low: Sequence[float | None]
    high: Sequence[float | None]
    marked: bool = False
    """Dots at the points: a curve known at these alone."""


@dataclass(frozen=True)
class Panel:
    """Curves of one class; `chance` holds what a map (a score) that knows nothing gets, as (x, y) lines."""

    title: str
    lines: tuple[Line, ...]
    chance: tuple[tuple[Sequence[float], Sequence[float | None]], ...]
    remarks: tuple[str, ...] = ()


def roc_figure(report: Report, *, classes: Sequence[str] = ()) -> dict[str, Figure]:
    """Draw the ROC curves of the runs' classifiers, a panel for each class, and return the figure by its file's stem.

    The band is pointwise, over resamples of the patients; the AUC below is the run's own score with its interval.
    Empty where the runs kept no logits, or no class has images of both kinds.

    Raises:
        UsageError: a class that the benchmark has not.
    """
    names, found = run_names(report.runs), roc_curves(report)
    style = looks([False] * len(names))
    panels = []
    for name in chosen_classes(report, classes, report.classes):
        own = [curve for curve in found if report.classes[curve["class"]] == name]
        lines, remarks = [], []
        for curve in own:
            grid = [step / (len(curve["low"]) - 1) for step in range(len(curve["low"]))]
            run = curve["run"]
            lines.append(Line(names[run], style[run], curve["x"], curve["y"], grid, curve["low"], curve["high"]))
            scores = [s for s in report.runs[run].select(metric="roc_auc", class_name=name) if s.explainer is None]
            if scores and scores[0].value is not None:
                remarks.append(f"AUC {_interval(scores[0])}")
        if lines:
            panels.append(Panel(name, tuple(lines), (([0.0, 1.0], [0.0, 1.0]),), tuple(remarks)))
    if not panels:
        return {}
    labels = ("false positive rate", "true positive rate")
    level = _level(report)
    foot = f"Band: {level} of the rates, pointwise, bootstrap of patients. Dashed line: chance."
    return {"roc": _draw(f"ROC curves: {source(report)}", panels, labels, foot, (0.0, 1.0))}


def threshold_figures(report: Report, *, metrics: Sequence[str] = (), classes: Sequence[str] = ()) -> dict[str, Figure]:
    """Draw every score that the runs have at several thresholds against them, and return figures by files' stems.

    A panel of the mean over the classes and one for each class; each method with its intervals as a band; chance
    dashed, one line for each level there is. What is visible in the box and outside it is also drawn one against the
    other, threshold by threshold.

    Raises:
        UsageError: a metric or a class that the benchmark has not.
    """
    style = looks([method.baseline for method in report.methods])
    found: dict[str, Figure] = {}
    known = chosen_metrics(report, metrics)
    if known.keys() >= set(OPERATING):
        found |= _operating_figure(report, known[OPERATING[0]], known[OPERATING[1]], classes)
    for metric in known.values():
        if metric.curve is None:
            continue
        panels = []
        for name in chosen_classes(report, classes, [MACRO, *report.boxed]):
            lines: list[Line] = []
            levels: dict[tuple[tuple[float, ...], tuple[float | None, ...]], None] = {}
            for method, look in zip(report.methods, style, strict=True):
                points = _points(report.runs[method.run].select(explainer=method.explainer, class_name=name), metric)
                if len(points) < 2:
                    continue
                x = [place for place, _ in points]
                y, low, high = ([_known(getattr(s, part)) for _, s in points] for part in ("value", "low", "high"))
                lines.append(Line(method.label, look, x, y, x, low, high, marked=True))
                if all(score.chance is not None for _, score in points):
                    levels[tuple(x), tuple(round(float(s.chance or 0.0), 6) for _, s in points)] = None
            if lines:
                panels.append(Panel(class_title(name), tuple(lines), tuple(levels)))
        if panels:
            labels = (metric.curve.removesuffix("s"), metric.title)
            title = f"{metric.title}: {source(report)}"
            foot = f"{metric.direction.capitalize()} is better. Band: {_level(report)} interval. Dashed black: chance."
            found[f"curve-{slug(metric.name)}"] = _draw(title, panels, labels, foot, metric.range)
    return found


def _operating_figure(report: Report, inside: Metric, outside: Metric, classes: Sequence[str]) -> dict[str, Figure]:
    """Draw the share of the box against that of the rest of the image, at the same thresholds."""
    style = looks([method.baseline for method in report.methods])
    panels = []
    for name in chosen_classes(report, classes, [MACRO, *report.boxed]):
        lines = []
        for method, look in zip(report.methods, style, strict=True):
            scores = report.runs[method.run].select(explainer=method.explainer, class_name=name)
            rest = dict(_points(scores, outside))
            both = [(rest[at].value, score) for at, score in _points(scores, inside) if at in rest]
            both = [(x, score) for x, score in both if _known(x) is not None and _known(score.value) is not None]
            if len(both) < 2:
                continue
            x = [float(x or 0.0) for x, _ in both]
            y, low, high = ([_known(getattr(s, part)) for _, s in both] for part in ("value", "low", "high"))
            lines.append(Line(method.label, look, x, y, x, low, high, marked=True))
        if lines:
            panels.append(Panel(class_title(name), tuple(lines), (([0.0, 1.0], [0.0, 1.0]),)))
    if not panels:
        return {}
    foot = f"Up and to the left is better. A dot is a threshold. Band: {_level(report)} interval. Dashed black: chance."
    labels = ("share of the rest of the image visible", inside.title)
    title = f"Inside against outside the box: {source(report)}"
    return {"curve-inside-outside": _draw(title, panels, labels, foot, (0.0, 1.0))}


def tolerance_figure(
    report: Report, curves: Sequence[Mapping[str, Any]], pairs: int, *, classes: Sequence[str] = ()
) -> dict[str, Figure]:
    """Draw the pointing game's hit rate against its tolerance, of the curves that `Tolerances.curves` gives.

    Raises:
        UsageError: a class that the benchmark has not.
    """
    style = looks([method.baseline for method in report.methods])
    places = {name: place for place, name in enumerate(report.classes)} | {MACRO: len(report.classes)}
    panels = []
    for name in chosen_classes(report, classes, [MACRO, *report.boxed]):
        own = [curve for curve in curves if curve["class"] == places[name]]
        lines = tuple(
            Line(report.methods[c["m"]].label, style[c["m"]], TOLERANCES, c["y"], TOLERANCES, c["low"], c["high"])
            for c in own
        )
        if lines:
            panels.append(Panel(class_title(name), lines, ((TOLERANCES, own[0]["chance"]),)))
    if not panels:
        return {}
    foot = f"Band: {_level(report)} interval, bootstrap of patients; {pairs:,} pairs with a box. Dashed black: chance."
    labels = ("tolerance, px of an image 224 px wide", "hit rate")
    title = f"Hit rate against tolerance: {source(report)}"
    return {"curve-tolerance": _draw(title, panels, labels, foot, (0.0, 1.0))}


def _draw(title: str, panels: Sequence[Panel], labels: tuple[str, str], foot: str, span: tuple[float, float]) -> Figure:
    columns = min(4 if len(panels) in (4, 7, 8) else 3, len(panels))
    rows = math.ceil(len(panels) / columns)
    keys = {line.label: line.look for panel in panels for line in panel.lines}
    keyed = len(keys) > 1
    wide = min((WIDTH - MARGIN - _LEFT - (columns - 1) * _GAP - 0.12) / columns, 3.4)
    tall = wide if rows > 1 or columns > 1 else 2.9
    per_row = 4
    legend = math.ceil(len(keys) / per_row) * _KEY + 0.08 if keyed else 0.0
    block = _TITLE + tall
    sheet = Sheet(_HEAD + legend + rows * block + (rows - 1) * 0.3 + _BELOW + _FOOT)
    sheet.write(MARGIN, 0.08, title, 10, WIDTH - 2 * MARGIN, weight="bold")
    if keyed:
        _legend(sheet, keys, per_row)
    for index, panel in enumerate(panels):
        row, column = divmod(index, columns)
        left, top = MARGIN + _LEFT + column * (wide + _GAP), _HEAD + legend + row * (block + 0.3)
        axes = sheet.axes(left, top + _TITLE, wide, tall)
        _curves(axes, panel, span)
        sheet.write(left, top + 0.05, panel.title, 8.5, wide, weight="bold")
        if column:
            axes.tick_params(labelleft=False)
        else:
            axes.set_ylabel(_short(labels[1], int(tall / 0.055)), fontsize=7, family=FONT, parse_math=False, labelpad=3)
        if index + columns >= len(panels):
            axes.set_xlabel(labels[0], fontsize=7.5, family=FONT, parse_math=False, labelpad=3)
        for line, text in enumerate(panel.remarks):
            y = top + _TITLE + tall - 0.10 - 0.15 * (len(panel.remarks) - 1 - line)
            colour = panel.lines[line].look.color if keyed else "0.15"
            sheet.write(left + wide - 0.06, y, text, 7.5, wide - 0.2, ha="right", va="bottom", color=colour)
    sheet.write(MARGIN, sheet.height - _FOOT + 0.04, foot, 7, WIDTH - 2 * MARGIN, color="0.3")
    return sheet.figure


def _curves(axes: Axes, panel: Panel, span: tuple[float, float]) -> None:
    for line in panel.lines:
        if not line.look.baseline:
            low, high = (_numbers(part) for part in (line.low, line.high))
            axes.fill_between(line.band_x, low, high, color=line.look.color, alpha=0.13, linewidth=0, gid="band")
    for line in panel.lines:
        width = 1.1 if line.look.baseline else 1.6
        marker = "." if line.marked else ""
        axes.plot(
            line.x, _numbers(line.y), color=line.look.color, linestyle=line.look.linestyle, linewidth=width,
            marker=marker, markersize=4, label=line.label, gid="curve",
        )  # fmt: skip
    for x, y in panel.chance:
        axes.plot(x, _numbers(y), **CHANCE, gid="chance")
    xs = [x for line in panel.lines for x in (*line.x, *line.band_x)]
    axes.set_xlim(min(xs), max(xs))
    if all(map(math.isfinite, span)):
        rim = 0.015 * (span[1] - span[0])
        axes.set_ylim(span[0] - rim, span[1] + rim)


def _legend(sheet: Sheet, keys: Mapping[str, Look], per_row: int) -> None:
    wide = (WIDTH - 2 * MARGIN) / per_row
    for index, (label, look) in enumerate(keys.items()):
        row, column = divmod(index, per_row)
        x, y = MARGIN + column * wide, _HEAD + 0.06 + row * _KEY
        sheet.line(x, y, _SAMPLE, color=look.color, linestyle=look.linestyle, linewidth=1.6)
        sheet.write(x + _SAMPLE + 0.07, y, label, 7.5, wide - _SAMPLE - 0.14, va="center")


def _points(scores: Sequence[Score], metric: Metric) -> list[tuple[float, Score]]:
    """Return a curve's points by abscissa."""
    found = []
    for score in scores:
        name, _, point = score.metric.partition("@")
        if name == metric.name:
            try:
                found.append((float(point), score))
            except ValueError:
                continue
    return sorted(found, key=lambda point: point[0])


def _known(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else value


def _numbers(values: Sequence[float | None]) -> list[float]:
    return [math.nan if value is None else float(value) for value in values]


def _interval(score: Score) -> str:
    if score.low is None or score.high is None:
        return f"{score.value:.3f}"
    return f"{score.value:.3f} [{score.low:.3f}, {score.high:.3f}]"


def _level(report: Report) -> str:
    return f"{100 * report.benchmark.statistics.confidence:.4g}%"


def _short(text: str, most: int) -> str:
    """Keep an ordinate's label inside its panel; names that attack are cleaned too."""
    text = " ".join(clean(text).split())
    return text if len(text) <= most else f"{text[: most - 1]}…"
