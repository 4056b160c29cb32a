"""The one test of two explainers on a metric, whoever shows it: permutation of whole patients.

Where training was repeated with other seeds, these are a second level beside the patients.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from xaibench.benchmark import StatisticsSpec
from xaibench.statistics import (
    Comparison,
    Interval,
    Resampling,
    TwoLevel,
    holm,
    paired_comparisons,
    two_level_difference,
)
from xaibench.statistics.bootstrap import Array

if TYPE_CHECKING:
    from xaibench.metrics.base import Metric

BySeed = Mapping[str, Array]
"""Training seed to (n,) scores; one entry where training was not repeated."""
PERMUTATIONS = 9999
TWO_LEVELS = "two levels"


def pair_tests(
    values: Mapping[str, BySeed],
    clusters: Sequence[str],
    classes: Sequence[str] | None,
    metric: Metric,
    spec: StatisticsSpec,
    *,
    against: str | None = None,
    permutations: int = PERMUTATIONS,
    resampling: Resampling | None = None,
) -> list[Comparison]:
    """Compare every two explainers, or each with one of them, on the same pairs; Holm over all of these.

    Args:
        values: explainer to seed to (n,) scores as the headline counts them.
        clusters: n patient names.
        classes: n class names: of the difference of macro means; None: of plain means.
        against: a name: only it is compared with each of the others, as the second.
        resampling: a draw over `clusters` to share between calls.
    """
    means = {name: mean_over_seeds(own) for name, own in values.items()}
    if len(means) < 2:
        return []
    found = paired_comparisons(
        means,
        clusters,
        classes,
        against=against,
        bounds=metric.range,
        confidence=spec.confidence,
        method=spec.method,
        resamples=spec.resamples,
        permutations=permutations,
        seed=spec.seed,
        resampling=resampling,
    )
    if all(len(own) == 1 for own in values.values()):
        return found
    bounds = (float(metric.range[0]), float(metric.range[1]))
    tested = []
    for pair in found:
        first, second = values[pair.first], values[pair.second]
        if max(len(first), len(second)) > 1:
            level = _two_levels(first, second, clusters, classes, bounds, spec.confidence)
            p = 1.0 if math.isnan(level.p) and level.value == 0 else level.p
            pair = replace(pair, difference=level.value, interval=level.interval, p=p, method=TWO_LEVELS)
        tested.append(pair)
    adjusted = holm([pair.p for pair in tested])
    return [replace(pair, p_holm=float(p)) for pair, p in zip(tested, adjusted, strict=True)]


def mean_over_seeds(own: BySeed) -> Array:
    """Return each pair's mean over the seeds, NaN where one of them has none."""
    mean: Array = np.mean(list(own.values()), axis=0)
    return mean


def _two_levels(
    first: BySeed,
    second: BySeed,
    clusters: Sequence[str],
    classes: Sequence[str] | None,
    bounds: tuple[float, float],
    confidence: float,
) -> TwoLevel:
    """Compare seed by seed; what was not trained several times (a baseline) stands beside each seed of the other."""
    if len(first) == 1:
        first = dict(zip(second, itertools.repeat(next(iter(first.values()))), strict=False))
    if len(second) == 1:
        second = dict(zip(first, itertools.repeat(next(iter(second.values()))), strict=False))
    return two_level_difference(first, second, clusters, classes, bounds=bounds, confidence=confidence)


def reversed_pair(pair: Comparison) -> Comparison:
    """Return a comparison with second minus first."""
    ends, effect = pair.interval, pair.effect_interval
    return replace(
        pair,
        first=pair.second,
        second=pair.first,
        difference=-pair.difference,
        interval=Interval(-ends.high, -ends.low, ends.method),
        effect=-pair.effect,
        effect_interval=Interval(-effect.high, -effect.low, effect.method),
    )
