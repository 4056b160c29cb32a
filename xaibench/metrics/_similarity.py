"""How alike are two maps? Batched over (N, H, W) pairs; NaN where one of a pair is constant or not finite."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from scipy.stats import rankdata
from skimage.metrics import structural_similarity
from torch import Tensor

from xaibench.errors import UsageError
from xaibench.metrics import _ops
from xaibench.types import FloatArray


def similarity(first: Tensor, second: Tensor, kind: str, *, absolute: bool = False) -> Tensor:
    """Return (N,) float64 in [-1, 1].

    Args:
        first, second: (N, H, W).
        kind: "spearman" (rank correlation, ties sharing their mean rank) or "ssim" (structural similarity, windows of
            7 pixels, of maps brought to [0, 1] each).
        absolute: of the absolute values (Adebayo 2018 reports both).

    Raises:
        UsageError: another kind.

    >>> similarity(torch.tensor([[[1.0, 2.0, 3.0]]]), torch.tensor([[[9.0, 5.0, 1.0]]]), "spearman").tolist()
    [-1.0]
    """
    measures = {"spearman": spearman, "ssim": ssim}
    if kind not in measures:
        raise UsageError(f'similarity = {kind!r}; it is "spearman" or "ssim"')
    if absolute:
        first, second = first.abs(), second.abs()
    bad = _ops.undefined(first) | _ops.undefined(second)
    return _ops.nan_where(bad, measures[kind](first, second))


def spearman(first: Tensor, second: Tensor) -> Tensor:
    """Return the rank correlation (N,) of maps (N, H, W); ranks by SciPy."""
    one, other = (_ranks(maps) for maps in (first, second))
    below = (one.square().sum(1) * other.square().sum(1)).sqrt()
    return ((one * other).sum(1) / below).clamp(-1, 1).to(first.device)


def _ranks(maps: Tensor) -> Tensor:
    """Return the mean ranks (N, H W), less their mean."""
    values = maps.detach().flatten(1).cpu().numpy()
    ranks = np.stack([rankdata(row) for row in values]) if len(values) else np.empty(values.shape)
    return torch.from_numpy(ranks - (values.shape[1] + 1) / 2)


def ssim(first: Tensor, second: Tensor) -> Tensor:
    """Return the mean structural similarity (N,) of maps (N, H, W), each brought to [0, 1]; by scikit-image."""
    side = min(7, *first.shape[-2:])
    window = side - 1 + side % 2  # odd
    measure: Any = structural_similarity
    scores = []
    for one, other in zip(_to_unit(first), _to_unit(second), strict=True):
        if window < 3:
            raise UsageError(f'similarity = "ssim" needs maps of at least 3 x 3 pixels, got {tuple(one.shape)}')
        defined = np.isfinite(one).all() and np.isfinite(other).all()
        scores.append(measure(one, other, win_size=window, data_range=1.0) if defined else math.nan)
    return torch.tensor(scores, dtype=torch.float64, device=first.device)


def _to_unit(maps: Tensor) -> FloatArray:
    values = maps.detach().double()
    low, high = values.amin((-2, -1), keepdim=True), values.amax((-2, -1), keepdim=True)
    return ((values - low) / (high - low)).cpu().numpy()
