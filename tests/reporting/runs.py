"""Runs made by hand, for the tests of the tables."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from xaibench.benchmark import Benchmark
from xaibench.metrics.base import Metric
from xaibench.results.run import MACRO, Run, Score

_TITLES = {
    "hit_rate": "Hit rate (peak in the region)",
    "pointing_game": "Pointing game (15 px at 224)",
    "energy": "Energy in the region",
    "iou_otsu": "IoU at Otsu's threshold",
}


def metrics(**changes: Metric) -> dict[str, Metric]:
    """Declarations as the registry's, without the computations."""

    def declare(name: str, title: str, **more: Any) -> Metric:
        return Metric(name, float, more.pop("category", "localization"), "higher", (0.0, 1.0), "", title, **more)

    made = {name: declare(name, title) for name, title in _TITLES.items()}
    made["pointing_game"] = declare("pointing_game", _TITLES["pointing_game"], parameters={"tolerance": 15.0})
    made["roc_auc"] = declare("roc_auc", "ROC-AUC", category="classification")
    made["visible_in_box"] = declare(
        "visible_in_box", "Share of the region visible", curve="thresholds", headline_at=0.5
    )
    made["visible_outside"] = replace(
        declare("visible_outside", "Share of the rest visible", curve="thresholds", headline_at=0.5), direction="lower"
    )
    return {**made, **changes}


def benchmark(classes: Sequence[str], names: Sequence[str], **parameters: Mapping[str, Any]) -> Benchmark:
    return Benchmark.model_validate(
        {
            "name": "toy",
            "title": "A protocol for tests",
            "classes": list(classes),
            "input_size": 64,
            "dataset": {"name": "phantom"},
            "metrics": [{"name": name, "parameters": dict(parameters.get(name, {}))} for name in names],
        }
    )


def score(
    explainer: str | None, metric: str, class_name: str, value: float | None, half: float = 0.05, **more: Any
) -> Score:
    values: dict[str, Any] = {
        "classifier": "gcm",
        "low": None if value is None else max(value - half, 0.0),
        "high": None if value is None else min(value + half, 1.0),
        "chance": 0.1,
        "n": 40,
        "patients": 38,
        "nan": 0,
    }
    values.update(more)
    return Score(explainer=explainer, metric=metric, class_name=class_name, value=value, **values)


def full_run(
    classes: Sequence[str] = ("No Finding", "Cardiomegaly", "Pneumothorax", "Effusion"),
    explainers: Sequence[str] = ("cwm", "ccm"),
    baselines: Sequence[str] = ("random", "center", "prior_box"),
    **more: Any,
) -> Run:
    """A run with every headline score; class 0 has no regions."""
    draw = random.Random(0)
    names = ["roc_auc", *_TITLES, "visible_in_box"]
    scores = [score(None, "roc_auc", c, 0.9 + draw.random() / 10, 0.02, n=320, patients=301) for c in (*classes, MACRO)]
    for class_name in (*classes[1:], MACRO):
        for explainer in (*explainers, *baselines):
            level = 0.4 if explainer in explainers else 0.05
            scores += [
                score(explainer, m, class_name, level + draw.random() / 3)
                for m in (*_TITLES, "visible_in_box@0.25", "visible_in_box@0.50")
            ]
    return Run(
        benchmark(classes, names),
        "gcm",
        tuple(explainers),
        tuple(baselines),
        tuple(scores),
        **{"record": {"weights": {"source": "package:tf_efficientnet_lite0 0.1.0", "sha256": "0" * 64}}, **more},
    )
