"""ROC-AUCs of classifiers compared on the same images: DeLong class by class, a bootstrap for their mean."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr

from xaibench.results.predictions import predicted
from xaibench.results.run import MACRO, Run
from xaibench.statistics import Comparison, Interval, Resampling, delong, holm
from xaibench.statistics.auc import WeightedAUC
from xaibench.statistics.bootstrap import Array, statistic_intervals


def auc_comparisons(runs: Mapping[str, Run], class_name: str, *, against: str | None = None) -> list[Comparison]:
    """Compare the classifiers of runs of the same images, each two or each with one, with Holm's correction.

    One class: DeLong's paired test, patients as clusters. "macro": the difference of the mean ROC-AUCs over its
    bootstrap standard error, against the normal distribution. The effect size is NaN: pairs of images have no score.

    Args:
        runs: by label, checked to be comparable.
        class_name: a class, or "macro".
        against: a label: only it is compared with each of the others, as the second.
    """
    parts = {label: predicted(run) for label, run in runs.items()}
    first = next(iter(parts.values()))
    order = {label: np.argsort(np.asarray(part.images), kind="stable") for label, part in parts.items()}
    rows = next(iter(order.values()))
    patients = [first.patients[row] for row in rows]
    labels = first.labels[rows]
    scores = {label: part.scores[order[label]] for label, part in parts.items()}
    run = next(iter(runs.values()))
    classes = list(run.benchmark.classes)
    pairs = (
        list(itertools.combinations(scores, 2))
        if against is None
        else [(label, against) for label in scores if label != against]
    )
    if class_name == MACRO:
        found = _macro(run, pairs, scores, labels, patients)
    else:
        k = classes.index(class_name)
        found = [
            _delong(run, pair, scores[pair[0]][:, k], scores[pair[1]][:, k], labels[:, k], patients) for pair in pairs
        ]
    adjusted = holm([pair.p for pair in found])
    return [replace(pair, p_holm=float(p)) for pair, p in zip(found, adjusted, strict=True)]


def _delong(
    run: Run, pair: tuple[str, str], one: Array, other: Array, labels: npt.NDArray[np.int64], patients: list[str]
) -> Comparison:
    test = delong(np.stack([one, other], 1), labels, patients).test(confidence=run.benchmark.statistics.confidence)
    return _comparison(pair, test.difference, test.interval, test.p, "DeLong", patients)


def _macro(
    run: Run,
    pairs: list[tuple[str, str]],
    scores: Mapping[str, Array],
    labels: npt.NDArray[np.int64],
    patients: list[str],
) -> list[Comparison]:
    spec, size = run.benchmark.statistics, labels.shape[1]
    areas = {label: [WeightedAUC(own[:, k], labels[:, k]) for k in range(size)] for label, own in scores.items()}

    def differences(weights: Array) -> Array:
        means = {}
        for label, of in areas.items():
            columns = np.stack([area(weights) for area in of], 1)
            there = np.isfinite(columns)
            with np.errstate(invalid="ignore"):
                means[label] = np.where(there, columns, 0.0).sum(1) / there.sum(1)
        return np.stack([means[a] - means[b] for a, b in pairs], 1)

    drawn = Resampling(patients, resamples=spec.resamples, seed=spec.seed)
    value = differences(np.ones((1, len(patients))))[0]
    spread = np.nanstd(np.concatenate([differences(weights) for weights in drawn.chunks()]), axis=0, ddof=1)
    limits = statistic_intervals(
        differences,
        drawn,
        patients=[len(set(patients))] * len(pairs),
        confidence=spec.confidence,
        method=spec.method,
        bounds=(-1.0, 1.0),
    ).columns
    found = []
    for k, pair in enumerate(pairs):
        p = float(2 * ndtr(-abs(value[k]) / spread[k])) if spread[k] > 0 else (1.0 if value[k] == 0 else math.nan)
        found.append(_comparison(pair, float(value[k]), limits[k], p, "bootstrap", patients))
    return found


def _comparison(
    pair: tuple[str, str], difference: float, interval: Interval, p: float, method: str, patients: list[str]
) -> Comparison:
    nothing = Interval(math.nan, math.nan, "")
    n, people = len(patients), len(set(patients))
    return Comparison(*pair, difference, interval, math.nan, nothing, p, math.nan, method, n, people, 0)
