"""Runs on disk with scores chosen by a test, for the comparisons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from tests.evaluation.saved_runs import RECORD
from tests.reporting.runs import benchmark
from xaibench.benchmark import Benchmark
from xaibench.metrics.base import Metric
from xaibench.results.run import MACRO, Run, Score, save_run
from xaibench.statistics import Resampling, mean_intervals

CLASSES = ("No Finding", "Effusion", "Mass")
Values = Mapping[str, Mapping[str, npt.NDArray[np.float64]]]
"""Explainer to metric to (n,) scores."""


def metrics() -> dict[str, Metric]:
    """Declarations as the registry's, without the computations."""

    def declare(name: str, category: Any, direction: Any, high: float, **more: Any) -> Metric:
        return Metric(name, float, category, direction, (0.0, high), "", name.capitalize(), **more)

    return {
        "roc_auc": declare("roc_auc", "classification", "higher", 1.0, chance=0.5),
        "hit_rate": declare("hit_rate", "localization", "higher", 1.0),
        "energy": declare("energy", "localization", "higher", 1.0),
        "visible": declare("visible", "localization", "higher", 1.0, curve="thresholds", headline_at=0.5),
        "complexity": declare("complexity", "complexity", "lower", float("inf")),
    }


def protocol(names: Sequence[str] = ("roc_auc", "hit_rate", "energy", "complexity"), **more: Any) -> Benchmark:
    table = benchmark(CLASSES, names).model_dump() | more
    table["statistics"]["resamples"] = 300
    return Benchmark.model_validate(table)


def pairs(images: int = 12) -> tuple[list[str], list[str], list[str]]:
    """Image ids, patients and classes of n pairs: half Effusion, half Mass; every second image shares a patient."""
    ids = [f"i{row:03d}" for row in range(images)]
    return ids, [f"p{row // 2}" for row in range(images)], [CLASSES[1 + (row >= images // 2)] for row in range(images)]


def write_run(
    folder: Path,
    values: Values,
    *,
    classifier: str = "gcm",
    explainers: Sequence[str] = ("cwm",),
    baselines: Sequence[str] = ("prior_box",),
    spec: Benchmark | None = None,
    logits: npt.NDArray[np.float64] | None = None,
    images: int = 12,
    chance: float | None = 0.1,
    record: Mapping[str, Any] | None = None,
    notes: Sequence[str] = (),
) -> Run:
    """Write a run whose scores and intervals are those that `evaluate` would give for the per-image values."""
    spec = spec or protocol()
    ids, patients, classes = pairs(images)
    labels = np.array([[name == known for known in CLASSES] for name in classes], dtype=int)
    if logits is None:
        logits = np.random.default_rng(len(classifier)).normal(size=labels.shape) + 2 * labels
    predictions = [
        {"image": image, "patient": patient}
        | {f"logit:{name}": float(x) for name, x in zip(CLASSES, row, strict=True)}
        | {f"label:{name}": int(x) for name, x in zip(CLASSES, label, strict=True)}
        for image, patient, row, label in zip(ids, patients, logits, labels, strict=True)
    ]
    draw = Resampling(patients, resamples=300)
    scores = [_score(classifier, None, "roc_auc", name, 0.75, 0.6, 0.9, 0.5, images) for name in (*CLASSES, MACRO)]
    rows = []
    for explainer, columns in values.items():
        for metric, column in columns.items():
            level = None if metric == "complexity" else chance
            known = (
                metrics()[metric.partition("@")[0]] if metric.partition("@")[0] in metrics() else metrics()["energy"]
            )
            counted = known.counted(column, np.full(images, np.nan if level is None else level))
            table = np.full((images, 2), np.nan)
            for k, name in enumerate(CLASSES[1:]):
                inside = np.array([own == name for own in classes])
                table[inside, k] = counted[inside]
            intervals = mean_intervals(
                table, patients, resampling=draw, bounds=(0, np.inf if metric == "complexity" else 1)
            )
            means = np.nanmean(table, axis=0).tolist() if np.isfinite(table).any() else [np.nan, np.nan]
            for name, mean, interval in zip(
                (*CLASSES[1:], MACRO),
                [*means, float(np.mean(means))],
                (*intervals.columns, intervals.macro),
                strict=True,
            ):
                own = column if name == MACRO else column[np.array(classes) == name]
                score = _score(classifier, explainer, metric, name, mean, interval.low, interval.high, level, images)
                there = own[np.isfinite(own)]
                defined = float(there.mean()) if len(there) else None
                scores.append(replace(score, nan=int(np.isnan(own).sum()), defined=defined, classes=2))
            rows += [
                {
                    "image": i,
                    "patient": p,
                    "class": c,
                    "explainer": explainer,
                    "metric": metric,
                    "value": v,
                    "chance": np.nan if level is None else level,
                }
                for i, p, c, v in zip(ids, patients, classes, column.tolist(), strict=True)
            ]
    run = Run(
        spec,
        classifier,
        tuple(explainers),
        tuple(baselines),
        tuple(scores),
        dict(record or RECORD),
        tuple(notes),
        folder,
    )
    save_run(run, [pd.DataFrame(rows)], pd.DataFrame(predictions))
    return run


def _score(
    classifier: str,
    explainer: str | None,
    metric: str,
    name: str,
    value: float,
    low: float,
    high: float,
    chance: float | None,
    n: int,
) -> Score:
    finite = [float(x) if np.isfinite(x) else None for x in (value, low, high)]
    return Score(classifier, explainer, metric, name, *finite, chance, n, n // 2, 0)


def random_values(seed: int, names: Sequence[str], images: int = 12, level: float = 0.0) -> Values:
    """Hits, energies and complexities that a seed decides."""
    rng = np.random.default_rng(seed)
    return {
        name: {
            "hit_rate": (rng.random(images) < 0.3 + level).astype(float),
            "energy": np.clip(rng.random(images) / 2 + level, 0, 1),
            "complexity": rng.random(images) * 5,
        }
        for name in names
    }
