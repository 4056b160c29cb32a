"""Any of torchxrayvision's datasets, split by patient."""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
import torchxrayvision as library

from xaibench.plugin import (
    DataError,
    Frame,
    Region,
    Sample,
    Split,
    Splits,
    UsageError,
    did_you_mean,
    first_line,
    sha256_of,
)

NO_FINDING = "No Finding"
_OURS = {"dataset", "seed", "val", "test"}


class XRVSplit(Split):
    """Some images of a torchxrayvision dataset, stretched to squares; labels are its pathologies'."""

    threads = 1  # its datasets are not made for threads

    def __init__(
        self,
        source: Any,
        name: str,
        rows: Sequence[int],
        classes: Sequence[str],
        labels: Any,
        size: int,
        key: tuple[str, ...],
    ) -> None:
        self.source, self.rows, self.classes, self.frame = source, list(rows), tuple(classes), Frame.square(size)
        self.ids = [f"{name}-{row}" for row in self.rows]
        self.patients = [str(source.csv["patientid"].iloc[row]) for row in self.rows]
        self.labels = np.asarray(labels[self.rows], dtype=np.float32)
        self.content = hashlib.sha256(repr((key, size)).encode()).hexdigest()
        digest = hashlib.sha256(repr((self.content, name, self.rows, self.classes, self.patients)).encode())
        digest.update(self.labels.tobytes())
        self.fingerprint = digest.hexdigest()
        self._read = lru_cache(maxsize=16)(self._decode)

    def _decode(self, index: int) -> tuple[npt.NDArray[np.float32], Frame, Mapping[int, Region]]:
        try:
            found = self.source[self.rows[index]]
        except (OSError, ValueError, KeyError, SyntaxError) as error:
            raise DataError(f"image {self.ids[index]} can't be read: {first_line(error)}") from error
        image = torch.as_tensor(np.asarray(found["img"], dtype=np.float32))[:1]  # [-1024, 1024]
        height, width = image.shape[-2:]
        size = (self.frame.height, self.frame.width)
        if (height, width) != size:
            image = F.interpolate(image[None], size=size, mode="bilinear", antialias=True)[0]
        regions: dict[int, Region] = {}
        for pathology, mask in found.get("pathology_masks", {}).items():
            target = self._target(int(pathology))
            mask = np.asarray(mask)[-1] > 0
            if target is None or not mask.any() or not self.labels[index, target]:
                continue
            y, x = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            box = np.array([[x[0], y[0], x[-1] + 1, y[-1] + 1]], dtype=float)
            regions[target] = Region(box, Frame(height, width), mask)
        return ((image + 1024) / 2048).clamp(0, 1).numpy(), Frame(height, width), regions

    def _target(self, pathology: int) -> int | None:
        name = self.source.pathologies[pathology]
        return self.classes.index(name) if name in self.classes else None

    def __getitem__(self, index: int) -> Sample:
        image = self._read(index)[0]
        return Sample(self.ids[index], image, self.labels[index], self.patients[index], self.regions(index))

    def regions(self, index: int, frame: Frame | Literal["input"] | None = "input") -> Mapping[int, Region]:
        _, own, regions = self._read(index)
        wanted = self.frame if frame == "input" else frame or own
        return {target: region.to(wanted) for target, region in regions.items()}

    def own_frame(self, index: int) -> Frame:
        return self._read(index)[1]

    def image_key(self, index: int) -> str:
        return f"{self.content} {self.ids[index].rpartition('-')[2]}"


def xrv_names() -> list[str]:
    """Return the datasets that torchxrayvision has."""
    return sorted(name for name in vars(library.datasets) if name.endswith("_Dataset"))


def xrv_dataset(name: str, data_root: Path, arguments: Mapping[str, Any]) -> Any:
    """Make torchxrayvision's dataset, with masks where it has them."""
    made = getattr(library.datasets, name)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            try:
                return made(imgpath=str(data_root), pathology_masks=True, **arguments)
            except TypeError:  # it has no masks, or not that argument: then the next line says so
                return made(imgpath=str(data_root), **arguments)
    except TypeError as error:
        raise UsageError(f"xrv: {name} does not take these options: {first_line(error)}") from error
    except Exception as error:  # its own are bare Exceptions
        raise DataError(f"xrv: {name} can't be read from {data_root}: {first_line(error)}") from error


def xrv_splits(
    *, classes: Sequence[str], input_size: int, data_root: Path | None, options: Mapping[str, Any], task: str
) -> Splits:
    """Build the splits; see `xrv`."""
    name = options.get("dataset")
    if name not in xrv_names():
        what = "needs the option dataset" if name is None else f"has no dataset {name!r}"
        raise UsageError(f"xrv {what}. {did_you_mean(str(name), xrv_names())}")
    if data_root is None:
        raise DataError(f"xrv: {name} needs the folder of its images: give --data-root DIR")
    source = xrv_dataset(str(name), data_root, {k: v for k, v in options.items() if k not in _OURS})
    known = list(source.pathologies)
    if missing := [c for c in classes if c != NO_FINDING and c not in known]:
        raise UsageError(f"xrv: {name} has no class {missing[0]!r}. {did_you_mean(missing[0], [NO_FINDING, *known])}")
    every = np.asarray(source.labels, dtype=np.float32)
    none = np.where(np.isnan(every).any(1), np.nan, (every == 0).all(1).astype(np.float32))
    labels = np.stack([none if c == NO_FINDING else every[:, known.index(c)] for c in classes], axis=1)
    unknown = np.isnan(labels).any(1)
    several = ~unknown & (labels.sum(1) > 1) & (task == "multiclass")
    neither = ~unknown & (labels.sum(1) < 1) & (task == "multiclass")
    usable = np.flatnonzero(~(unknown | several | neither))
    left_out = {
        "with a class marked unknown": int(unknown.sum()),
        "of several classes, where the task is multiclass": int(several.sum()),
        "of none of the classes, where the task is multiclass": int(neither.sum()),
    }
    shares = {part: float(options.get(part, default)) for part, default in (("val", 0.1), ("test", 0.2))}
    if min(shares.values()) < 0 or sum(shares.values()) >= 1:
        raise UsageError(f"xrv: val = {shares['val']} and test = {shares['test']} are shares whose sum is below 1")
    seed = int(options.get("seed", 0))
    rows: dict[str, list[int]] = {"train": [], "val": [], "test": []}
    for row in usable.tolist():
        draw = hashlib.sha256(f"{seed} {source.csv['patientid'].iloc[row]}".encode()).digest()
        place = int.from_bytes(draw[:8], "big") / 2**64
        part = "test" if place < shares["test"] else "val" if place < sum(shares.values()) else "train"
        rows[part].append(row)
    files = sorted(path for path in data_root.rglob("*") if path.is_file())
    said = [str(name), library.__version__, *(f"{k}={v}" for k, v in sorted(options.items()))]
    key = (*said, *(path.relative_to(data_root).as_posix() for path in files), *sha256_of(files, data_root))
    made = {part: XRVSplit(source, part, found, classes, labels, input_size, key) for part, found in rows.items()}
    notes = [f"{name}: " + ", ".join(f"{len(split)} {part}" for part, split in made.items()) + " images, by patient"]
    left_out = {reason: number for reason, number in left_out.items() if number}
    notes += [f"{number} images left out: {reason}" for reason, number in left_out.items()]
    return Splits(made["train"], made["val"], made["test"], notes, left_out)


def xrv(
    *,
    classes: Sequence[str],
    input_size: int,
    data_root: Path | None,
    options: Mapping[str, Any],
    task: str = "multilabel",
) -> Splits:
    """Any dataset of torchxrayvision, split by patient.

    Args:
        classes: its pathologies, and "No Finding" for images with none.
        input_size: side of the images in pixels; they are stretched to squares.
        data_root: folder of the images (imgpath).
        options: ``dataset`` ("NIH_Dataset", ...); ``val``, ``test`` (shares of the patients) and ``seed``; all others
            go to torchxrayvision (csvpath, views, ...).
        task: with "multiclass", images of none or several of the classes are left out.

    Raises:
        UsageError: an unknown dataset, class or option.
        DataError: files are missing.
    """
    return xrv_splits(classes=classes, input_size=input_size, data_root=data_root, options=options, task=task)
