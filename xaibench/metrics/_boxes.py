"""Boxes of the components of binary images, and how they overlap. In numpy, on the CPU."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


_FEW = 50
"""Components an image up to which scipy's find_objects takes less time."""


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


def component_boxes(segments: npt.NDArray[np.bool_]) -> Boxes:
    """Return the boxes of the 8-connected components of (B, H, W) binary images, in order of the images.

    >>> component_boxes(np.array([[[True, False, False], [False, True, False]]])).corners.tolist()
    [[0, 0, 2, 2]]
    """
    linked = np.zeros((3, 3, 3), dtype=bool)
    linked[1] = True  # no link between images
    labels, count = ndimage.label(segments, linked)
    flat = labels.ravel()
    if 0 < count <= _FEW * len(segments):
        pixels = np.bincount(flat, minlength=count + 1)[1:].astype(np.int64)
        found = np.array([[(part.start, part.stop) for part in box] for box in ndimage.find_objects(labels)])
        found = found.reshape(-1, 3, 2)
        return Boxes(found[:, 1:].transpose(0, 2, 1).reshape(-1, 4), found[:, 0, 0], pixels, len(segments))
    at = np.flatnonzero(flat)
    own = flat[at] - 1
    # find_objects makes slices in Python: most of the time where noise has a hundred thousand components
    first, last = np.empty(count, dtype=np.int64), np.empty(count, dtype=np.int64)
    first[own[::-1]], last[own] = at[::-1], at  # of pixels with the same label the last one written stays
    height, width = segments.shape[1:]
    left, right = np.full(count, width, dtype=np.int64), np.zeros(count, dtype=np.int64)
    columns = at % width
    np.minimum.at(left, own, columns)
    np.maximum.at(right, own, columns)
    image, rows = np.divmod(first // width, height)
    corners = np.stack([rows, left, last // width % height + 1, right + 1], axis=1)
    return Boxes(corners, image, np.bincount(own, minlength=count).astype(np.int64), len(segments))


def overlaps(boxes: Boxes, regions: Boxes, owners: IntArray) -> FloatArray:
    """Return (2, M): each box's largest IoU, and largest IoBB, with a region of the image `owners` (M,); 0 without one.

    IoBB is the share of the detected box that lies in the region's box.
    """
    counts = np.bincount(regions.image, minlength=regions.images)
    starts = np.concatenate([[0], counts.cumsum()])
    padded = np.zeros((regions.images, counts.max(initial=0), 4), dtype=np.int64)  # an empty box overlaps nothing
    padded[regions.image, np.arange(len(regions.image)) - starts[regions.image]] = regions.corners
    best, size = np.zeros((2, len(owners))), _size(boxes.corners)
    for place in range(padded.shape[1]):
        region = padded[owners, place]
        low, high = np.maximum(boxes.corners, region), np.minimum(boxes.corners, region)
        shared = np.clip(high[:, 2:] - low[:, :2], 0, None).prod(-1)
        best = np.maximum(best, shared / np.stack([size + _size(region) - shared, size]))
    return best


def _size(corners: IntArray) -> IntArray:
    size: IntArray = (corners[:, 2:] - corners[:, :2]).prod(-1)
    return size
