"""The doctor by name: from the command line, and as the fast part of a run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.tiny import tiny_benchmark
from xaibench.cli.app import main
from xaibench.evaluation.evaluate import evaluate
from xaibench.evaluation.examine import examine

BLIND = """
from xaibench.explainers.base import Explainer, upsample

class Blind(Explainer):
    '''Sees no class.'''

    def explain(self, classifier, prediction, targets):
        return upsample(prediction.features.norm(dim=1), prediction.frame)
"""
EXAMINE = ["doctor", "densenet121", "-o", "resize=64", "--device", "cpu"]


@pytest.fixture
def blind(install: Callable[..., Path]) -> None:
    install("blind-pkg", {"xaibench.explainers": "blind = blind_mod:Blind"}, blind_mod=BLIND)
    install("sad-pkg", {"xaibench.explainers": "sad = sad_mod:Sad"}, sad_mod="raise RuntimeError('boom')")


def test_a_healthy_pair_exits_with_0(blind: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*EXAMINE, "-e", "cam", "-e", "gradcam"]) == 0
    said = capsys.readouterr().out
    assert "No errors" in said
    assert "the target layer is the output of model.features.norm5.act" in said
    assert "no checkpoint of the recipe" in said


def test_an_error_exits_with_1_and_json_is_for_programs(blind: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*EXAMINE, "-e", "blind", "-e", "sad", "-e", "cwm", "--json"]) == 1
    table = json.loads(capsys.readouterr().out)
    errors = {row["subject"]: row for row in table["findings"] if row["severity"] == "error"}
    assert table["errors"] == len(errors) == 3
    assert "same for all of 4 classes" in errors["explainer blind"]["what"]
    assert errors["explainer blind"]["remedy"]
    assert "sad-pkg 1.0" in errors["explainer sad"]["what"]
    assert "use gradcam" in errors["explainer cwm"]["what"]


def test_a_network_that_comes_trained(capsys: pytest.CaptureFixture[str]) -> None:
    name = "module:tests.classifiers.networks:make"
    assert main(["doctor", name, "-e", "gradcam", "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert f"as they came: {name}" in said
    assert "no checkpoint of the recipe" not in said
    assert main(["doctor", name, "--checkpoint", "some.safetensors", "--device", "cpu"]) == 2
    assert main(["doctor", name, "-o", "layer=first", "--device", "cpu"]) == 1
    assert "1 layers behind the target still work on places, the last module.second" in capsys.readouterr().out


def test_wrong_names_are_wrong_use(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "gcm", "-e", "cvm"]) == 2
    assert "Did you mean 'cwm'" in capsys.readouterr().err


def test_a_run_starts_with_the_fast_part(blind: None) -> None:
    run = evaluate("gcm", ["blind", "cwm"], tiny_benchmark(), device="cpu")
    said = [note for note in run.notes if note.startswith("doctor:")]
    assert len(said) == 1
    assert "explainer blind: the map is the same for all of 2 classes" in said[0]


def test_it_takes_a_benchmark_and_weights() -> None:
    found = examine("gcm", ["cwm", "ccm"], tiny_benchmark(), device="cpu")
    assert {finding.severity for finding in found} == {"note"}


def test_a_run_says_that_twelve_bits_in_sixteen_are_almost_black(tmp_path: Path) -> None:
    from xaibench.benchmark import Benchmark

    rows = ["image,split,No Finding,Mass"]
    for n in range(8):
        pixels = np.random.default_rng(n).integers(0, 4096, (32, 32)).astype(np.uint16)
        Image.fromarray(pixels).save(tmp_path / f"{n}.png")
        rows.append(f"{n}.png,{('train', 'train', 'val', 'test')[n // 2]},{n % 2},{1 - n % 2}")
    (tmp_path / "labels.csv").write_text("\n".join(rows) + "\n")

    def said(**options: str) -> list[str]:
        table = tiny_benchmark(classes=("No Finding", "Mass"), input_size=64).model_dump()
        table["dataset"] = {"name": "folder", "options": {"table": "labels.csv", "split_column": "split", **options}}
        run = evaluate("gcm", ["cwm"], Benchmark.model_validate(table), data_root=tmp_path, device="cpu")
        return [note for note in run.notes if "almost black" in note]

    (note,) = said()
    assert 'range = "stored"' in note
    assert said(range="stored") == []


def test_real_radiographs_are_far_from_almost_black(nih_sample: Path) -> None:
    from xaibench.datasets.chestxray8.images import decode

    names = sorted((nih_sample / "images").iterdir())[::10]
    assert min(decode(path, size).max() for path in names for size in (32, 128)) > 0.5
