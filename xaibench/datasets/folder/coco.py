"""What a COCO file says of the images and of what is marked in them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from xaibench.datasets.folder.items import Described, Item, Mark, Refuse, text_of
from xaibench.datasets.folder.options import Options
from xaibench.datasets.folder.tables import Names, class_of, in_folder, no_area
from xaibench.errors import DataError, did_you_mean, first_line
from xaibench.io.limits import read_json
from xaibench.types import Frame

_LARGEST = 10**7
"""Pixels on a side: no image has more."""


def read_coco(path: Path, classes: Sequence[str], options: Options, task: str, refuse: Refuse) -> Described:
    """Read a COCO file: an image has the classes of its annotations, without any the option `negative_class`.

    Raises:
        DataError: damaged, a class that is no category, an id or a file twice, or an annotation of an unknown image or
            with a wrong box; names file and annotation.
    """
    try:
        table = read_json(path, finite=True)
        targets = _categories(path, table["categories"], classes, options.negative_class, refuse)
        items = _images(path, table["images"], options, refuse)
        annotations = [dict(entry) for entry in table["annotations"]]
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except KeyError as error:
        raise DataError(f"{path}: the key {error} is missing") from error
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is no COCO file: {first_line(error)}") from error
    others: Counter[str] = Counter()
    noted = _Annotated(classes, options.negative_class, task, refuse)
    for number, entry in enumerate(annotations):
        where = f"{path}: annotation {str(entry.get('id', f'number {number}'))[:40]}"
        try:
            item, (name, target) = items[entry["image_id"]], targets[entry["category_id"]]
        except (KeyError, TypeError):
            refuse(f"{where}: its image_id or category_id is not in the file: correct it, or take the annotation out")
            continue
        if not noted.add(item, name, entry.get("id"), where):
            continue
        if target is None:
            others[name] += 1
            continue
        item.labels.add(target)
        item.labelled_by.setdefault(target, where.removeprefix(f"{path}: "))
        if mark := _mark(entry, where, refuse):
            item.add(target, mark)
    if options.negative_class in classes:
        for item in items.values():
            if item.id not in noted.first:
                item.labels.add(classes.index(options.negative_class))
    return Described(list(items.values()), others)


class _Annotated:
    """Which images have annotations, by whom; refuses ids that come twice, and a finding beside the negative class."""

    def __init__(self, classes: Sequence[str], negative: str, task: str, refuse: Refuse) -> None:
        self.first: dict[str, tuple[str, str]] = {}
        self._negative = negative if task == "multiclass" and negative in classes else None
        self._refuse, self._ids = refuse, dict[Any, str]()

    def add(self, item: Item, name: str, number: object, where: str) -> bool:
        """Note an annotation; return whether it can be used."""
        if number is not None and self._ids.setdefault(str(number), where) is not where:
            self._refuse(f"{where}: this id came already: give each annotation its own")
            return False
        first, first_where = self.first.setdefault(item.id, (name, where))
        if first != name and self._negative in (first, name):
            self._refuse(f"{where}: {name} on {item.id}, which is {first} by {first_where}: take one of the two out")
            return False
        return True


def _categories(
    path: Path, entries: Sequence[Mapping[str, Any]], classes: Sequence[str], negative: str, refuse: Refuse
) -> dict[Any, tuple[str, int | None]]:
    """Return category id to its name and the index of the class, None for another class."""
    found: dict[Any, tuple[str, int | None]] = {}
    for entry in entries:
        where, name = f"{path}: category {str(entry['id'])[:40]}", str(entry["name"])
        if entry["id"] in found:
            refuse(f"{where}: this id came already ({found[entry['id']][0]!r}, {name!r}): give each category its own")
            continue
        found[entry["id"]] = (name, class_of(name, classes, where, refuse))
    have = {target for _, target in found.values()}
    for target, known in enumerate(classes):
        if target not in have and known != negative:
            names = [name for name, _ in found.values()]
            refuse(f"{path}: no category {known!r}. {did_you_mean(known, names)}")
    return found


def _images(path: Path, entries: Sequence[Mapping[str, Any]], options: Options, refuse: Refuse) -> dict[Any, Item]:
    """Return the images by their id."""
    items: dict[Any, Item] = {}
    seen = Names()
    for entry in entries:
        where = f"{path}: image {str(entry['id'])[:40]}"
        name = in_folder(entry["file_name"], where)
        message = seen.add(name, where)
        if entry["id"] in items:
            message = f"{where}: this id came already ({items[entry['id']].id!r}, {name!r}): give each image its own"
        if message:
            refuse(message)
            continue
        item = Item(name, where, set(), name, declared=_declared(entry, where, refuse), declared_by=where)
        for attribute, key in (("patient", options.patient_column), ("split", options.split_column)):
            if key:
                setattr(item, attribute, text_of(entry[key]))
        if not item.patient:
            raise DataError(f"{where}: {options.patient_column} = {entry[options.patient_column]!r}: no patient")
        items[entry["id"]] = item
    return items


def _declared(entry: Mapping[str, Any], where: str, refuse: Refuse) -> Frame | None:
    """Return the size that a file declares for an image, None where it declares none (absent, null or 0)."""
    sides = [entry.get("height") or 0, entry.get("width") or 0]
    if 0 in sides:
        return None
    if all(type(side) in (int, float) and 0 < side <= _LARGEST and side == int(side) for side in sides):
        return Frame(*map(int, sides))
    refuse(f"{where}: width and height {sides[::-1]} are not whole numbers of pixels: correct them, or leave both out")
    return None


def _mark(entry: Mapping[str, Any], where: str, refuse: Refuse) -> Mark | None:
    """Return an annotation's box and mask, None where it has neither: then it says that the class is there, no more."""
    box = None
    if given := entry.get("bbox"):
        try:
            x, y, width, height = map(float, given)
        except (TypeError, ValueError, OverflowError):
            refuse(f"{where}: bbox is x, y, width, height")
            return None
        box = (x, y, x + width, y + height)
        if message := no_area(box):
            refuse(f"{where}: {message}")
            return None
    shape = entry.get("segmentation")
    return Mark(where, box, shape or None, sized=True) if box or shape else None
