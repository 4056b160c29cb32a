"""A run on disk with names that attack and maps that disagree, for the tests of the report page."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import torch

from tests.reporting import rated_runs, runs
from xaibench.findings import Note
from xaibench.results.run import MACRO, Run, save_run
from xaibench.types import Frame, Region, Sample

LONG = "long" * 50
CLASSES = ("No Finding", rated_runs.CLASSES[1], "気胸 \N{LUNGS}", LONG)
EXPLAINERS = ("cwm", "<script>alert('e')</script>", "=1+1 \"q\" & 'r' 日本語 \N{LUNGS}", LONG)
BASELINES = ("random",)
SIZE = 64
METRICS = ("roc_auc", "hit_rate", "pointing_game", "energy", "visible_in_box")
POINTS = ("0.25", "0.50", "0.75")


def image_names(count: int) -> list[str]:
    return [*rated_runs.HOSTILE, LONG, *(f"image-{index:04d}" for index in range(count))][:count]


def heat(explainer: str, image: str) -> torch.Tensor:
    """Peaks in the box for the first explainer; outside for the second; the third is constant; the others vary."""
    made = torch.zeros(SIZE, SIZE)
    rank = (*EXPLAINERS, *BASELINES).index(explainer)
    if rank == 2:
        return made + 3.0
    inside = rank == 0 or (rank > 2 and sum(map(ord, image)) % 2 == 0)
    at = 20 if inside else 0
    made[at : at + 20, at : at + 20] = torch.linspace(1.0, 5.0, 20)
    made[0, 60] = -8.0
    return made


@dataclass
class Shown:
    """Stands for a `Reopened` run."""

    run: Run
    ids: Sequence[str]

    @property
    def splits(self) -> Any:
        return SimpleNamespace(test=SimpleNamespace(classes=CLASSES, frame=Frame.square(SIZE)))

    def show(
        self, pairs: Collection[tuple[str, str]], explainers: Sequence[str], sheet: Callable[..., None], **_: Any
    ) -> None:
        for index, image in enumerate(self.ids):
            target = index % len(CLASSES)
            if (image, CLASSES[target]) in pairs:
                for explainer in explainers:
                    sheet(explainer, target, sample(image, target), heat(explainer, image), None)


def sample(image: str, target: int) -> Sample:
    boxes = {} if target == 0 else {target: Region(np.array([[20.0, 20.5, 44.0, 40.0]]), Frame.square(SIZE))}
    picture = np.linspace(0, 1, SIZE * SIZE, dtype=np.float32).reshape(1, SIZE, SIZE)
    return Sample(image, picture, np.eye(4, dtype=np.float32)[target], f"p-{image}", boxes)


def write_run(folder: Path, count: int = 16, **record: Any) -> tuple[Run, Shown]:
    """Write a run of `count` images, of each class in turn; the first class has no boxes."""
    draw = np.random.default_rng(0)
    names = image_names(count)
    methods = (*EXPLAINERS, *BASELINES)
    columns = ["hit_rate", "pointing_game", "energy", *(f"visible_in_box@{point}" for point in POINTS)]
    rows, predictions = [], []
    for index, image in enumerate(names):
        target = index % len(CLASSES)
        where = {"image": image, "patient": f"p-{image}", "class": CLASSES[target], "chance": 0.1}
        if target:
            rows += [
                where | {"explainer": e, "metric": m, "value": float(draw.random())} for e in methods for m in columns
            ]
        logits = draw.normal(size=len(CLASSES)) + 2 * np.eye(len(CLASSES))[target]
        predictions.append(
            {"image": image, "patient": f"p-{image}"}
            | {f"logit:{name}": float(x) for name, x in zip(CLASSES, logits, strict=True)}
            | {f"label:{name}": int(k == target) for k, name in enumerate(CLASSES)}
        )
    scores = [runs.score(None, "roc_auc", name, 0.9 - 0.05 * k) for k, name in enumerate((*CLASSES, MACRO))]
    for k, explainer in enumerate(methods):
        for name in (*CLASSES[1:], MACRO):
            scores += [
                runs.score(explainer, metric, name, [0.2, 0.8, None, 0.5, 0.1][k], constant=4 * (k == 2))
                for metric in columns
            ]
    biased = Note("biased: the epoch was chosen on the test images", "warning")
    notes = ("test: <img src=x onerror=alert(1)> of patients", biased)
    kept = {
        "id": "0123456789ab",
        "seconds": {"forward": 1.0} | {name: 0.01 * 10**k for k, name in enumerate(methods)},
        "test": {"images": count, "patients": count, "pairs": len(rows) // (len(methods) * len(columns))},
    }
    protocol = runs.benchmark(CLASSES, METRICS)
    run = Run(protocol, "gcm", EXPLAINERS, BASELINES, tuple(scores), kept | record, notes, folder)
    run = replace(run, benchmark=protocol.model_copy(update={"title": "<b>Toy</b> & 肺"}))
    save_run(run, [pd.DataFrame(rows)], pd.DataFrame(predictions))
    return run, Shown(run, names)
