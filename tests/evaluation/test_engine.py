"""Engines by name, parts that are settled in order, and grids: one file, many runs, nothing done twice."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.evaluation import ray_plugins
from tests.tiny import tiny_benchmark
from xaibench.cli import main
from xaibench.errors import UsageError, XaibenchError
from xaibench.evaluation.batch import Work
from xaibench.evaluation.engine import Local, make_engine
from xaibench.evaluation.merge import Settling, note
from xaibench.evaluation.records import Part, join
from xaibench.evaluation.setup import load_splits, make_classifier, make_explainers, spec_of
from xaibench.evaluation.sheets import ContactSheets
from xaibench.evaluation.stream import parts, unsettled
from xaibench.metrics.bound import load_metrics
from xaibench.progress import Progress
from xaibench.results.run import Run
from xaibench.studies.grid import cells, read_grid, run_grid, summary

EXPLAINERS = ["ray_brightness", "ray_fails", "ray_plain_late", "ray_plain_early", "ray_holes"]


@pytest.fixture(autouse=True)
def _plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("XAIBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    ray_plugins.register()
    yield
    ray_plugins.unregister()


def test_an_engine_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(make_engine("local"), Local)
    with pytest.raises(UsageError, match=r"no engine 'rai'\. Did you mean 'ray'"):
        make_engine("rai")
    with pytest.raises(UsageError, match="the local engine has no workers: add --engine ray"):
        make_engine("local", workers=2)
    with pytest.raises(UsageError, match="threads = 0"):
        make_engine("local", threads=0)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(XaibenchError, match=r"pip install 'xaibench\[ray\]'"):
        make_engine("ray")


def test_local_threads_are_given_back() -> None:
    before = torch.get_num_threads()
    seen: list[int] = []
    work = _work(["ray_brightness"])
    Local(threads=before + 1).records(work, 14, Progress(advance=lambda _: seen.append(torch.get_num_threads())))
    assert seen == [before + 1] * 2
    assert torch.get_num_threads() == before


def _work(explainers: list[str], sheet: ContactSheets | None = None) -> Work:
    protocol = tiny_benchmark()
    splits = load_splits(protocol, None)
    model = make_classifier("ray_small", spec_of("ray_small", protocol, {}, {}), protocol).optimized()
    asked, beside, _ = make_explainers(explainers, ["random"], model, splits)
    return Work(model, {**asked, **beside}, splits.test, load_metrics(protocol)[1], protocol.frame, sheet=sheet)


def test_parts_of_shards_made_apart_are_settled_to_those_of_one_pass() -> None:
    sheets = [ContactSheets(tiny_benchmark(), EXPLAINERS) for _ in range(2)]
    work = _work(EXPLAINERS, sheets[0])
    whole = list(parts(work, range(28), 8))
    settling, settled = Settling(sheets[1]), list[Part]()
    for start in (0, 8, 16, 24):  # each knows nothing of the others: empty sheet, nothing given up
        failed: dict[str, str] = {}
        given_up: dict[str, dict[str, str]] = {}
        work.sheet = ContactSheets(tiny_benchmark(), EXPLAINERS)
        for part in unsettled(work, range(start, min(start + 8, 28)), 8, failed, given_up):
            note(part, failed, given_up)
            settled.append(settling.take(part))
    one, other = (join(found, work.metrics, list(work.explainers)) for found in (whole, settled))
    assert one.failed == other.failed
    assert set(one.failed) == {"ray_plain_early", "ray_fails"}
    assert "ray_plain_late" in one.values  # nobody needed the plain images on which it fails
    assert one.faults == other.faults
    assert "maps hold NaN" in one.faults["ray_holes"][0]
    assert one.values.keys() == other.values.keys()
    for name in one.values:
        np.testing.assert_array_equal(one.values[name], other.values[name])
    for name in EXPLAINERS:
        first, second = (sheet.collectors[name].tiles() for sheet in sheets)
        assert {k: [t.image_id for t in v] for k, v in first.items()} == {
            k: [t.image_id for t in v] for k, v in second.items()
        }
        for known in first:
            for mine, theirs in zip(first[known], second[known], strict=True):
                np.testing.assert_array_equal(mine.map, theirs.map)


def test_the_rest_of_a_sheet_wants_what_there_is_room_for() -> None:
    sheet = ContactSheets(tiny_benchmark(), ["ray_brightness"])
    work = _work(["ray_brightness"], sheet)
    list(parts(work, range(28), 8))
    rest = sheet.rest()
    assert not sheet.wants("ray_brightness", "x", 0, None)  # seven plain images of class 0, room for four
    for target in range(4):
        for hit in (None, 0.0, 1.0):
            assert rest.wants("ray_brightness", "x", target, hit) == sheet.wants("ray_brightness", "x", target, hit)
    assert rest.collectors["ray_brightness"].tiles() == {}
    assert not rest.rest().wants("ray_brightness", "x", 0, None)


# grids


def grid_file(folder: Path, text: str) -> Path:
    from tests.cli.test_run_train import toml

    table = tiny_benchmark().model_dump(mode="json")
    (folder / "tiny.toml").write_text("\n".join(f"{key} = {toml(value)}" for key, value in table.items()))
    path = folder / "grid.toml"
    path.write_text('benchmark = "tiny.toml"\n' + text)
    return path


def test_a_grid_has_a_cell_for_each_classifier_and_seed(tmp_path: Path) -> None:
    path = grid_file(
        tmp_path,
        'explainers = ["gradcam", "random"]\nseeds = [3, 4]\ndata_root = "data"\n'
        '[[classifiers]]\nname = "ray_small"\n'
        '[[classifiers]]\nname = "gcm"\nexplainers = ["cwm"]\nrecipe = { epochs = 1 }\n',
    )
    grid = read_grid(path)
    assert (grid.benchmark, grid.data_root) == (str(tmp_path / "tiny.toml"), tmp_path / "data")
    found = cells(grid)
    assert [str(cell) for cell in found] == ["ray_small", "gcm seed 3", "gcm seed 4"]
    assert [cell.explainers for cell in found] == [("gradcam", "random"), ("cwm",), ("cwm",)]
    assert [dict(cell.recipe) for cell in found] == [{}, {"epochs": 1, "seed": 3}, {"epochs": 1, "seed": 4}]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "'classifiers' is missing"),
        ('explainrs = ["cwm"]\n[[classifiers]]\nname = "gcm"', "unknown key 'explainrs'. Did you mean 'explainers'"),
        ('[[classifiers]]\nname = "gcm"\nsed = 1', "unknown key 'classifiers.0.sed'"),
        ('[[classifiers]]\nname = "gcm"', "no explainers for gcm"),
        ('seeds = [1, 1]\nexplainers = ["cwm"]\n[[classifiers]]\nname = "gcm"', "seeds: a seed is named twice"),
        ('seeds = ["a"]\nexplainers = ["cwm"]\n[[classifiers]]\nname = "gcm"', "seeds.0: "),
        ("explainers = [", "can't read"),
        ('explainers = ["cwm"]\n[[classifiers]]\nname = "gmc"', "Did you mean 'gcm'"),
        (
            'seeds = [1]\nexplainers = ["cwm"]\n[[classifiers]]\nname = "gcm"\nrecipe = { seed = 1 }',
            "gcm has a seed in its recipe",
        ),
        ('explainers = ["a"]\n[[classifiers]]\nname = "gcm"\n[[classifiers]]\nname = "gcm"', "names gcm twice"),
    ],
)
def test_a_wrong_grid_is_one_line(text: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--grid", str(grid_file(tmp_path, text))]) == 2
    err = capsys.readouterr().err
    assert says in err
    assert len(err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--grid", "nowhere.toml"], "no grid file nowhere.toml"),
        (["gcm", "--grid", "g.toml"], "CLASSIFIER stands in the grid file"),
        (["--grid", "g.toml", "-e", "cwm"], "--explainer stands in the grid file"),
        (["--grid", "g.toml", "--recipe", "epochs=1"], "--recipe stands in the grid file"),
        (["gcm", "-e", "cwm", "--workers", "2"], "--workers is for Ray's workers: add --engine ray"),
        (["gcm", "-e", "cwm", "--engine", "spark"], "'spark' is not one of"),
    ],
)
def test_options_that_do_not_go_together(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", *arguments]) == 2
    assert says in capsys.readouterr().err


def test_a_finished_cell_is_found_and_a_failing_one_costs_the_others_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = grid_file(
        tmp_path,
        'explainers = ["ray_brightness", "random"]\nmetrics = ["roc_auc", "energy"]\n'
        '[[classifiers]]\nname = "ray_small"\n'
        '[[classifiers]]\nname = "ray_small"\nexplainers = ["cwm"]\n'
        '[[classifiers]]\nname = "ray_small"\nexplainers = ["ray_holes"]\n',
    )
    command = ["run", "--grid", str(path), "--device", "cpu", "--no-store"]
    assert main(command) == 1
    out, err = capsys.readouterr()
    assert "1 of 3 cells failed, first ray_small: " in err
    assert "[1/3] ray_small: done in" in err
    assert "[2/3] ray_small: failed (" in err
    lines = out.splitlines()
    assert [line.split()[:1] for line in lines[1:]] == [["ray_small"]] * 3
    assert lines[0].split() == ["cell", "ROC-AUC", *_columns("ray_brightness", "random", "cwm", "ray_holes"), *STATE]
    assert len(list((tmp_path / "runs").iterdir())) == 2

    def refuse(*_: Any, **__: Any) -> Run:
        raise XaibenchError("evaluated again")

    monkeypatch.setattr("xaibench.studies.grid.evaluate", refuse)
    done = list(run_grid(read_grid(path), out=tmp_path / "runs", engine=Local(), device="cpu"))
    assert [(finished.found, finished.error) for finished in done] == [
        (True, None),
        (False, "evaluated again"),
        (True, None),
    ]
    header, rows = summary(done)
    first = done[0].run
    assert first is not None
    (value,) = [s.value for s in first.select(explainer="ray_brightness", metric="energy", class_name="macro")]
    assert rows[0][header.index("ray_brightness energy")] == f"{value:.3f}"
    assert [row[header.index("state")] for row in rows] == ["found", "failed", "found"]


STATE = ["state", "saved", "in"]


def _columns(*names: str) -> list[str]:
    return [word for name in names for word in (name, "energy")]
