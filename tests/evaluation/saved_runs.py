"""Runs on disk made by hand, without a network: predictions and per-image scores that a test chooses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

import xaibench
from tests.reporting.runs import score
from xaibench.benchmark import Benchmark
from xaibench.results.run import MACRO, Run, save_run
from xaibench.studies.gcm_paper.variants import EXPLAINERS

RECORD: Mapping[str, Any] = {
    "id": "0" * 12,
    "weights": {
        "sha256": "a" * 64,
        "source": "by hand",
        "recipe_hash": "b" * 64,
        "pretrained": {"source": "random (seed 0)", "sha256": "c" * 64},
        "history": [{"epoch": 1, "loss": 1.25, "auc": 0.5}, {"epoch": 2, "loss": 1.0, "auc": 0.75}],
    },
    "data": {"train": "d" * 64, "val": "e" * 64, "test": "f" * 64},
    "test": {"images": 8, "patients": 8, "pairs": 4},
    "failed": {},
    "seconds": {"total": 3.0},
    "versions": {"xaibench": xaibench.__version__, "torch": "2.0"},
}


def saved_run(
    folder: Path,
    benchmark: Benchmark,
    classifier: str,
    logits: npt.NDArray[np.float64],
    labels: npt.NDArray[np.int64],
    *,
    patients: Sequence[str] | None = None,
    auc: float = 0.75,
    boxed: Sequence[str] = ("Effusion",),
    value: float = 0.4,
    values: Mapping[tuple[str, str, int], float] | None = None,
) -> Run:
    """Write a run of images i0, i1, ...: the macro ROC-AUC is `auc`, every map score of a boxed class is `value`.

    Args:
        values: per-image scores in place of `value`, by explainer, metric and row.
    """
    names = list(patients or [f"p{row}" for row in range(len(logits))])
    ids = [f"i{row}" for row in range(len(logits))]
    predictions = [
        {"image": image, "patient": patient}
        | {f"logit:{name}": float(x) for name, x in zip(benchmark.classes, row, strict=True)}
        | {f"label:{name}": int(x) for name, x in zip(benchmark.classes, label, strict=True)}
        for image, patient, row, label in zip(ids, names, logits, labels, strict=True)
    ]
    explainers = EXPLAINERS[classifier]
    baselines = ("random", "center", "prior_box")
    metrics = [
        "hit_rate",
        "pointing_game",
        "energy",
        "iou_otsu",
        *(f"visible_in_box@{k / 20:.2f}" for k in range(1, 20)),
    ]
    metrics += ["t_iou@0.10", "t_iobb@0.10"]
    rows = [
        {"image": ids[row], "patient": names[row], "class": name, "explainer": explainer, "metric": metric}
        | {"value": (values or {}).get((explainer, metric, int(row)), value), "chance": 0.1}
        for name in boxed
        for row in np.flatnonzero(labels[:, benchmark.classes.index(name)])
        for explainer in (*explainers, *baselines)
        for metric in metrics
    ]
    scores = [score(None, "roc_auc", name, auc) for name in (*benchmark.classes, MACRO)]
    scores += [
        score(explainer, metric, name, value)
        for name in ((*boxed, MACRO) if boxed else ())
        for explainer in (*explainers, *baselines)
        for metric in metrics
    ]
    run = Run(
        benchmark,
        classifier,
        explainers,
        baselines,
        tuple(replace(one, classifier=classifier) for one in scores),
        RECORD,
        (),
        folder,
    )
    save_run(run, [pd.DataFrame(rows)], pd.DataFrame(predictions))
    return run
