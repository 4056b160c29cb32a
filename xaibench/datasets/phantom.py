"""`phantom`: chest radiographs drawn by a program, with exact lesion masks; the dataset that needs no data.

What it is: a test object. Each image is a pure function of (seed, index, size), has one of four findings (No Finding,
Cardiomegaly, Pneumothorax, Effusion), and the lesion's mask and box are known without a reader. Anatomy, exposure,
position, noise, side letters and wires vary in all findings alike, so that nothing but the lesion tells them apart;
lesion boxes are spread over the image like those of NIH's ChestX-ray8 (median areas 0.17, 0.036 and 0.056 of the
image for Cardiomegaly, Pneumothorax and Effusion; Wang et al., CVPR 2017). With the option ``shortcut`` a radiopaque
disc is planted that goes with one class, at a known place, to tell classifiers that cheat.

What it is not: a simulation of X-ray physics or of disease. A score on it says whether an explanation points at
what decided the image's class, not whether a method is fit for patients.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from xaibench.datasets._phantom.anatomy import Patient, lung_detail, make_patient
from xaibench.datasets._phantom.draw import View, attenuation, expose, make_view, pixel_grid
from xaibench.datasets._phantom.grid import Array
from xaibench.datasets._phantom.lesions import Lesion, effusion, pneumothorax, ratio_of_enlarged_heart
from xaibench.datasets.base import Split, Splits
from xaibench.errors import UsageError, did_you_mean
from xaibench.types import BoolArray, FloatArray, Frame, Region, Sample

VERSION: Final = "phantom-2"
"""Changes whenever a pixel, a mask or a split does."""
CLASSES: Final = ("No Finding", "Cardiomegaly", "Pneumothorax", "Effusion")
SIZES: Final = (32, 2048)

_PATIENT, _DETAIL, _VIEW, _LESION, _NOISE, _MARKER, _SPLIT = range(7)
_STRIDE: Final = 10_000_000
"""Images (and patients) of the splits are numbered from 0, 1 and 2 times this, so that none is in two."""
_MARKER_RADIUS: Final = 0.03


@dataclass(frozen=True, eq=False)
class PhantomImage:
    """One drawn radiograph.

    Attributes:
        image: (1, size, size) float32 in [0, 1], in steps of 1/255.
        mask: (size, size) bool, the lesion's exact mask, or None without a lesion.
        box: (4,) float64, ``x0, y0, x1, y1`` in pixels at pixel edges, or None without a lesion. It bounds the lesion
            itself, not its pixels: scaled to another size it is the same to within a pixel.
        marker: region of the planted disc, or None.
        lungs: (size, size) bool, the lung fields.
        meta: ``finding``, ``side`` (of the image: "left", "right", or None) and ``cardiothoracic_ratio``.
    """

    image: npt.NDArray[np.float32]
    mask: BoolArray | None
    box: FloatArray | None
    marker: Region | None
    lungs: BoolArray
    meta: Mapping[str, Any]

    @property
    def region(self) -> Region | None:
        """The lesion as a `Region`, or None."""
        return None if self.box is None else Region(self.box, Frame.square(self.image.shape[-1]), self.mask)


@dataclass(frozen=True, eq=False)
class _Scene:
    """An image before its pixels."""

    patient: Patient
    view: View
    lesion: Lesion | None
    x: Array
    y: Array
    region: Region | None


def _rng(seed: int, stream: int, *index: int) -> np.random.Generator:
    return np.random.default_rng([seed, stream, *index])


@lru_cache(maxsize=8)  # the images of a patient come one after the other and share it
def _detail(seed: int, patient: int, hila: float, root: float) -> Array:
    detail = lung_detail(_rng(seed, _DETAIL, patient), hila, root)
    detail.setflags(write=False)
    return detail


def _scene(seed: int, index: int, size: int, finding: str, patient: int) -> _Scene:
    draw = _rng(seed, _LESION, index)
    ratio = ratio_of_enlarged_heart(draw) if finding == "Cardiomegaly" else None
    body = make_patient(_rng(seed, _PATIENT, patient), ratio=ratio)
    view = make_view(_rng(seed, _VIEW, index))
    lesion = None
    if finding == "Cardiomegaly":
        lesion = Lesion(finding, 0, body.floor, body.floor)
    elif finding == "Pneumothorax":
        lesion = pneumothorax(draw, body)
    elif finding == "Effusion":
        lesion = effusion(draw, body)
    x, y = view.to_patient(*pixel_grid(size), body)
    region = None if lesion is None else _region(lesion, body, view, x, y)
    return _Scene(body, view, lesion, x, y, region)


def _region(lesion: Lesion, body: Patient, view: View, x: Array, y: Array) -> Region:
    size = x.shape[0]
    mask = lesion.inside(body, x, y)
    box = lesion.bounds(body, lambda u, v: view.to_image(u, v, body)).astype(np.float64) * size
    if not mask.any():  # thinner than the pixels are apart
        column, row = int((box[0] + box[2]) / 2), int((box[1] + box[3]) / 2)
        mask[min(row, size - 1), min(column, size - 1)] = True
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    centres = np.array([columns[0], rows[0], columns[-1], rows[-1]]) + 0.5
    # the outline is traced on a lattice, and pixels' centres may fall between its points
    box = np.concatenate([np.minimum(box[:2], centres[:2]), np.maximum(box[2:], centres[2:] + 1e-6)])
    return Region(np.clip(box, 0, size), Frame.square(size), mask)


def _place_marker(rng: np.random.Generator, region: Region | None) -> tuple[float, float, float]:
    """Return centre and radius of the disc in the unit square, away from the lesion's box and the borders."""
    spots = rng.uniform(0.09, 0.91, (48, 2))
    if region is None:
        return float(spots[0, 0]), float(spots[0, 1]), _MARKER_RADIUS
    box = region.boxes[0] / region.frame.width
    gap = np.maximum(np.maximum(box[:2] - spots, spots - box[2:]), 0)
    distance = np.hypot(gap[:, 0], gap[:, 1])
    clear = np.flatnonzero(distance > 2 * _MARKER_RADIUS)
    chosen = int(clear[0]) if len(clear) else int(distance.argmax())
    return float(spots[chosen, 0]), float(spots[chosen, 1]), _MARKER_RADIUS


def _marker_region(spot: tuple[float, float, float], size: int) -> Region:
    x, y = pixel_grid(size)
    mask = np.asarray(np.hypot(x - spot[0], y - spot[1]) < spot[2], dtype=np.bool_)
    box = np.array([spot[0] - spot[2], spot[1] - spot[2], spot[0] + spot[2], spot[1] + spot[2]]) * size
    return Region(box, Frame.square(size), mask)


def render(
    seed: int, index: int, size: int, *, finding: str, patient: int | None = None, marker: bool = False
) -> PhantomImage:
    """Draw one radiograph, a pure function of its arguments.

    The finding changes the lesion and nothing else: the same seed, index and patient with another finding give the same
    body, exposure and noise.

    Args:
        seed: 0 or larger; another seed is another world.
        index: 0 or larger; the image's number.
        size: side in pixels, 32 to 2048.
        finding: one of `CLASSES`.
        patient: whose anatomy; by default every index is a patient of its own.
        marker: plant the radiopaque disc, away from the lesion.

    Raises:
        UsageError: an unknown finding or a number out of range.

    >>> drawn = render(0, 7, 64, finding="Effusion")
    >>> drawn.image.shape, drawn.image.dtype.name, drawn.mask.shape, drawn.box.shape
    ((1, 64, 64), 'float32', (64, 64), (4,))
    >>> render(0, 7, 64, finding="No Finding").box is None
    True
    """
    if finding not in CLASSES:
        raise UsageError(f"phantom draws no finding {finding!r}. {did_you_mean(finding, CLASSES)}")
    _check_size("size", size)
    who = index if patient is None else patient
    for name, value in (("seed", seed), ("index", index), ("patient", who)):
        if value < 0:
            raise UsageError(f"phantom: {name} is {value}; give 0 or larger")
    scene = _scene(seed, index, size, finding, who)
    spot = _place_marker(_rng(seed, _MARKER, index), scene.region) if marker else None
    detail = _detail(seed, who, scene.patient.hila, scene.patient.root)
    total = attenuation(scene.patient, detail, scene.view, scene.lesion, scene.x, scene.y)
    film = expose(total, scene.view, *pixel_grid(size), _rng(seed, _NOISE, index, size), spot)
    film *= np.float32(255)
    np.rint(film, out=film)
    film /= np.float32(255)
    side = {-1: "left", 1: "right"}.get(0 if scene.lesion is None else scene.lesion.side)
    return PhantomImage(
        image=film[None],
        mask=None if scene.region is None else scene.region.mask,
        box=None if scene.region is None else scene.region.boxes[0],
        marker=None if spot is None else _marker_region(spot, size),
        lungs=scene.patient.lungs(scene.x, scene.y),
        meta={"finding": finding, "side": side, "cardiothoracic_ratio": scene.patient.cardiothoracic_ratio},
    )


@dataclass(frozen=True)
class Options:
    """The options of ``[dataset.options]``.

    Args:
        train, val, test: images in each split.
        seed: the world that is drawn.
        shortcut: None plants no marker; a number in [0, 1] is the correlation of marker and class.
        shortcut_class: the class that the marker goes with.
    """

    train: int = 1600
    val: int = 200
    test: int = 320
    seed: int = 0
    shortcut: float | None = None
    shortcut_class: str = "Pneumothorax"


def _options(given: Mapping[str, Any], classes: Sequence[str]) -> Options:
    known = [f.name for f in fields(Options)]
    for name in given:
        if name not in known:
            raise UsageError(f"phantom has no option {name!r}. {did_you_mean(name, known)}")
    options = Options(**given)
    limits = {"train": (1, _STRIDE), "val": (1, _STRIDE), "test": (1, _STRIDE), "seed": (0, 2**63 - 1)}
    for name, (low, high) in limits.items():
        value = getattr(options, name)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise UsageError(f"phantom option {name} = {value!r}: give a whole number from {low} to {high}")
    c = options.shortcut
    if c is not None:
        if isinstance(c, bool) or not isinstance(c, (int, float)) or not 0 <= c <= 1:
            raise UsageError(f"phantom option shortcut = {c!r}: give a correlation from 0 to 1, or leave it out")
        if options.shortcut_class not in classes:
            name = options.shortcut_class
            hint = did_you_mean(str(name), classes)
            raise UsageError(f"phantom option shortcut_class = {name!r} is not among the classes. {hint}")
        if len(classes) < 2:
            raise UsageError("phantom option shortcut: a correlation needs two classes or more")
    return options


def _check_size(name: str, size: int) -> None:
    if isinstance(size, bool) or not isinstance(size, (int, np.integer)) or not SIZES[0] <= size <= SIZES[1]:
        raise UsageError(f"phantom: {name} is {size!r}; give a whole number from {SIZES[0]} to {SIZES[1]}")


def marker_rates(correlation: float, share: float) -> tuple[float, float]:
    """Return P(marker | class) and P(marker | another class) with the given phi coefficient.

    With the marker as frequent as the class (share p), phi equals the difference of the two rates, so that
    P(marker | class) = p + c (1 - p) and P(marker | other) = p (1 - c).

    >>> marker_rates(1.0, 0.25), marker_rates(0.0, 0.25)
    ((1.0, 0.0), (0.25, 0.25))
    """
    return share + correlation * (1 - share), share * (1 - correlation)


class PhantomSplit(Split):
    """One split: labels, patients and markers are laid out at once, images are drawn when asked for, none is kept."""

    threads = 1

    def __init__(self, name: str, number: int, count: int, classes: tuple[str, ...], size: int, options: Options):
        self.classes = classes
        self.frame = Frame.square(size)
        self._options = options
        self._first = number * _STRIDE
        rng = _rng(options.seed, _SPLIT, number)
        # patients with one to three images each; the findings take turns through all of them
        self._patient = np.repeat(np.arange(count), rng.integers(1, 4, count))[:count]
        self._class = np.arange(count) % len(classes)
        self.labels = np.eye(len(classes), dtype=np.float32)[self._class]
        self._marker = self._plant(rng)
        stem = f"phantom-{options.seed}-{name}"
        self.ids = [f"{stem}-{i:05d}" for i in range(count)]
        self.patients = [f"{stem}-p{p:05d}" for p in self._patient]
        what = [VERSION, name, count, classes, size, options.seed, options.shortcut, options.shortcut_class]
        self.fingerprint = hashlib.sha256(json.dumps(what).encode()).hexdigest()

    def _plant(self, rng: np.random.Generator) -> BoolArray:
        planted = np.zeros(len(self._class), dtype=np.bool_)
        if self._options.shortcut is None:
            return planted
        target = self._class == self.classes.index(self._options.shortcut_class)
        # the share of the class in this split, so that small splits keep the correlation too
        rates = marker_rates(self._options.shortcut, float(target.mean()))
        for members, rate in ((target, rates[0]), (~target, rates[1])):
            where = rng.permutation(np.flatnonzero(members))
            planted[where[: round(rate * len(where))]] = True
        return planted

    def _arguments(self, index: int) -> tuple[int, int, str, int]:
        i = range(len(self.ids))[index]
        finding = self.classes[int(self._class[i])]
        return self._options.seed, self._first + i, finding, self._first + int(self._patient[i])

    def image_key(self, index: int) -> str:
        what = [VERSION, self.frame.width, *self._arguments(index), bool(self._marker[index])]
        return f"phantom {json.dumps(what)}"

    def __getitem__(self, index: int) -> Sample:
        i = range(len(self.ids))[index]
        seed, number, finding, patient = self._arguments(i)
        drawn = render(seed, number, self.frame.width, finding=finding, patient=patient, marker=bool(self._marker[i]))
        meta = {**drawn.meta, "lungs": drawn.lungs}
        if drawn.marker is not None:
            meta["marker"] = drawn.marker
        regions = {} if drawn.region is None else {int(self._class[i]): drawn.region}
        return Sample(self.ids[i], drawn.image, self.labels[i], self.patients[i], regions, meta)

    def regions(self, index: int, frame: Frame | Literal["input"] | None = "input") -> Mapping[int, Region]:
        """Return the lesion's region by class index, equal to that of ``self[index]``, without drawing the image."""
        seed, number, finding, patient = self._arguments(index)
        if finding == "No Finding":
            return {}
        region = _scene(seed, number, self.frame.width, finding, patient).region
        if region is None:
            return {}
        return {self.classes.index(finding): region.to(frame) if isinstance(frame, Frame) else region}


def phantom(
    *, classes: Sequence[str], input_size: int, data_root: Path | None = None, options: Mapping[str, Any] | None = None
) -> Splits:
    """Build the splits of the phantom; a `DatasetFactory`.

    Findings take turns, so that classes are balanced; a patient has one to three images, in one split only.

    Args:
        classes: any of `CLASSES`, in the order of the labels' columns.
        input_size: side of the images in pixels, 32 to 2048.
        data_root: not used; the phantom needs no data.
        options: see `Options`.

    Raises:
        UsageError: an unknown class or option, or a value out of range.

    >>> splits = phantom(classes=["No Finding", "Effusion"], input_size=64, options={"train": 8, "val": 2, "test": 4})
    >>> splits.test.ids[1], splits.test[1].labels.tolist(), sorted(splits.test.regions(1))
    ('phantom-0-test-00001', [0.0, 1.0], [1])
    """
    names = tuple(classes)
    for name in names:
        if name not in CLASSES:
            raise UsageError(f"phantom has no class {name!r}. {did_you_mean(str(name), CLASSES)}")
    if not names or len(set(names)) < len(names):
        raise UsageError(f"phantom: classes are {list(names)}; name each of one or more classes once")
    _check_size("input_size", input_size)
    chosen = _options(options or {}, names)
    counts = {"train": chosen.train, "val": chosen.val, "test": chosen.test}
    made = {
        split: PhantomSplit(split, number, count, names, int(input_size), chosen)
        for number, (split, count) in enumerate(counts.items())
    }
    notes = [f"{split}: {len(part)} drawn images of {len(set(part.patients))} patients" for split, part in made.items()]
    if chosen.shortcut is not None:
        notes.append(f"a marker goes with {chosen.shortcut_class}, correlation {chosen.shortcut:g}")
    return Splits(made["train"], made["val"], made["test"], tuple(notes))
