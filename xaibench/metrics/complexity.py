"""Complexity metrics: on how few pixels does a map rest? Of the map alone: no region takes part.

`maps` (B, H, W) are signed; their absolute values count. `masks` are taken, as by every metric of maps, and ignored.
Scores are (B,) float64, NaN for a constant or non-finite map. A low-resolution map brought up to the frame spreads each
of its values over many pixels, which changes all three: compare explainers at one frame, knowing what each one's own
resolution is. Chance functions return the score expected of a map of uniform noise in [0, 1] in the masks' frame.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from xaibench.errors import UsageError
from xaibench.metrics import _ops
from xaibench.metrics.base import metric

_UNBOUNDED = (0.0, math.inf)


def _level(masks: Tensor, level: float) -> Tensor:
    return torch.full((len(masks),), level, dtype=torch.float64, device=masks.device)


def _pixels(tensor: Tensor) -> int:
    return tensor.shape[-2] * tensor.shape[-1]


def _sparseness_chance(masks: Tensor) -> Tensor:
    """Return (B,): 1/3 - 2/(9N) for N pixels, good to 1/N^2."""
    return _level(masks, (1 - 2 / (3 * _pixels(masks))) / 3)


@metric(
    "sparseness",
    category="complexity",
    direction="higher",
    range=(0.0, 1.0),
    title="Sparseness (Gini index)",
    reference="Chalasani et al. 2020, arXiv:1810.06583; Hurley and Rickard 2009, doi:10.1109/TIT.2009.2027527",
    chance=_sparseness_chance,
)
def sparseness(maps: Tensor, masks: Tensor | None = None) -> Tensor:
    """Gini index of the absolute values: 0 where all are equal, 1 - 1/N where one of N pixels holds everything.

    Quantus adds 1e-7 to each value first, which lowers its score for maps of small values. Chance: 1/3.

    >>> maps = torch.tensor([[[0.0, 0.0], [0.0, -3.0]], [[1.0, 2.0], [3.0, 4.0]]])
    >>> sparseness(maps).tolist()
    [0.75, 0.25]
    """
    _ops.check_maps(maps, None)
    return _ops.nan_where(_ops.undefined(maps), _ops.by_chunks(_gini, maps))


def _gini(maps: Tensor) -> Tensor:
    pixels = _pixels(maps)
    rising = _ops.sort(maps.abs().flatten(1)).double()
    weights = 2 * torch.arange(1, pixels + 1, dtype=torch.float64, device=maps.device) - pixels - 1
    return _ops.total((rising * weights).reshape(maps.shape)) / (pixels * _ops.total(rising.reshape(maps.shape)))


def _complexity_chance(masks: Tensor) -> Tensor:
    """Return (B,): ln(N/2) + 1/2 + 1/(18N) for N pixels, good to 1/N^2."""
    pixels = _pixels(masks)
    return _level(masks, math.log(pixels / 2) + 0.5 + 1 / (18 * pixels))


@metric(
    "complexity",
    category="complexity",
    direction="lower",
    range=_UNBOUNDED,
    title="Complexity (entropy, nats)",
    reference="Bhatt, Weller and Moura 2020, arXiv:2005.00631",
    chance=_complexity_chance,
)
def complexity(maps: Tensor, masks: Tensor | None = None) -> Tensor:
    """Entropy, in nats, of the shares that the pixels have of the sum of absolute values: 0 to ln(H W).

    e to its power is a number of pixels: how many evenly shared ones would have that entropy. Chance: ln(H W) - 0.193.

    >>> maps = torch.tensor([[[0.0, 0.0], [0.0, -3.0]], [[0.0, 1.0], [-1.0, 0.0]]])
    >>> [round(score, 4) for score in complexity(maps).tolist()]
    [0.0, 0.6931]
    """
    _ops.check_maps(maps, None)
    return _ops.nan_where(_ops.undefined(maps), _ops.by_chunks(_entropy, maps))


def _entropy(maps: Tensor) -> Tensor:
    values = maps.double().abs()
    return _ops.total(torch.special.entr(values / _ops.total(values)[:, None, None]))


def _check_eps(eps: float) -> None:
    if not 0 <= eps < 1:
        raise UsageError(f"effective_complexity: eps must be in [0, 1), a share of the largest value; got {eps}")


def _effective_chance(masks: Tensor, *, eps: float = 1e-5) -> Tensor:
    """Return (B,): 1 + (N - 1)(1 - eps) of N pixels, as one is the largest itself."""
    _check_eps(eps)
    return _level(masks, 1 + (_pixels(masks) - 1) * (1 - eps))


@metric(
    "effective_complexity",
    category="complexity",
    direction="lower",
    range=_UNBOUNDED,
    title="Effective complexity (pixels above 1e-5)",
    reference="Nguyen and Rodriguez Martinez 2020, arXiv:2007.07584; counted as by Quantus's EffectiveComplexity",
    chance=_effective_chance,
    eps=1e-5,
)
def effective_complexity(maps: Tensor, masks: Tensor | None = None, *, eps: float = 1e-5) -> Tensor:
    """Number of pixels whose absolute value exceeds `eps` times the map's largest one.

    This is Quantus's count, made a property of each map: Quantus divides by the largest value of the whole batch. The
    paper asks for something else that needs the classifier: the fewest pixels, in the map's order, that keep its loss
    below a bound. Chance: all pixels but a share `eps`.

    >>> effective_complexity(torch.tensor([[[0.0, 1e-6], [-0.5, 1.0]]])).tolist()
    [2.0]
    """
    _ops.check_maps(maps, None)
    _check_eps(eps)
    values = maps.double().abs()
    exceeding = values > eps * values.amax((-2, -1), keepdim=True)
    return _ops.nan_where(_ops.undefined(maps), exceeding.sum((-2, -1)).double())
