"""Scores of the order of a map's pixels, (B,) float64 of maps (B, H, W) and masks (B, H, W) bool; 0/0 is NaN.

What they need of a map is where the mask's pixels stand when all are put in order: metrics that share their steps share
that. Maps in float32 on the CPU, which is nearly all, are ordered row by row in numpy, others by one sort in torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from xaibench.metrics import _ops
from xaibench.metrics._rows import each_row


def roc_auc(maps: Tensor, masks: Tensor) -> Tensor:
    """Return the probability that a pixel of the mask is larger than one outside, ties counted half."""
    return _scores("roc_auc", Places.roc_auc, maps, masks)


def average_precision(maps: Tensor, masks: Tensor) -> Tensor:
    """Return the mean over the mask's pixels of the share of the mask among the pixels that are at least as large."""
    return _scores("average_precision", Places.average_precision, maps, masks)


def without(score: Callable[[Tensor, Tensor], Tensor], maps: Tensor, masks: Tensor, ignore: Tensor | None) -> Tensor:
    """Return a score (B,) of the pixels that are not in `ignore` alone, image by image where there are such."""
    if ignore is None:
        return score(maps, masks)
    rows = [score(m[~i][None, None], g[~i][None, None]) for m, g, i in zip(maps, masks, ignore, strict=True)]
    return torch.cat(rows) if rows else score(maps, masks)


def share_of_first(maps: Tensor, masks: Tensor, k: int | None = None) -> Tensor:
    """Return the expected share of the mask among the k largest pixels, by default as many as the mask has."""
    if k is None or _in_rows(maps):
        return _scores("share_of_first", lambda places: places.share_of_first(k), maps, masks)
    return _ops.by_chunks(lambda m, g: _inside_top(m, g, k), maps, masks)


def _scores(name: str, of_row: Callable[[Places], float], maps: Tensor, masks: Tensor) -> Tensor:
    if _in_rows(maps):
        return torch.tensor([of_row(places) for places in _ops.once(_places, maps, masks)], dtype=torch.float64)
    return _ops.once(_of_sorted, maps, masks)[:, list(_OF_SORTED).index(name)]


def _in_rows(maps: Tensor) -> bool:
    return maps.dtype == torch.float32 and maps.device.type == "cpu"


# row by row, in numpy


@dataclass(frozen=True)
class Places:
    """Where the n pixels of a mask stand among the N of a map, the largest first, counted from 0.

    Attributes:
        inside: (n,) their places, rising.
        pixels: N.
        first, last: (r,) places of each run of two or more equal values, rising.
    """

    inside: npt.NDArray[np.intp]
    pixels: int
    first: npt.NDArray[np.intp]
    last: npt.NDArray[np.intp]

    def run(self, place: int) -> tuple[int, int]:
        """Return the first and the last place that has the same value."""
        at = int(np.searchsorted(self.last, place))
        if at == len(self.last) or self.first[at] > place:
            return place, place
        return int(self.first[at]), int(self.last[at])

    @cached_property
    def tied(self) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
        """Which of the n pixels stand in a run, and in which."""
        at = np.searchsorted(self.last, self.inside)
        some = np.flatnonzero(self.inside >= np.append(self.first, self.pixels)[at])
        return some, at[some]

    def roc_auc(self) -> float:
        # A pixel inside passes N - 1 - last for sure and N - first with those level to it; both counts together, less
        # those of the mask's pixels among themselves, are twice the pairs won. Whole numbers: exact.
        number, (tied, runs) = len(self.inside), self.tied
        pairs = 2 * number * (self.pixels - number)
        alone = int(self.inside.sum() - self.inside[tied].sum())
        ends = 2 * alone + int(self.first[runs].sum() + self.last[runs].sum())
        return 0.5 + (number * self.pixels - ends - number) / pairs if pairs else np.nan

    def average_precision(self) -> float:
        number, (tied, runs) = len(self.inside), self.tied
        hits, passed = np.arange(1, number + 1), self.inside + 1
        passed[tied] = self.last[runs] + 1
        hits[tied] = np.searchsorted(self.inside, passed[tied])
        return float((hits / passed).sum()) / number if number else np.nan

    def share_of_first(self, k: int | None = None) -> float:
        k = len(self.inside) if k is None else k
        if not k:
            return np.nan
        first, last = self.run(k - 1)
        found, upto = np.searchsorted(self.inside, [first, last + 1]).tolist()
        return float((found + (k - first) * ((upto - found) / (last + 1 - first))) / k)


def _places(maps: Tensor, masks: Tensor) -> list[Places]:
    return each_row(_places_of_row, maps.detach().flatten(1).numpy(), masks.flatten(1).numpy())


def _places_of_row(values: npt.NDArray[np.float32], mask: npt.NDArray[np.bool_]) -> Places:
    order, numbers = _ops.falling(values)
    level = np.flatnonzero(numbers[1:] == numbers[:-1])  # with the next
    breaks = np.flatnonzero(np.diff(level) > 1)
    first = level[np.concatenate([[0], breaks + 1])] if len(level) else level
    last = level[np.append(breaks, len(level) - 1)] + 1 if len(level) else level
    return Places(np.flatnonzero(mask.take(order)), len(numbers), first, last)


# in torch, on any device


class _Sorted(NamedTuple):
    """Of each pixel (B, N), the largest value first; see `_sorted`."""

    inside: Tensor
    """Is it in the mask? Bool."""
    passed: Tensor
    """How many pixels have values at least as large, int32."""
    hits: Tensor
    """How many of the mask's pixels have values at least as large, int32."""


def _sorted(maps: Tensor, masks: Tensor) -> _Sorted:
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
    return _Sorted(inside, passed, hits)


def _roc_auc_of_sorted(ranked: _Sorted, masks: Tensor) -> Tensor:
    # Hits above or level, summed over the pixels outside, less misses above or level, over those inside: every pair of
    # one of each counts 1, 0 (level) or -1. Adding both sums' share of the hits leaves this. Whole numbers: exact.
    inside, passed, hits = ranked
    number = _ops.number(masks)
    pairs = number * (inside.shape[1] - number)
    return 0.5 + (hits.sum(-1) - (passed * inside).sum(-1)).double() / (2 * pairs).double()


def _average_precision_of_sorted(ranked: _Sorted, masks: Tensor) -> Tensor:
    precision = torch.where(ranked.inside, ranked.hits.double() / ranked.passed.double(), 0.0)
    return _ops.total(precision.reshape(masks.shape)) / _ops.number(masks).double()


def _first_of_sorted(ranked: _Sorted, masks: Tensor) -> Tensor:
    """Return the expected share of the mask among as many pixels as it has, the largest."""
    number = _ops.number(masks)
    last = number.clamp(min=1)[:, None] - 1
    passed, hits = ranked.passed.gather(1, last), ranked.hits.gather(1, last)
    above = torch.searchsorted(ranked.passed.contiguous(), passed)  # how many are larger than the last
    found = torch.where(above > 0, ranked.hits.gather(1, (above - 1).clamp(min=0)), 0)
    tied = (hits - found).double() / (passed - above).double()
    return ((found + (number[:, None] - above) * tied) / number[:, None])[:, 0]


_OF_SORTED = {
    "roc_auc": _roc_auc_of_sorted,
    "average_precision": _average_precision_of_sorted,
    "share_of_first": _first_of_sorted,
}


def _of_sorted(maps: Tensor, masks: Tensor) -> Tensor:
    """Return (B, 3): the scores of `_OF_SORTED`, computed together while what was sorted lies in the cache."""

    def step(maps: Tensor, masks: Tensor) -> Tensor:
        found = _sorted(maps, masks)
        return torch.stack([score(found, masks) for score in _OF_SORTED.values()], dim=1)

    return _ops.by_chunks(step, maps, masks)


def _inside_top(maps: Tensor, masks: Tensor, k: int) -> Tensor:
    """Return (B,) float64: the expected share of the mask among each map's k largest pixels."""
    last = maps.flatten(1).topk(k, -1).values[:, -1, None, None]
    above, tied = maps > last, maps == last
    wanted = k - _ops.number(above)  # of those tied
    return (_ops.number(above & masks) + wanted * _ops.share(masks, tied)) / k


def _falling(maps: Tensor) -> Tensor:
    """Return (B, N) float64 of the same order as the falling values; the lowest bit is 0, whatever the map."""
    if maps.dtype != torch.float64:
        return (0.0 - maps.double()).flatten(1)  # exact, and no -0.0
    values, order = maps.flatten(1).sort(-1, descending=True)  # no bit to spare: number the distinct values
    numbers = (values != values.roll(1, -1)).cumsum(-1)
    return torch.empty_like(values).scatter_(-1, order, numbers.double())
