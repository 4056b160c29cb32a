"""``rate`` and ``figures`` as a user calls them, on a run of a tiny benchmark."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from tests.tiny import tiny_benchmark
from xaibench.cli import main
from xaibench.evaluation.evaluate import evaluate


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def run(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XAIBENCH_CACHE", str(cache))
        made = evaluate("gcm", ["cwm", "ccm"], tiny_benchmark(), out=tmp_path_factory.mktemp("runs"), device="cpu")
    assert made.directory is not None
    return made.directory


@pytest.fixture(autouse=True)
def _cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XAIBENCH_CACHE", str(cache))


def test_a_page_a_folder_and_back(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "rate.html"
    assert main(["rate", str(run), "--out", str(page), "-q"]) == 0
    assert capsys.readouterr().out == f"42 maps to rate: {page}\n"
    assert page.read_text(encoding="utf-8").count("data:image/jpeg") == 42

    folder = tmp_path / "folder"
    assert main(["rate", str(run), "--folder", "-e", "cwm", "--out", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"path": str(folder), "items": 21}
    assert len(list(folder.glob("*.png"))) == 21

    for rater, marks in (("ann", "hit"), ("ben", "miss")):
        with (folder / "ratings.csv").open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
        for row in rows:
            row |= {"rater": rater, "rating": "hit" if row["class"] == "Cardiomegaly" else marks}
        with (tmp_path / f"{rater}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    files = ["--read", str(tmp_path / "ann.csv"), "--read", str(tmp_path / "ben.csv")]
    assert main(["rate", str(run), *files]) == 0
    out, err = capsys.readouterr()
    for words in ("42 ratings of 2 raters, 0 left unrated", "ann and ben", "7/21", "0.333", "undefined", "always"):
        assert words in out, words
    assert err == ""
    assert main(["rate", str(run), *files, "--json"]) == 0
    results = json.loads(capsys.readouterr().out)
    assert [(row["hits"], row["n"]) for row in results["rates"] if row["rater"] == "ben"] == [
        (7, 7),
        (0, 7),
        (0, 7),
        (7, 21),
    ]
    assert {row["class"]: row["value"] for row in results["agreement"]}["Pneumothorax"] == 0.0


def test_figures_are_written_and_named(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["figures", str(run), "--out", str(tmp_path / "a"), "-q"]) == 0
    printed = [Path(line) for line in capsys.readouterr().out.splitlines()]
    names = ["5-ccm-cwm", "6-cardiomegaly", "7-pneumothorax", "8-effusion", "9-no-finding"]
    grids = [f"figure-{name}" for name in names]
    scores = [
        "roc-auc",
        "average-precision",
        "sensitivity",
        "specificity",
        "calibration-error",
        "hit-rate",
        "pointing-game",
        "energy",
        "iou-otsu",
        "visible-in-box-0-50",
        "visible-outside-0-50",
    ]
    curves = ["curve-inside-outside", "curve-visible-in-box", "curve-visible-outside"]
    charts = [*(f"forest-{name}" for name in scores), "roc", *curves]
    kinds = ("png", "pdf", "svg")
    assert [path.name for path in printed] == [f"{name}.{kind}" for name in grids + charts for kind in kinds]
    assert (
        main(["figures", str(run), "--out", str(tmp_path / "b"), "-k", "grid", "-f", "png", "-f", "pdf", "--json"]) == 0
    )
    again = [Path(path) for path in json.loads(capsys.readouterr().out)["files"]]
    assert [path.name for path in again] == [f"{name}.{kind}" for name in grids for kind in ("png", "pdf")]
    for path in again:
        assert path.read_bytes() == (tmp_path / "a" / path.name).read_bytes()


def test_kinds_formats_and_colours_are_chosen(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def files(*arguments: str) -> list[str]:
        assert main(["figures", *arguments, "--out", str(tmp_path), "-q"]) == 0
        return [Path(line).name for line in capsys.readouterr().out.splitlines()]

    assert files(str(run), "-k", "forest", "--metric", "hit_rate", "-f", "svg") == ["forest-hit-rate.svg"]
    assert files(str(run), "-k", "tolerance", "--class", "Effusion", "-f", "pdf") == ["curve-tolerance.pdf"]
    several = files(str(run), str(run), "-f", "svg", "--metric", "energy", "--class", "macro")
    assert several[0] == "forest-energy.svg"
    assert not any(name.startswith("figure-") for name in several)
    assert "figure-7-pneumothorax.png" in files(str(run), "-k", "grid", "-f", "png")
    signed = (tmp_path / "figure-7-pneumothorax.png").read_bytes()
    files(str(run), "-k", "grid", "-f", "png", "--colormap", "jet")
    assert (tmp_path / "figure-7-pneumothorax.png").read_bytes() != signed


def test_charts_are_drawn_though_the_weights_are_gone(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XAIBENCH_CACHE", str(tmp_path / "empty"))
    assert main(["figures", str(run), "--out", str(tmp_path / "out"), "-f", "svg", "-q"]) == 1
    out, err = capsys.readouterr()
    assert "forest-hit-rate.svg" in out
    assert "are not in the cache" in err


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["rate", "nowhere"], 1, "is no run"),
        (["rate", "RUN", "-e", "cvm"], 2, "Did you mean 'cwm'"),
        (["rate", "RUN", "--read", "none.csv"], 1, "no ratings file none.csv"),
        (["rate", "RUN", "--read", "none.csv", "--folder"], 2, "leave --folder"),
        (["rate", "RUN", "--checkpoint", "none.safetensors"], 1, "no checkpoint none.safetensors"),
        (["rate", "RUN", "--seed", "-1"], 2, "--seed"),
        (["figures", "RUN"], 2, "--out"),
        (["figures", "RUN", "--out", "x", "-e", "gradcan"], 2, "no scores of explainer 'gradcan'"),
        (["figures", "RUN", "--out", "x", "--scale", "huge"], 2, "--scale"),
        (["figures", "RUN", "RUN", "--out", "x", "-k", "grid"], 2, "shows the maps of one run"),
        (["figures", "RUN", "RUN", "--out", "x", "--checkpoint", "y"], 2, "--checkpoint is of one run"),
        (["figures", "RUN", "--out", "x", "-k", "forest", "--metric", "hitrate"], 2, "Did you mean 'hit_rate'"),
        (["figures", "RUN", "--out", "x", "-k", "roc", "--class", "Efusion"], 2, "Did you mean 'Effusion'"),
        (["figures", "RUN", "--out", "x", "-k", "roc", "--metric", "nonsense"], 2, "did not measure it"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str],
    code: int,
    says: str,
    run: Path,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([str(run) if word == "RUN" else word for word in arguments]) == code
    out, err = capsys.readouterr()
    assert says in err.strip().splitlines()[-1], err
    assert "Traceback" not in err
    assert out == ""


def test_report_makes_the_maps_of_a_run_again(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "pages" / "report.html"
    assert main(["report", str(run), "--html", str(page), "--images", "6", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["path"] == str(page)
    assert made["bytes"] == page.stat().st_size
    assert made["runs"] == 1
    assert made["pairs"] >= 6
    assert 'id="gallery-data"' in page.read_text(encoding="utf-8")
    assert main(["report", str(tmp_path), "--html", str(page)]) == 1
    assert "is no run" in capsys.readouterr().err
