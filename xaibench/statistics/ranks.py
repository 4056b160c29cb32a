"""Ranks of methods: how stable they are over patients, and over many datasets, Friedman's and Nemenyi's tests.

Demsar, Statistical comparisons of classifiers over multiple data sets, JMLR 7:1-30, 2006. Its critical difference needs
some ten datasets; classes of one dataset are too few, and their patients overlap: take `rank_stability` there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy.stats import f as f_distribution
from scipy.stats import friedmanchisquare, rankdata, studentized_range

from xaibench.errors import UsageError
from xaibench.statistics.bootstrap import Array, Resampling, check_confidence
from xaibench.statistics.chance import Direction
from xaibench.statistics.paired import TIE, Pairs


@dataclass(frozen=True)
class RankStability:
    """Ranks of K methods by their mean score, and how they move when the patients are drawn anew.

    Args:
        methods: names, best first.
        ranks: 1 the best; ties share their mean rank.
        low, high: limits of each rank, percentiles of the resamples; 1 and K with fewer than two patients.
        first: share of resamples in which the method is the best, ties shared; NaN with fewer than two patients.
        shares: (K, K) share of resamples in which the method (row) has each rank, ties shared; rows add up to 1.
        resamples: those that went in: a resample without a pair of some class is dropped.
        above: (K, K) share of resamples in which the method (row) is better than each (column), ties half; NaN in the
            diagonal.
        unranked: methods without any score.
        n, patients: pairs that went in, with a score of every ranked method, and the patients they come from.
    """

    methods: tuple[str, ...]
    ranks: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    first: tuple[float, ...]
    shares: tuple[tuple[float, ...], ...]
    resamples: int
    above: tuple[tuple[float, ...], ...] = ()
    unranked: tuple[str, ...] = ()
    n: int = 0
    patients: int = 0


def rank_stability(
    scores: Mapping[str, npt.ArrayLike],
    clusters: Sequence[str],
    classes: Sequence[str] | None = None,
    *,
    direction: Direction = "higher",
    resamples: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
    resampling: Resampling | None = None,
) -> RankStability:
    """Rank methods by their mean score, in the study and in each bootstrap resample of its patients.

    Goldstein and Spiegelhalter (JRSS A 159:385, 1996), with the patient as the unit. Where two methods are truly equal
    the percentiles of a rank don't cover as they should (Hall and Miller, Annals of Statistics 37:3929, 2009): the
    shares describe the study; for a decision between two methods take `paired_comparisons`.

    Args:
        scores: for each method (n,) scores of the same n (image, class) pairs; a pair with a NaN in one of the ranked
            methods is left out of all.
        clusters: n patient names.
        classes: n class names: by the macro mean; None: by the plain mean.
        direction: the metric's.
        resampling: a draw over `clusters` to share between calls, instead of `resamples` and `seed`.

    Raises:
        UsageError: fewer than two methods with a score, lengths that do not fit, a bad option.

    >>> found = rank_stability({"random": [0.1, 0.3, 0.2], "cam": [0.9, 0.8, 0.1]}, ["p", "q", "r"])
    >>> found.methods, found.ranks, found.low, found.high
    (('cam', 'random'), (1.0, 2.0), (1.0, 1.0), (2.0, 2.0))
    """
    _check_direction(direction)
    check_confidence(confidence)
    pairs = Pairs(clusters, classes)
    columns = {name: pairs.column(values, f"scores of {name}") for name, values in scores.items()}
    names = [name for name, column in columns.items() if np.isfinite(column).any()]
    if len(names) < 2:
        raise UsageError(f"a ranking needs two methods with a score, got {', '.join(names) or 'none'}")
    drawn = resampling or Resampling(clusters, resamples=resamples, seed=seed)
    if len(drawn.index) != len(pairs):
        raise UsageError(f"a draw of {len(drawn.index)} images does not fit {len(pairs)} pairs")
    table = np.stack([columns[name] for name in names], axis=1)
    there: npt.NDArray[np.bool_] = np.asarray(np.isfinite(table).all(1))
    means = _macro_means(pairs, np.where(there[:, None], table, 0.0), there, drawn)
    if direction == "higher":
        means = -means
    means, draws = means[0], means[1:]
    draws = draws[np.isfinite(draws).all(1)]
    patients = drawn.patients(there)
    if patients < 2:
        draws = draws[:0]
    best, worst = _tied_ranks(means[None])
    middle = (best + worst)[0] / 2 if there.any() else means  # NaN
    order = np.argsort(middle, kind="stable")
    limits, shares, above = _shares(draws[:, order], confidence)
    unranked = tuple(name for name in columns if name not in names)
    return RankStability(
        methods=tuple(names[i] for i in order),
        ranks=tuple(middle[order].tolist()),
        low=tuple(limits[0].tolist()),
        high=tuple(limits[1].tolist()),
        first=tuple(shares[:, 0].tolist()),
        shares=tuple(map(tuple, shares.tolist())),
        resamples=len(draws),
        above=tuple(map(tuple, above.tolist())),
        unranked=unranked,
        n=int(there.sum()),
        patients=patients,
    )


def _macro_means(pairs: Pairs, table: Array, there: npt.NDArray[np.bool_], drawn: Resampling) -> Array:
    """Return (1 + R, K): the methods' means over the classes' means, of the study and of each resample.

    NaN in a resample that lacks a class.
    """
    member = pairs.member * there[:, None]
    used = member.any(0)
    if not used.any():
        return np.full((1, table.shape[1]), np.nan)
    member = member[:, used]
    classes, k = member.shape[1], table.shape[1]
    parts = (member[:, :, None] * table[:, None, :]).reshape(len(table), classes * k)
    both = np.concatenate([parts, member], axis=1)
    sums = np.concatenate([both.sum(0, keepdims=True), drawn.sums(both)])
    with np.errstate(invalid="ignore"):
        means: Array = (sums[:, : classes * k].reshape(-1, classes, k) / sums[:, classes * k :, None]).mean(1)
    return means


def _tied_ranks(values: Array) -> tuple[Array, Array]:
    """Return the best and the worst rank (r, K) of each of (r, K) values among its row, the least value first.

    They differ where values are equal up to rounding.
    """
    order = np.argsort(values, axis=1, kind="stable")
    ordered = np.take_along_axis(values, order, 1)
    apart = np.diff(ordered, axis=1) > TIE * np.maximum(1e-300, np.abs(ordered).max(1, keepdims=True))
    group = np.concatenate([np.zeros((len(values), 1), dtype=np.int64), apart.cumsum(1)], axis=1)
    found = []
    for method in ("min", "max"):
        ranks = np.empty(values.shape)
        np.put_along_axis(ranks, order, rankdata(group, method=method, axis=1).astype(np.float64), 1)
        found.append(ranks)
    return found[0], found[1]


def _shares(draws: Array, confidence: float) -> tuple[Array, Array, Array]:
    """Return limits (2, K) of the ranks, shares (K, K) of each rank, and of being above each other, over resamples."""
    k = draws.shape[1]
    if not len(draws):
        return np.array([[1.0] * k, [float(k)] * k]), np.full((k, k), np.nan), np.full((k, k), np.nan)
    best, worst = _tied_ranks(draws)
    tails = np.array([(1 - confidence) / 2, (1 + confidence) / 2])
    limits = np.quantile((best + worst) / 2, tails, axis=0, method="inverted_cdf")
    places = np.arange(1, k + 1)
    inside = (best[:, :, None] <= places) & (places <= worst[:, :, None])
    shares: Array = (inside / (worst - best + 1)[:, :, None]).mean(0)
    higher = best[:, :, None] < best[:, None, :]
    above: Array = (higher + (best[:, :, None] == best[:, None, :]) / 2).mean(0)
    np.fill_diagonal(above, np.nan)
    return limits, shares, above


@dataclass(frozen=True)
class Ranking:
    """Methods ordered by their average rank; what a critical-difference diagram draws.

    Args:
        methods: names, best first.
        ranks: their average ranks, 1 the best possible; ties share their mean rank.
        critical_difference: average ranks that differ by less are not significantly different (Nemenyi); NaN without
            a case.
        groups: the largest sets of methods whose ranks lie within the critical difference, best first; a method that
            differs from all others is in none.
        cases: classes or datasets ranked.
        left_out: cases left out because a method has no score there.
        chi_squared, p: Friedman's test that all methods rank alike, corrected for ties; NaN with fewer than three
            methods or without a case.
        f, p_f: its less conservative form (Iman and Davenport 1980), F with (k - 1, (k - 1)(cases - 1)) degrees of
            freedom; infinite and 0 where all cases agree, NaN with one case.
    """

    methods: tuple[str, ...]
    ranks: tuple[float, ...]
    critical_difference: float
    groups: tuple[tuple[str, ...], ...]
    cases: int
    left_out: int
    chi_squared: float
    p: float
    f: float
    p_f: float


def rank_methods(
    scores: Mapping[str, npt.ArrayLike], *, direction: Direction = "higher", alpha: float = 0.05
) -> Ranking:
    """Rank methods over cases, a class of a dataset each.

    Args:
        scores: for each method (n,) scores on the same n cases; a case with a NaN is left out of all.
        direction: the metric's.
        alpha: level of the critical difference.

    Raises:
        UsageError: fewer than two methods, lengths that differ, a bad option.

    >>> ranking = rank_methods({"cam": [0.9, 0.8], "random": [0.1, 0.3]})
    >>> ranking.methods, ranking.ranks, round(ranking.critical_difference, 3)
    (('cam', 'random'), (1.0, 2.0), 1.386)
    """
    _check_direction(direction)
    columns = [np.asarray(values, dtype=np.float64) for values in scores.values()]
    if len(columns) < 2 or len({column.shape for column in columns}) > 1 or columns[0].ndim != 1:
        raise UsageError(f"a ranking needs two methods with scores of one length, got {[c.shape for c in columns]}")
    table = np.stack(columns, axis=1)
    kept = table[~np.isnan(table).any(1)]
    n, k = kept.shape
    means = rankdata(-kept if direction == "higher" else kept, axis=1).mean(0) if n else np.full(k, np.nan)
    order = np.argsort(means, kind="stable")
    names = [list(scores)[i] for i in order]
    difference = critical_difference(k, n, alpha=alpha)
    return Ranking(
        tuple(names),
        tuple(means[order].tolist()),
        difference,
        _groups(names, means[order], difference),
        n,
        len(table) - n,
        *_friedman(kept),
    )


def critical_difference(methods: int, cases: int, *, alpha: float = 0.05) -> float:
    """Return Nemenyi's critical difference of average ranks, q sqrt(k (k + 1) / (6 n)); NaN without a case.

    q is the studentized range's upper `alpha` point for k methods and infinite degrees of freedom, over sqrt 2.

    >>> round(critical_difference(4, 14), 2)  # Demsar's example
    1.25
    """
    if methods < 2 or not 0 < alpha < 1:
        raise UsageError(f"a critical difference needs 2 methods and 0 < alpha < 1, got {methods} and {alpha}")
    return _q(methods, alpha) * math.sqrt(methods * (methods + 1) / (6 * cases)) if cases else math.nan


def _check_direction(direction: str) -> None:
    if direction not in ("higher", "lower"):
        raise UsageError(f'direction {direction!r}: use "higher" or "lower"')


@lru_cache(maxsize=64)
def _q(methods: int, alpha: float) -> float:
    return float(studentized_range.isf(alpha, methods, np.inf)) / math.sqrt(2)


def _groups(names: Sequence[str], ranks: Array, difference: float) -> tuple[tuple[str, ...], ...]:
    """Return maximal runs of at least two sorted `ranks` that span less than the critical difference."""
    groups, reached = [], 0
    for start in range(len(ranks)):
        end = int(np.searchsorted(ranks, ranks[start] + difference, side="left"))
        if end - start > 1 and end > reached:
            groups.append(tuple(names[start:end]))
            reached = end
    return tuple(groups)


def _friedman(table: Array) -> tuple[float, float, float, float]:
    n, k = table.shape
    if k < 3 or n == 0:
        return (math.nan,) * 4
    if (table == table[:, :1]).all():  # all tied everywhere: SciPy divides 0 by 0
        return 0.0, 1.0, 0.0, 1.0
    statistic, p = (float(value) for value in friedmanchisquare(*table.T))
    if n == 1:
        return statistic, p, math.nan, math.nan
    room = n * (k - 1) - statistic
    f = (n - 1) * statistic / room if room > 1e-9 * n else math.inf
    return statistic, p, f, float(f_distribution.sf(f, k - 1, (k - 1) * (n - 1)))
