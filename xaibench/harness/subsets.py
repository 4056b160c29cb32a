"""The runs of several subsets as one result: mean ROC-AUC, the best subset, two classifiers on the same images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from xaibench.errors import XaibenchError
from xaibench.harness.run import MACRO, Run
from xaibench.metrics.classification import class_scores
from xaibench.statistics.auc import mean_auc_intervals, weighted_auc
from xaibench.statistics.bootstrap import Array
from xaibench.statistics.delong import delong
from xaibench.statistics.paired import holm


@dataclass(frozen=True)
class MeanAUC:
    """ROC-AUC of one class (or the mean over the classes), averaged over the subsets.

    Attributes:
        low, high: interval of the mean. It covers the draw of the test's patients, not that of the training images.
        subsets: the value of each subset.
        interval: how it was made.
    """

    classifier: str
    class_name: str
    value: float
    low: float
    high: float
    subsets: tuple[float, ...]
    interval: str


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


@dataclass(frozen=True)
class Predicted:
    """What a run predicted: scores and labels (N, K), and N image and patient ids."""

    scores: Array
    labels: npt.NDArray[np.int64]
    images: Sequence[str]
    patients: Sequence[str]


def predicted(run: Run) -> Predicted:
    """Read a run's predictions as the scores that rank images in a class's ROC curve."""
    table, classes = run.predictions(), run.benchmark.classes
    logits = table[[f"logit:{name}" for name in classes]].to_numpy(dtype=np.float64)
    labels = table[[f"label:{name}" for name in classes]].to_numpy(dtype=np.int64)
    images, patients = (table[column].astype(str).tolist() for column in ("image", "patient"))
    return Predicted(class_scores(logits, run.benchmark.task), labels, images, patients)


def mean_aucs(runs: Sequence[Run]) -> list[MeanAUC]:
    """Average the ROC-AUCs of one classifier's runs, class by class and over the classes.

    Test images which subsets share vary together.
    """
    spec, classes = runs[0].benchmark.statistics, runs[0].benchmark.classes
    parts = [predicted(run) for run in runs]
    values = np.array([[_area(part.scores[:, k], part.labels[:, k]) for k in range(len(classes))] for part in parts])
    intervals = mean_auc_intervals(
        [(part.scores, part.labels, part.patients) for part in parts],
        confidence=spec.confidence,
        resamples=spec.resamples,
        seed=spec.seed,
        method=spec.method,
    )
    found = []
    columns = [*values.T, np.array([_mean(row) for row in values])]
    for name, column, interval in zip((*classes, MACRO), columns, (*intervals.columns, intervals.macro), strict=True):
        subsets = tuple(map(float, column))
        mean = float(np.mean(column))
        found.append(MeanAUC(runs[0].classifier, name, mean, interval.low, interval.high, subsets, interval.method))
    return found


def _area(scores: Array, labels: npt.NDArray[np.int64]) -> float:
    return float(weighted_auc(scores, labels, np.ones((1, len(labels))))[0])


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
        a, b = predicted(one), predicted(other)
        if list(a.images) != list(b.images) or (a.labels != b.labels).any():
            raise XaibenchError(f"{one.directory} and {other.directory} are not of the same images: run them again")
        for k, name in enumerate(one.benchmark.classes):
            aucs = delong(np.stack([a.scores[:, k], b.scores[:, k]], 1), a.labels[:, k], a.patients)
            test = aucs.test(confidence=one.benchmark.statistics.confidence)
            values = (float(aucs.areas[0]), float(aucs.areas[1]), test.difference)
            found.append(AUCDifference(subset, name, *values, test.interval.low, test.interval.high, test.p, math.nan))
    adjusted = holm([comparison.p for comparison in found])
    return [
        AUCDifference(**{**vars(comparison), "p_holm": float(p)}) for comparison, p in zip(found, adjusted, strict=True)
    ]
