"""The dataset `folder`: tables, COCO files, masks by hand, splits, and a benchmark from end to end."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.tiny import tiny_benchmark
from xaibench.benchmark import Benchmark
from xaibench.datasets.base import Splits
from xaibench.datasets.folder import folder
from xaibench.datasets.folder.rle import decode, polygon, uncompress
from xaibench.errors import DataError, UsageError
from xaibench.testing import check_dataset

CLASSES = ("No Finding", "Mass")


def compress(counts: list[int]) -> str:
    """COCO's code, written from its description for the round trip."""
    text = ""
    for at, count in enumerate(counts):
        value, more = count - (counts[at - 2] if at > 2 else 0), True
        while more:
            low, value = value & 31, value >> 5
            more = value != -1 if low & 16 else value != 0
            text += chr(48 + (low | 32 if more else low))
    return text


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Forty images of 40 x 20, two of a patient; every other patient has a mass, a bright square."""
    rng = np.random.default_rng(0)
    rows, boxes = ["image,patient,split,No Finding,Mass"], ["image,class,x,y,w,h"]
    (tmp_path / "images").mkdir()
    for n in range(40):
        pixels = rng.integers(0, 100, (20, 40), dtype=np.uint8)
        patient, mass = n // 2, n // 2 % 2
        if mass:
            pixels[4:12, 10:20] = 250
            boxes.append(f"{n}.png,Mass,10,4,10,8")
        Image.fromarray(pixels).save(tmp_path / "images" / f"{n}.png")
        rows.append(f"{n}.png,p{patient},{'train' if n < 20 else 'val' if n < 28 else 'test'},{1 - mass},{mass}")
    (tmp_path / "labels.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "boxes.csv").write_text("\n".join(boxes) + "\n")
    return tmp_path


def load(root: Path, size: int = 32, **options: Any) -> Splits:
    base = {} if "coco" in options else {"table": "labels.csv", "boxes": "boxes.csv", "patient_column": "patient"}
    return folder(classes=CLASSES, input_size=size, data_root=root, options={"images": "images", **base, **options})


def test_conforms(root: Path) -> None:
    options = {"images": "images", "table": "labels.csv", "boxes": "boxes.csv", "patient_column": "patient"}
    assert check_dataset("folder", classes=CLASSES, data_root=root, options=options) == []


def test_split_by_column_and_boxes_carried_to_the_frame(root: Path) -> None:
    splits = load(root, 80, split_column="split")
    assert [len(splits.train), len(splits.val), len(splits.test)] == [20, 8, 12]
    assert splits.train.ids[:3] == ["0.png", "1.png", "2.png"]
    assert splits.train.patients[:3] == ["p0", "p0", "p1"]
    assert splits.train.labels[:3].tolist() == [[1, 0], [1, 0], [0, 1]]
    sample = splits.train[2]
    assert sample.image.shape == (1, 80, 80)
    assert sample.regions[1].boxes.tolist() == [[20, 16, 40, 48]]  # twice as wide, four times as high
    assert sample.image[0, 20:44, 24:36].mean() == pytest.approx(250 / 255, abs=1e-3)
    assert splits.train.regions(0) == {}
    assert load(root, color=True).train[0].image.shape == (3, 32, 32)


def test_seeded_split_is_patient_disjoint_and_repeats(root: Path) -> None:
    first, again, other = load(root), load(root), load(root, split_seed=1)
    assert [len(s) for s in (first.train, first.val, first.test)] == [26, 4, 10]
    assert not {*first.train.patients} & {*first.test.patients}
    assert not {*first.val.patients} & ({*first.test.patients} | {*first.train.patients})
    assert first.test.ids == again.test.ids != other.test.ids
    assert first.test.fingerprint == again.test.fingerprint != other.test.fingerprint


def test_the_patient_is_asked_for(root: Path) -> None:
    splits = load(root, patient_column="")
    assert splits.test.patients == splits.test.ids
    assert any("no patient_column: each image counts as a patient" in note for note in splits.notes)
    assert not any("no patient_column" in note for note in load(root).notes)


@pytest.mark.parametrize(
    ("file", "line", "text", "reason"),
    [
        ("labels.csv", 3, "2.png,p1,train,0,yes", r"labels\.csv:4: Mass = 'yes'; it is 0 or 1"),
        ("labels.csv", 3, "0.png,p1,train,0,1", r"labels\.csv:4: image '0\.png' came already \(.*labels\.csv:2\)"),
        ("labels.csv", 3, "2.png,p1,train,0", r"labels\.csv:4: not 5 fields"),
        ("labels.csv", 3, "2.png,,train,0,1", r"labels\.csv:4: no patient"),
        ("labels.csv", 3, "2.png,p1,tset,0,1", r"labels\.csv:4: split = 'tset'; it is train, val or test"),
        ("labels.csv", 3, "2.png,p1,test,0,1", r"labels\.csv:5: patient 'p1' is in train and, by .*:4, in test"),
        ("labels.csv", 3, "absent.png,p1,train,0,1", r"boxes\.csv:2: image '2\.png' is not in the table of images"),
        ("labels.csv", 1, "absent.png,p0,train,1,0", r"labels\.csv:2: no image .*absent\.png"),
        ("labels.csv", 0, "image,patient,split,No Finding,Masss", r"no column 'Mass'\. Did you mean 'Masss'"),
        ("boxes.csv", 2, "3.png,Mass,10,4,0,8", r"boxes\.csv:3: the box .* has no area"),
        ("boxes.csv", 2, "3.png,Mass,10,four,3,8", r"boxes\.csv:3: could not convert"),
        ("boxes.csv", 0, "image,class,x,y,w,hh", r"a box needs the columns x0, y0, x1, y1 or x, y, w, h"),
    ],
)
def test_errors_name_file_and_line(root: Path, file: str, line: int, text: str, reason: str) -> None:
    lines = (root / file).read_text().splitlines()
    lines[line] = text
    (root / file).write_text("\n".join(lines))
    with pytest.raises(DataError, match=reason) as caught:
        load(root, split_column="split")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"tabel": "x"}, "no option 'tabel'. Did you mean 'table'"),
        ({"coco": "x.json", "table": "labels.csv"}, "give one of the options table = .* and coco = "),
        ({"test_fraction": 1.0}, "test_fraction = 1.0; it is a share"),
        ({"split_seed": "0"}, "split_seed = '0'; it is a int"),
        ({"split_seed": True}, "split_seed = True; it is a int"),
    ],
)
def test_options_are_checked(root: Path, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        load(root, **options)
    with pytest.raises(UsageError, match="folder needs --data-root"):
        folder(classes=CLASSES, input_size=32, data_root=None, options={"table": "labels.csv"})


def test_a_box_outside_its_image_says_so(root: Path) -> None:
    with (root / "boxes.csv").open("a") as file:
        file.write("2.png,Mass,50,4,10,8\n")
    with pytest.raises(DataError, match=r"boxes\.csv:22: a box of 2\.png is outside its 40 x 20 pixels"):
        load(root, split_column="split")


def test_polygon_and_run_lengths_by_hand() -> None:
    # an L, and a triangle whose hypotenuse passes through pixels' centres
    corner = polygon([0, 0, 1, 0, 1, 2, 3, 2, 3, 3, 0, 3], 3, 4)
    assert corner.astype(int).tolist() == [[1, 0, 0, 0], [1, 0, 0, 0], [1, 1, 1, 0]]
    assert polygon([0, 0, 40, 0, 40, 20, 0, 20], 20, 40).all()
    assert decode([0, 2, 3, 1], 3, 2).astype(int).tolist() == [[1, 0], [1, 0], [0, 1]]
    for bad in ([1, 2], [-1, 7], [1.5, 4.5], "0", "`", "\x7f"):
        with pytest.raises(ValueError, match="run"):
            decode(bad, 3, 2)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(5))
def test_compressed_run_lengths_come_back(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.random((37, 53)) < (0.02, 0.2, 0.5, 0.8, 0.999)[seed]
    flat = np.concatenate([[0], mask.ravel(order="F").astype(int)])
    edges = np.flatnonzero(np.diff(flat))
    counts = np.diff(np.concatenate([[0], edges, [mask.size]])).tolist()
    assert uncompress(compress(counts)) == counts
    assert np.array_equal(decode(compress(counts), 37, 53), mask)


def coco(root: Path, segmentation: Any, **changes: Any) -> None:
    table = {
        "images": [{"id": n, "file_name": f"{n}.png", "who": n // 2} for n in range(40)],
        "categories": [{"id": 7, "name": "Mass"}, {"id": 8, "name": "Clip"}],
        "annotations": [
            {"id": 100 + n, "image_id": n, "category_id": 7, "bbox": [10, 4, 10, 8]} for n in range(0, 40, 4)
        ],
    }
    table["annotations"][0] = {"id": 100, "image_id": 0, "category_id": 7, "segmentation": segmentation}
    table["annotations"].append({"id": 1, "image_id": 1, "category_id": 8, "bbox": [0, 0, 1, 1]})
    (root / "coco.json").write_text(json.dumps({**table, **changes}))


RUNS = [200 + 4, *[8, 12] * 9, 8, 20 * 20 + 8]


@pytest.mark.parametrize(
    "segmentation",
    [
        [[10, 4, 20, 4, 20, 12, 10, 12]],
        [[10, 4, 15, 4, 15, 12, 10, 12], [15, 4, 20, 4, 20, 12, 15, 12]],
        {"size": [20, 40], "counts": RUNS},
        {"size": [20, 40], "counts": compress(RUNS)},
    ],
)
def test_coco_boxes_polygons_and_both_codes(root: Path, segmentation: Any) -> None:
    coco(root, segmentation)
    splits = load(root, 80, coco="coco.json", patient_column="who")
    found = {
        split.ids[row]: (split, row) for split in (splits.train, splits.val, splits.test) for row in range(len(split))
    }
    assert "1.png" not in found  # its only annotation is of a class that is not asked for
    split, row = found["0.png"]
    region = split.regions(row)[1]
    wanted = np.zeros((80, 80), dtype=bool)
    wanted[16:48, 20:40] = True
    assert np.array_equal(region.mask, wanted)
    assert region.boxes.tolist() == [[20, 16, 40, 48]]
    split, row = found["4.png"]
    assert split.regions(row)[1].boxes.tolist() == [[20, 16, 40, 48]]
    assert split.patients[row] == "2"
    split, row = found["3.png"]
    assert split.labels[row].tolist() == [1, 0]
    assert split.regions(row) == {}


@pytest.mark.parametrize(
    ("segmentation", "reason"),
    [
        ({"size": [40, 20], "counts": RUNS}, r"a mask of \[40, 20\] on an image of \[20, 40\]"),
        ({"size": [20, 40], "counts": [1, 2]}, "the runs do not add up to 20 x 40"),
        ([[1, 2, 3]], "a polygon needs three points"),
    ],
)
def test_wrong_masks_name_the_image(root: Path, segmentation: Any, reason: str) -> None:
    coco(root, segmentation)
    with pytest.raises(DataError, match=rf"coco\.json: annotation 100: 0\.png: segmentation: {reason}"):
        load(root, coco="coco.json")


def test_damaged_coco_files(root: Path) -> None:
    with pytest.raises(DataError, match=r"coco\.json: no such file"):
        load(root, coco="coco.json")
    (root / "coco.json").write_text("{")
    with pytest.raises(DataError, match="is no COCO file"):
        load(root, coco="coco.json")
    (root / "coco.json").write_text("{}")
    with pytest.raises(DataError, match="the key 'categories' is missing"):
        load(root, coco="coco.json")
    coco(root, [[0, 0, 1, 0, 1, 1]], images=[])
    with pytest.raises(DataError, match="annotation 100: its image_id or category_id is not in the file"):
        load(root, coco="coco.json")


def test_a_tiny_benchmark_from_end_to_end(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from xaibench.evaluation.evaluate import evaluate

    monkeypatch.setenv("XAIBENCH_CACHE", str(root / "cache"))
    options = {"table": "labels.csv", "boxes": "boxes.csv", "images": "images", "patient_column": "patient"}
    table = tiny_benchmark(classes=CLASSES, input_size=32).model_dump()
    table["dataset"] = {"name": "folder", "options": options}
    table["classifiers"]["default"]["options"] = {"weights": "random"}
    run = evaluate("timm:test_resnet", ["gradcam"], Benchmark.model_validate(table), data_root=root, device="cpu")
    (score,) = run.select(explainer="gradcam", metric="hit_rate", class_name="Mass")
    assert score.n > 0
    assert score.chance == pytest.approx(10 * 8 / 800, abs=0.03)


def test_the_documented_benchmark_is_one() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "folder.md").read_text()
    (block,) = re.findall(r"```toml\n(.*?)```", text, flags=re.DOTALL)
    benchmark = Benchmark.model_validate(tomllib.loads(block))
    from xaibench.datasets.folder.loader import DEFAULTS

    assert set(benchmark.dataset.options) <= set(DEFAULTS)
    assert all(f"`{name}`" in text for name in DEFAULTS)
