"""What CSV tables say of the images and their boxes."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from posixpath import normpath

import numpy as np

from xaibench.datasets.folder.items import Box, Described, Item, Mark, Refuse
from xaibench.datasets.folder.options import Options
from xaibench.datasets.names import alike, composed
from xaibench.errors import DataError, did_you_mean, first_line
from xaibench.io.limits import TEXT_BYTES, check_name, check_size

CORNERS, SIZES = ("x0", "y0", "x1", "y1"), ("x", "y", "w", "h")


def read_csv(path: Path, classes: Sequence[str], options: Options, refuse: Refuse) -> Described:
    """Read a table of images: a column for each class (0 or 1), or one of names with | between them.

    Raises:
        DataError: no file, a column missing, a wrong value, an image twice or outside the folder; names file and line.
    """
    named, patient, split = options.label_column, options.patient_column, options.split_column
    needed = [options.image_column, *([named] if named else classes), *filter(None, (patient, split))]
    items, seen, known_names = [], Names(), dict[str, int | None]()
    for line, row in _rows(path, needed):
        where = f"{path}:{line}"
        name = row[options.image_column]
        if not name:
            raise DataError(f"{where}: no image")
        if message := seen.add(in_folder(name, where), where):
            refuse(message)
            continue
        if named:
            names = [label.strip() for label in row[named].split("|") if label.strip()]
            for label in names:
                if label not in known_names:
                    known_names[label] = class_of(label, classes, where, refuse)
            labels = {target for label in names if (target := known_names[label]) is not None}
        else:
            labels = {k for k, known in enumerate(classes) if _is_one(row[known], known, where)}
        who = composed(row[patient]) if patient else name
        if not who:
            raise DataError(f"{where}: no {patient}")
        items.append(Item(name, where, labels, who, row[split] if split else ""))
    for target, known in enumerate(classes if named else ()):
        if target not in known_names.values():
            raise DataError(f"{path}: no image has the class {known!r} in {named}. {did_you_mean(known, known_names)}")
    return Described(items)


def read_boxes(
    path: Path, items: Sequence[Item], classes: Sequence[str], options: Options, refuse: Refuse
) -> Counter[str]:
    """Add the boxes of a table (image, class, and x0 y0 x1 y1 or x y w h, in pixels of the image) to the items.

    Returns:
        Names of other classes to how many of their boxes were left out.

    Raises:
        DataError: a column missing, a wrong value, an unknown image; names file and line.
    """
    by_name, others = {composed(item.id): item for item in items}, Counter[str]()
    for line, row in _rows(path, [options.image_column, options.class_column]):
        where, name = f"{path}:{line}", row[options.class_column]
        columns = CORNERS if all(key in row for key in CORNERS) else SIZES
        if not all(key in row for key in columns):
            raise DataError(f"{path}: a box needs the columns {', '.join(CORNERS)} or {', '.join(SIZES)}")
        item = by_name.get(composed(row[options.image_column]))
        if item is None or item.id != row[options.image_column]:
            refuse(_unknown(row[options.image_column], item, where))
            continue
        target = class_of(name, classes, where, refuse)
        if target is None:
            others[name] += 1
            continue
        try:
            x0, y0, a, b = (float(row[key]) for key in columns)
        except ValueError as error:
            raise DataError(f"{where}: {first_line(error)}") from error
        box = (x0, y0, a, b) if columns is CORNERS else (x0, y0, x0 + a, y0 + b)
        if message := no_area(box):
            refuse(f"{where}: {message}")
            continue
        item.add(target, Mark(where, box, sized=columns is SIZES))
    return others


class Names:
    """File names that came already, however they are written."""

    def __init__(self) -> None:
        self._where: dict[str, tuple[str, str]] = {}

    def add(self, name: str, where: str) -> str:
        """Note a name; return what is wrong with it, "" for nothing."""
        key = normpath(composed(name))
        if key not in self._where:
            self._where[key] = (name, where)
            return ""
        first, first_where = self._where[key]
        form = "" if first == name else f", written {first!r}"
        return f"{where}: image {name!r} came already ({first_where}{form}): keep one"


def class_of(name: str, classes: Sequence[str], where: str, refuse: Refuse) -> int | None:
    """Return the index of a class, None for another class; a name that only looks like one of them is refused."""
    for target, known in enumerate(classes):
        if composed(known) == composed(name):
            return target
    for known in classes:
        if alike(known) == alike(name):
            refuse(f"{where}: the class {name!r} is none of the benchmark's, which has {known!r}: spell both the same")
    return None


def no_area(box: Box) -> str:
    """Return what is wrong with a box, "" for nothing."""
    if not np.isfinite(box).all() or box[2] <= box[0] or box[3] <= box[1]:
        return f"the box {list(box)} has no area: give x0 below x1 and y0 below y1, or a width and height above 0"
    return ""


def in_folder(name: object, where: str) -> str:
    """Return the name of a file in the folder of images.

    Raises:
        DataError: it is none.
    """
    try:
        return check_name(name)
    except ValueError as error:
        raise DataError(f"{where}: {error} of images: give the name of a file in it") from None


def _unknown(name: str, item: Item | None, where: str) -> str:
    if item is None:
        return f"{where}: image {name!r} is not in the table of images: add it there, or take the box out"
    return (
        f"{where}: image {name!r} is written in another Unicode form (NFC, NFD) than in {item.where}, so that they are "
        "two names: write both in one form"
    )


def _rows(path: Path, needed: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    try:
        check_size(path, TEXT_BYTES)
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            known = list(reader.fieldnames or [])
            for column in needed:
                if column not in known:
                    raise DataError(f"{path}: no column {column!r}. {_instead(column, known)}")
                if known.count(column) > 1:
                    raise DataError(f"{path}: two columns {column!r}: keep one")
            for row in reader:
                if None in row or None in row.values():
                    raise DataError(f"{path}:{reader.line_num}: not {len(known)} fields")
                yield reader.line_num, {key: value.strip() for key, value in row.items()}
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{path} can't be read: {first_line(error)}") from error


def _instead(column: str, known: Sequence[str]) -> str:
    for other in known:
        if composed(other) == composed(column):
            return "It has the same letters in another Unicode form (NFC, NFD): write both in one form."
    return did_you_mean(column, known)


def _is_one(cell: str, column: str, where: str) -> bool:
    try:
        value = float(cell or 0)
    except ValueError:
        value = -1.0
    if value not in (0, 1):
        raise DataError(f"{where}: {column} = {cell!r}; it is 0 or 1")
    return value == 1
