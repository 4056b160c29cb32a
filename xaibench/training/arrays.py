"""What training reads again every epoch, computed once: decoded images and a frozen body's features, on disk.

The arrays live in a folder named by everything that decides them. They are mapped, not loaded, so memory stays bounded;
each appears under its name only when it is whole, with its sha256 beside it, so an interrupted training finds it
unchanged or makes it anew.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from xaibench.classifiers.base import Classifier
from xaibench.datasets.base import Split
from xaibench.datasets.loader import batches
from xaibench.io.files import flush, write_atomically
from xaibench.training.views import vary

Advance = Callable[[int], None]


class Arrays:
    """Images, labels and (for a frozen body) features of a split.

    Attributes:
        images: (copies, N, C, H, W) uint8 where 8 bits hold them exactly, else float32 in [0, 1].
        features: (V, N, c, h, w) float32 by view, or by copy where none is mirrored; None for a body that trains.
        labels: (N, K) float32.
    """

    def __init__(
        self, images: npt.NDArray[Any], features: npt.NDArray[np.float32] | None, labels: npt.NDArray[np.float32]
    ) -> None:
        self.images, self.features, self.labels = images, features, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getstate__(self) -> dict[str, Any]:
        """Send another process the files' names, not gigabytes of their content."""
        return {
            name: Path(array.filename) if isinstance(array, np.memmap) and array.filename else array
            for name, array in vars(self).items()
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, np.load(value, mmap_mode="r") if isinstance(value, Path) else value)

    def batch(self, rows: Sequence[int], views: Sequence[int]) -> tuple[Tensor, Tensor | None, Tensor]:
        """Return views of images (B, 3, H, W) in [0, 1], features (B, c, h, w) or None, and labels (B, K)."""
        pictures = [self.images[view // 2, row] for row, view in zip(rows, views, strict=True)]
        images = torch.from_numpy(
            np.stack([p[..., ::-1] if view % 2 else p for p, view in zip(pictures, views, strict=True)])
        )
        images = images.float().div_(255) if images.dtype == torch.uint8 else images
        features = None
        if self.features is not None:
            each = 2 * len(self.images) // len(self.features)  # 1: mirrored features are there, 2: they are not
            features = torch.from_numpy(
                np.stack([self.features[view // each, row] for row, view in zip(rows, views, strict=True)])
            )
        return images.expand(-1, 3, -1, -1), features, torch.from_numpy(self.labels[list(rows)])


def compute_arrays(
    classifier: Classifier,
    split: Split,
    folder: Path,
    *,
    flip: bool,
    copies: int = 0,
    batch_size: int = 32,
    advance: Advance | None = None,
) -> Arrays:
    """Decode a split once, and run a frozen body once over it, unless `folder` has it all already.

    Args:
        flip: also the mirrored images' features.
        copies: varied copies of each image, beside the image itself.
        advance: called with the number of images done.
    """
    if not len(split):
        return Arrays(np.empty((1, 0, 1, classifier.input_size, classifier.input_size), np.uint8), None, split.labels)
    folder.mkdir(parents=True, exist_ok=True)
    with_features = classifier.body_is_frozen
    if not all(_whole(folder / f"{name}.npy") for name in ("images", "features")[: 1 + with_features]):
        views = [view for view in range(2 * (1 + copies)) if flip or view % 2 == 0]
        _fill(classifier, split, folder, views, batch_size, advance or (lambda _: None))
    images = np.load(folder / "images.npy", mmap_mode="r")
    return Arrays(images, np.load(folder / "features.npy", mmap_mode="r") if with_features else None, split.labels)


def _fill(
    classifier: Classifier, split: Split, folder: Path, views: Sequence[int], batch_size: int, advance: Advance
) -> None:
    images: Any = None
    features: Any = None
    start = 0
    for batch in batches(split, batch_size, ahead=classifier.device.type != "cpu"):
        own = torch.from_numpy(np.stack([sample.image for sample in batch.samples]))
        rows = slice(start, start + len(own))
        for copy in range(1 + views[-1] // 2):
            grey = vary(own, [sample.id for sample in batch.samples], copy).numpy()
            bytes_ = np.rint(grey * 255).astype(np.uint8)
            exact = bool((bytes_.astype(np.float32) / np.float32(255) == grey).all())
            if images is None:
                shape = (1 + views[-1] // 2, len(split), *grey.shape[1:])
                images = _new(folder / "images.part.npy", np.uint8 if exact else np.float32, shape)
            elif images.dtype == np.uint8 and not exact:
                images = _widen(images, folder)
            images[copy, rows] = bytes_ if images.dtype == np.uint8 else grey
            for place, view in enumerate(views):
                if view // 2 != copy or not classifier.body_is_frozen:
                    continue
                pictures = torch.from_numpy(grey).expand(-1, 3, -1, -1)
                pictures = pictures.flip(-1) if view % 2 else pictures
                with torch.no_grad():
                    z = classifier.features(classifier.laid_out(pictures.to(classifier.device)))
                found = z.float().cpu().numpy()
                if features is None:
                    shape = (len(views), len(split), *found.shape[1:])
                    features = _new(folder / "features.part.npy", np.float32, shape)
                features[place, rows] = found
        start += len(own)
        advance(len(own))
    for name, array in (("images", images), ("features", features)):
        if array is not None:
            array.flush()
            part, path = folder / f"{name}.part.npy", folder / f"{name}.npy"
            flush(part)
            part.replace(path)
            write_atomically(_beside(path), lambda part, path=path: part.write_text(_sum(path)))  # type: ignore[misc]


def _whole(path: Path) -> bool:
    try:
        return _beside(path).read_text() == _sum(path)
    except (OSError, ValueError):
        return False


def _beside(path: Path) -> Path:
    return path.with_suffix(".sha256")


def _sum(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _new(path: Path, dtype: Any, shape: tuple[int, ...]) -> Any:
    array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    # A mapped file takes its room on the disk as it is written to, and a full disk then kills the process without a
    # word (SIGBUS). So it takes it now, where that is an error that can be told.
    with open(path, "r+b") as file:
        size = os.fstat(file.fileno()).st_size
        if hasattr(os, "posix_fallocate"):
            try:
                os.posix_fallocate(file.fileno(), 0, size)
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # a file system that can't
                    error.filename = str(path)
                    raise
    return array


def _widen(images: Any, folder: Path) -> Any:
    """Go over to float32, when the first images fitted 8 bits and a later one does not."""
    wide = _new(folder / "wide.part.npy", np.float32, images.shape)
    np.divide(images, np.float32(255), out=wide)
    (folder / "wide.part.npy").replace(folder / "images.part.npy")
    return wide


def remove_arrays(folder: Path) -> None:
    """Delete the arrays: a finished training needs them no more."""
    shutil.rmtree(folder, ignore_errors=True)
