from __future__ import annotations

import pickle
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xaibench.datasets.base import Split, Splits
from xaibench.datasets.chestxray8 import chestxray8
from xaibench.datasets.chestxray8.options import parse_options
from xaibench.datasets.chestxray8.splits import Drawn, draw, draw_patients, find_candidates
from xaibench.datasets.chestxray8.tables import Tables, read_tables
from xaibench.errors import DataError, UsageError

from .nih_release import CLASSES, HEADER, entry, name, standard_boxes, standard_rows, write_release

PAPER = ("No Finding", "Cardiomegaly", "Pneumothorax", "Effusion")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = standard_rows()
    names = [row.split(",")[0] for row in rows]
    lists = {"train_val_list.txt": names[10:60:2] + names[11:60:2], "test_list.txt": names[:10]}
    lists["train_val_list.txt"] = [x for x in lists["train_val_list.txt"] if x not in names[:10]]
    return write_release(tmp_path_factory.mktemp("nih") / "release", rows, standard_boxes(), lists=lists)


@pytest.fixture(scope="module")
def real(nih_sample: Path) -> Tables:
    return read_tables(nih_sample)


def load(root: Path, classes: Sequence[str] = CLASSES, size: int = 16, **options: Any) -> Splits:
    return chestxray8(classes=classes, input_size=size, data_root=root, options=options)


def counts(split: Split) -> list[int]:
    return split.labels.sum(axis=0).astype(int).tolist()


def parts(splits: Splits) -> list[Split]:
    return [splits.train, splits.val, splits.test]


def test_samples(root: Path) -> None:
    splits = load(root, size=64)
    test = splits.test
    index = list(test.ids).index(name(1))
    sample = test[index]
    assert sample.image.shape == (1, 64, 64)
    assert sample.image.dtype == np.float32
    assert 0 <= sample.image.min() < sample.image.max() <= 1
    assert (sample.id, sample.patient) == (name(1), "00000001")
    assert sample.labels.tolist() == [0, 1, 0]
    assert sample.meta == {"age": 58, "sex": "M", "view": "PA", "findings": ("Cardiomegaly",)}
    (label,) = sample.regions
    # 256.5, 512, 128, 64.25 in 1024 x 1024, a sixteenth of it in 64 x 64
    np.testing.assert_allclose(sample.regions[label].boxes, [[16.03125, 32, 24.03125, 36.015625]])
    assert sample.regions[label].frame == test.frame
    assert label == 1
    assert not test.regions(list(test.ids).index(next(i for i in test.ids if i not in _boxed_ids())))
    assert pickle.loads(pickle.dumps(test))[index].id == sample.id


def _boxed_ids() -> set[str]:
    return {row.split(",")[0] for row in standard_boxes()}


@pytest.mark.parametrize("options", [{}, {"split_seed": 3}, {"task": "multilabel"}, {"single_label": "within_classes"}])
def test_patient_disjoint(root: Path, options: dict[str, Any]) -> None:
    splits = load(root, **options)
    patients = [set(part.patients) for part in parts(splits)]
    assert not patients[0] & patients[1]
    assert not patients[0] & patients[2]
    assert not patients[1] & patients[2]
    assert _boxed_ids() <= set(splits.test.ids)
    assert not any(part.regions(i) for part in (splits.train, splits.val) for i in range(len(part)))
    assert sum(len(part) for part in parts(splits)) == 70
    assert all(min(counts(part)) > 0 for part in parts(splits))
    assert 0.2 < len(patients[2]) / 60 < 0.3
    assert "no patient is in two splits" in splits.notes


def test_official_lists(root: Path) -> None:
    splits = load(root, split="official_split")
    assert sorted(splits.test.ids) == sorted((root / "test_list.txt").read_text().split("\n"))
    train_val = set((root / "train_val_list.txt").read_text().split("\n"))
    assert {*splits.train.ids, *splits.val.ids} == train_val
    assert not set(splits.train.patients) & set(splits.val.patients)


def test_paper_preset(root: Path) -> None:
    splits = load(root, split="paper", test_no_finding=5)
    assert counts(splits.test) == [5, 3, 3]
    side = [a + b for a, b in zip(counts(splits.train), counts(splits.val), strict=True)]
    assert side == [17, 17, 17] or len(set(side)) == 1
    assert not set(splits.test.ids) & {*splits.train.ids, *splits.val.ids}
    assert any("published 963/130" in note for note in splits.notes)
    other = load(root, split="paper", test_no_finding=5, subset_seed=1)
    assert list(other.test.ids) == list(splits.test.ids)
    assert set(other.train.ids) | set(other.val.ids) != set(splits.train.ids) | set(splits.val.ids)


def test_draws_repeat_and_seeds_matter(root: Path) -> None:
    first, again, other = load(root), load(root), load(root, split_seed=1)
    assert [list(part.ids) for part in parts(first)] == [list(part.ids) for part in parts(again)]
    assert [part.fingerprint for part in parts(first)] == [part.fingerprint for part in parts(again)]
    assert set(first.test.ids) != set(other.test.ids)


def test_the_fingerprint_follows_what_decides_samples(root: Path, tmp_path: Path) -> None:
    base = load(root).test.fingerprint
    assert load(root, size=32).test.fingerprint != base
    assert load(root, classes=CLASSES[::-1]).test.fingerprint != base
    copy = tmp_path / "copy"
    shutil.copytree(root, copy)
    assert load(copy).test.fingerprint == base
    table = copy / "BBox_List_2017.csv"
    table.write_text(table.read_text().replace("256.5", "256.6"))
    moved = load(copy).test.fingerprint
    assert moved != base
    path = copy / "images" / name(1)
    test = load(copy).test
    row = list(test.ids).index(name(1))
    before = [test.image_key(row), test.image_key(row - 1)]
    content = bytearray(path.read_bytes())
    content[content.index(b"IDAT") + 12] ^= 1  # of the same size
    path.write_bytes(content)
    test = load(copy).test
    assert test.fingerprint != moved
    assert [test.image_key(row) == before[0], test.image_key(row - 1) == before[1]] == [False, True]


def test_cutting_classes(root: Path) -> None:
    side = load(root, max_per_class=4, val_fraction=0)
    assert counts(side.train) == [4, 4, 4]
    assert len(side.val) == 0
    assert side.val.labels.shape == (0, 3)
    balanced = load(root, balance="smallest", val_fraction=0)
    assert len(set(counts(balanced.train))) == 1
    assert max(counts(load(root, task="multilabel", max_per_class=4, val_fraction=0).train)) == 4
    assert counts(load(root, test_no_finding=2).test)[0] == 2


@pytest.mark.parametrize("layout", ["images/{name}", "images_{part}/images/{name}", "images_{part}/{name}", "{name}"])
def test_layouts_give_the_same_samples(root: Path, tmp_path: Path, layout: str) -> None:
    copy = write_release(tmp_path / "copy", standard_rows(), standard_boxes(), layout=layout)
    expected, got = load(root).test, load(copy).test
    assert got.fingerprint == expected.fingerprint
    np.testing.assert_array_equal(got[3].image, expected[3].image)


def test_old_tables_give_the_same_samples(root: Path, tmp_path: Path) -> None:
    copy = write_release(
        tmp_path / "old",
        [f"{row.replace(',58,M', ',058Y,M')}," for row in standard_rows()],
        standard_boxes(),
        header=HEADER + ",Unnamed: 11",
        box_header=None,
        table="Data_Entry_2017.csv",
    )
    assert load(copy).test.fingerprint == load(root).test.fingerprint
    assert load(copy).test[0].meta["age"] == 58


def test_missing_images(tmp_path: Path) -> None:
    gone = [name(3), name(10), name(2)]
    root = write_release(tmp_path / "nih", standard_rows(), standard_boxes(), skip=gone)
    with pytest.raises(DataError, match=r"3 of the 70 images drawn are missing .*0000.*allow_missing = true"):
        load(root)
    splits = load(root, allow_missing=True)
    assert not set(gone) & {x for part in parts(splits) for x in part.ids}
    assert "67 of 70 images named by the tables found; 3 missing" in splits.notes[0]
    assert sum(len(part) for part in parts(splits)) == 67


def test_a_truncated_image_is_named_when_it_is_asked_for(tmp_path: Path) -> None:
    root = write_release(tmp_path / "nih", standard_rows(), standard_boxes())
    path = root / "images" / name(1)
    path.write_bytes(path.read_bytes()[:200])
    test = load(root).test
    with pytest.raises(DataError, match=name(1)):
        test[list(test.ids).index(name(1))]


def test_discrepancies_of_boxes_are_noted(tmp_path: Path) -> None:
    rows = [*standard_rows(), entry(80, "Cardiomegaly|Effusion"), entry(81, "Mass|Effusion"), entry(82, "Mass")]
    boxes = [
        *standard_boxes(),
        f"{name(80)},Effusion,10,10,20,20",
        f"{name(81)},Cardiomegaly,10,10,20,20",  # not among the labels
        f"{name(82)},Mass,10,10,20,20",  # not a class of the benchmark
        f"{name(3)},Effusion,1024,10,20,20",  # outside; and not among the labels
        f"{name(11)},Effusion,1024,10,20,20",  # outside
        f"{name(14)},Effusion,1000,-10,50,20",  # reaches out
        f"{name(99)},Effusion,10,10,20,20",  # unknown image
    ]
    root = write_release(tmp_path / "nih", rows, boxes)
    splits = load(root)
    notes = "\n".join(splits.notes)
    assert f"1 boxes of images that Data_Entry does not list, ignored: {name(99)}" in notes
    assert "1 boxes of other classes left out (Mass 1)" in notes
    assert f"1 boxes that reach out of the image, clipped: {name(14)} (Effusion)" in notes
    assert "2 boxes whose finding is not among the image's labels, ignored" in notes
    assert f"1 boxes without any area inside the image, ignored: {name(11)} (Effusion)" in notes
    assert f"1 boxed images have several of the classes; all count as present: {name(80)}" in notes
    test = splits.test
    assert test.labels[list(test.ids).index(name(80))].tolist() == [0, 1, 1]
    assert name(81) not in test.ids
    clipped = test.regions(list(test.ids).index(name(14)))[2].boxes * 1024 / 16
    np.testing.assert_allclose(clipped, [[1000, 0, 1024, 10]])
    lenient = load(root, validate_boxes=False)
    assert lenient.test.labels[list(lenient.test.ids).index(name(81))].tolist() == [0, 1, 1]
    by_box = load(root, test_labels="boxes").test
    assert by_box.labels[list(by_box.ids).index(name(80))].tolist() == [0, 0, 1]


def test_single_label_rules_and_several_boxes(tmp_path: Path) -> None:
    rows = [*standard_rows(), entry(80, "Mass|Effusion"), entry(81, "Cardiomegaly|Effusion")]
    boxes = [*standard_boxes(), f"{name(81)},Effusion,1,1,20,20", f"{name(81)},Cardiomegaly,1,1,30,30"]
    root = write_release(tmp_path / "nih", rows, boxes)

    def all_ids(**options: Any) -> set[str]:
        return {x for part in parts(load(root, **options)) for x in part.ids}

    assert name(80) not in all_ids()
    assert name(80) in all_ids(single_label="within_classes")
    assert name(80) in all_ids(task="multilabel")
    assert name(81) in all_ids()
    assert name(81) not in all_ids(test_boxes="single", single_label="within_classes")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"splt": "paper"}, "no option 'splt'. Did you mean 'split'"),
        ({"split": "papr"}, "Did you mean 'paper'"),
        ({"split": ["paper"]}, "option split"),
        ({"split_seed": -1}, "whole number from 0"),
        ({"split_seed": True}, "whole number"),
        ({"max_per_class": 0}, "whole number from 1"),
        ({"test_fraction": 1}, "share between"),
        ({"test_fraction": 0}, "share between"),
        ({"val_fraction": "a"}, "share between"),
        ({"allow_missing": 1}, "true or false"),
        ({"task": "multilabel", "balance": "smallest"}, 'needs task = "multiclass"'),
        ({"task": "multilabel", "single_label": "only"}, 'needs task = "multiclass"'),
        ({"split": "paper", "test_fraction": 0.5}, 'needs split = "patient_disjoint"'),
        ({"images": "../x"}, "without a path"),
    ],
)
def test_bad_options(root: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load(root, **options)


def test_bad_calls(root: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no class 'Efusion'\. Did you mean 'Effusion'"):
        load(root, classes=["No Finding", "Efusion"])
    with pytest.raises(UsageError, match="listed twice"):
        load(root, classes=["Effusion", "Effusion"])
    with pytest.raises(UsageError, match="more classes"):
        load(root, classes=["Effusion"])
    with pytest.raises(UsageError, match="input size 8"):
        load(root, size=8)
    with pytest.raises(UsageError, match="--data-root"):
        chestxray8(classes=CLASSES, input_size=16, data_root=None, options={})
    with pytest.raises(DataError, match="no Data_Entry_2017"):
        load(tmp_path)


def test_a_class_that_nobody_has_is_an_error(tmp_path: Path) -> None:
    rows = [*standard_rows(), entry(90, "Hernia"), entry(91, "Hernia")]
    root = write_release(tmp_path / "nih", rows, standard_boxes(), skip=[name(90), name(91)])
    with pytest.raises(DataError, match="no training image of class 'Hernia': too few"):
        load(root, classes=[*CLASSES, "Hernia"], allow_missing=True)
    with pytest.raises(DataError, match=r"no test image of class 'Hernia': it has no boxes"):
        load(root, classes=["Cardiomegaly", "Effusion", "Hernia"], split="paper")


def test_official_lists_that_overlap_or_are_missing(tmp_path: Path) -> None:
    root = write_release(tmp_path / "nih", standard_rows(), standard_boxes())
    with pytest.raises(DataError, match=r"train_val_list\.txt"):
        load(root, split="official_split")
    for file in ("train_val_list.txt", "test_list.txt"):
        (root / file).write_text("\n".join([name(1), name(2)]))
    with pytest.raises(DataError, match="2 images are in both official lists"):
        load(root, split="official_split")


def test_drawing_patients_is_stratified(real: Tables) -> None:
    items = find_candidates(real, PAPER, parse_options({})).pool
    drawn = draw_patients(items, 0.1, "test:0")
    total, got = Counter[int](), Counter[int]()
    for patient, label in {(item.patient, label) for item in items for label in item.labels}:
        total[label] += 1
        got[label] += patient in drawn
    assert all(abs(got[label] / total[label] - 0.1) < 0.04 for label in total)


@pytest.fixture(scope="module")
def paper(real: Tables) -> Drawn:
    return draw(real, PAPER, parse_options({"split": "paper", "val_fraction": 0}), lambda _: True)


def test_paper_counts_on_the_real_tables(real: Tables, paper: Drawn) -> None:
    test = Counter(label for item in paper.test for label in item.labels)
    assert [test[k] for k in range(4)] == [100, 135, 86, 102]
    assert all(len(item.labels) == 1 for item in (*paper.train, *paper.test))
    assert {Counter(item.labels[0] for item in paper.train)[k] for k in range(4)} == {1034}
    shared = {item.patient for item in paper.train} & {item.patient for item in paper.test}
    assert any(note.startswith(f"{len(shared)} patients are on both sides") for note in paper.notes)
    assert len(shared) > 100
    everything = draw(real, PAPER, parse_options({"split": "paper", "test_boxes": "all"}), lambda _: True)
    boxes = Counter(box[0] for item in everything.test for box in item.boxes)
    assert [boxes[k] for k in range(1, 4)] == [146, 98, 153]


def test_official_split_of_the_real_tables(real: Tables) -> None:
    drawn = draw(real, PAPER, parse_options({"split": "official_split"}), lambda _: True)
    side = Counter(item.labels[0] for item in (*drawn.train, *drawn.val))
    assert [side[k] for k in range(1, 4)] == [777, 1241, 2788]
    assert "no patient is in two splits" in drawn.notes


@pytest.mark.parametrize("classes", [PAPER, ("No Finding", "Pneumonia")])
def test_the_sample_benchmarks(nih_sample: Path, real: Tables, classes: tuple[str, ...]) -> None:
    splits = load(nih_sample, classes, 128, single_label="within_classes", allow_missing=True)
    boxed = {box.id for box in real.boxes.boxes if box.label in classes and (nih_sample / "images" / box.id).exists()}
    assert boxed <= set(splits.test.ids)
    assert len(boxed) == (6 if classes == PAPER else 30)
    total = np.sum([part.labels.sum(axis=0) for part in parts(splits)], axis=0)
    assert total[0] == 454
    several = sum(int((part.labels.sum(axis=1) > 1).sum()) for part in parts(splits))
    assert several == (1 if classes == PAPER else 0)  # a boxed one
    images = sum(len(part) for part in parts(splits))
    assert images - several == (635 if classes == PAPER else 846)
    sets = [set(part.patients) for part in parts(splits)]
    assert sum(map(len, sets)) == len(set.union(*sets))
    boxed_index = next(i for i in range(len(splits.test)) if splits.test.regions(i))
    sample = splits.test[boxed_index]
    assert sample.image.shape == (1, 128, 128)
    for label, region in sample.regions.items():
        assert sample.labels[label] == 1
        assert region.boxes.max() <= 128
