"""The dataset `folder`: splits of the images that a table describes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from xaibench.datasets.base import Split, Splits
from xaibench.datasets.chestxray8.images import decode, file_key, frame_of
from xaibench.datasets.folder.tables import Item, check_split, mask_of, one_of, read_boxes, read_coco, read_csv
from xaibench.errors import DataError, UsageError, did_you_mean, first_line
from xaibench.limits import UNREADABLE, check_name, open_image
from xaibench.types import Frame, Region, Sample

DEFAULTS: Mapping[str, Any] = {
    "table": "",
    "coco": "",
    "boxes": "",
    "images": ".",
    "image_column": "image",
    "label_column": "",
    "class_column": "class",
    "patient_column": "",
    "split_column": "",
    "negative_class": "No Finding",
    "val_fraction": 0.1,
    "test_fraction": 0.25,
    "split_seed": 0,
    "color": False,
}
_PLACES = ("table", "coco", "boxes", "images")


def folder(*, classes: Sequence[str], input_size: int, data_root: Path | None, options: Mapping[str, Any]) -> Splits:
    """Load images of one's own: a CSV table with an optional table of boxes, or a COCO file.

    Args:
        classes: columns, or names in the label column, or COCO categories.
        input_size: side of the square images; an image is stretched to it with its boxes and masks.
        data_root: the folder that tables and images stand in.
        options: see docs/folder.md.

    Raises:
        DataError: a table or an image is missing or damaged; names file and line.
        UsageError: no data root, an unknown option, a wrong value or a place outside the data root.
    """
    chosen = _options(options)
    if data_root is None:
        raise UsageError("folder needs --data-root: the folder that the table stands in")
    root = Path(data_root)
    classes, others = tuple(classes), 0
    if chosen["coco"]:
        items = read_coco(root / chosen["coco"], classes, chosen)
    else:
        items = read_csv(root / chosen["table"], classes, chosen)
        if chosen["boxes"]:
            others = read_boxes(root / chosen["boxes"], items, classes, chosen)
    used = [item for item in items if item.labels]
    if chosen["split_column"]:
        check_split(used, chosen["split_column"])
    else:
        _draw(used, chosen)
    made = {
        name: FolderSplit([i for i in used if i.split == name], classes, input_size, root / chosen["images"], chosen)
        for name in ("train", "val", "test")
    }
    for name in ("train", "test"):
        if not len(made[name]):
            raise DataError(f"folder: no {name} image of the classes {', '.join(classes)} in {root}")
    notes = [", ".join(f"{len(split):,} {name}" for name, split in made.items()) + " images"]
    if not chosen["patient_column"]:
        notes.append(
            "no patient_column: each image counts as a patient, so images of one patient may be on both sides and "
            "intervals may be too narrow; name the column if there is one"
        )
    if len(items) > len(used):
        notes.append(f"{len(items) - len(used):,} images of none of the classes left out")
    if others:
        notes.append(f"{others:,} boxes of other classes left out")
    return Splits(made["train"], made["val"], made["test"], notes=tuple(notes))


class FolderSplit(Split):
    """Images of one split, decoded when asked for; boxes and masks are scaled from the image's own pixels."""

    def __init__(
        self, items: Sequence[Item], classes: Sequence[str], size: int, images: Path, options: Mapping[str, Any]
    ) -> None:
        self.classes, self.frame = tuple(classes), Frame.square(size)
        self.items, self.images, self.color = list(items), images, bool(options["color"])
        self.ids = [item.id for item in items]
        self.patients = [item.patient for item in items]
        self.labels = np.zeros((len(items), len(classes)), dtype=np.float32)
        for row, item in enumerate(items):
            self.labels[row, list(item.labels)] = 1
        stats = [self._size_on_disk(item) for item in items]
        said = [[i.id, sorted(i.labels), i.patient, i.boxes, i.shapes] for i in items]
        text = json.dumps([said, stats, list(classes), size, self.color], sort_keys=True, default=str)
        self.fingerprint = hashlib.sha256(text.encode()).hexdigest()

    def __getitem__(self, index: int) -> Sample:
        path = self.images / self.ids[index]
        image = _color(path, self.frame.height) if self.color else decode(path, self.frame.height)
        return Sample(self.ids[index], image, self.labels[index], self.patients[index], self.regions(index))

    def regions(self, index: int, frame: Frame | Literal["input"] | None = "input") -> Mapping[int, Region]:
        item = self.items[index]
        targets = sorted({*item.boxes, *item.shapes})
        if not targets:
            return {}
        own = self.own_frame(index)
        wanted = self.frame if frame == "input" else frame or own
        return {target: _region(item, target, own).to(wanted) for target in targets}

    def own_frame(self, index: int) -> Frame:
        return frame_of(self.images / self.items[index].id)

    def image_key(self, index: int) -> str:
        how = "RGB, PIL bilinear " if self.color else ""
        return how + file_key(str(self.images / self.ids[index]), self.frame.height)

    def _size_on_disk(self, item: Item) -> int:
        try:
            return (self.images / item.id).stat().st_size
        except (OSError, ValueError):
            raise DataError(f"{item.where}: no image {self.images / item.id}") from None


def _region(item: Item, target: int, own: Frame) -> Region:
    boxes = [
        (max(x0, 0.0), max(y0, 0.0), min(x1, float(own.width)), min(y1, float(own.height)))
        for x0, y0, x1, y1 in item.boxes.get(target, ())
    ]
    if any(x1 <= x0 or y1 <= y0 for x0, y0, x1, y1 in boxes):
        raise DataError(f"{item.where}: a box of {item.id} is outside its {own.width} x {own.height} pixels")
    mask = None
    if target in item.shapes:
        mask = mask_of(item.shapes[target], own.height, own.width, f"{item.where}, {item.id}")
        if not boxes and mask.any():
            rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
            boxes = [(float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))]
    return Region(np.array(boxes), own, mask)


def _color(path: Path, size: int) -> npt.NDArray[np.float32]:
    from PIL import Image

    try:
        with open_image(path) as opened:
            resized = opened.convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
    except UNREADABLE as error:
        raise DataError(f"{path} is no image: {first_line(error)}") from error
    return np.ascontiguousarray(np.asarray(resized, dtype=np.float32).transpose(2, 0, 1) / np.float32(255))


def _draw(items: Sequence[Item], options: Mapping[str, Any]) -> None:
    """Split by patient: shares of the patients in an order that the seed draws."""
    patients = sorted({item.patient for item in items})
    order = np.random.default_rng(options["split_seed"]).permutation(len(patients))
    test = round(len(patients) * options["test_fraction"])
    val = round((len(patients) - test) * options["val_fraction"])
    of = {patients[at]: "test" if n < test else "val" if n < test + val else "train" for n, at in enumerate(order)}
    for item in items:
        item.split = of[item.patient]


def _options(given: Mapping[str, Any]) -> dict[str, Any]:
    for name, value in given.items():
        if name not in DEFAULTS:
            raise UsageError(f"folder has no option {name!r}. {did_you_mean(name, DEFAULTS)}")
        wanted = float if isinstance(DEFAULTS[name], float) else type(DEFAULTS[name])
        if not isinstance(value, (int, float) if wanted is float else wanted) or (
            wanted is not bool and isinstance(value, bool)
        ):
            raise UsageError(f"folder: {name} = {value!r}; it is a {wanted.__name__}")
        if name in _PLACES and value:
            try:
                check_name(value)
            except ValueError as error:
                raise UsageError(f"folder: {name}: {error}: it is looked for in the data root") from None
        if name.endswith("_fraction") and not 0 <= value < 1:
            raise UsageError(f"folder: {name} = {value!r}; it is a share, from 0 to below 1")
    chosen = {**DEFAULTS, **given}
    one_of(chosen)
    return chosen
