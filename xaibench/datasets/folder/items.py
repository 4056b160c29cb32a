"""What tables say of the images, in one form whatever they are: items with marks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from xaibench.datasets.names import composed
from xaibench.errors import DataError
from xaibench.types import Frame

Box = tuple[float, float, float, float]
Refuse = Callable[[str], None]
"""What is done about a contradiction: a run ends with it, `xaibench data check` lists it and goes on."""

_NO_FRAME = Frame(1, 1)


def refuse(message: str) -> None:
    """End with a contradiction in the data.

    Raises:
        DataError: always.
    """
    raise DataError(message)


@dataclass(slots=True)
class Mark:
    """One annotation: a box, a COCO segmentation (polygons or runs), or both, in the item's `frame`.

    Attributes:
        where: file and line, or file and annotation.
        box: x0, y0, x1, y1.
        shape: the segmentation, None where there is none.
        sized: whether the box was given as x, y, width, height.
    """

    where: str
    box: Box | None = None
    shape: Any = None
    sized: bool = False


@dataclass(slots=True)
class Item:
    """One image.

    Attributes:
        id: its file's name.
        where: file and line, or file and entry, that it comes from.
        labels: indices of the benchmark's classes that it has.
        patient: unit of splitting and of resampling.
        split: "" unless the table says.
        labelled_by: class index to the annotation that gave it, where labels come from annotations.
        marks: class index to annotations.
        declared: the size that the annotations are said to be made on, None where none is given.
        declared_by: file and entry that declare it.
        frame: the grid of the marks; set by `place`.
        own: the size of the image as it is scored; set by `place`.
        orientation: EXIF's, that the stored pixels are turned by; set by `place`.
    """

    id: str
    where: str
    labels: set[int]
    patient: str
    split: str = ""
    labelled_by: dict[int, str] = field(default_factory=dict)
    marks: dict[int, list[Mark]] = field(default_factory=dict)
    declared: Frame | None = None
    declared_by: str = ""
    frame: Frame = _NO_FRAME
    own: Frame = _NO_FRAME
    orientation: int = 1

    def add(self, target: int, mark: Mark) -> None:
        self.marks.setdefault(target, []).append(mark)


@dataclass
class Described:
    """What the tables of a data set say.

    Attributes:
        items: the images, in the order of the table.
        others: names of other classes to how many boxes, masks or annotations of them were left out.
        notes: what else there is to say.
    """

    items: list[Item]
    others: Mapping[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def text_of(value: object) -> str:
    """Return the text of a patient or split in JSON: a text, or a whole number; "" for anything else."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, str | int):
        return ""
    return composed(str(value).strip())


def check_labels(items: Sequence[Item], classes: Sequence[str], task: str, refuse: Refuse) -> None:
    """Refuse several classes of one image where the benchmark wants one, and marks of a class that an image lacks."""
    for item in items:
        if task == "multiclass" and len(item.labels) > 1:
            names = ", ".join(_named(classes[target], item.labelled_by.get(target)) for target in sorted(item.labels))
            refuse(
                f"{item.where}: {item.id} has {len(item.labels)} of the classes ({names}), where the benchmark wants "
                'one: give the benchmark task = "multilabel", or keep one class'
            )
        for target in sorted(item.marks.keys() - item.labels):
            first = item.marks[target][0]
            refuse(
                f"{first.where}: {classes[target]} is marked on {item.id}, which does not have that class by "
                f"{item.where}: correct the label, or take the box or mask out"
            )


def _named(name: str, where: str | None) -> str:
    return f"{name} by {where}" if where else name
