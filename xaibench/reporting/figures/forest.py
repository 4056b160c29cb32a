"""Forest plots: for each metric, every explainer's value with its interval, against chance and the baselines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from xaibench.metrics.base import Metric
from xaibench.reporting.figures.charts import (
    CHANCE,
    COLOURS,
    GREY,
    MARGIN,
    WIDTH,
    Sheet,
    chosen_classes,
    chosen_metrics,
    class_title,
    slug,
    source,
)
from xaibench.reporting.figures.lettering import FONT
from xaibench.reporting.html.data import Report, run_names
from xaibench.reporting.tables.run import INTERVAL_WAYS
from xaibench.results.marks import marks, rivals
from xaibench.results.run import MACRO, Score

_HEAD, _FOOT, _TITLE, _AXIS, _ROW = 0.34, 0.46, 0.24, 0.36, 0.19  # inches
_PATCH: Any = {"facecolor": "white", "edgecolor": "none", "pad": 1.2}
_LABELS, _NUMBERS, _GAP, _COLUMNS = 1.55, 1.30, 0.16, 3


@dataclass(frozen=True)
class Bar:
    """A row: its label, its score (None: not measured), and whether it is a baseline and better than what is blind."""

    label: str
    score: Score | None
    baseline: bool
    stands_out: bool


@dataclass(frozen=True)
class Panel:
    """Rows under one title."""

    title: str
    bars: tuple[Bar, ...]


def forest_plots(report: Report, *, metrics: Sequence[str] = (), classes: Sequence[str] = ()) -> dict[str, Figure]:
    """Draw a forest plot for each headline score of the runs, and return them by their files' stems.

    Of a map metric: a large panel of the mean over the classes with the numbers beside it, and a panel for each class;
    rows are the explainers, best mean first, then the baselines. Of a metric of the classifier: a panel for each run
    whose rows are the classes. Points are drawn at the score's value, bars to its interval's ends, and chance as a
    dashed line, a tick for each row where explainers were scored on other pairs. A filled point of a
    map metric is marked (see `xaibench.results.marks.marks`), of a classifier's the interval lies beyond chance.

    Args:
        report: runs of one protocol.
        metrics: registered names; none: all of the benchmark.
        classes: classes, or "macro"; none: all.

    Raises:
        UsageError: a metric or a class that the benchmark has not.
    """
    found = {}
    chosen_classes(report, classes, ())
    for metric in chosen_metrics(report, metrics).values():
        for key in metric.headline_scores:
            make = _classifier_panels if metric.category == "classification" else _map_panels
            panels = [panel for panel in make(report, metric, key, classes) if any(bar.score for bar in panel.bars)]
            if panels:
                found[f"forest-{slug(key)}"] = _draw(report, metric, key, panels)
    return found


def _map_panels(report: Report, metric: Metric, key: str, classes: Sequence[str]) -> list[Panel]:
    table = {
        (method.run, method.explainer, score.class_name): score
        for method in report.methods
        for score in report.runs[method.run].select(explainer=method.explainer, metric=key)
    }
    sign = 1 if metric.direction == "higher" else -1

    def place(index: int) -> tuple[bool, float, int]:
        method = report.methods[index]
        mean = table.get((method.run, method.explainer, MACRO))
        value = -math.inf if mean is None or mean.value is None or math.isnan(mean.value) else sign * mean.value
        return method.baseline, -value, index

    order = [report.methods[index] for index in sorted(range(len(report.methods)), key=place)]
    panels = []
    marked = [marks(run, report.metrics) for run in report.runs]
    for name in chosen_classes(report, classes, [MACRO, *report.boxed]):
        bars = []
        for method in order:
            score = table.get((method.run, method.explainer, name))
            out = (method.explainer, key, name) in marked[method.run]
            bars.append(Bar(method.label, score, method.baseline, out))
        panels.append(Panel(class_title(name), tuple(bars)))
    return panels


def _classifier_panels(report: Report, metric: Metric, key: str, classes: Sequence[str]) -> list[Panel]:
    sign = 1 if metric.direction == "higher" else -1
    panels = []
    for name, run in zip(run_names(report.runs), report.runs, strict=True):
        own = {score.class_name: score for score in run.select(metric=key) if score.explainer is None}
        bars = []
        for place in chosen_classes(report, classes, [*report.classes, MACRO]):
            score = own.get(place)
            near = None if score is None else score.low if metric.direction == "higher" else score.high
            level = None if score is None else score.chance
            beyond = near is not None and level is not None and (near - level) * sign > 0
            bars.append(Bar(class_title(place), score, False, beyond))
        panels.append(Panel(name, tuple(bars)))
    return panels


def _draw(report: Report, metric: Metric, key: str, panels: Sequence[Panel]) -> Figure:
    tall = _ROW * len(panels[0].bars) + 0.08
    block = _TITLE + tall + _AXIS
    rows = math.ceil((len(panels) - 1) / _COLUMNS)
    sheet = Sheet(_HEAD + block * (1 + rows) + _FOOT)
    room = WIDTH - 2 * MARGIN
    sheet.write(MARGIN, 0.08, f"{_title(metric, key)}: {source(report)}", 10, room, weight="bold")
    better = f"{metric.direction} is better"
    limits = _limits(panels, metric)
    width = WIDTH - MARGIN - _LABELS - _NUMBERS - _GAP
    axes = sheet.axes(_LABELS + MARGIN, _HEAD + _TITLE, width, tall)
    _panel(axes, panels[0], limits)
    axes.set_xlabel(f"{metric.title} ({better})", fontsize=7.5, family=FONT, parse_math=False, labelpad=2)
    sheet.write(_LABELS + MARGIN, _HEAD + 0.04, panels[0].title, 9, width, weight="bold")
    _labels(sheet, panels[0], _HEAD + _TITLE, tall, MARGIN, _LABELS - 0.1)
    for index, bar in enumerate(panels[0].bars):
        y = _HEAD + _TITLE + _middle(index, len(panels[0].bars), tall)
        sheet.write(WIDTH - MARGIN, y, _numbers(bar.score, metric), 7, _NUMBERS, va="center", ha="right", color="0.25")
    wide = (WIDTH - 2 * MARGIN - _LABELS - (_COLUMNS - 1) * _GAP) / _COLUMNS
    for index, panel in enumerate(panels[1:]):
        row, column = divmod(index, _COLUMNS)
        top = _HEAD + block * (1 + row)
        left = MARGIN + _LABELS + column * (wide + _GAP)
        axes = sheet.axes(left, top + _TITLE, wide, tall)
        _panel(axes, panel, limits)
        sheet.write(left, top + 0.05, panel.title, 8, wide, weight="bold")
        if column == 0:
            _labels(sheet, panel, top + _TITLE, tall, MARGIN, _LABELS - 0.1)
    for line, text in enumerate(_foot(report, panels)):
        sheet.write(MARGIN, sheet.height - _FOOT + 0.10 + 0.15 * line, text, 7, room, color="0.3")
    return sheet.figure


def _panel(axes: Axes, panel: Panel, limits: tuple[float, float]) -> None:
    count = len(panel.bars)
    axes.set_ylim(count - 0.5, -0.5)
    axes.set_xlim(*limits)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    levels = {round(bar.score.chance, 9) for bar in panel.bars if bar.score and bar.score.chance is not None}
    if len(levels) == 1:
        axes.axvline(levels.pop(), **CHANCE, zorder=1, gid="chance")
    for index, bar in enumerate(panel.bars):
        score = bar.score
        if score is None or score.value is None or math.isnan(score.value):
            text = "undefined" if score is not None else "not measured"
            where = {"va": "center", "transform": axes.get_yaxis_transform(), "bbox": _PATCH}
            axes.text(0.02, index, text, fontsize=6.5, family=FONT, color="0.45", **where)
            continue
        colour = GREY if bar.baseline else COLOURS[0]
        if score.low is not None and score.high is not None:
            axes.plot([score.low, score.high], [index, index], color=colour, linewidth=1.4, gid="interval")
        fill = colour if bar.stands_out else "white"
        mark = "D" if bar.baseline else "o"
        axes.plot(
            [score.value], [index], mark, color=colour, markerfacecolor=fill, markersize=4.5, markeredgewidth=1.1,
            gid="value", clip_on=False, zorder=3,
        )  # fmt: skip
        if len(levels) > 1 and score.chance is not None:
            axes.plot([score.chance] * 2, [index - 0.4, index + 0.4], **CHANCE | {"linestyle": "solid"}, gid="chance")
    first = next((index for index, bar in enumerate(panel.bars) if bar.baseline), 0)
    if first:
        axes.axhline(first - 0.5, color="0.8", linewidth=0.7, zorder=0)


def _labels(sheet: Sheet, panel: Panel, top: float, tall: float, left: float, room: float) -> None:
    for index, bar in enumerate(panel.bars):
        y = top + _middle(index, len(panel.bars), tall)
        colour = GREY if bar.baseline else "black"
        sheet.write(left + room, y, bar.label, 7.5, room, va="center", ha="right", color=colour)


def _middle(index: int, count: int, tall: float) -> float:
    return (index + 0.5) / count * tall


def _limits(panels: Sequence[Panel], metric: Metric) -> tuple[float, float]:
    """Return an abscissa that holds every value, interval and chance, and no more of the metric's range than needed."""
    values = [
        number
        for panel in panels
        for bar in panel.bars
        if bar.score is not None
        for number in (bar.score.value, bar.score.low, bar.score.high, bar.score.chance)
        if number is not None and math.isfinite(number)
    ]
    if not values:
        return 0.0, 1.0
    low, high = min(values), max(values)
    pad = 0.06 * (high - low) or 0.05 * abs(high) or 0.05
    ends = np.array([low - pad, high + pad])
    rim = 0.015 * (ends[1] - ends[0])  # a point at the range's end is whole
    low, high = np.clip(ends, metric.range[0] - rim, metric.range[1] + rim)
    return float(low), float(high)


def _title(metric: Metric, key: str) -> str:
    _, _, point = key.partition("@")
    if not point:
        return metric.title
    return f"{metric.title}, {'threshold ' if metric.curve else ''}{point}"


def _numbers(score: Score | None, metric: Metric) -> str:
    if score is None or score.value is None or math.isnan(score.value):
        return "-"
    bounded = max(map(abs, metric.range)) <= 1

    def show(value: float | None) -> str:
        if value is None:
            return "-"
        return f"{value:.3f}" if bounded else f"{value:.3g}"

    return f"{show(score.value)} [{show(score.low)}, {show(score.high)}]"


def _foot(report: Report, panels: Sequence[Panel]) -> list[str]:
    scores = [bar.score for panel in panels for bar in panel.bars if bar.score is not None]
    ways = dict.fromkeys(INTERVAL_WAYS.get(score.interval, score.interval) for score in scores if score.low is not None)
    level = f"{100 * report.benchmark.statistics.confidence:.4g}%"
    lines = [f"Bars: {level} intervals ({', '.join(ways)})."] if ways else []
    beaten = dict.fromkeys(name for run in report.runs for name in rivals(run))
    marks = "Filled: the interval lies beyond chance."
    if any(score.explainer for score in scores):
        marks = f"Filled: beats {' and '.join(filter(None, ['chance', ', '.join(beaten)]))} (paired tests, Holm)."
    if any(score.chance is not None for score in scores):
        marks = f"Dashed: chance. {marks}"
    if any(bar.baseline for panel in panels for bar in panel.bars):
        marks += " Grey diamonds: baselines, which look at no evidence."
    return [*lines, marks]
