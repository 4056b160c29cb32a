"""The cohort audit: a small release counted by hand, and the full v2020 tables against the known facts."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from xaibench.datasets.chestxray8 import chestxray8
from xaibench.datasets.chestxray8.cohort import PRESETS, CohortAudit, audit_cohort, departures
from xaibench.errors import DataError
from xaibench.published import load_published

from .nih_release import CLASSES, entry, name, standard_boxes, standard_rows, write_release

PAPER = ("No Finding", "Cardiomegaly", "Pneumothorax", "Effusion")
DISEASES = PAPER[1:]
COHORT = load_published().cohort


@pytest.fixture(scope="module")
def tables_alone(nih_sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The complete tables of the release without any image."""
    root = tmp_path_factory.mktemp("tables")
    for path in nih_sample.iterdir():
        if path.suffix in (".csv", ".txt") and path.is_file():
            shutil.copy(path, root)
    return root


@pytest.fixture(scope="module")
def audit(tables_alone: Path) -> CohortAudit:
    return audit_cohort(tables_alone, PAPER, options={"max_per_class": 963}, subsets=2)


def test_facts_of_the_full_tables(audit: CohortAudit) -> None:
    facts = {row.name: row for row in audit.classes}
    assert (audit.images, audit.patients, audit.found) == (112_120, 30_805, 0)
    assert [facts[name].boxes for name in DISEASES] == [146, 98, 153]
    assert [facts[name].single_box for name in DISEASES] == [135, 86, 102]
    assert [facts[name].single_label for name in DISEASES] == [1093, 2194, 3955]
    assert [facts[name].single_label_train_val for name in DISEASES] == [777, 1241, 2788]
    assert [facts[name].shared for name in DISEASES] == [161, 411, 513]


def test_no_preset_gives_table_1(audit: CohortAudit) -> None:
    found = {counts.preset: counts for counts in audit.tables}
    assert tuple(found) == PRESETS
    paper = found["paper"]
    assert dict(paper.train) == dict(COHORT.train)
    assert [paper.test[name] for name in PAPER] == [100, 135, 86, 102]
    assert departures(paper, COHORT) == [
        "Cardiomegaly test 135, not 130",
        "Pneumothorax test 86, not 83",
        "Effusion test 102, not 98",
    ]
    assert found["official_split"].train["Cardiomegaly"] == 777
    assert all(departures(counts, COHORT) for counts in audit.tables)


def test_patients_and_boxes_between_the_sides(audit: CohortAudit) -> None:
    shared = {counts.preset: counts.shared_patients for counts in audit.tables}
    assert shared["paper"] > 100
    assert (shared["official_split"], shared["patient_disjoint"]) == (0, 0)
    assert all(counts.boxed_in_train == 0 for counts in audit.tables)
    assert audit.present == ()  # without images there is no second count


def test_what_flatters_and_what_contradicts_on_the_full_tables(audit: CohortAudit) -> None:
    paper = audit.preset("paper")
    assert paper is not None
    assert [paper.leaking[name] for name in DISEASES] == [62, 67, 45]
    assert [paper.test[name] for name in DISEASES] == [135, 86, 102]
    assert (paper.contradicting["Effusion"], paper.negatives["Effusion"]) == (47, 321)
    assert {paper.train[name] - paper.validation[name] for name in PAPER} == {877, 858, 867, 872}
    (overlap,) = [found for found in audit.overlaps if found.preset == "paper"]
    assert (overlap.subsets, overlap.shared["Cardiomegaly"], overlap.images["Cardiomegaly"]) == ((0, 1), 898, 963)
    apart = audit.preset("patient_disjoint")
    assert apart is not None
    assert set(apart.leaking.values()) == set(apart.leaking_any.values()) == set(apart.contradicting.values()) == {0}


def test_the_readme_says_what_the_tables_say(audit: CohortAudit) -> None:
    paper = audit.preset("paper")
    assert paper is not None
    readme = " ".join((Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8").split())
    assert " / ".join(f"{paper.leaking[name]} of {paper.test[name]}" for name in DISEASES) in readme
    assert f"{paper.contradicting['Effusion']} of Effusion's {paper.negatives['Effusion']} negatives" in readme


def test_leaks_and_contradictions_counted_by_hand(tmp_path: Path) -> None:
    """60 patients of one image each; then patient 1, boxed, gets another image, and the box of 4 another label."""
    rows = standard_rows()
    assert rows[3].startswith(f"{name(4)},Cardiomegaly,")
    rows[3] = rows[3].replace("Cardiomegaly", "Cardiomegaly|Effusion")
    rows += [entry(1, "Effusion", visit) for visit in range(1, 4)]
    root = write_release(tmp_path / "nih", rows, standard_boxes())
    options = {"test_no_finding": 5, "balance": "none", "val_fraction": 0}
    (paper,) = audit_cohort(root, CLASSES, options=options, presets=("paper",)).tables
    assert paper.test == {"No Finding": 5, "Cardiomegaly": 3, "Effusion": 3}
    assert paper.leaking["Cardiomegaly"] == 1  # patient 1
    assert paper.leaking["Effusion"] == 0
    assert paper.leaking == paper.leaking_any
    assert paper.negatives == {"No Finding": 6, "Cardiomegaly": 8, "Effusion": 8}
    assert paper.contradicting == {"No Finding": 0, "Cardiomegaly": 0, "Effusion": 1}  # patient 4
    test = chestxray8(classes=CLASSES, input_size=16, data_root=root, options={**options, "split": "paper"}).test
    assert test.contradicting is not None
    (row,) = np.flatnonzero(test.contradicting.any(1))
    assert (test.ids[row], test.contradicting[row].tolist()) == (name(4), [False, False, True])


def test_a_small_release_counted_by_hand(tmp_path: Path) -> None:
    names = [row.split(",")[0] for row in standard_rows()]
    root = write_release(tmp_path / "nih", standard_rows(), standard_boxes(), skip=names[40:50])
    found = audit_cohort(root, CLASSES)
    assert (found.images, found.patients, found.found) == (70, 60, 60)
    facts = {row.name: row for row in found.classes}
    assert facts["Cardiomegaly"].boxes == facts["Cardiomegaly"].single_box == 3
    assert facts["Cardiomegaly"].single_label == 20
    assert facts["Cardiomegaly"].single_label_train_val is None  # there are no lists
    complete, present = ({counts.preset: counts for counts in rows} for rows in (found.tables, found.present))
    assert "no training image of class 'No Finding'" in complete["paper"].problem  # all 30 are test images
    (paper,) = audit_cohort(root, CLASSES, options={"test_no_finding": 5}, presets=("paper",)).tables
    assert paper.test == {"No Finding": 5, "Cardiomegaly": 3, "Effusion": 3}
    assert paper.train == {"No Finding": 17, "Cardiomegaly": 17, "Effusion": 17}  # cut to 20 less the 3 with a box
    assert "train_val_list.txt" in complete["official_split"].problem
    assert complete["official_split"].train == {}
    total = sum(complete["patient_disjoint"].train.values()) + sum(complete["patient_disjoint"].test.values())
    assert total == 70
    assert sum(present["patient_disjoint"].train.values()) + sum(present["patient_disjoint"].test.values()) == 60


def test_labels_that_changed_since_an_older_table(tmp_path: Path) -> None:
    root = write_release(tmp_path / "nih", standard_rows(), standard_boxes())
    rows = standard_rows()
    assert rows[9].split(",")[:2] == [name(10), "Cardiomegaly"]
    older = [rows[9].replace("Cardiomegaly", "Cardiomegaly|Effusion"), rows[10].replace("Effusion", "No Finding")]
    text = (root / "Data_Entry_2017_v2020.csv").read_text().splitlines()
    path = tmp_path / "Data_Entry_2017.csv"
    path.write_text("\n".join([text[0], *text[1:10], *older, *text[12:60]]) + "\n")
    changes = audit_cohort(root, CLASSES, older=path, presets=("paper",)).changes
    assert changes is not None
    assert (changes.compared, changes.changed, changes.only_older, changes.only_newer) == (59, 2, 0, 11)
    assert changes.lost == {"No Finding": 1, "Cardiomegaly": 0, "Effusion": 1}
    assert changes.gained == {"No Finding": 0, "Cardiomegaly": 0, "Effusion": 1}
    assert changes.examples[0] == f"{name(10)}: Cardiomegaly|Effusion -> Cardiomegaly"
    with pytest.raises(DataError, match="older Data_Entry"):
        audit_cohort(root, CLASSES, older=tmp_path / "none.csv", presets=("paper",))
