"""All pairs of explainers on the same (image, class) pairs: differences, effect sizes, tests and Holm's correction."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from xaibench.errors import UsageError, did_you_mean
from xaibench.statistics.bootstrap import Array, Interval, Method, Resampling, mean_intervals_of, statistic_intervals
from xaibench.statistics.paired import TIE, PairedTest, Pairs, holm, mcnemar_test, permutation_tests

Test = Literal["permutation", "mcnemar"]


@dataclass(frozen=True)
class Comparison:
    """Two explainers on the same (image, class) pairs; every number is first minus second.

    Args:
        first, second: their names.
        difference: of the means over the pairs, or over the classes' means; NaN without any pair.
        interval: of the difference.
        effect: the difference over the standard deviation of the pairs' differences (Cohen's d_z; with classes, the
            pooled deviation within them); NaN where they don't vary.
        effect_interval: of the effect, by cluster bootstrap.
        p: two-sided, as the test gives it.
        p_holm: p after Holm's correction over the comparisons made together.
        method: the test, as in `PairedTest`.
        n: pairs compared.
        patients: patients they come from.
        left_out: pairs left out of both because a score is NaN in one.
    """

    first: str
    second: str
    difference: float
    interval: Interval
    effect: float
    effect_interval: Interval
    p: float
    p_holm: float
    method: str
    n: int
    patients: int
    left_out: int


def paired_comparisons(
    scores: Mapping[str, npt.ArrayLike],
    clusters: Sequence[str],
    classes: Sequence[str] | None = None,
    *,
    against: str | None = None,
    test: Test = "permutation",
    bounds: tuple[float, float] = (0.0, 1.0),
    confidence: float = 0.95,
    method: Method = "score",
    resamples: int = 2000,
    permutations: int = 9999,
    seed: int = 0,
    resampling: Resampling | None = None,
) -> list[Comparison]:
    """Compare every two explainers, or each with one of them, on one metric.

    Args:
        scores: for each explainer (n,) scores of the same n (image, class) pairs; NaN where undefined.
        clusters: n patient names.
        classes: n class names: the difference is then that of the macro means; None: of the plain means.
        against: an explainer: only it is compared with each of the others, as the second.
        test: "permutation" (of whole patients), or "mcnemar" for hits, over all pairs whatever the class.
        bounds: the metric's range.
        confidence, method: of the intervals; of the effect's, percentiles where the method is "score".
        resampling: a draw over `clusters` to share between calls, instead of `resamples`; `seed` still decides the
            permutations.

    Raises:
        UsageError: fewer than two explainers, lengths that do not fit, an unknown name, a bad option.

    >>> found, = paired_comparisons({"cam": [0.9, 0.8, 0.7], "random": [0.1, 0.3, 0.2]}, ["p", "q", "r"])
    >>> f"{found.first} - {found.second} = {found.difference:.2f}, p = {found.p}"
    'cam - random = 0.60, p = 0.25'
    """
    if test not in ("permutation", "mcnemar"):
        raise UsageError(f'test {test!r}: use "permutation" or "mcnemar"')
    names = _names(scores, against)
    pairs = Pairs(clusters, classes)
    columns = {name: pairs.column(values, f"scores of {name}") for name, values in scores.items()}
    differences = np.stack([columns[first] - columns[second] for first, second in names], axis=1)
    drawn = resampling or Resampling(clusters, resamples=resamples, seed=seed)
    if len(drawn.index) != len(pairs):
        raise UsageError(f"a draw of {len(drawn.index)} images does not fit {len(pairs)} pairs")
    patients = [drawn.patients(np.isfinite(column)) for column in differences.T]
    options: dict[str, Any] = {"patients": patients, "confidence": confidence, "method": method}
    width = bounds[1] - bounds[0]
    means = _Moments(pairs, differences, effect=False)
    effects = _Moments(pairs, differences, effect=True)
    by_class = [np.where(pairs.member > 0, column[:, None], np.nan) for column in differences.T]
    ranges = [(-width, width)] * len(names)
    macros = mean_intervals_of(by_class, ranges, drawn, confidence=confidence, method=method)
    mean_limits = [found.macro for found in macros]
    # of a ratio: the deviation of a resample may vanish, so that the variance of resamples says little
    options["method"] = "percentile" if method == "score" else method
    effect_limits = statistic_intervals(effects, drawn, bounds=(-np.inf, np.inf), **options).columns
    if test == "mcnemar":
        tests = [mcnemar_test(columns[first], columns[second], clusters) for first, second in names]
    else:
        tests = permutation_tests(pairs, differences, permutations=permutations, seed=seed)
    return _assemble(names, differences, patients, means, mean_limits, effects, effect_limits, tests)


def _names(scores: Mapping[str, npt.ArrayLike], against: str | None) -> list[tuple[str, str]]:
    if len(scores) < 2:
        raise UsageError(f"a comparison needs two explainers, got {', '.join(scores) or 'none'}")
    if against is None:
        return list(itertools.combinations(scores, 2))
    if against not in scores:
        raise UsageError(f"can't compare against {against!r}. {did_you_mean(against, scores)}")
    return [(name, against) for name in scores if name != against]


class _Moments:
    """The mean of (n, P) differences, or its ratio to their deviation, as a function of the pairs' weights."""

    def __init__(self, pairs: Pairs, differences: Array, *, effect: bool) -> None:
        there = np.isfinite(differences)
        filled = np.where(there, differences, 0.0)
        self.shape, self.effect = (pairs.member.shape[1], differences.shape[1]), effect
        self.count, self.sum, self.square = (
            (pairs.member[:, :, None] * part[:, None, :]).reshape(len(pairs), -1)
            for part in (there.astype(np.float64), filled, filled**2)
        )
        self.used = pairs.member.T @ there > 0

    def __call__(self, weights: Array) -> Array:
        """Return (r, P) for weights (r, n); NaN where a class that has differences has no weight."""
        count, total = ((weights @ part).reshape(-1, *self.shape) for part in (self.count, self.sum))
        with np.errstate(divide="ignore", invalid="ignore"):
            means = np.where(self.used, total / count, 0.0)
            mean: Array = means.sum(1) / self.used.sum(0)
            if not self.effect:
                return mean
            square = (weights @ self.square).reshape(-1, *self.shape).sum(1)
            within = square - (means * total).sum(1)
            variance = within / (count.sum(1) - self.used.sum(0))
            flat = within <= TIE * square  # what is left of equal differences is rounding
            return np.where(flat | (variance <= 0), np.nan, mean / np.sqrt(variance))


def _assemble(
    names: Sequence[tuple[str, str]],
    differences: Array,
    patients: Sequence[int],
    means: _Moments,
    mean_limits: Sequence[Interval],
    effects: _Moments,
    effect_limits: Sequence[Interval],
    tests: Sequence[PairedTest],
) -> list[Comparison]:
    ones = np.ones((1, len(differences)))
    mean, effect, adjusted = means(ones)[0], effects(ones)[0], holm([each.p for each in tests])
    n = np.isfinite(differences).sum(0)
    return [
        Comparison(
            first=first,
            second=second,
            difference=float(mean[k]),
            interval=mean_limits[k],
            effect=float(effect[k]),
            effect_interval=effect_limits[k],
            p=tests[k].p,
            p_holm=float(adjusted[k]),
            method=tests[k].method,
            n=int(n[k]),
            patients=patients[k],
            left_out=len(differences) - int(n[k]),
        )
        for k, (first, second) in enumerate(names)
    ]
