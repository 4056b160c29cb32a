"""Scores of maps each in its image's own size: which pairs go together, and their levels of chance."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from xaibench.types import BoolArray, Frame, Region

PIXELS = 2**23
"""Of the maps that are scored at once: some ten copies in float64 then take 0.7 GB."""

FIXED = tuple(
    Frame(*size) for size in ((256, 256), (256, 208), (208, 256), (256, 160), (160, 256), (256, 128), (128, 256))
)
"""Where chance levels of simulated noise are taken: noise of so many pixels, brought to the image's size."""


def together(frames: Sequence[Frame]) -> Iterator[tuple[Frame, list[int]]]:
    """Yield frames with the places of the pairs that have them, no more pairs at once than memory is fine with."""
    places: dict[Frame, list[int]] = {}
    for place, frame in enumerate(frames):
        places.setdefault(frame, []).append(place)
    for frame, among in places.items():
        step = max(1, PIXELS // (frame.height * frame.width))
        for start in range(0, len(among), step):
            yield frame, among[start : start + step]


def nearest_fixed(frame: Frame) -> Frame:
    """Return the fixed frame whose sides are most nearly in the proportion of a frame's.

    >>> str(nearest_fixed(Frame(3000, 2500)))
    '256x208'
    """
    wanted = np.log(frame.height / frame.width)
    return min(FIXED, key=lambda known: abs(np.log(known.height / known.width) - wanted))


def mask_in(region: Region, frame: Frame, source: str) -> BoolArray:
    """Return a region's mask (H, W) in a coarser frame; at least the pixel that its middle falls into."""
    mask = region.rasterize(frame, source=source)
    if not mask.any() and region.rasterize(region.frame, source=source).any():
        y, x = (np.flatnonzero(region.rasterize(region.frame, source=source).any(axis)).mean() for axis in (1, 0))
        row, column = (y + 0.5) / region.frame.height * frame.height, (x + 0.5) / region.frame.width * frame.width
        mask[min(int(row), frame.height - 1), min(int(column), frame.width - 1)] = True
    return mask
