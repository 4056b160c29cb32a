"""Interval rules that need no resamples: the effective sample size, in a score interval.

A proportion's score interval knows its range and how its variance shrinks towards the ends of it, which a bootstrap of
few patients doesn't. Put into it as the sample size is what a binomial proportion would need to vary as the estimate
does, n = p (1 - p) / variance (Korn and Graubard, Survey Methodology 24:193, 1998), with the patient as the unit. For
means it is Agresti and Coull's (American Statistician 52:119, 1998), which Dean and Pagano (Journal of Survey
Statistics and Methodology 3:484, 2015) found good in clusters; for ROC-AUCs Wilson's. docs/statistics.md has coverage.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit

Array = npt.NDArray[np.float64]

KURTOSIS = 2.5
"""Excess kurtosis of patients' scores that the degrees of freedom allow for: 0 is normal, 6 exponential. With less, few
patients of very skewed scores are covered too seldom; with more, many patients of others too often."""


def t_quantile(freedom: float, patients: int, confidence: float) -> float:
    """Return the quantile of Student's t that goes with a variance estimated from so many patients.

    Degrees of freedom of a sample variance under excess kurtosis (O'Neill, American Statistician 68:282, 2014): skewed
    scores make it as uncertain as fewer normal ones.

    Args:
        freedom: degrees of freedom were the scores normal, above 0.
        patients: that bear on the estimate.

    >>> round(t_quantile(199, 200, 0.95), 3), round(t_quantile(5, 6, 0.95), 3)  # 1.972 and 2.571 if normal
    (1.987, 3.629)
    """
    return float(stdtrit(1 / (1 / freedom + KURTOSIS / (2 * patients)), (1 + confidence) / 2))


def mean_limits(value: float, variance: float, quantile: float, bounds: tuple[float, float]) -> tuple[float, float]:
    """Return the limits of a mean of scores in a range.

    Two finite ends: Agresti and Coull's with the effective sample size. One: its limit for a far other end, in which
    the variance grows as the distance from the end. None, or a value outside its range: a t interval.

    Args:
        value: the estimate; its variance is above 0.
        quantile: of `t_quantile`.
        bounds: the range.

    >>> [round(end, 3) for end in mean_limits(0.5, 0.25 / 20, 1.96, (0.0, 1.0))]  # 10 hits of 20
    [0.299, 0.701]
    """
    low, high = bounds
    if not low < value < high or (not math.isfinite(low) and not math.isfinite(high)):
        half = quantile * math.sqrt(variance)
        return value - half, value + half
    if not math.isfinite(low):
        near, far = mean_limits(-value, variance, quantile, (-high, math.inf))
        return -far, -near
    if not math.isfinite(high):
        pseudo = quantile**2 * variance / (value - low)
        centre = value - low + pseudo / 2
        half = math.sqrt(pseudo * centre)
        return max(low, low + centre - half), low + centre + half
    width = high - low
    share = (value - low) / width
    pseudo = quantile**2 * variance / width**2 / (share * (1 - share))  # quantile^2 over the effective sample size
    centre = (share + pseudo / 2) / (1 + pseudo)
    half = math.sqrt(pseudo * centre * (1 - centre) / (1 + pseudo))
    return low + width * max(0.0, centre - half), low + width * min(1.0, centre + half)


def auc_limits(
    area: float, variance: float, positives: int, negatives: int, patients: int, confidence: float
) -> tuple[float, float, float]:
    """Return the limits of a ROC-AUC, Wilson's with the effective sample size, and the placements' share of variance.

    The variance is the mean of what the placements say (DeLong; Obuchowski for patients with several images), weighted
    with the patients of the smaller class that are expected to be misranked, min(A, 1 - A) times their number, and what
    Hanley and McNeil's model (Radiology 143:29, 1982) says, with weight 1: near an area of 1 placements hardly vary,
    and say nothing. The model leans to one class; the larger of its two variances is taken. One more misranked pair
    raises neither limit.

    Args:
        area: A, in [0, 1].
        variance: of the placements; 0 where they don't vary.
        positives, negatives: patients in each class, at least 2.
        patients: in all.

    >>> [round(end, 3) for end in auc_limits(1.0, 0.0, 30, 30, 60, 0.95)]  # classes apart
    [0.935, 1.0, 0.0]
    """
    few, many = sorted((positives, negatives))
    slopes = sorted(((1 - area) / (2 - area), area / (1 + area)))
    model = (1 + (few - 1) * slopes[0] + (many - 1) * slopes[1]) / (few * many)
    spread = area * (1 - area)
    weight = min(area, 1 - area) * few if variance > 0 else 0.0
    placed = weight * variance / spread if weight else 0.0
    inverse = (placed + model) / (weight + 1)
    pseudo = float(stdtrit(max(patients - 2, 1), (1 + confidence) / 2)) ** 2 * inverse
    centre, half = area + pseudo / 2, math.sqrt(pseudo * spread + pseudo**2 / 4)
    low = 0.0 if area == 0 else max(0.0, (centre - half) / (1 + pseudo))  # exact at the ends, whatever the rounding
    high = 1.0 if area == 1 else min(1.0, (centre + half) / (1 + pseudo))
    return low, high, placed / (placed + model)


def mean_of_limits(values: Array, ends: Array, adds: Array, known: Array | None = None) -> tuple[float, float]:
    """Return the limits of the mean of several estimates from their own: the method of variance estimates recovery.

    Zou and Donner (Statistics in Medicine 27:1693, 2008): each distance from an estimate to its limit stands for its
    standard error there, so that the limits may lie unevenly. Estimates that don't vary count as independent, and so
    does the part of a variance that the data don't say.

    Args:
        values: (K,) estimates.
        ends: (K, 2) their limits.
        adds: (C, K) what each patient adds, signed, to each estimate; for their correlation.
        known: (K,) shares of the variances that `adds` tells of; None: all of them.

    >>> mean_of_limits(np.array([0.5, 0.7]), np.array([[0.2, 0.8], [0.3, 0.9]]), np.eye(2))  # (0.3^2 + 0.4^2)^0.5 / 2
    (0.35, 0.7802775637731995)
    """
    error = np.sqrt((adds**2).sum(0))
    with np.errstate(invalid="ignore", divide="ignore"):
        related = np.nan_to_num((adds.T @ adds) / np.outer(error, error))
    if known is not None:
        related = related * np.sqrt(np.outer(known, known))
    np.fill_diagonal(related, 1.0)
    below, above = values - ends[:, 0], ends[:, 1] - values
    half = [math.sqrt(max(0.0, float(side @ related @ side))) / len(values) for side in (below, above)]
    mean = float(values.mean())
    return mean - half[0], mean + half[1]


@dataclass(frozen=True)
class Counts:
    """How many of its images each patient has in each column, (C, K), and what follows from it alone.

    A column is a class. The mean of a column is a regression on a constant; its variance is the cluster-robust one
    that small samples don't bias (CR2), its degrees of freedom are Satterthwaite's for images that are independent
    (Bell and McCaffrey, Survey Methodology 28:169, 2002; Imbens and Kolesar, Review of Economics and Statistics
    98:701, 2016).
    """

    counts: Array

    def shares(self) -> Array:
        """Return (C, K): a patient's share of the images of each column; NaN in a column without any."""
        with np.errstate(invalid="ignore"):
            found: Array = self.counts / self.counts.sum(0)
        return found

    def scale(self) -> Array:
        """Return (C, K): by how much a patient's share of a mean's residuals is enlarged; infinite for its only one."""
        with np.errstate(divide="ignore", invalid="ignore"):
            found: Array = 1 / np.sqrt(1 - self.shares())
        return found

    def freedom(self) -> float:
        """Return the degrees of freedom of the variance of the mean of the columns' means."""
        total, columns = self.counts.sum(0), self.counts.shape[1]
        weight = self.scale() / (columns * total)
        own = (self.counts * weight**2).sum(1)  # variances of the patients' sums, but for the fitted means
        shared = self.counts * weight / np.sqrt(total)
        trace = own.sum() - (shared**2).sum()
        square = (own**2).sum() - 2 * (own @ (shared**2).sum(1)) + ((shared.T @ shared) ** 2).sum()
        return float(trace**2 / square)


def mean_variance(sums: Array, counts: Array) -> Array:
    """Return (C, K): what each patient adds, signed, to the column means, scaled so that squares sum to the variance.

    Args:
        sums: (C, K) sums of the scores of each patient.
        counts: (C, K) how many those are.

    >>> adds = mean_variance(np.array([[1.0], [2.0], [6.0]]), np.ones((3, 1)))  # variance 7 over 3 patients
    >>> round(float((adds**2).sum()), 6) == round(7 / 3, 6)
    True
    """
    held = Counts(counts)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = sums.sum(0) / counts.sum(0)
        found: Array = (sums - means * counts) / counts.sum(0) * held.scale()
    return found
