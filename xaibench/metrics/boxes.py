"""Localization metrics of boxes: does a box around the thresholded map match the box of the region?

As in `xaibench.metrics.localization`: `maps` (B, H, W), `masks` (B, H, W) bool, NaN for an empty mask and for a
constant or non-finite map. What the sources leave open is settled alike for all metrics here:

- A map is min-max scaled to 8 bits (signed: zero plays no part) and thresholded strictly above a grey level.
- A detected box is the smallest that holds a component of that foreground, 8-connected, as OpenCV's contours are.
- The region's boxes are the smallest that hold the 8-connected components of its mask: the annotated boxes, unless two
  touch, and boxes for an exact mask. A detected box is compared with the one that it matches best.
- A box covers whole pixels, the first and the last included.

Chance is the mean score of maps of uniform noise in the masks' frame, simulated once for each frame with a fixed seed
and mirrored both ways. Noise breaks into very many small boxes and one that covers the image: some lie inside any
region, so that it wins by IoBB at every T, and by IoU at a small one. That is what these criteria are worth without the
count of false positives beside them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache, partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from xaibench.errors import UsageError
from xaibench.metrics import _ops
from xaibench.metrics._boxes import Boxes, FloatArray, component_boxes, overlaps
from xaibench.metrics.base import metric
from xaibench.metrics.localization import THRESHOLDS

LEVELS = (60, 180)
"""Grey levels of Wang et al. 2017."""

NOISE_PIXELS = 2**21
"""Thresholded pixels of noise that a chance level rests on, in 4 to 500 maps, each then mirrored both ways."""

IOU, IOBB = 0, 1


def _detect(maps: Tensor, levels: Sequence[int]) -> Boxes:
    """Return the boxes of the maps above each of L grey levels: of B * L binary images, a map's side by side."""
    if not len(levels) or not all(0 <= level < 255 for level in levels):
        raise UsageError(f"levels must be grey levels from 0 to 254, got {list(levels)}")
    grey = _ops.grey_levels(maps).cpu().numpy()[:, None]
    segments = grey > np.asarray(levels)[:, None, None]
    return component_boxes(segments.reshape(-1, *grey.shape[2:]))


Score = Callable[[Boxes, FloatArray], FloatArray]
"""From boxes of B * L binary images and their overlaps (2, M) with the regions to scores (B, columns)."""


def _scores(score: Score, maps: Tensor, masks: Tensor, levels: Sequence[int]) -> Tensor:
    _ops.check_maps(maps, masks)
    boxes, regions = _detect(maps, levels), component_boxes(masks.cpu().numpy())
    scores = score(boxes, overlaps(boxes, regions, boxes.image // len(levels)))
    return _ops.nan_where(_ops.undefined(maps, masks), torch.from_numpy(scores).to(maps.device))


def _chance(score: Score, masks: Tensor, levels: Sequence[int], *, largest: bool = False) -> Tensor:
    """Return (B, columns): the mean score of noise. All noise is compared with one mask at a time: bounded memory."""
    noise, regions = _noise(*masks.shape[-2:], tuple(levels), largest), component_boxes(masks.cpu().numpy())
    owners = np.zeros(len(noise.image), dtype=np.int64)
    means = [score(noise, overlaps(noise, regions, owners + index)).mean(0) for index in range(len(masks))]
    columns = score(noise, np.zeros((2, len(owners)))).shape[1]
    levels_of = torch.from_numpy(np.array(means).reshape(-1, columns)).to(masks.device)
    return _ops.nan_where(_ops.area(masks).isnan(), levels_of)


def noise_maps(height: int, width: int, levels: int) -> int:
    """Return how many maps of noise, before they are mirrored, a chance level at that many grey levels rests on."""
    return min(500, max(4, NOISE_PIXELS // (height * width * levels)))


@lru_cache(maxsize=16)
def _noise(height: int, width: int, levels: tuple[int, ...], largest: bool) -> Boxes:
    """Return the boxes, or those of the largest components only, of maps of uniform noise and their mirror images."""
    number = noise_maps(height, width, len(levels))
    maps = torch.rand(number, height, width, generator=torch.Generator().manual_seed(0))
    boxes = _detect(maps, levels)
    if largest:
        kept = _is_largest(boxes)
        boxes = replace(boxes, corners=boxes.corners[kept], image=boxes.image[kept], pixels=boxes.pixels[kept])
    top, left, bottom, right = boxes.corners.T
    corners = [
        np.stack([y[0], x[0], y[1], x[1]], axis=1)
        for y in ((top, bottom), (height - bottom, height - top))
        for x in ((left, right), (width - right, width - left))
    ]
    image = [boxes.image + copy * boxes.images for copy in range(4)]
    return Boxes(np.concatenate(corners), np.concatenate(image), np.tile(boxes.pixels, 4), 4 * boxes.images)


def _is_largest(boxes: Boxes) -> npt.NDArray[np.bool_]:
    """Return (M,): is a box that of its image's largest component, or of one of them?"""
    largest = np.zeros(boxes.images, dtype=np.int64)
    np.maximum.at(largest, boxes.image, boxes.pixels)
    kept: npt.NDArray[np.bool_] = boxes.pixels == largest[boxes.image]
    return kept


def _check_thresholds(thresholds: Sequence[float]) -> FloatArray:
    if not len(thresholds) or not all(0 <= threshold < 1 for threshold in thresholds):
        raise UsageError(f"thresholds must be numbers in [0, 1), got {list(thresholds)}")
    return np.asarray(thresholds, dtype=np.float64)


def _hits(
    boxes: Boxes, overlap: FloatArray, *, kind: int, levels: Sequence[int], thresholds: Sequence[float]
) -> FloatArray:
    """Return (B, T): 1 where any box of the map, at any level, overlaps more than T."""
    best = np.zeros(boxes.images // len(levels))
    np.maximum.at(best, boxes.image // len(levels), overlap[kind])
    return (best[:, None] > _check_thresholds(thresholds)).astype(np.float64)


def _false_positives(
    boxes: Boxes, overlap: FloatArray, *, kind: int, levels: Sequence[int], thresholds: Sequence[float]
) -> FloatArray:
    """Return (B, T): how many boxes of the map, at all levels, overlap no more than T."""
    maps, number = boxes.image // len(levels), boxes.images // len(levels)
    failing = overlap[kind] <= _check_thresholds(thresholds)[:, None]
    return np.stack([np.bincount(maps, row, number) for row in failing], axis=1).astype(np.float64)  # int if empty


T_IOU = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
T_IOBB = (0.1, 0.25, 0.5, 0.75, 0.9)


def _t_iou_chance(masks: Tensor, *, thresholds: Sequence[float] = T_IOU, levels: Sequence[int] = LEVELS) -> Tensor:
    """Return (B, T): how often noise hits."""
    return _chance(partial(_hits, kind=IOU, levels=levels, thresholds=thresholds), masks, levels)


@metric(
    "t_iou",
    category="localization",
    direction="higher",
    range=(0.0, 1.0),
    title="T(IoU)",
    reference="Wang et al. 2017 (ChestX-ray8), arXiv:1705.02315",
    chance=_t_iou_chance,
    curve="thresholds",
    headline_at=0.5,
    thresholds=T_IOU,
    levels=LEVELS,
)
def t_iou(
    maps: Tensor, masks: Tensor, *, thresholds: Sequence[float] = T_IOU, levels: Sequence[int] = LEVELS
) -> Tensor:
    """Is there a detected box whose IoU with a box of the region is above T? (B, T), one column for each T.

    Detected are the boxes at every one of the grey levels, each thresholded for itself, together. Every further level
    is a further chance to hit: see `t_iou_false_positives` beside it. Chance: simulated; near 1 at T = 0.1, as among so
    many boxes one will do, near 0 at 0.5 and above.

    >>> maps = torch.tensor([[[9.0, 9.0, 0.0, 0.0, 4.0]]])  # grey 255, 255, 0, 0, 113
    >>> masks = torch.tensor([[[False, True, False, False, False]]])
    >>> t_iou(maps, masks, thresholds=[0.25, 0.5]).tolist()
    [[1.0, 0.0]]
    """
    return _scores(partial(_hits, kind=IOU, levels=levels, thresholds=thresholds), maps, masks, levels)


def _t_iobb_chance(masks: Tensor, *, thresholds: Sequence[float] = T_IOBB, levels: Sequence[int] = LEVELS) -> Tensor:
    """Return (B, T): how often noise hits."""
    return _chance(partial(_hits, kind=IOBB, levels=levels, thresholds=thresholds), masks, levels)


@metric(
    "t_iobb",
    category="localization",
    direction="higher",
    range=(0.0, 1.0),
    title="T(IoBB)",
    reference="Wang et al. 2017 (ChestX-ray8), arXiv:1705.02315, table 4",
    chance=_t_iobb_chance,
    curve="thresholds",
    headline_at=0.25,
    thresholds=T_IOBB,
    levels=LEVELS,
)
def t_iobb(
    maps: Tensor, masks: Tensor, *, thresholds: Sequence[float] = T_IOBB, levels: Sequence[int] = LEVELS
) -> Tensor:
    """Is there a detected box that lies in a box of the region by more than T of its own area? (B, T), as `t_iou`.

    Rewards tiny boxes: one of a single pixel inside the region hits at every T. Chance, simulated, is therefore 1 for
    all but the smallest regions. Never show it without `t_iobb_false_positives`.

    >>> maps = torch.tensor([[[9.0, 9.0, 0.0, 0.0, 4.0]]])
    >>> masks = torch.tensor([[[False, False, False, False, True]]])
    >>> [t_iobb(maps, masks, thresholds=[0.9], levels=[level]).item() for level in (60, 180)]
    [1.0, 0.0]
    """
    return _scores(partial(_hits, kind=IOBB, levels=levels, thresholds=thresholds), maps, masks, levels)


def _iou_false_chance(masks: Tensor, *, thresholds: Sequence[float] = T_IOU, levels: Sequence[int] = LEVELS) -> Tensor:
    """Return (B, T): the mean number of noise's false positives."""
    return _chance(partial(_false_positives, kind=IOU, levels=levels, thresholds=thresholds), masks, levels)


@metric(
    "t_iou_false_positives",
    category="localization",
    direction="lower",
    range=(0.0, math.inf),
    title="False positive boxes, T(IoU)",
    reference="Wang et al. 2017 (ChestX-ray8), arXiv:1705.02315",
    chance=_iou_false_chance,
    curve="thresholds",
    headline_at=0.5,
    thresholds=T_IOU,
    levels=LEVELS,
)
def t_iou_false_positives(
    maps: Tensor, masks: Tensor, *, thresholds: Sequence[float] = T_IOU, levels: Sequence[int] = LEVELS
) -> Tensor:
    """Number of detected boxes, at all grey levels, whose IoU with every box of the region is T or less: (B, T).

    Counted on images that have the class, as they have the boxes. The paper doesn't say over which images it averages;
    its AFP is not this number: with two levels each image has two boxes at least, and its hits and AFP add up to fewer.

    >>> maps = torch.tensor([[[9.0, 9.0, 0.0, 0.0, 4.0]]])  # boxes: two at level 60, one at 180
    >>> masks = torch.tensor([[[True, True, False, False, False]]])
    >>> t_iou_false_positives(maps, masks, thresholds=[0.5]).tolist()
    [[1.0]]
    """
    return _scores(partial(_false_positives, kind=IOU, levels=levels, thresholds=thresholds), maps, masks, levels)


def _iobb_false_chance(
    masks: Tensor, *, thresholds: Sequence[float] = T_IOBB, levels: Sequence[int] = LEVELS
) -> Tensor:
    """Return (B, T): the mean number of noise's false positives."""
    return _chance(partial(_false_positives, kind=IOBB, levels=levels, thresholds=thresholds), masks, levels)


@metric(
    "t_iobb_false_positives",
    category="localization",
    direction="lower",
    range=(0.0, math.inf),
    title="False positive boxes, T(IoBB)",
    reference="Wang et al. 2017 (ChestX-ray8), arXiv:1705.02315, table 4 (AFP)",
    chance=_iobb_false_chance,
    curve="thresholds",
    headline_at=0.25,
    thresholds=T_IOBB,
    levels=LEVELS,
)
def t_iobb_false_positives(
    maps: Tensor, masks: Tensor, *, thresholds: Sequence[float] = T_IOBB, levels: Sequence[int] = LEVELS
) -> Tensor:
    """Number of detected boxes that lie in every box of the region by T of their area or less: (B, T).

    As `t_iou_false_positives`, by the criterion of `t_iobb`.

    >>> maps = torch.tensor([[[9.0, 9.0, 0.0, 0.0, 4.0]]])
    >>> masks = torch.tensor([[[False, True, False, False, False]]])
    >>> t_iobb_false_positives(maps, masks, thresholds=[0.25, 0.5]).tolist()
    [[1.0, 3.0]]
    """
    return _scores(partial(_false_positives, kind=IOBB, levels=levels, thresholds=thresholds), maps, masks, levels)


def _largest_iou(boxes: Boxes, overlap: FloatArray, *, columns: int) -> FloatArray:
    """Return (B, columns): the IoU of each binary image's largest component; the mean over several of that size."""
    chosen = _is_largest(boxes)
    summed, number = (
        np.bincount(boxes.image, weights, boxes.images) for weights in (overlap[IOU] * chosen, chosen.astype(float))
    )
    return (summed / np.maximum(number, 1)).reshape(-1, columns)


def _levels(thresholds: Sequence[float]) -> list[int]:
    return [int(255 * threshold) for threshold in _check_thresholds(thresholds)]


def _box_iou_chance(masks: Tensor, *, thresholds: Sequence[float] = THRESHOLDS) -> Tensor:
    """Return (B, T): the mean IoU of noise's largest component."""
    return _chance(partial(_largest_iou, columns=len(thresholds)), masks, _levels(thresholds), largest=True)


@metric(
    "box_iou",
    category="localization",
    direction="higher",
    range=(0.0, 1.0),
    title="IoU of the largest box",
    reference="Choe et al. 2020 (MaxBoxAcc), arXiv:2001.07437, arXiv:2007.04178; wsolevaluation",
    chance=_box_iou_chance,
    curve="thresholds",
    headline_at=0.5,
    thresholds=THRESHOLDS,
)
def box_iou(maps: Tensor, masks: Tensor, *, thresholds: Sequence[float] = THRESHOLDS) -> Tensor:
    """IoU of the region's box and the box of the largest component above each share of the map's range: (B, T).

    The columns from which MaxBoxAcc is made, a number of a whole dataset and no metric of one map: the share of images
    with IoU >= 0.5, at the threshold where it is largest. That threshold is an oracle that has seen the test set; show
    beside it the one that a validation set picks. With IoU >= 0.3, 0.5 and 0.7, each at its best threshold, and
    averaged: MaxBoxAccV2, but for its second change, to take every component's box and not the largest's only.

    The map is scaled to 8 bits, as in wsolevaluation, which draws contours: its largest component is that of the
    largest outline, holes included, not of the most pixels, and its boxes reach one pixel too far to the right and
    below. Several components of the same size: the mean of their IoUs. Chance: simulated.

    >>> maps = torch.tensor([[[9.0, 9.0, 0.0, 0.0, 4.0]]])
    >>> masks = torch.tensor([[[False, True, False, False, False]]])
    >>> box_iou(maps, masks, thresholds=[0.2, 0.5]).tolist()
    [[0.5, 0.5]]
    """
    return _scores(partial(_largest_iou, columns=len(thresholds)), maps, masks, _levels(thresholds))
