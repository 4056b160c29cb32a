"""Intervals of ROC-AUCs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from xaibench.errors import UsageError
from xaibench.statistics.bootstrap import Array, Interval, Intervals, Method, Resampling, statistic_intervals
from xaibench.statistics.bootstrap import check as check_method
from xaibench.statistics.delong import AUCs, delong
from xaibench.statistics.roc import WeightedAUC, weighted_auc
from xaibench.statistics.score import mean_of_limits

__all__ = ["WeightedAUC", "auc_interval", "auc_intervals", "mean_auc_intervals", "weighted_auc"]


def auc_intervals(
    scores: npt.ArrayLike,
    labels: npt.ArrayLike,
    clusters: Sequence[str],
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    method: Method = "score",
    resampling: Resampling | None = None,
) -> Intervals:
    """Return intervals of the one-against-rest ROC-AUC of each class, and of their mean.

    With one patient in a class the interval is [0, 1].

    Args:
        scores: (N, K) logits or probabilities.
        labels: (N, K), 0 or 1.
        clusters: N patient names.
        method: "score": `xaibench.statistics.score.auc_limits`, and for the mean `mean_of_limits`; or a bootstrap, the
            same resamples for all, as for `statistic_intervals`. Where that has no spread (classes apart, or scores all
            equal) n of Wilson's interval is the number of patients in the smaller class.
        resampling: a draw to share between calls, instead of `resamples` and `seed`.

    Raises:
        UsageError: shapes that do not fit, labels other than 0 and 1, a bad option.
    """
    score, label = np.asarray(scores), np.asarray(labels)
    if score.ndim != 2 or score.shape != label.shape or len(score) != len(clusters):
        raise UsageError(f"scores {score.shape}, labels {label.shape} and {len(clusters)} patient names do not fit")
    check_method(confidence, method)
    drawn = resampling or Resampling(clusters, resamples=resamples, seed=seed)
    if method == "score":
        names = [str(name) for name in clusters]
        return mean_auc_intervals([(score, label, names)], confidence=confidence)
    areas = [WeightedAUC(score[:, k], label[:, k]) for k in range(score.shape[1])]
    patients = [min(drawn.patients(column == 1), drawn.patients(column == 0)) for column in label.T]

    def statistic(weights: Array) -> Array:
        return np.stack([area(weights) for area in areas], axis=1)

    return statistic_intervals(statistic, drawn, patients=patients, confidence=confidence, method=method)


def mean_auc_intervals(
    parts: Sequence[tuple[Array, npt.NDArray[np.int64], Sequence[str]]],
    *,
    used: Sequence[npt.NDArray[np.bool_]] | None = None,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    method: Method = "score",
) -> Intervals:
    """Return intervals of ROC-AUCs averaged over several sets of images, which may share patients, and of their mean.

    Args:
        parts: scores (N, K), labels (N, K) and N patient names of each set.
        used: (N, K) of each set: the images that count for a class; None for all.
        confidence, resamples, seed, method: as for `auc_intervals`.
    """
    check_method(confidence, method)
    rows_of = used or [np.ones(label.shape, dtype=bool) for _, label, _ in parts]
    if method == "score":
        found, names = [], []
        for (score, label, who), chosen in zip(parts, rows_of, strict=True):
            own = [np.asarray(who)[rows] for rows in chosen.T]
            found.append([delong(score[r, k], label[r, k], own[k].tolist()) for k, r in enumerate(chosen.T)])
            names.append(own)
        return _score_intervals(found, names, confidence)
    areas = [[WeightedAUC(score[:, k], label[:, k]) for k in range(label.shape[1])] for score, label, _ in parts]
    starts = np.cumsum([0, *(len(who) for _, _, who in parts)])

    def statistic(weights: Array) -> Array:
        rows = [weights[:, start:end] for start, end in pairwise(starts)]
        own = [
            np.stack([area(w * side) for area, side in zip(of, chosen.T, strict=True)], 1)
            for of, w, chosen in zip(areas, rows, rows_of, strict=True)
        ]
        mean: Array = np.stack(own).mean(0)
        return mean

    drawn = Resampling([name for _, _, who in parts for name in who], resamples=resamples, seed=seed)
    labels, chosen = np.concatenate([label for _, label, _ in parts]), np.concatenate(rows_of)
    sides = [[drawn.patients((labels[:, k] == side) & chosen[:, k]) for side in (0, 1)] for k in range(labels.shape[1])]
    patients = [min(side) for side in sides]
    return statistic_intervals(statistic, drawn, patients=patients, confidence=confidence, method=method)


def _score_intervals(
    found: Sequence[Sequence[AUCs]], clusters: Sequence[Sequence[npt.NDArray[np.str_]]], confidence: float
) -> Intervals:
    """Return the intervals of each column's mean over the sets, and of the mean over columns with a value in all."""
    everyone = np.unique(np.concatenate([names for row in clusters for names in row]))
    areas = np.array([[each.areas[0] for each in row] for row in found])  # (sets, K)
    limits: list[list[Interval]] = [[each.interval(confidence=confidence) for each in row] for row in found]
    ends = np.array([[(each.low, each.high) for each in row] for row in limits])
    told = np.array([[each.told() for each in row] for row in found]).mean(0)
    adds = np.zeros((len(everyone), *areas.shape))
    for part, (row, own) in enumerate(zip(found, clusters, strict=True)):
        for k, (each, names) in enumerate(zip(row, own, strict=True)):
            adds[np.searchsorted(everyone, np.unique(names)), part, k] = each.adds[:, 0]
    columns = []
    for k, inside in enumerate(np.isfinite(areas).all(0)):
        if len(found) == 1:
            columns.append(limits[0][k])
        elif inside:
            columns.append(Interval(*mean_of_limits(areas[:, k], ends[:, k], adds[:, :, k]), "score"))
        else:
            columns.append(Interval(0.0, 1.0, "bounds"))
    known = np.flatnonzero(np.isfinite(areas).all(0))
    if len(known) < 2:
        return Intervals(tuple(columns), columns[int(known[0])] if len(known) else Interval(0.0, 1.0, "bounds"))
    sides = np.array([(columns[k].low, columns[k].high) for k in known])
    macro = mean_of_limits(areas[:, known].mean(0), sides, adds.mean(1)[:, known], told[known])
    return Intervals(tuple(columns), Interval(*macro, "score"))


def auc_interval(scores: npt.ArrayLike, labels: npt.ArrayLike, clusters: Sequence[str], **options: Any) -> Interval:
    """Return the interval of one ROC-AUC, from (N,) scores and labels, or of the macro mean, from (N, K).

    Options as for `auc_intervals`.

    >>> auc_interval([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1], ["a", "b", "c", "d"]).method  # classes apart
    'score'
    """
    score, label = np.asarray(scores), np.asarray(labels)
    if score.ndim == 1:
        score, label = score[:, None], label.reshape(-1, 1)
    return auc_intervals(score, label, clusters, **options).macro
