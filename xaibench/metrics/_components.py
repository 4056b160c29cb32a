"""The 8-connected components of an image above many grey levels. In numpy and OpenCV, on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

IntArray = npt.NDArray[np.int32]
_COLUMNS = 6
_SMOOTH = 8
"""Changes from pixel to pixel in a row, on the average, up to which a binary image has few components."""
_MANY = 8
"""Levels from which on histograms are worth their time."""
_STACKED = 2**23
"""Pixels of binary images that are looked at together."""


def components_above(image: npt.NDArray[np.uint8], levels: Sequence[int]) -> IntArray:
    """Return the components of (H, W) pixels above each of L grey levels, those above the first level first.

    Returns:
        (M, 6): which level, by its place; top, left, bottom, right, the last two excluded; and pixels.
    """
    image, cuts = np.ascontiguousarray(image), np.asarray(levels, dtype=np.intp)
    try:
        import cv2  # noqa: F401
    except ImportError:  # its wheel needs a library that a bare machine may lack
        return _joined([_by_scipy(image > level, place) for place, level in enumerate(levels)])
    if len(levels) < _MANY:
        return _of_distinct(image, cuts, np.array([_changes(image > level) for level in levels]))
    # Above levels with no pixel between them lies the same: that is looked at once.
    present, changes = _histogram(image) > 0, _changes_above(image)
    _, first, which = np.unique(present.cumsum()[cuts], return_index=True, return_inverse=True)
    table = _of_distinct(image, cuts[first], changes[cuts[first]])
    if np.array_equal(which, np.arange(len(levels))):
        return table
    ends = np.searchsorted(table[:, 0], np.arange(len(first) + 1)).tolist()
    parts = [table[ends[own] : ends[own + 1]].copy() for own in which.tolist()]
    for place, part in enumerate(parts):
        part[:, 0] = place
    return _joined(parts)


def _of_distinct(image: npt.NDArray[np.uint8], levels: npt.NDArray[np.intp], changes: npt.NDArray[Any]) -> IntArray:
    windows, few = _windows(image, levels), changes <= _SMOOTH * len(image)
    if len(levels) == 1:
        top, left, bottom, right = windows[0].tolist()
        if top < bottom and image[top:bottom, left:right].min() > levels[0]:  # a rectangle, as most regions are
            return np.array([[0, top, left, bottom, right, (bottom - top) * (right - left)]], dtype=np.int32)
    found = [_by_outlines(image, levels, windows, places) for places in _shares(windows, np.flatnonzero(few))]
    for place in np.flatnonzero(~few).tolist():
        top, left, bottom, right = windows[place].tolist()
        found.append(_by_pixels(image[top:bottom, left:right] > levels[place], place, (top, left)))
    return _joined(found)


def _joined(tables: Sequence[IntArray]) -> IntArray:
    table = np.concatenate([np.empty((0, _COLUMNS), dtype=np.int32), *tables])
    return table[table[:, 0].argsort(kind="stable")]


def _windows(image: npt.NDArray[np.uint8], levels: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    """Return (L, 4): top, left, bottom, right of the pixels above each level."""
    ends = []
    for axis in (1, 0):
        most = image.max(axis)
        ends.append(np.searchsorted(np.maximum.accumulate(most), levels, side="right"))
        ends.append(len(most) - np.searchsorted(np.maximum.accumulate(most[::-1]), levels, side="right"))
    top, bottom, left, right = ends
    return np.stack([top, left, np.maximum(top, bottom), np.maximum(left, right)], axis=1)


def _histogram(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    import cv2

    return cv2.calcHist([image], [0], None, [256], [0, 256]).astype(np.float32, copy=False).ravel()


def _changes(segment: npt.NDArray[np.bool_]) -> int:
    """Return about how many pairs of neighbours in a row are parted: ends of rows are taken to be neighbours too."""
    pixels = segment.ravel()
    return int(np.count_nonzero(pixels[1:] != pixels[:-1]))


def _changes_above(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Return how many pairs of neighbours in a row each of 256 levels parts, (256,)."""
    if image.shape[1] == 1:
        return np.zeros(256, dtype=np.float32)
    begin, end = (_histogram(of(image[:, 1:], image[:, :-1])) for of in (np.minimum, np.maximum))
    return (begin - end).cumsum(dtype=np.float32)


def _shares(windows: npt.NDArray[np.intp], places: npt.NDArray[np.intp]) -> list[npt.NDArray[np.intp]]:
    """Divide windows into such as are looked at together."""
    if not len(places):
        return []
    height, width = windows[places, 2] - windows[places, 0] + 1, windows[places, 3] - windows[places, 1]
    pixels = (height * max(1, width.max())).cumsum()
    if pixels[-1] <= _STACKED:
        return [places]
    return np.split(places, np.flatnonzero(np.diff(pixels // _STACKED)) + 1)


def _by_outlines(
    image: npt.NDArray[np.uint8],
    levels: npt.NDArray[np.intp],
    windows: npt.NDArray[np.intp],
    places: npt.NDArray[np.intp],
) -> IntArray:
    """Return the components above the levels at some places from their outlines: quicker than by pixels where few.

    The binary images stand one below another, a free row between them, so that OpenCV and numpy are called once for all
    and run beside other threads.

    An outline is a closed chain of b steps from pixel to neighbouring pixel around an area A (through the centres), of
    which Pick's theorem counts the pixels: A + b / 2 + 1 on the outline of a component and inside, A - b / 2 + 1
    strictly inside the outline of a hole, which is not the component's own.
    """
    import cv2

    tops, lefts, bottoms, rights = windows[places].T
    starts = np.concatenate([[0], (bottoms - tops + 1).cumsum()])
    stack = np.zeros((starts[-1], max(1, (rights - lefts).max())), dtype=bool)
    for start, level, (top, left, bottom, right) in zip(
        starts.tolist(), levels[places].tolist(), windows[places].tolist(), strict=False
    ):
        np.greater(image[top:bottom, left:right], level, out=stack[start : start + bottom - top, : right - left])
    outlines: Any
    outlines, hierarchy = cv2.findContours(stack.view(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    if not outlines:
        return np.empty((0, _COLUMNS), dtype=np.int32)
    parents = np.asarray(hierarchy, dtype=np.int32)[0, :, 3]
    top, left, bottom, right, pixels = _enclosed(outlines, parents)[:, parents < 0]
    own = np.searchsorted(starts, top, side="right") - 1
    down, across = tops[own] - starts[own], lefts[own]
    columns = [places[own], top + down, left + across, bottom + down, right + across, pixels]
    return np.stack(columns, axis=1).astype(np.int32)


def _enclosed(outlines: Sequence[npt.NDArray[np.int32]], parents: IntArray) -> npt.NDArray[np.intp]:
    """Return top, left, bottom, right of outlines, and how many pixels of a component they enclose, (5, n)."""
    ends = np.fromiter(map(len, outlines), dtype=np.intp, count=len(outlines)).cumsum()
    starts = np.concatenate([[0], ends[:-1]])
    x, y = np.ascontiguousarray(np.concatenate(outlines).reshape(-1, 2).T)
    low, high, total = np.minimum.reduceat, np.maximum.reduceat, np.add.reduceat
    right, down = np.empty_like(x), np.empty_like(y)
    for step, at in ((right, x), (down, y)):  # to the next corner, straight or diagonally
        np.subtract(at[1:], at[:-1], out=step[:-1])
        step[ends - 1] = at[starts] - at[ends - 1]
    steps = total(np.maximum(np.abs(right), np.abs(down)), starts, dtype=np.intp)
    twice = np.abs(total((2 * x + right) * down, starts, dtype=np.intp))  # the area, by the trapezoids
    holes = np.flatnonzero(parents >= 0)
    pixels = (twice + steps) // 2 + 1
    np.subtract.at(pixels, parents[holes], (twice[holes] - steps[holes]) // 2 + 1)
    return np.stack([low(y, starts), low(x, starts), high(y, starts) + 1, high(x, starts) + 1, pixels])


def _by_pixels(segment: npt.NDArray[np.bool_], place: int, corner: tuple[int, int]) -> IntArray:
    import cv2

    binary = np.ascontiguousarray(segment).view(np.uint8)
    left, top, width, height, pixels = cv2.connectedComponentsWithStats(binary, None, None, None, 8)[2][1:].T
    top, left = top + corner[0], left + corner[1]
    return np.stack([np.full_like(top, place), top, left, top + height, left + width, pixels], axis=1)


def _by_scipy(segment: npt.NDArray[np.bool_], place: int) -> IntArray:
    labels, count = ndimage.label(segment, np.ones((3, 3), dtype=bool))
    pixels = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    found = [[place, y.start, x.start, y.stop, x.stop] for y, x in ndimage.find_objects(labels)]
    return np.concatenate([np.array(found).reshape(-1, _COLUMNS - 1), pixels[:, None]], axis=1).astype(np.int32)
