"""Metrics of boxes, box by box: components by scikit-image, overlaps by torchvision.

The papers released no package. Ours finds all maps' boxes at all thresholds at once, by OpenCV's outlines.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor

from tests.metrics.references.base import Array, Reference, own_scores
from tests.metrics.references.maps import OF_MAPS, each, eight_bits

T_IOU, T_IOBB, LEVELS = (0.1, 0.3, 0.5, 0.7), (0.1, 0.25, 0.5, 0.9), (60, 180)
THRESHOLDS = tuple(round(0.05 * step, 2) for step in range(20))
DELTAS = (0.3, 0.5, 0.7)


def boxes_of(segment: Array) -> tuple[Tensor, Array]:
    """Return the boxes (N, 4) of a binary image's 8-connected components, and their pixels (N,)."""
    from skimage.measure import label, regionprops

    found = regionprops(label(segment, connectivity=2))
    corners = [region.bbox for region in found]
    return torch.tensor(corners, dtype=torch.float64).reshape(-1, 4), np.array([region.area for region in found])


def overlaps(boxes: Tensor, regions: Tensor, *, of_box: bool) -> Array:
    """Return the best overlap (N,) of each box with a region: the intersection over the union, or over the box."""
    from torchvision.ops import box_area, box_iou

    if not of_box:
        return box_iou(boxes, regions).amax(1).numpy()
    low = torch.maximum(boxes[:, None, :2], regions[:, :2])
    high = torch.minimum(boxes[:, None, 2:], regions[:, 2:])
    return ((high - low).clamp(min=0).prod(2) / box_area(boxes)[:, None]).amax(1).numpy()


def _at_levels(map_: Array, mask: Array, *, of_box: bool) -> Array:
    grey, (regions, _) = eight_bits(map_), boxes_of(mask)
    return np.concatenate([overlaps(boxes_of(grey > level)[0], regions, of_box=of_box) for level in LEVELS])


def _hits(map_: Array, mask: Array, *, of_box: bool) -> Array:
    best = _at_levels(map_, mask, of_box=of_box).max()
    return best > np.array(T_IOBB if of_box else T_IOU)


def _false_positives(map_: Array, mask: Array, *, of_box: bool) -> Array:
    found = _at_levels(map_, mask, of_box=of_box)
    return (found[:, None] <= np.array(T_IOBB if of_box else T_IOU)).sum(0)


def _curve(map_: Array, mask: Array, *, any_box: bool) -> Array:
    """Return the IoU at each threshold, of the best component or of the largest; the mean of several so large."""
    grey, (regions, _), curve = eight_bits(map_), boxes_of(mask), []
    for threshold in THRESHOLDS:
        boxes, pixels = boxes_of(grey > int(255 * threshold))
        ious = overlaps(boxes, regions, of_box=False)
        curve.append(ious.max() if any_box else ious[pixels == pixels.max()].mean())
    return np.array(curve)


def _accuracies(case: tuple[Tensor, Tensor], *, any_box: bool, deltas: tuple[float, ...]) -> Array:
    ious = each(partial(_curve, any_box=any_box))(case).reshape(-1, len(THRESHOLDS))
    return np.concatenate([(ious >= delta).mean(0) for delta in deltas])


BY = "scikit-image regionprops and torchvision box_iou, box by box"
BY_AREA = "scikit-image regionprops, box by box"
of_boxes = partial(Reference, kind=OF_MAPS)

BOXES = [
    of_boxes("t_iou", BY, each(partial(_hits, of_box=False)), own_scores("t_iou", thresholds=T_IOU)),
    of_boxes("t_iobb", BY_AREA, each(partial(_hits, of_box=True)), own_scores("t_iobb", thresholds=T_IOBB)),
    of_boxes(
        "t_iou_false_positives",
        BY,
        each(partial(_false_positives, of_box=False)),
        own_scores("t_iou_false_positives", thresholds=T_IOU),
    ),
    of_boxes(
        "t_iobb_false_positives",
        BY_AREA,
        each(partial(_false_positives, of_box=True)),
        own_scores("t_iobb_false_positives", thresholds=T_IOBB),
    ),
    of_boxes("box_iou", BY, each(partial(_curve, any_box=False)), own_scores("box_iou", thresholds=THRESHOLDS)),
    of_boxes(
        "max_box_acc",
        BY,
        partial(_accuracies, any_box=False, deltas=(0.5,)),
        own_scores("max_box_acc", thresholds=THRESHOLDS),
    ),
    of_boxes(
        "max_box_acc_v2",
        BY,
        partial(_accuracies, any_box=True, deltas=DELTAS),
        own_scores("max_box_acc_v2", thresholds=THRESHOLDS),
    ),
]
