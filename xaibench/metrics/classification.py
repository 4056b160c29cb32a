"""Classification metrics: does the classifier tell the classes apart, and say how sure it is?

Called as ``metric(scores, labels)`` with one class against the rest. Scores are log-odds (`class_scores`); for those
that look at the order alone any will do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import expit, logsumexp

from xaibench.errors import UsageError
from xaibench.metrics.base import metric
from xaibench.statistics.roc import weighted_auc

Array = npt.NDArray[np.float64]
Weighted = Callable[[Array], Array]
"""Weights (r, N) of the images to (r,) values of a metric."""


def _vector(values: Any) -> npt.NDArray[Any]:
    return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)


def _checked(scores: Any, labels: Any) -> tuple[Array, npt.NDArray[np.bool_]]:
    score, label = _vector(scores).astype(np.float64), _vector(labels)
    if score.ndim != 1 or score.shape != label.shape or not np.isin(label, (0, 1)).all():
        raise UsageError(f"a metric needs scores and 0/1 labels of one length, got {score.shape} and {label.shape}")
    return score, label == 1


def _once(weighted: Weighted, images: int) -> float:
    return float(weighted(np.ones((1, images)))[0])


def _prevalence(labels: Any) -> float:
    """Return the level of scores that know nothing: the share of positives."""
    label = _vector(labels)
    return float((label == 1).mean()) if len(label) else float("nan")


def weighted_average_precision(scores: Any, labels: Any) -> Weighted:
    """Return the average precision as a function of the images' weights; see `average_precision`."""
    score, label = _checked(scores, labels)
    order = np.argsort(-score, kind="stable")
    ordered = score[order]
    last = np.append(np.flatnonzero(np.diff(ordered)), len(ordered) - 1) if len(ordered) else np.zeros(0, dtype=int)
    positive = label[order]
    defined = len(score) > 0 and 0 < label.sum() < len(label) and not np.isnan(score).any()

    def values(weights: Array) -> Array:
        if not defined:
            return np.full(len(weights), np.nan)
        drawn = weights[:, order]
        hits = np.cumsum(np.where(positive, drawn, 0.0), axis=1)[:, last]
        called = np.cumsum(drawn, axis=1)[:, last]
        gained = np.diff(hits, axis=1, prepend=0.0)
        with np.errstate(invalid="ignore", divide="ignore"):
            precision = np.where(called > 0, hits / called, 0.0)
            area: Array = (gained * precision).sum(1) / hits[:, -1]
        return np.where(hits[:, -1] < called[:, -1], area, np.nan)

    return values


@metric(
    "average_precision",
    category="classification",
    direction="higher",
    range=(0.0, 1.0),
    title="PR-AUC",
    reference="Davis and Goadrich 2006, doi:10.1145/1143844.1143874; equals scikit-learn's average_precision_score",
    chance=_prevalence,
    weighted=weighted_average_precision,
)
def average_precision(scores: Any, labels: Any) -> float:
    """Area under the precision-recall curve of one class, as average precision: the mean, over the positives, of the
    precision at their score.

    Equal scores are one step, nothing is interpolated. Chance is the share of positives: values of classes, or of
    datasets, with other shares do not compare.

    Args:
        scores: (N,) logits or probabilities, array or tensor; only their order matters.
        labels: (N,) 0 or 1.

    Returns:
        The area in [0, 1]; NaN when only one class is there or a score is NaN.

    Raises:
        UsageError: different lengths, or labels other than 0 and 1.

    >>> round(average_precision([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1]), 4)  # (1 + 2 / 3) / 2
    0.8333
    """
    return _once(weighted_average_precision(scores, labels), len(_vector(labels)))


def _called(scores: Any, labels: Any, threshold: float | None, positive: bool) -> Array:
    """Return (N,): whether each image of a class is called right, NaN for the other class and without a score."""
    score, label = _checked(scores, labels)
    called = score >= (0.0 if threshold is None else threshold)
    if not 0 < label.sum() < len(label) or np.isnan(score).any():
        return np.full(len(score), np.nan)
    return np.where(label == positive, called == positive, np.nan).astype(np.float64)


def positives_found(scores: Any, labels: Any, threshold: float | None = None) -> Array:
    """Return (N,): 1 for a positive that is called so, 0 for another, NaN for a negative. Their mean: `sensitivity`."""
    return _called(scores, labels, threshold, True)


def negatives_found(scores: Any, labels: Any, threshold: float | None = None) -> Array:
    """Return (N,): 1 for a negative that is called so, 0 for another, NaN for a positive. Their mean: `specificity`."""
    return _called(scores, labels, threshold, False)


def _known_mean(values: Array) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")


@metric(
    "sensitivity",
    category="classification",
    direction="higher",
    range=(0.0, 1.0),
    title="Sensitivity",
    reference="Youden 1950, Cancer 3:32, for the threshold; equals torchmetrics' binary_recall",
    mean_of=positives_found,
    tunes=True,
    threshold=None,
)
def sensitivity(scores: Any, labels: Any, threshold: float | None = None) -> float:
    """Share of the positives whose score is at least the threshold.

    In a run the threshold is the class's own, where sensitivity + specificity is largest on validation (`youden`),
    unless the benchmark sets one. Sensitivity and specificity are one operating point: neither says much alone.

    Args:
        scores: (N,) log-odds.
        labels: (N,) 0 or 1.
        threshold: of the log-odds; None: 0, a probability of one half.

    Returns:
        The share in [0, 1]; NaN when only one class is there or a score is NaN.

    Raises:
        UsageError: different lengths, or labels other than 0 and 1.

    >>> sensitivity([-2.0, 0.5, -0.3, 1.2], [0, 0, 1, 1])
    0.5
    """
    return _known_mean(positives_found(scores, labels, threshold))


@metric(
    "specificity",
    category="classification",
    direction="higher",
    range=(0.0, 1.0),
    title="Specificity",
    reference="Youden 1950, Cancer 3:32, for the threshold; equals torchmetrics' binary_specificity",
    mean_of=negatives_found,
    tunes=True,
    threshold=None,
)
def specificity(scores: Any, labels: Any, threshold: float | None = None) -> float:
    """Share of the negatives whose score is below the threshold; otherwise as `sensitivity`.

    Args:
        scores: (N,) log-odds.
        labels: (N,) 0 or 1.
        threshold: of the log-odds; None: 0, a probability of one half.

    Returns:
        The share in [0, 1]; NaN when only one class is there or a score is NaN.

    Raises:
        UsageError: different lengths, or labels other than 0 and 1.

    >>> specificity([-2.0, 0.5, -0.3, 1.2], [0, 0, 1, 1])
    0.5
    """
    return _known_mean(negatives_found(scores, labels, threshold))


def youden(scores: Any, labels: Any) -> float:
    """Return the threshold at which sensitivity + specificity is largest (Youden 1950); NaN if one class is missing.

    Thresholds lie halfway between neighbouring scores; of equally good ones the middle one is taken.

    Args:
        scores: (N,) log-odds of one class.
        labels: (N,) 0 or 1.

    >>> youden([-2.0, -1.0, 1.0, 3.0], [0, 0, 1, 1])
    0.0
    """
    score, label = _checked(scores, labels)
    if not 0 < label.sum() < len(label) or np.isnan(score).any():
        return float("nan")
    values = np.unique(score)
    found = np.searchsorted(np.sort(score[label]), values[1:], side="left")  # positives below each cut
    passed = np.searchsorted(np.sort(score[~label]), values[1:], side="left")
    if not len(values) > 1:
        return float(values[0])
    right = passed / (~label).sum() - found / label.sum()
    best = np.flatnonzero(right >= right.max() - 1e-12)
    if right.max() <= 0:  # the classes are the wrong way round: no cut is better than calling all images positive
        return float(values[0])
    place = int(best[(len(best) - 1) // 2])
    with np.errstate(invalid="ignore"):
        middle = (values[place] + values[place + 1]) / 2
    return float(middle if np.isfinite(middle) else values[place + 1])


def weighted_calibration_error(scores: Any, labels: Any, bins: int = 15) -> Weighted:
    """Return the calibration error as a function of the images' weights; see `calibration_error`."""
    score, label = _checked(scores, labels)
    if bins < 1:
        raise UsageError(f"calibration_error needs bins >= 1, got {bins}")
    probability = expit(score)
    defined = len(score) > 0 and not np.isnan(score).any()
    place = np.minimum(np.nan_to_num(probability * bins), bins - 1).astype(np.int64)
    surplus = np.zeros((len(score), bins))
    surplus[np.arange(len(score)), place] = probability - label

    def values(weights: Array) -> Array:
        if not defined:
            return np.full(len(weights), np.nan)
        with np.errstate(invalid="ignore"):
            error: Array = np.abs(weights @ surplus).sum(1) / weights.sum(1)
        return error

    return values


@metric(
    "calibration_error",
    category="classification",
    direction="lower",
    range=(0.0, 1.0),
    title="ECE",
    reference="Guo et al. 2017, arXiv:1706.04599; by class as Kull et al. 2019, arXiv:1910.12656; equals torchmetrics' "
    "binary_calibration_error with norm l1",
    weighted=weighted_calibration_error,
    one_class=True,
    bins=15,
)
def calibration_error(scores: Any, labels: Any, bins: int = 15) -> float:
    """Expected calibration error of one class: how far its probability is from the share of positives, in bins of equal
    width, averaged over the images.

    The mean over classes is the class-wise error of a multi-class network. It is never below 0, so that chance alone
    makes it positive: of a perfectly calibrated network it is about sqrt(bins / images) / 3 where all bins are in use,
    0.13 with 100 images and 0.03 with 2,000. Compare networks on the same images only.

    Args:
        scores: (N,) log-odds: the probability is their sigmoid.
        labels: (N,) 0 or 1.
        bins: of equal width, from 0 to 1.

    Returns:
        The error in [0, 1]; NaN without images, or when a score is NaN.

    Raises:
        UsageError: different lengths, labels other than 0 and 1, or no bins.

    >>> round(calibration_error([0.0, 0.0, 0.0, 0.0], [0, 1, 1, 1]), 4)  # says one half, and it is three quarters
    0.25
    """
    return _once(weighted_calibration_error(scores, labels, bins), len(_vector(labels)))


@metric(
    "roc_auc",
    category="classification",
    direction="higher",
    range=(0.0, 1.0),
    title="ROC-AUC",
    reference="Hanley and McNeil 1982, doi:10.1148/radiology.143.1.7063747; equals scikit-learn's roc_auc_score",
    chance=0.5,
)
def roc_auc(scores: Any, labels: Any) -> float:
    """Area under the ROC curve of one class: the chance that a positive outranks a negative, ties counted half.

    Args:
        scores: (N,) logits or probabilities, array or tensor; only their order matters.
        labels: (N,) 0 or 1.

    Returns:
        The area in [0, 1]; NaN when only one class is there or a score is NaN.

    Raises:
        UsageError: different lengths, or labels other than 0 and 1.

    >>> roc_auc([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1])
    0.75
    """
    score, label = _vector(scores), _vector(labels)
    return float(weighted_auc(score, label, np.ones((1, len(label))))[0])


def class_scores(logits: npt.NDArray[np.float64], task: str) -> npt.NDArray[np.float64]:
    """Return the scores (N, K) that rank images in a class's ROC curve, from logits (N, K).

    Multi-class: the log-odds of the softmax probability, which rank as the probability does but never tie at 0 or 1.
    Multi-label: the logits.

    >>> class_scores(np.array([[2.0, 1.0]]), "multiclass").tolist()
    [[1.0, -1.0]]
    """
    if task == "multilabel":
        return logits
    others = [logsumexp(np.delete(logits, k, axis=1), axis=1) for k in range(logits.shape[1])]
    scores: npt.NDArray[np.float64] = logits - np.stack(others, axis=1)
    return scores
