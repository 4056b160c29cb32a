"""From the tables to the images that are used: what is left out and why, and which split each of the rest is in."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from xaibench.datasets.folder.coco import read_coco
from xaibench.datasets.folder.items import Described, Item, Refuse, check_labels
from xaibench.datasets.folder.masks import read_masks
from xaibench.datasets.folder.options import Options
from xaibench.datasets.folder.tables import read_boxes, read_csv
from xaibench.datasets.names import alike, composed
from xaibench.findings import Note

NONE_OF_THE_CLASSES, MISSING = "of none of the classes", "whose file is missing"


@dataclass
class Selection:
    """What the tables say.

    Attributes:
        named: how many images they name.
        used: those that are in a split.
        left_out: reason to how many are not.
        notes: for the user.
    """

    named: int
    used: list[Item]
    left_out: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def leave_out(self, reason: str, number: int) -> None:
        """Note that images are in no split."""
        if number:
            self.left_out[reason] = self.left_out.get(reason, 0) + number
            self.notes.append(f"{number:,} images {reason} left out")


def describe(root: Path, classes: Sequence[str], options: Options, task: str, refuse: Refuse) -> Selection:
    """Read the tables, check that they agree, and leave out what the task has no use for.

    With "multiclass" these are images of none of the classes; with "multilabel" they stay, as negatives of each class.

    Raises:
        DataError: a table is missing or damaged.
    """
    described = _read(root, classes, options, task, refuse)
    items = described.items
    check_labels(items, classes, task, refuse)
    used = [item for item in items if item.labels or task == "multilabel"]
    selection = Selection(len(items), used)
    selection.leave_out(NONE_OF_THE_CLASSES, len(items) - len(used))
    if not options.patient_column:
        text = (
            "no patient_column: each image counts as a patient, so images of one patient may be on both sides and "
            "intervals may be too narrow; name the column if there is one"
        )
        selection.notes.append(Note(text, "warning"))
    if described.others:
        names = ", ".join(f"{name} {number:,}" for name, number in sorted(described.others.items()))
        what = "boxes" if options.boxes else "masks" if options.masks else "annotations"
        selection.notes.append(f"{sum(described.others.values()):,} {what} of other classes left out ({names})")
    return selection


def _read(root: Path, classes: Sequence[str], options: Options, task: str, refuse: Refuse) -> Described:
    if options.coco:
        return read_coco(root / options.coco, classes, options, task, refuse)
    described = read_csv(root / options.table, classes, options, refuse)
    if options.boxes:
        described.others = read_boxes(root / options.boxes, described.items, classes, options, refuse)
    if options.masks:
        described.others = read_masks(root / options.masks, described.items, classes, refuse)
    return described


def check_files(selection: Selection, images: Path, refuse: Refuse) -> None:
    """Refuse items without a file, saying whether one is there under a name like theirs."""
    there = [item for item in selection.used if os.path.isfile(f"{images}/{item.id}")]
    for item in selection.used if len(there) < len(selection.used) else ():
        if not os.path.isfile(path := f"{images}/{item.id}"):
            refuse(f"{item.where}: no image {path}{_alike(images / item.id)}")
    selection.leave_out(MISSING, len(selection.used) - len(there))
    selection.used = there


def _alike(path: Path) -> str:
    """Return the remedy where a file of the same name in another Unicode form or case stands in its place."""
    try:
        near = next(name for name in sorted(os.listdir(path.parent)) if alike(name) == alike(path.name))
    except (OSError, StopIteration):
        return ""
    form = "in another Unicode form (NFC, NFD)" if composed(near) == composed(path.name) else "spelt otherwise"
    return f", but {near!r} is there, the same name {form}: write both the same way"


def draw(selection: Selection, options: Options, refuse: Refuse) -> None:
    """Put the items in splits: as the column says, or shares of the patients in an order that the seed draws.

    Raises:
        DataError: the column names another split, or one patient in two of them.
    """
    if options.split_column:
        _check_split(selection.used, options.split_column, refuse)
        return
    patients = sorted({item.patient for item in selection.used})
    order = np.random.default_rng(options.split_seed).permutation(len(patients))
    test = round(len(patients) * options.test_fraction)
    val = round((len(patients) - test) * options.val_fraction)
    of = {patients[at]: "test" if n < test else "val" if n < test + val else "train" for n, at in enumerate(order)}
    for item in selection.used:
        item.split = of[item.patient]


def _check_split(items: Sequence[Item], column: str, refuse: Refuse) -> None:
    of: dict[str, Item] = {}
    for item in items:
        if item.split not in ("train", "val", "test"):
            refuse(f"{item.where}: {column} = {item.split!r}; it is train, val or test")
        first = of.setdefault(item.patient, item)
        if first.split != item.split:
            refuse(
                f"{item.where}: patient {item.patient!r} is in {item.split} and, by {first.where}, in {first.split}: "
                f"correct {column}, or leave split_column out for a patient-disjoint split"
            )
