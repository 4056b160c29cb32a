"""``shortcut`` as a user calls it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.test_run_train import toml
from tests.tiny import tiny_benchmark
from xaibench.cli import main


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XAIBENCH_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "tiny.toml"
    table = tiny_benchmark().model_dump(mode="json")
    path.write_text("\n".join(f"{key} = {toml(value)}" for key, value in table.items()))
    return path


def test_prints_a_table_and_json(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["shortcut", "gcm", "-e", "ccm_contrast", "-b", str(tiny), "--recipe", "epochs=1", "--device", "cpu"]
    options += ["--class", "Effusion", "--images", "4"]
    assert main(options) == 0
    out, err = capsys.readouterr()
    for word in (
        "ccm_contrast",
        "random (baseline)",
        "marker, cheating",
        "lesion, honest",
        "AUC",
        "chance",
        "Effusion",
    ):
        assert word in out, word
    assert err.count("training gcm") == 2
    assert main([*options, "--json"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert "training" not in err
    assert found["class_name"] == "Effusion"
    assert [one["explainer"] for one in found["detections"]] == ["ccm_contrast", "random"]
    assert found["detections"][1]["auc"]["value"] == 0.5


def test_takes_checkpoints(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = tmp_path / "honest.safetensors"
    recipe = ["--recipe", "epochs=1", "-b", str(tiny), "--device", "cpu", "-q"]
    assert main(["train", "gcm", *recipe, "--out", str(kept)]) == 0
    assert main(["shortcut", "gcm", "-e", "cwm", *recipe, "--images", "2", "--cheating", str(kept)]) == 1
    err = capsys.readouterr().err
    assert "made by another recipe" in err.strip().splitlines()[-1]  # trained without a marker


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["shortcut", "gcm"], 2, "--explainer"),
        (["shortcut", "gcm", "-e", "cwm", "--data-root", "."], 2, "--data-root"),
        (["shortcut", "gcm", "-e", "cwm", "-b", "chestxray8-sample"], 2, "--benchmark phantom"),
        (["shortcut", "gcm", "-e", "cwm", "--class", "Nodule"], 2, "Nodule"),
        (["shortcut", "gcm", "-e", "cwm", "--correlation", "0"], 2, "correlation"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], code: int, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == code
    out, err = capsys.readouterr()
    assert says in err.strip().splitlines()[-1]
    assert "Traceback" not in err
    assert out == ""
