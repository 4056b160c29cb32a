"""A patient: the curves that bound body, lungs, heart and diaphragm, and what lies along them.

Coordinates are the patient's: x to the right of the image (the patient's left) from the midline, y down, unit: the
side of the image. Curves over y are tables over `grid.YS` with a row for each side of the image (0: left, 1: right)
and hold distances from the midline; curves over x are tables over `grid.XS`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from xaibench.datasets._phantom.grid import DETAIL, XS, YS, Array, cloud, smoothstep, stamp, table_index


@dataclass(frozen=True, eq=False)
class Heart:
    """The silhouette: half widths of its left and right (image) border, and the rows where it begins and ends."""

    left: float
    right: float
    top: float
    bottom: float

    def borders(self) -> Array:
        """Return the (2, TABLE) distances of both borders from the midline, 0 outside the heart's rows."""
        v = (YS - self.top) / (self.bottom - self.top)
        inside = (v >= 0) & (v <= 1)
        shapes = []
        for peak, start, reach in ((0.6, 0.25, 0.46), (0.72, 0.12, 0.31)):
            rise = start + (1 - start) * np.sin(np.pi / 2 * np.clip(v / peak, 0, 1))
            fall = np.sqrt(np.clip(1 - (np.clip(v - peak, 0, None) / reach) ** 2, 0, 1))
            shapes.append(np.where(inside, np.where(v < peak, rise, fall), 0))
        return np.stack([self.left * shapes[0], self.right * shapes[1]]).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Patient:
    """What stays the same in all images of a patient (but for the heart, which a finding may enlarge)."""

    top: float
    base: float
    dome: tuple[float, float]
    heart: Heart
    cardiothoracic_ratio: float
    lateral: Array
    """(2, TABLE) over y: inner wall of the chest."""
    medial: Array
    """(2, TABLE) over y: border of mediastinum and heart, whichever is wider."""
    silhouette: Array
    """(2, TABLE) over y: border of the heart alone, 0 outside its rows."""
    floor: Array
    """(TABLE,) over x: the diaphragm."""
    shoulder: Array
    """(TABLE,) over x: where the body begins."""
    torso: Array
    """(TABLE,) over y: half width of the body with what hangs from the shoulders."""
    sway: Array
    """(TABLE,) over y: sideways shift of the midline."""
    arms: float
    bubble: tuple[float, float, float, float]
    breasts: tuple[float, float, float, float]
    ribs: tuple[float, float, float, float, float]
    clavicles: tuple[float, float, float]
    rib_table: Array
    spine: tuple[float, float, float]
    hila: float
    root: float
    """Distance of the hila from the midline."""

    def half_width(self) -> float:
        """Return half the largest inner width of the chest."""
        return float(self.lateral.max(axis=1).mean())

    def lungs(self, x: Array, y: Array) -> npt.NDArray[np.bool_]:
        """Return which points lie in the lung fields: within the chest's wall, beside the heart, above the diaphragm.

        What fills the pleural space belongs to them: the field of a lung that has collapsed is as large as before.
        """
        row, side, distance = table_index(y, float(YS[0])), (x > 0).astype(np.int32), np.abs(x)
        beside = (distance > self.medial[side, row]) & (distance < self.lateral[side, row])
        return np.asarray(beside & (y < self.floor[table_index(x, float(XS[0]))]), dtype=np.bool_)


def _heart(rng: np.random.Generator, half: float, dome: float, ratio: float | None) -> tuple[Heart, float]:
    normal, share = rng.uniform(0.40, 0.49), rng.uniform(0.29, 0.38)
    height, sink = rng.uniform(0.315, 0.395), rng.uniform(0.006, 0.02)
    used = normal if ratio is None else ratio
    # a large heart also grows upwards, less than sideways
    tall = height * (used / 0.45) ** 0.4
    width = 2 * half * used
    bottom = dome + sink
    return Heart(width * share, width * (1 - share), bottom - tall, bottom), used


def _rib_table(rng: np.random.Generator) -> Array:
    """Return (12 * 128,) brightness over twelve rib spaces: a band with denser edges, uneven from rib to rib."""
    phase = np.arange(128) / 128 - 0.5
    rows = []
    for _ in range(12):
        width, at, height = rng.uniform(0.2, 0.27), rng.normal(0, 0.03), rng.uniform(0.75, 1.15)
        d = np.abs(phase - at) / width
        band = np.clip((1.12 - d) / 0.24, 0, 1)
        rows.append(height * band * (0.62 + 0.38 * np.clip(d, 0, 1) ** 3))
    return np.concatenate(rows).astype(np.float32)


def _branches(rng: np.random.Generator, side: int, hilum: tuple[float, float]) -> list[tuple[Array, ...]]:
    """Return the points (x, y, sigma, height) of one lung's vessels, in three generations."""
    n = 9
    angle = np.deg2rad(np.linspace(-78, 80, n) + rng.normal(0, 6, n))
    length = rng.uniform(0.2, 0.32, n) * (0.85 + 0.3 * np.abs(np.sin(angle)))
    x = np.full(n, hilum[0] * 1.0) + rng.normal(0, 0.006, n)
    y = np.full(n, hilum[1]) + 0.055 * np.sin(angle) + rng.normal(0, 0.006, n)
    width, height = np.full(n, 1.5), np.full(n, 0.95)
    found = []
    for children, points, taps in ((5, 42, 7), (3, 15, 5), (0, 8, 3)):
        bend = rng.normal(0, 0.5, len(x))
        t = np.linspace(0, 1, points)
        heading = angle[:, None] + bend[:, None] * t[None, :]
        dx, dy = np.cos(heading), np.sin(heading)
        px = x[:, None] + np.cumsum(dx, axis=1) * (length / points)[:, None]
        py = y[:, None] + np.cumsum(dy, axis=1) * (length / points)[:, None]
        sigma = np.maximum(width[:, None] * (1 - 0.68 * t[None, :]), 0.55)
        ridge = height[:, None] * (1 - 0.6 * t[None, :])
        step = np.broadcast_to((length / points * DETAIL)[:, None], px.shape)
        found.append((side * px, py, sigma, ridge * step, np.full(px.shape, taps)))
        if children:
            at = np.linspace(0.12, 0.9, children)[None, :] + rng.normal(0, 0.04, (len(x), children))
            k = np.clip(at * (points - 1), 0, points - 1).astype(int)
            row = np.arange(len(x))[:, None]
            turn = np.where((np.arange(children)[None, :] + row) % 2, 1.0, -1.0) * rng.uniform(0.4, 0.95, k.shape)
            angle = (heading[row, k] + turn).ravel()
            length = ((1 - 0.55 * t[k]) * 0.42 * length[:, None] * rng.uniform(0.7, 1.2, k.shape)).ravel()
            x, y = px[row, k].ravel(), py[row, k].ravel()
            width, height = (sigma[row, k] * 0.68).ravel(), (ridge[row, k] * 0.8).ravel()
    return [tuple(a.ravel().astype(np.float32) for a in level) for level in found]


def lung_detail(rng: np.random.Generator, hila: float, root: float) -> Array:
    """Draw what only aerated lung shows, vessels and texture, as (DETAIL, DETAIL) attenuation.

    Args:
        rng: the patient's own generator for this.
        hila, root: `Patient.hila` and `Patient.root`, where the vessels begin.
    """
    grid = np.zeros((DETAIL, DETAIL), dtype=np.float32)
    sides = [_branches(rng, side, (root, hila + (0.012 if side < 0 else -0.012))) for side in (-1, 1)]
    for left, right in zip(*sides, strict=True):
        x, y, sigma, height, taps = (np.concatenate(pair) for pair in zip(left, right, strict=True))
        grid += stamp(x, y, sigma, height, 1.0, int(taps[0]))
    np.minimum(grid, np.float32(1.3), out=grid)
    grid *= np.float32(0.145)
    grid += np.float32(0.014) * cloud(rng)
    return grid


def make_patient(rng: np.random.Generator, *, ratio: float | None = None) -> Patient:
    """Draw a patient.

    Args:
        rng: the patient's own generator; the same state gives the same patient.
        ratio: cardiothoracic ratio of an enlarged heart, None for the patient's own, 0.40 to 0.49.
    """
    half, top = rng.uniform(0.34, 0.405), rng.uniform(0.055, 0.115)
    base = rng.uniform(0.74, 0.885)
    roundness, waist = rng.uniform(2.3, 3.3), rng.uniform(0.46, 0.56)
    u = (YS - top) / (base - top)
    shape = np.clip(1 - np.clip(1 - u, 0, 1) ** roundness, 0, 1) ** waist
    sides = half * (1 + rng.uniform(-0.035, 0.035) * np.array([1.0, -1.0]))
    lateral = (sides[:, None] * shape[None, :]).astype(np.float32)

    low = base - rng.uniform(0.075, 0.135)
    dome = (low, low + rng.uniform(0.0, 0.035))
    flat = rng.uniform(0.13, 0.19)
    side = (XS > 0).astype(int)
    out = np.clip((np.abs(XS) - flat) / (sides[side] - flat), 0, 1.3)
    inner = np.clip((flat - np.abs(XS)) / flat, 0, 1)
    crest = np.where(side == 1, dome[1], dome[0])
    floor = crest + (base - crest) * out ** rng.uniform(1.9, 2.6) + 0.008 * inner**2

    heart, used = _heart(rng, float(sides.mean()), max(dome), ratio)
    width = rng.uniform(0.048, 0.068)
    arch_y, arch_w, arch = rng.uniform(0.29, 0.34), rng.uniform(0.035, 0.055), rng.uniform(0.01, 0.035)
    cava = rng.uniform(0.0, 0.012)
    apex = 0.05 * np.exp(-np.clip(YS - top, 0, None) / 0.04)
    central = np.stack(
        [
            width + apex + cava * smoothstep((YS - 0.2) / 0.1),
            width + apex + arch * np.exp(-(((YS - arch_y) / arch_w) ** 2)),
        ]
    ).astype(np.float32)
    silhouette = heart.borders()

    neck, slope, shoulder_y = rng.uniform(0.085, 0.12), rng.uniform(0.18, 0.4), rng.uniform(-0.08, 0.03)
    over = np.clip(np.abs(XS) - neck, 0, None)
    shoulder = shoulder_y - 0.12 * np.exp(-over / 0.03) + slope * over**1.5 - np.where(over > 0, 0.0, 1.0)
    wall, flare, reach = rng.uniform(0.04, 0.095), rng.uniform(0.05, 0.13), rng.uniform(0.25, 0.6)
    torso = half + wall + reach * np.exp(-np.clip(YS - 0.2, 0, None) / flare)
    sway = rng.normal(0, 0.006) * np.sin((YS - rng.uniform(0, 1)) * 4.0)
    arms = rng.uniform(0.03, 0.07) if rng.random() < 0.35 else 0.0
    bubble = (
        rng.uniform(0.1, 0.22),
        dome[1] + rng.uniform(0.05, 0.08),
        rng.uniform(0.03, 0.07),
        rng.uniform(0.015, 0.03),
    )
    if rng.random() < 0.45:
        bubble = (bubble[0], 3.0, bubble[2], bubble[3])
    breast = (rng.uniform(0.16, 0.22), base - rng.uniform(0.1, 0.2), rng.uniform(0.11, 0.17), rng.uniform(0.06, 0.14))
    if rng.random() < 0.55:
        breast = (breast[0], breast[1], breast[2], 0.0)
    ribs = (
        rng.uniform(0.078, 0.092),
        top + rng.uniform(-0.03, 0.01),
        rng.uniform(0.9, 1.5),
        rng.uniform(0.4, 0.75),
        rng.uniform(0.0, 1.0),
    )
    clavicles = (top + rng.uniform(0.06, 0.11), rng.uniform(0.2, 0.42), rng.uniform(0.011, 0.016))
    hila = rng.uniform(0.40, 0.45)
    spine = (rng.uniform(0.03, 0.04), rng.uniform(0.042, 0.055), rng.uniform(0.06, 0.16))
    rib_table = _rib_table(rng)
    return Patient(
        top=top,
        base=base,
        dome=dome,
        heart=heart,
        cardiothoracic_ratio=used,
        lateral=lateral,
        medial=np.maximum(central, silhouette),
        silhouette=silhouette,
        floor=floor.astype(np.float32),
        shoulder=shoulder.astype(np.float32),
        torso=torso.astype(np.float32),
        sway=sway.astype(np.float32),
        arms=arms,
        bubble=bubble,
        breasts=breast,
        ribs=ribs,
        clavicles=clavicles,
        rib_table=rib_table,
        spine=spine,
        hila=hila,
        root=width + rng.uniform(0.02, 0.035),
    )
