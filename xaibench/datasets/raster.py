"""An image file as numbers: its header, its values as stored, and how viewers turn it.

Pillow decodes. What it does in silence, and would make the numbers wrong, is refused here by name: 16-bit colours cut
down to 8 bits, signed bytes read as unsigned, 16-bit greys stored with white as zero, further frames.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from xaibench.errors import DataError, first_line
from xaibench.io.limits import UNREADABLE, open_image
from xaibench.types import Frame

if TYPE_CHECKING:
    from PIL import Image

_ORIENTATION, _PHOTOMETRIC, _SAMPLE_FORMAT, _WIDTH, _HEIGHT = 274, 262, 339, 256, 257
_PNG = b"\x89PNG\r\n\x1a\n"
_MOST_CHUNKS, _MOST_EXIF = 1_000_000, 2**20

_TURNS: dict[int, Callable[[npt.NDArray[Any]], npt.NDArray[Any]]] = {
    2: lambda values: values[:, ::-1],
    3: lambda values: values[::-1, ::-1],
    4: lambda values: values[::-1],
    5: lambda values: values.swapaxes(0, 1),
    6: lambda values: np.rot90(values, -1),
    7: lambda values: values[::-1, ::-1].swapaxes(0, 1),
    8: lambda values: np.rot90(values),
}
"""EXIF's orientations but 1, which is upright: what turns the stored rows and columns (H, W, ...) upright."""


class Header(NamedTuple):
    """What a file says of itself.

    Attributes:
        mode: Pillow's name for its pixels.
        width, height: as stored.
        orientation: EXIF's, 1 to 8; 1 where it has none.
        bits: the significant bits that a PNG declares (sBIT), 0 where it declares none.
    """

    mode: str
    width: int
    height: int
    orientation: int
    bits: int

    def size(self, orientation: int) -> Frame:
        """Return the image's size once it is turned."""
        height, width = (self.width, self.height) if orientation >= 5 else (self.height, self.width)
        return Frame(height, width)


class Values(NamedTuple):
    """The numbers of a file, (H, W) or (H, W, 3) as stored; `full` is the largest that its type holds, where known."""

    values: npt.NDArray[Any]
    full: int | None
    header: Header


def read_header(path: str | os.PathLike[str]) -> Header:
    """Read a file's header, without decoding it.

    Raises:
        DataError: it is missing, no image, or of a kind that can't be read right; names it and the remedy.
    """
    with _opened(path) as opened:
        return header_of(path, opened)


def read_values(path: str | os.PathLike[str]) -> Values:
    """Decode a file; palettes are resolved, and alpha is left out, never blended.

    Raises:
        DataError: it is missing, damaged, no image, of a kind that can't be read right, or holds NaN or infinity.
    """
    with _opened(path) as opened:
        return values_of(path, opened)


def turn(values: npt.NDArray[Any], orientation: int) -> npt.NDArray[Any]:
    """Return stored rows and columns as viewers show them.

    >>> turn(np.array([[1, 2, 3], [4, 5, 6]]), 6).tolist()
    [[4, 1], [5, 2], [6, 3]]
    """
    return _TURNS[orientation](values) if orientation in _TURNS else values


def resize(values: npt.NDArray[np.float32], size: int) -> npt.NDArray[np.float32]:
    """Stretch (H, W) in [0, 1] to a square by Pillow's bilinear filter, whose support grows with the reduction."""
    from PIL import Image

    if values.shape == (size, size):
        return values
    resized = Image.fromarray(np.ascontiguousarray(values)).resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(resized, dtype=np.float32).clip(0, 1)


def _orientation(opened: Image.Image, chunks: dict[bytes, bytes], tags: Any) -> int:
    """Return the EXIF orientation, 1 where there is none, or one that means nothing.

    What XMP or ImageMagick's text say of it counts for nothing, as in viewers; Pillow's `getexif` would mix them in.
    """
    if opened.format == "TIFF":
        found = tags.get(_ORIENTATION, 1)
    else:
        from PIL import Image

        exif = Image.Exif()
        try:
            exif.load(chunks.get(b"eXIf") or opened.info.get("exif") or b"")
            found = exif.get(_ORIENTATION, 1)
        except UNREADABLE:  # a damaged block of EXIF: viewers show the image as it is stored
            found = 1
    return found if found in _TURNS else 1


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[Image.Image]:
    try:
        with open_image(path) as opened:
            yield opened
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{path}: no such file: put it there, or take it out of the table") from None
    except UNREADABLE as error:
        raise DataError(f"{path}: {why_unreadable(error)}: replace it, or take it out of the table") from error


def why_unreadable(error: Exception) -> str:
    """Say in a few words why Pillow could not read a file."""
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return "not an image"
    if "over the limit" in str(error) or (isinstance(error, OSError) and error.strerror):
        return first_line(error)
    return f"truncated or damaged ({' '.join(str(error).split())[:80] or type(error).__name__})"


def header_of(path: str | os.PathLike[str], opened: Image.Image) -> Header:
    """Return the header of an image that was opened; see `read_header`."""
    tags: Any = getattr(opened, "tag_v2", {})
    _check_kind(path, opened, tags)
    width, height = tags.get(_WIDTH, opened.width), tags.get(_HEIGHT, opened.height)  # Pillow's are turned already
    chunks = _png_chunks(path) if opened.format == "PNG" else {}
    bits = max(chunks.get(b"sBIT", b"\0"))
    return Header(opened.mode, int(width), int(height), _orientation(opened, chunks, tags), bits)


def _check_kind(path: str | os.PathLike[str], opened: Image.Image, tags: Any) -> None:
    """Refuse what Pillow would read as other numbers than the file's."""
    frames = getattr(opened, "n_frames", 1)
    if frames > 1 and opened.format != "MPO":  # whose first picture is the photograph
        raise DataError(f"{path} holds {frames} frames: save the one that is meant as a file of its own")
    if _is_cut_down(opened):
        raise DataError(
            f"{path} has 16 bits for each of several channels, of which 8 would be read: save it as 16-bit grey or as "
            "8-bit colour"
        )
    if 2 in np.atleast_1d(tags.get(_SAMPLE_FORMAT, 1)) and opened.mode != "I":
        raise DataError(f"{path} holds signed bytes, which would be read as unsigned: save it as unsigned 8 or 16 bits")
    if opened.mode.startswith("I;16") and tags.get(_PHOTOMETRIC) == 0:
        raise DataError(f"{path} has white as zero (photometric interpretation 0): save it with black as zero")


def _is_cut_down(opened: Image.Image) -> bool:
    """Return whether Pillow reads 8 bits of channels that have 16."""
    for tile in getattr(opened, "tile", ()):
        mode, *more = tile[3] if isinstance(tile[3], tuple) else (tile[3],)
        if ";16" in str(mode) or (opened.format == "PPM" and more and int(more[0]) > 255):
            return not opened.mode.startswith("I")
    return False


def values_of(path: str | os.PathLike[str], opened: Image.Image) -> Values:
    """Return the numbers of an image that was opened; see `read_values`."""
    header = header_of(path, opened)
    before = opened.getexif().get(_ORIENTATION, 1) if opened.format == "TIFF" else 1
    opened.load()
    values, full = _array(opened)
    if opened.format == "TIFF" and before in _TURNS and opened.getexif().get(_ORIENTATION, 1) != before:
        values = turn(values, {6: 8, 8: 6}.get(before, before))  # Pillow has turned it: back to how it is stored
    if values.shape[:2] != (header.height, header.width):
        raise DataError(f"{path} is decoded to another size than its header gives: save it anew")
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise DataError(f"{path} holds NaN or infinity: replace them, or take the image out of the table")
    return Values(values, full, header)


def _array(image: Image.Image) -> tuple[npt.NDArray[Any], int | None]:
    mode, kind = image.mode, image.format
    if mode in ("I", "F") or mode.startswith("I;"):
        known = mode.startswith("I;16") or (mode == "I" and kind in ("PNG", "PPM", "JPEG2000"))
        return np.asarray(image), 65535 if known else None
    if mode in ("P", "PA", "RGBa"):
        image = image.convert("RGBA")
    elif mode in ("1", "La"):
        image = image.convert("L" if mode == "1" else "LA")
    elif mode not in ("L", "LA", "RGB", "RGBA", "RGBX"):
        image = image.convert("RGB")
    values = np.asarray(image)
    return (values[..., 0] if image.mode == "LA" else values[..., :3] if values.ndim == 3 else values), 255


def _png_chunks(path: str | os.PathLike[str]) -> dict[bytes, bytes]:
    """Return a PNG's chunks of EXIF and of significant bits; they may stand behind the pixels, which are not read."""
    found: dict[bytes, bytes] = {}
    with open(path, "rb") as file:
        if file.read(8) != _PNG:
            return found
        for _ in range(_MOST_CHUNKS):
            head = file.read(8)
            if len(head) < 8 or head[4:] == b"IEND":
                break
            length, kind = int.from_bytes(head[:4]), head[4:]
            content = file.read(min(length, _MOST_EXIF)) if kind in (b"sBIT", b"eXIf") else b""
            if content:
                found.setdefault(kind, content)
            file.seek(length - len(content) + 4, os.SEEK_CUR)
    return found
