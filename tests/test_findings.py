"""Notes carry their severity: no reader guesses it from words, and earlier runs still load."""

from __future__ import annotations

import copy
import json
import pickle
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from tests.reporting import runs
from xaibench.errors import XaibenchError
from xaibench.findings import Note
from xaibench.reporting.html import words
from xaibench.reporting.html.data import Report
from xaibench.results.run import Run, save_run


def saved(folder: Path, *notes: str) -> Run:
    run = replace(runs.full_run(), notes=notes, directory=folder)
    save_run(run, [pd.DataFrame()], pd.DataFrame())
    return Run.load(folder)


def test_a_note_is_text_that_keeps_what_it_knows() -> None:
    note = Note("twelve patients are on both sides", "warning", "data")
    for same in (pickle.loads(pickle.dumps(note)), copy.deepcopy(note), Note.from_json(note.to_json()), Note.of(note)):
        assert (str(same), same.severity, same.subject) == (str(note), "warning", "data")
    assert Note.of("bare text").severity == "note"


def test_the_page_sorts_notes_by_severity_whatever_their_words(tmp_path: Path) -> None:
    """The words of a warning and of a harmless note are exchanged: the severity alone decides."""
    loaded = saved(
        tmp_path / "run",
        Note("the epoch was chosen where it is scored", "warning"),
        Note("no overlap, no leak and nothing undefined", "note"),
        Note("doctor: class-blind maps", "warning", "doctor"),
    )
    report = Report([loaded], runs.metrics())
    assert words.warnings(report) == ["the epoch was chosen where it is scored"]
    assert words.audit(report) == ["no overlap, no leak and nothing undefined"]
    assert words.doctor(report) == ["class-blind maps"]


def test_notes_of_earlier_runs_are_bare_text_and_load(tmp_path: Path) -> None:
    saved(tmp_path / "run", "x")
    path = tmp_path / "run" / "run.json"
    table = json.loads(path.read_text(encoding="utf-8"))
    del table["checksum"]
    table["run"]["notes"] = ["train: 10 images", "biased: the epoch", "doctor: warning: dead layer"]
    path.write_text(json.dumps(table), encoding="utf-8")
    found = [(str(note), note.severity, note.subject) for note in map(Note.of, Run.load(tmp_path / "run").notes)]
    assert found == [
        ("train: 10 images", "note", ""),
        ("biased: the epoch", "warning", ""),
        ("doctor: warning: dead layer", "warning", "doctor"),
    ]


@pytest.mark.parametrize(
    "note",
    [
        3,
        None,
        {"text": "x"},
        {"text": 1, "severity": "note", "subject": ""},
        {"text": "x", "severity": "loud", "subject": ""},
    ],
)
def test_a_damaged_note_is_refused_in_one_line(tmp_path: Path, note: object) -> None:
    saved(tmp_path / "run", "x")
    path = tmp_path / "run" / "run.json"
    table = json.loads(path.read_text(encoding="utf-8"))
    del table["checksum"]
    table["run"]["notes"] = [note]
    path.write_text(json.dumps(table), encoding="utf-8")
    with pytest.raises(XaibenchError, match="is damaged") as caught:
        Run.load(tmp_path / "run")
    assert "\n" not in str(caught.value)
