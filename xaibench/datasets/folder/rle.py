"""COCO's masks: run-length codes, plain and compressed, and polygons."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from xaibench.datasets.folder.items import Box
from xaibench.io.limits import PIXELS, POLYGON_POINTS
from xaibench.types import BoolArray, FloatArray

_MOST_CHARACTERS = 12
"""Of one run length: 60 bits, more than any image has pixels."""
Runs = npt.NDArray[np.int64]


def uncompress(text: str) -> list[int]:
    """Return the run lengths in COCO's compressed string.

    Numbers are of 5 bits a character, the lowest first, bit 6 says that more follow, the sign is extended, and from the
    fourth on each is the difference from the last but one.

    Raises:
        ValueError: the string ends within a number, or has a character of another code.

    >>> uncompress("052203")
    [0, 5, 2, 7, 2, 10]
    """
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4").astype(np.int64) - 48
    if (wrong := np.flatnonzero((codes < 0) | (codes >= 64))).size:
        raise ValueError(f"the run-length code has the character {text[wrong[0]]!r}")
    ends = np.flatnonzero(codes & 32 == 0)
    starts = np.concatenate([[0], ends + 1])
    lengths = np.diff(np.append(starts, len(codes)))
    if lengths.max() > _MOST_CHARACTERS:
        raise ValueError("the run-length code has a number without end")
    if lengths[-1]:
        raise ValueError("the run-length code is cut off")
    if not len(ends):
        return []
    starts, lengths = starts[:-1], lengths[:-1]
    bits = (codes & 31) << 5 * (np.arange(len(codes)) - np.repeat(starts, lengths))
    values = np.add.reduceat(bits, starts) - np.where(codes[ends] & 16, 1 << 5 * lengths, 0)
    if np.abs(values).max() > PIXELS:
        raise ValueError("the run-length code has a run that is longer than an image")
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    found: list[int] = values.tolist()
    return found


def decode(counts: Sequence[int] | str, height: int, width: int) -> BoolArray:
    """Return the mask (height, width) of runs of zeros and ones in turn, down the columns.

    Raises:
        ValueError: the runs do not fill the mask.

    >>> decode([1, 2, 1], 2, 2).astype(int).tolist()
    [[0, 1], [1, 0]]
    """
    runs = _runs(counts, height, width)
    flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return flat.reshape((height, width), order="F")


def bounds(counts: Sequence[int] | str, height: int, width: int) -> Box | None:
    """Return the bounding box of a mask's ones, None where it has none; the mask itself is not made.

    Raises:
        ValueError: as `decode`.

    >>> bounds([1, 2, 1], 2, 2)
    (0.0, 0.0, 2.0, 2.0)
    """
    ends = np.cumsum(_runs(counts, height, width))
    first, last = ends[0::2][: len(ends) // 2], ends[1::2] - 1
    first, last = first[last >= first], last[last >= first]
    if not len(first):
        return None
    top, bottom = (
        (0, height - 1) if (first // height < last // height).any() else (min(first % height), max(last % height))
    )
    return float(first[0] // height), float(top), float(last[-1] // height + 1), float(bottom + 1)


def _runs(counts: Sequence[int] | str, height: int, width: int) -> Runs:
    if len(counts) > 13 * (height * width + 1):
        raise ValueError(f"{len(counts)} runs for {height} x {width} pixels")
    runs = uncompress(counts) if isinstance(counts, str) else list(counts)
    if any(type(run) is not int or run < 0 for run in runs) or sum(runs) != height * width:
        raise ValueError(f"the runs do not add up to {height} x {width}")
    return np.array(runs, dtype=np.int64)


def polygon(points: Sequence[float], height: int, width: int) -> BoolArray:
    """Return the mask of a polygon ``x0, y0, x1, y1, ...``: pixels whose centre is inside, by the even-odd rule.

    Raises:
        ValueError: fewer than three points or more than 100,000, or a coordinate that is no finite number.

    >>> polygon([1, 0, 3, 0, 3, 1, 1, 1], 2, 4).astype(int).tolist()
    [[0, 1, 1, 0], [0, 0, 0, 0]]
    """
    corners = corners_of(points)
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


def corners_of(points: Sequence[float]) -> FloatArray:
    """Return the corners (N, 2) of a polygon ``x0, y0, x1, y1, ...``.

    Raises:
        ValueError: as `polygon`.
    """
    if not isinstance(points, list | tuple):
        raise ValueError("a polygon is a list of x0, y0, x1, y1, ... in the list of the segmentation's polygons")
    if not 6 <= len(points) <= 2 * POLYGON_POINTS or len(points) % 2:
        raise ValueError(f"a polygon needs three points, each x and y, and no more than {POLYGON_POINTS:,}")
    corners = np.asarray(points, dtype=np.float64).reshape(-1, 2)
    if not np.isfinite(corners).all() or np.abs(corners).max() > 1e9:
        raise ValueError("a polygon has a coordinate that is no pixel's")
    return corners
