"""Intervals with the patient as the unit: score intervals, and the bootstrap that draws all images of a patient.

The pieces compose: a `Resampling` says how often each image is drawn; a statistic is any function from weights (r, N)
to (r, K) values; `statistic_intervals` puts score, percentile or BCa limits on its K columns and on their mean. Means
need no resamples for the score intervals (`mean_intervals`); of other statistics the bootstrap gives the variance.
Intervals are never omitted and never of width zero: where a method cannot speak, `Interval.method` names what does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy.special import betaincinv, ndtr, ndtri

from xaibench.errors import UsageError
from xaibench.statistics.score import Counts, mean_limits, mean_variance, t_quantile

Array = npt.NDArray[np.float64]
Statistic = Callable[[Array], Array]
"""Weights (r, N) to values (r, K), one row a resample; NaN where a resample leaves the statistic undefined."""
Method = Literal["score", "percentile", "bca"]
"""How limits are made; see `xaibench.statistics.score`, which covers from 6 patients on, and docs/statistics.md."""

CHUNK_WEIGHTS = 2**22
"""Weights made at once (32 MB of float64)."""
UNDEFINED_NOTED = 0.05
"""Share of undefined resamples above which `Interval.note` speaks."""
FLAT = 1e-12
"""A bootstrap interval no wider than this, of its bounds' width, says nothing."""


@dataclass(frozen=True)
class Interval:
    """A confidence interval, and where it comes from.

    Args:
        low, high: the limits.
        method: "score", "percentile", "bca", "delong" (of a difference), "exact" or "wilson" (a variance or a
            bootstrap without spread), "bounds" (one patient, or nothing defined), or, for a macro mean with a class of
            the last three kinds, "mean of class intervals".
        undefined: resamples dropped because the statistic was undefined (a class was absent).
        resamples: resamples drawn; 0 where none were.
    """

    low: float
    high: float
    method: str
    undefined: int = 0
    resamples: int = 0

    @property
    def note(self) -> str:
        """What a table must say under this interval; empty up to 5% of undefined resamples."""
        if self.undefined <= UNDEFINED_NOTED * self.resamples:
            return ""
        return f"{self.undefined} of {self.resamples} resamples undefined and dropped"


@dataclass(frozen=True)
class Intervals:
    """One interval for each column (class), and one for the mean of the columns, from the same resamples."""

    columns: tuple[Interval, ...]
    macro: Interval


def wilson_interval(successes: float, n: int, *, confidence: float = 0.95) -> Interval:
    """Return Wilson's score interval of a proportion (Wilson 1927; Brown, Cai and DasGupta 2001).

    Args:
        successes: 0 to `n`; need not be whole.
        n: independent trials, at least 1.

    >>> interval = wilson_interval(126, 130)
    >>> f"{interval.low:.3f} to {interval.high:.3f}"
    '0.924 to 0.988'
    """
    check_confidence(confidence)
    if n < 1 or not 0 <= successes <= n:
        raise UsageError(f"wilson_interval needs 0 <= successes <= n and n >= 1, got {successes} of {n}")
    z = float(ndtri((1 + confidence) / 2))
    p = successes / n
    centre, scale = p + z * z / (2 * n), 1 + z * z / n
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low = 0.0 if successes == 0 else max(0.0, (centre - half) / scale)  # exact at the ends, whatever the rounding
    high = 1.0 if successes == n else min(1.0, (centre + half) / scale)
    return Interval(low, high, "wilson")


def exact_interval(successes: float, n: int, *, confidence: float = 0.95) -> Interval:
    """Return the exact interval of a proportion (Clopper and Pearson 1934), which covers at least as often as it says.

    Args:
        successes: 0 to `n`; need not be whole.
        n: independent trials, at least 1.

    >>> interval = exact_interval(6, 6)
    >>> f"{interval.low:.3f} to {interval.high:.3f}"  # 0.541^6 = 2.5%
    '0.541 to 1.000'
    """
    check_confidence(confidence)
    if n < 1 or not 0 <= successes <= n:
        raise UsageError(f"exact_interval needs 0 <= successes <= n and n >= 1, got {successes} of {n}")
    tail = (1 - confidence) / 2
    low = 0.0 if successes == 0 else float(betaincinv(successes, n - successes + 1, tail))
    high = 1.0 if successes == n else float(betaincinv(successes + 1, n - successes, 1 - tail))
    return Interval(low, high, "exact")


def interval_without_spread(
    value: float,
    patients: int,
    *,
    confidence: float = 0.95,
    bounds: tuple[float, float] = (0.0, 1.0),
    method: Method = "percentile",
) -> Interval:
    """Return what stands in where there is no spread: a proportion's interval over `patients`, scaled to `bounds`.

    Clopper and Pearson's for "score", else Wilson's. Conservative between the bounds too, as a 0/1 variable spreads
    most. Infinite bounds are returned as they are.
    """
    width = bounds[1] - bounds[0]
    if not math.isfinite(width):
        return Interval(*bounds, "bounds")
    share = min(1.0, max(0.0, (value - bounds[0]) / width))
    rule = exact_interval if method == "score" else wilson_interval
    found = rule(share * patients, patients, confidence=confidence)
    return replace(found, low=float(bounds[0] + width * found.low), high=float(bounds[0] + width * found.high))


class Resampling:
    """How often each of N images is drawn in each of R resamples of the patients. A function of (patients, R, seed).

    The draw runs over the sorted patient names, so a patient is drawn as often whatever the order of the rows, and two
    scores of the same images are resampled alike. Memory: a byte for each patient and resample.

    Args:
        clusters: N patient names.
        resamples: R, at least 1.
        seed: of numpy's PCG64.
    """

    def __init__(self, clusters: Sequence[str], *, resamples: int = 2000, seed: int = 0) -> None:
        if len(clusters) == 0 or resamples < 1:
            raise UsageError(f"a bootstrap needs images and resamples >= 1, got {len(clusters)} and {resamples}")
        names, self.index = np.unique(np.asarray([str(name) for name in clusters]), return_inverse=True)
        self.n_clusters = len(names)
        self.resamples, self.seed = resamples, seed

    @cached_property
    def counts(self) -> npt.NDArray[np.uint8]:
        """How often each patient is drawn in each resample, (C, R); drawn when first asked for."""
        rng, size = np.random.default_rng(self.seed), self.n_clusters
        # By patient, so that rows copy fast. One in 256 patients or more is never drawn that often in practice.
        counts = np.empty((size, self.resamples), dtype=np.uint8)
        for column in range(self.resamples):
            drawn = np.bincount(rng.integers(size, size=size), minlength=size)
            counts[:, column] = np.minimum(drawn, np.iinfo(np.uint8).max)
        return counts

    def chunks(self) -> Iterator[Array]:
        """Yield weights (r, N) float64 in order, about `CHUNK_WEIGHTS` at a time; a transposed view of (N, r)."""
        step = max(1, CHUNK_WEIGHTS // len(self.index))
        for start in range(0, self.resamples, step):
            yield self.counts[:, start : start + step].astype(np.float64)[self.index].T

    def by_patient(self, values: Array) -> Array:
        """Return (C, K): the sums of `values` (N, K) over the images of each patient, in the order of the names."""
        return _by_patient(values, self.index, self.n_clusters)

    def sums(self, values: Array) -> Array:
        """Return (R, K): the sums of `values` (N, K) over the images of each resample.

        By patient first, and for all columns at once: one product of matrices.
        """
        by_patient = _by_patient(values, self.index, self.n_clusters)
        step = max(1, CHUNK_WEIGHTS // self.n_clusters)
        starts = range(0, self.resamples, step)
        return np.concatenate([self.counts[:, k : k + step].astype(np.float64).T @ by_patient for k in starts])

    def sums_without_one(self, values: Array) -> Array:
        """Return (C, K): the sums of `values` (N, K) that leave out one patient each, in the order of the names."""
        by_patient = _by_patient(values, self.index, self.n_clusters)
        total: Array = by_patient.sum(0)
        return total - by_patient

    def leave_one_out(self) -> Iterator[Array]:
        """Yield weights (c, N) float64 that leave out one patient each, in the order of the sorted names."""
        step = max(1, CHUNK_WEIGHTS // len(self.index))
        for start in range(0, self.n_clusters, step):
            left = np.arange(start, min(start + step, self.n_clusters))
            yield (self.index[:, None] != left).astype(np.float64).T

    def patients(self, rows: npt.NDArray[np.bool_]) -> int:
        """Return how many patients have one of the images where `rows` (N,) holds."""
        return len(np.unique(self.index[rows]))


def _by_patient(values: Array, index: npt.NDArray[np.intp], patients: int) -> Array:
    order = np.argsort(index, kind="stable")
    sums: Array = np.add.reduceat(values[order], np.searchsorted(index[order], np.arange(patients)), axis=0)
    return sums


def bootstrap_weights(clusters: Sequence[str], resamples: int = 2000, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Return (R, N) multiplicities: how often each image is drawn when patients are drawn with replacement.

    As many patients as there are; all images of one patient share its count. For large N take `Resampling.chunks`.

    >>> weights = bootstrap_weights(["a", "a", "b", "c"], resamples=100)
    >>> bool((weights[:, 0] == weights[:, 1]).all()), set(weights[:, 1:].sum(1).tolist())
    (True, {3})
    """
    drawn = Resampling(clusters, resamples=resamples, seed=seed)
    return drawn.counts[drawn.index].T


def statistic_intervals(
    statistic: Statistic,
    resampling: Resampling,
    *,
    patients: Sequence[int],
    confidence: float = 0.95,
    method: Method = "score",
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Intervals:
    """Return intervals of the K columns of a statistic and of their mean (macro).

    A column gets its bounds where `patients` is below 2 or nothing is defined, and `interval_without_spread` where the
    bootstrap has none: all hits, all misses, any constant. The macro mean runs over the columns with a value; if one
    of them needed such a replacement, its limits are the means of the columns' limits, which is conservative.
    Resamples where a column is undefined are dropped for it and for the macro.

    Args:
        statistic: weights (r, N) to (r, K); called with chunks of resamples, with ones, and for BCa with each patient
            left out.
        resampling: the draw, shared by every score of the same images.
        patients: K counts: patients that bear on each column.
        method: "score", `xaibench.statistics.score.mean_limits` with the variance of the resamples, n / (n - 1) times
            for n patients; "percentile"; or "bca" (Efron 1987; jackknife over patients), percentile where BCa is
            undefined.
        bounds: the metric's range; infinite bounds make degenerate intervals infinite.
    """
    check(confidence, method)
    value = statistic(np.ones((1, len(resampling.index))))[0]
    draws = np.concatenate([statistic(weights) for weights in resampling.chunks()])
    left = None
    if method == "bca":
        left = np.concatenate([statistic(weights) for weights in resampling.leave_one_out()])
    return _intervals(value, draws, left, patients, confidence, bounds, method)


def check(confidence: float, method: str) -> None:
    """Raise `UsageError` unless 0 < confidence < 1 and the method is one of `Method`."""
    check_confidence(confidence)
    if method not in ("score", "percentile", "bca"):
        raise UsageError(f'interval method {method!r}: use "score", "percentile" or "bca"')


def _intervals(
    value: Array,
    draws: Array,
    left: Array | None,
    patients: Sequence[int],
    confidence: float,
    bounds: tuple[float, float],
    method: Method,
) -> Intervals:
    """Return the intervals of K numbers and of their mean from draws (R, K), and (C, K) without each patient."""
    ends: list[Array | None] = [None] * len(value)
    if method == "percentile" and len(draws):  # columns at once, where all draws are defined: in half the time
        whole = np.flatnonzero(np.isfinite(draws).all(0))
        for k, pair in zip(whole, np.quantile(draws[:, whole], _tails(confidence), axis=0).T, strict=True):
            ends[k] = pair
    limits = [
        _column(
            value[k],
            draws[:, k],
            None if left is None else left[:, k],
            patients[k],
            confidence,
            bounds,
            method,
            ends[k],
        )
        for k in range(len(value))
    ]
    used = np.isfinite(value)
    macro = _macro_of([limits[k] for k in np.flatnonzero(used)], bounds)
    if macro is None:
        mean, spread = value[used].mean(), draws[:, used].mean(1)
        jackknife = None if left is None else left[:, used].mean(1)
        macro = _column(mean, spread, jackknife, min(np.asarray(patients)[used]), confidence, bounds, method)
    return Intervals(tuple(limits), macro)


def _macro_of(kept: Sequence[Interval], bounds: tuple[float, float]) -> Interval | None:
    """Return the interval of the mean of columns with a value if it is made of theirs, or None.

    It is where one of them has no spread: its variance, taken as 0, would make the mean's too small.
    """
    if not kept:
        return Interval(*bounds, "bounds")
    if not any(interval.method in ("exact", "wilson", "bounds") for interval in kept):
        return None
    low, high = (float(np.mean([getattr(interval, end) for interval in kept])) for end in ("low", "high"))
    method = kept[0].method if len(kept) == 1 else "mean of class intervals"
    worst, drawn = (max(getattr(interval, part) for interval in kept) for part in ("undefined", "resamples"))
    return Interval(low, high, method, worst, drawn)


def _tails(confidence: float) -> Array:
    return np.array([(1 - confidence) / 2, (1 + confidence) / 2])


def _column(
    value: float,
    draws: Array,
    left: Array | None,
    patients: int,
    confidence: float,
    bounds: tuple[float, float],
    method: Method,
    ends: Array | None = None,
) -> Interval:
    """Return the interval of one number from its bootstrap draws (R,) and jackknife values (C,).

    Args:
        ends: the percentiles of the draws, if known.
    """
    defined = draws[np.isfinite(draws)]
    undefined, width = len(draws) - len(defined), bounds[1] - bounds[0]
    if patients < 2 or len(defined) == 0 or not math.isfinite(value):
        return Interval(*bounds, "bounds", undefined, len(draws))
    if method == "score":
        variance = float(defined.var()) * patients / (patients - 1)
        return replace(
            _score(value, variance, patients - 1, patients, confidence, bounds),
            undefined=undefined,
            resamples=len(draws),
        )
    tails = _tails(confidence)
    corrected = None if left is None else _bca_tails(value, defined, left[np.isfinite(left)], tails)
    low, high = np.quantile(defined, tails if corrected is None else corrected) if ends is None else ends
    if high - low > FLAT * (width if math.isfinite(width) else max(1.0, abs(value))):
        return Interval(float(low), float(high), "percentile" if corrected is None else "bca", undefined, len(draws))
    replacement = interval_without_spread(value, patients, confidence=confidence, bounds=bounds)
    return replace(replacement, undefined=undefined, resamples=len(draws))


def _score(
    value: float, variance: float, freedom: float, patients: int, confidence: float, bounds: tuple[float, float]
) -> Interval:
    """Return the score interval of one number with its variance, from at least two patients."""
    width = bounds[1] - bounds[0]
    if math.sqrt(variance) <= FLAT * (width if math.isfinite(width) else max(1.0, abs(value))):
        return interval_without_spread(value, patients, confidence=confidence, bounds=bounds, method="score")
    return Interval(*mean_limits(value, variance, t_quantile(freedom, patients, confidence), bounds), "score")


def _bca_tails(value: float, draws: Array, left: Array, tails: Array) -> Array | None:
    """Return the quantiles that BCa reads instead of `tails` (Efron 1987), or None where it is undefined."""
    below = (np.mean(draws < value) + np.mean(draws <= value)) / 2
    deviation = left.mean() - left if len(left) else np.zeros(1)
    spread = float((deviation**2).sum())
    if not 0 < below < 1 or spread == 0:
        return None
    bias, acceleration = ndtri(below), (deviation**3).sum() / (6 * spread**1.5)
    shifted = bias + ndtri(tails)
    moved: Array = ndtr(bias + shifted / (1 - acceleration * shifted))
    return moved if np.isfinite(moved).all() and moved[0] < moved[1] else None


def mean_intervals(
    values: npt.ArrayLike,
    clusters: Sequence[str],
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    method: Method = "score",
    bounds: tuple[float, float] = (0.0, 1.0),
    resampling: Resampling | None = None,
) -> Intervals:
    """Return intervals of the mean of each column of `values` (N, M), and of the mean of the column means.

    Args:
        values: (N, M), one row an image; NaN where an image has no score in the column (class).
        clusters: N patient names.
        bounds: the metric's range.
        method: "score": with the cluster-robust variance and degrees of freedom of `xaibench.statistics.score.Counts`;
            or as for `statistic_intervals`.
        resampling: a draw to share between calls, instead of `resamples` and `seed`.

    Raises:
        UsageError: `values` and `clusters` of different lengths, an infinite value, a bad option.
    """
    table = np.asarray(values, dtype=np.float64)
    if table.ndim != 2 or len(table) != len(clusters):
        raise UsageError(f"values {table.shape} need one row for each of the {len(clusters)} patient names")
    drawn = resampling or Resampling(clusters, resamples=resamples, seed=seed)
    return mean_intervals_of([table], [bounds], drawn, confidence=confidence, method=method)[0]


def mean_intervals_of(
    tables: Sequence[Array],
    bounds: Sequence[tuple[float, float]],
    resampling: Resampling,
    *,
    confidence: float = 0.95,
    method: Method = "score",
) -> list[Intervals]:
    """Return what `mean_intervals` does of each of many tables (N, M) of the same images, resampled alike.

    All of them are drawn at once, by one product of matrices; score intervals need no draw.

    Raises:
        UsageError: an infinite value, a bad option.
    """
    check(confidence, method)
    if not tables:
        return []
    whole = np.concatenate(tables, axis=1)
    if np.isinf(whole).any():
        raise UsageError("values hold infinity: give NaN for images without a score")
    there = np.isfinite(whole)
    kinds, kind = np.unique(there, axis=1, return_inverse=True)  # which images have a score: the same for most columns
    kind = kind.reshape(-1)  # numpy 2.0.0 keeps the axis
    whole[~there] = 0.0
    both = np.concatenate([whole, kinds], axis=1)
    del whole, there  # for large N memory counts
    patients = np.array([resampling.patients(rows) for rows in kinds.T], dtype=np.int64)[kind]
    if method == "score":
        sums = resampling.by_patient(both)
        columns = _Columns(sums[:, : len(kind)], sums[:, len(kind) :], kind, patients, confidence)
        places = np.cumsum([0, *(table.shape[1] for table in tables)])
        return [columns.intervals(slice(*ends), limits) for ends, limits in zip(pairwise(places), bounds, strict=True)]

    def means(sums: Array) -> Array:
        with np.errstate(invalid="ignore"):
            ratio: Array = sums[:, : len(kind)] / sums[:, len(kind) + kind]
        return ratio

    value, draws = means(both.sum(0, keepdims=True))[0], means(resampling.sums(both))
    left = means(resampling.sums_without_one(both)) if method == "bca" else None
    found, start = [], 0
    for table, limits in zip(tables, bounds, strict=True):
        own = slice(start, start := start + table.shape[1])
        without = None if left is None else left[:, own]
        found.append(_intervals(value[own], draws[:, own], without, patients[own].tolist(), confidence, limits, method))
    return found


class _Columns:
    """Score intervals of the means of many columns, and of the mean of any of them, from patients' sums.

    Args:
        sums: (C, M) sums of each patient's scores in each column.
        kinds: (C, S) how many scores those are, for each set of images with a score.
        kind: (M,) the set of each column.
        patients: (M,) how many have a score in it.
    """

    def __init__(
        self,
        sums: Array,
        kinds: Array,
        kind: npt.NDArray[np.intp],
        patients: npt.NDArray[np.int64],
        confidence: float,
    ) -> None:
        self.kinds, self.kind, self.patients, self.confidence = kinds, kind, patients, confidence
        with np.errstate(invalid="ignore"):
            self.means: Array = sums.sum(0) / kinds.sum(0)[kind]
        self.adds = mean_variance(sums, kinds[:, kind])
        self.freedom: dict[tuple[int, ...], float] = {}

    def intervals(self, own: slice, bounds: tuple[float, float]) -> Intervals:
        """Return the intervals of some columns and of their mean."""
        places = np.arange(len(self.kind))[own]
        limits = [self._interval(places[k : k + 1], bounds) for k in range(len(places))]
        used = np.isfinite(self.means[places])
        macro = _macro_of([limits[k] for k in np.flatnonzero(used)], bounds)
        return Intervals(tuple(limits), macro or self._interval(places[used], bounds))

    def _interval(self, places: npt.NDArray[np.intp], bounds: tuple[float, float]) -> Interval:
        """Return the interval of the mean of some columns' means, each from two patients at least; or its bounds."""
        value, patients = float(self.means[places].mean()), self.patients[places]
        if patients.min() < 2 or not math.isfinite(value):
            return Interval(*bounds, "bounds")
        variance = float((self.adds[:, places].mean(1) ** 2).sum())
        kinds = tuple(self.kind[places].tolist())
        if kinds not in self.freedom:
            self.freedom[kinds] = Counts(self.kinds[:, kinds]).freedom()
        bearing = int((self.kinds[:, kinds].sum(1) > 0).sum())
        return _score(value, variance, self.freedom[kinds], bearing, self.confidence, bounds)


def mean_interval(values: npt.ArrayLike, clusters: Sequence[str], **options: Any) -> Interval:
    """Return the interval of the mean of `values` (N,), or of the mean of the column means of (N, M): the macro.

    Options as for `mean_intervals`.

    >>> mean_interval([1, 1, 1, 1], ["a", "b", "c", "d"]).method  # all hits: no spread
    'exact'
    """
    table = np.asarray(values, dtype=np.float64)
    return mean_intervals(table[:, None] if table.ndim == 1 else table, clusters, **options).macro


def check_confidence(confidence: float) -> None:
    """Raise `UsageError` unless 0 < confidence < 1."""
    if not 0 < confidence < 1:
        raise UsageError(f"confidence must lie between 0 and 1, got {confidence}")
