"""What a CSV table or a COCO file says of the images."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from xaibench.datasets.folder.rle import decode, polygon
from xaibench.errors import DataError, UsageError, did_you_mean, first_line
from xaibench.limits import TEXT_BYTES, check_name, check_size, read_json
from xaibench.types import BoolArray

Box = tuple[float, float, float, float]
CORNERS, SIZES = ("x0", "y0", "x1", "y1"), ("x", "y", "w", "h")


@dataclass
class Item:
    """One image: its file, classes (indices), patient, split ("" unless the table says), and what is marked in it."""

    id: str
    where: str
    labels: set[int]
    patient: str
    split: str = ""
    boxes: dict[int, list[Box]] = field(default_factory=dict)
    shapes: dict[int, list[Any]] = field(default_factory=dict)
    """Class index to COCO segmentations, each polygons or runs."""


def read_csv(path: Path, classes: Sequence[str], options: Mapping[str, Any]) -> list[Item]:
    """Read a table of images: a column for each class (0 or 1), or one of names with | between them.

    Raises:
        DataError: no file, a column missing, a wrong value, an image twice or outside the folder; names file and line.
    """
    named, patient, split = options["label_column"], options["patient_column"], options["split_column"]
    needed = [options["image_column"], *([named] if named else classes), *filter(None, (patient, split))]
    items: dict[str, Item] = {}
    for line, row in _rows(path, needed):
        where = f"{path}:{line}"
        name = row[options["image_column"]]
        if not name:
            raise DataError(f"{where}: no image")
        _in_folder(name, where)
        if name in items:
            raise DataError(f"{where}: image {name!r} came already ({items[name].where})")
        labels = {k for k, known in enumerate(classes) if named and known in _names(row[named])}
        if not named:
            labels = {k for k, known in enumerate(classes) if _is_one(row[known], known, where)}
        items[name] = Item(name, where, labels, row[patient] if patient else name, row[split] if split else "")
        if not items[name].patient:
            raise DataError(f"{where}: no {patient}")
    return list(items.values())


def read_boxes(path: Path, items: Sequence[Item], classes: Sequence[str], options: Mapping[str, Any]) -> int:
    """Add the boxes of a table (image, class, and x0 y0 x1 y1 or x y w h, in pixels of the image) to the items.

    Returns:
        How many boxes of other classes were passed over.

    Raises:
        DataError: a column missing, a wrong value, an unknown image; names file and line.
    """
    by_id, others = {item.id: item for item in items}, 0
    for line, row in _rows(path, [options["image_column"], options["class_column"]]):
        where, name = f"{path}:{line}", row[options["class_column"]]
        columns = CORNERS if all(key in row for key in CORNERS) else SIZES
        if not all(key in row for key in columns):
            raise DataError(f"{path}: a box needs the columns {', '.join(CORNERS)} or {', '.join(SIZES)}")
        if row[options["image_column"]] not in by_id:
            raise DataError(f"{where}: image {row[options['image_column']]!r} is not in the table of images")
        if name not in classes:
            others += 1
            continue
        try:
            x0, y0, a, b = (float(row[key]) for key in columns)
        except ValueError as error:
            raise DataError(f"{where}: {first_line(error)}") from error
        box = (x0, y0, a, b) if columns is CORNERS else (x0, y0, x0 + a, y0 + b)
        by_id[row[options["image_column"]]].boxes.setdefault(classes.index(name), []).append(_checked(box, where))
    return others


def read_coco(path: Path, classes: Sequence[str], options: Mapping[str, Any]) -> list[Item]:
    """Read a COCO file: an image has the classes of its annotations, without any the option `negative_class`.

    Raises:
        DataError: damaged, an image twice or outside the folder, or an annotation of an unknown image or with a wrong
            box or mask; names file and annotation.
    """
    try:
        table = read_json(path, finite=True)
        names = {entry["id"]: str(entry["name"]) for entry in table["categories"]}
        items = _coco_images(path, table["images"], options)
        annotations = [dict(entry) for entry in table["annotations"]]
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except KeyError as error:
        raise DataError(f"{path}: the key {error} is missing") from error
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is no COCO file: {first_line(error)}") from error
    found: set[str] = set()
    for entry in annotations:
        where = f"{path}: annotation {str(entry.get('id'))[:40]}"
        try:
            item, name = items[entry["image_id"]], names[entry["category_id"]]
        except (KeyError, TypeError):
            raise DataError(f"{where}: its image_id or category_id is not in the file") from None
        found.add(item.id)
        if name not in classes:
            continue
        target = classes.index(name)
        item.labels.add(target)
        if box := entry.get("bbox"):
            try:
                x, y, w, h = map(float, box)
            except (TypeError, ValueError, OverflowError):
                raise DataError(f"{where}: bbox is x, y, width, height") from None
            item.boxes.setdefault(target, []).append(_checked((x, y, x + w, y + h), where))
        if shape := entry.get("segmentation"):
            item.shapes.setdefault(target, []).append(shape)
    negative = options["negative_class"]
    if negative in classes:
        for item in items.values():
            if item.id not in found:
                item.labels.add(classes.index(negative))
    return list(items.values())


def _coco_images(path: Path, entries: Sequence[Mapping[str, Any]], options: Mapping[str, Any]) -> dict[Any, Item]:
    """Return the images of a COCO file by their id."""
    patient, split = options["patient_column"], options["split_column"]
    items: dict[Any, Item] = {}
    files: dict[str, str] = {}
    for entry in entries:
        where = f"{path}: image {str(entry['id'])[:40]}"
        file = _in_folder(entry["file_name"], where)
        if entry["id"] in items or file in files:
            raise DataError(f"{where}: {file!r} or its id came already")
        files[file] = where
        items[entry["id"]] = Item(
            file, where, set(), str(entry[patient]) if patient else file, str(entry[split]) if split else ""
        )
    return items


def mask_of(shapes: Sequence[Any], height: int, width: int, where: str) -> BoolArray:
    """Return the union of COCO segmentations as a mask (height, width).

    Raises:
        DataError: a code that does not fit the image, or a polygon that is none.
    """
    mask = np.zeros((height, width), dtype=bool)
    try:
        for shape in shapes:
            if isinstance(shape, Mapping):
                if list(shape["size"]) != [height, width]:
                    raise ValueError(f"a mask of {shape['size']} on an image of {[height, width]} (height, width)")
                mask |= decode(shape["counts"], height, width)
            else:
                for points in shape:
                    mask |= polygon(points, height, width)
    except (ValueError, LookupError, TypeError, OverflowError, AttributeError) as error:
        raise DataError(f"{where}: segmentation: {first_line(error)}") from error
    return mask


def _rows(path: Path, needed: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    try:
        check_size(path, TEXT_BYTES)
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            known = list(reader.fieldnames or [])
            for column in needed:
                if column not in known:
                    raise DataError(f"{path}: no column {column!r}. {did_you_mean(column, known)}")
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


def _in_folder(name: object, where: str) -> str:
    try:
        return check_name(name)
    except ValueError as error:
        raise DataError(f"{where}: {error} of images: give the name of a file in it") from None


def _names(cell: str) -> set[str]:
    return {name.strip() for name in cell.split("|")}


def _is_one(cell: str, column: str, where: str) -> bool:
    try:
        value = float(cell or 0)
    except ValueError:
        value = -1.0
    if value not in (0, 1):
        raise DataError(f"{where}: {column} = {cell!r}; it is 0 or 1")
    return value == 1


def _checked(box: Box, where: str) -> Box:
    if not np.isfinite(box).all() or box[2] <= box[0] or box[3] <= box[1]:
        raise DataError(f"{where}: the box {list(box)} has no area")
    return box


def check_split(items: Sequence[Item], column: str) -> None:
    """Refuse splits of other names, and patients in two of them.

    Raises:
        DataError: names file and line.
    """
    of: dict[str, Item] = {}
    for item in items:
        if item.split not in ("train", "val", "test"):
            raise DataError(f"{item.where}: {column} = {item.split!r}; it is train, val or test")
        first = of.setdefault(item.patient, item)
        if first.split != item.split:
            raise DataError(
                f"{item.where}: patient {item.patient!r} is in {item.split} and, by {first.where}, in {first.split}: "
                f"mend {column}, or leave split_column out for a patient-disjoint split"
            )


def one_of(options: Mapping[str, Any]) -> None:
    """Ask for a CSV table or a COCO file, one of the two.

    Raises:
        UsageError: none or both are given.
    """
    if bool(options["table"]) == bool(options["coco"]):
        raise UsageError('folder: give one of the options table = "labels.csv" and coco = "annotations.json"')
