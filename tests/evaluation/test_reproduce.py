"""The study as a whole, at a size of seconds: what is found again, what is made anew, and what a page says."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tests.cli.test_run_train import toml
from tests.datasets.nih_release import entry, name, write_release
from tests.tiny import tiny_benchmark
from xaibench.benchmark import load_benchmark
from xaibench.cli import main
from xaibench.errors import DataError, UsageError, WeightsError
from xaibench.progress import Progress
from xaibench.studies.gcm_paper.page import write_reproduction
from xaibench.studies.gcm_paper.reproduce import Reproduction, reproduce
from xaibench.studies.gcm_paper.variants import CLASSIFIERS, Settings

SETTINGS = Settings(subsets=2, limit_epochs=1, limit_images=4, input_size=32)
BENCHMARK = tiny_benchmark()


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("reproduction")


@pytest.fixture(scope="module")
def said() -> list[str]:
    return []


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XAIBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def found(out: Path, said: list[str], _cache: None) -> Reproduction:
    return reproduce(BENCHMARK, out=out, settings=SETTINGS, device="cpu", progress=Progress(say=said.append))


def test_the_expected_time_comes_before_any_training(found: Reproduction, said: list[str]) -> None:
    at = next(number for number, text in enumerate(said) if "4 of 4 trainings to do: about" in text)
    assert not any("training gcm" in text for text in said[:at])


def test_two_classifiers_on_two_subsets(found: Reproduction) -> None:
    assert list(found.runs) == list(CLASSIFIERS)
    assert [run.benchmark.dataset.options["seed"] for run in found.runs["gcm"]] == [0, 1]
    assert [run.benchmark.classifier("gcm").recipe.seed for run in found.runs["gcm"]] == [0, 1]
    assert [sum(counts.train.values()) for counts in found.counts] == [16, 16]
    assert not found.same_training
    assert len(found.differences) == 2 * len(BENCHMARK.classes)
    assert found.sizes["gcm"].trained < found.sizes["gcm"].parameters
    assert found.sizes["densenet121"].trained == found.sizes["densenet121"].parameters
    assert {area.explainer for area in found.areas["gcm"]} >= {"cwm", "ccm", "random"}
    assert all(area.n == 4 for area in found.areas["gcm"])
    assert {area.part for area in found.areas["gcm"]} == {"image", "lungs"}  # the phantom knows its lungs
    assert set(found.missing) == {"audit"}


def test_again_everything_is_found_and_equal(found: Reproduction, out: Path) -> None:
    said: list[str] = []
    again = reproduce(BENCHMARK, out=out, settings=SETTINGS, device="cpu", progress=Progress(say=said.append))
    assert sum("found in" in text for text in said) == 4
    assert not any("training" in text for text in said)
    drop = ("seconds",)
    assert {k: v for k, v in again.to_json().items() if k not in drop} == {
        k: v for k, v in found.to_json().items() if k not in drop
    }


def test_a_lost_run_is_made_again_from_its_checkpoint(found: Reproduction, out: Path) -> None:
    run = found.runs["gcm"][1]
    assert run.directory is not None
    (run.directory / "run.json").write_text("{")  # a damaged run is no run
    said: list[str] = []
    again = reproduce(BENCHMARK, out=out, settings=SETTINGS, device="cpu", progress=Progress(say=said.append))
    assert sum("found in" in text for text in said) == 3
    assert any("all 4 trainings are done; 1 runs to evaluate" in text for text in said)
    assert again.runs["gcm"][1].record["weights"]["sha256"] == run.record["weights"]["sha256"]
    assert again.aucs["gcm"] == found.aucs["gcm"]


def test_bad_use_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="subsets = 0"):
        reproduce(BENCHMARK, out=tmp_path, settings=Settings(subsets=0))
    with pytest.raises(UsageError, match="--data-root"):
        reproduce("chestxray8-4class", out=tmp_path)
    with pytest.raises(UsageError, match="--older-entries"):
        reproduce(BENCHMARK, out=tmp_path, older_entries=tmp_path / "x.csv")


def test_weights_that_need_a_network_name_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object, **__: object) -> object:
        raise WeightsError("no pretrained weights for 'efficientnet_b0': no network. Connect to it")

    monkeypatch.setattr("xaibench.studies.gcm_paper.reproduce.make_classifier", none)
    table = BENCHMARK.model_dump()
    table["classifiers"]["gcm"]["options"] = {"encoder": "efficientnet_b0", "weights": "timm"}
    with pytest.raises(WeightsError, match="--offline") as caught:
        reproduce(type(BENCHMARK).model_validate(table), out=tmp_path, settings=SETTINGS, device="cpu")
    assert "\n" not in str(caught.value)


def test_tables_alone_give_the_audit(nih_sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "tables"
    root.mkdir()
    for path in nih_sample.iterdir():
        if path.is_file() and path.suffix in (".csv", ".txt"):
            (root / path.name).symlink_to(path)
    out = tmp_path / "out"
    arguments = ["reproduce", "chestxray8-4class", "--data-root", str(root), "--out", str(out), "--device", "cpu", "-q"]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "no image of the release" in printed
    page = (out / "reproduction.md").read_text()
    assert "| Cardiomegaly | 1,093 | 777 | 146 | 135 | 161 |" in page
    assert "| Pneumothorax | 2,194 | 1,241 | 98 | 86 | 411 |" in page
    assert "| Effusion | 3,955 | 2,788 | 153 | 102 | 513 |" in page
    assert "No preset gives table 1's counts" in page
    assert json.loads((out / "reproduction.json").read_text())["audit"]["images"] == 112_120


def test_fourteen_findings_at_once_go_the_same_way(tmp_path: Path) -> None:
    base = load_benchmark("chestxray8-14class")
    assert (base.task, len(base.classes)) == ("multilabel", 14)
    rows = []
    for patient in range(1, 85):  # every image has two findings, neighbours in the list
        first, second = (base.classes[(patient + step) % 14] for step in (0, 1))
        rows.append(entry(patient, f"{first}|{second}"))
    boxed = {patient: base.classes[patient % 14] for patient in (1, 2, 15, 16)}  # Cardiomegaly, Effusion, and again
    boxes = [f"{name(patient)},{finding},256.5,512,128,64.25" for patient, finding in boxed.items()]
    root = write_release(tmp_path / "data", rows, boxes)
    settings = Settings(subsets=1, preset="patient_disjoint", limit_epochs=1, input_size=32, offline=True)
    found = reproduce(base, data_root=root, out=tmp_path / "out", settings=settings, device="cpu")
    assert set(found.missing) == {"areas"}  # no class No Finding
    run = found.runs["gcm"][0]
    assert {row["class"] for _, row in run.images()[["class"]].drop_duplicates().iterrows()} == {
        "Cardiomegaly",
        "Effusion",
    }
    table = run.predictions()
    assert (table[[f"label:{finding}" for finding in base.classes]].sum(axis=1) == 2).all()
    assert len(found.aucs["gcm"]) == 15
    (markdown, _) = write_reproduction(found, tmp_path / "out")
    page = markdown.read_text()
    assert "binary cross entropy" in page
    assert "Published for another task" in page
    assert "Hernia: not computable from this data (no test image has a box of it)" in page


def small_release(root: Path, boxed: Sequence[str]) -> Path:
    """80 patients, 20 a class, two images each; the first patient of each boxed class has a box on the first image, and
    the second, boxed too, is labelled Effusion beside."""
    classes = load_benchmark("chestxray8-4class").classes
    rows, boxes = [], []
    for patient in range(1, 81):
        label = classes[patient % 4]
        both = f"{label}|Effusion" if label in boxed and label != "Effusion" and patient in (5, 6) else label
        rows += [entry(patient, both), entry(patient, label, 1)]
        if label in boxed and patient <= 8:
            boxes.append(f"{name(patient)},{label},256.5,512,128,64.25")
    return write_release(root, rows, boxes)


def test_the_paper_s_split_comes_with_patients_apart_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XAIBENCH_CACHE", str(tmp_path / "cache"))
    root = small_release(tmp_path / "nih", ("Cardiomegaly", "Pneumothorax", "Effusion"))
    out = tmp_path / "out"
    arguments = ["reproduce", "chestxray8-4class", "--data-root", str(root), "--out", str(out), "--device", "cpu", "-q"]
    arguments += ["--offline", "--subsets", "1", "--input-size", "32", "--limit-epochs", "1", "--limit-images", "12"]
    arguments += ["-o", "decoders=per_class", "--recipe", "batch_size=8", "--recipe", "gcm.learning_rate=0.05"]
    assert main(arguments) == 0, capsys.readouterr().err
    printed = capsys.readouterr().out
    assert "No table of the paper has been measured here on the NIH release." in printed
    assert "gcm, patient_disjoint: mean ROC-AUC" in printed
    assert "gcm, paper: mean ROC-AUC" in printed
    numbers = json.loads((out / "reproduction.json").read_text())
    used = {d["key"]: d["used"] for d in numbers["deviations"]}
    assert used["classifiers.gcm.options.decoders"] == "per_class"
    assert used["classifiers.gcm.recipe.batch_size"] == used["classifiers.densenet121.recipe.batch_size"] == "8"
    assert used["classifiers.gcm.recipe.learning_rate"] == "0.05"
    assert numbers["runs"]["gcm"][0]["run"]["recipe"]["batch_size"] == 8
    beside = numbers["beside"]
    assert (numbers["preset"], beside["preset"]) == ("paper", "patient_disjoint")
    assert sum(numbers["counts"][0]["leaking_any"].values()) > 0  # each boxed patient's other image may train
    assert sum(numbers["counts"][0]["contradicting"].values()) == 2
    for counts in beside["counts"]:
        assert set(counts["leaking_any"].values()) == set(counts["contradicting"].values()) == {0}
    page = (out / "reproduction.md").read_text()
    assert "| classifiers.gcm.options.decoders | not set | per_class |" in page
    assert "Comparable on the mean of the subsets" in page
    assert "cwm (gcm) against gradcam (densenet121) on the same images of all subsets" in page
    assert "GCM, without these" in page
    assert "-o decoders=per_class" in page or "--option decoders=per_class" in page
    other = (out / "patient_disjoint" / "reproduction.md").read_text()
    assert "there is nothing to leave out" in other
    alone = tmp_path / "alone"
    assert main([*arguments[:5], str(alone), *arguments[6:], "--preset", "paper"]) == 0
    assert not (alone / "patient_disjoint").exists()
    assert json.loads((alone / "reproduction.json").read_text())["beside"] is None


def test_a_split_rule_that_can_t_be_drawn_says_why_and_the_other_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XAIBENCH_CACHE", str(tmp_path / "cache"))
    root = small_release(tmp_path / "nih", ("Cardiomegaly",))
    settings = Settings(subsets=1, limit_epochs=1, limit_images=12, input_size=32, offline=True)
    base = load_benchmark("chestxray8-4class")
    found = reproduce(base, data_root=root, out=tmp_path / "out", settings=settings, device="cpu")
    assert "no test image of class 'Pneumothorax': it has no boxes" in found.missing["runs"]
    assert found.beside is not None
    assert len(found.beside.aucs["gcm"]) == 5
    pages = write_reproduction(found, tmp_path / "out")
    assert len(pages) == 4
    page = pages[0].read_text()
    assert "the split rule paper can't be drawn" in page
    assert f"{found.beside.aucs['gcm'][0].value:.3f}" in page
    with pytest.raises(DataError, match="no test image of class 'Pneumothorax'"):
        reproduce(base, data_root=root, out=tmp_path / "x", settings=replace(settings, preset="paper"), device="cpu")


@pytest.mark.slow
def test_killed_midway_it_goes_on_and_writes_the_page(tmp_path: Path) -> None:
    path = tmp_path / "tiny.toml"
    table = BENCHMARK.model_dump(mode="json")
    path.write_text("\n".join(f"{key} = {toml(value)}" for key, value in table.items()))
    cache, out = tmp_path / "cache", tmp_path / "out"
    command = [sys.executable, "-m", "xaibench", "reproduce", str(path), "--subsets", "2", "--limit-images", "4"]
    command += ["--input-size", "32", "--device", "cpu", "--out", str(out)]
    environment = {**os.environ, "XAIBENCH_CACHE": str(cache), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 600
    while not list((out / "runs").glob("*/run.json")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 1 <= len(list((out / "runs").glob("*/run.json"))) < 4
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "found in" in done.stderr
    page = (out / "reproduction.md").read_text()
    assert page.count("\n## ") == 11
    assert (out / "visible-in-box.png").is_file()
    assert list((out / "figures").glob("*.pdf"))
