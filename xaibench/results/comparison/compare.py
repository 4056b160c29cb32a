"""Runs of one benchmark side by side: values against chance, ranks, and differences that survive Holm's correction.

Every number comes from `xaibench.statistics`; here is decided what is compared with what.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from xaibench.errors import PluginError, UsageError, did_you_mean
from xaibench.results.comparison.compared import ComparedRuns, MetricTable, Standing
from xaibench.results.comparison.contenders import (
    Entrant,
    check_comparable,
    classifiers,
    explainers,
    find_entrant,
    image_scores,
    load_runs,
    run_name,
    seed_groups,
)
from xaibench.results.comparison.pair_tests import PERMUTATIONS, reversed_pair
from xaibench.results.comparison.standings import Job, abscissa
from xaibench.results.run import MACRO, Run

if TYPE_CHECKING:
    import pandas as pd

    from xaibench.metrics.base import Metric
    from xaibench.statistics import Comparison

__all__ = ["ALPHA", "ComparedRuns", "MetricTable", "Standing", "compare", "pair_comparison"]

ALPHA = 0.05
"""Level of the marks."""


def compare(
    runs: Iterable[Run | str | Path] | Run | str | Path,
    *,
    against: str | None = None,
    classes: Sequence[str] = (MACRO,),
    all_points: bool = False,
    alpha: float = ALPHA,
    permutations: int = PERMUTATIONS,
    metrics: Mapping[str, Metric] | None = None,
) -> ComparedRuns:
    """Compare the explainers of runs of one benchmark on the same test images.

    Each two are compared by a paired permutation test that exchanges whole patients, classifiers by DeLong's; p-values
    are corrected by Holm over all pairs of a table. The family of tests is the primary metric's table of means over the
    classes; the other tables are exploratory. Undefined maps count as in headline values. Runs of one classifier that
    differ in the recipe's seed alone are one contender, with seeds and patients as two levels of its interval.

    Args:
        runs: runs, or their directories; one is enough, for its explainers.
        against: label or explainer: the reference at zero; the others are compared with it alone.
        classes: names of classes, "macro" for their mean, or "all".
        all_points: every point of a curve and metrics that are no headline too.
        alpha: level of the marks.
        permutations: of the permutation test, where not all are tried.
        metrics: declarations by registered name; None: from the registry.

    Raises:
        UsageError: runs of different protocols or of other images, an unknown name.
        XaibenchError: a run that can't be read.
    """
    loaded = load_runs([runs] if isinstance(runs, Run | str | Path) else runs)
    if not 0 < alpha < 1:
        raise UsageError(f"alpha = {alpha:g}; it lies between 0 and 1")
    notes = check_comparable(loaded)
    declared, missing = _declared(loaded[0], metrics)
    if missing:
        notes.append(f"not compared, for want of the plugin: {', '.join(missing)}")
    data = [image_scores(run, run_name(run, number)) for number, run in enumerate(loaded)]
    groups, told = seed_groups(loaded)
    notes += told
    entrants = explainers(loaded, data, groups)
    reference = None if against is None else _reference(against, entrants, classifiers(loaded))
    job = Job(loaded, data, reference, alpha, permutations)
    tables: list[MetricTable] = []
    for metric in declared:
        if not (metric.headline or all_points):
            continue
        if metric.category == "classification":
            tables += [t for name in _classes(loaded[0], classes) if (t := job.classification(metric, name))]
            continue
        for column in _columns(metric, data[0], all_points):
            tables += [t for name in _classes(loaded[0], classes) if (t := job.maps(metric, column, name, entrants))]
    return ComparedRuns(
        tuple(loaded),
        tuple(entrants),
        tuple(tables),
        reference.label if reference else None,
        alpha,
        (*notes, *_run_notes(loaded)),
        tuple(metric for metric in declared if metric.headline or all_points),
    )


def metric_comparison(runs: Sequence[Run], metric: Metric, column: str, class_name: str = MACRO) -> MetricTable | None:
    """Return one table of `compare`, of all explainers of the runs; None where no run has the score.

    Args:
        runs: of one benchmark on the same images.
        metric, column: and the name of its score in a run.

    Raises:
        XaibenchError: runs that can't be compared or read.
    """
    check_comparable(runs)
    data = [image_scores(run, run_name(run, number)) for number, run in enumerate(runs)]
    entrants = explainers(runs, data, seed_groups(runs)[0])
    return Job(runs, data, None, ALPHA, PERMUTATIONS).maps(metric, column, class_name, entrants)


def pair_comparison(
    runs: Sequence[Run],
    metric: Metric,
    column: str,
    first: tuple[int, str],
    second: tuple[int, str],
    class_name: str = MACRO,
) -> Comparison | None:
    """Return what `compare` says of two explainers: the same test, corrected over the same comparisons.

    Args:
        runs: of one benchmark on the same images.
        metric, column: and the name of its score in a run.
        first, second: index of the run and explainer; the difference is first minus second.

    Raises:
        XaibenchError: runs that can't be compared or read.
    """
    table = metric_comparison(runs, metric, column, class_name)
    if table is None:
        return None
    return pair_of(table, first, second)


def pair_of(table: MetricTable, first: tuple[int, str], second: tuple[int, str]) -> Comparison | None:
    """Return the comparison, first minus second, of two explainers, each by its run's index and its name."""
    labels = [_label([one.entrant for one in table.standings], *who) for who in (first, second)]
    for pair in table.pairs:
        if [pair.first, pair.second] == labels:
            return pair
        if [pair.second, pair.first] == labels:
            return reversed_pair(pair)
    return None


def _label(entrants: Sequence[Entrant], run: int, explainer: str) -> str:
    """Return the label of a run's explainer; a baseline that the runs share stands for each of them."""
    named = [one for one in entrants if one.explainer == explainer]
    own = [one for one in named if run in one.runs] or [one for one in named if one.classifier is None]
    return own[0].label if own else ""


def _declared(run: Run, given: Mapping[str, Metric] | None) -> tuple[list[Metric], list[str]]:
    from xaibench import registry

    found, missing = [], []
    for spec in run.benchmark.metrics:
        try:
            found.append(registry.get("metrics", spec.name).load() if given is None else given[spec.name])
        except (PluginError, KeyError):
            missing.append(spec.name)
    return found, missing


def _reference(name: str, entrants: Sequence[Entrant], known: Sequence[Entrant]) -> Entrant:
    if all(name not in (one.label, one.explainer) for one in entrants):
        for one in known:  # a classifier can be the reference of the classification tables
            if one.label == name:
                return one
    return find_entrant(name, entrants)


def _classes(run: Run, asked: Sequence[str]) -> list[str]:
    known = [*run.benchmark.classes, MACRO]
    if "all" in asked and "all" not in known:
        return known
    for name in asked:
        if name not in known:
            raise UsageError(f"--class {name}: the benchmark has no such class. {did_you_mean(name, [*known, 'all'])}")
    return list(dict.fromkeys(asked))


def _columns(metric: Metric, table: pd.DataFrame, all_points: bool) -> list[str]:
    if metric.curve is None:
        return metric.headline_scores
    points = sorted({name for name in table["metric"] if name.startswith(f"{metric.name}@")}, key=abscissa)
    if all_points or metric.headline_at is None:
        return points
    there = [name for name in metric.headline_scores if name in points]
    return there or points[len(points) // 2 : len(points) // 2 + 1]


def _run_notes(runs: Sequence[Run]) -> list[str]:
    """Return the runs' notes; one that not all of them have says whose it is."""
    found = []
    for note in dict.fromkeys(note for run in runs for note in run.notes):
        whose = [run_name(run, number) for number, run in enumerate(runs) if note in run.notes]
        found.append(note if len(whose) == len(runs) else f"{', '.join(whose)}: {note}")
    return found
