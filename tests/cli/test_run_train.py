"""``run`` and ``train`` as a user calls them: what they print, keep, refuse, and how they end."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.tiny import tiny_benchmark
from xaibench.cli import main
from xaibench.results.run import Run


def toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(key)} = {toml(inner)}" for key, inner in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("benchmark") / "tiny.toml"
    table = tiny_benchmark().model_dump(mode="json")
    path.write_text("\n".join(f"{key} = {toml(value)}" for key, value in table.items()))
    return path


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _folders(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XAIBENCH_CACHE", str(cache))


def test_run_trains_prints_and_keeps(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "gcm", "-e", "cwm", "-b", str(tiny), "--device", "cpu"]) == 0
    out, err = capsys.readouterr()
    for word in ("ROC-AUC", "Hit rate", "cwm", "prior_box", "random", "center", "chance", "macro", "Effusion"):
        assert word in out, word
    assert "\x1b" not in out
    (directory,) = Path("runs").iterdir()
    run = Run.load(directory)
    assert (run.classifier, run.explainers) == ("gcm", ("cwm",))
    with Image.open(directory / "contact-sheet-cwm.png") as sheet:
        assert min(sheet.size) > 500
    assert str(directory / "contact-sheet-cwm.png") in out
    assert "training gcm: 2 epochs of 24 images, about" in err or "ROC-AUC" in out

    assert main(["run", "gcm", "-e", "cwm", "-b", str(tiny), "--device", "cpu", "--json"]) == 0
    out, err = capsys.readouterr()
    printed = json.loads(out)
    assert printed["run"]["directory"] == str(directory)
    assert "training" not in err
    assert len(list(Path("runs").iterdir())) == 1


def test_metrics_asked_for_replace_the_benchmark_s(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["run", "gcm", "-e", "cwm", "-b", str(tiny), "--device", "cpu", "--json"]
    assert main([*common, "-m", "hit_rate,energy", "-m", "average_*"]) == 0
    printed = json.loads(capsys.readouterr().out)
    found = {score["metric"] for score in printed["scores"]}
    assert found == {"hit_rate", "energy", "average_drop", "average_gain", "average_increase", "average_precision"}
    assert printed["run"]["benchmark_hash"] != tiny_benchmark().hash
    assert printed["run"]["seconds"]["metric:average_drop"] > 0


def test_train_says_how_long_and_where(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = tmp_path / "mine.safetensors"
    options = ["train", "gcm", "-b", str(tiny), "--device", "cpu", "--recipe", "epochs=1", "--out", str(kept)]
    assert main([*options, "--retrain"]) == 0
    out, err = capsys.readouterr()
    assert "training gcm: 1 epoch of 24 images, about 1 minute on cpu" in err
    assert "epoch 1: loss" in err
    assert f"Weights: {kept}" in out
    assert json.loads(kept.with_suffix(".json").read_text())["making"]["recipe"]["epochs"] == 1

    refused = ["run", "gcm", "-e", "cwm", "-b", str(tiny), "--checkpoint", str(kept)]
    assert main(refused) == 1
    assert "recipe.epochs: 2, not 1" in capsys.readouterr().err
    assert main([*refused, "--recipe", "epochs=1", "-q"]) == 0


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["run"], 2, "CLASSIFIER"),
        (["run", "gcm"], 2, "--explainer"),
        (["run", "gmc", "-e", "cwm"], 2, "Did you mean 'gcm'"),
        (["run", "gcm", "-e", "cvm"], 2, "Did you mean 'cwm'"),
        (["run", "gcm", "-e", "cwm", "-m", "energi"], 2, "there is no metric 'energi'. Did you mean 'energy'?"),
        (["run", "gcm", "-e", "cwm", "-m", "energy,insert"], 2, "Did you mean 'insertion'"),
        (["run", "gcm", "-e", "cwm", "-m", "box_iou*", "-m", "zz*"], 2, "there is no metric 'zz*'"),
        (["run", "gcm", "-e", "cwm", "-b", "phantm"], 2, "Did you mean 'phantom'"),
        (["run", "gcm", "-e", "cwm", "-b", "nowhere.toml"], 1, "no benchmark file nowhere.toml"),
        (["run", "gcm", "-e", "cwm", "-o", "encoder"], 2, "write KEY=VALUE"),
        (["run", "gcm", "-e", "cwm", "-o", "encodr=x"], 2, "Did you mean 'encoder'"),
        (["run", "gcm", "-e", "cwm", "--recipe", "epoch=2"], 1, "Did you mean 'epochs'"),
        (["run", "gcm", "-e", "cwm", "-b", "chestxray8-sample"], 2, "--data-root"),
        (["run", "gcm", "-e", "cwm", "-b", "chestxray8-sample", "--data-root", "nowhere"], 1, "nowhere"),
        (["run", "gcm", "-e", "cwm", "-b", "chestxray8-sample", "--data-root", "."], 1, "Data_Entry"),
        (["run", "gcm", "-e", "cwm", "--checkpoint", "none.safetensors"], 1, "no checkpoint none.safetensors"),
        (["run", "gcm", "-e", "cam"], 1, "use gradcam"),
        (["run", "densenet121", "-e", "cwm"], 1, "use gradcam"),
        (["run", "timm:resnet5", "-e", "gradcam"], 2, "resnet5"),
        (["run", "timm", "-e", "gradcam"], 2, "write NAME:MODEL"),
        (["run", "gcm", "-e", "cwm", "--device", "tpu9"], 2, "--device cpu"),
        (["train", "gcm", "--out", "weights.pth"], 2, ".safetensors"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], code: int, says: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(arguments) == code
    out, err = capsys.readouterr()
    last = err.strip().splitlines()[-1]
    assert says in last, err
    assert "Traceback" not in err
    assert out == ""


def test_an_unknown_key_names_the_file_the_key_and_the_remedy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken.toml"
    broken.write_text('name = "x"\nclases = ["a", "b"]\n')
    assert main(["run", "gcm", "-e", "cwm", "-b", str(broken)]) == 1
    err = capsys.readouterr().err
    assert f"{broken}" in err
    assert "clases" in err


def test_a_full_disk_is_one_line(
    tiny: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "runs/x/scores.parquet")

    monkeypatch.setattr("xaibench.evaluation.evaluate.save_run", full)
    assert main(["run", "gcm", "-e", "cwm", "-b", str(tiny), "-q"]) == 1
    err = capsys.readouterr().err
    assert "no space left" in err.lower()
    assert "Traceback" not in err


def test_a_truncated_image_is_named(nih_sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "nih"
    (root / "images").mkdir(parents=True)
    for table in nih_sample.glob("*.*"):
        if table.suffix in (".csv", ".txt"):
            (root / table.name).symlink_to(table)
    images = sorted((nih_sample / "images").iterdir())
    for image in images:
        (root / "images" / image.name).symlink_to(image)
    damaged = images[0]
    (root / "images" / damaged.name).unlink()
    (root / "images" / damaged.name).write_bytes(damaged.read_bytes()[:2000])
    recipe = ["--recipe", "epochs=1", "-q", "--device", "cpu"]
    code = main(["train", "gcm", "-b", "chestxray8-sample", "--data-root", str(root), *recipe])
    err = capsys.readouterr().err
    assert code == 1
    assert damaged.name in err.strip().splitlines()[-1]


def _started(tiny: Path, folder: Path) -> tuple[subprocess.Popen[str], Callable[[], bool]]:
    command = [
        sys.executable,
        "-m",
        "xaibench",
        "train",
        "gcm",
        "-b",
        str(tiny),
        "--recipe",
        "epochs=400",
        "--device",
        "cpu",
    ]
    environment = {**os.environ, "XAIBENCH_CACHE": str(folder), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    return process, lambda: bool(list(folder.glob("training/*/epoch-*.ckpt")))


@pytest.mark.slow
def test_ctrl_c_ends_in_one_line_and_training_goes_on_from_there(tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    process, begun = _started(tiny, folder)
    deadline = time.monotonic() + 240
    while not begun() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.2)
    assert begun()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert err.strip().splitlines()[-1].endswith("interrupted")
    assert "Traceback" not in err
    process, _ = _started(tiny, folder)
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if line.startswith("epoch "):
            break
    process.kill()
    process.communicate()
    assert any("going on with a training that was interrupted" in line for line in lines)
    assert int(lines[-1].split()[1].rstrip(":")) > 1
