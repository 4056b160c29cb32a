"""Image files as numbers: orientations beside Pillow's own, and what Pillow would read as other numbers."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageOps
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from xaibench.datasets.raster import Header, read_header, read_values, turn
from xaibench.errors import DataError

WIDE = np.arange(24, dtype=np.uint16).reshape(4, 6) * 1000
BYTES = (WIDE // 256).astype(np.uint8)


def png(path: Path, rows: npt.NDArray[Any], depth: int, kind: int, *chunks: tuple[bytes, bytes]) -> Path:
    """Write a PNG by hand: rows of bytes, bits a sample, colour type, and more chunks before the pixels."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    channels = {0: 1, 2: 3, 4: 2, 6: 4}[kind]
    width = rows.shape[1] * 8 // (depth * channels)
    head = struct.pack(">IIBBBBB", width, len(rows), depth, kind, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    parts = [(b"IHDR", head), *chunks, (b"IDAT", pixels), (b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts))
    return path


def big_endian(values: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    return np.ascontiguousarray(values.astype(">u2")).view(np.uint8).reshape(len(values), -1)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["8.png", "16.png", "8.tif", "16.tif", "lzw.tif", "webp", "jpg"])
def test_turning_is_pillows_and_values_come_as_stored(tmp_path: Path, kind: str, orientation: int) -> None:
    path = tmp_path / f"a.{kind}"
    stored = WIDE if kind.startswith("16") else BYTES
    exif = Image.Exif()
    exif[274] = orientation
    options: dict[str, Any] = {"exif": exif}
    if kind.endswith("tif"):
        options = {"tiffinfo": {274: orientation}, **({"compression": "tiff_lzw"} if "lzw" in kind else {})}
    if kind == "webp":
        options["lossless"] = True
    Image.fromarray(stored).save(path, **options)
    header, found = read_header(path), read_values(path)
    assert (header.width, header.height, header.orientation) == (6, 4, orientation)
    values = found.values if found.values.ndim == 2 else found.values[..., 0]
    if kind != "jpg":
        assert np.array_equal(values, stored)
    shown = turn(values, header.orientation)
    # by its name Pillow scrambles an uncompressed TIFF whose orientation swaps rows and columns
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(path.read_bytes()))))
    assert np.array_equal(shown, expected if expected.ndim == 2 else expected[..., 0])
    assert (header.size(orientation).height, header.size(orientation).width) == shown.shape


def test_a_pngs_orientation_behind_its_pixels_and_in_text(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 8
    rows = BYTES
    assert read_header(png(tmp_path / "none.png", rows, 8, 0, (b"tEXt", b"Software\0x"))).orientation == 1
    before = png(tmp_path / "before.png", rows, 8, 0, (b"eXIf", exif.tobytes()[6:]))
    assert read_header(before).orientation == 8
    content = before.read_bytes()
    at, length = content.index(b"eXIf") - 4, len(exif.tobytes()[6:]) + 12
    block, rest = content[at : at + length], content[:at] + content[at + length :]
    (tmp_path / "behind.png").write_bytes(rest[:-12] + block + rest[-12:])
    assert read_header(tmp_path / "behind.png").orientation == 8
    for number in (0, 9, 77):
        exif[274] = number
        path = png(tmp_path / "odd.png", rows, 8, 0, (b"eXIf", exif.tobytes()[6:]))
        assert read_header(path).orientation == 1
    assert read_header(png(tmp_path / "bad.png", rows, 8, 0, (b"eXIf", b"nonsense"))).orientation == 1


def test_only_exif_turns(tmp_path: Path) -> None:
    """XMP and ImageMagick's text are what Pillow mixes in, and no viewer follows."""
    xmp = b'XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation="6"/>'
    path = png(tmp_path / "xmp.png", BYTES, 8, 0, (b"iTXt", xmp))
    assert Image.open(path).getexif().get(274) == 6
    assert read_header(path).orientation == 1
    assert np.array_equal(read_values(path).values, BYTES)
    Image.fromarray(BYTES).save(tmp_path / "xmp.tif", tiffinfo={700: b'<x tiff:Orientation="6"/>'})
    assert read_header(tmp_path / "xmp.tif").orientation == 1
    assert np.array_equal(read_values(tmp_path / "xmp.tif").values, BYTES)  # which Pillow turns as it loads it


def test_the_first_picture_of_a_phones_photograph(tmp_path: Path) -> None:
    frames = [Image.fromarray(np.full((32, 32), value, dtype=np.uint8)) for value in (200, 30)]
    frames[0].save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=frames[1:])
    assert Image.open(tmp_path / "a.jpg").n_frames == 2
    assert abs(int(read_values(tmp_path / "a.jpg").values.mean()) - 200) <= 1


def tiff(path: Path, values: npt.NDArray[Any], mode: str, **tags: int) -> Path:
    info = ImageFileDirectory_v2()
    for tag, value in tags.items():
        info[int(tag.removeprefix("t"))] = value
    Image.fromarray(values, mode=None).save(path, tiffinfo=info)
    assert Image.open(path).mode == mode
    return path


def test_sixteen_bits_of_several_channels_are_refused(tmp_path: Path) -> None:
    rgb = np.stack([WIDE] * 3, axis=-1).reshape(4, -1)
    la = np.stack([WIDE] * 2, axis=-1).reshape(4, -1)
    (tmp_path / "deep.ppm").write_bytes(b"P6 1 1 4095\n" + big_endian(np.array([[0, 1000, 4095]])).tobytes())
    for path in (
        png(tmp_path / "rgb.png", big_endian(rgb), 16, 2),
        png(tmp_path / "la.png", big_endian(la), 16, 4),
        tmp_path / "deep.ppm",
    ):
        for read in (read_header, read_values):
            with pytest.raises(
                DataError, match=rf"{path.name} has 16 bits .* of which 8 would be read: save it as 16-bit"
            ):
                read(path)


def test_values_that_pillow_reads_as_others_are_refused(tmp_path: Path) -> None:
    signed = tiff(tmp_path / "signed.tif", BYTES, "L", t339=2)
    with pytest.raises(DataError, match=r"signed\.tif holds signed bytes"):
        read_values(signed)
    inverted = tmp_path / "white.tif"
    Image.fromarray(WIDE).save(inverted)
    content = inverted.read_bytes()
    one = struct.pack("<HHII", 262, 3, 1, 1)
    assert content.count(one) == 1
    inverted.write_bytes(content.replace(one, struct.pack("<HHII", 262, 3, 1, 0)))
    with pytest.raises(DataError, match=r"white\.tif has white as zero .*: save it with black as zero"):
        read_values(inverted)
    frames = [Image.fromarray(BYTES), Image.fromarray(BYTES[::-1].copy())]
    for name in ("two.tif", "two.gif", "two.png", "two.webp"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
        with pytest.raises(DataError, match=rf"{name} holds 2 frames: save the one"):
            read_header(tmp_path / name)
    for bad in (np.nan, np.inf):
        floats = np.full((4, 6), 0.5, dtype=np.float32)
        floats[1, 1] = bad
        Image.fromarray(floats).save(tmp_path / "nan.tif")
        with pytest.raises(DataError, match=r"nan\.tif holds NaN or infinity"):
            read_values(tmp_path / "nan.tif")


def test_the_most_that_a_type_holds(tmp_path: Path) -> None:
    (tmp_path / "a.pgm").write_bytes(b"P5 4 1 4095\n" + big_endian(np.array([[0, 1000, 2000, 4095]])).tobytes())
    values, full, _ = read_values(tmp_path / "a.pgm")  # Pillow scales what a PGM declares as its most to 65,535
    assert (values.max(), full) == (65535, 65535)
    Image.fromarray(BYTES.astype(np.int32)).save(tmp_path / "int32.tif")
    assert read_values(tmp_path / "int32.tif").full is None
    assert np.array_equal(read_values(tmp_path / "int32.tif").values, BYTES)
    Image.fromarray(BYTES.astype(np.float32)).save(tmp_path / "float.tif")
    assert read_values(tmp_path / "float.tif").full is None
    Image.fromarray(BYTES > 40).save(tmp_path / "bilevel.png")
    values, full, _ = read_values(tmp_path / "bilevel.png")
    assert (values.max(), values.min(), full) == (255, 0, 255)


def test_alpha_is_left_out_and_palettes_resolved(tmp_path: Path) -> None:
    other, alpha = np.full_like(BYTES, 7), np.zeros_like(BYTES)
    for mode, bands in {
        "LA": [BYTES, alpha],
        "RGBA": [BYTES, other, BYTES, alpha],
        "RGB": [BYTES, other, BYTES],
    }.items():
        Image.merge(mode, [Image.fromarray(band) for band in bands]).save(tmp_path / f"{mode}.png")
        values = read_values(tmp_path / f"{mode}.png").values
        assert np.array_equal(values, BYTES if mode == "LA" else np.stack(bands[:3], axis=-1))
    palette = Image.fromarray(BYTES).convert("P")
    palette.putpalette([value for k in range(256) for value in (255 - k, k, 3)])
    palette.save(tmp_path / "p.png", transparency=5)
    expected = np.stack([255 - BYTES, BYTES, np.full_like(BYTES, 3)], axis=-1)
    assert np.array_equal(read_values(tmp_path / "p.png").values, expected)


def test_declared_bits(tmp_path: Path) -> None:
    path = png(tmp_path / "a.png", big_endian(WIDE), 16, 0, (b"sBIT", bytes([12])))
    assert read_header(path) == Header("I;16", 6, 4, 1, 12)
    assert np.array_equal(read_values(path).values, WIDE)


def test_files_that_are_no_image(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("<html>")
    with pytest.raises(DataError, match=r"a\.png: not an image: replace it"):
        read_header(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"b\.png: no such file"):
        read_header(tmp_path / "b.png")
    Image.fromarray(np.zeros((64, 64), dtype=np.uint8)).save(tmp_path / "c.png")
    (tmp_path / "c.png").write_bytes((tmp_path / "c.png").read_bytes()[:50])
    with pytest.raises(DataError, match=r"c\.png: truncated or damaged"):
        read_values(tmp_path / "c.png")
