"""``xaibench data check folder``: what it counts, what it finds, and that it finds all of it at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from xaibench.cli.app import main
from xaibench.cli.data import command
from xaibench.datasets.folder.audit import FolderAudit, audit
from xaibench.errors import DataError, UsageError

from .folder_data import CLASSES, load, noise, save, write_coco, write_table


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Twelve images of 32 x 24, four patients; two have a mass with a box, two have neither class."""
    rows, boxes = [], []
    for n in range(12):
        save(tmp_path / "images" / f"{n}.png", noise(n, 24, 32))
        split = ("train", "train", "val", "test")[n // 3]
        mass, normal = n % 3 == 0, n % 3 == 1 or n in (2, 5)
        rows.append(f"{n}.png,p{n // 3},{split},{int(normal)},{int(mass)}")
        if mass:
            boxes.append(f"{n}.png,Mass,4,4,8,6")
    boxes.append("0.png,Clip,1,1,5,5")
    write_table(tmp_path, rows, header="image,patient,split,No Finding,Mass", boxes=boxes)
    write_benchmark(tmp_path)
    return tmp_path


def write_benchmark(root: Path, extra: str = "", task: str = "multiclass") -> None:
    (root / "b.toml").write_text(
        f'name = "b"\ntask = "{task}"\nclasses = ["No Finding", "Mass"]\ninput_size = 32\n'
        '[dataset]\nname = "folder"\n[dataset.options]\ntable = "labels.csv"\nboxes = "boxes.csv"\nimages = "images"\n'
        f'patient_column = "patient"\nsplit_column = "split"\n{extra}\n[[metrics]]\nname = "roc_auc"\n'
    )


def run(root: Path, *options: str) -> Result:
    arguments = ["check", "folder", "--data-root", str(root), "-b", str(root / "b.toml"), *options]
    return CliRunner().invoke(command, arguments)


def checked(root: Path, **options: Any) -> FolderAudit:
    given = {"table": "labels.csv", "boxes": "boxes.csv", "images": "images", "split_column": "split", **options}
    task = given.pop("task", "multiclass")
    decode = given.pop("decode", False)
    return audit(root, CLASSES, {key: value for key, value in given.items() if value}, task, decode=decode)


def texts(found: FolderAudit, level: str) -> str:
    return "\n".join(" ".join([x.text, x.remedy, *x.examples]) for x in found.findings if x.level == level)


def test_a_data_set_in_order(root: Path) -> None:
    found = checked(root, patient_column="patient")
    assert found.usable
    assert found.left_out == {"of none of the classes": 2}
    assert {name: found.counts[name] for name in ("images named", "images found", "patients", "boxes", "masks")} == {
        "images named": 12,
        "images found": 12,
        "patients": 4,
        "boxes": 4,
        "masks": 0,
    }
    in_splits = [found.counts[f"images in {name}"] for name in ("train", "val", "test")]
    assert in_splits == [6, 2, 2]
    assert sum(in_splits) + sum(found.left_out.values()) == found.counts["images named"]
    rows = {row.name: row for row in found.classes}
    assert (rows["Mass"].images, rows["Mass"].train, rows["Mass"].val, rows["Mass"].test) == (4, 2, 1, 1)
    assert (rows["Mass"].boxes, rows["No Finding"].boxes) == (4, 0)
    assert found.files == {"L, 32 x 24": 10}
    assert "1 boxes of other classes left out (Clip 1)" in texts(found, "info")
    assert found.values["8 bits"].endswith("in 10 files decoded")
    assert checked(root, task="multilabel").left_out == {}


def test_from_the_command_line(root: Path) -> None:
    result = run(root)
    assert result.exit_code == 0
    assert result.output.splitlines()[-1] == "usable"
    assert "folder in" in result.output
    table = json.loads(run(root, "--json", "--decode").output)
    assert table["usable"]
    assert table["counts"]["images in test"] == 2
    assert table["classes"][1] == {"name": "Mass", "images": 4, "train": 2, "val": 1, "test": 1, "boxes": 4, "masks": 0}
    assert table["left_out"] == {"of none of the classes": 2}
    (root / "images" / "3.png").unlink()
    result = run(root)
    assert result.exit_code == 1
    assert result.output.splitlines()[-1].startswith("not usable: 1 image files are missing; put them there")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["folder"], "folder needs --benchmark FILE"),
        (["folder", "-b", "phantom"], "benchmark 'phantom' is on phantom: give one on folder"),
        (["folder", "-b", "b.toml", "--images", "x"], "--images goes with chestxray8"),
        (["chestxray8", "-b", "b.toml"], "--benchmark goes with folder"),
    ],
)
def test_wrong_use_exits_with_2(
    root: Path,
    arguments: list[str],
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(root)
    assert main(["data", "check", *arguments, "--data-root", "."]) == 2
    assert reason in capsys.readouterr().err


def test_all_contradictions_at_once(root: Path) -> None:
    (root / "images" / "1.png").write_text("no image")
    (root / "images" / "4.png").unlink()
    with (root / "boxes.csv").open("a") as file:
        file.write("2.png,Mass,1,1,5,5\n6.png,Mass,0.1,0.1,0.3,0.3\n77.png,Mass,1,1,5,5\n9.png,Mass,50,4,10,8\n")
    found = checked(root, patient_column="patient")
    errors = texts(found, "error")
    assert not found.usable
    assert "4 contradictions" in errors
    for text in (
        "boxes.csv:7: Mass is marked on 2.png",
        "boxes.csv:8: the box [0.1, 0.1, 0.4, 0.4] on 6.png lies in [0, 1]",
        "boxes.csv:9: image '77.png' is not in the table of images",
        "boxes.csv:10: a box of 9.png is outside its 32 x 24 pixels",
        "1 image files are missing",
        "images/4.png",
        "1 image files can't be read",
        "1.png: not an image",
    ):
        assert text in errors
    assert found.left_out == {"of none of the classes": 2, "whose file is missing": 1, "whose file can't be read": 1}
    in_splits = sum(found.counts[f"images in {name}"] for name in ("train", "val", "test"))
    assert in_splits + sum(found.left_out.values()) == found.counts["images named"] == 12
    with pytest.raises(DataError, match=r"boxes\.csv:9"):  # a run stops at the first that it meets
        load(root, boxes="boxes.csv", images="images")


def test_a_damaged_table_and_a_wrong_option(root: Path) -> None:
    (root / "labels.csv").write_text("image,split,No Finding\n")
    assert "no column 'Mass'" in texts(checked(root), "error")
    with pytest.raises(UsageError, match="no option 'tabel'"):
        checked(root, tabel="x")
    with pytest.raises(DataError, match="is no folder"):
        audit(root / "nowhere", CLASSES, {"table": "labels.csv"}, "multiclass")


@pytest.mark.parametrize(
    ("top", "kind", "error"),
    [(4095, np.uint16, True), (16383, np.uint16, True), (20000, np.uint16, False), (60, np.uint8, True)],
)
def test_an_unused_upper_range_is_an_error_with_a_remedy_that_works(
    root: Path, top: int, kind: Any, error: bool
) -> None:
    for n in range(12):
        pixels = np.linspace(0, top - 20 * n % 50, 24 * 32).reshape(24, 32)
        pixels[3, 3] = top
        save(root / "images" / f"{n}.png", pixels.astype(kind))
    found = checked(root, patient_column="patient")
    errors = texts(found, "error")
    assert ("no pixel of 10 files decoded is above" in errors) == error
    assert found.usable != error
    if error:
        assert 'range = "percentile"' in errors
        assert ('range = "stored"' in errors) == (kind is np.uint16)
        assert checked(root, patient_column="patient", range="percentile").usable
    if kind is np.uint16:
        assert checked(root, patient_column="patient", range="stored").usable
        assert f"({top.bit_length()} bits in use)" in found.values["16 bits"]


def test_one_bright_file_is_enough_and_types_are_told_apart(root: Path) -> None:
    save(root / "images" / "0.png", np.full((24, 32), 4095, dtype=np.uint16))  # the others are of 8 bits, and bright
    assert "no pixel of 1 files decoded is above 4095 of 65535" in texts(checked(root), "error")
    save(root / "images" / "1.png", np.full((24, 32), 40000, dtype=np.uint16))
    assert checked(root).usable


def test_the_sample_is_stated(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xaibench.datasets.folder.audit.spread", lambda count: [0, count - 1])
    assert checked(root).values["8 bits"].endswith("in 2 files decoded")
    assert checked(root, decode=True).values["8 bits"].endswith("in 10 files decoded")


def test_floats_orientations_and_copies(root: Path) -> None:
    save(root / "images" / "0.png", noise(0, 24, 32), orientation=6)
    (root / "images" / "9.png").write_bytes((root / "images" / "3.png").read_bytes())
    found = checked(root, decode=True)
    assert found.counts["files with an EXIF orientation"] == 1
    assert "1 images turned by their EXIF orientation" in texts(found, "info")
    assert "1 images are there under several names keep one of each 3.png = 9.png" in texts(found, "warning")
    save(root / "images" / "a.tif", np.linspace(-5, 900, 24 * 32, dtype=np.float32).reshape(24, 32))
    with (root / "labels.csv").open("a") as file:
        file.write("a.tif,pa,train,1,0\n")
    assert 'have no known range set the option range = "percentile"' in texts(checked(root), "error")
    assert checked(root, range="percentile").usable


def test_coco_masks_are_counted_and_slivers_found(root: Path) -> None:
    for name in ("n.png", "m.png"):
        save(root / "images" / name, noise(3))
    square, sliver = [[2, 2, 9, 2, 9, 9, 2, 9]], [[2, 2.6, 9, 2.6, 9, 2.9, 2, 2.9]]
    write_coco(root, [{"segmentation": square}, {"bbox": [20, 2, 9, 9]}])
    found = checked(root, table="", boxes="", coco="coco.json")
    assert (found.counts["boxes"], found.counts["masks"], found.counts["images with a region"]) == (1, 1, 1)
    write_coco(root, [{"segmentation": sliver}])
    assert "annotation 100: m.png: segmentation: it covers no pixel" in texts(
        checked(root, table="", boxes="", coco="coco.json"), "error"
    )
