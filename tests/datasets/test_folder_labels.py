"""Labels, boxes and file names that contradict each other: said by file and line, with what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unicodedata import normalize

import pytest

from xaibench.datasets.folder.options import DEFAULTS
from xaibench.errors import DataError, UsageError

from .folder_data import coco, load, noise, save, two, write_coco, write_table

ROWS = ["n.png,train,1,0", "m.png,test,0,1"]
COMPOSED, DECOMPOSED = normalize("NFC", "Röntgen.png"), normalize("NFD", "Röntgen.png")


@pytest.mark.parametrize(
    ("rows", "boxes", "reason"),
    [
        (
            ROWS,
            ["m.png,Mass,1,1,5,5", "n.png,Mass,1,1,5,5"],
            r"boxes\.csv:3: Mass is marked on n\.png, which does not have that class by .*labels\.csv:2: correct",
        ),
        (
            ["n.png,train,1,1", ROWS[1]],
            [],
            r"labels\.csv:2: n\.png has 2 of the classes \(No Finding, Mass\).*multilabel",
        ),
        (ROWS, ["m.png,Mass,0.1,0.2,0.5,0.3"], r"boxes\.csv:2: the box .* on m\.png lies in \[0, 1\].*times 40"),
        (ROWS, ["m.png,Mass,5,5,0.4,9"], r"boxes\.csv:2: the box .* on m\.png is less than one pixel wide or high"),
        (ROWS, ["m.png,Mass,1,1,5,5", "m.png,Mass,50,4,10,8"], r"boxes\.csv:3: a box of m\.png is outside its 40 x 20"),
        (ROWS, ["m.png,mass,1,1,5,5"], r"boxes\.csv:2: the class 'mass' is none of the benchmark's, which has 'Mass'"),
        (ROWS, ["M.png,Mass,1,1,5,5"], r"boxes\.csv:2: image 'M\.png' is not in the table of images"),
        (ROWS, ["m.png,Mass,nan,1,5,5"], r"boxes\.csv:2: the box .* has no area"),
    ],
)
def test_contradictions_name_file_and_line(tmp_path: Path, rows: list[str], boxes: list[str], reason: str) -> None:
    two(tmp_path)
    write_table(tmp_path, rows, boxes=boxes)
    with pytest.raises(DataError, match=reason) as caught:
        load(tmp_path, boxes="boxes.csv")
    assert "\n" not in str(caught.value)


def test_several_classes_are_right_in_a_multilabel_task(tmp_path: Path) -> None:
    two(tmp_path)
    write_table(tmp_path, ["n.png,train,1,1", ROWS[1]])
    assert load(tmp_path, task="multilabel").train.labels.tolist() == [[1, 1]]


def test_two_classes_of_a_coco_image_name_their_annotations(tmp_path: Path) -> None:
    two(tmp_path)
    marks = [{"category_id": 7, "bbox": [1, 1, 5, 5]}, {"category_id": 8, "bbox": [1, 1, 5, 5]}]
    write_coco(tmp_path, marks)
    reason = r"image 2: m\.png has 2 of the classes \(Mass by annotation 100, Clip by annotation 101\)"
    with pytest.raises(DataError, match=reason):
        load(tmp_path, coco="coco.json", classes=("Mass", "Clip"))
    found = load(tmp_path, coco="coco.json", classes=("Mass", "Clip"), task="multilabel")
    assert found.test.labels.tolist() == [[1, 1]]
    assert sorted(found.test.regions(0)) == [0, 1]


def test_boxes_of_other_classes_are_counted_by_name(tmp_path: Path) -> None:
    two(tmp_path)
    write_table(tmp_path, ROWS, boxes=["m.png,Clip,1,1,5,5", "m.png,Mass,1,1,5,5", "m.png,Clip,1,1,6,5"])
    assert "2 boxes of other classes left out (Clip 2)" in load(tmp_path, boxes="boxes.csv").notes
    splits = coco(tmp_path, {"category_id": 8}, {"bbox": [1, 1, 5, 5]})
    assert "1 annotations of other classes left out (Clip 1)" in splits.notes


@pytest.mark.parametrize(("there", "written"), [(COMPOSED, DECOMPOSED), (DECOMPOSED, COMPOSED), ("A.PNG", "a.png")])
def test_a_file_under_another_form_of_its_name(tmp_path: Path, there: str, written: str) -> None:
    two(tmp_path)
    save(tmp_path / there, noise())
    form = "spelt otherwise" if written == "a.png" else r"in another Unicode form \(NFC, NFD\)"
    write_table(tmp_path, [*ROWS, f"{written},test,1,0"])
    with pytest.raises(DataError, match=rf"labels\.csv:4: no image .*, but .* is there, the same name {form}"):
        load(tmp_path)
    images = [{"id": 1, "file_name": "n.png", "split": "train"}, {"id": 2, "file_name": written, "split": "test"}]
    write_coco(tmp_path, [], images=images)
    with pytest.raises(DataError, match=rf"coco\.json: image 2: no image .*, the same name {form}"):
        load(tmp_path, coco="coco.json")


def test_names_of_the_two_tables_in_other_forms(tmp_path: Path) -> None:
    two(tmp_path)
    save(tmp_path / COMPOSED, noise())
    write_table(tmp_path, [*ROWS, f"{COMPOSED},test,0,1"], boxes=[f"{DECOMPOSED},Mass,1,1,5,5"])
    with pytest.raises(
        DataError, match=r"boxes\.csv:2: image .* another Unicode form \(NFC, NFD\) than in .*labels\.csv:4"
    ):
        load(tmp_path, boxes="boxes.csv")
    save(tmp_path / DECOMPOSED, noise())
    write_table(tmp_path, [*ROWS, f"{COMPOSED},test,0,1", f"{DECOMPOSED},test,0,1"])
    with pytest.raises(DataError, match=r"labels\.csv:5: image .* came already \(.*labels\.csv:4, written"):
        load(tmp_path)


def test_classes_and_patients_in_other_forms(tmp_path: Path) -> None:
    two(tmp_path)
    composed, decomposed = (normalize(form, "Läsion") for form in ("NFC", "NFD"))
    write_table(tmp_path, ROWS, header=f"image,split,No Finding,{decomposed}")
    with pytest.raises(DataError, match=r"no column .* the same letters in another Unicode form"):
        load(tmp_path, classes=("No Finding", composed))
    rows = [f"n.png,train,No Finding,{normalize('NFC', 'Zoë')}", f"m.png,test,{decomposed},{normalize('NFD', 'Zoë')}"]
    write_table(tmp_path, rows, header="image,split,findings,patient")
    options: dict[str, Any] = {"classes": ("No Finding", composed), "label_column": "findings"}
    assert load(tmp_path, **options).test.labels.tolist() == [[0, 1]]
    with pytest.raises(DataError, match=r"labels\.csv:3: patient .* is in test and, by .*labels\.csv:2, in train"):
        load(tmp_path, patient_column="patient", **options)


def test_names_in_the_label_column_are_not_lost(tmp_path: Path) -> None:
    two(tmp_path)
    header = "image,split,findings"
    write_table(tmp_path, ["n.png,train,No Finding", "m.png,test,Clip"], header=header)
    with pytest.raises(DataError, match=r"labels\.csv: no image has the class 'Mass' in findings\. Known: Clip"):
        load(tmp_path, label_column="findings")
    write_table(tmp_path, ["n.png,train,No Finding|Mass", "m.png,test,mass"], header=header)
    with pytest.raises(
        DataError, match=r"labels\.csv:3: the class 'mass' is none of the benchmark's, which has 'Mass'"
    ):
        load(tmp_path, label_column="findings", task="multilabel")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"coco": "coco.json", "boxes": "boxes.csv"}, "boxes goes with table"),
        ({"coco": "coco.json", "masks": "masks.json"}, "masks goes with table"),
        ({"boxes": "boxes.csv", "masks": "masks.json"}, "give boxes or masks"),
        ({"masks": "../masks.json"}, r"masks: '\.\./masks\.json' is not the name"),
        ({"orientation": "auto"}, "orientation = 'auto'; it is one of exif, stored"),
        ({"oriented": True}, "folder has no option 'oriented'"),
    ],
)
def test_options_that_exclude_each_other(tmp_path: Path, options: dict[str, Any], reason: str) -> None:
    two(tmp_path)
    with pytest.raises(UsageError, match=reason):
        load(tmp_path, **options)
    assert {"masks", "range", "orientation"} <= set(DEFAULTS)


def test_one_image_twice_by_another_spelling_of_its_path(tmp_path: Path) -> None:
    two(tmp_path)
    write_table(tmp_path, [*ROWS, "./m.png,train,0,1"])
    with pytest.raises(DataError, match=r"labels\.csv:4: image '\./m\.png' came already \(.*labels\.csv:3, written 'm"):
        load(tmp_path)
