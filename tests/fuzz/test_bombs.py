"""Files of a few bytes that ask for gigabytes: each is refused in one line, with 3 GiB of memory to live in."""

from __future__ import annotations

import json
import os
import pickle
import struct
import subprocess
import sys
import textwrap
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tests.evaluation.saved_runs import RECORD
from tests.tiny import tiny_benchmark
from xaibench.benchmark import read_benchmark
from xaibench.datasets.chestxray8.audit import inspect
from xaibench.datasets.folder import rle
from xaibench.errors import BenchmarkError, DataError, WeightsError, XaibenchError
from xaibench.explainers.maps import read_map
from xaibench.io.limits import (
    PIXELS,
    POLYGON_POINTS,
    ROWS,
    TEXT_BYTES,
    TOML_BYTES,
    check_archive,
    open_image,
    read_json,
)
from xaibench.results.run import Run, save_run

CHILD = """
import resource, sys, time, warnings
warnings.simplefilter("ignore")
import numpy, torch, pandas, pyarrow.parquet, PIL.Image
from pathlib import Path
from xaibench.errors import XaibenchError
from xaibench.classifiers.weights import read_state_dict
from xaibench.datasets.chestxray8.images import decode
from xaibench.datasets.folder.coco import read_coco
from xaibench.datasets.folder.items import refuse
from xaibench.datasets.folder.masks import read_masks
from xaibench.datasets.folder.options import Options
from xaibench.datasets.raster import read_header, read_values
from xaibench.explainers.maps import read_map
from xaibench.results.run import Run
folder = Path(sys.argv[1])
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 3 * 2**30,) * 2)
readers = {
    "image.png": [lambda p: decode(p, 64), read_values, read_header, read_map],
    "map.npy": [read_map],
    "dtype.npy": [read_map],
    "slot.pkl": [read_map],
    "array.pkl": [read_map],
    "expanded.pkl": [read_map],
    "weights.pth": [read_state_dict],
    "deep.json": [
        lambda p: read_coco(p, ["a"], Options(), "multiclass", refuse),
        lambda p: read_masks(p, [], ["a"], refuse),
    ],
    "run.json": [lambda p: Run.load(p.parent)],
}
for name, calls in readers.items():
    for call in calls:
        before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
        try:
            call(folder / name)
            print(name, "was read")
        except XaibenchError as error:
            message = str(error)
            assert "\\n" not in message and name in message, message
            grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
            print(name, "refused" if grown < 200 and time.monotonic() - began < 20 else f"took {grown} MiB")
"""


def png(width: int, height: int) -> bytes:
    """A PNG whose header promises so many pixels and whose data are some of them, all zero."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(10**6))) + chunk(b"IEND", b"")
    )


def npy(header: str) -> bytes:
    text = header.encode() + b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def global_(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory limits are set by Linux's means")
def test_bombs_are_refused_within_3_gib(tmp_path: Path) -> None:
    import torch

    (tmp_path / "image.png").write_bytes(png(60_000, 60_000))
    (tmp_path / "map.npy").write_bytes(npy("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000, 1000000), }"))
    (tmp_path / "dtype.npy").write_bytes(npy("{'descr': '|V999999999', 'fortran_order': False, 'shape': (99, 99), }"))
    (tmp_path / "slot.pkl").write_bytes(b"\x80\x02Nr\xff\xff\xff\x0f.")  # keep None in slot 268,435,455
    (tmp_path / "array.pkl").write_bytes(b"\x80\x05\x96" + struct.pack("<Q", 2**33) + b"abc.")  # 8 GiB of bytes
    torch.save(torch.zeros(1).expand(10**6, 10**6), tmp_path / "expanded.pkl")
    torch.save({"a": torch.zeros(1)}, tmp_path / "weights.pth")
    with zipfile.ZipFile(tmp_path / "weights.pth", "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("weights/data/1", bytes(2**26))
    (tmp_path / "deep.json").write_text('{"images": ' + "[" * 10**6)
    (tmp_path / "run.json").write_text('{"run": ' + '{"a":' * 10**5)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(CHILD), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = done.stdout.splitlines()
    assert len(lines) == 13
    assert all(line.endswith(" refused") for line in lines), done.stdout


def test_a_table_of_a_billion_equal_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ROWS >= 10_000_000
    monkeypatch.setattr("xaibench.io.limits.ROWS", 3)
    row = {"image": "a", "patient": "p", "class": "c", "explainer": "e", "metric": "m", "value": 1.0, "chance": 0.5}
    run = Run(tiny_benchmark(), "gcm", (), (), (), RECORD, (), tmp_path)
    save_run(run, [pd.DataFrame([row] * 3)], pd.DataFrame())
    assert len(run.images()) == 3
    save_run(run, [pd.DataFrame([row] * 4)], pd.DataFrame())
    with pytest.raises(XaibenchError, match=r"scores\.parquet: it has 4 rows, over the limit of 3"):
        run.images()


def test_pixels_are_counted_in_the_header(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png(9460, 9460))  # 89.49 million: Pillow itself only warns
    warned = pytest.warns(Image.DecompressionBombWarning)
    with warned, pytest.raises(ValueError, match="9460 x 9460 pixels, over"), open_image(path):
        pass
    path.write_bytes(png(9459, 9459))
    with open_image(path) as opened:
        assert opened.width * opened.height <= PIXELS
    assert "9459 x 9459 pixels, not 16 to 8192 a side" in str(inspect(str(path)))


def test_formats_that_start_other_programs_stay_shut(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (32, 32)).save(path, format="EPS")  # Pillow would start Ghostscript for it
    assert inspect(str(path), decode=True) == "not an image"
    with pytest.raises(DataError, match=r"a\.png is no image"):
        read_map(path)


def test_sizes_of_text(tmp_path: Path) -> None:
    for name, limit in (("a.json", TEXT_BYTES), ("a.toml", TOML_BYTES)):
        with (tmp_path / name).open("wb") as file:
            file.truncate(limit + 1)
    with pytest.raises(ValueError, match="it has 256 MiB, over the limit of 256 MiB"):
        read_json(tmp_path / "a.json")
    with pytest.raises(BenchmarkError, match=r"can't read .*a\.toml: it has 4 MiB, over the limit of 4 MiB"):
        read_benchmark(tmp_path / "a.toml")
    os.mkfifo(tmp_path / "b.toml")  # would be waited for, for ever
    with pytest.raises(BenchmarkError, match=r"b\.toml: it is no plain file"):
        read_benchmark(tmp_path / "b.toml")
    (tmp_path / "c.toml").write_text("a = " + "[" * 5000)
    with pytest.raises(BenchmarkError, match=r"can't read .*c\.toml: "):
        read_benchmark(tmp_path / "c.toml")


def test_json_says_each_name_once_and_numbers_only(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"a": {"b": 1, "c": 2, "b": 3}}')
    with pytest.raises(ValueError, match="'b' stands twice in one object"):
        read_json(path)
    path.write_text("[NaN, Infinity]")
    assert np.isnan(read_json(path)[0])
    with pytest.raises(ValueError, match="NaN is no number of JSON"):
        read_json(path, finite=True)


def test_archives_may_not_unpack_to_far_more_than_their_size(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", bytes(2**22))
    with pytest.raises(ValueError, match="would unpack to 4,194,304"):
        check_archive(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("a/data.pkl", bytes(2**22))
    assert check_archive(path) == ["a/data.pkl"]
    path.write_bytes(b"no archive")
    assert check_archive(path) == []


def test_a_type_that_denies_to_be_an_object_is_not_followed(tmp_path: Path) -> None:
    """numpy's own functions would take these eight bytes for the address of a Python object, and crash."""
    denied = global_("numpy", "dtype") + b"(X\x02\x00\x00\x00O8K\x00K\x01tR"
    denied += b"(K\x03X\x01\x00\x00\x00|NNNK\x08K\x08K\x00tb"
    scalar = b"\x80\x02" + global_("numpy.core.multiarray", "scalar") + denied + b"C\x08AAAAAAAA\x86R."
    (tmp_path / "a.pkl").write_bytes(scalar)
    with pytest.raises(DataError, match="'O8' holds no numbers"):
        read_map(tmp_path / "a.pkl")
    fields = np.dtype([("a", "f4")])
    (tmp_path / "b.pkl").write_bytes(pickle.dumps(np.zeros((2, 2), fields)))
    with pytest.raises(DataError, match="holds no numbers"):
        read_map(tmp_path / "b.pkl")


def test_pickled_arrays_of_either_order_of_bytes_and_axes(tmp_path: Path) -> None:
    values = np.arange(6.0).reshape(2, 3)
    for kind in (">f8", "<f4", ">i2", "u1", "?"):
        for array in (values.astype(kind), np.asfortranarray(values.astype(kind))):
            for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
                (tmp_path / "a.pkl").write_bytes(pickle.dumps({"map": array}, protocol=protocol))
                assert np.array_equal(read_map(tmp_path / "a.pkl"), array.astype(np.float32))


def test_run_length_codes_and_polygons_are_bounded() -> None:
    with pytest.raises(ValueError, match="a number without end"):
        rle.uncompress("P" * 10**6)
    with pytest.raises(ValueError, match="runs for 2 x 2 pixels"):
        rle.decode([0] * 100, 2, 2)
    with pytest.raises(ValueError, match="do not add up to 2 x 2"):
        rle.decode([10**400], 2, 2)
    with pytest.raises(ValueError, match="no more than 100,000"):
        rle.polygon([0, 1] * (POLYGON_POINTS + 1), 2, 2)
    for odd in (float("nan"), float("inf"), 1e10):
        with pytest.raises(ValueError, match="no pixel's"):
            rle.polygon([0, 0, 1, 1, odd, 1], 2, 2)
    zigzag = [corner for n in range(5_000) for corner in (0.4 * n % 997, 1000 * (n % 2))]
    assert rle.polygon(zigzag, 1000, 1000).any()  # 5,000 edges, each over all rows


@pytest.mark.parametrize("seed", range(6))
def test_polygons_are_those_of_the_plain_rule(seed: int) -> None:
    """The even-odd rule written pixel by pixel: how often does a ray to the left cross an edge?"""
    rng = np.random.default_rng(seed)
    corners = rng.integers(-4, 40, (7, 2)) / 2
    height, width = 13, 17
    expected = np.zeros((height, width), dtype=bool)
    for row in range(height):
        for column in range(width):
            x, y = column + 0.5, row + 0.5
            for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
                if min(y0, y1) <= y < max(y0, y1) and x >= x0 + (y - y0) * (x1 - x0) / (y1 - y0):
                    expected[row, column] ^= True
    assert np.array_equal(rle.polygon(corners.ravel().tolist(), height, width), expected)


def test_weights_that_are_cut_off_or_empty(tmp_path: Path) -> None:
    from xaibench.classifiers.weights import read_state_dict

    for name, content in (
        ("a.safetensors", struct.pack("<Q", 2**60) + b"{}"),
        ("b.safetensors", struct.pack("<Q", 99_999_999) + b"{"),
        ("c.pth", b""),
        ("d.pth", b"PK\x03\x04"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(WeightsError, match=name):
            read_state_dict(tmp_path / name)


def test_coco_bombs(tmp_path: Path) -> None:
    from xaibench.datasets.folder.coco import read_coco
    from xaibench.datasets.folder.items import refuse
    from xaibench.datasets.folder.marks import mask_of
    from xaibench.datasets.folder.options import Options

    table = {"categories": [{"id": 1, "name": "a"}], "images": [{"id": 1, "file_name": "a.png"}], "annotations": []}
    path = tmp_path / "coco.json"
    for side in (1e999, -5, 10**400, 1.5, "4"):
        image = {**table["images"][0], "width": side, "height": 4}
        path.write_text(json.dumps({**table, "images": [image]}).replace("Infinity", "1e999"))
        with pytest.raises(
            DataError, match=r"coco\.json: image 1: width and height .* are not whole numbers of pixels"
        ):
            read_coco(path, ["a"], Options(), "multiclass", refuse)
    big = {"size": [10**9, 10**9], "counts": [10**18]}
    with pytest.raises(ValueError, match=r"a mask of \[1000000000, 1000000000\] on an image of \[4, 4\]"):
        mask_of(big, 4, 4)
    with pytest.raises(ValueError, match="do not add up to 4 x 4"):
        mask_of({"size": [4, 4], "counts": [10**18]}, 4, 4)
