"""Intervals of ROC-AUCs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from xaibench.errors import UsageError
from xaibench.metrics.weighted_auc import WeightedAUC, weighted_auc
from xaibench.statistics.bootstrap import Array, Interval, Intervals, Method, Resampling, statistic_intervals

__all__ = ["WeightedAUC", "auc_interval", "auc_intervals", "weighted_auc"]


def auc_intervals(
    scores: npt.ArrayLike,
    labels: npt.ArrayLike,
    clusters: Sequence[str],
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    method: Method = "percentile",
    resampling: Resampling | None = None,
) -> Intervals:
    """Return intervals of the one-against-rest ROC-AUC of each class, and of their mean, from the same resamples.

    Where the bootstrap has no spread (classes apart, or scores all equal) n of Wilson's interval is the number of
    patients in the smaller class; with one patient in a class the interval is [0, 1].

    Args:
        scores: (N, K) logits or probabilities.
        labels: (N, K), 0 or 1.
        clusters: N patient names.
        resampling: a draw to share between calls, instead of `resamples` and `seed`.

    Raises:
        UsageError: shapes that do not fit, labels other than 0 and 1, a bad option.
    """
    score, label = np.asarray(scores), np.asarray(labels)
    if score.ndim != 2 or score.shape != label.shape or len(score) != len(clusters):
        raise UsageError(f"scores {score.shape}, labels {label.shape} and {len(clusters)} patient names do not fit")
    drawn = resampling or Resampling(clusters, resamples=resamples, seed=seed)
    areas = [WeightedAUC(score[:, k], label[:, k]) for k in range(score.shape[1])]
    patients = [min(drawn.patients(column == 1), drawn.patients(column == 0)) for column in label.T]

    def statistic(weights: Array) -> Array:
        return np.stack([area(weights) for area in areas], axis=1)

    return statistic_intervals(statistic, drawn, patients=patients, confidence=confidence, method=method)


def auc_interval(scores: npt.ArrayLike, labels: npt.ArrayLike, clusters: Sequence[str], **options: Any) -> Interval:
    """Return the interval of one ROC-AUC, from (N,) scores and labels, or of the macro mean, from (N, K).

    Options as for `auc_intervals`.

    >>> auc_interval([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1], ["a", "b", "c", "d"]).method  # classes apart
    'wilson'
    """
    score, label = np.asarray(scores), np.asarray(labels)
    if score.ndim == 1:
        score, label = score[:, None], label.reshape(-1, 1)
    return auc_intervals(score, label, clusters, **options).macro
