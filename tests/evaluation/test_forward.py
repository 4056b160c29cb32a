"""The forward pass: what makes it faster changes no score by more than rounding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.tiny import tiny_benchmark
from xaibench.benchmark import Benchmark, load_benchmark
from xaibench.classifiers.base import Classifier
from xaibench.classifiers.timm import densenet121
from xaibench.errors import UsageError
from xaibench.evaluation.evaluate import evaluate
from xaibench.evaluation.inference import LARGEST_BATCH, Forward, find_batch_size
from xaibench.results.run import Run
from xaibench.types import Prediction

CLASSES = ("No Finding", "Effusion")


def small_phantom(images: int = 48) -> Benchmark:
    """The phantom benchmark with few test images: its own weights are used, which the package carries."""
    table = load_benchmark("phantom").model_dump()
    table["dataset"]["options"] |= {"test": images}
    return Benchmark.model_validate(table)


def macro(run: Run, metric: str) -> float:
    (score,) = [
        score
        for score in run.scores
        if score.metric == metric and score.class_name == "macro" and score.explainer in (None, "cwm")
    ]
    assert score.value is not None
    return score.value


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return densenet121(CLASSES, 64, weights="random").optimized()


def test_by_default_it_is_predict_bit_for_bit(classifier: Classifier) -> None:
    images = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = classifier.predict(images, ["a", "b", "c"])
    forward = Forward(classifier)
    found = forward(images, ["a", "b", "c"])
    assert found.ids == wanted.ids
    assert torch.equal(found.logits, wanted.logits)
    assert torch.equal(found.features, wanted.features)
    assert forward.identity() == {}


def test_bf16_changes_scores_by_rounding_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XAIBENCH_CACHE", str(tmp_path))
    benchmark = small_phantom()
    exact = evaluate("gcm", ["cwm"], benchmark, store=tmp_path / "store")
    rounded = evaluate("gcm", ["cwm"], benchmark, precision="bf16", store=tmp_path / "store")
    assert rounded.record["precision"] == "bf16"
    assert "precision" not in exact.record
    # bfloat16 has 8 bits: logits differ by some 1%, their order hardly
    assert macro(rounded, "roc_auc") == pytest.approx(macro(exact, "roc_auc"), abs=0.005)
    assert macro(rounded, "energy") == pytest.approx(macro(exact, "energy"), abs=0.01)
    assert macro(rounded, "energy") != macro(exact, "energy")  # it did something
    again = evaluate("gcm", ["cwm"], benchmark, store=tmp_path / "store")  # finds its own, nothing of bf16
    assert macro(again, "energy") == macro(exact, "energy")


def test_bf16_runs_changed_images_as_it_runs_their_originals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, classifier: Classifier
) -> None:
    images = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    forward = Forward(classifier, "bf16")
    assert torch.equal(forward.logits(images), forward(images, ["a", "b", "c"]).logits)
    monkeypatch.setenv("XAIBENCH_CACHE", str(tmp_path))
    table = small_phantom(16).model_dump()
    asked = {"insertion": {"steps": 7}, "deletion": {"steps": 7}, "road_morf": {}, "max_sensitivity": {"samples": 2}}
    table["primary"] = None
    table["metrics"] = [{"name": name, "parameters": parameters} for name, parameters in asked.items()]
    table["localization"]["baselines"] = []
    benchmark = Benchmark.model_validate(table)
    asked_of: list[str] = []
    plain = Forward.logits
    monkeypatch.setattr(Forward, "logits", lambda self, x: asked_of.append(self.precision) or plain(self, x))
    exact, rounded = (
        evaluate("gcm", ["cwm"], benchmark, precision=precision, store=tmp_path / "store")
        for precision in ("float32", "bf16")
    )
    assert asked_of.count("bf16") == asked_of.count("float32") > 0  # changed images too
    # Means of probabilities from 0 to 1: another order of some pixels, and logits of up to 10 that are 1% off, move a
    # few of them by a tenth.
    for name in ("insertion", "deletion", "road_morf"):
        assert macro(rounded, name) == pytest.approx(macro(exact, name), abs=0.03)
        assert macro(rounded, name) != macro(exact, name)
    assert macro(rounded, "max_sensitivity") == pytest.approx(macro(exact, "max_sensitivity"), rel=0.05)


@pytest.mark.slow
def test_compiled_it_gives_the_same_maps(classifier: Classifier) -> None:
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    plain, compiled = Forward(classifier), Forward(classifier, compiled=True)
    wanted, found = plain(images, ["a", "b"]), compiled(images, ["a", "b"])
    torch.testing.assert_close(found.features, wanted.features, rtol=1e-4, atol=1e-5)  # other order of sums
    torch.testing.assert_close(found.logits, wanted.logits, rtol=1e-4, atol=1e-5)
    assert compiled.identity() == {"compiled": True}


def test_what_does_not_apply_is_said() -> None:
    class Own(Classifier):
        def features(self, images: torch.Tensor) -> torch.Tensor:
            return images

        def head(self, features: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
            return features.mean((2, 3))

        def predict(self, images: torch.Tensor, ids: Any = ()) -> Prediction:
            raise NotImplementedError

    with pytest.raises(UsageError, match="Own has a forward pass of its own: leave --compile out"):
        Forward(Own(CLASSES, 64), compiled=True)
    with pytest.raises(UsageError, match=r"precision = 'int8'; it is one of float32, bf16, fp16"):
        Forward(Own(CLASSES, 64), "int8")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="decode_workers = -1"):
        evaluate("gcm", ["cwm"], tiny_benchmark(), decode_workers=-1)


@pytest.mark.parametrize(
    ("each", "free", "wanted"),
    [
        (100, 10_000, 64),  # 70 of 100 images' worth
        (100, 10**9, LARGEST_BATCH),
        (100, 500, 2),
        (1000, 100, 1),
    ],
)
def test_the_batch_size_is_what_fits(monkeypatch: pytest.MonkeyPatch, each: int, free: int, wanted: int) -> None:
    """A pretended GPU whose forward pass takes `each` bytes an image."""
    monkeypatch.setattr("xaibench.evaluation.inference._peak", lambda _, images: each * images)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free, free))
    pretended = type("Pretended", (), {"device": torch.device("cuda")})()
    found = find_batch_size(pretended)
    assert found == wanted
    assert found * each <= max(0.7 * free, each)


def test_on_the_cpu_the_batch_size_stays(classifier: Classifier) -> None:
    assert find_batch_size(classifier) == 32


def test_worker_processes_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XAIBENCH_CACHE", str(tmp_path))
    runs = [
        evaluate("gcm", ["cwm"], tiny_benchmark(), batch_size=8, decode_workers=workers, out=tmp_path / str(workers))
        for workers in (0, 1)
    ]
    first, second = ([score.to_json() for score in run.scores] for run in runs)
    assert first == second
    logits = [run.predictions().filter(like="logit:").to_numpy() for run in runs]
    np.testing.assert_array_equal(logits[0], logits[1])
