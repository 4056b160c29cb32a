"""Cheap drawing tools: curves kept as tables, soft edges, and stamps of thin lines on a fixed grid.

Everything lives in the unit frame of the patient (x to the right from the midline, y down, both in widths of the
image), so that a picture shows the same anatomy at every size.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
Index = npt.NDArray[np.int32]

TABLE: Final = 1024
SPAN: Final = 1.5
XS: Final[Array] = np.linspace(-SPAN / 2, SPAN / 2, TABLE, dtype=np.float32)
YS: Final[Array] = np.linspace(0.5 - SPAN / 2, 0.5 + SPAN / 2, TABLE, dtype=np.float32)
DETAIL: Final = 224
"""Side of the grid on which vessels, wires and texture are stamped; it covers x in [-0.5, 0.5] and y in [0, 1]."""


def table_index(values: Array, start: float) -> Index:
    """Return where in a table over [start, start + SPAN] each value lies (nearest entry, clipped)."""
    index = ((values - np.float32(start)) * np.float32((TABLE - 1) / SPAN) + np.float32(0.5)).astype(np.int32)
    return np.clip(index, 0, TABLE - 1, out=index)


def ramp(distance: Array, width: float) -> Array:
    """Return a soft step: 0 below -width / 2, 1 above width / 2, linear between (`distance` is left as it is)."""
    soft = distance * np.float32(1 / width)
    soft += np.float32(0.5)
    return np.clip(soft, np.float32(0), np.float32(1), out=soft)


def smoothstep(values: Array) -> Array:
    """Return 3 t^2 - 2 t^3 of the values clipped to [0, 1]."""
    t = np.clip(values, 0.0, 1.0)
    result: Array = t * t * (3 - 2 * t)
    return result


def stamp(x: Array, y: Array, sigma: Array, height: Array, step: float, taps: int) -> Array:
    """Draw points that lie `step` apart along curves as Gaussian lines on the detail grid.

    Args:
        x, y: (N,) patient coordinates.
        sigma: (N,) half width of the line, in cells.
        height: (N,) value on the line's ridge.
        step: distance between neighbouring points, in cells.
        taps: side of a stamp in cells (odd).

    Returns:
        (DETAIL, DETAIL) float32.
    """
    column, row = (x + np.float32(0.5)) * DETAIL - np.float32(0.5), y * DETAIL - np.float32(0.5)
    half = taps // 2
    keep = (column > half) & (column < DETAIL - 1 - half) & (row > half) & (row < DETAIL - 1 - half)
    column, row, sigma, height = column[keep], row[keep], sigma[keep], height[keep]
    near_column, near_row = np.rint(column), np.rint(row)
    offsets = np.arange(-half, half + 1, dtype=np.float32)
    fall = (-0.5 / sigma**2)[:, None]
    across = np.exp(fall * (offsets[None, :] + (near_column - column)[:, None]) ** 2)
    along = np.exp(fall * (offsets[None, :] + (near_row - row)[:, None]) ** 2)
    along *= (height * np.float32(step / np.sqrt(2 * np.pi)) / sigma)[:, None]
    weights = along[:, :, None] * across[:, None, :]
    cells = near_row.astype(np.int64) * DETAIL + near_column.astype(np.int64)
    around = np.arange(-half, half + 1)
    cells = cells[:, None, None] + (around[:, None] * DETAIL + around[None, :])[None]
    grid = np.bincount(cells.ravel(), weights.ravel(), minlength=DETAIL * DETAIL)
    return grid.astype(np.float32).reshape(DETAIL, DETAIL)


def sample(grid: Array, x: Array, y: Array) -> Array:
    """Return the detail grid at patient coordinates, bilinear, clamped at its border."""
    column = np.clip((x + np.float32(0.5)) * DETAIL - np.float32(0.5), 0, DETAIL - 1.001)
    row = np.clip(y * DETAIL - np.float32(0.5), 0, DETAIL - 1.001)
    left, upper = column.astype(np.int32), row.astype(np.int32)
    column -= left
    row -= upper
    upper *= DETAIL
    upper += left
    flat = grid.ravel()
    top, bottom = flat.take(upper), flat.take(upper + DETAIL)
    top += column * (flat.take(upper + 1) - top)
    bottom += column * (flat.take(upper + (DETAIL + 1)) - bottom)
    bottom -= top
    bottom *= row
    bottom += top
    return np.asarray(bottom, dtype=np.float32)


def spline(points: Array, knots: int) -> Array:
    """Return the (N, knots) matrix of a uniform cubic B-spline at N points of [0, 1]."""
    t = 1 + points * np.float32(knots - 3)
    distance = np.abs(t[:, None] - np.arange(knots, dtype=np.float32)[None, :])
    near = 2 / 3 - distance**2 + distance**3 / 2
    far = np.clip(2 - distance, 0, None) ** 3 / 6
    matrix: Array = np.where(distance < 1, near, far).astype(np.float32)
    return matrix


_FINE: Final = spline(np.linspace(0, 1, DETAIL, dtype=np.float32), 72)


def cloud(rng: np.random.Generator) -> Array:
    """Return a smooth (DETAIL, DETAIL) random field of two scales and about unit variance."""
    coarse = rng.standard_normal((18, 18), dtype=np.float32).repeat(4, axis=0).repeat(4, axis=1)
    values = np.float32(0.55) * coarse + np.float32(1.1) * rng.standard_normal((72, 72), dtype=np.float32)
    result: Array = _FINE @ values @ _FINE.T
    return result
