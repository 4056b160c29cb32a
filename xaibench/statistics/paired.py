"""Paired tests of two explainers on the same (image, class) pairs, with the patient as the unit, and Holm's correction.

SciPy has the binomial test and a permutation test of single samples; neither knows patients, and it has no Holm.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest, chi2

from xaibench.errors import UsageError
from xaibench.statistics.bootstrap import Array

EXACT_PATIENTS = 20
"""Up to so many patients with a difference all signs are tried: half a million sums."""
TIE = 1e-12
"""Sums closer than this, of the sum of absolute differences, are equal."""
CHUNK_SIGNS = 2**22
"""Signs drawn at once (4 MB of int8)."""


@dataclass(frozen=True)
class PairedTest:
    """A two-sided test of first minus second.

    Args:
        statistic: what was tested: the mean difference (permutation), the pairs that only the first hits less those
            that only the second hits (McNemar), or chi-squared with one degree of freedom (Durkalski).
        p: NaN without any pair.
        method: "exact permutation", "permutation", "exact McNemar" or "Durkalski".
    """

    statistic: float
    p: float
    method: str


class Pairs:
    """The (image, class) pairs that scores belong to: which patient, which class.

    Args:
        clusters: n patient names, one a pair.
        classes: n class names: means are then means over classes (macro); None: one class.
    """

    def __init__(self, clusters: Sequence[str], classes: Sequence[str] | None = None) -> None:
        if classes is not None and len(classes) != len(clusters):
            raise UsageError(f"{len(clusters)} patient names and {len(classes)} class names do not fit")
        self.names, self.patient = np.unique(np.asarray([str(name) for name in clusters]), return_inverse=True)
        labels = np.zeros(len(clusters)) if classes is None else np.asarray([str(name) for name in classes])
        self.target = np.unique(labels, return_inverse=True)[1]
        self.member = np.eye(int(self.target.max(initial=-1)) + 1)[self.target]

    def __len__(self) -> int:
        return len(self.patient)

    def column(self, values: npt.ArrayLike, what: str = "differences") -> Array:
        """Return `values` as (n,) float64, NaN where undefined, or raise `UsageError`."""
        column = np.asarray(values, dtype=np.float64)
        if column.shape != (len(self),):
            raise UsageError(f"{what} {column.shape} need one value for each of the {len(self)} patient names")
        if np.isinf(column).any():
            raise UsageError(f"{what} hold infinity: give NaN for pairs without a score")
        return column

    def shares(self, differences: Array) -> Array:
        """Return (n, P): each pair's share of the mean of (n, P) differences; 0 where one is NaN.

        The mean over the pairs, or over the classes' means; classes without any difference don't count.
        """
        there = np.isfinite(differences)
        size = self.member.T @ there
        with np.errstate(divide="ignore"):
            share = np.where(size > 0, 1 / (size * np.maximum((size > 0).sum(0), 1)), 0.0)
        return np.where(there, share[self.target], 0.0)

    def patient_sums(self, differences: Array) -> Array:
        """Return (C, P): what each patient, in the order of sorted names, adds to the mean of (n, P) differences."""
        sums = np.zeros((len(self.names), differences.shape[1]))
        np.add.at(sums, self.patient, self.shares(differences) * np.nan_to_num(differences))
        sums[np.abs(sums) <= TIE * np.abs(sums).max(0, initial=0.0)] = 0.0  # rounding of a sum that cancels
        return sums


def permutation_test(
    differences: npt.ArrayLike,
    clusters: Sequence[str],
    classes: Sequence[str] | None = None,
    *,
    permutations: int = 9999,
    seed: int = 0,
) -> PairedTest:
    """Test a mean paired difference by exchanging the two explainers in whole patients: all of a patient's differences
    change sign together (Fisher 1935; Winkler et al., NeuroImage 123:253, 2015, for whole blocks).

    With up to `EXACT_PATIENTS` patients that have a difference every choice of signs counts; beyond, seeded random ones
    and p = (1 + as extreme) / (1 + permutations) (Phipson and Smyth 2010). Hits, one pair a patient: exact McNemar.

    Args:
        differences: (n,) first minus second; NaN pairs are left out.
        clusters, classes: as for `Pairs`.

    Raises:
        UsageError: lengths that do not fit, an infinite difference, no permutations.

    >>> permutation_test([1, 2, 3], ["a", "b", "c"])  # two of the eight choices of sign are as extreme
    PairedTest(statistic=2.0, p=0.25, method='exact permutation')
    """
    pairs = Pairs(clusters, classes)
    return permutation_tests(pairs, pairs.column(differences)[:, None], permutations=permutations, seed=seed)[0]


def permutation_tests(pairs: Pairs, differences: Array, *, permutations: int = 9999, seed: int = 0) -> list[PairedTest]:
    """Return `permutation_test` of each column of differences (n, P), the random signs shared."""
    if permutations < 1:
        raise UsageError(f"a permutation test needs permutations >= 1, got {permutations}")
    sums = pairs.patient_sums(differences)
    defined = np.isfinite(differences).any(0)
    exact = (sums != 0).sum(0) <= EXACT_PATIENTS
    p = np.full(sums.shape[1], np.nan)
    for column in np.flatnonzero(exact & defined):
        p[column] = _exact(sums[sums[:, column] != 0, column])
    if not exact.all():
        p[~exact] = _sampled(sums[:, ~exact], permutations, seed)
    means = np.where(defined, sums.sum(0), np.nan)
    return [
        PairedTest(float(mean), float(value), "exact permutation" if every else "permutation")
        for mean, value, every in zip(means, p, exact, strict=True)
    ]


def _exact(sums: Array) -> float:
    """Return the share of all 2^c choices of signs whose sum is as extreme; the first sign is fixed, by symmetry."""
    totals = sums[:1] if len(sums) else np.zeros(1)
    for value in sums[1:]:
        totals = np.concatenate([totals + value, totals - value])
    return float(np.mean(np.abs(totals) >= np.abs(sums.sum()) - TIE * np.abs(sums).sum()))


def _sampled(sums: Array, permutations: int, seed: int) -> Array:
    limit = np.abs(sums.sum(0)) - TIE * np.abs(sums).sum(0)
    rng, extreme = np.random.default_rng(seed), np.zeros(sums.shape[1], dtype=np.int64)
    step = max(1, CHUNK_SIGNS // len(sums))
    for start in range(0, permutations, step):
        size = (min(step, permutations - start), len(sums))
        signs = 2.0 * rng.integers(2, size=size, dtype=np.int8) - 1
        extreme += (np.abs(signs @ sums) >= limit).sum(0)
    p: Array = (1 + extreme) / (1 + permutations)
    return p


def mcnemar_test(first: npt.ArrayLike, second: npt.ArrayLike, clusters: Sequence[str] | None = None) -> PairedTest:
    """Test whether two explainers hit equally often on the same pairs.

    One pair a patient: McNemar's test, exact (binomial over the discordant pairs). Several: Durkalski et al.
    (Statistics in Medicine 22:2417, 2003), chi-squared, each patient's difference over its number of pairs; it leans on
    many patients with a difference: with few take `permutation_test`.

    Args:
        first, second: (n,) 1 for a hit, 0 for a miss; a pair with a NaN in either is left out.
        clusters: n patient names; None: every pair is a patient of its own.

    Raises:
        UsageError: lengths that do not fit, values other than 0, 1 and NaN.

    >>> round(mcnemar_test([1] * 8 + [0], [0] * 8 + [1]).p, 4)  # 8 against 1: twice (1 + 9) / 512
    0.0391
    """
    size = np.size(first)
    pairs = Pairs([str(number) for number in range(size)] if clusters is None else clusters)
    hits = np.stack([pairs.column(values, "hits") for values in (first, second)])
    if not np.isin(hits[np.isfinite(hits)], (0, 1)).all():
        raise UsageError("McNemar's test needs hits, 0 or 1: use the permutation test for other scores")
    there = np.isfinite(hits).all(0)
    difference, patient = (hits[0] - hits[1])[there], pairs.patient[there]
    sizes = np.bincount(patient)
    if not len(difference):
        return PairedTest(0.0, math.nan, "exact McNemar")
    if sizes.max() == 1:
        only = int((difference > 0).sum()), int((difference < 0).sum())
        p = float(binomtest(only[0], sum(only), 0.5).pvalue) if sum(only) else 1.0
        return PairedTest(float(only[0] - only[1]), p, "exact McNemar")
    shares = np.bincount(patient, difference)[sizes > 0] / sizes[sizes > 0]
    spread = float((shares**2).sum())
    statistic = float(shares.sum()) ** 2 / spread if spread else 0.0
    return PairedTest(statistic, float(chi2.sf(statistic, 1)), "Durkalski")


def holm(p: npt.ArrayLike) -> Array:
    """Return p-values (P,) adjusted by Holm (1979): reject where they are at most alpha. NaN stays, and isn't counted.

    >>> holm([0.01, 0.04, 0.03]).round(3).tolist()  # times 3, 2, 1 in order of size, never falling
    [0.03, 0.06, 0.06]
    """
    values = np.asarray(p, dtype=np.float64)
    adjusted = values.copy()
    order = np.argsort(values)[: np.isfinite(values).sum()]  # NaN sorts last
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(values[order] * factors), 1.0)
    return adjusted
