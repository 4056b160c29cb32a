"""The image files of the NIH release: where they are, and how one becomes an array."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from xaibench.errors import DataError, UsageError
from xaibench.limits import UNREADABLE, open_image
from xaibench.types import Frame

if TYPE_CHECKING:
    from PIL import Image

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
        DataError: the file is missing, truncated, no image, of a mode without a defined range, or has a side below
            16 or above 8192 pixels.
    """
    try:
        with open_image(path) as opened:
            check_size(path, *opened.size)
            image: Image.Image = opened
            if image.mode in {"P", "PA"}:
                image = image.convert("RGBA")
            elif image.mode == "1":
                image = image.convert("L")
            bands = image.getbands()
            if bands[0] in {"R", "L"}:
                return np.asarray(image.getchannel(0) if len(bands) > 1 else image, dtype=np.float32) / np.float32(255)
            values = np.asarray(image)
            mode = image.mode
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{path}: missing: run `xaibench data check` or set allow_missing = true") from None
    except UNREADABLE as error:
        raise DataError(f"{path}: {why_unreadable(error)}: download it again or remove it") from None
    if not mode.startswith("I") or values.min() < 0 or values.max() > 65535:
        raise DataError(f"{path}: pixels of mode {mode} have no known range: save it as 8- or 16-bit grey")
    return values.astype(np.float32) / np.float32(65535)


def frame_of(path: str | os.PathLike[str]) -> Frame:
    """Return an image's own size, from its header alone.

    Raises:
        DataError: the file is missing or no image.
    """
    try:
        with open_image(path) as opened:
            return Frame(opened.height, opened.width)
    except UNREADABLE as error:
        raise DataError(f"{path} is no image: {why_unreadable(error)}") from error


def decode(path: str | os.PathLike[str], size: int) -> npt.NDArray[np.float32]:
    """Return the image as (1, size, size) float32 in [0, 1].

    The whole field of view is stretched to the square, in float, by Pillow's bilinear filter, whose support grows with
    the reduction (antialiasing).

    Raises:
        DataError: as `read_grey`.
    """
    from PIL import Image

    grey = read_grey(path)
    if grey.shape != (size, size):
        resized = Image.fromarray(grey).resize((size, size), Image.Resampling.BILINEAR)
        grey = np.asarray(resized, dtype=np.float32).clip(0, 1)
    return grey[None]


def file_key(path: str | os.PathLike[str], size: int) -> str:
    """Return what names the content of `decode`'s result: the file's sha256, and how it is decoded.

    Raises:
        DataError: the file can't be read.
    """
    try:
        with open(path, "rb") as file:
            return f"{hashlib.file_digest(file, 'sha256').hexdigest()} {size} px, {DECODE_VERSION}"
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}: run `xaibench data check chestxray8`") from None


def check_size(path: str | os.PathLike[str], width: int, height: int) -> None:
    """Refuse sizes that no radiograph has.

    Raises:
        DataError: a side below 16 or above 8192 pixels.
    """
    if min(width, height) < SMALLEST or max(width, height) > LARGEST:
        raise DataError(f"{path}: {width} x {height} pixels, not {SMALLEST} to {LARGEST} a side: replace the file")


def why_unreadable(error: Exception) -> str:
    """Say in a few words why Pillow could not read a file."""
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return "not an image"
    if "over the limit" in str(error):
        return str(error)
    return f"truncated or damaged ({' '.join(str(error).split())[:80] or type(error).__name__})"


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
