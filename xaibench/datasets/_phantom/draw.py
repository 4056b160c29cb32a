"""From a patient, a lesion and an exposure to pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from xaibench.datasets._phantom.anatomy import Patient
from xaibench.datasets._phantom.grid import DETAIL, XS, YS, Array, Index, ramp, sample, spline, stamp, table_index
from xaibench.datasets._phantom.lesions import Lesion

GLYPHS = {
    "L": ("10000", "10000", "10000", "10000", "10000", "10000", "11111"),
    "R": ("11110", "10001", "10001", "11110", "10100", "10010", "10001"),
}


@dataclass(frozen=True, eq=False)
class View:
    """One exposure: where the patient stands and how the film looks. Holds nothing that a finding changes."""

    angle: float
    scale: float
    shift: tuple[float, float]
    gain: float
    offset: float
    gamma: float
    noise: float
    veil: Array
    borders: tuple[float, float, float, float]
    letter: tuple[str, float, float, float, float] | None
    wires: Array | None

    def to_patient(self, x: Array, y: Array, patient: Patient) -> tuple[Array, Array]:
        """Map image coordinates (unit square) to patient coordinates with a straight midline."""
        c, s = np.float32(np.cos(self.angle) / self.scale), np.float32(np.sin(self.angle) / self.scale)
        u, v = x - np.float32(0.5 + self.shift[0]), y - np.float32(0.5 + self.shift[1])
        px, py = c * u + s * v, c * v - s * u + np.float32(0.5)
        px -= patient.sway.take(table_index(py, float(YS[0])))
        return px, py

    def to_image(self, x: Array, y: Array, patient: Patient) -> tuple[Array, Array]:
        """Undo `to_patient`."""
        c, s = np.float32(np.cos(self.angle) * self.scale), np.float32(np.sin(self.angle) * self.scale)
        u, v = x + patient.sway.take(table_index(y, float(YS[0]))), y - np.float32(0.5)
        return (
            c * u - s * v + np.float32(0.5 + self.shift[0]),
            c * v + s * u + np.float32(0.5 + self.shift[1]),
        )


def make_view(rng: np.random.Generator) -> View:
    """Draw an exposure: position, tone, noise, collimation, side letter and, in some, wires with electrodes."""
    angle, scale = np.deg2rad(rng.normal(0, 1.8)), rng.uniform(0.86, 1.04)
    shift = (float(rng.uniform(-0.055, 0.055)), float(rng.uniform(-0.045, 0.055)))
    gain, offset = rng.uniform(0.78, 1.12), rng.normal(0, 0.035)
    gamma, noise = np.exp(rng.normal(0, 0.16)), rng.uniform(0.006, 0.018)
    veil = rng.standard_normal((8, 8), dtype=np.float32)
    borders = np.where(rng.random(4) < 0.3, rng.uniform(0.008, 0.035, 4) * (1.0, 0.6, 1.0, 1.0), -1.0)
    letter = None
    if rng.random() < 0.7:
        name = "L" if rng.random() < 0.7 else "R"
        x = rng.uniform(0.86, 0.94) if name == "L" else rng.uniform(0.06, 0.14)
        letter = (name, x, rng.uniform(0.05, 0.3), rng.uniform(0.028, 0.045), rng.normal(0, 0.15))
    wires = None
    if rng.random() < 0.25:
        count = int(rng.integers(1, 4))
        t = np.linspace(0, 1, 240)
        rows = []
        for _ in range(count):
            a, b, c = rng.uniform((-0.32, 0.15), (0.32, 0.6)), rng.uniform(-0.3, 1.1, 2), rng.uniform(-0.5, 0.5, 1)
            end = np.array([c[0], 1.05])
            curve = np.outer((1 - t) ** 2, a) + np.outer(2 * t * (1 - t), b * [1, 1]) + np.outer(t**2, end)
            step = np.hypot(*np.gradient(curve, axis=0).T) * DETAIL
            rows.append((curve, np.full(240, 0.6), step * 0.75))
            rows.append((np.repeat(a[None], 1, axis=0), np.array([1.9]), np.array([4.8 * 1.6])))
        points = np.concatenate([r[0] for r in rows]).astype(np.float32)
        wires = stamp(
            points[:, 0],
            points[:, 1],
            np.concatenate([r[1] for r in rows]).astype(np.float32),
            np.concatenate([r[2] for r in rows]).astype(np.float32),
            1.0,
            7,
        )
        wires = np.minimum(wires, np.float32(1.2))
    return View(
        angle=float(angle),
        scale=float(scale),
        shift=shift,
        gain=float(gain),
        offset=float(offset),
        gamma=float(gamma),
        noise=float(noise),
        veil=veil,
        borders=(float(borders[0]), float(borders[1]), float(borders[2]), float(borders[3])),
        letter=letter,
        wires=wires,
    )


def pixel_grid(size: int) -> tuple[Array, Array]:
    """Return x as (1, size) and y as (size, 1): the pixels' centres in the unit square."""
    centre = (np.arange(size, dtype=np.float32) + np.float32(0.5)) / np.float32(size)
    return centre[None, :], centre[:, None]


def attenuation(patient: Patient, detail: Array, view: View, lesion: Lesion | None, x: Array, y: Array) -> Array:
    """Return how much of the beam the patient stops at patient coordinates, about 0 (air) to 1 (spine).

    Args:
        patient: the anatomy.
        detail: the patient's `anatomy.lung_detail`.
        view: gives the wires.
        lesion: None for a normal image.
        x, y: (size, size) patient coordinates, midline straight.
    """
    distance = np.abs(x)
    right = x > 0
    row, column = table_index(y, float(YS[0])), table_index(x, float(XS[0]))
    sided: Index = row + np.int32(len(YS)) * right
    wall, border = patient.lateral.ravel().take(sided), patient.medial.ravel().take(sided)
    floor = patient.floor.take(column)

    to_wall, to_floor = wall - distance, floor - y
    cavity = ramp(to_wall, 0.011)
    lung = cavity * ramp(distance - border, 0.010)
    above = ramp(to_floor, 0.010)
    lung *= above
    depth = np.clip(to_wall * np.float32(1 / 0.09), 0, 1)
    air = lung * (np.float32(0.46) + np.float32(0.14) * depth)

    body = ramp(y - patient.shoulder.take(column), 0.03)
    torso = patient.torso.take(row) - distance
    trunk = body * ramp(torso, 0.014)
    if patient.arms:
        arm = -torso - np.float32(patient.arms)
        trunk = np.maximum(trunk, body * ramp(arm, 0.014) * np.clip(np.float32(0.55) + arm * 3, 0, 0.8))
    thick = np.clip(torso * np.float32(5), 0, 1)
    total = trunk * (np.float32(0.36) + np.float32(0.16) * thick)
    # the mediastinum goes on into the neck, the abdomen to the flanks: neither ends with the chest's wall
    core = np.clip(np.float32(1.12) - distance * np.float32(1.5), 0, 1) * cavity
    throat = np.clip(np.float32(0.95) - distance * np.float32(7), 0, 0.75) * np.clip(np.float32(1.6) - y * 2, 0, 1)
    belly = ramp(y - np.float32(patient.base - 0.03), 0.1) * np.clip(
        np.float32(1.15) - distance * np.float32(1.2), 0, 1
    )
    total += np.float32(0.36) * trunk * np.maximum(core, np.maximum(throat, belly)) + np.float32(0.04)
    total += np.float32(0.07) * (cavity - above * cavity)

    # bones
    space, first, bow, slant, mix = patient.ribs
    table = patient.rib_table
    posterior = (y - np.float32(first) - np.float32(bow) * (distance - np.float32(0.12)) ** 2) / np.float32(space)
    place = np.clip(posterior * np.float32(128), 0, len(table) - 1).astype(np.int32)
    chest = ramp(to_wall + np.float32(0.012), 0.012)
    chest *= ramp(np.float32(patient.base + 0.05) - y, 0.06) * ramp(distance - np.float32(0.03), 0.02)
    chest *= np.float32(0.45) + np.float32(0.55) * lung
    bones = np.float32(0.10) * chest * table.take(place)
    front = wall - distance
    anterior = (y - np.float32(first + 0.05 + 0.04 * mix) - np.float32(slant) * front) / np.float32(space * 1.12)
    place = np.clip(anterior * np.float32(128), 0, len(table) - 1).astype(np.int32)
    chest *= np.clip((distance - np.float32(0.13)) * np.float32(7), 0, 1)
    bones += np.float32(0.055) * chest * table.take(place)

    collar_y, collar_slope, collar_w = patient.clavicles
    along = distance - np.float32(0.04)
    bent = y - np.float32(collar_y + 0.05) + np.float32(collar_slope) * along + np.float32(0.012) * np.sin(along * 17)
    collar = (
        ramp(np.float32(collar_w) - np.abs(bent), 0.008)
        * ramp(along, 0.015)
        * ramp(np.float32(0.37) - distance, 0.06)
        * trunk
    )
    total += np.float32(0.10) * collar * (np.float32(0.7) + np.float32(0.3) * np.clip(along * 4, 0, 1))

    # shoulder: the humerus' head and shaft
    shaft = np.float32(0.055) - np.abs(distance - np.float32(0.445) - np.clip(y - collar_y, -0.03, 1) * np.float32(0.2))
    total += np.float32(0.07) * ramp(shaft, 0.04) * ramp(y - np.float32(collar_y - 0.06), 0.05) * trunk

    spine_w, spine_step, spine_h = patient.spine
    bone = np.clip(1 - (x / np.float32(spine_w * 1.5)) ** 2, 0, 1)
    discs = np.float32(1) + np.float32(0.16) * np.sin(y * np.float32(2 * np.pi / spine_step))
    total += np.float32(spine_h) * bone * discs * trunk
    windpipe = np.clip(1 - (x / np.float32(0.02)) ** 2, 0, 1) * ramp(np.float32(0.36) - y, 0.08)
    total -= np.float32(0.13) * windpipe * trunk

    breast_x, breast_y, breast_r, breast_d = patient.breasts
    if breast_d:
        bulge = 1 - ((distance - np.float32(breast_x)) ** 2 + ((y - np.float32(breast_y)) * 1.15) ** 2) / breast_r**2
        total += (
            np.float32(breast_d) * np.sqrt(np.clip(bulge, 0, 1)) * np.where(y > breast_y, 1, 0.55).astype(np.float32)
        )
    bx, by, bw, bh = patient.bubble
    if by < 2:
        gas = 1 - ((x - np.float32(bx)) / bw) ** 2 - ((y - np.float32(by)) / bh) ** 2
        total -= np.float32(0.2) * np.clip(gas * 2, 0, 1)

    # lungs: vessels and texture belong to the aerated lung only
    marks = sample(detail, x, y)
    haze = np.exp(((x / 0.15) ** 2 + ((y - np.float32(patient.hila)) / 0.15) ** 2) * np.float32(-1))
    marks += np.float32(0.09) * haze
    if lesion is not None and lesion.finding == "Pneumothorax":
        beyond = distance - lesion.edge.take(row)
        mine = right if lesion.side > 0 else ~right
        free = ramp(beyond, 0.006) * mine
        marks *= 1 - free
        air += np.float32(0.15) * free * lung
        line = np.clip(1 - np.abs(beyond + np.float32(0.003)) * np.float32(1 / 0.007), 0, 1) * mine
        # the line ends where the lung touches the wall again
        line *= ramp(to_wall - np.float32(0.012), 0.012)
        air -= np.float32(0.2) * line * lung
    air -= marks * lung
    if lesion is not None and lesion.finding == "Effusion":
        under = y - lesion.edge.take(column)
        mine = right if lesion.side > 0 else ~right
        fluid = ramp(under - np.float32(0.004), 0.018) * mine
        fluid *= np.clip(np.float32(0.62) + under * np.float32(3.2), 0, np.float32(0.97))
        air *= 1 - fluid
        bones *= 1 - np.float32(0.6) * fluid
    total += bones
    total -= air
    if view.wires is not None:
        total += np.float32(0.3) * sample(view.wires, x, y)
    return np.asarray(total, dtype=np.float32)


def _letter(image: Array, letter: tuple[str, float, float, float, float]) -> None:
    name, cx, cy, height, turn = letter
    size = image.shape[0]
    bits = np.array([[c == "1" for c in line] for line in GLYPHS[name]])
    x0, x1 = (int(np.clip((cx + d * height) * size, 0, size)) for d in (-1, 1))
    y0, y1 = (int(np.clip((cy + d * height) * size, 0, size)) for d in (-1, 1))
    if x1 <= x0 or y1 <= y0:
        return
    # 3 x 3 points to a pixel: a letter has strokes thinner than a pixel at small sizes
    fine = (np.arange(3, dtype=np.float32) + 0.5) / 3
    x = ((np.arange(x0, x1)[:, None] + fine).ravel() / size - cx)[None, :]
    y = ((np.arange(y0, y1)[:, None] + fine).ravel() / size - cy)[:, None]
    c, s = np.cos(turn), np.sin(turn)
    u, v = c * x + s * y, c * y - s * x
    column, row = np.floor((u / height + 0.36) / 0.72 * 5).astype(int), np.floor((v / height + 0.5) * 7).astype(int)
    ok = (column >= 0) & (column < 5) & (row >= 0) & (row < 7)
    ink = np.where(ok, bits[np.clip(row, 0, 6), np.clip(column, 0, 4)], False).astype(np.float32)
    ink = ink.reshape(y1 - y0, 3, x1 - x0, 3).mean(axis=(1, 3))
    part = image[y0:y1, x0:x1]
    part += (np.float32(0.95) - part) * ink * np.float32(0.9)


def expose(
    total: Array,
    view: View,
    x: Array,
    y: Array,
    rng: np.random.Generator,
    token: tuple[float, float, float] | None = None,
) -> Array:
    """Return the film, float32 in [0, 1], from the attenuation: tone, veil, letter, noise, collimation.

    Args:
        total: (size, size) attenuation.
        view: the exposure.
        x, y: the pixels' centres, as from `pixel_grid`.
        rng: draws the noise.
        token: centre x, y and radius of a radiopaque disc, in image coordinates.
    """
    size = total.shape[0]
    veil = np.asarray(spline(y.ravel(), 8) @ view.veil @ spline(x.ravel(), 8).T, dtype=np.float32)
    total = total.copy()
    total += np.float32(0.022) * veil
    total -= np.float32(0.55)
    total *= np.float32(view.gain * 0.92)
    total += np.float32(0.55 + view.offset)
    np.clip(total, np.float32(0.012), np.float32(1.25), out=total)
    np.power(total, np.float32(0.95 * view.gamma), out=total)
    # film's toe (the power) and shoulder
    bend = np.sqrt(np.sqrt(np.float32(1) + np.square(np.square(total))))
    image: Array = np.divide(total, bend, out=bend)
    if view.letter is not None:
        _letter(image, view.letter)
    if token is not None:
        away = np.hypot(x - np.float32(token[0]), y - np.float32(token[1])) * np.float32(1 / token[2])
        groove = ramp(np.float32(0.16) - np.abs(away - np.float32(0.55)), 0.12)
        disc = ramp(1 - away, float(1 / (token[2] * size)))
        image += disc * (np.float32(1.0) - np.float32(0.35) * groove - image)
    noise = rng.standard_normal((size, size), dtype=np.float32)
    noise *= np.float32(view.noise * min(size / 128, 2.0) ** 0.5)
    image += noise * (np.float32(0.6) + np.float32(0.6) * image)
    left, top, rightmost, bottom = view.borders
    if left > 0:
        image *= ramp(x - left, 0.006)
    if rightmost > 0:
        image *= ramp(1 - rightmost - x, 0.006)
    if top > 0:
        image *= ramp(y - top, 0.006)
    if bottom > 0:
        image *= ramp(1 - bottom - y, 0.006)
    return np.clip(image, 0, 1, out=image)
