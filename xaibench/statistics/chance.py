"""Scores on the scale where chance is 0 and perfection 1."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import numpy as np

from xaibench.errors import UsageError
from xaibench.statistics.bootstrap import Interval

Direction = Literal["higher", "lower"]


def chance_corrected(
    value: Any, chance: Any, *, direction: Direction = "higher", bounds: tuple[float, float] = (0.0, 1.0)
) -> Any:
    """Return (value - chance) / (best - chance): 0 at chance, 1 when perfect, below 0 when worse than chance.

    `best` is the upper end of the bounds, 1, or the lower end where less is better. NaN where chance is perfect
    already, and where the best end is infinite.

    Args:
        value, chance: numbers or arrays of shapes that broadcast.
        direction: the metric's.
        bounds: the metric's range.

    >>> chance_corrected(0.875, 0.5)
    0.75
    >>> chance_corrected(0.125, 0.5, direction="lower")
    0.75
    """
    if direction not in ("higher", "lower"):
        raise UsageError(f'direction {direction!r}: use "higher" or "lower"')
    best = bounds[1] if direction == "higher" else bounds[0]
    room = best - np.asarray(chance, dtype=np.float64)
    useful = np.isfinite(room) & ((room > 0) if direction == "higher" else (room < 0))
    with np.errstate(divide="ignore", invalid="ignore"):
        corrected = np.where(useful, (np.asarray(value, dtype=np.float64) - chance) / room, np.nan)
    return float(corrected) if corrected.ndim == 0 else corrected


def chance_corrected_interval(
    interval: Interval,
    chance: float,
    *,
    direction: Direction = "higher",
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Interval:
    """Return the interval on the scale of `chance_corrected`, the chance level taken as known.

    The scale is linear, so the coverage is that of the interval given; where less is better the ends change places.

    >>> corrected = chance_corrected_interval(Interval(0.25, 0.4, "bca"), 0.5, direction="lower")
    >>> round(corrected.low, 3), corrected.high, corrected.method
    (0.2, 0.5, 'bca')
    """
    ends = [chance_corrected(end, chance, direction=direction, bounds=bounds) for end in (interval.low, interval.high)]
    low, high = ends if direction == "higher" else reversed(ends)
    return replace(interval, low=low, high=high)
