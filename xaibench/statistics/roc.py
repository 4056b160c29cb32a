"""ROC-AUC under many sets of weights at once: a score, and all its bootstrap resamples, from one sort."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from xaibench.errors import UsageError

Array = npt.NDArray[np.float64]


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
