"""Maps of images without a lesion: how much of image and lungs they cover (the paper's figure 9, in numbers)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xaibench import registry
from xaibench.datasets.base import Split
from xaibench.evaluation.restore import reopen
from xaibench.io.files import write_atomically
from xaibench.io.limits import read_parquet
from xaibench.progress import Progress
from xaibench.results.run import Run
from xaibench.statistics import mean_intervals
from xaibench.types import Sample

NORMAL = "No Finding"
BESIDE = ("random", "center")
"""Baselines that have a map of a class without regions."""
IMAGE, LUNGS = "image", "lungs"
"""Parts that a map covers a share of; the lungs where the dataset knows them, as ``Sample.meta["lungs"]``."""
_FILE = "normal-maps.parquet"
_COLUMNS = ["image", "patient", "explainer", "part", "threshold", "value", "chance"]


@dataclass(frozen=True)
class MapArea:
    """Mean share of the image, or of the lungs, that one explainer's maps of normal images cover, above a threshold."""

    explainer: str
    part: str
    threshold: float
    value: float | None
    low: float
    high: float
    chance: float
    n: int
    patients: int
    nan: int


def map_areas(
    run: Run, *, data_root: Path | None, device: str = "auto", progress: Progress | None = None
) -> list[MapArea]:
    """Measure the maps of a run's normal test images, for every explainer, and `BESIDE` of its baselines.

    The per-image values are kept beside the run and read again by the next call.

    Raises:
        XaibenchError: the run's data or weights are no longer there.
    """
    assert run.directory is not None
    path = run.directory / _FILE
    try:
        table = read_parquet(path) if path.is_file() else None
    except (OSError, ValueError):
        table = None  # damaged: measured again
    if table is None or list(table.columns) != _COLUMNS:  # earlier versions knew no lungs
        table = _measure(run, data_root, device, progress or Progress())
        write_atomically(path, lambda part: table.to_parquet(part, index=False))
    return _summarize(run, table)


def _measure(run: Run, data_root: Path | None, device: str, progress: Progress) -> Any:
    import pandas as pd

    area = registry.get("metrics", "map_area").load()
    visible = registry.get("metrics", "visible_in_box").load()
    thresholds = area.parameters["thresholds"]
    opened = reopen(run, data_root=data_root, device=device)
    test = opened.splits.test
    patients = dict(zip(test.ids, test.patients, strict=True))
    failed = run.record.get("failed", {})
    beside = [name for name in run.baselines if name in BESIDE]
    names = [name for name in (*run.explainers, *beside) if name not in failed]
    rows: list[dict[str, Any]] = []

    def sheet(explainer: str, target: int, sample: Sample, heat: Tensor, hit: float | None) -> None:
        everywhere = torch.ones_like(heat[None], dtype=torch.bool)
        parts = {IMAGE: area(heat[None])}
        if (lungs := sample.meta.get("lungs")) is not None:
            parts[LUNGS] = visible(heat[None], torch.from_numpy(lungs).to(heat.device)[None], thresholds=thresholds)
        where = {"image": sample.id, "patient": patients[sample.id], "explainer": explainer}
        for part, shares in parts.items():
            rows.extend(
                {**where, "part": part, "threshold": threshold, "value": share, "chance": level}
                for threshold, share, level in zip(
                    thresholds, shares[0].tolist(), area.chance(everywhere)[0].tolist(), strict=True
                )
            )

    opened.show([(image, NORMAL) for image in normal_images(test)], names, sheet, progress=progress)
    return pd.DataFrame(rows, columns=_COLUMNS)


def normal_images(split: Split) -> list[str]:
    """Return the ids of images whose only class is No Finding and that have no region."""
    if NORMAL not in split.classes:
        return []
    alone = np.zeros(len(split.classes), dtype=np.float32)
    alone[split.classes.index(NORMAL)] = 1
    rows = np.flatnonzero((split.labels == alone).all(axis=1)).tolist()
    return [split.ids[row] for row in rows if not split.regions(row)]


def _summarize(run: Run, table: Any) -> list[MapArea]:
    spec = run.benchmark.statistics
    found = []
    levels = table.groupby("threshold")["chance"].mean()
    for (name, part), own in table.groupby(["explainer", "part"], sort=False):
        wide = own.pivot(index=["image", "patient"], columns="threshold", values="value")
        patients = [str(patient) for patient in wide.index.get_level_values("patient")]
        values = wide.to_numpy(dtype=np.float64)
        intervals = mean_intervals(
            values, patients, confidence=spec.confidence, resamples=spec.resamples, seed=spec.seed, method=spec.method
        )
        for column, (threshold, interval) in enumerate(zip(wide.columns, intervals.columns, strict=True)):
            known = values[np.isfinite(values[:, column]), column]
            found.append(
                MapArea(
                    explainer=str(name),
                    part=str(part),
                    threshold=float(threshold),
                    value=float(known.mean()) if len(known) else None,
                    low=interval.low,
                    high=interval.high,
                    chance=float(levels[threshold]),
                    n=len(values),
                    patients=len(set(patients)),
                    nan=len(values) - len(known),
                )
            )
    return found
