"""``compare`` as a user calls it."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pandas as pd
import pytest

from tests.cli.test_run_train import toml
from tests.reporting.compared import CLASSES, random_values, write_run
from tests.reporting.runs import benchmark
from tests.tiny import tiny_benchmark
from xaibench.cli import main


@pytest.fixture
def runs(tmp_path: Path) -> list[str]:
    """Two runs of metrics that are installed."""
    spec = benchmark(CLASSES, ["roc_auc", "hit_rate", "energy", "complexity"])
    shared = random_values(5, ["prior_box"])
    write_run(tmp_path / "A", random_values(1, ["cwm"], level=0.3) | shared, spec=spec)
    write_run(tmp_path / "B", random_values(2, ["cam"]) | shared, spec=spec, classifier="other", explainers=("cam",))
    return [str(tmp_path / "A"), str(tmp_path / "B")]


def test_prints_and_writes_every_format(runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {name: tmp_path / f"table.{name}" for name in ("markdown", "latex", "csv", "parquet", "json")}
    options = [text for name, path in files.items() for text in (f"--{name}", str(path))]
    assert main(["compare", *runs, "--against", "prior_box", *options]) == 0
    out, _ = capsys.readouterr()
    for word in ("Localization", "gcm:cwm", "other:cam", "prior_box", "chance", "effect", "Holm"):
        assert word in out, word
    assert "\x1b" not in out
    assert files["latex"].read_text().startswith("\\documentclass")
    assert files["markdown"].read_text().startswith("# Comparison")
    found = json.loads(files["json"].read_text())
    assert len(pd.read_csv(files["csv"])) == len(pd.read_parquet(files["parquet"])) == len(found["scores"])


def test_one_format_may_go_to_the_output_alone(runs: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", *runs, "--csv", "-", "--pairs", "--class", "Mass"]) == 0
    out, err = capsys.readouterr()
    table = pd.read_csv(io.StringIO(out))
    assert set(table["class"]) == {"Mass"}
    assert {"first", "second", "p_holm"} <= set(table.columns)
    assert err == ""


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ([], 2, "Missing argument"),
        (["nowhere"], 2, "no run directory and no pair"),
        (["A", "--against", "prior_bax"], 2, "Did you mean 'prior_box'?"),
        (["A", "--csv", "-", "--json", "-"], 2, "takes one of them"),
        (["A", "--csv", "."], 2, "that is a folder"),
        (["A", "--csv", "no/such/folder/x.csv"], 1, "can't write no/such/folder/x.csv"),
        (["A", "--alpha", "2"], 2, "alpha"),
        (["."], 1, "is no run"),
        (["gcm:nonsense", "--out", "none"], 2, "nonsense"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str],
    code: int,
    says: str,
    runs: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["compare", *arguments]) == code
    _, err = capsys.readouterr()
    assert says in err
    assert "Traceback" not in err


def test_pairs_are_run_once_and_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XAIBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    table = tiny_benchmark().model_dump(mode="json")
    Path("tiny.toml").write_text("\n".join(f"{key} = {toml(value)}" for key, value in table.items()))
    options = ["-b", "tiny.toml", "--recipe", "epochs=1", "--device", "cpu"]
    assert main(["compare", "gcm:cwm", "gcm:ccm", *options]) == 0
    out, err = capsys.readouterr()
    assert "training gcm" in err
    assert "gcm:ccm" in out
    (run,) = Path("runs").iterdir()
    before = (run / "run.json").stat().st_mtime_ns
    assert main(["compare", "gcm:cwm", *options, "--json", "found.json"]) == 0
    out, err = capsys.readouterr()
    assert f"gcm: cwm found in {run}" in err
    assert (run / "run.json").stat().st_mtime_ns == before
    assert {row["name"] for row in json.loads(Path("found.json").read_text())["scores"] if row["explainer"]} == {
        "gcm:cwm",
        "random",
        "center",
        "prior_box",
    }
