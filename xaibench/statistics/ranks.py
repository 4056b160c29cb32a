"""Ranks of methods over classes and datasets: Friedman's test and Nemenyi's critical difference (Demsar 2006).

Demsar, Statistical comparisons of classifiers over multiple data sets, JMLR 7:1-30.
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
from xaibench.statistics.bootstrap import Array
from xaibench.statistics.chance import Direction


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
    if direction not in ("higher", "lower"):
        raise UsageError(f'direction {direction!r}: use "higher" or "lower"')
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
