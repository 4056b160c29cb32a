"""Masks in CheXlocalize's file of segmentations: image id to class to a run-length code."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from operator import index
from pathlib import Path
from typing import Any

from xaibench.datasets.folder.items import Item, Mark, Refuse
from xaibench.datasets.folder.rle import bounds
from xaibench.datasets.folder.tables import class_of
from xaibench.datasets.names import composed, other_name, owners
from xaibench.errors import DataError, first_line
from xaibench.io.limits import check_pixels, read_json
from xaibench.types import Frame


def read_masks(path: Path, items: Sequence[Item], classes: Sequence[str], refuse: Refuse) -> Counter[str]:
    """Add the masks of a file like CheXlocalize's gt_segmentations_test.json to the items.

    The file is ``{image: {class: {"size": [height, width], "counts": runs}}}``, the image as `find_items` has it. An
    all-zero mask says that the class is not in the image.

    Returns:
        Names of other classes to how many of their masks that are not all zero were left out.

    Raises:
        DataError: damaged, an image that the table lacks or that may be two, or a mask that does not fit its size.
    """
    try:
        table = read_json(path, finite=True)
        entries = [(str(key), dict(masks)) for key, masks in table.items()]
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is no file of masks: {first_line(error)}") from error
    others: Counter[str] = Counter()
    found = find_items(path, [key for key, _ in entries], items, refuse)
    names = _Classes(classes, refuse)
    for key, masks in entries:
        for name, mask in masks.items() if key in found else ():
            where = f"{path}: {key[:200]}, {name[:80]}"
            message = _add(found[key], name, mask, names, where, others)
            if message:
                refuse(message)
    return others


def _add(item: Item, name: str, mask: Any, names: _Classes, where: str, others: Counter[str]) -> str:
    """Add a mask to an item or to the count of the others; return what is wrong with it, "" for nothing."""
    try:
        height, width = map(index, mask["size"])
        check_pixels((height, width))
        frame = Frame(height, width)
        box = bounds(mask["counts"], height, width)
    except (ValueError, LookupError, TypeError, OverflowError) as error:
        return f"{where}: no mask of size [height, width] and counts: {first_line(error)}"
    if item.declared and item.declared != frame:
        return f"{where}: its size {[height, width]} is not that of {item.declared_by}: make them equal"
    item.declared, item.declared_by = frame, item.declared_by or where
    target = names.target(name, where)
    if box is None:
        return ""
    if target is None:
        others[name] += 1
    else:
        item.add(target, Mark(where, None, mask))
    return ""


class _Classes:
    """Which of the benchmark's classes a name in the file means."""

    def __init__(self, classes: Sequence[str], refuse: Refuse) -> None:
        self._classes, self._refuse, self._known = classes, refuse, dict[str, int | None]()

    def target(self, name: str, where: str) -> int | None:
        if name not in self._known:
            known = class_of(name, self._classes, where, self._refuse)
            if known is None:
                known = next(
                    (row for row, own in enumerate(self._classes) if name == other_name(own, self._classes)), None
                )
            self._known[name] = known
        return self._known[name]


def find_items(path: Path, keys: Sequence[str], items: Iterable[Item], refuse: Refuse) -> Mapping[str, Item]:
    """Return the item that each key names.

    A key is an image's name, with or without its suffix, with underscores for slashes or not; where no image has that
    whole name, the end of its path.
    """
    by_id = {item.id: item for item in items}
    meant = owners(keys, by_id)
    found: dict[str, Item] = {}
    taken: dict[str, str] = {}
    for key in keys:
        fitting = meant.get(composed(key), ())
        if len(fitting) != 1:
            refuse(_which(path, key, fitting))
        elif (first := taken.setdefault(fitting[0], key)) != key:
            refuse(f"{path}: {first[:200]} and {key[:200]} both name {fitting[0]}: keep one")
        else:
            found[key] = by_id[fitting[0]]
    return found


def _which(path: Path, key: str, fitting: Sequence[str]) -> str:
    if not fitting:
        return f"{path}: {key[:200]} is no image of the table: add it there, or take it out"
    return f"{path}: {key[:200]} may be {fitting[0]} or {fitting[1]}: write the image's whole path"
