from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from xaibench.cli.data import command
from xaibench.datasets.chestxray8.audit import audit
from xaibench.errors import DataError

from .nih_release import entry, name, standard_boxes, standard_rows, write_png, write_release


def run(root: Path, *options: str) -> Result:
    return CliRunner().invoke(command, ["check", "chestxray8", "--data-root", str(root), *options])


def texts(root: Path, level: str, *, decode: bool = False) -> str:
    found = audit(root, decode=decode).findings
    return "\n".join(" ".join([x.text, *x.examples]) for x in found if x.level == level)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    names = [row.split(",")[0] for row in standard_rows()]
    lists = {"train_val_list.txt": names[12:], "test_list.txt": names[:12]}
    return write_release(tmp_path / "nih", standard_rows(), standard_boxes(), lists=lists)


def test_a_whole_release(root: Path) -> None:
    result = audit(root)
    assert result.usable
    assert result.counts["images named"] == result.counts["images found"] == 70
    assert (result.counts["patients"], result.counts["boxes"], result.counts["boxed images"]) == (60, 6, 6)
    assert result.files == {"L, 32 x 32": 70}
    rows = {row.name: row for row in result.classes}
    assert (rows["Effusion"].images, rows["Effusion"].found, rows["Effusion"].boxes) == (20, 20, 3)
    assert rows["Hernia"].images == 0
    assert "the release has 112120" in texts(root, "warning")
    assert result.counts["patients in both lists"] == 2  # visits 1 of patients 6 and 12
    assert "2 patients are in both official lists" in texts(root, "warning")


def test_problems_that_break_a_run(root: Path) -> None:
    path = root / "images" / name(1)
    path.write_bytes(path.read_bytes()[:-30])
    (root / "images" / name(2)).write_text("no image")
    errors = texts(root, "error")
    assert "2 image files can't be read" in errors
    assert name(1) in errors
    assert f"{name(2)}: not an image" in errors
    assert not audit(root).usable
    result = run(root)
    assert result.exit_code == 1
    assert result.output.strip().splitlines()[-1].startswith("not usable: 2 image files can't be read; download")


def test_decoding_finds_what_headers_hide(root: Path) -> None:
    path = root / "images" / name(3)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    assert audit(root).usable
    assert name(3) in texts(root, "error", decode=True)


def test_missing_images_and_lists_are_warnings(root: Path) -> None:
    (root / "images" / name(4)).unlink()
    (root / "test_list.txt").unlink()
    result = run(root)
    assert result.exit_code == 0
    assert name(4) in result.output
    assert "no test_list.txt" in result.output
    assert "usable in part: 1 images are missing" in result.output.strip().splitlines()[-1]


def test_oddities_are_named(tmp_path: Path) -> None:
    rows = [
        *standard_rows(),
        entry(1, "Cardiomegaly"),
        entry(70, "Infiltrate", age="414"),
        entry(71, "Efusion"),
        entry(72, "Mass").replace(",72,58", ",73,58"),
        entry(74, ""),
    ]
    boxes = [
        *standard_boxes(),
        f"{name(3)},Effusion,1,1,9,9",
        f"{name(99)},Mass,1,1,9,9",
        f"{name(11)},Effusion,1,1,0,9",
        f"{name(14)},Effusion,1000,1,90,9",
        f"{name(70)},Infiltrate,1,1,9,9",
    ]
    root = write_release(tmp_path / "nih", rows, boxes)
    write_png(root / "images_001" / name(5))
    write_png(root / "images" / "other.png")
    warnings, infos = texts(root, "warning"), texts(root, "info")
    for text in (
        f"1 images are listed twice {name(1)}",
        f"1 image ids do not start with their patient's id {name(72)}",
        f"1 images have no label {name(74)}",
        "1 labels that the release does not have Efusion",
        f"1 boxed images are not in Data_Entry {name(99)}",
        f"1 boxes whose finding is not among the image's labels {name(3)} (Effusion)",
        f"1 boxes have no area inside the image {name(11)} (Effusion)",
        "1 image files lie in two folders",
    ):
        assert text in warnings
    for text in (
        f"1 ages are above 120 years or unreadable (older tables have such), left empty {name(70)}: 414",
        "labels read under another name: Infiltrate (1)",
        f"1 boxes reach out of the image and are clipped {name(14)}",
        "1 image files are not named by Data_Entry",
    ):
        assert text in infos
    assert audit(root).usable


@pytest.mark.parametrize("table", ["Data_Entry_2017_v2020.csv", "BBox_List_2017.csv"])
def test_tables_that_are_missing_or_damaged(root: Path, table: str) -> None:
    (root / table).write_text("a,b\n1,2\n")
    result = run(root)
    assert result.exit_code == 1
    assert table in result.output.strip().splitlines()[-1]
    (root / table).unlink()
    result = run(root)
    assert result.exit_code == 1
    assert f"put {table} of the NIH release into the data root" in result.output


def test_no_data(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    result = run(tmp_path / "empty", "--json")
    assert result.exit_code == 1
    assert not json.loads(result.output)["usable"]
    with pytest.raises(DataError, match="is no folder"):
        audit(tmp_path / "nowhere")


def test_lists_that_overlap_break_a_run(root: Path) -> None:
    with (root / "test_list.txt").open("a") as file:
        file.write(f"\n{name(30)}\n{name(95)}")
    assert f"1 images are in both official lists {name(30)}" in texts(root, "error")
    assert f"1 images of test_list.txt are not in Data_Entry {name(95)}" in texts(root, "warning")


def test_the_sample_as_json(nih_sample: Path) -> None:
    result = run(nih_sample, "--json")
    assert result.exit_code == 0
    found = json.loads(result.output)
    assert found["usable"]
    assert found["counts"]["images named"] == 112_120
    assert found["counts"]["images found"] == 1244
    assert found["counts"]["boxes"] == 984
    assert found["counts"]["boxed images"] == 880
    assert found["counts"]["patients in both lists"] == 0
    assert found["files"] == {"L, 256 x 256": 1237, "RGBA, 256 x 256": 7}
    row = next(row for row in found["classes"] if row["name"] == "Pneumothorax")
    assert (row["boxes"], row["single_label"], row["found"]) == (98, 2194, 43)
    assert {finding["level"] for finding in found["findings"]} == {"warning", "info"}


def test_images_of_twelve_bits_in_sixteen_break_a_run(root: Path) -> None:
    for path in (root / "images").iterdir():
        Image.fromarray(np.linspace(0, 4095, 1024).astype(np.uint16).reshape(32, 32)).save(path)
    errors = texts(root, "error")
    assert "no pixel of 70 files decoded is above 4095 of 65535, a quarter of the range" in errors
    Image.fromarray(np.full((32, 32), 65535, dtype=np.uint16)).save(root / "images" / name(1))
    assert audit(root).usable


def test_an_orientation_breaks_a_run(root: Path) -> None:
    exif = Image.Exif()
    exif[274] = 3
    path = root / "images" / name(1)
    Image.open(path).save(path, exif=exif)
    for decode in (False, True):
        assert f"{name(1)}: it has an EXIF orientation" in texts(root, "error", decode=decode)
