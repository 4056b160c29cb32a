"""The runs of several subsets as one result: mean ROC-AUC, the best subset, two classifiers on the same images."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from xaibench.datasets.base import Splits
from xaibench.errors import XaibenchError
from xaibench.results.predictions import Predicted, predicted
from xaibench.results.run import MACRO, Run
from xaibench.statistics import Resampling, tost
from xaibench.statistics.auc import WeightedAUC, mean_auc_intervals
from xaibench.statistics.bootstrap import Array
from xaibench.statistics.delong import delong
from xaibench.statistics.paired import holm

MARGIN = 0.03
"""ROC-AUCs that differ by less count as comparable: about half of the width of an interval with the paper's test."""
Usable = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class MeanAUC:
    """ROC-AUC of one class (or the mean over the classes), averaged over the subsets.

    Attributes:
        low, high: interval of the mean. It covers the draw of the test's patients, not that of the training images.
        subsets: the value of each subset.
        interval: how it was made.
        positives, negatives: images of each subset; empty for the mean over the classes.
    """

    classifier: str
    class_name: str
    value: float
    low: float
    high: float
    subsets: tuple[float, ...]
    interval: str
    positives: tuple[int, ...] = ()
    negatives: tuple[int, ...] = ()


@dataclass(frozen=True)
class AUCEquivalence:
    """Whether two classifiers' ROC-AUCs of a class, averaged over the subsets, differ by less than a margin.

    Attributes:
        error: standard error of the difference, by the bootstrap of patients that all subsets share.
        low, high: the interval of 1 - 2 alpha.
        p: of two one-sided tests (`xaibench.statistics.tost`).
        usable: only images without a leaking patient and without a contradicting label count.
    """

    class_name: str
    difference: float
    error: float
    low: float
    high: float
    margin: float
    p: float
    equivalent: bool
    usable: bool


@dataclass(frozen=True)
class Doubts:
    """What speaks against test images, in the order of the split.

    Attributes:
        trained: (N,) the patient is in the training split.
        validated: (N,) the patient is in the validation split, which chose the epoch.
        contradicting: (N, K) counted as no example of a class that its source names.
    """

    images: Sequence[str]
    trained: Usable
    validated: Usable
    contradicting: Usable

    @property
    def usable(self) -> Usable:
        """The images (N, K) that count for a class when none of this is accepted."""
        return ~(self.trained | self.validated)[:, None] & ~self.contradicting


@dataclass(frozen=True)
class AUCDifference:
    """ROC-AUC of the first classifier less that of the second, on the same images of one subset.

    Attributes:
        p: DeLong's two-sided test, NaN where it is undefined; `p_holm` after Holm's correction over all comparisons.
    """

    subset: int
    class_name: str
    first: float
    second: float
    difference: float
    low: float
    high: float
    p: float
    p_holm: float


def doubts(splits: Splits) -> Doubts:
    """Find the test images of patients of the other splits, and the labels that contradict."""
    test = splits.test
    trained, validated = (
        np.array([patient in known for patient in test.patients], dtype=bool)
        for known in (set(splits.train.patients), set(splits.val.patients))
    )
    against = test.contradicting
    return Doubts(test.ids, trained, validated, np.zeros(test.labels.shape, dtype=bool) if against is None else against)


class _Areas:
    """ROC-AUCs of one classifier's runs, class by class, as a function of the weights of all their images.

    Args:
        parts: what each run predicted.
        usable: of each run (N, K), the images that count for a class; None for all.
    """

    def __init__(self, parts: Sequence[Predicted], usable: Sequence[Usable] | None) -> None:
        self.used = usable or [np.ones(part.labels.shape, dtype=bool) for part in parts]
        columns = range(parts[0].labels.shape[1])
        self.areas = [[WeightedAUC(part.scores[:, k], part.labels[:, k]) for k in columns] for part in parts]
        self.starts = np.cumsum([0, *(len(part.images) for part in parts)])

    def __call__(self, weights: Array) -> Array:
        """Return (subsets, r, K) for weights (r, N) of the images of all runs."""
        rows = [weights[:, start:end] for start, end in itertools.pairwise(self.starts)]
        return np.stack(
            [
                np.stack([area(own * used[:, k]) for k, area in enumerate(areas)], axis=1)
                for own, used, areas in zip(rows, self.used, self.areas, strict=True)
            ]
        )


def mean_aucs(runs: Sequence[Run], usable: Sequence[Usable] | None = None) -> list[MeanAUC]:
    """Average the ROC-AUCs of one classifier's runs, class by class and over the classes.

    Test images that subsets share vary together.

    Args:
        usable: of each run (N, K), in the order of its predictions: the images that count for a class; None for all.
    """
    spec, classes = runs[0].benchmark.statistics, runs[0].benchmark.classes
    parts = [predicted(run) for run in runs]
    each = _Areas(parts, usable)
    labels, used = (np.concatenate(columns) for columns in ([part.labels for part in parts], each.used))
    sides = [(labels == 1) & used, (labels == 0) & used]
    intervals = mean_auc_intervals(
        [(part.scores, part.labels, part.patients) for part in parts],
        used=each.used,
        confidence=spec.confidence,
        resamples=spec.resamples,
        seed=spec.seed,
        method=spec.method,
    )
    values = each(np.ones((1, len(labels))))[:, 0]
    positives, negatives = (
        [side[start:end].sum(0) for start, end in itertools.pairwise(each.starts)] for side in sides
    )
    found = []
    columns = [*values.T, np.array([_mean(row) for row in values])]
    for k, (name, column, interval) in enumerate(
        zip((*classes, MACRO), columns, (*intervals.columns, intervals.macro), strict=True)
    ):
        numbers = [tuple(int(row[k]) for row in side) if k < len(classes) else () for side in (positives, negatives)]
        subsets, mean = tuple(map(float, column)), float(np.mean(column))
        limits = (interval.low, interval.high)
        found.append(MeanAUC(runs[0].classifier, name, mean, *limits, subsets, interval.method, *numbers))
    return found


def _drawn(run: Run, parts: Sequence[Predicted]) -> Resampling:
    spec = run.benchmark.statistics
    patients = [patient for part in parts for patient in part.patients]
    return Resampling(patients, resamples=spec.resamples, seed=spec.seed)


def _mean(values: Array) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else math.nan


def best_subset(runs: Sequence[Run]) -> int:
    """Return the subset with the largest mean ROC-AUC over the classes on the test images, the first of equal ones."""
    values = [score.value for run in runs for score in run.select(metric="roc_auc", class_name=MACRO)]
    if len(values) != len(runs):
        raise XaibenchError("the benchmark has no metric roc_auc: add it, to choose the best subset")
    return max(range(len(runs)), key=lambda index: (-math.inf if values[index] is None else values[index], -index))


def compare_aucs(first: Sequence[Run], second: Sequence[Run]) -> list[AUCDifference]:
    """Compare two classifiers subset by subset and class by class, by DeLong's paired test with patients as clusters.

    Raises:
        XaibenchError: two runs of a subset are not of the same images.
    """
    found: list[AUCDifference] = []
    for subset, (one, other) in enumerate(zip(first, second, strict=True)):
        a, b = same_images(one, other)
        for k, name in enumerate(one.benchmark.classes):
            aucs = delong(np.stack([a.scores[:, k], b.scores[:, k]], 1), a.labels[:, k], a.patients)
            test = aucs.test(confidence=one.benchmark.statistics.confidence)
            values = (float(aucs.areas[0]), float(aucs.areas[1]), test.difference)
            found.append(AUCDifference(subset, name, *values, test.interval.low, test.interval.high, test.p, math.nan))
    adjusted = holm([comparison.p for comparison in found])
    return [
        AUCDifference(**{**vars(comparison), "p_holm": float(p)}) for comparison, p in zip(found, adjusted, strict=True)
    ]


def equivalences(
    first: Sequence[Run], second: Sequence[Run], usable: Sequence[Usable] | None = None, *, margin: float = MARGIN
) -> list[AUCEquivalence]:
    """Test whether two classifiers are comparable: class by class and over the classes, on the mean of the subsets.

    Patients are drawn, with all of their images in all subsets. The test's patients are covered, not the trainings: the
    subsets share images, and three of them tell little of how trainings vary.

    Args:
        usable: as for `mean_aucs`.

    Raises:
        XaibenchError: two runs of a subset are not of the same images.
    """
    parts = [same_images(one, other) for one, other in zip(first, second, strict=True)]
    ones, others = (_Areas([pair[side] for pair in parts], usable) for side in (0, 1))
    drawn = _drawn(first[0], [one for one, _ in parts])

    def by_class(weights: Array) -> Array:
        """Return (r, K)."""
        found: Array = (ones(weights) - others(weights)).mean(0)
        return found

    whole = np.ones((1, len(drawn.index)))
    defined = np.isfinite(by_class(whole)[0])  # a class without a value in one subset has none, here and in the mean

    def differences(weights: Array) -> Array:
        """Return (r, K + 1): each class, and their mean."""
        found = by_class(weights)
        mean = found[:, defined].mean(1) if defined.any() else np.full(len(found), np.nan)
        return np.column_stack([found, mean])

    estimate = differences(whole)[0]
    draws = np.concatenate([differences(chunk) for chunk in drawn.chunks()])
    found = []
    for k, name in enumerate((*first[0].benchmark.classes, MACRO)):
        known = draws[np.isfinite(draws[:, k]), k]
        error = float(known.std(ddof=1)) if len(known) > 1 else math.nan
        test = tost(float(estimate[k]), error, margin=margin)
        numbers = (test.difference, error, test.low, test.high, margin, test.p)
        found.append(AUCEquivalence(name, *numbers, test.equivalent, usable is not None))
    return found


def same_images(one: Run, other: Run) -> tuple[Predicted, Predicted]:
    """Return what two runs predicted, of the same images in the same order.

    Raises:
        XaibenchError: the images differ.
    """
    a, b = predicted(one), predicted(other)
    if list(a.images) != list(b.images) or (a.labels != b.labels).any():
        raise XaibenchError(f"{one.directory} and {other.directory} are not of the same images: run them again")
    return a, b
