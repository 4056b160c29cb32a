"""Localization metrics of a whole dataset, and the threshold of the map that they choose.

A `Metric` with a `Pool`: ``compute(maps, masks)`` returns statistics (B, C) of each pair, NaN for an empty mask and for
a constant or non-finite map, which the harness counts as noise, also where it chooses a threshold; it averages them by
class and makes the score of the means, in every resample of the patients anew. Where a threshold is chosen, both
choices stand in the result: ``NAME@oracle`` is the best on the test images themselves, which has seen the answers,
``NAME@tuned`` the best on validation, where that has regions.

The map is min-max scaled (signed: zero plays no part), and foreground lies strictly above the threshold. Metrics of
boxes cut the scaled map to 8 bits, as wsolevaluation does, and compare with the grey level ``int(255 threshold)``; the
others don't. Chance functions return the statistics of uniform noise.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from xaibench.errors import UsageError
from xaibench.metrics import _ops, _pixels
from xaibench.metrics._boxes import FloatArray
from xaibench.metrics._noise import noise_of
from xaibench.metrics.base import PixelStatistic, Pool, metric
from xaibench.metrics.boxes import _best_iou, _largest_iou, _levels, _regions, box_ious, check_thresholds

CANDIDATES = tuple(round(0.01 * step, 2) for step in range(100))
"""0, 0.01, ..., 0.99: shares of the map's range, as in wsolevaluation."""

DELTAS = (0.3, 0.5, 0.7)
"""IoU that a box must reach (Choe et al. 2020, PAMI version)."""


def _ious(maps: Tensor, masks: Tensor, thresholds: Sequence[float], ignore: Tensor | None) -> Tensor:
    """Return (B, T): the IoU of the mask and the foreground above each threshold."""
    _ops.check_maps(maps, masks, ignore)
    counts = _ops.above(maps, masks, check_thresholds(thresholds).tolist(), ignore)
    inside = _ops.without(masks, ignore)
    number = _ops.number(inside).double()[:, None]
    return _ops.nan_where(_ops.undefined(maps, inside), counts[:, 1] / (number + counts[:, 0]))


def _iou_chance(masks: Tensor, *, thresholds: Sequence[float] = CANDIDATES, ignore: Tensor | None = None) -> Tensor:
    """Return (B, T): the IoU expected of uniform noise, to the second order of the binomial count outside the mask.

    A mask of n among N pixels, each foreground with probability q: n q E[1 / (n + Y)], Y binomial (N - n, q). One pixel
    is the minimum, one the maximum, whatever the noise: q = ((N - 2)(1 - t) + 1) / N above a threshold t.
    """
    levels = torch.from_numpy(check_thresholds(thresholds)).to(masks.device)
    masks, pixels = _ops.without(masks, ignore), masks.shape[-2] * masks.shape[-1]
    number = _ops.number(masks).double()[:, None]
    q = (max(0, pixels - 2) * (1 - levels) + 1) / pixels
    outside = (_ops.counted_pixels(masks, ignore)[:, None] - number) * q
    union = number + outside
    expected = number * q * (1 / union + outside * (1 - q) / union**3)
    return _ops.nan_where(number[:, 0] == 0, expected)


def _fixed_chance(masks: Tensor, *, threshold: float = 0.5, ignore: Tensor | None = None) -> Tensor:
    """Return (B,): the IoU expected of uniform noise."""
    return _iou_chance(masks, thresholds=[threshold], ignore=ignore)[:, 0]


@metric(
    "iou_fixed",
    category="localization",
    direction="higher",
    range=(0.0, 1.0),
    title="IoU at half the map's range",
    reference="Jaccard 1912; Zhou et al. 2016 (CAM), arXiv:1512.04150, who cut at a share of the largest value",
    chance=_fixed_chance,
    version=2,
    threshold=0.5,
)
def iou_fixed(maps: Tensor, masks: Tensor, *, threshold: float = 0.5, ignore: Tensor | None = None) -> Tensor:
    """Intersection over union of the mask and the min-max scaled map above one threshold, the same for every image.

    Foreground: (v - low) / (high - low) > threshold, computed in float64 of the raw map and not rounded to 8 bits, as
    CheXlocalize cuts at its tuned thresholds. The
    plainest of the four ways to a segmentation; `iou_otsu` lets each map choose for itself, `iou_best` shows the
    threshold tuned on validation and the oracle. No holes are filled. Pixels in `ignore`, bool of the masks' shape,
    count neither for nor against, but the map is scaled with them. Chance: about a q / (a + (1 - a) q) for a mask of
    area a and a share q of foreground.

    >>> maps = torch.tensor([[[9.0, 8.0, 0.0], [1.0, 0.0, 1.0]]])
    >>> masks = torch.tensor([[[True, False, False], [True, False, False]]])
    >>> round(iou_fixed(maps, masks).item(), 6)
    0.333333
    """
    return _ious(maps, masks, [threshold], ignore)[:, 0]


def _as_candidates(means: FloatArray, *, thresholds: Sequence[float], deltas: Sequence[float] = (0.5,)) -> FloatArray:
    return means.reshape(len(means), -1, len(thresholds))


@metric(
    "iou_best",
    category="localization",
    direction="higher",
    range=(0.0, 1.0),
    title="IoU at the best threshold",
    reference="Jaccard 1912; threshold by validation as in Saporta et al. 2022, doi:10.1038/s42256-022-00536-x",
    chance=_iou_chance,
    pool=Pool(lambda *, thresholds: len(thresholds), _as_candidates, "thresholds"),
    version=2,
    thresholds=CANDIDATES,
)
def iou_best(
    maps: Tensor, masks: Tensor, *, thresholds: Sequence[float] = CANDIDATES, ignore: Tensor | None = None
) -> Tensor:
    """Mean IoU of the class's masks and maps, as `iou_fixed`, at the threshold where that mean is largest.

    Returns the IoU at every threshold, (B, T). ``iou_best@oracle`` takes the threshold from the test images and is an
    upper bound; ``iou_best@tuned`` takes it from validation. Chance: the same of noise, about the area of the mask.

    >>> maps = torch.tensor([[[9.0, 8.0, 0.0], [1.0, 0.0, 1.0]]])
    >>> masks = torch.tensor([[[True, True, False], [False, False, False]]])
    >>> iou_best(maps, masks, thresholds=[0.0, 0.5]).tolist()
    [[0.5, 1.0]]
    """
    return _ious(maps, masks, thresholds, ignore)


def _check_deltas(deltas: Sequence[float]) -> FloatArray:
    if not len(deltas) or not all(0 < delta <= 1 for delta in deltas):
        raise UsageError(f"deltas must be numbers in (0, 1], got {list(deltas)}")
    return np.asarray(deltas, dtype=np.float64)


def _reached(ious: FloatArray, deltas: Sequence[float]) -> FloatArray:
    """Return (B, J * T): whether each of (B, T) IoUs reaches each of J deltas."""
    reached = ious[:, None] >= _check_deltas(deltas)[:, None]
    return reached.reshape(len(ious), len(deltas) * ious.shape[1]).astype(np.float64)


def _accuracies(
    which: int, maps: Tensor, masks: Tensor, thresholds: Sequence[float], deltas: Sequence[float]
) -> Tensor:
    """Return (B, J * T) of the largest component's box (0), or of the best box (1)."""
    _ops.check_maps(maps, masks)
    reached = torch.from_numpy(_reached(box_ious(maps, masks, _levels(thresholds))[which], deltas))
    return _ops.nan_where(_ops.undefined(maps, masks), reached.to(maps.device))


def _accuracy_chance(which: int, masks: Tensor, thresholds: Sequence[float], deltas: Sequence[float]) -> Tensor:
    """Return (B, J * T): how often noise reaches each delta.

    Of noise's very many boxes only those are compared that are large enough, and small enough, to reach the least.
    """
    noise = noise_of(*masks.shape[-2:], tuple(_levels(thresholds)), which == 0)
    score, regions, found = (_largest_iou, _best_iou)[which], _ops.once(_regions, masks), []
    for image in range(regions.images):
        matched = noise.matches(regions.only(image).corners, min(_check_deltas(deltas)))
        found.append(_reached(score(matched, columns=len(thresholds)), deltas).mean(0))
    means = torch.from_numpy(np.array(found).reshape(-1, len(thresholds) * len(deltas)))
    return _ops.nan_where(_ops.area(masks).isnan(), means.to(masks.device))


def _box_columns(*, thresholds: Sequence[float], deltas: Sequence[float]) -> int:
    return len(thresholds) * len(deltas)


def _max_box_chance(
    masks: Tensor, *, thresholds: Sequence[float] = CANDIDATES, deltas: Sequence[float] = (0.5,)
) -> Tensor:
    """Return (B, J * T): how often the box of noise's largest component reaches each delta."""
    return _accuracy_chance(0, masks, thresholds, deltas)


@metric(
    "max_box_acc",
    category="localization",
    direction="higher",
    range=(0.0, 1.0),
    title="MaxBoxAcc (IoU 0.5)",
    reference="Choe et al. 2020, arXiv:2001.07437; wsolevaluation",
    chance=_max_box_chance,
    simulated=True,
    pool=Pool(_box_columns, _as_candidates, "thresholds"),
    thresholds=CANDIDATES,
    deltas=(0.5,),
)
def max_box_acc(
    maps: Tensor, masks: Tensor, *, thresholds: Sequence[float] = CANDIDATES, deltas: Sequence[float] = (0.5,)
) -> Tensor:
    """Share of the class's images where the largest component's box has IoU >= 0.5, at the threshold that is best.

    Returns whether it has, at every threshold, (B, T). The metric as published is ``max_box_acc@oracle``: the threshold
    is chosen on the images that are scored; ``max_box_acc@tuned`` stands beside it. Boxes as in `box_iou`, of the map
    scaled to 8 bits; it says how wsolevaluation's differ. Chance: simulated.

    >>> maps = torch.tensor([[[9.0, 9.0, 0.0, 0.0, 4.0]]])
    >>> masks = torch.tensor([[[False, True, False, False, False]]])
    >>> max_box_acc(maps, masks, thresholds=[0.2, 0.5], deltas=[0.5, 0.7]).tolist()
    [[1.0, 1.0, 0.0, 0.0]]
    """
    return _accuracies(0, maps, masks, thresholds, deltas)


def _max_box_v2_chance(
    masks: Tensor, *, thresholds: Sequence[float] = CANDIDATES, deltas: Sequence[float] = DELTAS
) -> Tensor:
    """Return (B, J * T): how often any box of noise reaches each delta."""
    return _accuracy_chance(1, masks, thresholds, deltas)


@metric(
    "max_box_acc_v2",
    category="localization",
    direction="higher",
    range=(0.0, 1.0),
    title="MaxBoxAccV2 (IoU 0.3, 0.5, 0.7)",
    reference="Choe et al. 2020, arXiv:2007.04178; wsolevaluation",
    chance=_max_box_v2_chance,
    simulated=True,
    pool=Pool(_box_columns, _as_candidates, "thresholds"),
    thresholds=CANDIDATES,
    deltas=DELTAS,
)
def max_box_acc_v2(
    maps: Tensor, masks: Tensor, *, thresholds: Sequence[float] = CANDIDATES, deltas: Sequence[float] = DELTAS
) -> Tensor:
    """As `max_box_acc`, of the best of all components' boxes, averaged over three IoUs, each at its own best threshold.

    Returns whether some box, of the map scaled to 8 bits, reaches each delta at every threshold: (B, 3 T), delta by
    delta. Chance: simulated.

    >>> maps = torch.tensor([[[9.0, 9.0, 0.0, 0.0, 4.0]]])
    >>> masks = torch.tensor([[[False, False, False, False, True]]])
    >>> max_box_acc_v2(maps, masks, thresholds=[0.2, 0.5], deltas=[0.5, 0.7]).tolist()
    [[1.0, 0.0, 1.0, 0.0]]
    """
    return _accuracies(1, maps, masks, thresholds, deltas)


def _pxap_chance(masks: Tensor) -> Tensor:
    """Return (B, 1): the area of the mask, the average precision expected of uniform noise."""
    return _ops.area(masks)[:, None]


@metric(
    "pxap",
    category="localization",
    direction="higher",
    range=(0.0, 1.0),
    title="PxAP (pixels of all images)",
    reference="Choe et al. 2020, arXiv:2001.07437; wsolevaluation; scikit-learn's average_precision_score",
    chance=_pxap_chance,
    version=2,
    pool=Pool(
        lambda: 1,
        lambda means: means[:, :, None],
        pixels=PixelStatistic(_pixels.average_precision, _pixels.binned_average_precision),
    ),
)
def pxap(maps: Tensor, masks: Tensor, *, ignore: Tensor | None = None) -> Tensor:
    """Area under the precision-recall curve of all pixels of the class's images together, each map min-max scaled.

    Exact: every value is a threshold, as in scikit-learn; wsolevaluation cuts at 1000 levels. Pixels where `ignore`
    (B, H, W) holds count nowhere, as there. No threshold is chosen. Large lesions dominate: `pixel_ap` weighs every
    image alike. Returns each image's own value, (B, 1); that of a class is no mean of them, and a run makes it of all
    pixels: ``pxap.pool.pixels.exact(xaibench.metrics.pixel_rows(maps, masks))``. Chance: the share of all pixels that
    lies in a mask.

    >>> maps = torch.tensor([[[4.0, 3.0], [3.5, 1.0]]])
    >>> masks = torch.tensor([[[True, True], [False, False]]])
    >>> round(pxap(maps, masks).item(), 6)  # (1 + 2/3) / 2
    0.833333
    """
    rows = _pixels.pixel_rows(maps, masks, ignore)
    own = [_pixels.average_precision([row]) if row.defined else float("nan") for row in rows]
    return torch.tensor(own, dtype=torch.float64, device=maps.device)[:, None]
