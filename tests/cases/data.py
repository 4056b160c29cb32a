"""Small data sets for the cases: images, CSV tables, COCO files."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.datasets.folder_data import noise, save, write_coco, write_table
from tests.tiny import tiny_benchmark
from xaibench.benchmark import Benchmark
from xaibench.datasets.base import Splits
from xaibench.datasets.folder import folder as load_folder
from xaibench.types import Frame, Region

CLASSES = ("No Finding", "Mass")
SIDE = 40


def lesion(factor: int = 1) -> npt.NDArray[np.uint8]:
    """Return an image of 40 x 20, dark but for a bright square from 4, 2 to 8, 6; or as many times larger."""
    pixels = np.full((20, 40), 10, np.uint8)
    pixels[2:6, 4:8] = 250
    return np.kron(pixels, np.ones((factor, factor), np.uint8))


def two(
    root: Path, pixels: npt.NDArray[Any] | None = None, boxes: Sequence[str] = (), name: str = "m.png", **saved: Any
) -> None:
    """Write n.png (train, No Finding) and a test image of Mass, 40 x 20 where nothing else is given, and tables."""
    save(root / "n.png", noise())
    save(root / name, noise(1) if pixels is None else pixels, **saved)
    write_table(root, ["n.png,train,1,0", f"{name},test,0,1"], boxes=boxes)


def load(
    root: Path, size: int = SIDE, classes: Sequence[str] = CLASSES, task: str = "multiclass", **options: Any
) -> Splits:
    """Load the folder data set; before, it was not told the task."""
    base = {} if "coco" in options else {"table": "labels.csv"}
    given = {"split_column": "split", **base, **options}
    more: Any = {"task": task} if "task" in inspect.signature(load_folder).parameters else {}
    return load_folder(classes=classes, input_size=size, data_root=root, options=given, **more)


def coco(
    root: Path, *marks: Mapping[str, Any], image: Mapping[str, Any] | None = None, size: int = SIDE, **changes: Any
) -> Splits:
    """Write a COCO file of annotations of m.png, which is there or noise of 40 x 20, and load it."""
    if not (root / "m.png").exists():
        two(root)
    write_coco(root, marks, image, **changes)
    return load(root, size, coco="coco.json")


def region(splits: Splits) -> Region:
    """Return the region of the only test image at its own size, 40 x 20."""
    split: Any = splits.test
    if "frame" in inspect.signature(split.regions).parameters:
        return split.regions(0, frame=None)[1]  # type: ignore[no-any-return]
    return split.regions(0)[1].to(Frame(20, 40))  # type: ignore[no-any-return]


def boxes(splits: Splits) -> list[list[float]]:
    return region(splits).boxes.tolist()  # type: ignore[no-any-return]


def findings(root: Path, classes: Sequence[str], *metrics: str) -> Benchmark:
    """Write 60 images, 20 of a mass, 20 of a nodule (5 of them of both), 25 of neither, and a multilabel benchmark."""
    rows, marks = [], []
    for n in range(60):
        pixels = noise(n, 32, 32, 120)
        if n < 20:
            pixels[8:20, 8:20] += 120
            marks.append(f"{n}.png,Mass,8,8,12,12")
        save(root / f"{n}.png", pixels)
        rows.append(f"{n}.png,{'train' if n % 2 else 'test'},{int(n < 20)},{int(15 <= n < 35)}")
    write_table(root, rows, header="image,split,Mass,Nodule", boxes=marks)
    options = {"table": "labels.csv", "boxes": "boxes.csv", "split_column": "split"}
    return folder_benchmark(options, classes, *metrics, task="multilabel", input_size=32)


def folder_benchmark(options: Mapping[str, Any], classes: Sequence[str], *metrics: str, **changes: Any) -> Benchmark:
    localization = {"baselines": [], **changes.pop("localization", {})}
    return tiny_benchmark(
        classes=list(classes),
        dataset={"name": "folder", "options": dict(options)},
        metrics=[{"name": name} for name in metrics],
        localization=localization,
        **changes,
    )


def write_json(path: Path, table: Any) -> None:
    path.write_text(json.dumps(table))
