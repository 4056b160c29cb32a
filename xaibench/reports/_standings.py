"""The tables of a comparison: per-image scores in, standings and corrected differences out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import rankdata

from xaibench.harness.run import MACRO, Run, Score
from xaibench.reports._auc_pairs import auc_comparisons
from xaibench.reports._comparable import Entrant, classifiers, pair_index
from xaibench.reports._compared import MetricTable, Standing
from xaibench.statistics import (
    Comparison,
    Interval,
    Ranking,
    chance_corrected,
    chance_corrected_interval,
    holm,
    mcnemar_test,
    paired_comparisons,
    rank_methods,
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
        index = pair_index(whole)
        if not len(index):
            return None
        patients = next(iter(whole.values())).set_index(["image", "class"])["patient"]
        values = {
            label: table.set_index(["image", "class"])["value"].reindex(index).to_numpy(dtype=np.float64)
            for label, table in whole.items()
        }
        names = index.get_level_values("class").to_numpy()
        rows = np.ones(len(index), dtype=bool) if class_name == MACRO else names == class_name
        if not rows.any():
            return None
        chosen = [one for one in entrants if one.label in values]
        scores = {one.label: self._score(one, column, class_name) for one in chosen}
        clusters = patients.reindex(index).to_numpy()[rows].tolist()
        if class_name not in self.draws:
            spec = self.runs[0].benchmark.statistics
            self.draws[class_name] = Resampling(clusters, resamples=spec.resamples, seed=spec.seed)
        inside = {label: column_values[rows] for label, column_values in values.items()}
        labels = names[rows].tolist() if class_name == MACRO else None
        pairs = self._pairs(inside, clusters, labels, metric, self.draws[class_name])
        ranking = _ranking(chosen, self.runs, column, metric) if class_name == MACRO else None
        return self._table(metric, column, class_name, chosen, scores, pairs, ranking)

    def _untested(
        self, metric: Metric, column: str, class_name: str, entrants: Sequence[Entrant]
    ) -> MetricTable | None:
        scores = {one.label: self._score(one, column, class_name) for one in entrants}
        chosen = [one for one in entrants if scores[one.label] is not None]
        if not chosen:
            return None
        ranking = _ranking(chosen, self.runs, column, metric) if class_name == MACRO else None
        return self._table(metric, column, class_name, chosen, scores, [], ranking)

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
        ranking = _ranking(chosen, self.runs, metric.name, metric) if class_name == MACRO else None
        return self._table(metric, metric.name, class_name, chosen, scores, pairs, ranking)

    def _named(self, labels: Sequence[str]) -> str | None:
        """Return the reference's label where the table has it: among classifiers that of the explainer's classifier."""
        if self.reference is None:
            return None
        return next((name for name in (self.reference.label, self.reference.classifier) if name in labels), None)

    def _score(self, entrant: Entrant, metric: str, class_name: str) -> Score | None:
        return _score_of(self.runs[entrant.run], entrant, metric, class_name)

    def _pairs(
        self,
        values: Mapping[str, Array],
        clusters: Sequence[str],
        classes: Sequence[str] | None,
        metric: Metric,
        drawn: Resampling,
    ) -> list[Comparison]:
        if len(values) < 2:
            return []
        spec = self.runs[0].benchmark.statistics
        found = paired_comparisons(
            values,
            clusters,
            classes,
            against=self._named(list(values)),
            bounds=metric.range,
            confidence=spec.confidence,
            method=spec.method,
            permutations=self.permutations,
            seed=spec.seed,
            resampling=drawn,
        )
        if tuple(metric.range) != (0.0, 1.0):
            return found
        tested = []
        for pair in found:
            first, second = values[pair.first], values[pair.second]
            if _are_hits(first, second) and _weigh_the_same(first, second, classes):
                test = mcnemar_test(first, second, clusters)
                pair = replace(pair, p=test.p, method=test.method)
            tested.append(pair)
        adjusted = holm([pair.p for pair in tested])
        return [replace(pair, p_holm=float(p)) for pair, p in zip(tested, adjusted, strict=True)]

    def _table(
        self,
        metric: Metric,
        column: str,
        class_name: str,
        entrants: Sequence[Entrant],
        scores: Mapping[str, Score | None],
        pairs: Sequence[Comparison],
        ranking: Ranking | None,
    ) -> MetricTable:
        sign = -1.0 if metric.direction == "higher" else 1.0
        numbers = np.array([_number(s.value if (s := scores[one.label]) else None) for one in entrants])
        ranks = np.full(len(numbers), math.nan)
        there = np.isfinite(numbers)
        ranks[there] = rankdata(sign * numbers[there])
        means = dict(zip(ranking.methods, ranking.ranks, strict=True)) if ranking else {}
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
            ranking,
            reference,
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
                    mean_rank=means.get(one.label, math.nan),
                    better_than=tuple(beaten),
                    against=versus[0] if versus else None,
                )
            )
        order = {one.label: place for place, one in enumerate(entrants)}
        standings.sort(key=lambda s: (math.inf if math.isnan(s.rank) else s.rank, order[s.entrant.label]))
        return replace(table, standings=tuple(standings))

    def _wins(self, table: MetricTable, pair: Comparison, sign: int) -> bool:
        return table.survives(pair, self.alpha) and table.is_better(sign * pair.difference)


def _pick(entrants: Sequence[Entrant], data: Sequence[pd.DataFrame], column: str) -> dict[str, pd.DataFrame]:
    found = {}
    for one in entrants:
        table = data[one.run]
        rows = table[(table["explainer"] == one.explainer) & (table["metric"] == column)]
        if len(rows):
            found[one.label] = rows
    return found


def _score_of(run: Run, entrant: Entrant, metric: str, class_name: str) -> Score | None:
    found = run.select(metric=metric, class_name=class_name)
    return next((score for score in found if score.explainer == entrant.explainer), None)


def _ranking(entrants: Sequence[Entrant], runs: Sequence[Run], column: str, metric: Metric) -> Ranking | None:
    classes = [
        name
        for name in runs[0].benchmark.classes
        if any(_score_of(runs[one.run], one, column, name) for one in entrants)
    ]
    if len(entrants) < 2 or len(classes) < 2:
        return None
    scores = {
        one.label: [
            _number(s.value if (s := _score_of(runs[one.run], one, column, name)) else None) for name in classes
        ]
        for one in entrants
    }
    return rank_methods(scores, direction=metric.direction)


def _are_hits(*columns: Array) -> bool:
    return all(np.isin(column[np.isfinite(column)], (0.0, 1.0)).all() for column in columns)


def _weigh_the_same(first: Array, second: Array, classes: Sequence[str] | None) -> bool:
    """Tell whether the mean over the classes is that over the pairs, which is what McNemar's test compares."""
    there = np.isfinite(first - second)
    if classes is None:
        return True
    counts = np.unique(np.asarray(classes)[there], return_counts=True)[1]
    return len(set(counts.tolist())) <= 1


def _judged(score: Score | None, metric: Metric) -> dict[str, Any]:
    """Return the fields of a standing that come from the score."""
    if score is None:
        empty = dict.fromkeys(("value", "low", "high", "chance"))
        nan = dict.fromkeys(("corrected", "corrected_low", "corrected_high"), math.nan)
        return {**empty, **nan, "interval": "", "n": 0, "patients": 0, "undefined": 0}
    bounds = (float(metric.range[0]), float(metric.range[1]))
    interval = Interval(_number(score.low), _number(score.high), score.interval)
    level = _number(score.chance) if metric.corrected else math.nan
    ends = chance_corrected_interval(interval, level, direction=metric.direction, bounds=bounds)
    value = chance_corrected(_number(score.value), level, direction=metric.direction, bounds=bounds)
    return {
        **{name: getattr(score, name) for name in ("value", "low", "high", "interval", "chance", "n", "patients")},
        **{"corrected": value, "corrected_low": ends.low, "corrected_high": ends.high, "undefined": score.nan},
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
