"""Metrics of a whole dataset: the pairs' statistics, averaged, and the threshold that they choose, as scores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from xaibench.harness.records import MapMetric, Records
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
    """A pooled metric's statistics of one explainer on one split.

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
        self.statistics, self.noise = records.values[explainer][:, columns], records.chance[:, columns]
        self.images, of = records.pair_images, records.pair_targets
        self.defined: npt.NDArray[np.bool_] = np.asarray(np.isfinite(self.statistics).all(1))
        self.targets = sorted(set(of.tolist()))
        self.rows = {target: np.flatnonzero((of == target) & self.defined) for target in self.targets}
        self.all_rows = {target: np.flatnonzero(of == target) for target in self.targets}

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
        def statistic(weights: Array) -> Array:
            found = [self._value(weights[:, self.images[self.rows[k]]], self.rows[k], k, at) for k in self.targets]
            return np.stack(found, axis=1)

        options = dict(options)
        drawn = options.pop("resampling")
        images = np.arange(len(drawn.index))
        patients = [drawn.patients(np.isin(images, self.images[self.rows[k]])) for k in self.targets]
        values = statistic(np.ones((1, len(images))))[0]
        intervals = statistic_intervals(statistic, drawn, patients=patients, **options)
        chance = [float(self._noise(target, at)) for target in self.targets]
        return PooledColumn(name, values.tolist(), values.tolist(), chance, intervals, self._thresholds(chosen))

    def _noise(self, target: int, at: Choices | None) -> float:
        noise = self.noise[self.all_rows[target]]
        noise = noise[np.isfinite(noise).all(1)]
        return float(self._picked(noise.mean(0, keepdims=True), target, at)[0]) if len(noise) else float("nan")

    def _value(self, weights: Array, rows: npt.NDArray[np.intp], target: int, at: Choices | None) -> Array:
        """Return (r,): a class's score under weights (r, rows); NaN where none of them is drawn."""
        total = weights.sum(1, keepdims=True)
        with np.errstate(invalid="ignore", divide="ignore"):
            means = weights @ self.statistics[rows] / total
        drawn = (total > 0)[:, 0]
        found = np.full(len(weights), np.nan)
        if drawn.any():
            found[drawn] = self._picked(means[drawn], target, at)
        return found

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
