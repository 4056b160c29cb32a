"""What the report page is told: runs, methods, metrics and scores as JSON that can stand inside HTML."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from markupsafe import Markup

from xaibench import registry
from xaibench.errors import PluginError, UsageError
from xaibench.metrics.base import Metric
from xaibench.results import marks as marking
from xaibench.results.run import MACRO, Run

_ESCAPES = {ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&'\u2028\u2029"}


def embed_json(value: Any) -> Markup:
    """Return JSON that is safe inside ``<script type="application/json">``, in ASCII.

    Raises:
        ValueError: NaN or infinity, which JSON has not.

    >>> str(embed_json({"a": "</script>"}))
    '{"a":"\\\\u003c/script\\\\u003e"}'
    """
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return Markup(text.translate(_ESCAPES))


def clean(text: str) -> str:
    """Return text that UTF-8 can hold: lone surrogates become "?"."""
    return text.encode("utf-8", "replace").decode("utf-8")


def number(value: float | None, digits: int = 4) -> float | None:
    """Return a JSON number: rounded, None where undefined.

    >>> number(0.123456), number(float("nan")), number(None)
    (0.1235, None, None)
    """
    return None if value is None or not math.isfinite(value) else round(float(value), digits)


@dataclass(frozen=True)
class Method:
    """An explainer of one run; what the page compares."""

    run: int
    explainer: str
    label: str
    baseline: bool


class Report:
    """Runs of one protocol, and what is asked of them again and again.

    Raises:
        UsageError: no run, or runs of different protocols or test images; names what differs.
    """

    def __init__(self, runs: Sequence[Run], metrics: Mapping[str, Metric] | None = None) -> None:
        if not runs:
            raise UsageError("give at least one run")
        _check_same(runs)
        self.runs = tuple(runs)
        self.benchmark = runs[0].benchmark
        self.classes = self.benchmark.classes
        self.metrics = _declared(runs[0]) if metrics is None else dict(metrics)

    @cached_property
    def methods(self) -> list[Method]:
        """Explainers of all runs, then baselines; with several runs the label names the classifier too."""
        names = run_names(self.runs)
        found = []
        for baseline in (False, True):
            for index, run in enumerate(self.runs):
                there = {score.explainer for score in run.scores} | set(run.explainers)
                failed = set(run.record.get("failed") or {})
                for name in run.baselines if baseline else run.explainers:
                    if name in there and name not in failed:
                        label = f"{names[index]} · {name}" if len(self.runs) > 1 else name
                        found.append(Method(index, name, clean(label), baseline))
        return found

    @cached_property
    def boxed(self) -> list[str]:
        """Classes with a map score."""
        there = {score.class_name for run in self.runs for score in run.scores if score.explainer is not None}
        return [name for name in self.classes if name in there]

    def headline(self, name: str) -> list[str]:
        """Return the keys of a metric's scores that a short table shows; its name, where the registry lacks it."""
        metric = self.metrics.get(name)
        return [name] if metric is None else metric.headline_scores

    @cached_property
    def primary(self) -> str | None:
        """Name of the metric that the summary speaks of first: the benchmark's, else the first with scores of maps."""
        if self.benchmark.primary is not None:
            return self.benchmark.primary
        found = {score.metric for run in self.runs for score in run.scores if score.explainer is not None}
        names = [spec.name for spec in self.benchmark.metrics if found & set(self.headline(spec.name))]
        known = [name for name in names if (metric := self.metrics.get(name)) and metric.category == "localization"]
        return next(iter(known), None)

    @cached_property
    def shown(self) -> set[str]:
        """Keys of all metrics' scores that a short table shows."""
        return {key for spec in self.benchmark.metrics for key in self.headline(spec.name)}


def _declared(run: Run) -> dict[str, Metric]:
    found = {}
    for spec in run.benchmark.metrics:
        try:
            found[spec.name] = registry.get("metrics", spec.name).load()
        except PluginError:  # shown by its name then
            continue
    return found


def _check_same(runs: Sequence[Run]) -> None:
    first = runs[0]
    for other in runs[1:]:
        if other.benchmark.hash != first.benchmark.hash:
            one, two = (
                run.benchmark.model_dump(mode="json", exclude={"title", "description"}) for run in (first, other)
            )
            different = [key for key in one if one[key] != two[key]]
            raise UsageError(
                f"runs of different protocols can't share a report: {run_name(first)} and {run_name(other)} differ in "
                f"{', '.join(different)}. Make a report of each"
            )
        tests = [dict(run.record.get("data") or {}).get("test") for run in (first, other)]
        if tests[0] != tests[1]:
            raise UsageError(
                f"{run_name(first)} and {run_name(other)} are not of the same test images: make a report of each"
            )


def run_name(run: Run) -> str:
    """Return what an error calls a run."""
    return str(run.directory or run.record.get("id") or run.classifier)


def run_names(runs: Sequence[Run]) -> list[str]:
    """Return a short name of each run: its classifier, with the run's id where that is not enough."""
    names = [run.classifier for run in runs]
    if len(set(names)) < len(names):
        names = [f"{run.classifier} {str(run.record.get('id', ''))[:6]}".strip() for run in runs]
    if len(set(names)) < len(names):
        names = [f"{name} #{index}" for index, name in enumerate(names, start=1)]
    return [clean(name) for name in names]


def metric_table(report: Report) -> list[dict[str, Any]]:
    """Return the metrics that have scores: key, title, category, direction, and whether the short table shows it."""
    keys = dict.fromkeys(score.metric for run in report.runs for score in run.scores)
    found = []
    for key in keys:
        name, _, point = key.partition("@")
        metric = report.metrics.get(name)
        found.append(
            {
                "key": clean(key),
                "name": clean(name),
                "point": number(float(point)) if _is_number(point) else None,
                "title": clean(_title(metric, name, point)),
                "category": metric.category if metric else "other",
                "higher": metric.direction == "higher" if metric else True,
                "range": [number(end) for end in metric.range] if metric else [None, None],
                "reference": clean(metric.reference) if metric else "",
                "headline": bool(metric and metric.headline and key in report.headline(name)),
            }
        )
    return found


def _title(metric: Metric | None, name: str, point: str) -> str:
    """Return a column's title; the page itself adds the point of a curve."""
    title = metric.title if metric else name
    return f"{title} ({point})" if point and not _is_number(point) else title


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def score_rows(report: Report, metrics: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
    """Return the scores as rows of 14 values.

    They are method or None, run, metric, class, value, low, high, chance, n, patients, nan, out, defined and classes:
    indices into the page's lists, where class ``len(classes)`` is the mean over the classes. `out` is 1 where the score
    is marked, see `xaibench.results.marks.marks`; `defined` is the value over defined maps alone.
    """
    methods = {(method.run, method.explainer): index for index, method in enumerate(report.methods)}
    keys = {metric["key"]: index for index, metric in enumerate(metrics)}
    places = {name: index for index, name in enumerate(report.classes)} | {MACRO: len(report.classes)}
    rows = []
    for index, run in enumerate(report.runs):
        marks = marking.marks(run, report.metrics)
        for score in run.scores:
            if score.class_name not in places or (score.explainer and (index, score.explainer) not in methods):
                continue
            marked = (str(score.explainer), score.metric, score.class_name) in marks
            rows.append(
                [
                    None if score.explainer is None else methods[index, score.explainer],
                    index,
                    keys[clean(score.metric)],
                    places[score.class_name],
                    *(number(value) for value in (score.value, score.low, score.high, score.chance)),
                    score.n,
                    score.patients,
                    score.nan,
                    int(marked),
                    number(score.defined),
                    score.classes,
                ]
            )
    return rows
