"""Metrics of a whole dataset: the pairs' statistics, averaged, or their pixels, and the threshold that they choose."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from xaibench.evaluation.records import Records
from xaibench.metrics._pixels import Row, histograms
from xaibench.metrics.base import PixelStatistic
from xaibench.metrics.bound import MapMetric
from xaibench.statistics import Intervals
from xaibench.statistics.bootstrap import statistic_intervals

Array = npt.NDArray[np.float64]
Choices = Mapping[int, npt.NDArray[np.intp]]
"""Class index to the place of each criterion's threshold, (J,)."""


@dataclass(frozen=True)
class PooledColumn:
    """One result of a pooled metric: of every class that has pairs.

    Args:
        name: such as ``iou_best@oracle``.
        values, chance: by class, as in `Pooling.targets`.
        defined_values: of the pairs with a defined map alone.
        intervals: by class, and of their mean.
        thresholds: by class, the chosen share of the map's range for each criterion; None where none is chosen.
    """

    name: str
    values: list[float]
    defined_values: list[float]
    chance: list[float]
    intervals: Intervals
    thresholds: list[list[float]] | None


class Pooling:
    """A dataset-level metric's statistics of one explainer on one split.

    A pair whose map is undefined counts as noise, in values, choices and intervals, unless the metric failed.

    Args:
        metric: with a pool.
        records: of the split.
        explainer: one of `Records.values`.
    """

    def __init__(self, metric: MapMetric, records: Records, explainer: str) -> None:
        assert metric.metric.pool is not None
        self.pool, self.name = metric.metric.pool, metric.metric.name
        self.parameters = {**metric.metric.parameters, **metric.parameters}
        start = records.columns.index(metric.names()[0])
        columns = slice(start, start + len(metric.names()))
        own, self.noise = records.values[explainer][:, columns], records.chance[:, columns]
        self.images, of = records.pair_images, records.pair_targets
        self.defined: npt.NDArray[np.bool_] = np.asarray(np.isfinite(own).all(1))
        failed = explainer in records.given_up.get(self.name, {})
        counts = metric.metric.corrected and not failed
        self.statistics = np.where(self.defined[:, None], own, self.noise) if counts else own
        counted: npt.NDArray[np.bool_] = np.asarray(np.isfinite(self.statistics).all(1))
        self.targets = sorted(set(of.tolist()))
        self.all_rows = {target: np.flatnonzero(of == target) for target in self.targets}
        self.rows = {target: rows[counted[rows]] for target, rows in self.all_rows.items()}
        self.defined_rows = {target: rows[self.defined[rows]] for target, rows in self.all_rows.items()}
        self.pixels = records.pixels.get(self.name, {}).get(explainer, [])

    def choose(self) -> Choices:
        """Return each class's best thresholds: of equals the middle one, as the edge of a plateau is the least sure."""
        found = {}
        for target in self.targets:
            if len(rows := self.rows[target]):
                scores = self._scores(self.statistics[rows].mean(0, keepdims=True))[0]
                found[target] = np.array([_middle(row == row.max()) for row in scores])
        return found

    def columns(self, tuned: Choices | None, **options: Any) -> Iterator[PooledColumn]:
        """Yield the metric's results; ``NAME@tuned`` only where there are choices from validation.

        The oracle chooses anew in every resample, as it does on the images themselves; the tuned threshold stays.

        Args:
            tuned: what `choose` gave on validation; None without regions there.
            options: of `statistic_intervals`, and `resampling`.
        """
        if self.pool.thresholds is None:
            yield self._column(self.name, None, None, options)
            return
        for name in self.pool.names(self.name):
            if name.endswith("@oracle"):
                yield self._column(name, None, self.choose(), options)
            elif tuned is not None:
                yield self._column(name, tuned, tuned, options)

    def _column(
        self, name: str, at: Choices | None, chosen: Choices | None, options: Mapping[str, Any]
    ) -> PooledColumn:
        of_class = [self._class(target, self.rows[target], at) for target in self.targets]

        def statistic(weights: Array) -> Array:
            return np.stack([own(weights[:, self.images[own.rows]]) for own in of_class], axis=1)

        options = dict(options)
        drawn = options.pop("resampling")
        images = np.arange(len(drawn.index))
        patients = [drawn.patients(np.isin(images, self.images[own.rows])) for own in of_class]
        intervals = statistic_intervals(statistic, drawn, patients=patients, **options)
        values = [own.value for own in of_class]
        defined = [
            own.value if len(own.rows) == len(rows) else self._class(target, rows, at).value
            for own, (target, rows) in zip(of_class, self.defined_rows.items(), strict=True)
        ]
        chance = [float(self._noise(target, at)) for target in self.targets]
        return PooledColumn(name, values, defined, chance, intervals, self._thresholds(chosen))

    def _class(self, target: int, rows: npt.NDArray[np.intp], at: Choices | None) -> _Class:
        if self.pool.pixels is not None:
            return _PixelClass(rows, [self.pixels[row] for row in rows] if self.pixels else [], self.pool.pixels)
        return _Class(rows, self.statistics[rows], partial(self._picked, target=target, at=at))

    def _noise(self, target: int, at: Choices | None) -> float:
        rows = self.all_rows[target]
        rows = rows[np.isfinite(self.noise[rows]).all(1)]
        if not len(rows):
            return float("nan")
        if self.pool.pixels is not None and self.pixels:  # the share of all pixels that lies in a mask
            inside, outside = np.array(
                [(len(self.pixels[row].inside), len(self.pixels[row].outside)) for row in rows]
            ).sum(0)
            return float(inside / (inside + outside))
        return float(self._picked(self.noise[rows].mean(0, keepdims=True), target, at)[0])

    def _picked(self, means: Array, target: int, at: Choices | None) -> Array:
        scores = self._scores(means)
        if at is None:
            best: Array = scores.max(-1).mean(-1)
            return best
        if target not in at:
            return np.full(len(means), np.nan)
        picked: Array = scores[:, np.arange(scores.shape[1]), at[target]].mean(-1)
        return picked

    def _scores(self, means: Array) -> Array:
        scores: Array = self.pool.scores(means, **self.parameters)
        return scores

    def _thresholds(self, chosen: Choices | None) -> list[list[float]] | None:
        if chosen is None:
            return None
        assert self.pool.thresholds is not None
        values: Sequence[float] = self.parameters[self.pool.thresholds]
        return [[float(values[place]) for place in chosen.get(target, ())] for target in self.targets]


class _Class:
    """A class's score as a function of the weights of its pairs.

    Args:
        rows: n pairs.
        statistics: (n, C), whose weighted mean `score` turns into numbers.
        score: of (r, C) means.
    """

    def __init__(self, rows: npt.NDArray[np.intp], statistics: Array, score: Callable[[Array], Array]) -> None:
        self.rows, self._statistics, self._score = rows, statistics, score

    @property
    def value(self) -> float:
        return float(self(np.ones((1, len(self.rows))))[0])

    def __call__(self, weights: Array) -> Array:
        """Return (r,) scores under weights (r, n); NaN where no pair is drawn."""
        total = weights.sum(1, keepdims=True)
        with np.errstate(invalid="ignore", divide="ignore"):
            means = weights @ self._statistics / total
        drawn = (total > 0)[:, 0]
        found = np.full(len(weights), np.nan)
        if drawn.any():
            found[drawn] = self._score(means[drawn])
        return found


class _PixelClass(_Class):
    """The score of all pixels: exact for the pairs as they are, from histograms for resamples of them."""

    def __init__(self, rows: npt.NDArray[np.intp], pixels: Sequence[Row], statistic: PixelStatistic) -> None:
        if not len(pixels):
            super().__init__(rows[:0], np.empty((0, 2)), statistic.binned)
            self._exact = self._off = float("nan")
            return
        super().__init__(rows, histograms(pixels), statistic.binned)
        self._exact = statistic.exact(pixels)
        binned = super().__call__(np.ones((1, len(rows))))
        self._off = self._exact - float(binned[0])  # what the histograms' levels cost, for the pairs as they are

    @property
    def value(self) -> float:
        return self._exact

    def __call__(self, weights: Array) -> Array:
        return super().__call__(weights) + self._off


def _middle(best: npt.NDArray[np.bool_]) -> int:
    places = np.flatnonzero(best)
    return int(places[(len(places) - 1) // 2])


def tuned_choices(metrics: Sequence[MapMetric], validation: Records | None) -> dict[str, dict[str, Choices]]:
    """Return explainer to metric to the thresholds that are best on validation; empty without regions there."""
    if validation is None or not len(validation.pair_images):
        return {}
    return {
        explainer: {m.metric.name: Pooling(m, validation, explainer).choose() for m in metrics if m.chooses}
        for explainer in validation.values
    }
