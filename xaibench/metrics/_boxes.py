"""Boxes of the components of binary images, and how they overlap. In numpy, on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import numpy.typing as npt

from xaibench.metrics._components import IntArray, components_above
from xaibench.metrics._rows import each_row

FloatArray = npt.NDArray[np.float64]
_MANY = 16
"""Grey levels of an image that take long enough to be worth a thread."""
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
        top, left, bottom, right = self.corners.T
        sizes: IntArray = (bottom - top) * (right - left)
        return sizes

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

    def only(self, image: int) -> Boxes:
        """Return the boxes of one image, as its own."""
        own = self.image == image
        return Boxes(self.corners[own], self.image[own] - np.int32(image), self.pixels[own], 1)

    def at(self, places: Sequence[int], levels: int) -> Boxes:
        """Return the boxes at some of the levels, by their places, each once, of images that stand for as many each."""
        among = np.full(levels, -1, dtype=np.int32)
        among[places] = np.arange(len(places))
        place = among[self.image % levels]
        chosen = self.select(place >= 0)
        image = chosen.image // np.int32(levels) * np.int32(len(places)) + place[place >= 0]
        return Boxes(chosen.corners, image, chosen.pixels, self.images // levels * len(places))

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
    return boxes_above(segments.view(np.uint8), [0])


def boxes_above(grey: npt.NDArray[np.uint8], levels: Sequence[int]) -> Boxes:
    """Return the boxes of (B, H, W) images above each of L grey levels: of B * L binary images, an image's together.

    >>> boxes_above(np.array([[[9, 0, 5]]], dtype=np.uint8), [4, 6]).image.tolist()
    [0, 0, 1]
    """
    of_one = partial(components_above, levels=levels)
    found = each_row(of_one, grey) if len(levels) >= _MANY else list(map(of_one, grey))
    table = np.concatenate([np.empty((0, 6), dtype=np.int32), *found])
    of_map = np.repeat(np.arange(len(found), dtype=np.int32), [len(part) for part in found])
    image = of_map * np.int32(len(levels)) + table[:, 0]
    return Boxes(np.asfortranarray(table[:, 1:5]), image, table[:, 5].copy(), len(found) * len(levels))


def matches(boxes: Boxes, regions: Boxes, per: int) -> Matches:
    """Return how boxes, in the order of their images, overlap with regions; `per` images in a row share one image's."""
    ends = np.searchsorted(boxes.image, per * np.arange(regions.images + 1)).tolist()
    found = [touching(boxes, slice(*ends[own : own + 2]), regions.only(own).corners) for own in range(regions.images)]
    at = np.concatenate([np.empty(0, dtype=np.intp), *(places for places, _ in found)])
    overlap = np.concatenate([np.empty((2, 0)), *(overlap for _, overlap in found)], axis=1)
    return Matches(boxes.image[at], overlap, boxes.largest[at], boxes.number, boxes.ties)


def touching(boxes: Boxes, rows: slice, regions: IntArray) -> tuple[npt.NDArray[np.intp], FloatArray]:
    """Return which of some rows of boxes touch one of (R, 4) regions, (m,), and their largest IoU and IoBB, (2, m)."""
    columns = boxes.corners.T[:, rows]
    top, left, bottom, right = columns
    touched = np.zeros(len(top), dtype=bool)
    for region in regions.tolist():
        touched |= (top < region[2]) & (left < region[3]) & (bottom > region[0]) & (right > region[1])
    near = np.flatnonzero(touched)
    (top, left, bottom, right), best = columns.take(near, axis=1), np.zeros((2, len(near)))
    size = (bottom - top) * (right - left)
    for region in regions.tolist():
        shared = np.minimum(bottom, region[2]) - np.maximum(top, region[0])
        wide = np.minimum(right, region[3]) - np.maximum(left, region[1])
        if len(regions) > 1:  # a box that touches another
            shared, wide = shared.clip(0), wide.clip(0)
        shared *= wide
        union = size + ((region[2] - region[0]) * (region[3] - region[1])) - shared
        np.maximum(best[IOU], shared / union, out=best[IOU])
        np.maximum(best[IOBB], shared / size, out=best[IOBB])
    return near + rows.start, best
