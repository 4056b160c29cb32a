"""One list of libraries serves the store's keys, a run's record and a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.explainers.small import Small
from tests.tiny import tiny_benchmark
from xaibench.benchmark import load_benchmark
from xaibench.evaluation.cache_keys import classifier_identity
from xaibench.evaluation.setup import load_splits
from xaibench.io import versions
from xaibench.io.versions import LIBRARIES
from xaibench.training.checkpoint import Making, find_checkpoint, read_checkpoint

DECIDE = ("scikit-learn", "pillow", "opencv-python", "torch", "captum")
"""KernelPCA and captum's regressions; decoding and resizing; components of maps; and two that always counted."""


def upgraded(monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    before = versions._version
    monkeypatch.setattr(versions, "_version", lambda name: "99.0" if name == library else before(name))


@pytest.mark.parametrize("library", DECIDE)
def test_nothing_kept_is_taken_for_another_version_s(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    classifier = Small().eval()
    before = classifier_identity("small", classifier, {})
    upgraded(monkeypatch, library)
    after = classifier_identity("small", classifier, {})
    assert before is not None
    assert after is not None
    assert {key for key in after if after[key] != before[key]} == {"libraries"}


def test_a_library_that_only_writes_decides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    classifier = Small().eval()
    before = classifier_identity("small", classifier, {})
    upgraded(monkeypatch, "pandas")
    assert classifier_identity("small", classifier, {}) == before


def test_record_and_key_hold_the_same_list(monkeypatch: pytest.MonkeyPatch) -> None:
    upgraded(monkeypatch, "scikit-learn")
    identity = classifier_identity("small", Small().eval(), {})
    assert identity is not None
    record = versions.versions()
    assert {name: record[name] for name in record if name not in ("xaibench", "python")} == identity["libraries"]
    assert set(identity["libraries"]) <= set(LIBRARIES)
    assert identity["libraries"]["torch"] == torch.__version__


def test_a_checkpoint_is_found_whatever_the_versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Versions are written beside the weights; the key is what was asked for, so that the shipped one stays valid."""
    monkeypatch.setenv("XAIBENCH_CACHE", str(tmp_path))
    for name in LIBRARIES:
        upgraded(monkeypatch, name)
    benchmark = load_benchmark("phantom")
    making = Making.of("gcm", benchmark.classifier("gcm"), benchmark, load_splits(benchmark, None))
    found = find_checkpoint("phantom", making)
    assert found is not None
    assert "torch" in found.versions


def test_a_training_writes_the_same_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from xaibench.evaluation.evaluate import evaluate

    monkeypatch.setenv("XAIBENCH_CACHE", str(tmp_path))
    benchmark = tiny_benchmark()
    recipe: dict[str, Any] = {"epochs": 1}
    run = evaluate("gcm", ["cwm"], benchmark, recipe=recipe, device="cpu", metrics=["roc_auc", "energy"])
    (path,) = (tmp_path / "checkpoints").glob("*.safetensors")
    written = read_checkpoint(path).versions
    assert {name: written[name] for name in versions.libraries()} == versions.libraries()
    assert "lightning" in written
    assert {name: run.record["versions"][name] for name in versions.libraries()} == versions.libraries()
