"""The numbers behind the charts: ROC curves with bands, distributions, ranks, costs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from xaibench.errors import XaibenchError
from xaibench.metrics.base import Metric
from xaibench.reporting.html.data import Report, clean, number
from xaibench.results.comparison.contenders import counted_values, image_scores
from xaibench.results.predictions import Predicted, predicted
from xaibench.results.run import Run
from xaibench.statistics import RankStability, Resampling, rank_stability

Array = npt.NDArray[np.float64]

_GRID = np.linspace(0, 1, 101)
_RESAMPLES = 500
"""Enough for a band that is drawn a pixel or two wide."""
_QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
_BINS = 24


def roc_curves(report: Report) -> list[dict[str, Any]]:
    """Return a curve for each run and class that has both kinds of image: points, and a band at 101 rates.

    The band is pointwise: percentiles, at the benchmark's confidence, over resamples of the patients.
    """
    found = []
    for index, run in enumerate(report.runs):
        try:
            known = predicted(run)
        except (XaibenchError, KeyError):  # not saved, or without logits
            continue
        spec = run.benchmark.statistics
        drawn = Resampling(known.patients, resamples=min(spec.resamples, _RESAMPLES), seed=spec.seed)
        for place in range(len(report.classes)):
            curve = _roc(known, place, drawn, spec.confidence)
            if curve is not None:
                found.append({"run": index, "class": place, **curve})
    return found


def _roc(known: Predicted, place: int, drawn: Resampling, confidence: float) -> dict[str, Any] | None:
    score, label = known.scores[:, place], known.labels[:, place] == 1
    if label.all() or not label.any() or not np.isfinite(score).all():
        return None
    false, true = roc_points(score, label, np.ones((1, len(label))))
    draws = []
    for weights in drawn.chunks():
        rates = roc_points(score, label, weights)
        draws += [np.interp(_GRID, x, y) for x, y in zip(*rates, strict=True) if np.isfinite([x[-1], y[-1]]).all()]
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    low, high = np.quantile(np.array(draws), tails, axis=0) if draws else (_GRID * 0, _GRID * 0 + 1)
    points = _corners(false[0], true[0])
    return {
        "x": [number(x) for x in points[:, 0]],
        "y": [number(y) for y in points[:, 1]],
        "low": [number(value, 3) for value in low],
        "high": [number(value, 3) for value in high],
    }


def roc_points(score: Array, label: npt.NDArray[np.bool_], weights: Array) -> tuple[Array, Array]:
    """Return the false and true positive rates (r, T + 1) at every distinct score, from weights (r, N).

    >>> false, true = roc_points(np.array([0.9, 0.1]), np.array([True, False]), np.ones((1, 2)))
    >>> false.tolist(), true.tolist()
    ([[0.0, 0.0, 1.0]], [[0.0, 1.0, 1.0]])
    """
    order = np.argsort(-score, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(score[order])), len(score) - 1)  # ties are crossed in one step
    rates = []
    for part in (~label, label):
        sums = np.cumsum(weights[:, order] * part[order], axis=1)[:, ends]
        with np.errstate(invalid="ignore", divide="ignore"):
            rates.append(np.hstack([np.zeros((len(sums), 1)), sums / sums[:, -1:]]))
    return rates[0], rates[1]


def _corners(x: Array, y: Array) -> Array:
    """Return the points at which a curve turns."""
    steps = np.diff(np.stack([x, y], axis=1), axis=0)
    turns = steps[:-1, 0] * steps[1:, 1] != steps[:-1, 1] * steps[1:, 0]
    points: Array = np.stack([x, y], axis=1)[np.concatenate([[True], turns, [True]])]
    return points


def distributions(report: Report) -> list[dict[str, Any]]:
    """Return quantiles, mean and histogram of the scores of each method, metric and class, where they are no yes or no.

    Of curves only the point that the short table shows.
    """
    found = []
    methods = {(method.run, method.explainer): index for index, method in enumerate(report.methods)}
    for index, run in enumerate(report.runs):
        table = _images(run)
        if table is None:
            continue
        table = table[table["metric"].astype(str).isin(report.shown)].dropna(subset=["value"])
        for metric, rows in table.groupby("metric", observed=True):
            if rows["value"].isin([0.0, 1.0]).mean() > 0.9:
                continue
            low, high = (float(end) for end in (rows["value"].min(), rows["value"].max()))
            declared = report.metrics.get(str(metric).partition("@")[0])
            if declared is not None and all(map(math.isfinite, declared.range)):
                low, high = declared.range
            for (name, explainer), group in rows.groupby(["class", "explainer"], observed=True):
                place = (index, str(explainer))
                if place not in methods or str(name) not in report.classes:
                    continue
                values = group["value"].to_numpy(dtype=np.float64)
                found.append(
                    {
                        "m": methods[place],
                        "metric": clean(str(metric)),
                        "class": report.classes.index(str(name)),
                        "n": len(values),
                        "mean": number(float(values.mean())),
                        "q": [number(value) for value in np.quantile(values, _QUANTILES)],
                        "range": [number(low), number(high)],
                        "bins": np.histogram(values, _BINS, (low, high if high > low else low + 1))[0].tolist(),
                    }
                )
    return found


def _images(run: Run) -> Any:
    try:
        return run.images()
    except XaibenchError:
        return None


def rankings(report: Report) -> list[dict[str, Any]]:
    """Return, for each column of the short table with scores of pairs, methods by rank, and how the ranks move.

    By the mean over the classes, of scores as they count, when the patients are drawn anew: see `rank_stability`. The
    primary metric comes first.
    """
    tables = [_read(run) for run in report.runs]
    names = sorted((spec.name for spec in report.benchmark.metrics), key=lambda name: name != report.primary)
    draws: dict[tuple[str, ...], Resampling] = {}
    found: list[dict[str, Any]] = []
    for key in (key for name in names for key in report.headline(name)):
        metric = report.metrics.get(key.partition("@")[0])
        if metric is None or metric.category == "classification":
            continue
        columns = _columns(report, tables, key)
        pairs = sorted(set.intersection(*map(set, columns.values()))) if len(columns) > 1 else []
        if not pairs:
            continue
        stability = _stability(report, metric, columns, pairs, draws)
        table: Mapping[str, Any] = asdict(stability)
        found.append(
            {
                "metric": clean(key),
                "methods": [int(name) for name in stability.methods],
                **{name: list(map(number, table[name])) for name in ("ranks", "low", "high", "first")},
                "shares": [[number(share, 3) for share in row] for row in stability.shares],
                **{name: table[name] for name in ("n", "patients", "resamples")},
            }
        )
    return found


def _read(run: Run) -> Any:
    try:
        return image_scores(run, run.classifier)
    except XaibenchError:
        return None


def _columns(report: Report, tables: Sequence[Any], key: str) -> dict[str, dict[tuple[str, str, str], float]]:
    """Return index of a method, as text, to (class, image, patient) to its score; those with a score alone."""
    found = {}
    for place, method in enumerate(report.methods):
        table = tables[method.run]
        if table is None:
            continue
        rows = table[(table["explainer"] == method.explainer) & (table["metric"] == key)]
        pairs = zip(*(rows[name].astype(str).tolist() for name in ("class", "image", "patient")), strict=True)
        run = report.runs[method.run]
        values = counted_values(run, method.explainer, report.metrics[key.partition("@")[0]], rows)
        column = dict(zip(pairs, values.tolist(), strict=True))
        if any(map(math.isfinite, column.values())):
            found[str(place)] = column
    return found


def _stability(
    report: Report,
    metric: Metric,
    columns: Mapping[str, Mapping[tuple[str, str, str], float]],
    pairs: Sequence[tuple[str, str, str]],
    draws: dict[tuple[str, ...], Resampling],
) -> RankStability:
    spec, patients = report.benchmark.statistics, tuple(pair[2] for pair in pairs)
    if patients not in draws:
        draws[patients] = Resampling(patients, resamples=spec.resamples, seed=spec.seed)
    return rank_stability(
        {name: [column[pair] for pair in pairs] for name, column in columns.items()},
        patients,
        [pair[0] for pair in pairs],
        direction=metric.direction,
        confidence=spec.confidence,
        resampling=draws[patients],
    )


def costs(report: Report) -> tuple[list[float | None], list[float | None]]:
    """Return milliseconds a map of each method, and milliseconds an image of each run's forward pass."""
    each: list[float | None] = []
    for method in report.methods:
        run = report.runs[method.run]
        spent = dict(run.record.get("seconds") or {}).get(method.explainer)
        pairs = dict(run.record.get("test") or {}).get("pairs")  # the clock runs for the maps that are scored
        each.append(number(1000 * spent / pairs) if spent is not None and pairs else None)
    forward: list[float | None] = []
    for run in report.runs:
        seconds = dict(run.record.get("seconds") or {}).get("forward")
        images = dict(run.record.get("test") or {}).get("images")
        forward.append(number(1000 * seconds / images) if seconds and images else None)
    return each, forward
