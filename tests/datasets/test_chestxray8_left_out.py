"""Which NIH images are in no split: none in silence, and in a multilabel task none for want of a class."""

from __future__ import annotations

import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xaibench.builtin_benchmarks import FOLDER
from xaibench.datasets.base import Splits
from xaibench.datasets.chestxray8 import chestxray8
from xaibench.datasets.chestxray8.options import parse_options
from xaibench.datasets.chestxray8.splits import Drawn, Item, draw, draw_patients
from xaibench.datasets.chestxray8.tables import Tables, read_tables
from xaibench.errors import UsageError

from .nih_release import CLASSES, entry, name, standard_boxes, standard_rows, write_release

PAPER = ("No Finding", "Cardiomegaly", "Pneumothorax", "Effusion")


@pytest.fixture(scope="module")
def real(nih_sample: Path) -> Tables:
    return read_tables(nih_sample)


def drawn_from(tables: Tables, classes: Any, **options: Any) -> Drawn:
    return draw(tables, classes, parse_options(options), lambda _: True)


def test_fourteen_findings_take_the_official_lists_whole(real: Tables) -> None:
    benchmark = tomllib.loads((FOLDER / "chestxray8-14class.toml").read_text())
    drawn = drawn_from(real, benchmark["classes"], **benchmark["dataset"]["options"])
    assert (len(drawn.train) + len(drawn.val), len(drawn.test)) == (86_524, 25_596)
    without = [sum(not item.labels for item in items) for items in (drawn.train, drawn.val, drawn.test)]
    no_finding = [record.id for record in real.entries.records.values() if record.labels == ("No Finding",)]
    assert sum(without) == len(no_finding) == 60_361  # which is how many were left out before
    assert without[2] == 9_861
    assert drawn.left_out == {}
    assert any(f"none of the classes {without[2]}" in note for note in drawn.notes if note.startswith("test:"))


@pytest.mark.parametrize("split", ["paper", "official_split", "patient_disjoint"])
@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
@pytest.mark.parametrize("more", [{}, {"max_per_class": 300, "test_no_finding": 40}, {"test_boxes": "single"}])
def test_every_image_of_the_tables_is_in_a_split_or_counted(
    real: Tables, split: str, task: str, more: dict[str, Any]
) -> None:
    drawn = drawn_from(real, PAPER, split=split, task=task, **more)
    parts = [{item.id for item in items} for items in (drawn.train, drawn.val, drawn.test)]
    assert sum(map(len, parts)) == len(set.union(*parts))
    assert sum(map(len, parts)) + sum(drawn.left_out.values()) == len(real.entries.records)
    assert all(number > 0 for number in drawn.left_out.values())
    assert any(note.startswith("images left out: ") for note in drawn.notes) == bool(drawn.left_out)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """70 images of the standard release, and 31 whose fate is known."""
    rows = [
        *standard_rows(),
        *(entry(patient, "Mass") for patient in range(70, 90)),  # of none of the classes
        *(entry(patient, "Mass|Nodule") for patient in range(90, 96)),
        entry(96, "Cardiomegaly|Effusion"),
        entry(97, "Effusion|Mass"),
        entry(98, ""),
        entry(99, "Cardiomegaly|Effusion"),  # boxes of both
        entry(100, "Effusion"),  # missing
    ]
    boxes = [*standard_boxes(), f"{name(99)},Effusion,1,1,20,20", f"{name(99)},Cardiomegaly,1,1,30,30"]
    names = [row.split(",")[0] for row in rows]
    lists = {"test_list.txt": [*names[:20], *names[70:75]], "train_val_list.txt": [*names[20:70], *names[75:-2]]}
    root = tmp_path_factory.mktemp("nih") / "release"
    return write_release(root, rows, boxes, lists=lists, skip=[name(100)])


def load(root: Path, **options: Any) -> Splits:
    return chestxray8(classes=CLASSES, input_size=16, data_root=root, options={"allow_missing": True, **options})


def sizes(splits: Splits) -> list[int]:
    return [len(splits.train), len(splits.val), len(splits.test)]


def test_reasons_of_a_small_release_by_hand(root: Path) -> None:
    assert load(root).left_out == {
        "of none of the classes": 26,
        "of several of the classes": 1,
        'of another finding too (single_label = "only")': 1,
        "without any label in Data_Entry": 1,
        "whose file is missing": 1,
    }
    single = load(root, test_boxes="single", single_label="within_classes").left_out
    assert single['with boxes of several findings (test_boxes = "single")'] == 1
    assert 'of another finding too (single_label = "only")' not in single
    cut = load(root, max_per_class=5, test_no_finding=3)
    assert cut.left_out["No Finding beyond test_no_finding = 3"] > 0
    assert cut.left_out["of a class that max_per_class = 5 cuts to 5"] > 0
    assert sum(sizes(cut)) + sum(cut.left_out.values()) == 101
    official = load(root, split="official_split").left_out
    assert official["in neither official list"] == 1  # the one with two boxes; the other has no file
    assert 'balance = "smallest" cuts to' in " ".join(load(root, balance="smallest", test_no_finding=1).left_out)


def test_a_boxed_image_of_the_training_list_is_counted(root: Path, tmp_path: Path) -> None:
    names = [row.split(",")[0] for row in standard_rows()]
    lists = {"test_list.txt": names[1:20], "train_val_list.txt": [names[0], *names[20:]]}
    copy = write_release(tmp_path / "nih", standard_rows(), standard_boxes(), lists=lists)
    assert load(copy, split="official_split").left_out == {"with a box, in the official training list": 1}


@pytest.mark.parametrize("split", ["paper", "official_split", "patient_disjoint"])
def test_images_without_any_of_the_classes_stay_in_a_multilabel_task(root: Path, split: str) -> None:
    splits = load(root, split=split, task="multilabel", **({"test_no_finding": 5} if split == "paper" else {}))
    assert sum(sizes(splits)) + sum(splits.left_out.values()) == 101
    assert "of none of the classes" not in splits.left_out
    zeros = [part.ids[row] for part in (splits.train, splits.val, splits.test) for row in _without(part.labels)]
    assert sorted(zeros) == [name(patient) for patient in range(70, 96)]
    assert _without(splits.train.labels)
    if split == "official_split":
        assert sorted(splits.test.ids[row] for row in _without(splits.test.labels)) == [name(n) for n in range(70, 75)]
    if split == "patient_disjoint":  # a stratum of their own: a quarter of 26 in the test, a tenth of the rest in val
        assert [len(_without(part.labels)) for part in (splits.train, splits.val, splits.test)] == [18, 2, 6]


def _without(labels: Any) -> list[int]:
    return np.flatnonzero(~labels.any(axis=1)).tolist()


def test_none_of_the_classes_is_cut_like_a_class(root: Path) -> None:
    splits = load(root, task="multilabel", max_per_class=4, val_fraction=0)
    assert splits.train.labels.sum(axis=0).max() == 4
    assert len(_without(splits.train.labels)) == 4
    assert sum(sizes(splits)) + sum(splits.left_out.values()) == 101


def test_patients_without_a_class_are_a_stratum() -> None:
    items = [Item(f"{n}", f"p{n}", () if n < 40 else (n % 2,)) for n in range(100)]
    drawn = draw_patients(items, 0.25, "test:0")
    assert Counter("none" if int(patient[1:]) < 40 else "some" for patient in drawn) == {"none": 10, "some": 16}
    assert draw_patients([Item("1", "p", ())], 0.5, "test:0") == set()


def test_the_benchmarks_task_decides(root: Path) -> None:
    def made(given: str | None, **options: Any) -> Splits:
        wanted = {"allow_missing": True, **options}
        return chestxray8(classes=CLASSES, input_size=16, data_root=root, options=wanted, task=given)

    multilabel = sizes(made("multilabel"))
    assert multilabel == sizes(made(None, task="multilabel")) == sizes(made("multilabel", task="multilabel"))
    assert sum(sizes(made(None))) < sum(multilabel)
    with pytest.raises(UsageError, match=r'option task = "multiclass", but the benchmark.s is "multilabel"'):
        made("multilabel", task="multiclass")


def test_names_of_the_lists_that_the_table_lacks_are_noted(tmp_path: Path) -> None:
    names = [row.split(",")[0] for row in standard_rows()]
    lists = {"test_list.txt": names[:20], "train_val_list.txt": [*names[20:], name(500)]}
    copy = write_release(tmp_path / "nih", standard_rows(), standard_boxes(), lists=lists)
    notes = load(copy, split="official_split").notes
    assert f"1 images of the official lists are not in Data_Entry: {name(500)}" in notes
