"""COCO's masks: run-length codes, plain and compressed, and polygons."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from xaibench.limits import POLYGON_POINTS
from xaibench.types import BoolArray

_LONGEST_SHIFT = 60
"""Bits of a run length: none is longer than an image, and without a bound one could be as long as the file."""


def uncompress(text: str) -> list[int]:
    """Return the run lengths in COCO's compressed string.

    Numbers are of 5 bits a character, the lowest first, bit 6 says that more follow, the sign is extended, and from the
    fourth on each is the difference from the last but one.

    Raises:
        ValueError: the string ends within a number, or has a character of another code.

    >>> uncompress("052203")
    [0, 5, 2, 7, 2, 10]
    """
    counts: list[int] = []
    value = shift = 0
    for letter in text:
        code = ord(letter) - 48
        if not 0 <= code < 64:
            raise ValueError(f"the run-length code has the character {letter!r}")
        value |= (code & 31) << shift
        shift += 5
        if shift > _LONGEST_SHIFT:
            raise ValueError("the run-length code has a number without end")
        if code & 32:
            continue
        if code & 16:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    if shift:
        raise ValueError("the run-length code is cut off")
    return counts


def decode(counts: Sequence[int] | str, height: int, width: int) -> BoolArray:
    """Return the mask (height, width) of runs of zeros and ones in turn, down the columns.

    Raises:
        ValueError: the runs do not fill the mask.

    >>> decode([1, 2, 1], 2, 2).astype(int).tolist()
    [[0, 1], [1, 0]]
    """
    if len(counts) > 13 * (height * width + 1):
        raise ValueError(f"{len(counts)} runs for {height} x {width} pixels")
    runs = uncompress(counts) if isinstance(counts, str) else list(counts)
    if any(type(run) is not int or run < 0 for run in runs) or sum(runs) != height * width:
        raise ValueError(f"the runs do not add up to {height} x {width}")
    flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return flat.reshape((height, width), order="F")


def polygon(points: Sequence[float], height: int, width: int) -> BoolArray:
    """Return the mask of a polygon ``x0, y0, x1, y1, ...``: pixels whose centre is inside, by the even-odd rule.

    Raises:
        ValueError: fewer than three points or more than 100,000, or a coordinate that is no finite number.

    >>> polygon([1, 0, 3, 0, 3, 1, 1, 1], 2, 4).astype(int).tolist()
    [[0, 1, 1, 0], [0, 0, 0, 0]]
    """
    if not 6 <= len(points) <= 2 * POLYGON_POINTS or len(points) % 2:
        raise ValueError(f"a polygon needs three points, each x and y, and no more than {POLYGON_POINTS:,}")
    corners = np.asarray(points, dtype=np.float64).reshape(-1, 2)
    if not np.isfinite(corners).all() or np.abs(corners).max() > 1e9:
        raise ValueError("a polygon has a coordinate that is no pixel's")
    x, y = np.arange(width) + 0.5, np.arange(height) + 0.5
    # An edge turns over all pixels to its right. It is noted at the first of them, and a sum along the row does the
    # rest: one write for each row that an edge crosses, however wide the image.
    turns = np.zeros((height, width + 1), dtype=bool)
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        if y0 == y1:
            continue
        first, last = np.searchsorted(y, (min(y0, y1), max(y0, y1)))
        crossing = x0 + (y[first:last] - y0) * (x1 - x0) / (y1 - y0)
        turns[np.arange(first, last), np.searchsorted(x, crossing)] ^= True
    inside: BoolArray = np.logical_xor.accumulate(turns[:, :width], axis=1)
    return inside
