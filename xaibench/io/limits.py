"""Bounds on what comes from outside, in one place: a file that breaks one is refused before it costs memory or time.

Everything here raises `OSError` or `ValueError` with a reason of a few words; the reader that asks puts the file's name
and the remedy into an error of its own (`xaibench.errors`). docs/security.md lists the numbers.
"""

from __future__ import annotations

import json
import os
import stat
import struct
import tomllib
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from PIL import Image

TEXT_BYTES = 256 * 2**20
"""Of a CSV table, a COCO file, a run.json: some fifteen times the largest that radiographs have asked for."""
TOML_BYTES = 4 * 2**20
MAP_BYTES = 2**30
"""Of a pickled map."""
PIXELS = 2**28 // 3
"""Of an image, mask or map: 89 megapixels, where Pillow starts to warn; radiographs reach some 25."""
ROWS = 100_000_000
"""Of a Parquet table, which may hold a billion equal values in a kilobyte."""
POLYGON_POINTS = 100_000
UNPACKED = 4
"""So many times its own size a zip archive may unpack to (torch stores its archives uncompressed)."""
FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "PPM", "JPEG2000")
"""Of images, whatever a file's name ends in. Others stay shut: for EPS, Pillow would start Ghostscript."""

UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
    EOFError,
    MemoryError,
    struct.error,
    zlib.error,
)
"""What Pillow raises on damaged files."""


def check_size(path: str | os.PathLike[str], limit: int) -> int:
    """Return the size in bytes of a file.

    Raises:
        OSError: it is not there.
        ValueError: it is larger than `limit`, or no plain file (a pipe or device may never end).
    """
    found = os.stat(path)
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(21, os.strerror(21), os.fspath(path))
    if not stat.S_ISREG(found.st_mode):
        raise ValueError("it is no plain file")
    if found.st_size > limit:
        raise ValueError(f"it has {found.st_size / 2**20:,.0f} MiB, over the limit of {limit / 2**20:,.0f} MiB")
    return found.st_size


def read_bytes(path: Path, limit: int) -> bytes:
    """Return a file's content; see `check_size`."""
    check_size(path, limit)
    return path.read_bytes()


def read_text(path: Path, *, limit: int = TEXT_BYTES, encoding: str = "utf-8", newline: str | None = None) -> str:
    """Return a text file's content.

    Raises:
        OSError: it can't be read.
        ValueError: it is too large, no plain file, or no text in that encoding.
    """
    check_size(path, limit)
    with path.open(encoding=encoding, newline=newline) as file:
        return file.read()


def read_json(path: Path, *, finite: bool = False) -> Any:
    """Return what a JSON file says.

    Args:
        finite: refuse NaN and infinity, which Python reads and writes and JSON has not.

    Raises:
        OSError: it can't be read.
        ValueError: it is too large, no JSON, nested too deeply, or a name stands twice in one object.
    """
    text = read_text(path)
    try:
        return json.loads(text, object_pairs_hook=_once, parse_constant=_refuse if finite else None)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} stands twice in one object")
    return found


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def read_toml(path: Path) -> dict[str, Any]:
    """Return what a TOML file says.

    Raises:
        OSError: it can't be read.
        ValueError: it is too large, no TOML (`tomllib.TOMLDecodeError` is one), or nested too deeply.
    """
    text = read_text(path, limit=TOML_BYTES)
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_parquet(source: Path | BytesIO) -> pd.DataFrame:
    """Return a Parquet table, of a file or its content.

    Raises:
        OSError: it can't be read.
        ValueError: it is damaged, or has more than `ROWS` rows.
    """
    import pandas as pd
    import pyarrow.parquet as pq

    try:
        rows = pq.read_metadata(source).num_rows
        found = pd.read_parquet(source) if rows <= ROWS else None
    except OSError:
        raise
    except Exception as error:  # damaged bytes raise anything
        raise ValueError(f"{type(error).__name__} {error}") from error
    if found is None:
        raise ValueError(f"it has {rows:,} rows, over the limit of {ROWS:,}")
    return found


def check_pixels(shape: Sequence[int]) -> None:
    """Refuse sizes that no image has.

    Raises:
        ValueError: a side that is not positive, or more than `PIXELS` pixels.

    >>> check_pixels((100_000, 100_000))
    Traceback (most recent call last):
    ValueError: 100000 x 100000 pixels, over the limit of 89 megapixels
    """
    pixels = 1
    for side in shape:
        pixels *= max(side, 0)
    if not 0 < pixels <= PIXELS:
        sides = " x ".join(str(side)[:20] for side in shape)
        over = f"over the limit of {PIXELS // 10**6} megapixels" if pixels else "where each side needs one"
        raise ValueError(f"{sides} pixels, {over}")


@contextmanager
def open_image(path: str | os.PathLike[str]) -> Iterator[Image.Image]:
    """Open an image of one of the `FORMATS`; its size is checked before a pixel is decoded.

    Raises:
        OSError: it is not there, or no such image (`PIL.UnidentifiedImageError` is one).
        ValueError: more than `PIXELS` pixels; or another of `UNREADABLE`.
    """
    from PIL import Image

    bombs = (Image.DecompressionBombError, Image.DecompressionBombWarning)
    try:
        check_size(path, 2**40)
        # By its name Pillow would map an uncompressed TIFF into memory, and scramble one with an orientation.
        with open(path, "rb") as file, Image.open(file, formats=FORMATS) as opened:
            check_pixels((opened.width, opened.height))
            yield opened
    except bombs:
        raise ValueError(f"over the limit of {PIXELS // 10**6} megapixels") from None


def check_name(name: object) -> str:
    r"""Return a file's name from a table, which must stay in its folder.

    The text decides: a link that the user made in the folder may point anywhere.

    Raises:
        ValueError: no text, empty, an absolute path, a ``..`` (with slashes or backslashes), or a control character.

    >>> check_name("a/b.png")
    'a/b.png'
    >>> check_name("..\\b.png")
    Traceback (most recent call last):
    ValueError: '..\\b.png' is not the name of a file in the folder
    """
    if isinstance(name, str) and name.strip():
        parts = PureWindowsPath(name)  # knows slashes, backslashes and drives
        control = any(ord(sign) < 32 or 127 <= ord(sign) < 160 for sign in name)
        if not (parts.drive or parts.root or ".." in parts.parts or control or len(name) > 1024):
            return name
    raise ValueError(f"{str(name)[:80]!r} is not the name of a file in the folder")


def check_archive(path: Path) -> list[str]:
    """Return the names in a zip archive, empty for a file that is none.

    Raises:
        OSError: it can't be read.
        ValueError: it is damaged, or would unpack to more than `UNPACKED` times its size.
    """
    size = os.stat(path).st_size
    if not zipfile.is_zipfile(path):
        return []
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, EOFError, struct.error, LookupError) as error:
        raise ValueError(f"damaged archive ({error})") from error
    unpacked = sum(entry.file_size for entry in entries)
    if unpacked > UNPACKED * size + 2**20:
        raise ValueError(f"{size:,} bytes that would unpack to {unpacked:,}")
    return [entry.filename for entry in entries]
