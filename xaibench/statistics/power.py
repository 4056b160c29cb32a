"""What a study of this size can see: smallest detectable differences, with the patient as the unit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri
from scipy.stats import chi2
from scipy.stats import t as t_distribution

from xaibench.errors import UsageError
from xaibench.statistics.bootstrap import Array
from xaibench.statistics.paired import Pairs

FLAT = 1e-12
"""Differences whose standard error is below this share of their size don't vary."""
NODES = 400
"""Of the quadrature over the estimated error: a power to 1e-7, or 1e-3 with two patients at an alpha of 1e-3."""


@dataclass(frozen=True)
class Detectable:
    """The smallest difference that a two-sided test at `alpha` finds with probability `power`.

    Args:
        difference: NaN where the study can't say: a class with fewer than two patients, no spread, or none up to the
            end of the range.
        n, patients: (image, class) pairs and the patients they come from.
        design_effect: variance of the mean over what as many independent pairs would have (Kish 1965).
        alpha, power: as asked.
        comparisons: tests that Holm's correction runs over; each is made at `alpha` over their number, as its first is.
    """

    difference: float
    n: int
    patients: int
    design_effect: float
    alpha: float
    power: float
    comparisons: int = 1

    @property
    def sentence(self) -> str:
        """The result in words, for a report."""
        seen = "is unknown" if math.isnan(self.difference) else f"is {self.difference:.3g}"
        pairs, patients = (f"{n} {word}{'s' * (n != 1)}" for n, word in ((self.n, "pair"), (self.patients, "patient")))
        holm = f", Holm over {self.comparisons} comparisons" if self.comparisons > 1 else ""
        return (
            f"With {pairs} of {patients} the smallest difference that can be seen {seen} "
            f"(power {self.power:.0%}, two-sided alpha {self.alpha:g}{holm})."
        )


def detectable_difference(
    differences: npt.ArrayLike,
    clusters: Sequence[str],
    classes: Sequence[str] | None = None,
    *,
    alpha: float = 0.05,
    power: float = 0.8,
    comparisons: int = 1,
    limit: float = math.inf,
) -> Detectable:
    """Return the smallest mean paired difference that a study with these patients can see.

    From the spread of the observed differences, not from their mean: the standard error of the mean from the patients'
    sums (Liang and Zeger 1986), and the non-central t with one degree of freedom fewer than patients (Cohen 1988).

    Args:
        differences: (n,) first minus second; NaN pairs are left out.
        clusters: n patient names.
        classes: n class names: of the difference of macro means; None: of plain means.
        comparisons: tests that Holm's correction runs over: whatever the others give, a p-value of at most `alpha` over
            their number is significant.
        limit: the largest difference there can be, the width of the metric's range; a larger one can't be seen.

    Raises:
        UsageError: lengths that do not fit, an infinite difference, a bad option.

    >>> found = detectable_difference([0.1, 0.3, -0.2, 0.4, 0.0, 0.2], list("abcdef"))
    >>> found.sentence
    'With 6 pairs of 6 patients the smallest difference that can be seen is 0.31 (power 80%, two-sided alpha 0.05).'
    """
    _check(alpha, power)
    if comparisons < 1:
        raise UsageError(f"power analysis needs comparisons >= 1, got {comparisons}")
    pairs = Pairs(clusters, classes)
    column = pairs.column(differences)
    residuals, patient = _residuals(pairs, column)
    patients = len(np.unique(patient))
    error, effect = _standard_error(residuals, patient), _design_effect(residuals, patient)
    seen = math.nan
    if patients > 1 and not _lone(pairs, column) and error > FLAT * np.nanmax(np.abs(column)):
        seen = error * _noncentrality(patients - 1, alpha / comparisons, power)
    return Detectable(seen if seen <= limit else math.nan, len(residuals), patients, effect, alpha, power, comparisons)


def detectable_rate(
    n: int,
    rate: float,
    *,
    patients: int | None = None,
    design_effect: float = 1.0,
    alpha: float = 0.05,
    power: float = 0.8,
) -> Detectable:
    """Return how far above `rate` (chance, a baseline's known hit rate) a rate must lie to be seen in n pairs.

    The score test of one proportion in the normal approximation (Fleiss, Levin and Paik 2003), with n over the
    design effect as the sample size; NaN where not even a rate of 1 would be seen.

    Args:
        n: pairs, at least 1.
        rate: between 0 and 1, exclusive.
        patients: for the record; None: n.
        design_effect: of the hits, see `design_effect`; above 0.

    >>> round(detectable_rate(85, 0.5).difference, 2)  # 85 for 0.5 against 0.65 is in the textbooks
    0.15
    """
    _check(alpha, power)
    if n < 1 or not 0 < rate < 1 or not design_effect > 0:
        raise UsageError(f"a rate needs n >= 1, 0 < rate < 1, design_effect > 0, got {n}, {rate}, {design_effect}")
    level, sought = ndtri(1 - alpha / 2), ndtri(power)
    size = math.sqrt(n / design_effect)

    def surplus(other: float) -> float:
        error = level * math.sqrt(rate * (1 - rate)) + sought * math.sqrt(other * (1 - other))
        return float((other - rate) * size - error)

    seen = math.nan if surplus(1.0) < 0 else float(brentq(surplus, rate, 1.0)) - rate
    return Detectable(seen, n, n if patients is None else patients, design_effect, alpha, power)


def design_effect(values: npt.ArrayLike, clusters: Sequence[str], classes: Sequence[str] | None = None) -> float:
    """Return the variance of a mean over what as many independent pairs would have; 1 with one pair a patient.

    NaN with fewer than two patients or without spread.

    >>> design_effect([0, 0, 0, 1, 1, 1, 0, 0, 0, 1, 1, 1], list("aaabbbcccddd"))  # a patient's three are the same
    3.6666666666666665
    """
    pairs = Pairs(clusters, classes)
    return _design_effect(*_residuals(pairs, pairs.column(values, "values")))


def _residuals(pairs: Pairs, column: Array) -> tuple[Array, npt.NDArray[np.intp]]:
    """Return each defined pair's share of the mean of (n,) values less its class mean, and its patient."""
    there = np.isfinite(column)
    filled = np.where(there, column, 0.0)
    size = pairs.member.T @ there
    means = pairs.member.T @ filled / np.maximum(size, 1)
    residuals = pairs.shares(column[:, None])[:, 0] * (filled - means[pairs.target])
    return residuals[there], pairs.patient[there]


def _lone(pairs: Pairs, column: Array) -> bool:
    """Return whether a class has one patient alone: how its mean varies is then unknown, not 0."""
    there = np.isfinite(column)
    patients = [len(np.unique(pairs.patient[there & (pairs.target == k)])) for k in range(pairs.member.shape[1])]
    return 1 in patients


def _standard_error(residuals: Array, patient: npt.NDArray[np.intp]) -> float:
    patients = len(np.unique(patient))
    if patients < 2:
        return math.nan
    return math.sqrt(patients / (patients - 1) * float((np.bincount(patient, residuals) ** 2).sum()))


def _design_effect(residuals: Array, patient: npt.NDArray[np.intp]) -> float:
    error, alone = _standard_error(residuals, patient), _standard_error(residuals, np.arange(len(residuals)))
    return error**2 / alone**2 if alone > 0 else math.nan


@lru_cache(maxsize=256)
def _noncentrality(freedom: int, alpha: float, power: float) -> float:
    """Return the mean, in standard errors, that a two-sided t test finds with probability `power`."""
    limit = float(t_distribution.isf(alpha / 2, freedom))
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    # SciPy's noncentral t is NaN far out in its tails: the normal distribution, averaged over the estimated error
    error = limit * np.sqrt(chi2.ppf((nodes + 1) / 2, freedom) / freedom)

    def surplus(mean: float) -> float:
        return float(weights @ (ndtr(mean - error) + ndtr(-mean - error)) / 2) - power

    high = 1.0
    while surplus(high) < 0:
        high *= 2
    return float(brentq(surplus, 0.0, high))


def _check(alpha: float, power: float) -> None:
    if not 0 < alpha < 1 or not alpha < power < 1:
        raise UsageError(f"power analysis needs 0 < alpha < power < 1, got alpha {alpha} and power {power}")
