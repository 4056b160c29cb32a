"""Training seeds and patients as two levels of an interval: the same patients, each scored under several trainings."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.special import stdtrit

from xaibench.errors import UsageError
from xaibench.statistics.bootstrap import FLAT, Array, Interval, check_confidence, interval_without_spread
from xaibench.statistics.paired import Pairs
from xaibench.statistics.score import KURTOSIS, Counts, mean_limits, mean_variance

FEW_SEEDS = 5
"""From so many on Satterthwaite's degrees of freedom cover: benchmarks/coverage.py."""
SMALLEST_P = 1e-12
"""Smaller p-values are given as this."""


@dataclass(frozen=True)
class TwoLevel:
    """A mean over training seeds and patients.

    Args:
        value: mean over the seeds of the (macro) mean over the pairs.
        by_seed: seed to its mean.
        interval: of the expectation over seeds and patients; method "two levels", or with one seed "patients only",
            which leaves training out.
        p: two-sided, that the expectation is 0: for differences. NaN without spread.
        seed_share: share of the variance that comes with the seeds; NaN with one.
        n, patients: pairs with a score under every seed, and their patients.
    """

    value: float
    by_seed: Mapping[str, float]
    interval: Interval
    p: float
    seed_share: float
    n: int
    patients: int


def two_level_interval(
    values: Mapping[str, npt.ArrayLike],
    clusters: Sequence[str],
    classes: Sequence[str] | None = None,
    *,
    bounds: tuple[float, float] = (0.0, 1.0),
    confidence: float = 0.95,
) -> TwoLevel:
    """Return the mean of scores over training seeds and patients, with an interval that knows that both were drawn.

    Seeds and patients are crossed: Var = between patients, of their means over the seeds, + between seeds, of their
    means over the patients. It is that of two-way clusters (Cameron, Gelbach and Miller, Journal of Business and
    Economic Statistics 29:238, 2011) without the term that they subtract, like Owen's pigeonhole bootstrap (Annals of
    Applied Statistics 1:386, 2007) somewhat too large, and never negative. Degrees of freedom after Satterthwaite. A
    few seeds may lie close together by chance, and then he trusts them too much: with fewer than `FEW_SEEDS` each level
    gets its own quantile of t (Zou and Donner, Statistics in Medicine 27:1693, 2008).

    Args:
        values: for each seed (n,) scores of the same n pairs; a pair with a NaN under one seed is left out of all.
        clusters: n patient names.
        classes: n class names: of macro means; None: of plain means.
        bounds: the metric's range.

    Raises:
        UsageError: no seed, lengths that do not fit, an infinite score, a bad option.

    >>> found = two_level_interval({"0": [0.2, 0.4, 0.9], "1": [0.3, 0.5, 0.7]}, ["p", "q", "r"])
    >>> f"{found.value:.2f}, {found.interval.low:.2f} to {found.interval.high:.2f}"
    '0.50, 0.02 to 0.98'
    """
    check_confidence(confidence)
    if not values:
        raise UsageError("an interval over seeds needs the scores of one seed at least")
    pairs = Pairs(clusters, classes)
    table = np.stack([pairs.column(scores, f"scores of seed {seed}") for seed, scores in values.items()], axis=1)
    there: npt.NDArray[np.bool_] = np.asarray(np.isfinite(table).all(1))
    means, adds, counts = _by_patient(pairs, table, there)
    patients = int((counts.sum(1) > 0).sum())
    by_seed = {str(seed): float(mean) for seed, mean in zip(values, means, strict=True)}
    value, seeds = float(means.mean()), len(means)
    between_seeds = float(means.var(ddof=1)) / seeds if seeds > 1 else 0.0
    lone = not counts.size or bool(((counts > 0).sum(0) < 2).any())
    between_patients = math.nan if lone else float((adds.mean(1) ** 2).sum())
    variance = between_patients + between_seeds
    share = between_seeds / variance if seeds > 1 and variance > 0 else math.nan
    if not math.isfinite(variance):
        return TwoLevel(value, by_seed, Interval(*bounds, "bounds"), math.nan, share, int(there.sum()), patients)
    width = bounds[1] - bounds[0]
    if math.sqrt(variance) <= FLAT * (width if math.isfinite(width) else max(1.0, abs(value))):
        interval = interval_without_spread(value, patients, confidence=confidence, bounds=bounds, method="score")
        return TwoLevel(value, by_seed, interval, math.nan, share, int(there.sum()), patients)
    inner = 1 / (1 / Counts(counts).freedom() + KURTOSIS / (2 * patients))
    freedom = variance**2 / (between_patients**2 / inner + between_seeds**2 / max(seeds - 1, 1))
    patients_only = between_patients / variance

    def quantile(level: float) -> float:
        """Return the two-sided quantile of the estimate over its standard error."""
        tail = (1 + level) / 2
        if not 1 < seeds < FEW_SEEDS:
            return float(stdtrit(freedom, tail))
        outer = stdtrit(seeds - 1, tail)
        return math.sqrt(patients_only * stdtrit(inner, tail) ** 2 + (1 - patients_only) * outer**2)

    limits = mean_limits(value, variance, quantile(confidence), bounds)
    p = _p_value(quantile, abs(value) / math.sqrt(variance))
    interval = Interval(*limits, "two levels" if seeds > 1 else "patients only")
    return TwoLevel(value, by_seed, interval, p, share, int(there.sum()), patients)


def _p_value(quantile: Callable[[float], float], statistic: float) -> float:
    """Return the p-value at which the interval's end is at 0, found to 1e-12."""
    if statistic == 0:
        return 1.0
    if quantile(1 - SMALLEST_P) <= statistic:
        return SMALLEST_P
    return 1 - float(brentq(lambda level: quantile(level) - statistic, 0.0, 1 - SMALLEST_P, xtol=1e-14))


def two_level_difference(
    first: Mapping[str, npt.ArrayLike],
    second: Mapping[str, npt.ArrayLike],
    clusters: Sequence[str],
    classes: Sequence[str] | None = None,
    *,
    bounds: tuple[float, float] = (0.0, 1.0),
    confidence: float = 0.95,
) -> TwoLevel:
    """Return the difference of two explainers' (or classifiers') mean scores, first minus second, seed by seed.

    Args:
        first, second: for each seed, the same ones, (n,) scores of the same n pairs.
        clusters, classes, bounds, confidence: as for `two_level_interval`.

    Raises:
        UsageError: other seeds, lengths that do not fit, a bad option.
    """
    if set(first) != set(second):
        raise UsageError(f"seeds {', '.join(first)} and {', '.join(second)} are not the same")
    pairs = Pairs(clusters, classes)
    differences = {seed: pairs.column(first[seed], "scores") - pairs.column(second[seed], "scores") for seed in first}
    width = bounds[1] - bounds[0]
    return two_level_interval(differences, clusters, classes, bounds=(-width, width), confidence=confidence)


def _by_patient(pairs: Pairs, table: Array, there: npt.NDArray[np.bool_]) -> tuple[Array, Array, Array]:
    """Return the (macro) mean of each seed (S,), what each patient adds to it (C, S), and their pairs by class (C, K).

    Classes without a pair are left out; the means are NaN where none is left.
    """
    member = pairs.member * there[:, None]
    member = member[:, member.any(0)]
    size, seeds = len(pairs.names), table.shape[1]
    if not member.size:
        return np.full(seeds, np.nan), np.zeros((size, seeds)), np.zeros((size, 0))
    counts = np.zeros((size, member.shape[1]))
    np.add.at(counts, pairs.patient, member)
    means, adds = np.zeros(seeds), np.zeros((size, seeds))
    for seed, column in enumerate(np.where(there[:, None], table, 0.0).T):
        sums = np.zeros_like(counts)
        np.add.at(sums, pairs.patient, member * column[:, None])
        means[seed] = (sums.sum(0) / counts.sum(0)).mean()
        adds[:, seed] = mean_variance(sums, counts).mean(1)
    return means, adds, counts
