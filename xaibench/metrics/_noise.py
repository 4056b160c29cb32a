"""Boxes of uniform noise: what the chance levels of metrics of boxes are made of.

Noise is simulated once for each frame with a fixed seed, and mirrored both ways: in place of the noise, which breaks
into very many boxes, the few boxes of a region are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt
import torch

from xaibench.metrics import _ops
from xaibench.metrics._boxes import Boxes, Matches, boxes_above, touching
from xaibench.metrics._components import IntArray

NOISE_PIXELS = 2**21
"""Thresholded pixels of noise that a chance level rests on, in 4 to 500 maps, each then mirrored both ways."""
_MIRRORED = 4


@dataclass(frozen=True)
class Noise:
    """Boxes of maps of noise above each of L grey levels, the smallest first.

    Attributes:
        height, width: of the frame.
    """

    boxes: Boxes
    height: int
    width: int

    def matches(self, regions: IntArray, least: float = 0.0) -> Matches:
        """Return how the boxes and their mirror images overlap with one image's regions (R, 4).

        Args:
            least: boxes too large or too small for this IoU may be left out.
        """
        boxes, rows = self.boxes, slice(0, len(self.boxes.image))
        if least and len(regions):
            sizes = (regions[:, 2] - regions[:, 0]) * (regions[:, 3] - regions[:, 1])
            ends = sizes.min() * least * (1 - 1e-9), sizes.max() / least * (1 + 1e-9)
            rows = slice(*boxes.sizes.searchsorted(ends).tolist())
        near, overlap = zip(*(touching(boxes, rows, mirrored) for mirrored in self._mirrored(regions)), strict=True)
        image = [boxes.image[at] + np.int32(copy * boxes.images) for copy, at in enumerate(near)]
        largest = boxes.largest[np.concatenate(near)]
        return Matches(np.concatenate(image), np.concatenate(overlap, axis=1), largest, self._number, self._ties)

    def _mirrored(self, regions: IntArray) -> Iterator[IntArray]:
        top, left, bottom, right = regions.T
        for y in ((top, bottom), (self.height - bottom, self.height - top)):
            for x in ((left, right), (self.width - right, self.width - left)):
                yield np.stack([y[0], x[0], y[1], x[1]], axis=1)

    @cached_property
    def _number(self) -> npt.NDArray[np.intp]:
        return np.tile(self.boxes.number, _MIRRORED)

    @cached_property
    def _ties(self) -> npt.NDArray[np.intp]:
        return np.tile(self.boxes.ties, _MIRRORED)


def noise_maps(height: int, width: int, levels: int) -> int:
    """Return how many maps of noise, before they are mirrored, a chance level at that many grey levels rests on."""
    return min(500, max(4, NOISE_PIXELS // (height * width * levels)))


@lru_cache(maxsize=16)
def noise_of(height: int, width: int, levels: tuple[int, ...], largest: bool) -> Noise:
    """Return the boxes, or those of the largest components only, of maps of uniform noise."""
    boxes = _detected(height, width, levels)
    if largest:
        boxes = boxes.select(boxes.largest)
    return Noise(boxes.select(np.argsort(boxes.sizes, kind="stable")), height, width)


def _detected(height: int, width: int, levels: tuple[int, ...]) -> Boxes:
    number = noise_maps(height, width, len(levels))
    known = _detected_before(height, width, number)
    if levels not in known:
        distinct = len(set(levels)) == len(levels)
        more = next((others for others in known if distinct and set(levels) < set(others)), None)
        if more is not None:  # of the same maps
            return known[more].at([more.index(level) for level in levels], len(more))
        maps = torch.rand(number, height, width, generator=torch.Generator().manual_seed(0))
        known[levels] = boxes_above(_ops.grey(maps).numpy(), levels)
    return known[levels]


@lru_cache(maxsize=4)
def _detected_before(height: int, width: int, number: int) -> dict[tuple[int, ...], Boxes]:
    """Return where boxes are remembered by the levels that they are of."""
    return {}
