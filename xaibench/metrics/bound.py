"""Metrics with a benchmark's parameters."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from xaibench import registry
from xaibench.benchmark import Benchmark
from xaibench.errors import NotApplicableError, UsageError
from xaibench.metrics.base import ASKS_NETWORK, Metric
from xaibench.metrics.explained import Explained
from xaibench.metrics.trial import check_parameters


@dataclass(frozen=True)
class MapMetric:
    """A metric of maps with a benchmark's parameters."""

    metric: Metric
    parameters: Mapping[str, Any]

    @property
    def asks_network(self) -> bool:
        return self.metric.category in ASKS_NETWORK

    @property
    def chooses(self) -> bool:
        """Does it choose a threshold of the map, for a whole class?"""
        return self.metric.pool is not None and self.metric.pool.thresholds is not None

    @property
    def keeps_pixels(self) -> bool:
        """Is it made of all pixels of a class's maps?"""
        return self.metric.pool is not None and self.metric.pool.pixels is not None

    @cached_property
    def ignores(self) -> bool:
        """Can it leave pixels out, in scores and in levels of chance?"""
        asked = [self.metric.compute, *([self.metric.chance] if callable(self.metric.chance) else [])]
        return not self.asks_network and all("ignore" in inspect.signature(one).parameters for one in asked)

    def names(self) -> list[str]:
        """Return the names of its columns: one, one for each point of a curve, or ``NAME#0``, ... to be pooled."""
        if (pool := self.metric.pool) is not None:
            columns = pool.columns(**{**self.metric.parameters, **self.parameters})
            return [f"{self.metric.name}#{column}" for column in range(columns)]
        if self.metric.curve is None:
            return [self.metric.name]
        points = {**self.metric.parameters, **self.parameters}[self.metric.curve]
        return [f"{self.metric.name}@{point:.2f}" for point in points]

    def scores(
        self, maps: Tensor, masks: Tensor, explained: Explained | None, ignore: Tensor | None = None
    ) -> npt.NDArray[np.float64]:
        """Return (B, columns), of maps and masks in the benchmark's frame, or of what the network is asked about.

        Args:
            ignore: pixels that the dataset leaves out, for metrics that `ignores`.
        """
        given = (explained,) if self.asks_network else (maps, masks)
        return self._columns(self.metric(*given, **self.parameters, **self._without(ignore)), len(maps))

    def chance(self, masks: Tensor, ignore: Tensor | None = None) -> npt.NDArray[np.float64]:
        """Return (B, columns); NaN where the metric declares none."""
        chance = self.metric.chance
        if callable(chance):
            options = {**self.metric.parameters, **self.parameters, **self._without(ignore)}
            return self._columns(chance(masks, **options), len(masks))
        level = np.nan if chance is None else chance
        return np.full((len(masks), len(self.names())), level, dtype=np.float64)

    def _without(self, ignore: Tensor | None) -> dict[str, Tensor]:
        return {} if ignore is None or not self.ignores else {"ignore": ignore}

    def undefined(self, rows: int) -> npt.NDArray[np.float64]:
        """Return the (rows, columns) of a metric that was given up."""
        return np.full((rows, len(self.names())), np.nan)

    def _columns(self, scores: Tensor, rows: int) -> npt.NDArray[np.float64]:
        wanted = (rows, len(self.names()))
        if scores.ndim not in (1, 2) or scores.reshape(len(scores), -1).shape != wanted:
            raise NotApplicableError(f"returned scores of shape {tuple(scores.shape)}, not {wanted}")
        return scores.detach().double().cpu().numpy().reshape(wanted)


def load_metrics(benchmark: Benchmark) -> tuple[list[Metric], list[MapMetric]]:
    """Return the benchmark's classification metrics and its localization metrics.

    Raises:
        PluginError: an unknown metric.
        UsageError: a parameter that the metric does not have, or a value that it does not take.
    """
    classification: list[Metric] = []
    localization: list[MapMetric] = []
    for spec in benchmark.metrics:
        metric = registry.get("metrics", spec.name).load()
        assert isinstance(metric, Metric)
        unknown = sorted(set(spec.parameters) - set(metric.parameters))
        if unknown:
            raise UsageError(
                f"metric {spec.name!r} has no parameter {unknown[0]!r}; it has {', '.join(metric.parameters) or 'none'}"
            )
        if metric.category == "classification":
            classification.append(metric.with_parameters(spec.parameters) if spec.parameters else metric)
        else:
            check_parameters(metric, spec.parameters, benchmark.input_size, benchmark.task)
            localization.append(MapMetric(metric, dict(spec.parameters)))
    return classification, localization
