"""What chance would score on the regions of one batch: from the store, or computed and kept there."""

from __future__ import annotations

from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from xaibench.harness.records import MapMetric, side_by_side
from xaibench.harness.scorer import Scorer

if TYPE_CHECKING:
    from xaibench.harness.batch import BatchWork

Level = npt.NDArray[np.float64]


class Chance:
    """The levels of chance of all pairs of a batch: begun, and then asked for.

    Args:
        scorer: computes them.
    """

    def __init__(self, batch: BatchWork, scorer: Scorer) -> None:
        self._batch = batch
        found = batch.at.scores(None, batch.pairs, batch.where) if batch.at and batch.pairs else None
        self._arrays: dict[str, npt.NDArray[Any]] = dict(found.arrays) if found else {}
        self._begun: dict[str, Future[Level | None]] = {}
        for metric in batch.work.metrics if batch.pairs else ():
            if self._key(metric) not in self._arrays:
                masks = batch.masks_if_given(metric)
                self._begun[metric.metric.name] = scorer.submit(partial(_level, metric, masks))

    def values(self) -> Level:
        """Return (p, columns); NaN where a metric declares none, or none can be computed."""
        batch, rows = self._batch, len(self._batch.pairs)
        blocks: list[Level] = []
        new = False
        for metric in batch.work.metrics:
            key, begun = self._key(metric), self._begun.get(metric.metric.name)
            level = begun.result() if begun else self._arrays.get(str(key))
            if begun and level is not None and key is not None:
                self._arrays[key], new = level, True
            blocks.append(metric.undefined(rows) if level is None else level)
        if batch.at and new:
            batch.at.keep_scores(None, batch.pairs, batch.where, self._arrays, {})
        return side_by_side(blocks, rows)

    def _key(self, metric: MapMetric) -> str | None:
        return self._batch.at.metric_key(metric.metric.name) if self._batch.at else None


def _level(metric: MapMetric, masks: Tensor | None) -> Level | None:
    if masks is None:
        return None
    try:
        return metric.chance(masks)
    except Exception:  # its scores fail for the same reason, and say it
        return None
