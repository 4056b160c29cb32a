"""From an image file to what a network is shown: upright, grey or in colour, in [0, 1], square."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from xaibench.datasets.content import FileFacts, PathLike
from xaibench.datasets.raster import Header, Values, read_header, read_values, resize, turn
from xaibench.errors import DataError
from xaibench.types import Frame

VERSION = "2: float32, luminance, PIL bilinear with antialiasing"
"""Part of a split's fingerprint: change it whenever `decode` changes one bit of its result."""
_LUMINANCE = np.array([0.299, 0.587, 0.114])
_LOW, _HIGH = 0.5, 99.5
_DEPTHS = (8, 10, 12, 14, 16)


@dataclass(frozen=True)
class Recipe:
    """How files become images; decides every number of an image, with the orientation that it is turned by.

    Attributes:
        color: three channels; otherwise grey.
        range: "full", "stored" or "percentile", as the option.
        divisors: for "stored": bits that a file declares (0: none) to the value that becomes 1 in 16-bit files.
    """

    color: bool = False
    range: str = "full"
    divisors: tuple[tuple[int, int], ...] = ()

    def __str__(self) -> str:
        how = f"range {self.range}{list(map(list, self.divisors)) if self.range == 'stored' else ''}"
        return f"{'colour' if self.color else 'grey'}, {how}, {VERSION}"


def decode(
    path: Path, size: int, recipe: Recipe, orientation: int = 1, own: Frame | None = None
) -> npt.NDArray[np.float32]:
    """Return an image as (1 or 3, size, size) float32 in [0, 1].

    Args:
        path: of the file.
        size: side of the square that the whole field of view is stretched to.
        recipe: how.
        orientation: EXIF's, that the image is turned by; 1 for not at all.
        own: the size that it had when its regions were placed.

    Raises:
        DataError: the file can't be read, its values have no known range under this recipe, or its size changed.
    """
    found = read_values(path)
    if own is not None and found.header.size(orientation) != own:
        raise DataError(f"{path} is no longer of {own.width} x {own.height} pixels: it changed; run again")
    image = in_unit_range(path, found, recipe)
    channels = [turn(image, orientation)] if image.ndim == 2 else list(np.moveaxis(turn(image, orientation), -1, 0))
    if recipe.color and len(channels) == 1:
        channels *= 3
    return np.stack([resize(channel, size) for channel in channels])


def in_unit_range(path: Path, found: Values, recipe: Recipe) -> npt.NDArray[np.float32]:
    """Bring a file's numbers to [0, 1], (H, W) or with `color` perhaps (H, W, 3), still as stored.

    Raises:
        DataError: their range is unknown, or they leave it; names the file and the remedy.
    """
    values = found.values
    if recipe.range == "percentile":
        values = values if recipe.color or values.ndim == 2 else _grey(values.astype(np.float64))
        return _between_percentiles(values.astype(np.float64))
    divisor = dict(recipe.divisors).get(found.header.bits, found.full) if found.full == 65535 else found.full
    if divisor is None:
        return _known_range(path, found)
    if values.max() > divisor:
        raise DataError(f"{path} holds {values.max()}, above the {divisor} that was found in it: it changed; run again")
    scaled = values.astype(np.float32) / np.float32(divisor)
    return scaled if recipe.color or scaled.ndim == 2 else _grey(scaled)


def _between_percentiles(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    low, high = map(float, np.percentile(values, [_LOW, _HIGH]))
    if low == high:  # nearly all pixels are equal: the few others are all that there is to see
        low, high = float(values.min()), float(values.max())
    scaled = (values - low) / (high - low) if high > low else np.zeros_like(values)
    return scaled.clip(0, 1).astype(np.float32)


def _known_range(path: Path, found: Values) -> npt.NDArray[np.float32]:
    """Take floats that are in [0, 1] as they are."""
    values = found.values
    if values.dtype.kind == "f" and values.min() >= 0 and values.max() <= 1:
        return values.astype(np.float32)
    raise DataError(
        f"{path}: values of mode {found.header.mode} from {values.min():.6g} to {values.max():.6g} have no known "
        'range: set the dataset option range = "percentile", or save them as unsigned 8 or 16 bits'
    )


def _grey(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the luminance of colours (H, W, 3); where all three channels are equal it is exactly their value."""
    first = values[..., 0]
    equal = (first == values[..., 1]) & (first == values[..., 2])
    return np.where(equal, first, (values.astype(np.float64) @ _LUMINANCE).astype(values.dtype))


def _read_header(path: str) -> list[Any]:
    return list(read_header(path))


class Extremes(NamedTuple):
    """Of a file: declared bits (sBIT), what its type holds at most (None: unknown), its smallest and largest value."""

    bits: int
    full: int | None
    low: float
    high: float


def _extremes(path: str) -> list[Any]:
    values, full, header = read_values(path)
    return [header.bits, full, values.min().item(), values.max().item()]


_headers = FileFacts("header 1", _read_header)
_all_extremes = FileFacts("extremes 1", _extremes)


def headers(paths: Iterable[PathLike], root: PathLike) -> list[Header]:
    """Return the headers of files below `root`, cached by content.

    Raises:
        DataError: one can't be read.
    """
    return [Header(*header) for header in _headers(paths, root)]


def header_of_one(path: PathLike, root: PathLike) -> Header:
    """Return the header of one file, as `headers`."""
    return Header(*_headers.one(path, root))


def extremes(paths: Iterable[PathLike], root: PathLike) -> list[Extremes]:
    """Return the range of values of files below `root`; each is decoded once, and the answer cached by content.

    Raises:
        DataError: one can't be read.
    """
    return [Extremes(*found) for found in _all_extremes(paths, root)]


def extremes_of_one(path: PathLike, root: PathLike) -> Extremes:
    """Return the range of one file, as `extremes`."""
    return Extremes(*_all_extremes.one(path, root))


def stored_divisors(paths: Iterable[PathLike], root: PathLike) -> tuple[tuple[int, int], ...]:
    """Return `Recipe.divisors` for a data set: it decodes every file once, and caches what it found.

    Files that declare their bits (sBIT) hold values of so many bits; where one of those files holds a larger value, all
    that declare the same were scaled up to 16 bits, as the PNG specification has it. Other files share the fewest of
    8, 10, 12, 14 and 16 bits that hold them all, so that they stay comparable.

    Raises:
        DataError: a file can't be read.
    """
    return divisors_of((int(found.bits), int(found.high)) for found in extremes(paths, root) if found.full == 65535)


def divisors_of(found: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Return declared bits and the value that becomes 1, of pairs of declared bits and a file's largest value.

    >>> divisors_of([(0, 900), (0, 3000), (12, 900), (14, 60000)])
    ((0, 4095), (12, 4095), (14, 65535))
    """
    return tuple(
        (bits, (1 << _depth(bits, max(value for _, value in group))) - 1)
        for bits, group in groupby(sorted(found), key=lambda pair: pair[0])
    )


def _depth(declared: int, largest: int) -> int:
    if declared:
        return declared if largest < 1 << declared else 16
    return next(depth for depth in _DEPTHS if largest < 1 << depth)
