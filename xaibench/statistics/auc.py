"""ROC-AUC under many sets of weights at once, and its intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from xaibench.errors import UsageError
from xaibench.statistics.bootstrap import Array, Interval, Intervals, Method, Resampling, statistic_intervals


class WeightedAUC:
    """ROC-AUC of fixed scores as a function of the images' weights; sorting is done once.

    The weighted Mann-Whitney statistic, ties counted half: each positive adds the weight of the negatives below it and
    half of those level with it. Whole-number weights are summed exactly.

    Args:
        scores: (N,) finite; only their order matters.
        labels: (N,) 0 or 1.
    """

    def __init__(self, scores: npt.ArrayLike, labels: npt.ArrayLike) -> None:
        score, label = np.asarray(scores), np.asarray(labels)
        if score.ndim != 1 or score.shape != label.shape or not np.isin(label, (0, 1)).all():
            raise UsageError(f"ROC-AUC needs scores and 0/1 labels of one length, got {score.shape} and {label.shape}")
        self.defined = not np.isnan(score).any()
        positive, negative = np.flatnonzero(label == 1), np.flatnonzero(label == 0)
        self.negative = negative[np.argsort(score[negative], kind="stable")]
        # positives by score as well: reading the cumulated negatives then walks forward through memory
        self.positive = positive[np.argsort(score[positive], kind="stable")]
        ordered = score[self.negative]
        self.below = np.searchsorted(ordered, score[self.positive], side="left")
        self.level = np.searchsorted(ordered, score[self.positive], side="right")

    def __call__(self, weights: npt.ArrayLike) -> Array:
        """Return (r,) areas for weights (r, N) >= 0; NaN where a class has no weight or a score is NaN."""
        by_image = np.asarray(weights, dtype=np.float64).T
        if not self.defined:
            return np.full(by_image.shape[1], np.nan)
        cumulated = np.zeros((len(self.negative) + 1, by_image.shape[1]))
        np.cumsum(by_image[self.negative], axis=0, out=cumulated[1:])
        positive = by_image[self.positive]
        area = np.einsum("pr,pr->r", positive, cumulated[self.below])
        area += np.einsum("pr,pr->r", positive, cumulated[self.level])
        with np.errstate(invalid="ignore"):
            ratio: Array = area / (2 * positive.sum(0) * cumulated[-1])
        return ratio


def weighted_auc(scores: npt.ArrayLike, labels: npt.ArrayLike, weights: npt.ArrayLike) -> Array:
    """Return (R,) areas under the ROC curve for weights (R, N); see `WeightedAUC`.

    >>> weighted_auc([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1], [[1, 1, 1, 1], [1, 0, 2, 0]]).tolist()
    [0.75, 1.0]
    """
    return WeightedAUC(scores, labels)(weights)


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
