"""From per-image numbers to the table: means, chance levels, and intervals that resample patients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from xaibench.benchmark import Benchmark
from xaibench.datasets.base import Split
from xaibench.harness.pooling import PooledColumn, Pooling, tuned_choices
from xaibench.harness.records import MapMetric, Records
from xaibench.harness.run import MACRO, Score
from xaibench.metrics.base import Metric
from xaibench.metrics.classification import class_scores
from xaibench.statistics import Interval, Intervals, Resampling, auc_intervals, chance_corrected
from xaibench.statistics.bootstrap import mean_intervals_of

Array = npt.NDArray[np.float64]


def summarize(
    classifier: str,
    benchmark: Benchmark,
    split: Split,
    records: Records,
    classification: Sequence[Metric],
    localization: Sequence[MapMetric],
    validation: Records | None = None,
) -> list[Score]:
    """Return every score of the classifier, then of each explainer: class by class, then the mean over classes.

    Thresholds are tuned on `validation`, the records of that split with the metrics that choose one.
    """
    spec = benchmark.statistics
    resampling = Resampling(split.patients, resamples=spec.resamples, seed=spec.seed)
    options: dict[str, Any] = {
        "confidence": spec.confidence,
        "method": spec.method,
        "resampling": resampling,
    }
    scores = class_scores(records.logits, benchmark.task)
    found: list[Score] = []
    for metric in classification:
        found += _classification(classifier, metric, scores, split, options)
    bounds = {name: spec.metric.range for spec in localization for name in spec.names()}
    tuned = tuned_choices(localization, validation)
    pooled = {spec.names()[0]: spec for spec in localization if spec.metric.pool is not None}
    for explainer, values in records.values.items():
        pairs = _Pairs(split, records, records.constant[explainer])
        plain = [column for column, name in enumerate(records.columns) if "#" not in name] if pairs.present else []
        tables = [pairs.table(values[:, column]) for column in plain]
        limits = [bounds[records.columns[column]] for column in plain]
        intervals = dict(zip(plain, mean_intervals_of(tables, limits, **options), strict=True))
        for column, name in enumerate(records.columns):
            if (spec_pooled := pooled.get(name)) is not None:
                pooling = Pooling(spec_pooled, records, explainer)
                choices = tuned.get(explainer, {}).get(spec_pooled.metric.name)
                for result in pooling.columns(choices, bounds=bounds[name], **options):
                    found += pairs.pooled(classifier, explainer, result, pooling.defined)
            if column in intervals:
                chance = records.chance[:, column]
                found += pairs.scores(classifier, explainer, name, values[:, column], chance, intervals[column])
    metrics = {metric.name: metric for metric in (*classification, *(spec.metric for spec in localization))}
    return [_corrected(score, metrics[score.metric.partition("@")[0]]) for score in found]


def _corrected(score: Score, metric: Metric) -> Score:
    if score.value is None or score.chance is None or not metric.corrected:
        return score
    corrected = chance_corrected(score.value, score.chance, direction=metric.direction, bounds=metric.range)
    return replace(score, corrected=_finite(corrected))


def _classification(
    classifier: str, metric: Metric, scores: Array, split: Split, options: Mapping[str, Any]
) -> Iterator[Score]:
    labels = np.asarray(split.labels)
    values = [float(metric(scores[:, k], labels[:, k])) for k in range(len(split.classes))]
    intervals = auc_intervals(scores, labels, split.patients, **options)
    patients = len(set(split.patients))
    chance = metric.chance if isinstance(metric.chance, float) else None
    for name, value, interval in _with_macro(split.classes, values, intervals):
        undefined = 0 if np.isfinite(value) else len(split)
        yield _score(classifier, None, metric.name, name, value, interval, chance, len(split), patients, undefined, 0)


class _Pairs:
    """The (image, class) pairs of a split, by class."""

    def __init__(self, split: Split, records: Records, constant: npt.NDArray[np.bool_]) -> None:
        self.split, self.images, self.targets, self.constant = (
            split,
            records.pair_images,
            records.pair_targets,
            constant,
        )
        self.present = [k for k in range(len(split.classes)) if (self.targets == k).any()]

    def table(self, values: Array) -> Array:
        """Return the scores (N, classes with a region) of pairs, NaN where an image has none."""
        table = np.full((len(self.split), len(self.present)), np.nan)
        for column, target in enumerate(self.present):
            rows = self.targets == target
            table[self.images[rows], column] = values[rows]
        return table

    def scores(
        self, classifier: str, explainer: str, metric: str, values: Array, chance: Array, intervals: Intervals
    ) -> Iterator[Score]:
        """Yield one metric's score for each class that has regions, then the mean over those classes."""
        means = [_mean(values[self.targets == target]) for target in self.present]
        levels = [_mean(chance[self.targets == target]) for target in self.present]
        yield from self._rows(classifier, explainer, metric, means, levels, intervals, np.isnan(values))

    def pooled(
        self, classifier: str, explainer: str, result: PooledColumn, defined: npt.NDArray[np.bool_]
    ) -> Iterator[Score]:
        """Yield a pooled metric's score for each class that has regions, then the mean over those classes."""
        if not self.present:
            return
        rows = self._rows(classifier, explainer, result.name, result.values, result.chance, result.intervals, ~defined)
        chosen = [*(result.thresholds or [[] for _ in self.present]), []]
        yield from (replace(row, thresholds=tuple(at)) for row, at in zip(rows, chosen, strict=True))

    @cached_property
    def _groups(self) -> list[tuple[npt.NDArray[np.bool_], int]]:
        """Which pairs are of each class with a region, (P,), and of how many patients; then of all."""
        groups: list[npt.NDArray[np.bool_]] = [self.targets == target for target in self.present]
        groups.append(np.ones(len(self.targets), dtype=bool))
        return [(rows, len({self.split.patients[image] for image in self.images[rows].tolist()})) for rows in groups]

    def _rows(
        self,
        classifier: str,
        explainer: str,
        metric: str,
        means: Sequence[float],
        levels: Sequence[float],
        intervals: Intervals,
        missing: npt.NDArray[np.bool_],
    ) -> Iterator[Score]:
        names = [self.split.classes[target] for target in self.present]
        for (name, value, interval), level, (rows, patients) in zip(
            _with_macro(names, means, intervals), [*levels, _mean(np.array(levels))], self._groups, strict=True
        ):
            undefined, constant = int(missing[rows].sum()), int(self.constant[rows].sum())
            yield _score(
                classifier,
                explainer,
                metric,
                name,
                value,
                interval,
                level,
                int(rows.sum()),
                patients,
                undefined,
                constant,
            )


def _with_macro(
    names: Sequence[str], values: Sequence[float], intervals: Intervals
) -> Iterator[tuple[str, float, Interval]]:
    yield from zip(names, values, intervals.columns, strict=True)
    yield MACRO, _mean(np.array(values)), intervals.macro


def _mean(values: Array) -> float:
    defined = values[np.isfinite(values)]
    return float(defined.mean()) if len(defined) else float("nan")


def _score(
    classifier: str,
    explainer: str | None,
    metric: str,
    name: str,
    value: float,
    interval: Interval,
    chance: float | None,
    n: int,
    patients: int,
    undefined: int,
    constant: int,
) -> Score:
    return Score(
        classifier=classifier,
        explainer=explainer,
        metric=metric,
        class_name=name,
        value=_finite(value),
        low=_finite(interval.low),
        high=_finite(interval.high),
        chance=None if chance is None else _finite(chance),
        n=n,
        patients=patients,
        nan=undefined,
        constant=constant,
        interval=interval.method,
    )


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
