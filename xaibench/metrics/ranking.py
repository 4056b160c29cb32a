"""Localization metrics of the pixels' order: do those of the region rank above the others?

As in `xaibench.metrics.localization`: `maps` (B, H, W), `masks` (B, H, W) bool, scores (B,) float64, NaN for an empty
mask and for a constant or non-finite map. Signed values rank as they are. Equal values share their ranks: a score is
the one expected when ties are broken at random, never that of the order in which pixels are stored. Chance functions
take the masks alone and return the score expected of a map of independent, identically distributed noise.
"""

from __future__ import annotations

import torch
from torch import Tensor

from xaibench.errors import UsageError
from xaibench.metrics import _ops, _ranks
from xaibench.metrics.base import metric
from xaibench.metrics.localization import energy


def _area(masks: Tensor) -> Tensor:
    """Return (B,): the area of the mask, as a share of the image."""
    return _ops.area(masks)


@metric(
    "relevance_rank_accuracy",
    category="localization",
    direction="higher",
    range=(0.0, 1.0),
    title="Relevance rank accuracy",
    reference="Arras, Osman and Samek 2022 (CLEVR-XAI), doi:10.1016/j.inffus.2021.11.008, arXiv:2003.07258",
    chance=_area,
)
def relevance_rank_accuracy(maps: Tensor, masks: Tensor) -> Tensor:
    """Share of the map's K largest pixels that lies in the mask, where K is the number of the mask's pixels.

    Of pixels tied at the K-th place, each counts as often as a random choice among them would take it; Quantus takes
    those that its sort happens to leave first. Chance: the area of the mask.

    >>> maps = torch.tensor([[[5.0, 4.0], [1.0, 4.0]]])
    >>> masks = torch.tensor([[[True, True], [False, False]]])
    >>> relevance_rank_accuracy(maps, masks).tolist()
    [0.75]
    """
    _ops.check_maps(maps, masks)
    return _ops.nan_where(_ops.undefined(maps, masks), _ranks.share_of_first(maps, masks))


def _check_k(masks: Tensor, k: int) -> None:
    pixels = masks.shape[-2] * masks.shape[-1]
    if not 1 <= k <= pixels:
        raise UsageError(f"top_k_intersection: k must be 1 to the map's {pixels} pixels, got {k}: set another k")


def _top_k_chance(masks: Tensor, *, k: int = 1000) -> Tensor:
    """Return (B,): the area of the mask, as a share of the image."""
    _check_k(masks, k)
    return _ops.area(masks)


@metric(
    "top_k_intersection",
    category="localization",
    direction="higher",
    range=(0.0, 1.0),
    title="Top-k intersection (1000 pixels)",
    reference="Theiner, Mueller-Budack and Ewerth 2022, arXiv:2104.14995; k as in Quantus's TopKIntersection",
    chance=_top_k_chance,
    k=1000,
)
def top_k_intersection(maps: Tensor, masks: Tensor, *, k: int = 1000) -> Tensor:
    """Share of the map's k largest pixels that lies in the mask.

    It depends on the resolution: 1000 pixels are 2% of a map of 224 x 224, 6% of one of 128 x 128. A mask of fewer than
    k pixels can't reach 1. Compare at one frame and one k only. Ties at the k-th place count as a random choice among
    them would. Chance: the area of the mask. `UsageError` where the map has fewer than k pixels.

    >>> maps = torch.tensor([[[5.0, 4.0], [1.0, 4.0]]])
    >>> masks = torch.tensor([[[False, True], [False, False]]])
    >>> [top_k_intersection(maps, masks, k=k).item() for k in (1, 2, 4)]
    [0.0, 0.25, 0.25]
    """
    _ops.check_maps(maps, masks)
    _check_k(maps, k)
    return _ops.nan_where(_ops.undefined(maps, masks), _ranks.share_of_first(maps, masks, k))


@metric(
    "attribution_localisation",
    category="localization",
    direction="higher",
    range=(0.0, 1.0),
    title="Attribution localisation",
    reference="Kohlbrenner et al. 2020 (inside-total relevance ratio), arXiv:1910.09840",
    chance=_area,
)
def attribution_localisation(maps: Tensor, masks: Tensor) -> Tensor:
    """Share of the map's positive part that lies in the mask: the same number as `energy`, under its third name.

    Chance: the area of the mask.

    >>> maps = torch.tensor([[[3.0, 1.0], [-5.0, 0.0]]])
    >>> masks = torch.tensor([[[True, False], [True, False]]])
    >>> attribution_localisation(maps, masks).tolist()
    [0.75]
    """
    scores: Tensor = energy(maps, masks)
    return scores


def _one(masks: Tensor) -> Tensor:
    """Return (B,): 1."""
    return _ops.area(masks) * 0 + 1


@metric(
    "attribution_localisation_weighted",
    category="localization",
    direction="higher",
    range=(0.0, float("inf")),
    title="Attribution localisation, weighted",
    reference="Kohlbrenner et al. 2020 (weighted inside-total relevance ratio), arXiv:1910.09840",
    chance=_one,
)
def attribution_localisation_weighted(maps: Tensor, masks: Tensor) -> Tensor:
    """How many times its area's share the mask holds of the map's positive part: energy / area.

    1 for a map that is spread evenly, 1 / area at best. Quantus 0.6.0's weighted form multiplies by the mask's size
    where the paper divides, and takes for the image's size that of all images from the third on (it slices the batch's
    axis, not the shape): 0/0 or infinite up to two images. Chance: 1.

    >>> maps = torch.tensor([[[3.0, 1.0], [-5.0, 0.0]]])
    >>> masks = torch.tensor([[[True, False], [False, False]]])
    >>> attribution_localisation_weighted(maps, masks).tolist()
    [3.0]
    """
    scores: Tensor = energy(maps, masks)
    return scores / _ops.area(masks)


def _roc_auc_chance(masks: Tensor, *, ignore: Tensor | None = None) -> Tensor:
    """Return (B,): 1/2."""
    inside = _ops.without(masks, ignore)
    return _ops.nan_where(_no_rest(inside, ignore), _ops.area(inside) * 0 + 0.5)


def _no_rest(inside: Tensor, ignore: Tensor | None) -> Tensor:
    """Return (B,) bool: True where no pixel that counts lies outside the mask."""
    return _ops.counted_pixels(inside, ignore) == _ops.number(inside)


@metric(
    "pixel_auc",
    category="localization",
    direction="higher",
    range=(0.0, 1.0),
    title="Pixel ROC-AUC",
    reference="Fawcett 2006, doi:10.1016/j.patrec.2005.10.010; as Quantus's AUC, scikit-learn's roc_auc_score",
    chance=_roc_auc_chance,
)
def pixel_auc(maps: Tensor, masks: Tensor, *, ignore: Tensor | None = None) -> Tensor:
    """Probability that a random pixel of the mask has a larger value than one outside, ties counted half.

    The pixels of a small region weigh as much as all the others together: many false pixels cost little. See `pixel_ap`
    beside it. NaN also for a mask that covers the image. Pixels in `ignore`, bool of the masks' shape, are left out.
    Chance: 1/2.

    >>> maps = torch.tensor([[[4.0, 3.0], [3.0, 1.0]]])
    >>> masks = torch.tensor([[[True, True], [False, False]]])
    >>> pixel_auc(maps, masks).tolist()
    [0.875]
    """
    _ops.check_maps(maps, masks, ignore)
    inside = _ops.without(masks, ignore)
    bad = _ops.undefined(maps, inside) | _no_rest(inside, ignore)
    return _ops.nan_where(bad, _ranks.without(_ranks.roc_auc, maps, inside, ignore))


def _ap_chance(masks: Tensor, *, ignore: Tensor | None = None) -> Tensor:
    """Return (B,): the expected average precision of a random order of N pixels, P of them in the mask.

    h + (1 - h) (P - 1) / (N - 1), where h is the mean of 1, 1/2, ..., 1/N: a little above the area P / N.
    """
    number, pixels = _ops.number(_ops.without(masks, ignore)).double(), _ops.counted_pixels(masks, ignore)
    most = masks.shape[-2] * masks.shape[-1]
    harmonic = (1 / torch.arange(1, most + 1, dtype=torch.float64, device=masks.device)).cumsum(0)
    mean = harmonic[pixels.long().clamp(min=1) - 1] / pixels
    return _ops.nan_where(number == 0, mean + (1 - mean) * (number - 1) / (pixels - 1).clamp(min=1))


@metric(
    "pixel_ap",
    category="localization",
    direction="higher",
    range=(0.0, 1.0),
    title="Pixel average precision",
    reference="Saito and Rehmsmeier 2015, doi:10.1371/journal.pone.0118432; as scikit-learn's average_precision_score",
    chance=_ap_chance,
)
def pixel_ap(maps: Tensor, masks: Tensor, *, ignore: Tensor | None = None) -> Tensor:
    """Mean over the mask's pixels of the precision at their rank: the share of the mask among the pixels that high.

    Of equal values, all count as passed, as in scikit-learn. False pixels cost more than in `pixel_auc`, the more so
    the smaller the region. Pixels in `ignore`, bool of the masks' shape, are left out. Chance: about the area of the
    mask.

    >>> maps = torch.tensor([[[4.0, 3.0], [3.5, 1.0]]])
    >>> masks = torch.tensor([[[True, True], [False, False]]])
    >>> round(pixel_ap(maps, masks).item(), 6)  # (1 + 2/3) / 2
    0.833333
    """
    _ops.check_maps(maps, masks, ignore)
    inside = _ops.without(masks, ignore)
    return _ops.nan_where(_ops.undefined(maps, inside), _ranks.without(_ranks.average_precision, maps, inside, ignore))
