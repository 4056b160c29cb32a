"""What a comparison of runs holds."""

from __future__ import annotations

from dataclasses import dataclass

from xaibench.harness.run import Run
from xaibench.reports._comparable import Entrant
from xaibench.statistics import Comparison, Ranking


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
        mean_rank: average rank over the classes; NaN where there are fewer than two.
        better_than: labels of those that it beats, after Holm's correction.
        against: the comparison with the reference, this one first; None for the reference itself and without one.
        n, patients, undefined: pairs (or images), patients, and pairs without a value.
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
        ranking: of the average ranks over the classes, with the critical difference; None with fewer than two.
        is_reference: the table has the reference (a classification table has no baseline to compare with).
    """

    metric: str
    title: str
    category: str
    direction: str
    bounds: tuple[float, float]
    class_name: str
    standings: tuple[Standing, ...]
    pairs: tuple[Comparison, ...]
    ranking: Ranking | None
    reference: str | None = None

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
    """

    runs: tuple[Run, ...]
    entrants: tuple[Entrant, ...]
    tables: tuple[MetricTable, ...]
    against: str | None
    alpha: float
    notes: tuple[str, ...] = ()

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
