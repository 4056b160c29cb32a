"""Batched steps that localization metrics share: maps (B, H, W) float, masks (B, H, W) bool.

Every step treats each image on its own, and every reduction has a fixed order inside an image, so that a score is the
same, bit for bit, for any batch size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import Tensor

from xaibench.errors import UsageError

TIE = 1e-6
"""Share of a map's range within which two values count as equal maxima: some ten roundings of float32."""

CHUNK_PIXELS = 2**22
"""Pixels worked on at once where a step needs several float64 copies: bounds the memory for large maps."""

CACHE_PIXELS = 2**18
"""Pixels sorted at once: two megabytes of keys."""


Made = TypeVar("Made")
_SHARED: ContextVar[dict[Any, Any] | None] = ContextVar("shared", default=None)


@contextmanager
def sharing() -> Iterator[None]:
    """Let the metrics that are called inside the block share steps on the same tensors."""
    token = _SHARED.set({})
    try:
        yield
    finally:
        _SHARED.reset(token)


def forget(tensor: Tensor) -> None:
    """Drop what is shared of a tensor that no other metric will be asked about."""
    known = _SHARED.get() or {}
    for key in [key for key, (_, tensors) in known.items() if any(one is tensor for one in tensors)]:
        del known[key]


def once(step: Callable[..., Made], *tensors: Tensor, **options: Any) -> Made:
    """Return ``step(*tensors, **options)``; inside `sharing`, made at most once for the same tensors and options."""
    known = _SHARED.get()
    if known is None:
        return step(*tensors, **options)
    versions = (0 if tensor.is_inference() else tensor._version for tensor in tensors)  # counts changes in place
    key = (step, *map(id, tensors), *versions, *sorted(options.items()))
    if key not in known:
        known[key] = (step(*tensors, **options), tensors)  # which live as long, so that an id stays theirs
    made: Made = known[key][0]
    return made


def check_maps(maps: Tensor, masks: Tensor | None, ignore: Tensor | None = None) -> None:
    """Raise `UsageError` unless `maps` is (B, H, W) floating, the others bool of the same shape and device."""
    if maps.ndim != 3 or not maps.is_floating_point():
        raise UsageError(f"maps must be (B, H, W) floating, got {tuple(maps.shape)} {maps.dtype}: stack or cast them")
    for name, given in (("masks", masks), ("ignore", ignore)):
        if given is None:
            continue
        if given.shape != maps.shape or given.dtype != torch.bool:
            raise UsageError(
                f"{name} must be bool of the maps' shape {tuple(maps.shape)}, got {tuple(given.shape)} {given.dtype}: "
                "rasterize the regions in the maps' frame"
            )
        if given.device != maps.device:
            raise UsageError(f"{name} on {given.device}, maps on {maps.device}: move them to one device")


def without(masks: Tensor, ignore: Tensor | None) -> Tensor:
    """Return the masks without the pixels to ignore; the same tensor where there are none."""
    return masks if ignore is None else once(_without, masks, ignore)


def _without(masks: Tensor, ignore: Tensor) -> Tensor:
    return masks & ~ignore


def counted_pixels(masks: Tensor, ignore: Tensor | None) -> Tensor:
    """Return (B,) float64: how many pixels of each image count, those to ignore left out."""
    whole = torch.full((len(masks),), masks.shape[-2] * masks.shape[-1], dtype=torch.float64, device=masks.device)
    return whole if ignore is None else whole - number(ignore)


def undefined(maps: Tensor, masks: Tensor | None = None) -> Tensor:
    """Return (B,) bool: True for a map that is constant or not finite, and for an empty mask."""
    bad = once(_without_order, maps)
    return bad if masks is None else bad | once(_empty, masks)


def _without_order(maps: Tensor) -> Tensor:
    low, high = ends(maps)
    return ~(torch.isfinite(low) & torch.isfinite(high) & (high > low))


def ends(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Return the smallest and the largest value of each map, (B,); both NaN where one is."""
    if maps.device.type != "cpu" or maps.requires_grad or not maps.numel():
        return maps.amin((-2, -1)), maps.amax((-2, -1))
    flat = maps.flatten(1).numpy()  # a thread of torch's would go on spinning, and take the time from others
    return torch.from_numpy(flat.min(1)), torch.from_numpy(flat.max(1))


def _empty(masks: Tensor) -> Tensor:
    return number(masks) == 0


def number(masks: Tensor) -> Tensor:
    """Return (B,) int64: the pixels of each mask. On the CPU by numpy: twice as fast as torch."""
    if masks.device.type != "cpu":
        return masks.sum((-2, -1))
    return torch.tensor([np.count_nonzero(mask) for mask in masks.numpy()], dtype=torch.int64)


def maxima(maps: Tensor) -> Tensor:
    """Return (B, H, W) bool: where a map reaches its maximum, to within a millionth of its range.

    A low-resolution map brought up bilinearly has plateaus at its borders, equal but for the last bit; which of their
    pixels that bit favours depends on the batch size and the machine, and must not decide a hit.
    """
    low, high = (end[:, None, None] for end in ends(maps))
    return maps >= high - TIE * (high - low)


def nan_where(bad: Tensor, scores: Tensor) -> Tensor:
    """Return the (B, ...) scores with NaN in the rows where `bad` (B,) holds."""
    return scores.masked_fill(bad.reshape(-1, *[1] * (scores.ndim - 1)), math.nan)


def total(values: Tensor) -> Tensor:
    """Return the (B,) float64 sums. Row by row: a sum over a whole image may be split between threads when B = 1."""
    return values.sum(-1, dtype=torch.float64).sum(-1)


def positive_sums(maps: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Return the (B,) float64 sums of the maps' positive values, in the masks and in the whole images."""
    if maps.device.type != "cpu":
        positive = maps.clamp(min=0)
        return total(torch.where(masks, positive, 0.0)), total(positive)

    found = np.empty((2, len(maps)))
    for row, (values, at) in enumerate(zip(maps.detach().flatten(1).numpy(), places(masks), strict=True)):
        positive = values if values.min() >= 0 else np.maximum(values, 0)  # which takes as long as all the rest
        positive = positive.astype(np.float64)  # ten times as fast as ufuncs that cast
        found[:, row] = positive.take(at).sum(), positive.sum()
    inside, whole = torch.from_numpy(found)
    return inside, whole


def places(masks: Tensor) -> list[npt.NDArray[np.intp]]:
    """Return where the pixels of each mask, on the CPU, are in its (H * W,) row; metrics of one mask share it."""
    return once(_places, masks)


def _places(masks: Tensor) -> list[npt.NDArray[np.intp]]:
    return [np.flatnonzero(mask) for mask in masks.numpy()]


def share(part: Tensor, whole: Tensor) -> Tensor:
    """Return (B,) float64 in [0, 1]: how much of `whole` (bool) is also in `part` (bool); NaN for an empty whole."""
    return number(part & whole).double() / number(whole).double()


def area(masks: Tensor) -> Tensor:
    """Return (B,) float64: the share of the image that each mask covers; NaN for an empty mask."""
    covered = number(masks).double() / (masks.shape[-2] * masks.shape[-1])
    return nan_where(covered == 0, covered)


def chunks(*tensors: Tensor, pixels: int = CHUNK_PIXELS) -> Iterator[tuple[Tensor, ...]]:
    """Split tensors of one (B, H, W) shape along B into pieces of about that many pixels."""
    step = max(1, pixels // max(1, tensors[0].shape[-2] * tensors[0].shape[-1]))
    yield from zip(*(torch.split(tensor, step) for tensor in tensors), strict=True)


def by_chunks(step: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """Return ``step(*tensors)``, computed for a few images at a time: quicker while a step's copies fit the cache."""
    return torch.cat([step(*piece) for piece in chunks(*tensors, pixels=CACHE_PIXELS)])


def visible_share(maps: Tensor, masks: Tensor | None, thresholds: Sequence[float]) -> Tensor:
    """Return (B, T) float64: share of each mask (None: of the image) where the displayed map exceeds each threshold.

    The displayed map is the positive part over the image's largest value; nothing is displayed of a map without
    positive values. NaN for an empty mask.

    Raises:
        UsageError: no threshold, or one outside [0, 1).
    """
    if not len(thresholds) or not all(0 <= threshold < 1 for threshold in thresholds):
        raise UsageError(f"thresholds must be numbers in [0, 1), got {list(thresholds)}")
    pixels = maps.shape[-2] * maps.shape[-1] if masks is None else number(masks).double().unsqueeze(-1)
    if maps.dtype == torch.float32 and maps.device.type == "cpu":
        return _exceeding_in_rows(maps, masks, np.array(thresholds, dtype=np.float64)) / pixels
    levels, order = torch.tensor(thresholds, dtype=torch.float64, device=maps.device).sort()
    pieces = chunks(maps) if masks is None else chunks(maps, masks)
    counts = torch.cat([_exceeding(*piece, levels=levels) for piece in pieces] or [levels.new_zeros(0, len(levels))])
    return counts[:, order.argsort()] / pixels


def _exceeding_in_rows(maps: Tensor, masks: Tensor | None, levels: npt.NDArray[np.float64]) -> Tensor:
    """Return what `_exceeding` does, by comparing pixels with the smallest float32 whose displayed value exceeds."""
    rows, counts = maps.detach().flatten(1).numpy(), np.zeros((len(maps), len(levels)))
    inside = places(masks) if masks is not None else None
    for row, values in enumerate(rows):
        peak = np.float64(values.max())
        if not 0 < peak < np.inf:
            continue  # displays nothing
        near = (levels * peak).astype(np.float32)
        near = np.stack([np.nextafter(near, np.float32(-np.inf)), near, np.nextafter(near, np.float32(np.inf))])
        least = near[(near.astype(np.float64) / peak > levels).argmax(0), np.arange(len(levels))]
        some = values if inside is None else values.take(inside[row])
        counts[row] = [np.count_nonzero(some >= bound) for bound in least]
    return torch.from_numpy(counts)


def _exceeding(maps: Tensor, masks: Tensor | None = None, *, levels: Tensor) -> Tensor:
    """Return (B, T) float64 counts of the mask's pixels whose displayed value exceeds each of the sorted levels."""
    peaks = maps.amax((-2, -1)).double()
    peaks = torch.where(peaks > 0, peaks, math.inf)  # displays nothing
    images = torch.arange(len(maps), device=maps.device)[:, None, None]
    if masks is None:
        values = maps.double()
    else:
        images, values = images.expand_as(maps)[masks], maps[masks].double()
    passed = torch.bucketize(values / peaks[images], levels)  # how many levels lie strictly below
    slots = len(levels) + 1
    histogram = torch.bincount((images * slots + passed).flatten(), minlength=len(maps) * slots).reshape(-1, slots)
    return histogram.flip(-1).cumsum(-1).flip(-1)[:, 1:].double()


def scaled(values: npt.NDArray[np.floating[Any]], low: float, high: float) -> npt.NDArray[np.float64]:
    """Return (v - low) / (high - low), each step in float64: the min-max scaled map, in [0, 1].

    It rises with the values, so that values in order stay in order; two may become equal by rounding.
    """
    wide = values.astype(np.float64)
    wide -= np.float64(low)
    wide /= np.float64(high) - np.float64(low)
    return wide


@dataclass(frozen=True)
class Sides:
    """The values of a map's pixels in rising order, outside the mask and in it, and the ends of the whole map."""

    outside: npt.NDArray[np.floating[Any]]
    inside: npt.NDArray[np.floating[Any]]
    low: float
    high: float


def sides(maps: Tensor, masks: Tensor, ignore: Tensor | None = None) -> list[Sides]:
    """Return the `Sides` of each map; metrics that share their steps share them. Pixels in `ignore` are on neither."""
    return once(_sides, maps, masks, *([] if ignore is None else [ignore]))


def _sides(maps: Tensor, masks: Tensor, ignore: Tensor | None = None) -> list[Sides]:
    low, high = (end.tolist() for end in ends(maps))
    values, inside = maps.detach().cpu().flatten(1).numpy(), masks.cpu().flatten(1).numpy()
    outside = ~inside if ignore is None else ~(inside | ignore.cpu().flatten(1).numpy())
    if ignore is not None:
        inside = inside & ~ignore.cpu().flatten(1).numpy()
    return [
        Sides(np.sort(row[without]), np.sort(row[within]), first, last)
        for row, without, within, first, last in zip(values, outside, inside, low, high, strict=True)
    ]


def above(maps: Tensor, masks: Tensor, thresholds: Sequence[float], ignore: Tensor | None = None) -> Tensor:
    """Return (B, 2, T) float64: how many pixels outside the mask, and in it, lie strictly above each threshold.

    Of the min-max scaled map, in float64 and not rounded: (v - low) / (high - low) > t. Pixels in `ignore` count on
    neither side, but the map is scaled with them. Meaningless for a constant or non-finite map.
    """
    bounds = np.asarray(thresholds, dtype=np.float64)
    if maps.device.type == "cpu":
        with np.errstate(invalid="ignore", divide="ignore"):
            counts = [
                [_number_above(side, bounds, of.low, of.high) for side in (of.outside, of.inside)]
                for of in sides(maps, masks, ignore)
            ]
        return torch.from_numpy(np.array(counts, dtype=np.float64).reshape(len(maps), 2, len(bounds)))
    levels, order = torch.from_numpy(bounds).to(maps.device).sort()
    left_out = torch.zeros_like(masks) if ignore is None else ignore
    pieces = [_exceeding_sides(*piece, levels=levels) for piece in chunks(maps, masks, left_out)]
    return torch.cat(pieces or [levels.new_zeros(0, 2, len(levels))])[..., order.argsort()]


def _number_above(
    rising: npt.NDArray[np.floating[Any]], bounds: npt.NDArray[np.float64], low: float, high: float
) -> npt.NDArray[np.intp]:
    return len(rising) - np.searchsorted(scaled(rising, low, high), bounds, side="right")


def _exceeding_sides(maps: Tensor, masks: Tensor, ignore: Tensor, *, levels: Tensor) -> Tensor:
    """Return (B, 2, T) float64, as `above`, of sorted levels."""
    low, high = (end.double()[:, None, None] for end in ends(maps))
    passed = torch.bucketize((maps.double() - low) / (high - low), levels)  # how many levels lie strictly below
    slots = len(levels) + 1
    side = torch.where(ignore, 2, masks.long()) + 3 * torch.arange(len(maps), device=maps.device)[:, None, None]
    counts = torch.bincount((side * slots + passed).flatten(), minlength=3 * len(maps) * slots)
    return counts.reshape(-1, 3, slots)[:, :2].flip(-1).cumsum(-1).flip(-1)[..., 1:].double()


def sort(values: Tensor) -> Tensor:
    """Return the rows of (B, N) values in rising order, NaN last. On the CPU by numpy: ten times as fast as torch."""
    if values.device.type != "cpu":
        return values.sort(-1).values
    return torch.from_numpy(np.sort(values.detach().numpy(), axis=-1))


def falling(values: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.uint32]]:
    """Return the order of (N,) values, the largest first, and numbers (N,) in that order, equal where the values are.

    By counting their upper and their lower half (numpy's stable sort of 16 bits is one), which no processor does badly;
    numpy's fastest sort takes six times as long as it might on some.

    >>> order, numbers = falling(np.array([1, 3, 1], dtype=np.float32))
    >>> order.tolist(), (numbers[1:] == numbers[:-1]).tolist()
    ([1, 0, 2], [False, True])
    """
    keys = _falling_keys(values)
    first = np.argsort(keys.astype(np.uint16), kind="stable")
    order = first.take(np.argsort((keys >> 16).astype(np.uint16).take(first), kind="stable"))
    return order, keys.take(order)


def _falling_keys(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint32]:
    """Return whole numbers that fall as float32 values rise, negative ones included, and are equal where they are."""
    bits = (values + np.float32(0)).view(np.int32)  # no -0.0
    keys: npt.NDArray[np.uint32] = (bits ^ (~(bits >> 31) & 0x7FFFFFFF)).view(np.uint32)
    return keys


def grey_levels(maps: Tensor) -> Tensor:
    """Return (B, H, W) int64 in 0..255: the maps min-max scaled to 8 bits. Meaningless if constant or not finite."""
    return grey(maps).long()


def grey(maps: Tensor) -> Tensor:
    """Return `grey_levels` as (B, H, W) uint8; metrics that share their steps share it."""
    return once(_grey, maps)


def _grey(maps: Tensor) -> Tensor:
    return by_chunks(_scaled_to_grey, maps) if len(maps) else torch.zeros_like(maps, dtype=torch.uint8)


def _scaled_to_grey(maps: Tensor) -> Tensor:
    low, high = (end.double()[:, None, None] for end in ends(maps))
    scaled = maps.to(torch.float64, copy=True)
    scaled.sub_(low).div_(high - low).mul_(255)
    return scaled.nan_to_num_(nan=0.0).clamp_(0, 255).to(torch.uint8)  # truncated, as numpy.uint8 does


def grey_histograms(maps: Tensor) -> Tensor:
    """Return how many pixels of each map have each grey level, (B, 256) float64; shared as `grey` is."""
    return once(_grey_histograms, maps)


def _grey_histograms(maps: Tensor) -> Tensor:
    return _histograms(grey(maps).flatten(1))


def otsu_threshold(levels: Tensor) -> Tensor:
    """Return (B,) int64: Otsu's threshold of (B, P) grey levels, whole numbers in 0..255; foreground is above it.

    The smallest level that maximises the variance between the two classes (Otsu 1979), as OpenCV's THRESH_OTSU and
    scikit-image's threshold_otsu choose it. Sums of counts are whole numbers in float64, so ties are exact.

    >>> otsu_threshold(torch.tensor([[0, 0, 10, 200, 210]])).tolist()
    [10]
    """
    return _otsu_of(_histograms(levels))


def _otsu_of(counts: Tensor) -> Tensor:
    below = counts.cumsum(-1)
    moment = (counts * torch.arange(256, device=counts.device)).cumsum(-1)
    number, mean = below[:, -1:], moment[:, -1:]
    between = (mean * below - number * moment).square() / (below * (number - below))
    return between.nan_to_num(nan=-1.0).argmax(-1)  # 0/0 where a class is empty


def _histograms(levels: Tensor) -> Tensor:
    """Return how often each level occurs in each row, (B, 256) float64."""
    if levels.device.type == "cpu":
        rows = [np.bincount(row, minlength=256) for row in levels.numpy()]
        return torch.from_numpy(np.array(rows, dtype=np.float64).reshape(-1, 256))
    offsets = 256 * torch.arange(len(levels), device=levels.device)[:, None]
    return torch.bincount((levels + offsets).flatten(), minlength=256 * len(levels)).reshape(-1, 256).double()


def otsu_segmentation(maps: Tensor, *, holes: bool) -> Tensor:
    """Return (B, H, W) bool: the 8-bit, min-max scaled maps above Otsu's threshold, holes filled if asked.

    A constant or non-finite map has no segmentation; its pixels are meaningless.
    """
    levels = grey(maps)
    segments = levels > _otsu_of(grey_histograms(maps))[:, None, None]
    return fill_holes(segments) if holes else segments


def fill_holes(segments: Tensor) -> Tensor:
    """Add to each (H, W) segment the background that no path of 4-neighbours joins to the image's border.

    On the CPU; the same result as scipy.ndimage.binary_fill_holes on each image.
    """
    filled = [_filled(segment) for segment in segments.cpu().numpy()]
    return torch.from_numpy(np.stack(filled)).to(segments.device) if filled else segments


def _filled(segment: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    try:
        import cv2
    except ImportError:  # its wheel needs a library that a bare machine may lack
        filled: npt.NDArray[np.bool_] = ndimage.binary_fill_holes(segment)
        return filled
    framed = np.pad(segment.view(np.uint8), 1)  # a frame of background, from which to flood all that it reaches
    cv2.floodFill(framed, None, (0, 0), (2,), flags=4)
    outside: npt.NDArray[np.bool_] = framed[1:-1, 1:-1] == 2
    return ~outside
