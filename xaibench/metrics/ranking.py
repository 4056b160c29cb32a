"""Localization metrics of the pixels' order: do those of the region rank above the others?

As in `xaibench.metrics.localization`: `maps` (B, H, W), `masks` (B, H, W) bool, scores (B,) float64, NaN for an empty
mask and for a constant or non-finite map. Signed values rank as they are. Equal values share their ranks: a score is
the one expected when ties are broken at random, never that of the order in which pixels are stored. Chance functions
take the masks alone and return the score expected of a map of independent, identically distributed noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from xaibench.errors import UsageError
from xaibench.metrics import _ops
from xaibench.metrics._rows import each_row
from xaibench.metrics.base import metric
from xaibench.metrics.localization import energy


def _area(masks: Tensor) -> Tensor:
    """Return (B,): the area of the mask, as a share of the image."""
    return _ops.area(masks)


def _inside_top(maps: Tensor, masks: Tensor, k: Tensor | int, last: Tensor) -> Tensor:
    """Return (B,) float64: the expected share of each map's k largest pixels, down to `last` (B,), in its mask."""
    last = last[:, None, None]
    above, tied = maps > last, maps == last
    wanted = k - _ops.number(above)  # of those tied
    return (_ops.number(above & masks) + wanted * _ops.share(masks, tied)) / k


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
    return _ops.nan_where(_ops.undefined(maps, masks), _by_rank("relevance_rank_accuracy", maps, masks))


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
    scores = _ops.by_chunks(lambda m, g: _inside_top(m, g, k, _ops.kth_largest(m.flatten(1), k)), maps, masks)
    return _ops.nan_where(_ops.undefined(maps, masks), scores)


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


def _falling(maps: Tensor) -> Tensor:
    """Return (B, N) float64 of the same order as the falling values; the lowest bit is 0, whatever the map."""
    if maps.dtype != torch.float64:
        return (0.0 - maps.double()).flatten(1)  # exact, and no -0.0
    values, order = maps.flatten(1).sort(-1, descending=True)  # no bit to spare: number the distinct values
    numbers = (values != values.roll(1, -1)).cumsum(-1)
    return torch.empty_like(values).scatter_(-1, order, numbers.double())


class _Ranked(NamedTuple):
    """Of each pixel (B, N), the largest value first; see `_rank`."""

    inside: Tensor
    """Is it in the mask? Bool."""
    passed: Tensor
    """How many pixels have values at least as large, int32."""
    hits: Tensor
    """How many of the mask's pixels have values at least as large, int32."""


def _rank(maps: Tensor, masks: Tensor) -> _Ranked:
    if maps.dtype == torch.float32 and maps.device.type == "cpu" and len(maps):
        rows = each_row(_rank_row, maps.detach().flatten(1).numpy(), masks.flatten(1).numpy())
        return _Ranked(*(torch.from_numpy(np.stack(part)) for part in zip(*rows, strict=True)))
    # The mask rides in the lowest bit of the sorted numbers, where it only decides the order of equals, which plays
    # no part: one sort, and no index to follow.
    keys = (_falling(maps).view(torch.int64) | masks.flatten(1)).view(torch.float64)
    keys = _ops.sort(keys).view(torch.int64)
    inside, values = (keys & 1).bool(), keys >> 1
    hits = inside.cumsum(-1, dtype=torch.int32)
    passed = torch.arange(1, values.shape[1] + 1, dtype=torch.int32, device=values.device).expand_as(hits)
    tied = torch.zeros_like(inside)
    torch.eq(values[:, 1:], values[:, :-1], out=tied[:, :-1])  # with the next
    at = tied.flatten().nonzero()[:, 0]
    if len(at):
        passed = passed.clone()
        breaks = torch.ones_like(at, dtype=torch.bool)
        torch.ne(at[1:], at[:-1] + 1, out=breaks[:-1])
        ends = at[breaks]  # the last but one of each run of equals
        last = ends[torch.searchsorted(ends, at)] + 1
        for counts in (passed, hits):
            counts.view(-1)[at] = counts.view(-1)[last]
    return _Ranked(inside, passed, hits)


def _rank_row(values: npt.NDArray[np.float32], mask: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[Any], ...]:
    """Return `_Ranked` of one map (N,)."""
    order, numbers = _ops.falling(values)
    inside = mask.take(order)
    hits = inside.cumsum(dtype=np.int32)
    last = np.append(np.flatnonzero(numbers[1:] != numbers[:-1]), len(numbers) - 1)  # of each run of equals
    if len(last) == len(numbers):
        return inside, np.arange(1, len(numbers) + 1, dtype=np.int32), hits
    last = np.repeat(last, np.diff(last, prepend=-1))
    return inside, last.astype(np.int32) + 1, hits.take(last)


def _roc_auc(ranked: _Ranked, masks: Tensor) -> Tensor:
    # Hits above or level, summed over the pixels outside, less misses above or level, over those inside: every pair of
    # one of each counts 1, 0 (level) or -1. Adding both sums' share of the hits leaves this. Whole numbers: exact.
    inside, passed, hits = ranked
    number = _ops.number(masks)
    pairs = number * (inside.shape[1] - number)
    return 0.5 + (hits.sum(-1) - (passed * inside).sum(-1)).double() / (2 * pairs).double()


def _average_precision(ranked: _Ranked, masks: Tensor) -> Tensor:
    precision = torch.where(ranked.inside, ranked.hits.double() / ranked.passed.double(), 0.0)
    return _ops.total(precision.reshape(masks.shape)) / _ops.number(masks).double()


def _first_k(ranked: _Ranked, masks: Tensor) -> Tensor:
    """Return the expected share of the mask among its number of pixels, the largest."""
    number = _ops.number(masks)
    last = number.clamp(min=1)[:, None] - 1
    passed, hits = ranked.passed.gather(1, last), ranked.hits.gather(1, last)
    above = torch.searchsorted(ranked.passed.contiguous(), passed)  # how many are larger than the last
    found = torch.where(above > 0, ranked.hits.gather(1, (above - 1).clamp(min=0)), 0)
    tied = (hits - found).double() / (passed - above).double()
    return ((found + (number[:, None] - above) * tied) / number[:, None])[:, 0]


_BY_RANK = {"pixel_auc": _roc_auc, "pixel_ap": _average_precision, "relevance_rank_accuracy": _first_k}


def _by_rank(name: str, maps: Tensor, masks: Tensor) -> Tensor:
    """Return (B,): one of `_BY_RANK`; all of them are computed where metrics share their steps."""
    names = tuple(_BY_RANK) if _ops.is_sharing() else (name,)
    return _ops.once(_scores_by_rank, maps, masks, names=names)[:, names.index(name)]


def _scores_by_rank(maps: Tensor, masks: Tensor, names: Sequence[str]) -> Tensor:
    def step(maps: Tensor, masks: Tensor) -> Tensor:
        ranked = _rank(maps, masks)
        return torch.stack([_BY_RANK[name](ranked, masks) for name in names], dim=1)

    return _ops.by_chunks(step, maps, masks)


def _roc_auc_chance(masks: Tensor) -> Tensor:
    """Return (B,): 1/2."""
    return _ops.nan_where(masks.all(-1).all(-1), _ops.area(masks) * 0 + 0.5)


@metric(
    "pixel_auc",
    category="localization",
    direction="higher",
    range=(0.0, 1.0),
    title="Pixel ROC-AUC",
    reference="Fawcett 2006, doi:10.1016/j.patrec.2005.10.010; as Quantus's AUC, scikit-learn's roc_auc_score",
    chance=_roc_auc_chance,
)
def pixel_auc(maps: Tensor, masks: Tensor) -> Tensor:
    """Probability that a random pixel of the mask has a larger value than one outside, ties counted half.

    The pixels of a small region weigh as much as all the others together: many false pixels cost little. See `pixel_ap`
    beside it. NaN also for a mask that covers the image. Chance: 1/2.

    >>> maps = torch.tensor([[[4.0, 3.0], [3.0, 1.0]]])
    >>> masks = torch.tensor([[[True, True], [False, False]]])
    >>> pixel_auc(maps, masks).tolist()
    [0.875]
    """
    _ops.check_maps(maps, masks)
    bad = _ops.undefined(maps, masks) | masks.all(-1).all(-1)
    return _ops.nan_where(bad, _by_rank("pixel_auc", maps, masks))


def _ap_chance(masks: Tensor) -> Tensor:
    """Return (B,): the expected average precision of a random order of N pixels, P of them in the mask.

    h + (1 - h) (P - 1) / (N - 1), where h is the mean of 1, 1/2, ..., 1/N: a little above the area P / N.
    """
    pixels, number = masks.shape[-2] * masks.shape[-1], _ops.number(masks).double()
    mean = (1 / torch.arange(1, pixels + 1, dtype=torch.float64, device=masks.device)).sum() / pixels
    return _ops.nan_where(number == 0, mean + (1 - mean) * (number - 1) / max(1, pixels - 1))


@metric(
    "pixel_ap",
    category="localization",
    direction="higher",
    range=(0.0, 1.0),
    title="Pixel average precision",
    reference="Saito and Rehmsmeier 2015, doi:10.1371/journal.pone.0118432; as scikit-learn's average_precision_score",
    chance=_ap_chance,
)
def pixel_ap(maps: Tensor, masks: Tensor) -> Tensor:
    """Mean over the mask's pixels of the precision at their rank: the share of the mask among the pixels that high.

    Of equal values, all count as passed, as in scikit-learn. False pixels cost more than in `pixel_auc`, the more so
    the smaller the region. Chance: about the area of the mask.

    >>> maps = torch.tensor([[[4.0, 3.0], [3.5, 1.0]]])
    >>> masks = torch.tensor([[[True, True], [False, False]]])
    >>> round(pixel_ap(maps, masks).item(), 6)  # (1 + 2/3) / 2
    0.833333
    """
    _ops.check_maps(maps, masks)
    return _ops.nan_where(_ops.undefined(maps, masks), _by_rank("pixel_ap", maps, masks))
