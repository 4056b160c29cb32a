"""How stable the ranks of methods are over the patients.

The field's critical differences (Demsar, JMLR 7:1-30, 2006) need some ten datasets: the classes of one are too few, and
their patients overlap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

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


def _check_direction(direction: str) -> None:
    if direction not in ("higher", "lower"):
        raise UsageError(f'direction {direction!r}: use "higher" or "lower"')
