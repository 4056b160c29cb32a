"""The tables of a comparison: per-image scores in, standings and corrected differences out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import rankdata

from xaibench.results.comparison.auc_pairs import auc_comparisons
from xaibench.results.comparison.compared import EXPLORATORY, POWER, PRIMARY, MetricTable, Standing
from xaibench.results.comparison.contenders import Entrant, classifiers, counted_values, pair_index
from xaibench.results.comparison.pair_tests import TWO_LEVELS, BySeed, mean_over_seeds, pair_tests
from xaibench.results.run import MACRO, Run, Score
from xaibench.statistics import (
    Comparison,
    Interval,
    RankStability,
    chance_corrected,
    chance_corrected_interval,
    detectable_difference,
    rank_stability,
    two_level_interval,
)
from xaibench.statistics.bootstrap import Array, Resampling

if TYPE_CHECKING:
    import pandas as pd

    from xaibench.metrics.base import Metric


@dataclass
class Job:
    """Runs and options, and what several tables share."""

    runs: Sequence[Run]
    data: Sequence[pd.DataFrame]
    reference: Entrant | None
    alpha: float
    permutations: int
    draws: dict[str, Resampling] = field(default_factory=dict)

    def maps(self, metric: Metric, column: str, class_name: str, entrants: Sequence[Entrant]) -> MetricTable | None:
        """Compare explainers on one metric, None where no run has scores of it."""
        whole = _pick(entrants, self.data, column)
        if not whole:  # a metric of the whole dataset has no score of an image
            return self._untested(metric, column, class_name, entrants)
        index = pair_index({f"{label} (seed {s})" if s else label: rows for (label, s), rows in whole.items()})
        if not len(index):
            return None
        names = index.get_level_values("class").to_numpy()
        rows = np.ones(len(index), dtype=bool) if class_name == MACRO else names == class_name
        if not rows.any():
            return None
        patients = next(iter(whole.values())).set_index(["image", "class"])["patient"]
        clusters = patients.reindex(index).to_numpy()[rows].tolist()
        chosen = [one for one in entrants if any(label == one.label for label, _ in whole)]
        values: dict[str, BySeed] = {}
        for one in chosen:
            own = {
                seed: self._counted(one, run, metric, whole[one.label, seed], index)[rows] for seed, run in _seeds(one)
            }
            values[one.label] = own
        if class_name not in self.draws:
            spec = self.runs[0].benchmark.statistics
            self.draws[class_name] = Resampling(clusters, resamples=spec.resamples, seed=spec.seed)
        labels = names[rows].tolist() if class_name == MACRO else None
        tested = _Tested(values, clusters, labels, self.draws[class_name])
        scores = {one.label: self._seeded(one, column, class_name, metric, tested) for one in chosen}
        pairs = pair_tests(
            values,
            clusters,
            labels,
            metric,
            self.runs[0].benchmark.statistics,
            against=self._named(list(values)),
            permutations=self.permutations,
            resampling=tested.drawn,
        )
        stability = tested.stability(metric, self.runs[0])
        detectable = tested.detectable(pairs, metric, self.alpha)
        return self._table(metric, column, class_name, chosen, scores, pairs, stability, detectable)

    def _counted(self, one: Entrant, run: int, metric: Metric, rows: pd.DataFrame, index: pd.MultiIndex) -> Array:
        counted = counted_values(self.runs[run], str(one.explainer), metric, rows)
        table = rows.assign(value=counted).set_index(["image", "class"])["value"]
        found: Array = table.reindex(index).to_numpy(dtype=np.float64)
        return found

    def _seeded(
        self, one: Entrant, column: str, class_name: str, metric: Metric, tested: _Tested | None
    ) -> Score | None:
        """Return a score; where training was repeated the mean over the seeds, with an interval of both levels."""
        scores = [_score_of(self.runs[run], one, column, class_name) for run in one.runs]
        there = [score for score in scores if score is not None]
        if len(there) < 2 or len(there) < len(scores):
            return scores[0]
        mean = replace(
            there[0],
            value=_mean([score.value for score in there]),
            low=None,
            high=None,
            chance=_mean([score.chance for score in there]),
            defined=_mean([score.defined for score in there]),
            nan=sum(score.nan for score in there),
            classes=min(score.classes for score in there),
        )
        if tested is None or mean.value is None:
            return mean
        spec = self.runs[0].benchmark.statistics
        bounds = (float(metric.range[0]), float(metric.range[1]))
        values = tested.values[one.label]
        found = two_level_interval(values, tested.clusters, tested.classes, bounds=bounds, confidence=spec.confidence)
        low, high = (end if math.isfinite(end) else None for end in (found.interval.low, found.interval.high))
        return replace(mean, low=low, high=high, interval=found.interval.method)

    def _untested(
        self, metric: Metric, column: str, class_name: str, entrants: Sequence[Entrant]
    ) -> MetricTable | None:
        scores = {one.label: self._seeded(one, column, class_name, metric, None) for one in entrants}
        chosen = [one for one in entrants if scores[one.label] is not None]
        if not chosen:
            return None
        return self._table(metric, column, class_name, chosen, scores, [])

    def classification(self, metric: Metric, class_name: str) -> MetricTable | None:
        """Compare the classifiers themselves, None where no run has the score."""
        entrants = classifiers(self.runs)
        scores = {one.label: self._score(one, metric.name, class_name) for one in entrants}
        chosen = [one for one in entrants if scores[one.label] is not None]
        if not chosen:
            return None
        pairs: list[Comparison] = []
        if metric.name == "roc_auc" and len(chosen) > 1:
            runs = {one.label: self.runs[one.run] for one in chosen}
            pairs = auc_comparisons(runs, class_name, against=self._named(list(runs)))
        return self._table(metric, metric.name, class_name, chosen, scores, pairs)

    def _named(self, labels: Sequence[str]) -> str | None:
        """Return the reference's label where the table has it: among classifiers that of the explainer's classifier."""
        if self.reference is None:
            return None
        return next((name for name in (self.reference.label, self.reference.classifier) if name in labels), None)

    def _score(self, entrant: Entrant, metric: str, class_name: str) -> Score | None:
        return _score_of(self.runs[entrant.run], entrant, metric, class_name)

    def _table(
        self,
        metric: Metric,
        column: str,
        class_name: str,
        entrants: Sequence[Entrant],
        scores: Mapping[str, Score | None],
        pairs: Sequence[Comparison],
        stability: RankStability | None = None,
        detectable: Mapping[tuple[str, str], float] | None = None,
    ) -> MetricTable:
        sign = -1.0 if metric.direction == "higher" else 1.0
        numbers = np.array([_number(s.value if (s := scores[one.label]) else None) for one in entrants])
        ranks = np.full(len(numbers), math.nan)
        there = np.isfinite(numbers)
        ranks[there] = rankdata(sign * numbers[there])
        moved = _moved(stability)
        reference = self._named(list(scores))
        table = MetricTable(
            column,
            _title(self.runs[0], metric, column),
            metric.category,
            metric.direction,
            (float(metric.range[0]), float(metric.range[1])),
            class_name,
            (),
            tuple(pairs),
            stability,
            reference,
            PRIMARY if self._is_primary(metric, column, class_name) else EXPLORATORY,
            detectable or {},
        )
        standings = []
        for one, rank in zip(entrants, ranks, strict=True):
            beaten = [pair.second for pair in pairs if pair.first == one.label and self._wins(table, pair, 1)]
            beaten += [pair.first for pair in pairs if pair.second == one.label and self._wins(table, pair, -1)]
            versus = [pair for pair in pairs if reference and pair.first == one.label and pair.second == reference]
            standings.append(
                Standing(
                    entrant=one,
                    **_judged(scores[one.label], metric),
                    rank=float(rank),
                    **moved.get(one.label, _UNMOVED),
                    seeds=max(len(one.seeds), 1),
                    better_than=tuple(beaten),
                    against=versus[0] if versus else None,
                )
            )
        order = {one.label: place for place, one in enumerate(entrants)}
        standings.sort(key=lambda s: (math.inf if math.isnan(s.rank) else s.rank, order[s.entrant.label]))
        return replace(table, standings=tuple(standings))

    def _is_primary(self, metric: Metric, column: str, class_name: str) -> bool:
        """The mean over the classes; of a metric with several headline scores the first."""
        named = self.runs[0].benchmark.primary == metric.name
        return named and class_name == MACRO and column == metric.headline_scores[0]

    def _wins(self, table: MetricTable, pair: Comparison, sign: int) -> bool:
        return table.survives(pair, self.alpha) and table.is_better(sign * pair.difference)


_UNMOVED: dict[str, Any] = dict.fromkeys(("mean_rank", "rank_low", "rank_high", "rank_first"), math.nan)


@dataclass
class _Tested:
    """The per-image scores of a table: explainer to seed to (n,), their patients and, for a macro mean, classes."""

    values: Mapping[str, BySeed]
    clusters: list[str]
    classes: list[str] | None
    drawn: Resampling

    def stability(self, metric: Metric, run: Run) -> RankStability | None:
        """Return how the ranks move; None with fewer than two that have scores. Seeds are averaged."""
        means = {label: mean_over_seeds(own) for label, own in self.values.items()}
        if sum(bool(np.isfinite(own).any()) for own in means.values()) < 2:
            return None
        return rank_stability(
            means,
            self.clusters,
            self.classes,
            direction=metric.direction,
            confidence=run.benchmark.statistics.confidence,
            resampling=self.drawn,
        )

    def detectable(self, pairs: Sequence[Comparison], metric: Metric, alpha: float) -> dict[tuple[str, str], float]:
        """Return the smallest difference that each comparison could have shown; {} where seeds are a level of any."""
        if any(pair.method == TWO_LEVELS for pair in pairs):
            return {}
        width = float(metric.range[1]) - float(metric.range[0])
        found = {}
        for pair in pairs:
            if not pair.n:
                continue
            difference = mean_over_seeds(self.values[pair.first]) - mean_over_seeds(self.values[pair.second])
            seen = detectable_difference(
                difference, self.clusters, self.classes, alpha=alpha, power=POWER, comparisons=len(pairs), limit=width
            )
            found[pair.first, pair.second] = seen.difference
        return found


def _moved(stability: RankStability | None) -> dict[str, dict[str, Any]]:
    """Return each method's mean rank over the resamples, its limits, and how often it is the best."""
    if stability is None:
        return {}
    places = np.arange(1, len(stability.methods) + 1)
    return {
        name: {
            "mean_rank": float(places @ np.array(shares)),
            "rank_low": low,
            "rank_high": high,
            "rank_first": first,
        }
        for name, shares, low, high, first in zip(
            stability.methods, stability.shares, stability.low, stability.high, stability.first, strict=True
        )
    }


def _seeds(one: Entrant) -> list[tuple[str, int]]:
    return list(one.seeds.items()) or [("", one.run)]


def _pick(
    entrants: Sequence[Entrant], data: Sequence[pd.DataFrame], column: str
) -> dict[tuple[str, str], pd.DataFrame]:
    """Return each entrant's scores of one column, by label and seed; those that have them under every seed."""
    found: dict[tuple[str, str], pd.DataFrame] = {}
    for one in entrants:
        rows = {}
        for seed, run in _seeds(one):
            table = data[run]
            rows[one.label, seed] = table[(table["explainer"] == one.explainer) & (table["metric"] == column)]
        if all(len(own) for own in rows.values()):
            found |= rows
    return found


def _score_of(run: Run, entrant: Entrant, metric: str, class_name: str) -> Score | None:
    found = run.select(metric=metric, class_name=class_name)
    return next((score for score in found if score.explainer == entrant.explainer), None)


def _mean(values: Sequence[float | None]) -> float | None:
    """Return the mean over the seeds, None where one of them has none."""
    there = [value for value in values if value is not None and math.isfinite(value)]
    return float(np.mean(there)) if len(there) == len(values) else None


def _judged(score: Score | None, metric: Metric) -> dict[str, Any]:
    """Return the fields of a standing that come from the score."""
    if score is None:
        empty = dict.fromkeys(("value", "low", "high", "chance"))
        nan = dict.fromkeys(("corrected", "corrected_low", "corrected_high"), math.nan)
        return {**empty, **nan, "interval": "", "n": 0, "patients": 0, "undefined": 0, "defined": None, "classes": 1}
    bounds = (float(metric.range[0]), float(metric.range[1]))
    interval = Interval(_number(score.low), _number(score.high), score.interval)
    level = _number(score.chance) if metric.corrected else math.nan
    ends = chance_corrected_interval(interval, level, direction=metric.direction, bounds=bounds)
    value = chance_corrected(_number(score.value), level, direction=metric.direction, bounds=bounds)
    return {
        **{name: getattr(score, name) for name in ("value", "low", "high", "interval", "chance", "n", "patients")},
        **{"corrected": value, "corrected_low": ends.low, "corrected_high": ends.high, "undefined": score.nan},
        **{"defined": score.defined, "classes": score.classes},
    }


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _title(run: Run, metric: Metric, column: str) -> str:
    """Return the metric's title; parameters that the benchmark changes take the place of the title's brackets."""
    title = metric.title
    spec = next(spec for spec in run.benchmark.metrics if spec.name == metric.name)
    changed = {k: v for k, v in spec.parameters.items() if k != metric.curve and metric.parameters.get(k) != v}
    if changed:
        title = f"{title.partition(' (')[0]} ({', '.join(f'{k} {v}' for k, v in changed.items())})"
    how = column.partition("@")[2]
    return f"{title} at {abscissa(column):g}" if metric.curve is not None else f"{title} ({how})" if how else title


def abscissa(name: str) -> float:
    """Return where on its curve a score is.

    >>> abscissa("visible_in_box@0.50")
    0.5
    """
    return float(name.rpartition("@")[2])
