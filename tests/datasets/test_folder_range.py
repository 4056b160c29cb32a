"""Values: full, stored and percentile ranges, colour and grey, and the bits of 8-bit images as they were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from xaibench.datasets.chestxray8.images import decode
from xaibench.errors import DataError, UsageError

from .folder_data import load, noise, save, two, write_table
from .test_raster import big_endian, png

DEEP = np.linspace(0, 4095, 32 * 32).round().astype(np.uint16).reshape(32, 32)
SIXTEEN = np.linspace(0, 65535, 32 * 32).round().astype(np.uint16).reshape(32, 32)


def image(root: Path, pixels: Any, **options: Any) -> Any:
    """Return the test image m.png (or .tif for floats) at its own size of 32 x 32."""
    name = "m.tif" if np.asarray(pixels).dtype.kind in "fi" else "m.png"
    save(root / "n.png", noise(height=32, width=32))
    save(root / name, pixels)
    write_table(root, ["n.png,train,1,0", f"{name},test,0,1"])
    return load(root, **options).test[0].image


@pytest.mark.parametrize("size", [20, 32, 48])
def test_grey_of_8_bits_is_to_the_bit_what_it_was(tmp_path: Path, size: int) -> None:
    two(tmp_path, noise(3, 32, 32))
    assert np.array_equal(load(tmp_path, size).test[0].image, decode(tmp_path / "m.png", size))
    assert np.array_equal(load(tmp_path, size, range="stored").test[0].image, decode(tmp_path / "m.png", size))


def test_colour_of_a_deep_grey_image_repeats_it(tmp_path: Path) -> None:
    grey = image(tmp_path, SIXTEEN)
    colour = image(tmp_path, SIXTEEN, color=True)
    assert grey.shape == (1, 32, 32)
    assert np.array_equal(colour, np.repeat(grey, 3, axis=0))
    assert np.array_equal(grey[0], SIXTEEN.astype(np.float32) / np.float32(65535))
    floats = (SIXTEEN / 65535).astype(np.float32)
    assert np.array_equal(image(tmp_path, floats, color=True), np.stack([floats] * 3))


def test_twelve_bits_in_sixteen(tmp_path: Path) -> None:
    assert image(tmp_path, DEEP).max() == pytest.approx(4095 / 65535)
    for color in (False, True):
        stored = image(tmp_path, DEEP, range="stored", color=color)
        assert np.array_equal(stored[0], DEEP.astype(np.float32) / np.float32(4095))
    for largest, divisor in ((255, 255), (256, 1023), (1023, 1023), (1024, 4095), (4096, 16383), (16384, 65535)):
        pixels = DEEP * 0 + np.uint16(largest)
        assert image(tmp_path, pixels, range="stored").max() == pytest.approx(largest / divisor)


def test_stored_bits_are_those_of_the_whole_data_set(tmp_path: Path) -> None:
    save(tmp_path / "n.png", DEEP)
    save(tmp_path / "m.png", DEEP // 16)  # 8 bits in use by itself
    write_table(tmp_path, ["n.png,train,1,0", "m.png,test,0,1"])
    splits = load(tmp_path, range="stored")
    assert splits.train[0].image.max() == 1
    assert splits.test[0].image.max() == pytest.approx(255 / 4095)
    save(tmp_path / "n.png", DEEP * 16)
    again = load(tmp_path, range="stored")
    assert again.test[0].image.max() == pytest.approx(255 / 65535)
    assert again.test.fingerprint != splits.test.fingerprint
    assert again.test.image_key(0) != splits.test.image_key(0)


def test_declared_bits_are_taken_at_their_word_unless_the_values_say_otherwise(tmp_path: Path) -> None:
    save(tmp_path / "n.png", noise(height=32, width=32))
    write_table(tmp_path, ["n.png,train,1,0", "m.png,test,0,1"])
    declared = (b"sBIT", bytes([12]))
    dark = DEEP // 8  # 9 bits in use, of 12 that are declared
    png(tmp_path / "m.png", big_endian(dark), 16, 0, declared)
    assert np.array_equal(load(tmp_path, range="stored").test[0].image[0], dark.astype(np.float32) / np.float32(4095))
    scaled = (DEEP << 4) | (DEEP >> 8)  # as the specification scales 12 bits up to 16
    png(tmp_path / "m.png", big_endian(scaled), 16, 0, declared)
    assert load(tmp_path, range="stored").test[0].image.max() == 1
    assert np.allclose(
        load(tmp_path, range="stored").test[0].image[0], DEEP / 4095, atol=2e-5
    )  # to within a step of 65,535


def test_percentiles(tmp_path: Path) -> None:
    values = np.arange(1024, dtype=np.float32).reshape(32, 32) * 10 - 500
    low, high = np.percentile(values, [0.5, 99.5])
    expected = ((values - low) / (high - low)).clip(0, 1)
    assert np.allclose(image(tmp_path, values, range="percentile")[0], expected, atol=1e-6)
    assert np.allclose(image(tmp_path, values.astype(np.int32), range="percentile")[0], expected, atol=1e-6)
    assert image(tmp_path, values * 0 + 7, range="percentile").max() == 0
    spot = np.zeros((32, 32), dtype=np.uint8)
    spot[0, 0] = 50  # both percentiles are 0
    assert image(tmp_path, spot, range="percentile").max() == 1
    rgb = np.stack([noise(k, 32, 32, 100) for k in range(3)], axis=-1)
    colour = image(tmp_path, rgb, range="percentile", color=True)
    low, high = np.percentile(rgb, [0.5, 99.5])
    assert np.allclose(colour, ((np.moveaxis(rgb, -1, 0) - low) / (high - low)).clip(0, 1), atol=1e-6)


@pytest.mark.parametrize("range_", ["full", "stored"])
def test_unknown_ranges_are_refused_with_a_remedy_that_works(tmp_path: Path, range_: str) -> None:
    ramp = np.linspace(-1000, 3000, 1024, dtype=np.float32).reshape(32, 32)
    for values in (ramp, ramp.astype(np.int32), np.abs(ramp).astype(np.int32)):
        with pytest.raises(
            DataError, match=r"m\.tif: values of mode [FI] from .* set the dataset option range = \"perc"
        ):
            image(tmp_path, values, range=range_)
        assert image(tmp_path, values, range="percentile").max() == 1
    with pytest.raises(UsageError, match="range = 'auto'; it is one of full, stored, percentile"):
        image(tmp_path, ramp, range="auto")


def test_colours_become_their_luminance(tmp_path: Path) -> None:
    rgb = np.stack([noise(k, 32, 32) for k in range(3)], axis=-1)
    rgb[:8] = rgb[:8, :, :1]  # grey: exactly its value
    grey = image(tmp_path, rgb)[0]
    weighted = (rgb.astype(float) / 255) @ [0.299, 0.587, 0.114]
    assert np.allclose(grey, weighted, atol=1e-6)
    assert np.array_equal(grey[:8], rgb[:8, :, 0].astype(np.float32) / np.float32(255))
    assert np.array_equal(
        image(tmp_path, rgb, color=True), np.moveaxis(rgb, -1, 0).astype(np.float32) / np.float32(255)
    )
    alpha = np.concatenate([rgb, noise(9, 32, 32)[..., None]], axis=-1)
    assert np.array_equal(image(tmp_path, alpha)[0], grey)
    palette = Image.fromarray(noise(3, 32, 32)).convert("P")
    palette.putpalette([value for k in range(256) for value in (k, 255 - k, 9)])
    palette.save(tmp_path / "m.png")
    index = noise(3, 32, 32).astype(float)
    expected = (0.299 * index + 0.587 * (255 - index) + 0.114 * 9) / 255
    assert np.allclose(load(tmp_path).test[0].image[0], expected, atol=1e-6)


def test_what_decodes_is_part_of_keys_and_fingerprints(tmp_path: Path) -> None:
    two(tmp_path, noise(3, 32, 32))
    recipes: list[dict[str, Any]] = [{}, {"range": "percentile"}, {"range": "stored"}, {"color": True}]
    made = [load(tmp_path, **recipe).test for recipe in recipes]
    assert len({split.fingerprint for split in made}) == len({split.image_key(0) for split in made}) == 4


def test_a_file_that_changed_below_a_run_is_said(tmp_path: Path) -> None:
    save(tmp_path / "n.png", DEEP)
    save(tmp_path / "m.png", DEEP)
    write_table(tmp_path, ["n.png,train,1,0", "m.png,test,0,1"])
    test = load(tmp_path, range="stored").test
    save(tmp_path / "m.png", SIXTEEN)
    with pytest.raises(DataError, match=r"m\.png holds 65535, above the 4095 .* it changed"):
        test[0]
    save(tmp_path / "m.png", DEEP[:16])
    with pytest.raises(DataError, match=r"m\.png is no longer of 32 x 32 pixels: it changed"):
        test[0]
