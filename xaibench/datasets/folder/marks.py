"""Boxes and masks: checked against their image, and joined into the region of a class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from xaibench.datasets.folder.items import Box, Item, Mark, Refuse
from xaibench.datasets.folder.rle import bounds, corners_of, decode, polygon
from xaibench.errors import DataError, first_line
from xaibench.types import BoolArray, Frame, Region

TOLERANCE = 3.0
"""Pixels by which a COCO bbox may differ from its segmentation on each side, and a polygon may leave the image."""
_WRONG = (ValueError, LookupError, TypeError, OverflowError, AttributeError)
_ROUNDING = 1e-6
_LIMIT = 300
_ENOUGH = 4
"""Boxes that tell corners from sizes: so many sizes are not all larger than their x and y by chance."""


def check_marks(items: Sequence[Item], refuse: Refuse) -> list[str]:
    """Check all marks against their image, once `place` has settled its grid; boxes that reach out are clipped.

    Returns:
        Notes for the user.
    """
    clipped = 0
    if message := _look_like_corners(items):
        refuse(message)
    for item in items:
        for target, marks in item.marks.items():
            kept = []
            for mark in marks:
                message, was_clipped = _check(mark, item)
                clipped += was_clipped
                if message:
                    refuse(f"{mark.where}: {message}")
                else:
                    kept.append(mark)
            item.marks[target] = kept
        item.marks = {target: marks for target, marks in item.marks.items() if marks}
    return [f"{clipped:,} boxes that reach out of their image clipped to it"] if clipped else []


def region_of(item: Item, target: int) -> Region:
    """Return where a class is in an image, in the grid of its marks: every mark brings its box and its mask.

    A mark without a box has its mask's bounds, one without a mask is its box; the masks are joined. Without any mask
    the region has none.

    Raises:
        DataError: a mask is damaged, or covers no pixel.
    """
    marks = item.marks[target]
    if all(mark.shape is None for mark in marks):
        return Region(np.array([mark.box for mark in marks]), item.frame)
    boxes, union = [], np.zeros((item.frame.height, item.frame.width), dtype=bool)
    for mark in marks:
        mask = _mask(mark, item)
        boxes.append(mark.box or _bounds(mask))
        union |= mask
    return Region(np.array(boxes), item.frame, union)


def mask_of(shape: Any, height: int, width: int) -> BoolArray:
    """Return a COCO segmentation (polygons, which are joined, or runs) as a mask (height, width).

    Raises:
        ValueError: it is none, or does not fit the image.
    """
    try:
        if isinstance(shape, Mapping):
            _check_size(shape, height, width)
            return decode(shape["counts"], height, width)
        mask = np.zeros((height, width), dtype=bool)
        for points in shape:
            mask |= polygon(points, height, width)
        return mask
    except _WRONG as error:
        raise ValueError(first_line(error, _LIMIT)) from error


def _mask(mark: Mark, item: Item) -> BoolArray:
    if mark.shape is None:
        return Region(np.array([mark.box]), item.frame).rasterize(item.frame)
    try:
        mask = mask_of(mark.shape, item.frame.height, item.frame.width)
        if not mask.any():
            raise ValueError("it covers no pixel's centre: take the annotation out")
    except ValueError as error:
        raise DataError(f"{mark.where}: {item.id}: segmentation: {first_line(error, _LIMIT)}") from error
    return mask


def _bounds(mask: BoolArray) -> Box:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def _check(mark: Mark, item: Item) -> tuple[str, bool]:
    """Clip a mark's box; return what is wrong with the mark, "" for nothing, and whether it was clipped."""
    given = mark.box
    if given is not None:
        if message := _wrong_box(given, item):
            return message, False
        mark.box = _clip(given, item.frame)
    if mark.shape is not None:
        try:
            extent = _extent(mark.shape, item.frame)
        except _WRONG as error:
            return f"{item.id}: segmentation: {first_line(error, _LIMIT)}", False
        if given is not None and not _near(_clip(given, item.frame), _clip(extent, item.frame)):
            return _misfit(given, extent, item), False
    return "", given != mark.box


def _look_like_corners(items: Sequence[Item]) -> str:
    """Return what is wrong with boxes of x, y, width, height that are x0, y0, x1, y1: then some leave their image."""
    leaving, seen = None, 0
    for item in items:
        for mark in (mark for marks in item.marks.values() for mark in marks):
            if mark.box is None or mark.shape is not None or not mark.sized:
                continue
            seen += 1
            x0, y0, x1, y1 = mark.box
            inside = (x0, y0, x1 - x0, y1 - y0)
            if min(x0, y0) < 0 or inside != _clip(inside, item.frame) or inside[2] <= x0 or inside[3] <= y0:
                return ""
            if not _near((x0, y0, x1, y1), _clip((x0, y0, x1, y1), item.frame)):
                leaving = leaving or (mark, item)
    if leaving is None or seen < _ENOUGH:
        return ""
    mark, item = leaving
    return (
        f"{mark.where}: a box that leaves {item.id}, and like all others would be inside as x0, y0, x1, y1: "
        "give x, y, width, height (in a CSV table name the columns for what they are)"
    )


def _wrong_box(box: Box, item: Item) -> str:
    frame, clipped = item.frame, _clip(box, item.frame)
    if _is_normalised(box, frame):
        return f"the box {list(box)} on {item.id} {_normalised(frame)}"
    if clipped[2] <= clipped[0] or clipped[3] <= clipped[1]:
        return f"a box of {item.id} is outside its {frame.width} x {frame.height} pixels: {list(box)}"
    if min(clipped[2] - clipped[0], clipped[3] - clipped[1]) < 1 - _ROUNDING:
        return (
            f"the box {list(box)} on {item.id} is less than one pixel wide or high inside its {frame.width} x "
            f"{frame.height} pixels: give pixels, or take it out"
        )
    return ""


def _extent(shape: Any, frame: Frame) -> Box:
    """Return the bounds of a segmentation, of polygons those of their corners.

    Raises:
        ValueError, LookupError, TypeError, OverflowError, AttributeError: it is none, or does not fit the image.
    """
    if isinstance(shape, Mapping):
        _check_size(shape, frame.height, frame.width)
        found = bounds(shape["counts"], frame.height, frame.width)
        if found is None:
            raise ValueError("it covers no pixel: take the annotation out")
        return found
    corners = np.concatenate([corners_of(points) for points in shape])
    (x0, y0), (x1, y1) = corners.min(axis=0).tolist(), corners.max(axis=0).tolist()
    if _is_normalised((x0, y0, x1, y1), frame):
        raise ValueError(f"the polygon {_normalised(frame)}")
    if min(x0, y0) < -TOLERANCE or x1 > frame.width + TOLERANCE or y1 > frame.height + TOLERANCE:
        raise ValueError(
            f"a polygon from {x0:g}, {y0:g} to {x1:g}, {y1:g} leaves the image of {frame.width} x {frame.height} "
            "pixels: correct it, or the image's size"
        )
    return x0, y0, x1, y1


def _check_size(shape: Mapping[str, Any], height: int, width: int) -> None:
    if list(shape["size"]) != [height, width]:
        raise ValueError(f"a mask of {shape['size']} on an image of {[height, width]} (height, width)")


def _is_normalised(box: Box, frame: Frame) -> bool:
    return min(box) >= 0 and max(box) <= 1 and max(frame.width, frame.height) > 1


def _normalised(frame: Frame) -> str:
    return f"lies in [0, 1], as normalised ones do: give pixels (x times {frame.width}, y times {frame.height})"


def _clip(box: Box, frame: Frame) -> Box:
    x0, y0, x1, y1 = box
    return max(x0, 0.0), max(y0, 0.0), min(x1, float(frame.width)), min(y1, float(frame.height))


def _near(one: Box, other: Box) -> bool:
    return all(abs(a - b) <= TOLERANCE for a, b in zip(one, other, strict=True))


def _misfit(box: Box, extent: Box, item: Item) -> str:
    x0, y0, x1, y1 = box
    spans = ", ".join(f"{edge:g}" for edge in extent)
    as_corners = (x0, y0, x1 - x0, y1 - y0)  # the third and fourth number, as the file has them
    hint = "it looks like x0, y0, x1, y1; COCO has" if _near(as_corners, extent) else "COCO's is"
    return (
        f"{item.id}: bbox spans {x0:g}, {y0:g} to {x1:g}, {y1:g}, its segmentation {spans} (x0, y0, x1, y1), more than "
        f"{TOLERANCE:g} pixels apart: {hint} x, y, width, height"
    )
