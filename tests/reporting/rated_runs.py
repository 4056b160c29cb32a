"""Runs on disk with names that attack, and what reopens them without a network."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import torch

from tests.reporting import runs
from xaibench.results.run import Run, save_run
from xaibench.types import Frame, Region, Sample

HOSTILE = (
    "<script>alert('x')</script>.png",
    "\"quote\" & 'single'.png",
    "肺炎 \N{LUNGS}\u2028.png",
    "=1+1,\nsecond line\x1b[31m.png",
    "</script><img src=x onerror=alert(1)>",
)
CLASSES = ("No Finding", "</script><b>Cardio\"megaly'", "気胸")
SIZE = 16


@dataclass
class Shown:
    """Stands for a `Reopened` run: every map peaks in the middle of its image."""

    run: Run
    ids: Sequence[str]
    calls: int = 0

    @property
    def splits(self) -> Any:
        return SimpleNamespace(test=SimpleNamespace(classes=self.run.benchmark.classes, frame=Frame.square(SIZE)))

    def show(
        self, pairs: Collection[tuple[str, str]], explainers: Sequence[str], sheet: Callable[..., None], **_: Any
    ) -> None:
        self.calls += 1
        for image in self.ids:
            for name in self.run.benchmark.classes:
                if (image, name) in pairs:
                    for explainer in explainers:
                        target = self.run.benchmark.classes.index(name)
                        sheet(explainer, target, sample(image, target), heat(), None)


def heat() -> torch.Tensor:
    made = torch.zeros(SIZE, SIZE)
    made[6:10, 6:10] = 2.0
    made[0, 0] = -8.0
    return made


def sample(image: str, target: int) -> Sample:
    boxes = {} if target == 0 else {target: Region(np.array([[4.0, 4.5, 12.0, 12.0]]), Frame.square(SIZE))}
    picture = np.full((1, SIZE, SIZE), 0.5, dtype=np.float32)
    return Sample(image, picture, np.eye(3, dtype=np.float32)[target], "p", boxes)


def write_run(
    folder: Path,
    images: Iterable[tuple[str, str, str]],
    *,
    explainers: Sequence[str] = ("cwm",),
    hits: Callable[[int], float] = lambda index: float(index % 2),
    curve: Callable[[int], dict[str, float]] = lambda index: {"0.25": 0.5, "0.50": index % 2 * 0.5},
    classes: Sequence[str] = CLASSES,
    unboxed: Sequence[str] = (),
) -> Run:
    """Write a run whose boxed images are (image, patient, class); score of image i is ``hits(i)``, ``curve(i)``."""
    names = ["hit_rate", "visible_in_box"]
    run = Run(
        runs.benchmark(classes, names), "gcm", tuple(explainers), ("random",), (), record={"id": "x"}, directory=folder
    )
    rows, predictions = [], []
    for index, (image, patient, name) in enumerate(images):
        where = {"image": image, "patient": patient, "class": name, "chance": 0.1}
        values = {"hit_rate": hits(index)} | {f"visible_in_box@{t}": v for t, v in curve(index).items()}
        for explainer in (*explainers, "random"):
            rows += [where | {"explainer": explainer, "metric": m, "value": v} for m, v in values.items()]
        predictions.append(_labels(classes, image, patient, name))
    predictions += [_labels(classes, image, f"p-{image}", classes[0]) for image in unboxed]
    save_run(run, [pd.DataFrame(rows)], pd.DataFrame(predictions))
    return run


def _labels(classes: Sequence[str], image: str, patient: str, own: str) -> dict[str, Any]:
    return {"image": image, "patient": patient} | {f"label:{name}": int(name == own) for name in classes}
