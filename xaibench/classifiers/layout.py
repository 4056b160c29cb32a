"""How a layer's output lies on the image: which of its numbers belong to which place, found by what the layer does.

Shapes alone do not tell: (B, 7, 7, 2) may be two channels last or seven first, (B, 12, 197, 64) is no feature map at
all. So a quarter of an image is changed, and a layout is believed where its cells inside that quarter change more than
those outside.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from xaibench.classifiers.probe import QUARTERS, quarter

Kind = Literal["channels_first", "channels_last", "tokens", "tokens_first"]
KINDS: tuple[str, ...] = get_args(Kind)
_SHOWN = {
    "channels_first": "(B, C, h, w)",
    "channels_last": "(B, h, w, C)",
    "tokens": "(B, N, C)",
    "tokens_first": "(N, B, C)",
}
MOST_PREFIX, MOST_SUFFIX = 16, 1
"""Tokens without a place before the grid (class token, distillation, registers) and after it."""
RATIO, BESIDE, ENOUGH = 2.0, 1.25, 11
"""A layout is right where the cells inside a changed quarter change at least twice as much as those outside, and 1.25
times as much as those of each other quarter, in 11 of 12 quarters. By the first alone, what knows rows and no columns
(the heads x tokens x head dim of an attention) would come to three times as much."""


@dataclass(frozen=True)
class Layout:
    """Where the places of a layer's output are.

    Attributes:
        kind: "channels_first" (B, C, h, w), "channels_last" (B, h, w, C), "tokens" (B, N, C) or "tokens_first"
            (N, B, C), the tokens of the grid row by row.
        height, width: of the grid.
        prefix, suffix: tokens without a place before and after the grid.
    """

    kind: Kind
    height: int
    width: int
    prefix: int = 0
    suffix: int = 0

    def __str__(self) -> str:
        extra = [f"{count} {where}" for count, where in ((self.prefix, "before"), (self.suffix, "after")) if count]
        without = f", {' and '.join(extra)} the grid" if extra else ""
        return f"{self.kind} {_SHOWN[self.kind]}{without}"

    def to_grid(self, output: Tensor) -> Tensor:
        """Return the places of a layer's output as (B, C, h, w)."""
        if self.kind == "channels_first":
            return output
        if self.kind == "channels_last":
            return output.permute(0, 3, 1, 2)
        tokens = output.transpose(0, 1) if self.kind == "tokens_first" else output
        patches = tokens[:, self.prefix : tokens.shape[1] - self.suffix]
        return patches.transpose(1, 2).reshape(len(patches), -1, self.height, self.width)

    def to_output(self, features: Tensor, output: Tensor) -> Tensor:
        """Return features (B, C, h, w) as the layer puts them out; tokens without a place are those of `output`."""
        if self.kind == "channels_first":
            return features
        if self.kind == "channels_last":
            return features.permute(0, 2, 3, 1)
        tokens = features.flatten(2).transpose(1, 2)
        if self.prefix or self.suffix:
            own = output.transpose(0, 1) if self.kind == "tokens_first" else output
            tokens = torch.cat([own[:, : self.prefix], tokens, own[:, own.shape[1] - self.suffix :]], dim=1)
        return tokens.transpose(0, 1) if self.kind == "tokens_first" else tokens


def tensor_of(output: Any) -> Tensor | None:
    """Return a layer's output that may hold places: a tensor, or the first of a tuple; None where there is none."""
    first = output[0] if isinstance(output, tuple | list) and output else output
    return first if isinstance(first, Tensor) and first.is_floating_point() and first.ndim in (3, 4) else None


def layouts(shape: Sequence[int], batch: int, kind: str | None = None) -> Iterator[Layout]:
    """Yield the layouts that an output of that shape may have, of the kind alone if one is given.

    Grids below 2 x 2 are none.
    """
    if len(shape) == 4 and shape[0] == batch:
        for known, (height, width) in (("channels_first", shape[2:]), ("channels_last", shape[1:3])):
            if kind in (None, known) and height >= 2 and width >= 2:
                yield Layout(known, height, width)  # type: ignore[arg-type]
    if len(shape) == 3:
        for known, at in (("tokens", 0), ("tokens_first", 1)):
            if kind in (None, known) and shape[at] == batch:
                yield from _grids(known, shape[1 - at])


def _grids(kind: Any, tokens: int) -> Iterator[Layout]:
    """Yield the grids, as wide as high or twice so, that a number of tokens may hold."""
    for suffix in range(MOST_SUFFIX + 1):
        for prefix in range(MOST_PREFIX + 1):
            count = tokens - prefix - suffix
            for wider, higher in ((1, 1), (2, 1), (1, 2)):
                side = math.isqrt(max(0, count) // (wider * higher))
                if side >= 2 and side * side * wider * higher == count:
                    yield Layout(kind, side * higher, side * wider, prefix, suffix)


def changes(output: Tensor, layout: Layout) -> Tensor:
    """Return how much each cell changed, (N, h, w), of the output of one image and N changed copies of it."""
    grid = layout.to_grid(output).detach().float()
    return (grid[1:] - grid[:1]).abs().mean(dim=1)


def means(changed: Tensor, place: int) -> tuple[float, float, float]:
    """Return the mean change of cells wholly inside a quarter of the image, of those wholly outside, and of the others.

    Args:
        changed: (h, w), at least 2 x 2.
        place: which of the `QUARTERS`.

    Returns:
        The mean inside, the mean outside, and the largest of the means inside the three other quarters.
    """
    (inside, outside), *others = (_cells(changed.shape, other) for other in (place, *range(QUARTERS)))
    beside = [float(changed[cells].mean()) for other, (cells, _) in enumerate(others) if other != place]
    return float(changed[inside].mean()), float(changed[outside].mean()), max(beside)


def _cells(shape: Sequence[int], place: int) -> tuple[Tensor, Tensor]:
    """Return which cells (h, w) lie wholly inside a quarter, and which wholly outside."""
    height, width = shape
    top, bottom, left, right = quarter(place)
    y, x = torch.arange(height, dtype=torch.float64), torch.arange(width, dtype=torch.float64)
    above, below, before, after = y / height, (y + 1) / height, x / width, (x + 1) / width
    inside = ((above >= top) & (below <= bottom))[:, None] & ((before >= left) & (after <= right))[None, :]
    outside = ((below <= top) | (above >= bottom))[:, None] | ((after <= left) | (before >= right))[None, :]
    return inside, outside


@dataclass(frozen=True)
class Verdict:
    """How well a layout stands the test.

    Attributes:
        passed: in how many quarters, of 12, the cells inside changed as much more as they must.
        margin: mean logarithm of the ratio of the two.
    """

    passed: int
    margin: float

    @property
    def holds(self) -> bool:
        return self.passed >= ENOUGH

    @property
    def rank(self) -> tuple[bool, float]:
        """What the better of two has more of."""
        return self.holds, self.margin

    def __str__(self) -> str:
        return f"({self.passed} of {3 * QUARTERS} quarters)"


def judge(changed: Sequence[Tensor]) -> Verdict:
    """Judge a layout by what its cells changed, (4, h, w) for each probe image, a quarter changed in each row."""
    passed, margins = 0, []
    for image in changed:
        for place in range(QUARTERS):
            inside, outside, beside = means(image[place], place)
            passed += inside > 0 and inside >= RATIO * outside and inside >= BESIDE * beside
            margins.append(math.log((inside + 1e-12) / (outside + 1e-12)))
    return Verdict(int(passed), sum(margins) / len(margins))
