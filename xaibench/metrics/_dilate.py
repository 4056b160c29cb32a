"""Masks grown by a distance: where a point counts as a hit."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import Tensor

from xaibench.metrics._rows import each_row


def dilate(masks: Tensor, radius: float) -> Tensor:
    """Return the pixels whose centre lies less than `radius` (pixels, Euclidean) from the centre of one in the mask.

    The mask itself always belongs. The distance transform runs on the CPU, over the mask's bounding box and a margin.
    """
    grown = masks.cpu().numpy().copy()
    if radius > 0:
        each_row(partial(_grow, radius=radius), [mask for mask in grown if not _grow_rectangle(mask, radius)])
    return torch.from_numpy(grown).to(masks.device)


def _extent(mask: npt.NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """Return top, bottom, left, right of a mask that is not empty; the second and the last excluded."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


def _grow(mask: npt.NDArray[np.bool_], radius: float) -> None:
    top, bottom, left, right = _extent(mask)
    margin = math.ceil(radius)
    window = mask[max(0, top - margin) : bottom + margin, max(0, left - margin) : right + margin]
    window |= ndimage.distance_transform_edt(~window) < radius


def _grow_rectangle(mask: npt.NDArray[np.bool_], radius: float) -> bool:
    """Grow a mask that is a rectangle, as most regions are, or empty; tell whether it is."""
    if not mask.any():
        return True
    top, bottom, left, right = _extent(mask)
    if not mask[top:bottom, left:right].all():
        return False
    apart = []
    for first, end, size in ((top, bottom, mask.shape[0]), (left, right, mask.shape[1])):
        at = np.arange(size)
        apart.append(np.maximum(np.maximum(first - at, at - end + 1), 0).astype(np.float64))
    near = tuple(slice(at[0], at[-1] + 1) for at in (np.flatnonzero(some < radius) for some in apart))
    mask[near] |= np.sqrt(apart[0][near[0], None] ** 2 + apart[1][near[1]] ** 2) < radius
    return True
