"""Localization metrics: does the map point at the region of the explained class?

`maps` are (B, H, W) float32 or float64, signed; `masks` (B, H, W) bool, the union of the class's boxes (or its exact
mask), both in one frame and on one device. A metric returns (B,) float64, a curve (B, T), with NaN for an empty mask
and for a constant or non-finite map. Chance functions take the masks alone and return the score expected of a map of
independent, identically distributed noise. Wrong shapes, types or parameters raise `UsageError`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from xaibench.errors import UsageError
from xaibench.metrics import _ops
from xaibench.metrics._dilate import dilate
from xaibench.metrics.base import metric

THRESHOLDS = tuple(round(0.05 * step, 2) for step in range(1, 20))
"""0.05, 0.10, ..., 0.95: shares of the map's largest value."""


def _hit_chance(masks: Tensor) -> Tensor:
    """Return (B,): the area of the mask, as a share of the image."""
    return _ops.area(masks)


@metric(
    "hit_rate",
    category="localization",
    direction="higher",
    range=(0.0, 1.0),
    title="Hit rate (peak in the region)",
    reference="Zhang et al. 2016, arXiv:1608.00507, without tolerance; Saporta et al. 2022 (CheXlocalize), "
    "who take the first maximum",
    chance=_hit_chance,
)
def hit_rate(maps: Tensor, masks: Tensor) -> Tensor:
    """Is the map's largest value in the mask? With several maxima: the share of them that is.

    Values within a millionth of the map's range of the largest are maxima too: rounding decides no hit.

    Chance: the area of the mask.

    >>> maps = torch.tensor([[[0.0, 3.0], [1.0, 3.0]]])
    >>> masks = torch.tensor([[[False, True], [False, False]]])
    >>> hit_rate(maps, masks).tolist()
    [0.5]
    """
    _ops.check_maps(maps, masks)
    maxima = _ops.maxima(maps)
    return _ops.nan_where(_ops.undefined(maps, masks), _ops.share(masks, maxima))


def _radius(width: int, tolerance: float, reference_size: float) -> float:
    if tolerance < 0 or reference_size <= 0:
        raise UsageError(f"pointing_game: need tolerance >= 0, reference_size > 0; got {tolerance}, {reference_size}")
    return tolerance * width / reference_size


def _pointing_chance(masks: Tensor, *, tolerance: float = 15.0, reference_size: float = 224) -> Tensor:
    """Return (B,): the area of the mask dilated by the tolerance, as a share of the image."""
    return _ops.area(_ops.once(dilate, masks, radius=_radius(masks.shape[-1], tolerance, reference_size)))


@metric(
    "pointing_game",
    category="localization",
    direction="higher",
    range=(0.0, 1.0),
    title="Pointing game (15 px at 224)",
    reference="Zhang et al. 2016, arXiv:1608.00507; tolerance as in TorchRay's PointingGame",
    chance=_pointing_chance,
    tolerance=15.0,
    reference_size=224,
)
def pointing_game(maps: Tensor, masks: Tensor, *, tolerance: float = 15.0, reference_size: float = 224) -> Tensor:
    """Does the map's largest value lie in the mask, or near it? With several maxima: the share of them that does.

    Near: the centre of the peak's pixel is less than `tolerance * W / reference_size` pixels (Euclidean, strictly less)
    from the centre of a pixel of the mask. `tolerance` is in pixels of an image `reference_size` wide; with 0 this is
    the hit rate. Chance: the area of the mask so dilated.

    >>> maps = torch.eye(3)[None, 1:2].expand(1, 1, 3)  # peak in the middle of three pixels
    >>> masks = torch.tensor([[[False, False, True]]])
    >>> [pointing_game(maps, masks, tolerance=px, reference_size=3).item() for px in (0.0, 1.0, 1.5)]
    [0.0, 0.0, 1.0]
    """
    _ops.check_maps(maps, masks)
    near = _ops.once(dilate, masks, radius=_radius(maps.shape[-1], tolerance, reference_size))
    maxima = _ops.maxima(maps)
    return _ops.nan_where(_ops.undefined(maps, masks), _ops.share(near, maxima))


@metric(
    "energy",
    category="localization",
    direction="higher",
    range=(0.0, 1.0),
    title="Energy in the region",
    reference="Wang et al. 2020 (Score-CAM), arXiv:1910.01279; Arras et al. 2022 (relevance mass), arXiv:2003.07258",
    chance=_hit_chance,
)
def energy(maps: Tensor, masks: Tensor) -> Tensor:
    """Share of the map's positive part that lies in the mask: sum(A+ G) / sum(A+). Negative values are set to zero.

    NaN also for a map without a positive value. Chance: the area of the mask.

    >>> maps = torch.tensor([[[3.0, 1.0], [-5.0, 0.0]]])
    >>> masks = torch.tensor([[[True, False], [True, False]]])
    >>> energy(maps, masks).tolist()
    [0.75]
    """
    _ops.check_maps(maps, masks)
    inside, whole = _ops.once(_ops.positive_sums, maps, masks)
    return _ops.nan_where(_ops.undefined(maps, masks), inside / whole)  # 0/0 without a positive value


def _iou_chance(masks: Tensor, *, fill_holes: bool = True) -> Tensor:
    """Return (B,): the mean IoU of maps of uniform noise, simulated once for each frame with a fixed seed.

    On `noise_maps` maps and their mirror images. Without filling about a / (1 + a) for a mask of
    area a, as Otsu halves the noise; filling closes all background that does not reach the border (a density of 1/2
    is below the percolation threshold 0.593), so that noise covers nearly everything, and the IoU is about a.
    """
    segments, covered = _noise_segments(*masks.shape[-2:], fill_holes)
    inside = (masks.flatten(1).float().cpu() @ segments.T).double()  # whole numbers, exact in float32
    level: Tensor = (inside / (_ops.number(masks).double().cpu()[:, None] + covered - inside)).mean(-1).to(masks.device)
    return _ops.nan_where(~masks.any(-1).any(-1), level)


def noise_maps(height: int, width: int) -> int:
    """Return how many maps of noise the chance level of `iou_otsu` rests on: 40 at 224 px, 500 up to 64."""
    return min(500, max(16, 2**21 // (height * width)))


@lru_cache(maxsize=2)
def _noise_segments(height: int, width: int, fill_holes: bool) -> tuple[Tensor, Tensor]:
    """Return segmentations of noise and their mirror images, (4 M, H * W) float32, and their pixels, (4 M,) float64."""
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(noise_maps(height, width), height, width, generator=generator)
    segments = _ops.otsu_segmentation(maps, holes=fill_holes)
    mirrored = torch.cat([segments.flip(dims) for dims in ((), (-1,), (-2,), (-2, -1))])
    return mirrored.flatten(1).float(), _ops.number(mirrored).double()


@metric(
    "iou_otsu",
    category="localization",
    direction="higher",
    range=(0.0, 1.0),
    title="IoU at Otsu's threshold",
    reference="Saporta et al. 2022 (CheXlocalize), doi:10.1038/s42256-022-00536-x; Otsu 1979",
    chance=_iou_chance,
    simulated=True,
    fill_holes=True,
)
def iou_otsu(maps: Tensor, masks: Tensor, *, fill_holes: bool = True) -> Tensor:
    """Intersection over union of the mask and the map's segmentation at Otsu's threshold.

    As in CheXlocalize: the map is min-max scaled (signed, so zero plays no part) and truncated to 8 bits; foreground
    lies strictly above the level that maximises the variance between the classes; holes (background that no path of
    4-neighbours joins to the border) are filled. Kept here, dropped by its released code, which draws contours:
    components of a single pixel. Its earlier code fills no holes: `fill_holes=False`. It scores maps at the original
    image's size: give maps and masks in that frame for its numbers. Chance, simulated: about a / (1 + a) for a mask of
    area a without hole filling, else about a, as noise with its holes filled covers all but the border.

    >>> maps = torch.tensor([[[9.0, 8.0, 0.0], [1.0, 0.0, 1.0]]])
    >>> masks = torch.tensor([[[True, False, False], [True, False, False]]])
    >>> round(iou_otsu(maps, masks).item(), 6)
    0.333333
    """
    _ops.check_maps(maps, masks)
    segments = _ops.otsu_segmentation(maps, holes=fill_holes)
    union = segments | masks
    return _ops.nan_where(_ops.undefined(maps, masks), _ops.share(segments & masks, union))


def _visible_chance(masks: Tensor, *, thresholds: Sequence[float] = THRESHOLDS) -> Tensor:
    """Return (B, T): 1 - tau (1 - 1/N) for uniform noise of N pixels, of which one is the maximum itself."""
    pixels = masks.shape[-2] * masks.shape[-1]
    levels = torch.tensor(thresholds, dtype=torch.float64, device=masks.device)
    return _ops.nan_where(_ops.area(masks).isnan(), (1 - levels * (1 - 1 / pixels)).repeat(len(masks), 1))


@metric(
    "visible_in_box",
    category="localization",
    direction="higher",
    range=(0.0, 1.0),
    title="Share of the region visible",
    reference="Fukai, Arai and Nagao (GCM on ChestX-ray8), sec. 5.2: 'red visible inside the box', made exact",
    chance=_visible_chance,
    curve="thresholds",
    headline_at=0.5,
    counts_as=0.0,
    thresholds=THRESHOLDS,
)
def visible_in_box(maps: Tensor, masks: Tensor, *, thresholds: Sequence[float] = THRESHOLDS) -> Tensor:
    """Share of the mask where the displayed map exceeds each threshold: (B, T), one column for each threshold.

    Displayed: the positive part divided by the image's largest value. A map without a positive value displays nothing
    and scores 0, and so counts a constant one. It rewards a map that covers everything: read it beside
    `visible_outside`, the rest of the image above the same threshold, as one operating point. Chance, for uniform noise
    in [0, 1]: 1 - tau (up to tau / number of pixels).

    >>> maps = torch.tensor([[[4.0, 1.0], [-5.0, 3.0]]])
    >>> masks = torch.tensor([[[False, True], [False, True]]])
    >>> visible_in_box(maps, masks, thresholds=[0.2, 0.5, 0.75]).tolist()
    [[1.0, 0.5, 0.0]]
    """
    _ops.check_maps(maps, masks)
    return _ops.nan_where(_ops.undefined(maps, masks), _ops.visible_share(maps, masks, thresholds))


def _outside_chance(masks: Tensor, *, thresholds: Sequence[float] = THRESHOLDS) -> Tensor:
    """Return (B, T): as of `visible_in_box`; NaN where the mask is empty or covers the image."""
    level = _visible_chance(masks, thresholds=thresholds)
    return _ops.nan_where(_ops.number(~masks) == 0, level)


@metric(
    "visible_outside",
    category="localization",
    direction="lower",
    range=(0.0, 1.0),
    title="Share of the rest visible",
    reference="the false-positive rate to the true-positive rate of `visible_in_box`; Fawcett 2006 (ROC analysis)",
    chance=_outside_chance,
    curve="thresholds",
    headline_at=0.5,
    corrected=False,
    counts_as=0.0,
    thresholds=THRESHOLDS,
)
def visible_outside(maps: Tensor, masks: Tensor, *, thresholds: Sequence[float] = THRESHOLDS) -> Tensor:
    """Share of the image outside the mask where the displayed map exceeds each threshold: (B, T).

    With `visible_in_box` at the same threshold one operating point, (inside, outside): a good map has a large share
    inside and a small one outside, noise the same share in both. Displayed and chance as there. Not corrected for
    chance and without a mark: alone it rewards a map that displays nothing. NaN for a mask that covers the image.

    >>> maps = torch.tensor([[[4.0, 1.0], [-5.0, 3.0]]])
    >>> masks = torch.tensor([[[False, True], [False, True]]])
    >>> visible_outside(maps, masks, thresholds=[0.2, 0.5, 0.75]).tolist()
    [[0.5, 0.5, 0.5]]
    """
    _ops.check_maps(maps, masks)
    bad = _ops.undefined(maps, masks) | _ops.undefined(maps, ~masks)
    return _ops.nan_where(bad, _ops.visible_share(maps, ~masks, thresholds))


def _map_area_chance(masks: Tensor, *, thresholds: Sequence[float] = THRESHOLDS) -> Tensor:
    """Return (B, T): as of `visible_in_box` with the whole image as mask."""
    return _visible_chance(torch.ones_like(masks), thresholds=thresholds)


@metric(
    "map_area",
    category="localization",
    direction="lower",
    range=(0.0, 1.0),
    title="Share of the image covered",
    reference="Fukai, Arai and Nagao (GCM on ChestX-ray8), fig. 9 (No Finding), made exact",
    chance=_map_area_chance,
    curve="thresholds",
    headline_at=0.5,
    corrected=False,
    thresholds=THRESHOLDS,
)
def map_area(maps: Tensor, masks: Tensor | None = None, *, thresholds: Sequence[float] = THRESHOLDS) -> Tensor:
    """Share of the image where the displayed map exceeds each threshold: (B, T). For classes without a region.

    `masks` is ignored, so an empty one is no reason for NaN. Displayed and chance as for `visible_in_box`; not
    corrected for chance, as a map that covers nothing is no perfect one.

    >>> map_area(torch.tensor([[[4.0, 1.0], [-5.0, 3.0]]]), thresholds=[0.2, 0.5]).tolist()
    [[0.75, 0.5]]
    """
    _ops.check_maps(maps, None)
    return _ops.nan_where(_ops.undefined(maps), _ops.visible_share(maps, None, thresholds))


@metric(
    "lung_coverage",
    category="localization",
    direction="higher",
    range=(0.0, 1.0),
    title="Share of the lungs covered",
    reference="Fukai, Arai and Nagao (GCM on ChestX-ray8), fig. 9 ('the whole lung'), made exact",
    chance=_visible_chance,
    curve="thresholds",
    headline_at=0.5,
    corrected=False,
    mask="lungs",
    thresholds=THRESHOLDS,
)
def lung_coverage(maps: Tensor, masks: Tensor, *, thresholds: Sequence[float] = THRESHOLDS) -> Tensor:
    """Share of the lungs where the displayed map exceeds each threshold: (B, T), `masks` being the lung fields.

    As `visible_in_box`, of the mask that the dataset gives as ``meta["lungs"]`` (the phantom does). Not corrected for
    chance: a map of a lesion does well to leave most of the lungs out.

    >>> lungs = torch.tensor([[[True, True], [False, False]]])
    >>> lung_coverage(torch.tensor([[[4.0, 1.0], [-5.0, 3.0]]]), lungs, thresholds=[0.2, 0.5]).tolist()
    [[1.0, 0.5]]
    """
    covered: Tensor = visible_in_box(maps, masks, thresholds=thresholds)
    return covered
