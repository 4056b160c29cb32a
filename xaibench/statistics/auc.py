"""Intervals of ROC-AUCs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from xaibench.errors import UsageError
from xaibench.metrics.weighted_auc import WeightedAUC, weighted_auc
from xaibench.statistics.bootstrap import Array, Interval, Intervals, Method, Resampling, statistic_intervals
from xaibench.statistics.bootstrap import check as check_method
from xaibench.statistics.delong import AUCs, delong
from xaibench.statistics.score import mean_of_limits

__all__ = ["WeightedAUC", "auc_interval", "auc_intervals", "weighted_auc"]


def auc_intervals(
    scores: npt.ArrayLike,
    labels: npt.ArrayLike,
    clusters: Sequence[str],
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    method: Method = "score",
    resampling: Resampling | None = None,
) -> Intervals:
    """Return intervals of the one-against-rest ROC-AUC of each class, and of their mean.

    With one patient in a class the interval is [0, 1].

    Args:
        scores: (N, K) logits or probabilities.
        labels: (N, K), 0 or 1.
        clusters: N patient names.
        method: "score": `xaibench.statistics.score.auc_limits`, and for the mean `mean_of_limits`; or a bootstrap, the
            same resamples for all, as for `statistic_intervals`. Where that has no spread (classes apart, or scores all
            equal) n of Wilson's interval is the number of patients in the smaller class.
        resampling: a draw to share between calls, instead of `resamples` and `seed`.

    Raises:
        UsageError: shapes that do not fit, labels other than 0 and 1, a bad option.
    """
    score, label = np.asarray(scores), np.asarray(labels)
    if score.ndim != 2 or score.shape != label.shape or len(score) != len(clusters):
        raise UsageError(f"scores {score.shape}, labels {label.shape} and {len(clusters)} patient names do not fit")
    check_method(confidence, method)
    drawn = resampling or Resampling(clusters, resamples=resamples, seed=seed)
    if method == "score":
        return _score_intervals([delong(score[:, k], label[:, k], clusters) for k in range(score.shape[1])], confidence)
    areas = [WeightedAUC(score[:, k], label[:, k]) for k in range(score.shape[1])]
    patients = [min(drawn.patients(column == 1), drawn.patients(column == 0)) for column in label.T]

    def statistic(weights: Array) -> Array:
        return np.stack([area(weights) for area in areas], axis=1)

    return statistic_intervals(statistic, drawn, patients=patients, confidence=confidence, method=method)


def _score_intervals(found: Sequence[AUCs], confidence: float) -> Intervals:
    columns = tuple(each.interval(confidence=confidence) for each in found)
    areas = np.array([each.areas[0] for each in found])
    there = np.isfinite(areas)
    if there.sum() < 2:
        single = [interval for interval, known in zip(columns, there, strict=True) if known]
        return Intervals(columns, single[0] if single else Interval(0.0, 1.0, "bounds"))
    adds = np.concatenate([each.adds for each in found], axis=1)[:, there]
    ends = np.array([(interval.low, interval.high) for interval, known in zip(columns, there, strict=True) if known])
    return Intervals(columns, Interval(*mean_of_limits(areas[there], ends, adds), "score"))


def auc_interval(scores: npt.ArrayLike, labels: npt.ArrayLike, clusters: Sequence[str], **options: Any) -> Interval:
    """Return the interval of one ROC-AUC, from (N,) scores and labels, or of the macro mean, from (N, K).

    Options as for `auc_intervals`.

    >>> auc_interval([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1], ["a", "b", "c", "d"]).method  # classes apart
    'score'
    """
    score, label = np.asarray(scores), np.asarray(labels)
    if score.ndim == 1:
        score, label = score[:, None], label.reshape(-1, 1)
    return auc_intervals(score, label, clusters, **options).macro
