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
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from xaibench.errors import UsageError
from xaibench.metrics import _ops
from xaibench.metrics._boxes import IOBB, IOU, Boxes, FloatArray, Matches, boxes_above, component_boxes, matches
from xaibench.metrics._noise import noise_of
from xaibench.metrics._rows import each_row
from xaibench.metrics.base import metric
from xaibench.metrics.localization import THRESHOLDS

LEVELS = (60, 180)
"""Grey levels of Wang et al. 2017."""


def _detect(maps: Tensor, levels: Sequence[int]) -> Boxes:
    """Return the boxes of the maps above each of L grey levels: of B * L binary images, a map's side by side."""
    if not len(levels) or not all(0 <= level < 255 for level in levels):
        raise UsageError(f"levels must be grey levels from 0 to 254, got {list(levels)}")
    return boxes_above(_ops.grey(maps).cpu().numpy(), levels)


Score = Callable[[Matches], FloatArray]
"""From the boxes of B * L binary images that touch a region to scores (B, columns)."""


def _matches(maps: Tensor, masks: Tensor, levels: Sequence[int]) -> Matches:
    return matches(_detect(maps, levels), _ops.once(_regions, masks), len(levels))


def _regions(masks: Tensor) -> Boxes:
    return component_boxes(masks.cpu().numpy())


def _scores(score: Score, maps: Tensor, masks: Tensor, levels: Sequence[int]) -> Tensor:
    _ops.check_maps(maps, masks)
    scores = score(_ops.once(_matches, maps, masks, levels=tuple(levels)))
    return _ops.nan_where(_ops.undefined(maps, masks), torch.from_numpy(scores).to(maps.device))


def _chance(score: Score, masks: Tensor, levels: Sequence[int], *, largest: bool = False) -> Tensor:
    """Return (B, columns): the mean score of noise."""
    found = _ops.once(_noise_matches, masks, levels=tuple(levels), largest=largest)
    some = found or [noise_of(*masks.shape[-2:], tuple(levels), largest).matches(_NOWHERE)]
    means = np.stack([score(one).mean(0) for one in some])[: len(found)]
    return _ops.nan_where(_ops.area(masks).isnan(), torch.from_numpy(means).to(masks.device))


_NOWHERE = np.empty((0, 4), dtype=np.int32)


def _noise_matches(masks: Tensor, levels: tuple[int, ...], largest: bool) -> list[Matches]:
    """Return how noise overlaps with each mask: all noise is compared with one mask at a time."""
    noise, regions = noise_of(*masks.shape[-2:], levels, largest), _ops.once(_regions, masks)
    return [noise.matches(regions.only(image).corners) for image in range(regions.images)]


def check_thresholds(thresholds: Sequence[float]) -> FloatArray:
    """Return thresholds, shares in [0, 1), as an array.

    Raises:
        UsageError: none, or another value.
    """
    if not len(thresholds) or not all(0 <= threshold < 1 for threshold in thresholds):
        raise UsageError(f"thresholds must be numbers in [0, 1), got {list(thresholds)}")
    return np.asarray(thresholds, dtype=np.float64)


def _hits(found: Matches, *, kind: int, levels: Sequence[int], thresholds: Sequence[float]) -> FloatArray:
    """Return (B, T): 1 where any box of the map, at any level, overlaps more than T."""
    best = np.zeros(len(found.number) // len(levels))
    np.maximum.at(best, found.image // len(levels), found.overlap[kind])
    return (best[:, None] > check_thresholds(thresholds)).astype(np.float64)


def _false_positives(found: Matches, *, kind: int, levels: Sequence[int], thresholds: Sequence[float]) -> FloatArray:
    """Return (B, T): how many boxes of the map, at all levels, overlap no more than T."""
    number = found.number.reshape(-1, len(levels)).sum(1)
    limits, columns = check_thresholds(thresholds), len(thresholds) + 1
    passed = (found.overlap[kind] > limits[:, None]).sum(0, dtype=np.intp)  # the lowest of the thresholds
    counts = np.bincount(found.image // len(levels) * columns + passed, minlength=len(number) * columns)
    passing = counts.reshape(-1, columns)[:, :0:-1].cumsum(1)[:, ::-1]  # the lowest, the two lowest, ...
    false: FloatArray = (number[:, None] - passing[:, limits.argsort().argsort()]).astype(np.float64)
    return false


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
    simulated=True,
    curve="thresholds",
    headline_at=0.5,
    thresholds=T_IOU,
    levels=LEVELS,
)
def t_iou(
    maps: Tensor, masks: Tensor, *, thresholds: Sequence[float] = T_IOU, levels: Sequence[int] = LEVELS
) -> Tensor:
    """Is there a detected box whose IoU with a box of the region is above T? (B, T), one column for each T.

    The map is scaled to 8 bits, whose levels the definition thresholds. Detected are the boxes at every one of the grey
    levels, each thresholded for itself, together. Every further level is a further chance to hit: see
    `t_iou_false_positives` beside it. Chance: simulated; near 1 at T = 0.1, as among so many boxes one will do, near 0
    at 0.5 and above.

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
    simulated=True,
    curve="thresholds",
    headline_at=0.25,
    thresholds=T_IOBB,
    levels=LEVELS,
)
def t_iobb(
    maps: Tensor, masks: Tensor, *, thresholds: Sequence[float] = T_IOBB, levels: Sequence[int] = LEVELS
) -> Tensor:
    """Is there a detected box that lies in a box of the region by more than T of its own area? (B, T), as `t_iou`.

    The map is scaled to 8 bits, as there. Rewards tiny boxes: one of a single pixel inside the region hits at every T.
    Chance, simulated, is therefore 1 for all but the smallest regions. Never show it without `t_iobb_false_positives`.

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
    simulated=True,
    curve="thresholds",
    headline_at=0.5,
    thresholds=T_IOU,
    levels=LEVELS,
)
def t_iou_false_positives(
    maps: Tensor, masks: Tensor, *, thresholds: Sequence[float] = T_IOU, levels: Sequence[int] = LEVELS
) -> Tensor:
    """Number of detected boxes, at all grey levels, whose IoU with every box of the region is T or less: (B, T).

    Boxes of the map scaled to 8 bits, as in `t_iou`. Counted on images that have the class, as they have the boxes. The
    paper doesn't say over which images it averages; its AFP is not this number: with two levels each image has two
    boxes at least, and its hits and AFP add up to fewer.

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
    simulated=True,
    curve="thresholds",
    headline_at=0.25,
    thresholds=T_IOBB,
    levels=LEVELS,
)
def t_iobb_false_positives(
    maps: Tensor, masks: Tensor, *, thresholds: Sequence[float] = T_IOBB, levels: Sequence[int] = LEVELS
) -> Tensor:
    """Number of detected boxes that lie in every box of the region by T of their area or less: (B, T).

    As `t_iou_false_positives`, of the map scaled to 8 bits, by the criterion of `t_iobb`.

    >>> maps = torch.tensor([[[9.0, 9.0, 0.0, 0.0, 4.0]]])
    >>> masks = torch.tensor([[[False, True, False, False, False]]])
    >>> t_iobb_false_positives(maps, masks, thresholds=[0.25, 0.5]).tolist()
    [[1.0, 3.0]]
    """
    return _scores(partial(_false_positives, kind=IOBB, levels=levels, thresholds=thresholds), maps, masks, levels)


def _largest_iou(found: Matches, *, columns: int) -> FloatArray:
    """Return (B, columns): the IoU of each binary image's largest component; the mean over several of that size."""
    image, overlap = found.image[found.largest], found.overlap[IOU, found.largest]
    summed = np.bincount(image, overlap, len(found.ties))
    ious: FloatArray = (summed / np.maximum(found.ties, 1)).reshape(-1, columns)
    return ious


def _best_iou(found: Matches, *, columns: int) -> FloatArray:
    """Return (B, columns): the largest IoU of any of a binary image's boxes."""
    best = np.zeros(len(found.number))
    np.maximum.at(best, found.image, found.overlap[IOU])
    return best.reshape(-1, columns)


def box_ious(maps: Tensor, masks: Tensor, levels: Sequence[int]) -> tuple[FloatArray, FloatArray]:
    """Return (B, L): the IoU of the largest component's box above each grey level, and the best of all boxes.

    An image at a time, as each stands for as many binary ones as there are levels. What one metric asked, others
    that ask within `_ops.sharing` need not detect again.
    """
    known = _ops.once(_nothing_known, maps, masks)
    if lacking := [level for level in dict.fromkeys(levels) if level not in known]:
        regions = _ops.once(_regions, masks)
        of_one, grey = partial(_ious_of_one, levels=lacking), _ops.grey(maps).cpu().numpy()
        steps = each_row(of_one, grey, [regions.only(image) for image in range(len(grey))])
        made = np.array(steps).reshape(-1, 2, len(lacking))
        known.update(zip(lacking, made.transpose(2, 1, 0), strict=True))
    largest, best = np.stack([known[level] for level in levels], axis=-1)
    return largest, best


def _ious_of_one(grey: npt.NDArray[np.uint8], regions: Boxes, levels: Sequence[int]) -> list[FloatArray]:
    found = matches(boxes_above(grey[None], levels), regions, len(levels))
    return [score(found, columns=len(levels))[0] for score in (_largest_iou, _best_iou)]


def _nothing_known(maps: Tensor, masks: Tensor) -> dict[int, FloatArray]:
    """Return where `box_ious` (2, B) by grey level are remembered."""
    return {}


def _levels(thresholds: Sequence[float]) -> list[int]:
    return [int(255 * threshold) for threshold in check_thresholds(thresholds)]


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
    simulated=True,
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
    _ops.check_maps(maps, masks)
    scores = torch.from_numpy(box_ious(maps, masks, _levels(thresholds))[0]).to(maps.device)
    return _ops.nan_where(_ops.undefined(maps, masks), scores)
