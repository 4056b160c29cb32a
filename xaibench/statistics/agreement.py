"""Agreement: between raters, and between raters and a rule that reads the map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.metrics import cohen_kappa_score

from xaibench.errors import UsageError
from xaibench.statistics.bootstrap import Array, Interval, Resampling, mean_interval, statistic_intervals

Bools = npt.NDArray[np.bool_]

SHARES = (0.0, 0.05, 0.1, 0.25, 0.5, 0.75)
"""Shares of the box that a rule may ask for: more than none of it, more than a twentieth, ..."""


@dataclass(frozen=True)
class Agreement:
    """How far two raters agree on the same N items.

    Args:
        kappa: Cohen's kappa; NaN where both gave one and the same answer throughout.
        interval: of kappa, by a bootstrap of the patients.
        same: share of items with equal ratings.
        n: items that both rated.
        patients: patients among them.
    """

    kappa: float
    interval: Interval
    same: float
    n: int
    patients: int


@dataclass(frozen=True)
class Rule:
    """Call it a hit where more than `share` of the box exceeds `threshold` times the map's largest value.

    Args:
        threshold, share: fitted on half of the patients.
        fitted_same: agreement with the ratings there.
        fitted_n: ratings there.
        same: agreement on the other half, with its interval.
        constant: the constant answer that agrees better on the first half.
        constant_same: its agreement on the other half, with its interval.
        gain: `same` - `constant_same`, with its interval.
        n, patients: ratings and patients of the other half.
    """

    threshold: float
    share: float
    fitted_same: float
    fitted_n: int
    same: float
    interval: Interval
    constant: bool
    constant_same: float
    constant_interval: Interval
    gain: float
    gain_interval: Interval
    n: int
    patients: int


def rater_agreement(
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    patients: Sequence[str],
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Agreement:
    """Return Cohen's kappa (Cohen 1960) of two raters' answers, with an interval that resamples patients.

    Args:
        first, second: (N,) bool, hit or miss.
        patients: N patient names.

    Raises:
        UsageError: different lengths, or no item.

    >>> answers = [True, True, False, False]
    >>> rater_agreement(answers, [True, False, False, False], ["a", "b", "c", "d"]).kappa
    0.5
    """
    a, b = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    if a.ndim != 1 or a.shape != b.shape or len(a) != len(patients) or len(a) == 0:
        raise UsageError(f"ratings {a.shape} and {b.shape} need one for each of {len(patients)} items, at least one")
    resampling = Resampling(patients, resamples=resamples, seed=seed)

    def kappas(weights: Array) -> Array:
        return weighted_kappa(a, b, weights)[:, None]

    interval = statistic_intervals(
        kappas, resampling, patients=[resampling.n_clusters], confidence=confidence, bounds=(-1.0, 1.0)
    ).columns[0]
    one_answer = bool((a == a[0]).all() and (b == a[0]).all())  # scikit-learn warns, and gives NaN
    kappa = float("nan") if one_answer else float(cohen_kappa_score(a, b))
    return Agreement(kappa, interval, float((a == b).mean()), len(a), resampling.n_clusters)


def weighted_kappa(first: Bools, second: Bools, weights: Array) -> Array:
    """Return (r,): Cohen's kappa of two raters' answers (N,) for each row of weights (r, N); NaN for 0/0.

    >>> answers = np.array([True, True, False, False])
    >>> weighted_kappa(answers, np.array([True, False, False, False]), np.ones((1, 4))).tolist()
    [0.5]
    """
    total = weights.sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        same = weights @ (first == second) / total
        yes_first, yes_second = weights @ first / total, weights @ second / total
        expected = yes_first * yes_second + (1 - yes_first) * (1 - yes_second)
        kappa: Array = np.where(1 - expected > 1e-12, (same - expected) / (1 - expected), np.nan)
    return kappa


def fit_rule(
    ratings: npt.ArrayLike,
    visible: npt.ArrayLike,
    thresholds: Sequence[float],
    patients: Sequence[str],
    *,
    shares: Sequence[float] = SHARES,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Rule:
    """Fit the rule that agrees best with ratings on half of the patients, and see how it agrees on the other half.

    Among rules that agree equally well the one with the smallest share is taken, and of its thresholds the middle one.

    Args:
        ratings: (N,) bool, hit or miss.
        visible: (N, T) in [0, 1]: share of the box above each threshold (metric ``visible_in_box``).
        thresholds: T values.
        patients: N patient names; which half a patient is in depends on `seed` and the set of names only.

    Raises:
        UsageError: wrong shapes, values that are not finite, or ratings of fewer than two patients.
    """
    answers, curve = np.asarray(ratings, dtype=bool), np.asarray(visible, dtype=np.float64)
    if answers.ndim != 1 or curve.shape != (len(answers), len(thresholds)) or len(patients) != len(answers):
        raise UsageError(
            f"ratings {answers.shape}, curves {curve.shape}, {len(thresholds)} thresholds, {len(patients)} patients: "
            "need (N,), (N, T), T and N"
        )
    if not np.isfinite(curve).all():
        raise UsageError("curves hold values that are not finite: leave those ratings out")
    fitting = first_half(patients, seed)
    if fitting.all() or not fitting.any():
        raise UsageError("a threshold is fitted on half of the patients: it needs ratings of at least two")
    hits = curve[:, :, None] > np.asarray(shares)  # (N, T, S)
    same = (hits == answers[:, None, None])[fitting].mean(0)
    column = int(np.argmax(same.max(0)))  # the first, so the smallest share
    best = np.flatnonzero(same[:, column] == same[:, column].max())
    row = int(best[(len(best) - 1) // 2])
    rest = ~fitting
    constant = bool(answers[fitting].mean() >= 0.5)
    names = [patient for patient, there in zip(patients, rest, strict=True) if there]
    options = {"confidence": confidence, "resamples": resamples, "seed": seed}
    right = (hits[rest, row, column] == answers[rest]).astype(np.float64)
    always = (answers[rest] == constant).astype(np.float64)
    return Rule(
        threshold=float(thresholds[row]),
        share=float(shares[column]),
        fitted_same=float(same[row, column]),
        fitted_n=int(fitting.sum()),
        same=float(right.mean()),
        interval=mean_interval(right, names, **options),
        constant=constant,
        constant_same=float(always.mean()),
        constant_interval=mean_interval(always, names, **options),
        gain=float((right - always).mean()),
        gain_interval=mean_interval(right - always, names, bounds=(-1.0, 1.0), **options),
        n=int(rest.sum()),
        patients=len(set(names)),
    )


def first_half(patients: Sequence[str], seed: int = 0) -> Bools:
    """Return (N,) bool: whether each row's patient is in the first half, half of the patients drawn by a seed.

    >>> first_half(["b", "a", "b", "c"]).tolist() == first_half(["a", "c", "b", "b"])[[2, 0, 3, 1]].tolist()
    True
    """
    names = sorted(set(patients))
    drawn = np.random.default_rng(seed).permutation(len(names))[: (len(names) + 1) // 2]
    chosen = {names[index] for index in drawn}
    return np.array([patient in chosen for patient in patients], dtype=bool)
