from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from xaibench.datasets.chestxray8.audit import inspect
from xaibench.datasets.chestxray8.images import decode, frame_of, index_images, read_grey
from xaibench.errors import DataError, UsageError
from xaibench.types import Frame

from .nih_release import write_png

GREY = np.arange(32 * 32, dtype=np.uint16).reshape(32, 32)
BYTES = (GREY % 256).astype(np.uint8)


@pytest.mark.parametrize("layout", ["images/{}", "images_001/images/{}", "images_012/{}", "{}", "images/images/{}"])
def test_layouts(tmp_path: Path, layout: str) -> None:
    write_png(tmp_path / layout.format("00000001_000.png"))
    write_png(tmp_path / "images_1024" / "00000002_000.png")
    (tmp_path / "notes.txt").write_text("no image")
    index = index_images(tmp_path)
    assert index.path("00000001_000.png") == str(tmp_path / layout.format("00000001_000.png"))
    assert index.missing(["00000001_000.png", "00000002_000.png"]) == ["00000002_000.png"]


def test_a_named_folder_another_suffix_and_duplicates(tmp_path: Path) -> None:
    write_png(tmp_path / "small" / "00000001_000.jpg")
    assert index_images(tmp_path, "small").path("00000001_000.png") == str(tmp_path / "small" / "00000001_000.jpg")
    write_png(tmp_path / "images_001" / "00000001_000.png")
    write_png(tmp_path / "images_002" / "images" / "00000001_000.png")
    index = index_images(tmp_path)
    assert index.path("00000001_000.png") == str(tmp_path / "images_001" / "00000001_000.png")
    assert index.duplicates == [str(tmp_path / "images_002" / "images" / "00000001_000.png")]


@pytest.mark.parametrize("images", ["..", "a/b", "/etc", ""])
def test_a_named_folder_stays_in_the_data_root(tmp_path: Path, images: str) -> None:
    with pytest.raises(UsageError, match="without a path"):
        index_images(tmp_path, images)


def test_no_images(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no \.png or \.jpg file"):
        index_images(tmp_path)
    with pytest.raises(DataError, match="other does not exist"):
        index_images(tmp_path, "other")


def test_the_first_channel_is_taken_and_alpha_never_blended(tmp_path: Path) -> None:
    other, alpha = np.full_like(BYTES, 7), np.zeros_like(BYTES)
    for mode, bands in {
        "L": [BYTES],
        "LA": [BYTES, alpha],
        "RGB": [BYTES, other, other],
        "RGBA": [BYTES, other, other, alpha],
    }.items():
        path = tmp_path / f"{mode}.png"
        Image.merge(mode, [Image.fromarray(band) for band in bands]).save(path)
        grey = read_grey(path)
        assert grey.dtype == np.float32
        np.testing.assert_array_equal(grey, BYTES.astype(np.float32) / np.float32(255), err_msg=mode)


def test_palette_bilevel_and_sixteen_bits(tmp_path: Path) -> None:
    palette = Image.fromarray(BYTES).convert("P")
    palette.putpalette([value for k in range(256) for value in (255 - k, 0, 0)])
    palette.save(tmp_path / "p.png")
    np.testing.assert_allclose(read_grey(tmp_path / "p.png"), 1 - BYTES / 255, atol=1e-6)
    Image.fromarray(BYTES > 100).save(tmp_path / "1.png")
    np.testing.assert_array_equal(read_grey(tmp_path / "1.png"), BYTES > 100)
    Image.fromarray(GREY * 64).save(tmp_path / "16.png")
    np.testing.assert_allclose(read_grey(tmp_path / "16.png"), GREY * 64 / 65535, atol=1e-6)


def test_resizing_is_antialiased_and_of_the_whole_field(tmp_path: Path) -> None:
    checks = (np.indices((64, 64)).sum(axis=0) % 2 * 255).astype(np.uint8)
    Image.fromarray(checks).save(tmp_path / "checks.png")
    small = decode(tmp_path / "checks.png", 16)
    assert small.shape == (1, 16, 16)
    assert small.dtype == np.float32
    np.testing.assert_allclose(small, 0.5, atol=0.02)  # sampling without a filter would give 0 or 1
    halves = np.zeros((40, 80), dtype=np.uint8)
    halves[:, 40:] = 255
    Image.fromarray(halves).save(tmp_path / "halves.png")
    stretched = decode(tmp_path / "halves.png", 20)[0]
    assert stretched[:, :9].max() == 0
    assert stretched[:, 11:].min() == 1


def test_truncated_files_are_named(tmp_path: Path) -> None:
    write_png(tmp_path / "whole.png", size=64)
    content = (tmp_path / "whole.png").read_bytes()
    assert inspect(str(tmp_path / "whole.png")) == ("L", 64, 64)
    for end in (0, 5, 20, 60, len(content) // 2, len(content) - 60):
        path = tmp_path / f"cut{end}.png"
        path.write_bytes(content[:end])
        with pytest.raises(DataError, match=rf"cut{end}\.png: "):
            read_grey(path)
        assert isinstance(inspect(str(path)), str)
    (tmp_path / "page.png").write_text("<html>not found</html>")
    with pytest.raises(DataError, match=r"page\.png: not an image"):
        read_grey(tmp_path / "page.png")
    with pytest.raises(DataError, match=r"gone\.png: missing"):
        read_grey(tmp_path / "gone.png")


def test_a_damaged_middle_needs_decoding_to_be_found(tmp_path: Path) -> None:
    write_png(tmp_path / "x.png", size=64)
    content = bytearray((tmp_path / "x.png").read_bytes())
    content[len(content) // 2] ^= 0xFF
    (tmp_path / "x.png").write_bytes(content)
    assert inspect(str(tmp_path / "x.png")) == ("L", 64, 64)
    assert isinstance(inspect(str(tmp_path / "x.png"), decode=True), str)


def _png_of_claimed_size(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("width", "height"), [(60_000, 60_000), (8193, 100), (15, 15)])
def test_absurd_sizes_are_refused(tmp_path: Path, width: int, height: int) -> None:
    path = tmp_path / "odd.png"
    path.write_bytes(_png_of_claimed_size(width, height))
    with pytest.raises(DataError, match=r"odd\.png: .*pixels"):
        read_grey(path)
    assert "pixels" in str(inspect(str(path)))


def test_values_without_a_known_range_are_refused(tmp_path: Path) -> None:
    Image.fromarray(GREY.astype(np.float32)).save(tmp_path / "f.tiff")
    with pytest.raises(DataError, match="mode F"):
        read_grey(tmp_path / "f.tiff")


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_file_that_viewers_turn_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x.{suffix}"
    for orientation in (1, 6):
        exif = Image.Exif()
        exif[274] = orientation
        Image.fromarray(BYTES).save(path, exif=exif)
        if orientation == 1:
            assert frame_of(path) == Frame(32, 32)
            assert read_grey(path).shape == (32, 32)
    for read in (read_grey, frame_of):
        with pytest.raises(DataError, match=rf"x\.{suffix}: it has an EXIF orientation.*save it upright"):
            read(path)


def test_real_images(nih_sample: Path) -> None:
    index = index_images(nih_sample)
    assert len(index.files) == 1244
    originals = index_images(nih_sample, "images_1024")
    for name in originals.files:
        small = decode(index.files[name], 64)
        np.testing.assert_allclose(small, decode(originals.files[name], 64), atol=0.05)
        assert small.std() > 0.05
