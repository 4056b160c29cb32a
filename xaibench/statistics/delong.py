"""ROC-AUCs of several classifiers on the same images: covariance, intervals, and the paired test of two.

DeLong, DeLong and Clarke-Pearson (Biometrics 44:837, 1988), from midranks (Sun and Xu, IEEE Signal Processing Letters
21:1389, 2014). With patient names the variance is Obuchowski's for clusters (Biometrics 53:567, 1997), which is
DeLong's where every patient has one image. None of the libraries this package stands on has either.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, ndtri
from scipy.stats import rankdata

from xaibench.errors import UsageError
from xaibench.statistics.bootstrap import FLAT, Array, Interval, check_confidence, interval_without_spread
from xaibench.statistics.score import auc_limits


@dataclass(frozen=True)
class AUCTest:
    """Two ROC-AUCs on the same images, compared.

    Args:
        difference: first minus second.
        interval: of the difference, on the plain scale, cut to [-1, 1].
        z: the difference in standard errors; p: two-sided. Where the difference has no variance: 0 and 1 if it is 0,
            NaN otherwise (DeLong can't speak there, as it can't with one patient in a class).
    """

    difference: float
    interval: Interval
    z: float
    p: float


@dataclass(frozen=True, eq=False)
class AUCs:
    """ROC-AUCs of K classifiers on the same images, with their covariance. Made by `delong`.

    Args:
        areas: (K,), NaN where undefined (a class is absent, a score is NaN).
        covariance: (K, K), NaN where undefined (fewer than two patients in a class).
        patients: patients in the smaller class.
        sizes: patients with positives, with negatives, and in all.
        adds: (C, K) what each patient adds, signed, to the area: its images' placements less the area, over the images
            of their class.
    """

    areas: Array
    covariance: Array
    patients: int
    sizes: tuple[int, int, int]
    adds: Array

    def interval(self, k: int = 0, *, confidence: float = 0.95) -> Interval:
        """Return the score interval of one area: `xaibench.statistics.score.auc_limits`. Undefined: [0, 1]."""
        check_confidence(confidence)
        area, variance = float(self.areas[k]), float(self.covariance[k, k])
        if not math.isfinite(variance):
            return Interval(0.0, 1.0, "bounds")
        variance = variance if variance > FLAT**2 else 0.0
        return Interval(*auc_limits(area, variance, *self.sizes, confidence)[:2], "score")

    def told(self, k: int = 0) -> float:
        """Return the share of the variance behind `interval` that the images tell of; the rest is a model's."""
        area, variance = float(self.areas[k]), float(self.covariance[k, k])
        if not math.isfinite(variance):
            return 0.0
        return auc_limits(area, variance if variance > FLAT**2 else 0.0, *self.sizes, 0.95)[2]

    def test(self, first: int = 0, second: int = 1, *, confidence: float = 0.95) -> AUCTest:
        """Return the two-sided paired test of two areas, and the interval of their difference."""
        check_confidence(confidence)
        difference = float(self.areas[first] - self.areas[second])
        contrast = np.zeros(len(self.areas))
        contrast[[first, second]] += (1, -1)
        used = contrast != 0  # an undefined third classifier is none of their business
        variance = float(contrast[used] @ self.covariance[np.ix_(used, used)] @ contrast[used])
        if not math.isfinite(variance + difference):
            return AUCTest(difference, Interval(-1.0, 1.0, "bounds"), math.nan, math.nan)
        if variance <= FLAT**2:
            interval = interval_without_spread(difference, self.patients, confidence=confidence, bounds=(-1.0, 1.0))
            return AUCTest(difference, interval, *((0.0, 1.0) if abs(difference) <= FLAT else (math.nan, math.nan)))
        error = math.sqrt(variance)
        half = float(ndtri((1 + confidence) / 2)) * error
        interval = Interval(max(-1.0, difference - half), min(1.0, difference + half), "delong")
        return AUCTest(difference, interval, difference / error, float(2 * ndtr(-abs(difference) / error)))


def delong(scores: npt.ArrayLike, labels: npt.ArrayLike, clusters: Sequence[str] | None = None) -> AUCs:
    """Return the areas under the ROC curves of K classifiers on the same images, with their covariance.

    Args:
        scores: (N, K), or (N,) for one classifier; only their order matters.
        labels: (N,) 0 or 1, one class against the rest.
        clusters: N patient names; None: every image is a patient of its own.

    Raises:
        UsageError: shapes that do not fit, labels other than 0 and 1.

    >>> result = delong([[1, 3], [2, 1], [3, 2], [4, 4]], [0, 0, 1, 1])
    >>> result.areas.tolist(), result.covariance.tolist()
    ([1.0, 0.75], [[0.0, 0.0], [0.0, 0.125]])
    """
    score, label = np.asarray(scores), np.asarray(labels)
    score = score[:, None] if score.ndim == 1 else score
    if score.ndim != 2 or label.shape != score.shape[:1] or not np.isin(label, (0, 1)).all():
        raise UsageError(f"DeLong needs scores and 0/1 labels of one length, got {score.shape} and {label.shape}")
    names = np.arange(len(label)) if clusters is None else np.asarray([str(name) for name in clusters])
    if names.shape != label.shape:
        raise UsageError(f"{len(label)} images have {len(names)} patient names")
    patient = np.unique(names, return_inverse=True)[1]
    positive = label == 1
    above, below = _placements(score, positive)
    groups = patient[positive], patient[~positive]
    areas = above.mean(0) if len(above) and len(below) else np.full(score.shape[1], np.nan)
    n = int(patient.max(initial=-1)) + 1
    sizes = (len(np.unique(groups[0])), len(np.unique(groups[1])), n)
    x, y = (
        _by_patient(part - areas, group, n) / max(len(part), 1)
        for part, group in zip((above, below), groups, strict=True)
    )
    if min(sizes) < 2:
        return AUCs(areas, np.full((len(areas), len(areas)), np.nan), min(sizes), sizes, x + y)
    cross = x.T @ y
    covariance: Array = (
        _unbiased(sizes[0]) * (x.T @ x) + _unbiased(sizes[1]) * (y.T @ y) + _unbiased(n) * (cross + cross.T)
    )
    return AUCs(areas, covariance, min(sizes), sizes, x + y)


def _placements(score: npt.NDArray[np.generic], positive: npt.NDArray[np.bool_]) -> tuple[Array, Array]:
    """Return DeLong's structural components: the share of negatives below each positive (m, K), and the share of
    positives above each negative (n, K); ties count half."""
    m, n = int(positive.sum()), int((~positive).sum())
    among_all = rankdata(score, axis=0)
    inside = [rankdata(score[part], axis=0) for part in (positive, ~positive)]
    return (among_all[positive] - inside[0]) / max(n, 1), 1 - (among_all[~positive] - inside[1]) / max(m, 1)


def _by_patient(values: Array, patient: npt.NDArray[np.intp], n: int) -> Array:
    sums = np.zeros((n, values.shape[1]))
    np.add.at(sums, patient, values)
    return sums


def _unbiased(n: int) -> float:
    return n / (n - 1)
