"""The image files of the NIH release: where they are, and how one becomes an array."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from xaibench.datasets.raster import Header, read_header, resize, values_of, why_unreadable
from xaibench.errors import DataError, UsageError
from xaibench.io.limits import UNREADABLE, open_image
from xaibench.types import Frame

DECODE_VERSION = "1: first channel, float32, PIL bilinear with antialiasing"
"""Part of a split's fingerprint: change it whenever `decode` changes one bit of its result."""

SMALLEST, LARGEST = 16, 8192
"""Sides in pixels between which a file is taken for a radiograph."""

_PART = re.compile(r"images_0(0[1-9]|1[0-2])")
_SUFFIXES = (".png", ".jpg", ".jpeg")


@dataclass(frozen=True)
class ImageIndex:
    """The image files below a data root, found with one listing a folder and no stat of any file.

    Attributes:
        files: stem of the file name to its path (a pre-resized copy may have another suffix than the tables say).
        folders: the folders looked into, relative to the root.
        duplicates: paths of files whose name was already found in an earlier folder.
    """

    files: Mapping[str, str]
    folders: Sequence[str]
    duplicates: Sequence[str] = ()

    def path(self, name: str) -> str | None:
        """Return the path of the image that a table names, None where it is missing."""
        return self.files.get(name.rpartition(".")[0])

    def missing(self, names: Iterable[str]) -> list[str]:
        return [name for name in names if self.path(name) is None]


def index_images(root: Path, images: str = "auto") -> ImageIndex:
    """Find the image files of a release.

    Args:
        root: the folder of the release.
        images: "auto" for ``images/`` and ``images_001/`` to ``images_012/`` (each with or without a nested
            ``images/``), or for `root` itself where it has neither; else the name of one folder in `root`.

    Raises:
        DataError: `root` is no folder that can be read, or has no image file there.
        UsageError: `images` is no plain name of a folder in `root`.
    """
    if images == "auto":
        folders = [path for name in _listing(root) if (path := root / name).is_dir() and _is_part(name)]
        folders = [*folders, *(path / "images" for path in folders if (path / "images").is_dir())] or [root]
    else:
        if Path(images).name != images or images in {"", ".", ".."}:
            raise UsageError(f"option images = {images!r}: give the name of a folder in the data root, without a path")
        folders = [root / images]
    files: dict[str, str] = {}
    duplicates = []
    for folder in folders:
        for name in _listing(folder):
            stem, _, suffix = name.rpartition(".")
            if not stem or name.startswith(".") or f".{suffix.lower()}" not in _SUFFIXES:
                continue
            file = os.path.join(folder, name)
            if files.setdefault(stem, file) != file:
                duplicates.append(file)
    if not files:
        where = "images/ or images_001/ to images_012/" if images == "auto" else f"{images}/"
        raise DataError(f"no .png or .jpg file in {root}: expected them in {where}; download the NIH images there")
    return ImageIndex(files, [os.path.relpath(folder, root) for folder in folders], duplicates)


def read_grey(path: str | os.PathLike[str]) -> npt.NDArray[np.float32]:
    """Read an image as (H, W) float32 in [0, 1], at its own size.

    Of RGB, RGBA and LA the first channel is taken and alpha is never blended in; a palette is resolved first. Grey of
    16 bits is divided by 65535, of 8 bits by 255.

    Raises:
        DataError: the file is missing, truncated, no image, of a mode without a defined range, has a side below 16 or
            above 8192 pixels, or an EXIF orientation that would turn it.
    """
    try:
        with open_image(path) as opened:
            check_size(path, *opened.size)
            values, full, header = values_of(path, opened)
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{path}: missing: run `xaibench data check` or set allow_missing = true") from None
    except UNREADABLE as error:
        raise DataError(f"{path}: {why_unreadable(error)}: download it again or remove it") from None
    check_upright(path, header)
    if full is None:
        raise DataError(f"{path}: pixels of mode {header.mode} have no known range: save it as 8- or 16-bit grey")
    return (values[..., 0] if values.ndim == 3 else values).astype(np.float32) / np.float32(full)


def frame_of(path: str | os.PathLike[str]) -> Frame:
    """Return an image's own size, from its header alone.

    Raises:
        DataError: the file is missing or no image.
    """
    header = read_header(path)
    check_upright(path, header)
    return header.size(1)


def decode(path: str | os.PathLike[str], size: int) -> npt.NDArray[np.float32]:
    """Return the image as (1, size, size) float32 in [0, 1].

    The whole field of view is stretched to the square, in float, by Pillow's bilinear filter, whose support grows with
    the reduction (antialiasing).

    Raises:
        DataError: as `read_grey`.
    """
    return resize(read_grey(path), size)[None]


def check_size(path: str | os.PathLike[str], width: int, height: int) -> None:
    """Refuse sizes that no radiograph has.

    Raises:
        DataError: a side below 16 or above 8192 pixels.
    """
    if min(width, height) < SMALLEST or max(width, height) > LARGEST:
        raise DataError(f"{path}: {width} x {height} pixels, not {SMALLEST} to {LARGEST} a side: replace the file")


def check_upright(path: str | os.PathLike[str], header: Header) -> None:
    """Refuse an image that viewers turn: the release has none, so nobody knows in which frame its boxes are.

    Raises:
        DataError: it has an EXIF orientation.
    """
    if header.orientation != 1:
        raise DataError(
            f"{path}: it has an EXIF orientation, as no image of the release: save it upright, without the tag"
        )


def _is_part(name: str) -> bool:
    return name == "images" or _PART.fullmatch(name) is not None


def _listing(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries)
    except FileNotFoundError:
        raise DataError(f"{folder} does not exist: give the folder of the NIH release as data root") from None
    except OSError as error:
        raise DataError(f"{folder}: {error.strerror}: give a folder that can be read") from None
