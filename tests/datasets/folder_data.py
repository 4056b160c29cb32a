"""Small data sets for `folder`: images, CSV tables and COCO files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from xaibench.datasets.base import Split, Splits
from xaibench.datasets.folder import folder
from xaibench.types import Region

CLASSES = ("No Finding", "Mass")
EXIF = 274


def noise(seed: int = 0, height: int = 20, width: int = 40, top: int = 256) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, top, (height, width), dtype=np.uint8)


def save(path: Path, pixels: npt.NDArray[Any], orientation: int = 1, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[EXIF] = orientation
    Image.fromarray(pixels).save(path, **({"exif": exif} if orientation != 1 else {}), **options)


def write_table(root: Path, rows: Sequence[str], header: str = "image,split,No Finding,Mass", **boxes: Any) -> None:
    """Write labels.csv, and boxes.csv where `boxes` are given."""
    (root / "labels.csv").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    if "boxes" in boxes:
        columns = boxes.get("columns", "image,class,x,y,w,h")
        (root / "boxes.csv").write_text("\n".join([columns, *boxes["boxes"]]) + "\n", encoding="utf-8")


def two(root: Path, pixels: npt.NDArray[Any] | None = None, **save_options: Any) -> None:
    """Write images n.png (train, No Finding) and m.png (test, Mass), and a table of them."""
    save(root / "n.png", noise())
    save(root / "m.png", noise(1) if pixels is None else pixels, **save_options)
    write_table(root, ["n.png,train,1,0", "m.png,test,0,1"])


def load(
    root: Path, size: int = 32, classes: Sequence[str] = CLASSES, task: str = "multiclass", **options: Any
) -> Splits:
    base = {} if "coco" in options else {"table": "labels.csv"}
    given = {"split_column": "split", **base, **options}
    return folder(classes=classes, input_size=size, data_root=root, options=given, task=task)


def write_coco(
    root: Path, marks: Sequence[Mapping[str, Any]], image: Mapping[str, Any] | None = None, **changes: Any
) -> None:
    """Write coco.json of images 1 (n.png, train) and 2 (m.png, test, changed by `image`), and of marks on 2."""
    table = {
        "images": [
            {"id": 1, "file_name": "n.png", "split": "train"},
            {"id": 2, "file_name": "m.png", "split": "test", **(image or {})},
        ],
        "categories": [{"id": 7, "name": "Mass"}, {"id": 8, "name": "Clip"}],
        "annotations": [{"id": 100 + n, "image_id": 2, "category_id": 7, **a} for n, a in enumerate(marks)],
    }
    (root / "coco.json").write_text(json.dumps({**table, **changes}))


def coco(root: Path, *annotations: Mapping[str, Any], image: Mapping[str, Any] | None = None, **options: Any) -> Splits:
    """Write coco.json, and the images where there are none, and load it."""
    if not (root / "m.png").exists():
        two(root)
    write_coco(root, annotations, image)
    return load(root, coco="coco.json", **options)


def region(splits: Splits) -> Region:
    """Return the region of the only test image, at its own size."""
    return splits.test.regions(0, frame=None)[1]


def rows_of(split: Split) -> dict[str, int]:
    return {image: row for row, image in enumerate(split.ids)}
