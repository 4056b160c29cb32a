"""Steps that faithfulness metrics share: what hidden parts show, which part goes first, and the network's answers.

What does not depend on the map (baselines, random sets, each cell hidden alone, and their scores) is made once a batch
for all explainers, through `Explained.once`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import scipy.stats
import torch
from torch import Tensor

from xaibench.errors import UsageError
from xaibench.explainers.base import seed_of
from xaibench.explainers.perturbation import grid, slic
from xaibench.explainers.reference import blurred
from xaibench.metrics import _ops
from xaibench.metrics.explained import Explained, Output

Baseline = Literal["mean", "blurred", "black", "grey"]


def defined(explained: Explained, scores: Tensor) -> Tensor:
    """Return the scores (P,) with NaN where the map is constant or not finite."""
    return _ops.nan_where(_ops.undefined(explained.maps), scores)


def finite_maps(explained: Explained) -> Tensor:
    """Return the maps (P, H, W) float64 with zeros in place of what is not finite; such a map's score is NaN anyway."""
    return explained.maps.double().nan_to_num(0.0, 0.0, 0.0)


def baseline(explained: Explained, kind: Baseline | float) -> Tensor:
    """Return what hidden parts show, (P, 3, H, W): the image's mean of each channel, the image blurred, or one level.

    Raises:
        UsageError: another kind.
    """
    if isinstance(kind, float):
        return torch.full_like(explained.prediction.images, kind)
    if kind not in get_args(Baseline):
        raise UsageError(f"baseline = {kind!r}; it is one of {', '.join(map(repr, get_args(Baseline)))}")
    images = explained.prediction.images
    if kind == "blurred":
        return explained.once(("baseline", kind), lambda: blurred(images))
    if kind == "mean":
        return explained.once(("baseline", kind), lambda: images.mean((-2, -1), keepdim=True).expand_as(images))
    return torch.full_like(images, 0.5 if kind == "grey" else 0.0)


def baseline_scores(explained: Explained, kind: Baseline, output: Output) -> Tensor:
    """Return the score of the baseline itself, (P,)."""
    rows = torch.arange(len(explained), device=explained.maps.device)
    return explained.once_kept(
        ("baseline scores", kind, output), lambda: explained.scores(baseline(explained, kind), rows, output)
    )


def ranks(values: Tensor, ids: Sequence[str]) -> Tensor:
    """Return the place of each value in its row, (P, N) int64, 0 for the largest; equal ones in random order.

    The order of equal values is drawn from the image's id.

    >>> ranks(torch.tensor([[3.0, 1.0, 4.0, 2.0]]), ["a"]).tolist()
    [[1, 3, 0, 2]]
    """
    size = values.shape[1]
    shuffled = torch.stack([torch.randperm(size, generator=_generator("ties", image)) for image in ids])
    shuffled = shuffled.to(values.device)
    order = shuffled.gather(1, values.gather(1, shuffled).argsort(dim=1, descending=True, stable=True))
    places = torch.arange(size, device=values.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places)


def pixel_ranks(explained: Explained) -> Tensor:
    """Return each pixel's place in its map, (P, H, W) int64, 0 for the most relevant one; made once for a map."""
    maps = explained.maps

    def make() -> tuple[Tensor, Tensor]:  # keeps the maps, so that their id names no others
        return maps, ranks(finite_maps(explained).flatten(1), explained.prediction.ids).reshape(maps.shape)

    return explained.once(("ranks", id(maps)), make)[1]


def revealed(
    explained: Explained, places: Tensor, counts: Tensor, under: Tensor, over: Tensor, output: Output
) -> Tensor:
    """Return (P, S) scores of images that show `over` where a pixel's place is below a count, elsewhere `under`.

    Args:
        explained: the batch.
        places: (P, H, W) int64.
        counts: (S,) or (P, S) int64.
        under, over: (P, 3, H, W).
        output: see `Explained.scores`.
    """
    counts = counts.to(places.device).expand(len(explained), -1)
    steps = counts.shape[1]
    rows = torch.arange(len(explained), device=places.device).repeat_interleave(steps)
    flat = counts.flatten()

    def make(part: Tensor) -> Tensor:
        row = rows[part]
        shown = (places[row] < flat[part][:, None, None])[:, None]
        return torch.where(shown, over[row], under[row])

    return explained.scores_of(make, rows, output).reshape(-1, steps)


def steps_of(pixels: int, steps: int) -> Tensor:
    """Return how many pixels have changed before each of `steps` equal steps and after the last, (steps + 1,).

    Raises:
        UsageError: no step, or more steps than pixels.
    """
    if not 1 <= steps <= pixels:
        raise UsageError(f"steps = {steps}; it is 1 to {pixels}, the number of pixels")
    return torch.linspace(0, pixels, steps + 1, dtype=torch.float64).round().long()


def area(curves: Tensor) -> Tensor:
    """Return the area (P,) under curves (P, S + 1) over [0, 1], by trapezia.

    >>> area(torch.tensor([[0.0, 1.0, 1.0]])).tolist()
    [0.75]
    """
    return torch.trapezoid(curves, dim=1) / (curves.shape[1] - 1)


def cell_numbers(explained: Explained, cells: int) -> Tensor:
    """Return the number of each pixel's square cell, (P, H, W) int64, of `cells` by `cells`.

    Raises:
        UsageError: fewer than two cells a side, or more than pixels.
    """
    frame = explained.prediction.frame
    if not 2 <= cells <= min(frame.height, frame.width):
        raise UsageError(f"cells = {cells}; it is 2 to {min(frame.height, frame.width)}, the image's side in pixels")
    numbers = grid(frame, cells**2).to(explained.maps.device)
    return numbers.expand(len(explained), -1, -1)


def superpixels(explained: Explained, segments: int) -> Tensor:
    """Return the number of each pixel's superpixel, (P, H, W) int64 from 0: SLIC of the grey image, once a batch."""
    images = explained.prediction.images.detach()
    return explained.once(
        ("superpixels", segments),
        lambda: torch.cat([slic(image[None], segments, "irof")[0] for image in images]),
    )


def part_means(explained: Explained, parts: Tensor) -> tuple[Tensor, Tensor]:
    """Return the map's mean in each part, (P, C) float64, -inf where an image has no such part, and pixels, (P, C)."""
    labels, values = parts.flatten(1), finite_maps(explained).flatten(1)
    size = int(labels.max()) + 1
    sums = values.new_zeros(len(values), size).scatter_add_(1, labels, values)
    counts = values.new_zeros(len(values), size).scatter_add_(1, labels, torch.ones_like(values))
    return torch.where(counts > 0, sums / counts, -torch.inf), counts


def part_places(explained: Explained, parts: Tensor, means: Tensor) -> Tensor:
    """Return the place of each pixel's part in the order of falling `means` (P, C), (P, H, W) int64."""
    return ranks(means, explained.prediction.ids).gather(1, parts.flatten(1)).reshape(parts.shape)


def cell_sums(explained: Explained, cells: int) -> Tensor:
    """Return the map's sum over each cell, (P, cells^2) float64."""
    means, counts = part_means(explained, cell_numbers(explained, cells))
    return means * counts


def subsets(explained: Explained, cells: int, share: float, samples: int) -> Tensor:
    """Return random sets of that share of the cells, (P, samples, cells^2) bool; an image's own, drawn from its id.

    Raises:
        UsageError: fewer than two samples, or a share outside (0, 1).
    """
    if samples < 2 or not 0 < share < 1:
        raise UsageError(f"share = {share}, samples = {samples}; a share lies in (0, 1), and samples are 2 or more")
    size = cells**2

    def draw(image: str) -> Tensor:
        keys = torch.rand(samples, size, generator=_generator("subsets", image, cells, share))
        return keys.argsort(1).argsort(1) < min(size - 1, max(1, round(share * size)))

    return explained.once(
        ("subsets", cells, share, samples),
        lambda: torch.stack([draw(image) for image in explained.prediction.ids]).to(explained.maps.device),
    )


def losses(
    explained: Explained, cells: int, sets: Tensor, name: tuple[object, ...], kind: Baseline | float, output: Output
) -> Tensor:
    """Return what the score loses as each set of cells (P, S, cells^2) shows the baseline, (P, S); once a batch.

    `name` tells the sets apart from others of the batch.
    """
    numbers, steps = cell_numbers(explained, cells), sets.shape[1]
    rows = torch.arange(len(explained), device=sets.device).repeat_interleave(steps)
    flat, base, images = sets.flatten(0, 1), baseline(explained, kind), explained.prediction.images

    def make(part: Tensor) -> Tensor:
        row = rows[part]
        hidden = flat[part].gather(1, numbers[row].flatten(1)).reshape(-1, 1, *numbers.shape[1:])
        return torch.where(hidden, base[row], images[row])

    scores = explained.once_kept(
        ("hidden", cells, name, kind, output), lambda: explained.scores_of(make, rows, output).reshape(-1, steps)
    )
    return explained.own_scores(output)[:, None] - scores


def alone(explained: Explained, cells: int) -> Tensor:
    """Return the sets of one cell each, (P, cells^2, cells^2) bool."""
    return torch.eye(cells**2, dtype=torch.bool, device=explained.maps.device).expand(len(explained), -1, -1)


def pearson(a: Tensor, b: Tensor) -> Tensor:
    """Return the correlation of each row of (P, S) with the other's, (P,); NaN where one is constant.

    >>> pearson(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[2.0, 4.0, 6.0]])).tolist()
    [1.0]
    """
    a, b = (x.double() - x.double().mean(1, keepdim=True) for x in (a, b))
    return (a * b).sum(1) / (a.square().sum(1) * b.square().sum(1)).sqrt()


def spearman(a: Tensor, b: Tensor) -> Tensor:
    """Return Spearman's rank correlation of each row of (P, S) with the other's, (P,); equal values share a rank."""
    return pearson(*(torch.from_numpy(scipy.stats.rankdata(x.cpu().numpy(), axis=1)).to(a.device) for x in (a, b)))


def _generator(*parts: object) -> torch.Generator:
    return torch.Generator().manual_seed(seed_of(*parts))
