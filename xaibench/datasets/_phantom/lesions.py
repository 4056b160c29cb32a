"""The lesions: where they are in a patient, drawn with the size of NIH's boxes and on either side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from xaibench.datasets._phantom.anatomy import Patient
from xaibench.datasets._phantom.grid import XS, YS, Array, smoothstep, table_index

THINNEST = 0.012
"""Where a pneumothorax or an effusion is thinner than this, nobody would draw it: not part of the mask."""


@dataclass(frozen=True, eq=False)
class Lesion:
    """One lesion on one side.

    Attributes:
        finding: the class.
        side: -1 for the left of the image, 1 for the right, 0 for both (the heart).
        edge: (TABLE,) the pleural line's distance from the midline over y, or the fluid's surface over x.
        inner: (TABLE,) over y, for a pneumothorax: where its mask begins, beyond the wall in rows without one.
    """

    finding: str
    side: int
    edge: Array
    inner: Array

    def inside(self, patient: Patient, x: Array, y: Array) -> npt.NDArray[np.bool_]:
        """Return which points (patient coordinates, midline straight) belong to the lesion."""
        row = table_index(y, float(YS[0]))
        distance = np.abs(x)
        side = (x > 0).astype(np.int32)
        if self.finding == "Cardiomegaly":
            return np.asarray((distance < patient.silhouette[side, row]), dtype=np.bool_)
        here = (side == (self.side + 1) // 2) & (distance < patient.lateral[side, row])
        if self.finding == "Pneumothorax":
            return np.asarray(here & (distance > self.inner[row]), dtype=np.bool_)
        column = table_index(x, float(XS[0]))
        floor, surface = patient.floor[column], self.edge[column]
        deep = (y > surface) & (y < floor) & (floor - surface > THINNEST)
        return np.asarray(here & deep & (distance > patient.medial[side, row]), dtype=np.bool_)

    def bounds(self, patient: Patient, place: Callable[[Array, Array], tuple[Array, Array]]) -> Array:
        """Return the box ``x0, y0, x1, y1`` of the lesion after `place` maps patient to image coordinates."""
        rows = patient.silhouette.max(axis=0) > 0
        if self.finding == "Cardiomegaly":
            x0, x1 = -patient.heart.left, patient.heart.right
            y0, y1 = float(YS[rows][0]), float(YS[rows][-1])
        else:
            x0, x1 = sorted((0.03 * self.side, self.side * float(patient.lateral.max())))
            y0, y1 = patient.top, patient.base
        x = np.linspace(x0, x1, 100, dtype=np.float32)
        y = np.linspace(y0, y1, 100, dtype=np.float32)
        grid_x, grid_y = (a.ravel() for a in np.meshgrid(x, y))
        inside = self.inside(patient, grid_x, grid_y)
        u, v = place(grid_x[inside], grid_y[inside])
        half_x, half_y = (x[1] - x[0]) / 2, (y[1] - y[0]) / 2
        return np.array([u.min() - half_x, v.min() - half_y, u.max() + half_x, v.max() + half_y], dtype=np.float32)


def ratio_of_enlarged_heart(rng: np.random.Generator) -> float:
    """Return a cardiothoracic ratio between 0.55 and 0.70."""
    return float(np.clip(rng.normal(0.615, 0.035), 0.55, 0.70))


def _solve(target: float, areas: Array, scales: Array) -> float:
    return float(np.interp(target, np.maximum.accumulate(areas), scales))


def pneumothorax(rng: np.random.Generator, patient: Patient) -> Lesion:
    """Draw air between wall and lung: a cap around the apex or a crescent along the wall."""
    side = 1 if rng.random() < 0.5 else -1
    target = float(np.clip(np.exp(rng.normal(np.log(0.037), 0.85)), 0.010, 0.17))
    wall, medial = patient.lateral[(side + 1) // 2], patient.medial[(side + 1) // 2]
    u = (YS - patient.top) / (patient.base - patient.top)
    apical = rng.random() < 0.5
    reach, lift, gap = rng.uniform(0.3, 0.75), rng.uniform(0.06, 0.13), rng.uniform(0.015, 0.06)
    center, length, depth = rng.uniform(0.3, 0.8), rng.uniform(0.22, 0.5), rng.uniform(0.07, 0.13)
    allowed = (patient.top < YS) & (min(patient.dome) + 0.01 > YS)
    stump = (medial + 0.045) * smoothstep((u - 0.12) / 0.2)

    def lines(scales: Array) -> Array:
        s = scales[:, None]
        if apical:
            fade = 1 - smoothstep(u / np.minimum(reach * s**0.6, 1.15))
            moved = np.interp(YS - lift * s * fade, YS, wall).astype(np.float32)
            line = moved - gap * s * fade
        else:
            bell = np.clip(1 - ((u - center) / (length * s**0.6)) ** 2, 0, 1)
            line = wall - depth * s * bell
        clamped: Array = np.maximum(line, stump).astype(np.float32)
        return clamped

    def mask_from(line: Array) -> tuple[Array, npt.NDArray[np.bool_]]:
        inner = np.maximum(line, medial)
        return inner, allowed & (wall - inner > THINNEST)

    scales = np.geomspace(0.2, 4.0, 22).astype(np.float32)
    inner, active = mask_from(lines(scales))
    left = np.where(active, inner, 9.0).min(axis=1)
    right = np.where(active, wall, 0.0).max(axis=1)
    upper, lower = np.where(active, YS, 9.0).min(axis=1), np.where(active, YS, -9.0).max(axis=1)
    areas = np.clip(right - left, 0, None) * np.clip(lower - upper, 0, None)
    line = lines(np.array([_solve(target, areas, scales)], dtype=np.float32))[0]
    inner, active = mask_from(line)
    return Lesion("Pneumothorax", side, line, np.where(active, inner, np.float32(9)))


def effusion(rng: np.random.Generator, patient: Patient) -> Lesion:
    """Draw fluid that fills the costophrenic angle and rises along the wall."""
    side = 1 if rng.random() < 0.5 else -1
    target = float(np.clip(np.exp(rng.normal(np.log(0.052), 0.88)), 0.010, 0.19))
    which = (side + 1) // 2
    wall, medial = patient.lateral[which], patient.medial[which]
    widest = float(wall.max())
    distance = XS * side
    t = np.clip((distance - 0.1) / (widest - 0.1), 0, 1)
    power, lift, slack = rng.uniform(1.8, 4.0), rng.uniform(0.05, 0.13), rng.uniform(0.0, 0.03)
    # a deeper pool also climbs further
    levels = np.linspace(patient.base + 0.05, patient.top + 0.22, 40).astype(np.float32)

    def surface(level: Array) -> Array:
        rise = lift + 0.35 * np.clip(patient.base - level, 0, 0.35)
        shape = t[None, :] ** power
        curve = level[:, None] - rise[:, None] * shape - slack * (1 - t[None, :]) ** 3
        bent: Array = curve.astype(np.float32)
        return bent

    def shore(surfaces: Array) -> Array:
        """Return how far from the midline the dome still stands out of the fluid, 0 where it is covered."""
        bare = (patient.floor[None, :] - surfaces <= THINNEST) & (distance < widest - 0.01)
        result: Array = np.where(bare, distance, 0.0).max(axis=1).astype(np.float32)
        return result

    surfaces = surface(levels)
    lung = distance < widest
    # the wall slants: a column holds fluid only where the wall's row is above the surface
    begin = np.interp(np.clip(distance, 0, widest * 0.999), wall, YS)
    upper = np.maximum(surfaces, begin[None, :])
    active = lung & (patient.floor[None, :] - upper > THINNEST)
    active &= distance > np.maximum(np.interp(surfaces, YS, medial), shore(surfaces)[:, None])
    x0 = np.where(active, distance, 9.0).min(axis=1)
    y0 = np.where(active, upper, 9.0).min(axis=1)
    y1 = np.where(active, patient.floor[None, :], -9.0).max(axis=1)
    areas = np.clip(widest - x0, 0, None) * np.clip(y1 - y0, 0, None)
    level = _solve(target, areas, levels)
    edges = surface(np.array([level], dtype=np.float32))
    # one pool: what would stand medial of the dome's crest is left out
    edge = np.where(distance < shore(edges)[0], np.float32(9), edges[0])
    return Lesion("Effusion", side, edge, edge)
