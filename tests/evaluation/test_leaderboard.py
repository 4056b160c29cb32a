"""The leaderboard: which runs may stand on it, what is kept of them, and its page."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.tiny import tiny_benchmark
from xaibench import registry
from xaibench.benchmark import Benchmark
from xaibench.cli import main
from xaibench.errors import XaibenchError
from xaibench.evaluation.setup import load_splits
from xaibench.reporting.leaderboard_page import leaderboard_page, write_leaderboard
from xaibench.reporting.page import to_html, to_markdown
from xaibench.results.leaderboard import PINS, TurnedAwayError, add_run, read_results
from xaibench.results.run import MACRO, Run, Score, save_run
from xaibench.training.checkpoint import Making

BENCHMARK = tiny_benchmark(name="tiny-board")
SPLITS = load_splits(BENCHMARK, None)


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    registry.register("benchmarks", BENCHMARK.name, BENCHMARK)
    yield
    registry.unregister("benchmarks", BENCHMARK.name)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write a run as `evaluate` would leave it, with changes."""

    def build(
        name: str = "A",
        *,
        benchmark: Benchmark = BENCHMARK,
        classifier: str = "gcm",
        explainer: str = "cwm",
        images: tuple[str, ...] = tuple(SPLITS.test.ids[:4]),
        recipe: dict[str, Any] | None = None,
        value: float = 0.6,
        **record: Any,
    ) -> Path:
        spec = benchmark.classifier("gcm")
        if recipe:
            spec = spec.model_copy(update={"recipe": spec.recipe.model_copy(update=recipe)})
        making = Making.of(classifier, spec, benchmark, SPLITS)
        data = {part: getattr(SPLITS, part).fingerprint for part in ("train", "val", "test")}
        full = {
            "id": (name * 12)[:12],
            "weights": {
                "sha256": "a" * 64,
                "source": "by hand",
                "recipe_hash": making.hash,
                "history": [{"loss": 1.0}],
            },
            "classifier_options": dict(spec.options),
            "recipe": spec.recipe.model_dump(mode="json"),
            "data": data,
            "test": {"images": 28, "patients": 14, "pairs": 4},
            "versions": {"xaibench": "0.1.0"},
        } | record
        rows = [
            {"image": image, "patient": "p", "class": "Effusion", "explainer": explainer, "metric": "energy"}
            | {"value": value, "chance": 0.1}
            for image in images
        ]
        names = ("energy", "visible_in_box@0.50", "visible_in_box@0.25")
        scores = [Score(classifier, None, "roc_auc", MACRO, 0.9, 0.8, 1.0, 0.5, 28, 14, 0)]
        scores += [
            Score(classifier, one, metric, MACRO, level, level - 0.1, level + 0.1, 0.1, 4, 4, 0)
            for one, level in ((explainer, value), ("random", 0.1))
            for metric in names
        ]
        run = Run(benchmark, classifier, (explainer,), ("random",), tuple(scores), full, (), tmp_path / "runs" / name)
        predictions = [{"image": image, "patient": "p"} for image in images]
        save_run(run, [pd.DataFrame(rows)], pd.DataFrame(predictions))
        return tmp_path / "runs" / name

    return build


def test_what_is_kept_is_small_and_has_no_image(write: Callable[..., Path], tmp_path: Path) -> None:
    path = add_run(write(), tmp_path / "results")
    text = path.read_text()
    kept = json.loads(text)
    assert path.name == "tiny-board-gcm-AAAAAAAAAAAA.json"
    assert not any(image in text for image in SPLITS.test.ids)
    assert str(tmp_path) not in text
    assert {score["metric"] for score in kept["scores"]} == {"roc_auc", "energy", "visible_in_box@0.50"}
    assert kept["boxed_in_training"] == 0
    assert "history" not in kept["weights"]
    pins = json.loads((tmp_path / "results" / PINS).read_text())
    assert pins[BENCHMARK.name]["test"] == SPLITS.test.fingerprint
    results = read_results(tmp_path / "results")
    assert [one.classifier for one in results.accepted[BENCHMARK.name]] == ["gcm"]
    assert not results.turned_away


def test_external_weights_stand_there_without_a_recipe(write: Callable[..., Path], tmp_path: Path) -> None:
    weights = {"sha256": "c" * 64, "source": "external, not trained here: x", "external": True, "recipe_hash": ""}
    add_run(write(weights=weights, recipe={}), tmp_path / "results")
    (result,) = read_results(tmp_path / "results").accepted[BENCHMARK.name]
    assert result.weights["external"]
    page = to_markdown(leaderboard_page(read_results(tmp_path / "results")))
    assert "external weights, no recipe" in page
    assert "learning_rate" not in page


def test_another_protocol_is_turned_away(write: Callable[..., Path], tmp_path: Path) -> None:
    other = tiny_benchmark(name="tiny-board", localization={"frame": 32})
    with pytest.raises(TurnedAwayError, match=r"another protocol than tiny-board .*localization.frame 32, not input"):
        add_run(write(benchmark=other), tmp_path / "results")
    with pytest.raises(TurnedAwayError, match="no benchmark 'tiny-other' is installed"):
        add_run(write(benchmark=tiny_benchmark(name="tiny-other")), tmp_path / "results")
    run = write()
    table = json.loads((run / "run.json").read_text())
    del table["checksum"]  # it would be refused as damaged; a forger leaves it out
    table["run"]["benchmark"]["input_size"] = 96
    (run / "run.json").write_text(json.dumps(table))
    with pytest.raises(TurnedAwayError, match="changed after the run"):
        add_run(run, tmp_path / "results")
    assert not (tmp_path / "results").exists()


def test_other_data_are_turned_away(write: Callable[..., Path], tmp_path: Path) -> None:
    data = {part: getattr(SPLITS, part).fingerprint for part in ("train", "val", "test")}
    run = write(data=data | {"test": "9" * 64})
    with pytest.raises(TurnedAwayError, match="another version of the data of tiny-board: test 999999999999, not"):
        add_run(run, tmp_path / "results")
    run = write(data=data | {"train": "9" * 64})
    with pytest.raises(TurnedAwayError, match="trained on other images"):
        add_run(run, tmp_path / "results")


def test_boxed_images_in_training_are_turned_away(write: Callable[..., Path], tmp_path: Path) -> None:
    run = write(images=(*SPLITS.test.ids[:2], *SPLITS.train.ids[:3]))
    with pytest.raises(TurnedAwayError, match="3 images whose boxes are scored were in training or validation"):
        add_run(run, tmp_path / "results")
    run = write(recipe={"selection": "paper"})
    with pytest.raises(TurnedAwayError, match="the epoch was chosen on the boxed test images"):
        add_run(run, tmp_path / "results")


def test_an_incomplete_record_is_turned_away(write: Callable[..., Path], tmp_path: Path) -> None:
    run = write()
    table = json.loads((run / "run.json").read_text())
    del table["checksum"]
    del table["run"]["recipe"]
    (run / "run.json").write_text(json.dumps(table))
    with pytest.raises(TurnedAwayError, match="has no 'recipe'"):
        add_run(run, tmp_path / "results")
    with pytest.raises(XaibenchError, match="is no run"):
        add_run(tmp_path / "nothing", tmp_path / "results")


def test_the_page_orders_results_and_names_what_is_turned_away(write: Callable[..., Path], tmp_path: Path) -> None:
    folder = tmp_path / "results"
    add_run(write("A", value=0.4), folder)
    kept = add_run(write("B", classifier="better", value=0.8), folder)
    table = json.loads(kept.read_text())
    for name, change in {
        "x-hash.json": {"benchmark_hash": "0" * 64},
        "x-boxed.json": {"id": "C", "boxed_in_training": 2},
        "x-uncounted.json": {"id": "D", "boxed_in_training": None},
        "x-data.json": {"id": "E", "data": {**table["data"], "val": "1" * 64}},
        "x-same.json": {},
        "x-key.json": {"surprise": 1},
    }.items():
        (folder / name).write_text(json.dumps(table | change))
    (folder / "x-text.json").write_text("{nonsense")
    results = read_results(folder)
    reasons = results.turned_away
    assert len(results.accepted[BENCHMARK.name]) == 2
    assert len(reasons) == 7
    for name, says in {
        "x-hash": "changed after the run",
        "x-boxed": "2 images",
        "x-uncounted": "nobody counted",
        "x-data": "another version of the data",
        "x-same": "the same run as",
        "x-key": "surprise",
        "x-text": "damaged",
    }.items():
        assert says in reasons[f"{name}.json"], name
    lines = to_markdown(leaderboard_page(results)).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("| explainer"))
    assert [line.split(" | ")[0] for line in lines[start + 2 : start + 6]] == [
        "| better:cwm",
        "| gcm:cwm",
        "| random (baseline)",
        "| chance",
    ]
    assert "0.80 [0.70, 0.90] (0.78)" in lines[start + 2]
    assert any("x-boxed.json" in line for line in lines)
    paths = write_leaderboard(results, tmp_path / "site" / "board.html")
    assert [path.name for path in paths] == ["board.md", "board.html"]


def test_hostile_names_are_text_on_the_page(write: Callable[..., Path], tmp_path: Path) -> None:
    folder = tmp_path / "results"
    add_run(write("A", classifier="<script>alert(1)</script>", explainer="a|b <img src=x> [c](javascript:d)"), folder)
    page = leaderboard_page(read_results(folder))
    assert "<script" not in to_html(page)
    assert "<img" not in to_html(page)
    markdown = to_markdown(page)
    assert "<script" not in markdown.replace("\\<", "")
    assert "](" not in markdown.replace("\\](", "")


def test_the_command(write: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(tmp_path / "results")
    assert main(["leaderboard", "add", str(write()), "--to", folder]) == 0
    assert capsys.readouterr().out.strip().endswith("tiny-board-gcm-AAAAAAAAAAAA.json")
    assert main(["leaderboard", "add", str(write(images=SPLITS.train.ids[:1])), "--to", folder]) == 1
    assert "1 images whose boxes" in capsys.readouterr().err
    assert main(["leaderboard", "build", folder, "--out", str(tmp_path / "page")]) == 0
    assert (tmp_path / "page.html").is_file()
    assert main(["leaderboard", "build", str(tmp_path / "none"), "--out", str(tmp_path / "page")]) == 1
    assert "leaderboard add RUN" in capsys.readouterr().err


def test_the_results_in_the_repository_are_accepted() -> None:
    folder = Path(__file__).resolve().parents[2] / "benchmarks" / "results"
    results = read_results(folder)
    assert results.turned_away == {}
    assert "phantom" in results.accepted
    values = [score.value for one in results.accepted["phantom"] for score in one.scores]
    assert all(value is None or np.isfinite(value) for value in values)
