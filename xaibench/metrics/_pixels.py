"""Every pixel of a class's maps, kept on disk: statistics of all of them together, exact whatever their number.

A pair leaves its map's values sorted, inside and outside the mask; maps are compared on the scale where each runs from
0 to 1. Values are merged range by range, from the highest down, so that memory holds a range and not the dataset.
"""

from __future__ import annotations

import tempfile
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from xaibench.io.files import cache_dir, make_folder
from xaibench.metrics import _ops

FloatArray = npt.NDArray[np.float64]

MOST = 2**24
"""Pixels merged at once: 128 MB."""
LEVELS = 4096
"""Levels of the histograms that resamples are made of; their edges are quantiles of the pixels inside the masks."""
SAMPLE = 2**20
"""Pixels that quantiles are taken of, where there are more."""


@dataclass(frozen=True)
class Run:
    """Rising values of a map, and the scale on which maps are compared."""

    values: npt.NDArray[Any]
    low: float
    high: float

    def __len__(self) -> int:
        return len(self.values)

    def scaled(self, start: int = 0, stop: int | None = None, step: int = 1) -> FloatArray:
        """Return (v - low) / (high - low) of a part, in double precision."""
        found: FloatArray = (np.asarray(self.values[start:stop:step], dtype=np.float64) - self.low) / self._width
        return found

    @property
    def _width(self) -> float:
        return self.high - self.low

    def place(self, bound: float) -> int:
        """Return how many scaled values lie below `bound`; reads a few of them only."""
        return bisect_left(self.values, bound, key=lambda value: (float(value) - self.low) / self._width)


@dataclass(frozen=True)
class Row:
    """The pixels of one pair, inside and outside its mask.

    Attributes:
        defined: False for a constant or non-finite map, whose values are then those of evenly spread noise.
    """

    inside: Run
    outside: Run
    defined: bool = True


def pixel_rows(maps: Tensor, masks: Tensor, ignore: Tensor | None = None) -> list[Row]:
    """Return the pixels of each pair, of which `average_precision` makes one number.

    Args:
        maps: (B, H, W).
        masks: (B, H, W) bool; an empty one gives a row without pixels inside.
        ignore: (B, H, W) bool, pixels that count nowhere; the scale is still that of the whole map.
    """
    _ops.check_maps(maps, masks)
    return _ops.once(_rows, maps, masks) if ignore is None else _rows(maps, masks, ignore)


def _rows(maps: Tensor, masks: Tensor, ignore: Tensor | None = None) -> list[Row]:
    undefined = _ops.undefined(maps).tolist()
    values, inside = maps.detach().flatten(1).cpu().numpy(), masks.flatten(1).cpu().numpy()
    counted = np.ones_like(inside) if ignore is None else ~ignore.flatten(1).cpu().numpy()
    found = []
    for own, mask, used, bad in zip(values, inside, counted, undefined, strict=True):
        if bad:
            found.append(noise_row(int((mask & used).sum()), int((~mask & used).sum())))
            continue
        low, high = float(own.min()), float(own.max())
        sides = (np.sort(own[mask & used]), np.sort(own[~mask & used]))
        found.append(Row(Run(sides[0], low, high), Run(sides[1], low, high)))
    return found


def noise_row(inside: int, outside: int) -> Row:
    """Return what an undefined map counts as: noise, evenly spread from 0 to 1 inside the mask as outside it."""
    runs = [Run((np.arange(count) + 0.5) / max(count, 1), 0.0, 1.0) for count in (inside, outside)]
    return Row(runs[0], runs[1], defined=False)


@dataclass
class Spool:
    """Rows in a temporary file, which goes with the object."""

    _file: IO[bytes] = field(default_factory=lambda: _temporary())
    _map: npt.NDArray[np.uint8] | None = None

    def add(self, row: Row) -> Row:
        """Write a row's values and return the row, reading from the file; noise needs no room."""
        return row if not row.defined else Row(self._written(row.inside), self._written(row.outside))

    def _written(self, run: Run) -> Run:
        values = np.ascontiguousarray(run.values)
        self._file.seek(0, 2)
        start = self._file.tell()
        self._file.write(values.data)
        stored: Any = _Stored(self, start, len(values), values.dtype)
        return Run(stored, run.low, run.high)

    def part(self, start: int, count: int, kind: np.dtype[Any]) -> npt.NDArray[Any]:
        """Return values of the file, mapped into memory."""
        self._file.flush()
        if self._map is None or len(self._map) < start + count * kind.itemsize:
            self._map = np.memmap(self._file, dtype=np.uint8, mode="r")
        return self._map[start : start + count * kind.itemsize].view(kind)


def _temporary() -> IO[bytes]:
    """Return a temporary file in the cache folder: the system's own may be memory."""
    folder = cache_dir() / "pixels"
    make_folder(folder)
    return tempfile.TemporaryFile(dir=folder)


@dataclass(frozen=True)
class _Stored:
    """Values in a spool, looked up when they are read."""

    spool: Spool
    start: int
    count: int
    kind: np.dtype[Any]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, place: Any) -> Any:
        return self.spool.part(self.start, self.count, self.kind)[place]


def average_precision(rows: Sequence[Row]) -> float:
    """Return the area under the precision-recall curve of all pixels, as scikit-learn's average_precision_score.

    A threshold at every value: sum over the distinct values of the recall gained times the precision reached. NaN
    without a pixel inside.
    """
    positives = sum(len(row.inside) for row in rows)
    if not positives:
        return float("nan")
    area, hits, false = 0.0, 0, 0
    for gained, passed, outside in _ranges(rows):
        reached = hits + np.cumsum(gained)
        area += float((gained * (reached / (reached + false + passed))).sum())
        hits, false = hits + int(gained.sum()), false + outside
    return area / positives


Counts = npt.NDArray[np.int64]


def _ranges(rows: Sequence[Row], most: int | None = None) -> Iterator[tuple[Counts, Counts, int]]:
    """Yield one range of values after the other, the highest first.

    Of its distinct values inside, falling: how many pixels have each, and how many pixels of the range outside reach
    it; then how many pixels of the range lie outside. The value at a cut is a range of its own, and only counted: many
    pixels may share it, such as zero.
    """
    runs = [run for row in rows for run in (row.inside, row.outside)]
    cuts = _cuts(runs, most or MOST)
    bounds = [-np.inf, *(bound for cut in cuts for bound in (cut, np.nextafter(cut, np.inf))), np.inf]
    places = np.array([[0, *(run.place(bound) for bound in bounds[1:-1]), len(run)] for run in runs])
    for at in reversed(range(len(bounds) - 1)):
        if at % 2:
            inside, outside = ((places[side::2, at + 1] - places[side::2, at]).sum() for side in (0, 1))
            if inside:
                yield np.array([inside]), np.array([outside]), int(outside)
            else:
                yield np.empty(0, np.int64), np.empty(0, np.int64), int(outside)
            continue
        parts = [run.scaled(place[at], place[at + 1]) for run, place in zip(runs, places, strict=True)]
        values, gained = np.unique(np.concatenate(parts[::2]), return_counts=True)
        wrong = np.sort(np.concatenate(parts[1::2]))
        yield gained[::-1], len(wrong) - np.searchsorted(wrong, values[::-1], side="left"), len(wrong)


def _cuts(runs: Sequence[Run], most: int) -> list[float]:
    """Return the values at which to part all pixels into ranges of about half of `most`."""
    pixels = sum(map(len, runs))
    if pixels <= most:
        return []
    shares = np.linspace(0, 1, 2 * pixels // most + 2)[1:-1]
    return [float(value) for value in np.unique(np.quantile(_sample(runs), shares))]


def _sample(runs: Sequence[Run]) -> FloatArray:
    """Return all values, or evenly spaced ones of each run where there are more than `SAMPLE`."""
    step = max(1, sum(map(len, runs)) // SAMPLE)
    return np.concatenate([run.scaled(step=step) for run in runs])


def histograms(rows: Sequence[Row], levels: int = LEVELS) -> FloatArray:
    """Return (n, 2 * levels): how many pixels outside, then inside, have each level, the levels rising.

    Levels hold about the same number of pixels inside, so that a heavy tail is resolved as finely as the rest.
    """
    sample = _sample([row.inside for row in rows if len(row.inside)])
    edges = np.unique(np.quantile(sample, np.arange(1, levels) / levels, method="inverted_cdf"))
    found = np.zeros((len(rows), 2, levels))
    for own, row in zip(found, rows, strict=True):
        for side, run in zip(own, (row.outside, row.inside), strict=True):
            below = np.searchsorted(run.scaled(), edges, side="left")
            side[: len(edges) + 1] = [last - first for first, last in pairwise([0, *below.tolist(), len(run)])]
    return found.reshape(len(rows), 2 * levels)


def binned_average_precision(means: FloatArray) -> FloatArray:
    """Return (r,): average precision of histograms (r, 2 * levels) as of `histograms`, each level a threshold."""
    above = means.reshape(len(means), 2, -1)[:, :, ::-1].cumsum(-1)
    inside, passed = above[:, 1], above.sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.where(passed > 0, inside / passed, 0.0)
        area: FloatArray = (precision * np.diff(inside, axis=-1, prepend=0.0)).sum(-1) / inside[:, -1]
    return area
