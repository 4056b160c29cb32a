"""Boxes of the components of binary images, and how they overlap. In numpy and OpenCV, on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, groupby
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

IntArray = npt.NDArray[np.int32]
FloatArray = npt.NDArray[np.float64]
Parts = IntArray | list[list[int]]
"""The components of a binary image: rows of top, left, bottom, right and pixels. Lists where there are few."""
_SMOOTH = 8
"""Changes from pixel to pixel in a row, on the average, up to which a binary image has few components."""
_FEW = 64
"""Outlines up to which the next higher level is taken to have few."""
IOU, IOBB = 0, 1
"""Rows of overlaps. IoBB is the share of the detected box that lies in the region's box."""


@dataclass(frozen=True)
class Boxes:
    """M boxes of the components of binary images.

    Attributes:
        corners: (M, 4) top, left, bottom, right; the last two excluded.
        image: (M,) which image a box is of.
        pixels: (M,) how many its component has.
        images: how many images there are.
    """

    corners: IntArray
    image: IntArray
    pixels: IntArray
    images: int

    @cached_property
    def sizes(self) -> IntArray:
        """Pixels of each box, (M,)."""
        return _size(self.corners)

    @cached_property
    def largest(self) -> npt.NDArray[np.bool_]:
        """Is a box that of its image's largest component, or of one of them? (M,)."""
        most = np.zeros(self.images, dtype=np.int32)
        np.maximum.at(most, self.image, self.pixels)
        kept: npt.NDArray[np.bool_] = self.pixels == most[self.image]
        return kept

    @cached_property
    def number(self) -> npt.NDArray[np.intp]:
        """How many boxes each image has, (images,)."""
        return np.bincount(self.image, minlength=self.images)

    @cached_property
    def ties(self) -> npt.NDArray[np.intp]:
        """How many largest components each image has, (images,)."""
        return np.bincount(self.image[self.largest], minlength=self.images)

    def select(self, chosen: npt.NDArray[np.bool_] | npt.NDArray[np.intp]) -> Boxes:
        """Return some of the boxes, of as many images."""
        corners = np.asfortranarray(self.corners[chosen])
        return Boxes(corners, self.image[chosen], self.pixels[chosen], self.images)


@dataclass(frozen=True)
class Matches:
    """The boxes that touch a region; all others overlap by 0.

    Attributes:
        image: (m,) which image a box is of.
        overlap: (2, m) its largest IoU, and its largest IoBB, with one of the regions.
        largest: (m,) see `Boxes.largest`.
        number, ties: (images,) of all boxes, see `Boxes`.
    """

    image: IntArray
    overlap: FloatArray
    largest: npt.NDArray[np.bool_]
    number: npt.NDArray[np.intp]
    ties: npt.NDArray[np.intp]


def component_boxes(segments: npt.NDArray[np.bool_]) -> Boxes:
    """Return the boxes of the 8-connected components of (B, H, W) binary images, in order of the images.

    >>> component_boxes(np.array([[[True, False, False], [False, True, False]]])).corners.tolist()
    [[0, 0, 2, 2]]
    """
    return _gather([_components(segment)[0] for segment in segments])


def boxes_above(grey: npt.NDArray[np.uint8], levels: Sequence[int]) -> Boxes:
    """Return the boxes of (B, H, W) images above each of L grey levels: of B * L binary images, an image's together.

    >>> boxes_above(np.array([[[9, 0, 5]]], dtype=np.uint8), [4, 6]).image.tolist()
    [0, 0, 1]
    """
    found = []
    for image in grey:
        above = np.bincount(image.ravel(), minlength=257)[::-1].cumsum()[::-1]
        known: dict[int, Parts] = {}  # by the number of pixels above: the same pixels, then
        few = False
        for level, (top, left, bottom, right) in zip(levels, _windows(image, levels), strict=True):
            count = int(above[level + 1])
            if count not in known:
                known[count], few = _components(image[top:bottom, left:right] > level, (top, left), few=few)
            found.append(known[count])
    return _gather(found)


def _windows(image: npt.NDArray[np.uint8], levels: Sequence[int]) -> list[list[int]]:
    """Return top, left, bottom, right of the pixels above each level: where to look for components."""
    ends = []
    for axis in (1, 0):
        most = image.max(axis)
        first = np.searchsorted(np.maximum.accumulate(most), levels, side="right")
        last = len(most) - np.searchsorted(np.maximum.accumulate(most[::-1]), levels, side="right")
        ends += [first, last]
    top, bottom, left, right = ends
    windows: list[list[int]] = np.stack([top, left, bottom, right], axis=1).tolist()
    return windows


def _components(
    segment: npt.NDArray[np.bool_], corner: tuple[int, int] = (0, 0), *, few: bool = False
) -> tuple[Parts, bool]:
    """Return top, left, bottom, right and number of pixels of the 8-connected components.

    Args:
        corner: top and left of the segment's first pixel.
        few: it has few outlines; else its pixels are looked at first.

    Returns:
        The rows, and whether the next higher level may be taken to have few outlines too.
    """
    try:
        import cv2
    except ImportError:  # its wheel needs a library that a bare machine may lack
        return _components_by_scipy(segment, corner), False
    binary = np.ascontiguousarray(segment).view(np.uint8)
    if few or np.count_nonzero(binary[:, 1:] != binary[:, :-1]) <= _SMOOTH * len(binary):
        return _components_by_outline(binary, corner)
    left, top, width, height, pixels = cv2.connectedComponentsWithStats(binary, None, None, None, 8)[2][1:].T
    top, left = top + corner[0], left + corner[1]
    return np.stack([top, left, top + height, left + width, pixels], axis=1).astype(np.int32, copy=False), False


def _components_by_outline(
    binary: npt.NDArray[np.uint8], corner: tuple[int, int] = (0, 0)
) -> tuple[list[list[int]], bool]:
    """Return what `_components` does from outlines, which takes less time than counting pixels where there are few.

    An outline is a closed chain of b steps from pixel to neighbouring pixel around an area A (through the centres), of
    which Pick's theorem counts the pixels: A + b / 2 + 1 on the outline of a component and inside, A - b / 2 + 1
    strictly inside the outline of a hole, which is not the component's own.
    """
    import cv2

    outlines, hierarchy = cv2.findContours(binary, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE, offset=corner[::-1])
    if not outlines:
        return [], True
    found: dict[int, list[int]] = {}
    holes = []
    for place, (outline, parent) in enumerate(zip(outlines, hierarchy[0, :, 3].tolist(), strict=True)):
        if len(outline) == 1:  # a pixel; around a hole there are four at least
            ((left, top),) = outline[0].tolist()
            found[place] = [top, left, top + 1, left + 1, 1]
        elif parent < 0:
            left, top, width, height = cv2.boundingRect(outline)
            pixels = int(cv2.contourArea(outline) + len(outline) / 2) + 1
            found[place] = [top, left, top + height, left + width, pixels]
        else:
            holes.append((parent, int(cv2.contourArea(outline) - len(outline) / 2) + 1))
    for parent, pixels in holes:
        found[parent][4] -= pixels
    return list(found.values()), len(outlines) <= _FEW


def _components_by_scipy(segment: npt.NDArray[np.bool_], corner: tuple[int, int] = (0, 0)) -> IntArray:
    labels, count = ndimage.label(segment, np.ones((3, 3), dtype=bool))
    pixels = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    found = [[y.start, x.start, y.stop, x.stop] for y, x in ndimage.find_objects(labels)]
    return np.concatenate([np.array(found).reshape(-1, 4) + 2 * corner, pixels[:, None]], axis=1).astype(np.int32)


def _gather(found: Sequence[Parts]) -> Boxes:
    """Join what binary images have."""
    tables = [np.empty((0, 5), dtype=np.int32)]
    for few, group in groupby(found, lambda parts: isinstance(parts, list)):  # one array of all lists in a row
        parts: list[Any] = list(group)
        rows = [list(chain.from_iterable(parts))] if few else parts
        tables += [np.asarray(table, dtype=np.int32).reshape(-1, 5) for table in rows]
    table = np.concatenate(tables)
    image = np.repeat(np.arange(len(found), dtype=np.int32), [len(part) for part in found])
    return Boxes(np.asfortranarray(table[:, :4]), image, table[:, 4].copy(), len(found))


def matches(boxes: Boxes, regions: Boxes, per: int) -> Matches:
    """Return how boxes overlap with regions, `per` images in a row sharing the regions of one image.

    Boxes are in the order of their images, or all of them share one image's regions.
    """
    ends = [0, len(boxes.image)]
    if regions.images != 1:
        ends = np.searchsorted(boxes.image, per * np.arange(regions.images + 1)).tolist()
    touching, overlap = [np.empty(0, dtype=np.intp)], [np.empty((2, 0))]
    for owner in range(regions.images):
        corners = regions.corners[regions.image == owner]
        own = slice(ends[owner], ends[owner + 1])
        near = np.flatnonzero(_touch(boxes.corners[own], corners)) + ends[owner]
        touching.append(near)
        overlap.append(_overlaps(boxes.corners[near], corners))
    at = np.concatenate(touching)
    return Matches(boxes.image[at], np.concatenate(overlap, axis=1), boxes.largest[at], boxes.number, boxes.ties)


def _touch(boxes: IntArray, regions: IntArray) -> npt.NDArray[np.bool_]:
    top, left, bottom, right = boxes.T
    found = np.zeros(len(boxes), dtype=bool)
    for region in regions.tolist():
        found |= (top < region[2]) & (left < region[3]) & (bottom > region[0]) & (right > region[1])
    return found


def _overlaps(boxes: IntArray, regions: IntArray) -> FloatArray:
    """Return (2, M): each box's largest IoU, and largest IoBB, with a region."""
    best, size = np.zeros((2, len(boxes))), _size(boxes)
    for region in regions:
        low, high = np.maximum(boxes, region), np.minimum(boxes, region)
        shared = np.clip(high[:, 2:] - low[:, :2], 0, None).prod(-1)
        best = np.maximum(best, shared / np.stack([size + _size(region) - shared, size]))
    return best


def _size(corners: IntArray) -> IntArray:
    size: IntArray = (corners[..., 2] - corners[..., 0]) * (corners[..., 3] - corners[..., 1])
    return size
