"""What a comparison of runs holds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from xaibench.results.comparison.contenders import Entrant
from xaibench.results.run import Run
from xaibench.statistics import Comparison, RankStability

if TYPE_CHECKING:
    from xaibench.metrics.base import Metric

PRIMARY, EXPLORATORY = "primary", "exploratory"
POWER = 0.8
"""With which a comparison could have shown `MetricTable.detectable`."""


@dataclass(frozen=True)
class Standing:
    """How an explainer (or a classifier) stands on one metric.

    Args:
        entrant: who.
        value, low, high: the score and its interval, None where undefined.
        interval: how the interval was made.
        chance: what a map that knows nothing gets; None where the metric declares none.
        corrected, corrected_low, corrected_high: on the scale where chance is 0 and perfection 1; NaN where undefined.
        rank: by value, 1 the best; equal values share their mean rank; NaN without a value.
        mean_rank: over resamples of the patients; NaN where they can't be drawn.
        better_than: labels of those that it beats, after Holm's correction.
        against: the comparison with the reference, this one first; None for the reference itself and without one.
        n, patients, undefined: pairs (or images), patients, and pairs without a value, in all seeds.
        defined: the value over the pairs that have one alone; None where undefined.
        classes: that a macro value averages.
        rank_low, rank_high: limits of the rank over the resamples.
        rank_first: share of the resamples in which it is the best.
        seeds: training seeds, where several runs differ in that alone; else 1.
    """

    entrant: Entrant
    value: float | None
    low: float | None
    high: float | None
    interval: str
    chance: float | None
    corrected: float
    corrected_low: float
    corrected_high: float
    rank: float
    mean_rank: float
    better_than: tuple[str, ...]
    against: Comparison | None
    n: int
    patients: int
    undefined: int
    defined: float | None = None
    classes: int = 1
    rank_low: float = math.nan
    rank_high: float = math.nan
    rank_first: float = math.nan
    seeds: int = 1


@dataclass(frozen=True)
class MetricTable:
    """One metric of one class (or their mean).

    Args:
        metric: the score's name in a run; a curve has its abscissa behind it.
        title, category, direction: the metric's.
        bounds: its range.
        class_name: a class, or "macro".
        standings: best first.
        pairs: the comparisons, corrected together; with a reference only those with it.
        stability: of the ranks when the patients are drawn anew; None without scores of images.
        reference: label of the reference, where the table has it (a classification table has no baseline).
        role: "primary" for the mean over the classes of the benchmark's primary metric, whose comparisons are the
            family of tests; else "exploratory".
        detectable: (first, second) to the smallest difference that the comparison could have shown; NaN where unknown.
    """

    metric: str
    title: str
    category: str
    direction: str
    bounds: tuple[float, float]
    class_name: str
    standings: tuple[Standing, ...]
    pairs: tuple[Comparison, ...]
    stability: RankStability | None
    reference: str | None = None
    role: str = EXPLORATORY
    detectable: Mapping[tuple[str, str], float] = field(default_factory=dict)

    @property
    def fewer_classes(self) -> set[str]:
        """Labels of those whose mean is over fewer classes than the others'."""
        there = [one for one in self.standings if one.value is not None]
        most = max((one.classes for one in there), default=1)
        return {one.entrant.label for one in there if one.classes < most}

    def survives(self, pair: Comparison, alpha: float) -> bool:
        """Tell whether a difference survives Holm's correction."""
        return pair.p_holm <= alpha and pair.difference != 0

    def is_better(self, difference: float) -> bool:
        """Tell whether a difference, first minus second, is in the first's favour."""
        return difference > 0 if self.direction == "higher" else difference < 0


@dataclass(frozen=True)
class ComparedRuns:
    """The result of `compare`.

    Attributes:
        runs: what was compared.
        entrants: explainers in the runs' order, then baselines.
        tables: metric by metric, in the benchmark's order; inside a metric class by class.
        against: label of the reference, None without one.
        alpha: level of the marks.
        notes: what a reader should know.
        metrics: the declarations of the tables' metrics.
    """

    runs: tuple[Run, ...]
    entrants: tuple[Entrant, ...]
    tables: tuple[MetricTable, ...]
    against: str | None
    alpha: float
    notes: tuple[str, ...] = ()
    metrics: tuple[Metric, ...] = ()

    def select(self, *, metric: str | None = None, class_name: str | None = None) -> list[MetricTable]:
        """Return the tables that match everything given."""
        return [
            table
            for table in self.tables
            if (metric is None or table.metric == metric) and (class_name is None or table.class_name == class_name)
        ]

    @property
    def categories(self) -> dict[str, list[MetricTable]]:
        """Return the tables of each category, in order."""
        found: dict[str, list[MetricTable]] = {}
        for table in self.tables:
            found.setdefault(table.category, []).append(table)
        return found
