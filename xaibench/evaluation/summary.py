"""From per-image numbers to the table: means, chance levels, and intervals that resample patients."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import expit

from xaibench.benchmark import Benchmark
from xaibench.datasets.base import Split
from xaibench.evaluation.pooling import PooledColumn, Pooling, tuned_choices
from xaibench.evaluation.records import Records
from xaibench.metrics.base import Metric
from xaibench.metrics.bound import MapMetric
from xaibench.metrics.classification import class_scores
from xaibench.results.run import MACRO, Score
from xaibench.statistics import Interval, Intervals, Resampling, auc_intervals, chance_corrected
from xaibench.statistics.bootstrap import mean_intervals_of, statistic_intervals

Array = npt.NDArray[np.float64]


def summarize(
    classifier: str,
    benchmark: Benchmark,
    split: Split,
    records: Records,
    classification: Sequence[Metric],
    localization: Sequence[MapMetric],
    validation: Records | None = None,
    cuts: Sequence[float] | None = None,
) -> list[Score]:
    """Return every score of the classifier, then of each explainer: class by class, then the mean over classes.

    Thresholds of maps are tuned on `validation`, the records of that split with the metrics that choose one; those of
    the classifier's log-odds, one for each class, are `cuts`, and without them metrics that need them are left out.
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
        found += _classification(classifier, metric, scores, split, options, cuts)
    of = {name: spec for spec in localization for name in spec.names()}
    tuned = tuned_choices(localization, validation)
    pooled = {spec.names()[0]: spec for spec in localization if spec.metric.pool is not None}
    for explainer, values in records.values.items():
        pairs = _Pairs(split, records, records.constant[explainer])
        plain = [column for column, name in enumerate(records.columns) if "#" not in name] if pairs.present else []
        counted = {column: _counted(records, explainer, column, of[records.columns[column]]) for column in plain}
        tables = [pairs.table(counted[column]) for column in plain]
        limits = [of[records.columns[column]].metric.range for column in plain]
        intervals = dict(zip(plain, mean_intervals_of(tables, limits, **options), strict=True))
        for column, name in enumerate(records.columns):
            if (spec_pooled := pooled.get(name)) is not None:
                pooling = Pooling(spec_pooled, records, explainer)
                choices = tuned.get(explainer, {}).get(spec_pooled.metric.name)
                for result in pooling.columns(choices, bounds=spec_pooled.metric.range, **options):
                    found += pairs.pooled(classifier, explainer, result, pooling.defined)
            if column in intervals:
                shown = _Shown(values[:, column], counted[column], records.chance[:, column])
                found += pairs.scores(classifier, explainer, name, shown, intervals[column])
    metrics = {metric.name: metric for metric in (*classification, *(spec.metric for spec in localization))}
    return [_corrected(score, metrics[score.metric.partition("@")[0]]) for score in found]


def _corrected(score: Score, metric: Metric) -> Score:
    if score.value is None or score.chance is None or not metric.corrected:
        return score
    corrected = chance_corrected(score.value, score.chance, direction=metric.direction, bounds=metric.range)
    return replace(score, corrected=_finite(corrected))


def _classification(
    classifier: str,
    metric: Metric,
    scores: Array,
    split: Split,
    options: Mapping[str, Any],
    cuts: Sequence[float] | None,
) -> Iterator[Score]:
    labels = np.asarray(split.labels)
    tuned = tunes(metric)
    if tuned and cuts is None:
        return
    parameters: list[dict[str, Any]] = [{"threshold": cut} if tuned else {} for cut in cuts or [0.0] * labels.shape[1]]
    columns = [(scores[:, k], labels[:, k]) for k in range(labels.shape[1])]
    known = [not tuned or np.isfinite(given["threshold"]) for given in parameters]
    values = [
        float(metric(*column, **given)) if there else float("nan")
        for column, given, there in zip(columns, parameters, known, strict=True)
    ]
    intervals = _classification_intervals(metric, columns, parameters, known, split, options)
    patients = len(set(split.patients))
    levels = [
        _level(metric, column) if np.isfinite(value) else float("nan")
        for (_, column), value in zip(columns, values, strict=True)
    ]
    chances = [*levels, _mean(np.array(levels))]
    at = [
        (float(expit(given["threshold"])),) if tuned and there else ()
        for given, there in zip(parameters, known, strict=True)
    ]
    for (name, value, interval), chance, chosen in zip(
        _with_macro(split.classes, values, intervals), chances, [*at, ()], strict=True
    ):
        undefined = 0 if np.isfinite(value) else len(split)
        level = chance if metric.chance is not None else None
        score = _score(classifier, None, metric.name, name, value, interval, level, len(split), patients, undefined)
        score = replace(score, thresholds=chosen)
        yield replace(score, classes=int(np.isfinite(values).sum())) if name == MACRO else score


def tunes(metric: Metric) -> bool:
    """Return whether a classification metric's threshold is tuned on validation: a benchmark may set it."""
    return metric.tunes and metric.parameters.get("threshold") is None


def _level(metric: Metric, labels: npt.NDArray[Any]) -> float:
    """Return the chance level of a classification metric for (N,) labels; NaN if it has none."""
    level = metric.chance(labels) if callable(metric.chance) else metric.chance
    return float("nan") if level is None else float(level)


def _classification_intervals(
    metric: Metric,
    columns: Sequence[tuple[Array, npt.NDArray[Any]]],
    parameters: Sequence[Mapping[str, Any]],
    known: Sequence[bool],
    split: Split,
    options: Mapping[str, Any],
) -> Intervals:
    """Return the intervals of a classification metric's values and of their mean.

    Args:
        columns: scores and labels (N,) of each class.
        parameters: for each class, beside the metric's own.
        known: whether the class has them.
        options: of `auc_intervals`.
    """
    if metric.name == "roc_auc":
        scores, labels = (np.stack(part, axis=1) for part in zip(*columns, strict=True))
        return auc_intervals(scores, labels, split.patients, **options)
    given = [{**metric.parameters, **own} for own in parameters]
    if metric.mean_of is not None:
        table = np.stack(
            [
                np.asarray(metric.mean_of(*column, **own), dtype=np.float64) if there else np.full(len(split), np.nan)
                for column, own, there in zip(columns, given, known, strict=True)
            ],
            axis=1,
        )
        return mean_intervals_of([table], [metric.range], **options)[0]
    drawn: Resampling = options["resampling"]
    patients = [
        drawn.n_clusters if metric.one_class else min(drawn.patients(label == 1), drawn.patients(label == 0))
        for _, label in columns
    ]
    functions = [_weighted(metric, *column, own) for column, own in zip(columns, given, strict=True)]

    def statistic(weights: Array) -> Array:
        return np.stack([function(weights) for function in functions], axis=1)

    rest = {key: value for key, value in options.items() if key != "resampling"}
    return statistic_intervals(statistic, drawn, patients=patients, bounds=metric.range, **rest)


def _weighted(
    metric: Metric, scores: Array, labels: npt.NDArray[Any], parameters: Mapping[str, Any]
) -> Callable[[Array], Array]:
    """Return a metric as a function from weights (r, N) to (r,) values; without a form of its own, of repeated rows."""
    if metric.weighted is not None:
        own: Callable[[Array], Array] = metric.weighted(scores, labels, **parameters)
        return own

    def values(weights: Array) -> Array:
        rows = [np.repeat(np.arange(len(labels)), row.astype(np.int64)) for row in weights]
        return np.array([float(metric(scores[row], labels[row], **parameters)) for row in rows])

    return values


def _counted(records: Records, explainer: str, column: int, spec: MapMetric) -> Array:
    """Return the scores (P,) of a column as the headline counts them; those of a metric that failed stay undefined."""
    values = records.values[explainer][:, column]
    if explainer in records.given_up.get(spec.metric.name, {}):
        return values
    counted: Array = spec.metric.counted(values, records.chance[:, column])
    return counted


@dataclass(frozen=True)
class _Shown:
    """One metric's scores of an explainer's pairs, (P,) each: as they are, as they count, and what chance gets."""

    values: Array
    counted: Array
    chance: Array


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
        self, classifier: str, explainer: str, metric: str, shown: _Shown, intervals: Intervals
    ) -> Iterator[Score]:
        """Yield one metric's score for each class that has regions, then the mean over those with a score.

        Chance is of the same pairs, and its mean of the same classes.
        """
        rows = [self.targets == target for target in self.present]
        means = [_mean(shown.counted[row]) for row in rows]
        defined = [_mean(shown.values[row]) for row in rows]
        same = [row & np.isfinite(shown.counted) for row in rows]
        levels = [_mean(shown.chance[some if some.any() else row]) for some, row in zip(same, rows, strict=True)]
        missing = np.isnan(shown.values)
        yield from self._rows(classifier, explainer, metric, (means, defined, levels), intervals, missing)

    def pooled(
        self, classifier: str, explainer: str, result: PooledColumn, defined: npt.NDArray[np.bool_]
    ) -> Iterator[Score]:
        """Yield a pooled metric's score for each class that has regions, then the mean over those classes."""
        if not self.present:
            return
        columns = (result.values, result.defined_values, result.chance)
        rows = self._rows(classifier, explainer, result.name, columns, result.intervals, ~defined)
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
        columns: tuple[Sequence[float], Sequence[float], Sequence[float]],
        intervals: Intervals,
        missing: npt.NDArray[np.bool_],
    ) -> Iterator[Score]:
        """Yield a score for each class and for their mean, of values, values of defined maps alone, and chance."""
        means, defined, levels = map(np.array, columns)
        there = np.isfinite(means)
        names = [self.split.classes[target] for target in self.present]
        of_defined = [*defined, _mean(defined)]
        of_chance = [*levels, _mean(levels[there] if there.any() else levels)]
        for (name, value, interval), only, level, (rows, patients) in zip(
            _with_macro(names, means, intervals), of_defined, of_chance, self._groups, strict=True
        ):
            undefined, n = int(missing[rows].sum()), int(rows.sum())
            score = _score(classifier, explainer, metric, name, value, interval, level, n, patients, undefined)
            classes = int(there.sum()) if name == MACRO else 1
            constant = int(self.constant[rows].sum())
            yield replace(score, defined=_finite(only), classes=classes, constant=constant)


def _with_macro(
    names: Sequence[str], values: Sequence[float] | Array, intervals: Intervals
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
        interval=interval.method,
    )


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
