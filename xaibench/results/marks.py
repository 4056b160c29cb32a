"""Which scores of a run are marked: those better than chance and than every baseline that sees no image."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from xaibench.errors import XaibenchError
from xaibench.results.comparison.contenders import image_scores, run_name
from xaibench.results.run import MACRO, Run, Score
from xaibench.statistics import holm
from xaibench.statistics.paired import Pairs, permutation_tests

if TYPE_CHECKING:
    import pandas as pd

    from xaibench.metrics.base import Metric

Array = npt.NDArray[np.float64]
Cell = tuple[str, str, str]
"""Explainer, score name as in a run, and class (or "macro")."""
LEVEL = 0.05
"""Of the marks, after Holm's correction."""
PERMUTATIONS = 9999
"""At least; more where a table has so many cells that no p-value could survive its correction."""
ORACLE = "oracle_"
"""How the names of baselines begin that see the answers."""
_KEPT = "_xaibench_marks"


@dataclass(frozen=True)
class Marks:
    """The marked cells of a run's tables.

    Args:
        cells: those that are marked.
        p: of every cell tested, after Holm's correction: the largest over chance and the baselines; 1 where the
            explainer's mean is not on the better side of one of them.
        tested: category to the number of its cells that could be tested, which Holm's correction runs over.
        reason: why nothing was tested; "" where something was.
    """

    cells: frozenset[Cell]
    p: Mapping[Cell, float]
    tested: Mapping[str, int]
    reason: str = ""


def marks(run: Run, metrics: Mapping[str, Metric]) -> frozenset[Cell]:
    """Return the cells that are better than chance and than every baseline of the run that sees no image.

    Each cell is tested on its (image, class) pairs by `permutation_test` of the paired differences from chance and from
    each of `rivals`; undefined maps count as `Metric.counted` says. All must be beaten, so the largest of the p-values
    is the cell's (intersection-union: Berger, Technometrics 24:295, 1982). Against chance, a number, the test leans on
    differences that are not skewed towards the worse, so the interval must lie beyond chance as well; against a
    baseline it is exact. Holm's correction runs over the
    cells of a table: explainers, headline scores and classes of one category. Never marked: a metric that is not
    corrected for chance or has no scores of images, one given up for the explainer or a rival, and what sees the
    answers.

    Args:
        run: saved; one that is not has no marks.
        metrics: declarations by registered name, those of the table.
    """
    return judged(run, metrics).cells


def judged(run: Run, metrics: Mapping[str, Metric]) -> Marks:
    """Return `marks` with their p-values and counts, computed once for a run."""
    kept: list[tuple[dict[str, Metric], Marks]] = vars(run).setdefault(_KEPT, [])
    for known, found in kept:
        if known == metrics:
            return found
    found = _judged(run, metrics)
    kept.append((dict(metrics), found))
    return found


def rivals(run: Run) -> list[str]:
    """Return the baselines that a marked score must beat: they see no image and no answers."""
    return [name for name in run.baselines if not name.startswith(ORACLE)]


def oracles(run: Run) -> list[str]:
    """Return the baselines that see the answers: bounds from above, not rivals."""
    return [name for name in run.baselines if name.startswith(ORACLE)]


def untested(run: Run, metrics: Mapping[str, Metric], found: Marks) -> list[str]:
    """Return titles of the map metrics with headline scores of which no cell could be tested."""
    there = {score.metric for score in run.scores if score.explainer in run.explainers}
    tested = {metric for _, metric, _ in found.p}
    maps = [one for one in metrics.values() if one.headline and one.category != "classification"]
    return [one.title for one in maps if there & set(one.headline_scores) and not tested & set(one.headline_scores)]


def meaning(runs: Sequence[Run]) -> str:
    """Say what a mark of these runs' tables means, for a legend behind the mark's sign."""
    beaten = list(dict.fromkeys(name for run in runs for name in rivals(run)))
    seeing = list(dict.fromkeys(name for run in runs for name in oracles(run)))
    who = f" and than every baseline that sees no image ({', '.join(beaten)})" if beaten else ""
    apart = f"; {', '.join(seeing)} {'sees' if len(seeing) == 1 else 'see'} the answers and is not to beat"
    return (
        f"better than chance{who}, each by a paired permutation test by patient on the same pairs, p at most {LEVEL:g} "
        f"after Holm's correction over the cells of the table, and its interval beyond chance{apart if seeing else ''}"
    )


def _judged(run: Run, metrics: Mapping[str, Metric]) -> Marks:
    if run.directory is None:
        return Marks(frozenset(), {}, {}, "the scores of the images were not saved")
    columns = {name: one for one in metrics.values() if one.headline for name in one.headline_scores}
    columns = {name: one for name, one in columns.items() if one.corrected and one.category != "classification"}
    scores = [score for score in run.scores if score.metric in columns and _may_be_marked(run, score, metrics)]
    if not scores:
        return Marks(frozenset(), {}, {}, "no score can be tested")
    try:
        table = _Table(run, list(columns))
    except XaibenchError:
        return Marks(frozenset(), {}, {}, "the scores of the images can't be read")
    p: dict[Cell, float] = {}
    tested: dict[str, int] = {}
    for category in dict.fromkeys(one.category for one in columns.values()):
        cells = [score for score in scores if columns[score.metric].category == category]
        found = {_cell(s): value for s, value in zip(cells, table.tests(cells, columns), strict=True)}
        found = {cell: value for cell, value in found.items() if not math.isnan(value)}
        if found:
            tested[category] = len(found)
            p |= dict(zip(found, holm(list(found.values())).tolist(), strict=True))
    reason = "" if p else "no metric has a chance level and scores of images"
    beyond = {_cell(score) for score in scores if _beyond_chance(score, columns[score.metric])}
    return Marks(frozenset(cell for cell, value in p.items() if value <= LEVEL and cell in beyond), p, tested, reason)


def _beyond_chance(score: Score, metric: Metric) -> bool:
    """Tell whether the interval lies beyond chance: permutations are blind to misses that a few pairs do not show."""
    near = score.low if metric.direction == "higher" else score.high
    if near is None or score.chance is None:
        return False
    return near > score.chance if metric.direction == "higher" else near < score.chance


def _cell(score: Score) -> Cell:
    return str(score.explainer), score.metric, score.class_name


def _may_be_marked(run: Run, score: Score, metrics: Mapping[str, Metric]) -> bool:
    """Tell whether a score is an explainer's, has a value and chance, and was given up for nobody it is tested with."""
    name = score.explainer
    if name not in run.explainers or name.startswith(ORACLE) or score.chance is None:
        return False
    if score.value is None or math.isnan(score.value):
        return False
    lost = dict(run.record.get("given_up") or {}).get(score.metric.partition("@")[0], {})
    return not any(one in lost for one in (name, *rivals(run)))


class _Table:
    """A run's per-image scores of some columns: one row a pair."""

    def __init__(self, run: Run, columns: Sequence[str]) -> None:
        frame = image_scores(run, run_name(run))
        frame = frame[frame["metric"].isin(columns)]
        wide: pd.DataFrame = frame.pivot(
            index=["image", "class", "patient"], columns=["explainer", "metric"], values=["value", "chance"]
        )
        self.patients = wide.index.get_level_values("patient").to_numpy(dtype=str)
        self.classes = wide.index.get_level_values("class").to_numpy(dtype=str)
        self.wide: dict[Any, Array] = {key: wide[key].to_numpy(dtype=np.float64) for key in wide.columns}
        self.run = run

    def tests(self, cells: Sequence[Score], columns: Mapping[str, Metric]) -> list[float]:
        """Return each cell's p-value before Holm's correction; NaN where there is nothing to test."""
        p = np.full(len(cells), np.nan)
        permutations = max(PERMUTATIONS, math.ceil(2 * len(cells) / LEVEL))
        for name in dict.fromkeys(score.class_name for score in cells):
            rows = np.ones(len(self.classes), dtype=bool) if name == MACRO else self.classes == name
            pairs = Pairs(self.patients[rows].tolist(), self.classes[rows].tolist() if name == MACRO else None)
            wanted, gains = [], []
            for place, score in enumerate(cells):
                if score.class_name == name and (own := self._gains(score, columns[score.metric])) is not None:
                    gains.append(own[rows])
                    wanted.append(place)
            if not wanted or not len(pairs):
                continue
            means = [pairs.patient_sums(own).sum(0) for own in gains]
            p[wanted] = [1.0 if np.isfinite(own).any(0).all() else np.nan for own in gains]
            better = [k for k, mean in enumerate(means) if (mean > 0).all() and np.isfinite(p[wanted[k]])]
            if not better:
                continue
            tests = permutation_tests(
                pairs,
                np.concatenate([gains[k] for k in better], axis=1),
                permutations=permutations,
                seed=self.run.benchmark.statistics.seed,
            )
            width = gains[0].shape[1]
            for place, k in enumerate(better):
                p[wanted[k]] = max(test.p for test in tests[place * width : (place + 1) * width])
        return p.tolist()

    def _gains(self, score: Score, metric: Metric) -> Array | None:
        """Return how much better each pair (n,) is than chance and than each rival, (n, 1 + R); None without scores."""
        sign = 1.0 if metric.direction == "higher" else -1.0
        found = []
        for name in (score.explainer, *rivals(self.run)):
            values = self.wide.get(("value", name, score.metric))
            if values is None:
                return None
            chance = self.wide["chance", name, score.metric]
            found.append(metric.counted(values, chance))
        chance = self.wide["chance", score.explainer, score.metric]
        gains: Array = np.stack([sign * (found[0] - other) for other in (chance, *found[1:])], axis=1)
        return gains
