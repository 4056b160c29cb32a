"""The dataset `folder`: splits of the images that a table describes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from xaibench.datasets.base import Split, Splits
from xaibench.datasets.content import sha256_of, sha256_of_one
from xaibench.datasets.folder.describe import check_files, describe, draw
from xaibench.datasets.folder.items import Item, refuse
from xaibench.datasets.folder.marks import check_marks, region_of
from xaibench.datasets.folder.options import DEFAULTS, parse_options
from xaibench.datasets.folder.pixels import Recipe, decode, headers, stored_divisors
from xaibench.datasets.folder.placing import place
from xaibench.errors import DataError, UsageError
from xaibench.types import Frame, Region, Sample

__all__ = ["DEFAULTS", "FolderSplit", "folder"]


def folder(
    *,
    classes: Sequence[str],
    input_size: int,
    data_root: Path | None,
    options: Mapping[str, Any],
    task: str = "multiclass",
) -> Splits:
    """Load images of one's own: a CSV table with an optional table of boxes or file of masks, or a COCO file.

    Args:
        classes: columns, or names in the label column, or COCO categories.
        input_size: side of the square images; an image is stretched to it with its boxes and masks.
        data_root: the folder that tables and images stand in.
        options: see docs/folder.md.
        task: "multiclass", one class an image, or "multilabel", any number of them, also none.

    Raises:
        DataError: a table or an image is missing or damaged, or they contradict each other; names file and line.
        UsageError: no data root, an unknown option, a wrong value or a place outside the data root.
    """
    chosen = parse_options(options)
    if data_root is None:
        raise UsageError("folder needs --data-root: the folder that the table stands in")
    root, classes = Path(data_root), tuple(classes)
    images = root / chosen.images
    selection = describe(root, classes, chosen, task, refuse)
    check_files(selection, images, refuse)
    draw(selection, chosen, refuse)
    paths = [images / item.id for item in selection.used]
    notes = [
        *selection.notes,
        *place(selection.used, headers(paths, images), chosen, refuse),
        *check_marks(selection.used, refuse),
    ]
    divisors = stored_divisors(paths, images) if chosen.range == "stored" else ()
    recipe = Recipe(chosen.color, chosen.range, divisors)
    made = {
        name: FolderSplit([item for item in selection.used if item.split == name], classes, input_size, images, recipe)
        for name in ("train", "val", "test")
    }
    for name in ("train", "test"):
        if not len(made[name]):
            raise DataError(f"folder: no {name} image of the classes {', '.join(classes)} in {root}")
    notes = [", ".join(f"{len(split):,} {name}" for name, split in made.items()) + " images", *notes]
    return Splits(made["train"], made["val"], made["test"], notes=tuple(notes), left_out=selection.left_out)


class FolderSplit(Split):
    """Images of one split, decoded when asked for; boxes and masks are scaled from the grid that they were drawn on."""

    def __init__(self, items: Sequence[Item], classes: Sequence[str], size: int, images: Path, recipe: Recipe) -> None:
        self.classes, self.frame = tuple(classes), Frame.square(size)
        self.items, self.images, self.recipe = list(items), images, recipe
        self.ids = [item.id for item in items]
        self.patients = [item.patient for item in items]
        self.labels = np.zeros((len(items), len(classes)), dtype=np.float32)
        for row, item in enumerate(items):
            self.labels[row, list(item.labels)] = 1
        self.fingerprint = self._fingerprint()

    def __getitem__(self, index: int) -> Sample:
        item = self.items[index]
        image = decode(self.images / item.id, self.frame.height, self.recipe, item.orientation, item.own)
        return Sample(item.id, image, self.labels[index], item.patient, self.regions(index))

    def regions(self, index: int, frame: Frame | Literal["input"] | None = "input") -> Mapping[int, Region]:
        item = self.items[index]
        wanted = self.frame if frame == "input" else frame or item.own
        return {target: region_of(item, target).to(wanted) for target in sorted(item.marks)}

    def own_frame(self, index: int) -> Frame:
        return self.items[index].own

    def image_key(self, index: int) -> str:
        item = self.items[index]
        content = sha256_of_one(self.images / item.id, self.images)
        return f"{content} {self.frame.height} px, {self.recipe}, orientation {item.orientation}"

    def _fingerprint(self) -> str:
        said = [
            [item.id, sorted(item.labels), item.patient, item.orientation, str(item.frame), _said(item)]
            for item in self.items
        ]
        contents = sha256_of([self.images / item.id for item in self.items], self.images)
        text = json.dumps([said, contents, self.classes, self.frame.height, str(self.recipe)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def _said(item: Item) -> dict[int, list[Any]]:
    return {target: [[mark.box, mark.shape] for mark in marks] for target, marks in item.marks.items()}
