"""Shortcut detection: explainers whose answer is known, on the phantom's real markers, and the whole on a tiny one."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.explainers.small import Small
from tests.tiny import tiny_benchmark
from xaibench import registry
from xaibench.benchmark import DatasetSpec
from xaibench.classifiers.base import Classifier
from xaibench.datasets.base import Split
from xaibench.errors import UsageError, XaibenchError
from xaibench.evaluation.setup import load_splits
from xaibench.explainers.base import Explainer, upsample
from xaibench.explainers.baselines import Random
from xaibench.studies import shortcut as module
from xaibench.studies.shortcut import detect, energies, raise_if_failed, shortcut
from xaibench.types import Prediction

TARGET = 2


@pytest.fixture(scope="module")
def marked() -> Split:
    options = {"seed": 0, "train": 4, "val": 4, "test": 40, "shortcut": 1.0, "shortcut_class": "Pneumothorax"}
    benchmark = tiny_benchmark().model_copy(update={"dataset": DatasetSpec(name="phantom", options=options)})
    return load_splits(benchmark, None).test


@pytest.fixture(scope="module")
def rows(marked: Split) -> list[int]:
    return [int(row) for row in np.flatnonzero(marked.labels[:, TARGET])]


class Drawn(Explainer):
    """Draws the marker or the lesion, or both with a weight each."""

    def __init__(self, split: Split, rows: list[int], marker: float, lesion: float) -> None:
        samples = [split[row] for row in rows]
        self.maps = {
            one.id: marker * torch.from_numpy(one.meta["marker"].mask).float()
            + lesion * torch.from_numpy(one.regions[TARGET].mask).float()
            for one in samples
        }

    def explain(self, classifier: Classifier, prediction: Prediction, targets: Tensor) -> Tensor:
        return torch.stack([self.maps[name] for name in prediction.ids])


def measured(split: Split, rows: list[int], explainer: Explainer) -> tuple[np.ndarray, np.ndarray]:
    found, areas = energies(Small().eval(), {"it": explainer}, split, rows, TARGET, batch_size=4, failed={})
    return found["it"], areas


def test_energy_lies_where_it_was_drawn(marked: Split, rows: list[int]) -> None:
    on_marker, areas = measured(marked, rows, Drawn(marked, rows, 1, 0))
    np.testing.assert_allclose(on_marker, [[1, 0]] * len(rows))
    np.testing.assert_allclose(measured(marked, rows, Drawn(marked, rows, 0, 2))[0], [[0, 1]] * len(rows))
    for (marker, lesion), row, (share, rest) in zip(
        areas, rows, measured(marked, rows, Drawn(marked, rows, 3, 1))[0], strict=True
    ):
        sample = marked[row]
        assert marker == sample.meta["marker"].mask.mean()
        assert lesion == sample.regions[TARGET].mask.mean()
        assert share == pytest.approx(3 * marker / (3 * marker + lesion))
        assert share + rest == pytest.approx(1)


def test_noise_finds_the_marker_as_often_as_chance(marked: Split, rows: list[int]) -> None:
    found, areas = measured(marked, rows, Random())
    np.testing.assert_allclose(found.mean(0), areas.mean(0), rtol=0.3)


def test_an_explainer_that_shows_what_was_looked_at_tells_the_two_apart(marked: Split, rows: list[int]) -> None:
    patients = [marked.patients[row] for row in rows]
    cheating, honest = (measured(marked, rows, Drawn(marked, rows, *weights))[0] for weights in ((1, 0.1), (0.1, 1)))
    protocol = tiny_benchmark()
    found = detect("it", False, cheating, honest, patients, protocol)
    assert found.auc.value == 1
    assert found.auc.low < 1  # ten images: never certain
    assert (found.n, found.patients, found.undefined) == (len(rows), len(set(patients)), 0)
    for place, column in (("marker", 0), ("lesion", 1)):
        for kind, values in (("cheating", cheating), ("honest", honest)):
            assert found.shares[place][kind].value == pytest.approx(values[:, column].mean())
    assert detect("it", False, honest, cheating, patients, protocol).auc.value == 0
    assert detect("it", False, honest, honest, patients, protocol).auc.value == 0.5


def test_auc_worked_by_hand() -> None:
    cheating = np.array([[0.1, 0.0], [0.4, 0.0], [np.nan, np.nan], [0.9, 0.0]])
    honest = np.array([[0.2, 0.0], [0.3, 0.0], [0.1, 0.0], [0.3, 0.0]])
    found = detect("it", True, cheating, honest, ["a", "a", "b", "c"], tiny_benchmark())
    # 0.1 beats none of (0.2, 0.3, 0.3), 0.4 and 0.9 beat all three
    assert found.auc.value == pytest.approx(6 / 9)
    assert (found.n, found.patients, found.undefined, found.is_baseline) == (3, 2, 1, True)
    assert found.shares["marker"]["cheating"].value == pytest.approx(1.4 / 3)


def test_maps_without_a_positive_value_are_left_out(marked: Split, rows: list[int]) -> None:
    nothing = measured(marked, rows, Drawn(marked, rows, -1, -1))[0]
    found = detect("it", False, nothing, nothing, [marked.patients[row] for row in rows], tiny_benchmark())
    assert math.isnan(found.auc.value)
    assert (found.n, found.undefined) == (0, len(rows))


class Broken(Explainer):
    def explain(self, classifier: Classifier, prediction: Prediction, targets: Tensor) -> Tensor:
        raise RuntimeError("broken\nhere")


def test_one_that_fails_costs_the_others_nothing(marked: Split, rows: list[int]) -> None:
    failed: dict[str, str] = {}
    both: dict[str, Explainer] = {"broken": Broken(), "random": Random()}
    found, _ = energies(Small().eval(), both, marked, rows, TARGET, batch_size=4, failed=failed)
    assert list(found) == ["random"]
    assert failed == {"broken": "RuntimeError: broken here"}


class Leaking(Explainer):
    """Leaves a hook that makes the features of whoever comes next those of another network."""

    def explain(self, classifier: Classifier, prediction: Prediction, targets: Tensor) -> Tensor:
        layer = next(module for module in classifier.modules() if isinstance(module, nn.Conv2d))
        layer.register_forward_hook(lambda _, __, output: -output)
        return torch.rand(len(prediction), prediction.frame.height, prediction.frame.width)


class Forwarding(Explainer):
    """Explains by a forward pass of its own, so that it sees a hook that another has left."""

    def explain(self, classifier: Classifier, prediction: Prediction, targets: Tensor) -> Tensor:
        return upsample(classifier.features(prediction.images).sum(1), prediction.frame)


def test_what_an_explainer_leaves_costs_the_next_ones_nothing(marked: Split, rows: list[int]) -> None:
    alone = measured(marked, rows, Forwarding())[0]
    assert np.isfinite(alone).any()
    faults: dict[str, str] = {}
    both: dict[str, Explainer] = {"leaks": Leaking(), "it": Forwarding()}
    found, _ = energies(Small().eval(), both, marked, rows, TARGET, batch_size=4, failed={}, faults=faults)
    np.testing.assert_array_equal(found["it"], alone)
    assert list(faults) == ["leaks"]
    assert "hook" in faults["leaks"]


class Flat(Explainer):
    def explain(self, classifier: Classifier, prediction: Prediction, targets: Tensor) -> Tensor:
        return torch.rand(len(prediction), 1, prediction.frame.width)  # which broadcasts to any mask


def test_maps_of_another_shape_are_refused(marked: Split, rows: list[int]) -> None:
    failed: dict[str, str] = {}
    energies(Small().eval(), {"flat": Flat()}, marked, rows, TARGET, batch_size=4, failed=failed)
    assert "shape" in failed["flat"]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XAIBENCH_CACHE", str(tmp_path))
    return tmp_path


def test_the_whole_is_trained_once_and_says_what_it_did(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    how: dict[str, Any] = {"images": 5, "recipe": {"epochs": 1}, "device": "cpu", "batch_size": 3}
    registry.register("explainers", "breaks", Broken)
    try:
        found = shortcut("gcm", ["ccm_contrast", "breaks"], tiny_benchmark(), **how)
    finally:
        registry.unregister("explainers", "breaks")
    assert [one.explainer for one in found.detections] == ["ccm_contrast", "random"]
    assert [one.is_baseline for one in found.detections] == [False, True]
    assert found.failed == {"breaks": "RuntimeError: broken here"}
    with pytest.raises(XaibenchError, match="breaks failed"):
        raise_if_failed(found, ["ccm_contrast", "breaks"])
    noise = found.detections[1]
    assert noise.n == 5
    assert noise.auc.value == 0.5  # the same draw for both
    assert noise.shares["marker"]["honest"] == noise.shares["marker"]["cheating"]
    assert 0.002 < found.chance["marker"] < 0.004  # pi 0.03^2
    assert {name: set(aucs) for name, aucs in found.roc_auc.items()} == {
        kind: {"with marker", "no marker"} for kind in ("cheating", "honest")
    }
    assert len(set(found.record["weights"].values())) == 2
    assert len(list(cache.glob("checkpoints/*.safetensors"))) == 2
    as_json = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert as_json["detections"][1]["auc"]["value"] == 0.5

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr("xaibench.training.train.train", refuse)
    again = shortcut("gcm", ["ccm_contrast"], tiny_benchmark(), **how)
    assert json.dumps(again.to_json()["detections"]) == json.dumps(found.to_json()["detections"])


def test_planting_changes_nothing_but_the_marker() -> None:
    protocol = tiny_benchmark()
    plain = module._planted(protocol, None, "Effusion", None)
    assert dict(plain.dataset.options) == dict(protocol.dataset.options)  # so that checkpoints of it are found
    planted = module._planted(protocol, 0.9, "Effusion", 25)
    assert dict(planted.dataset.options) == {
        **protocol.dataset.options,
        "test": 100,
        "shortcut": 0.9,
        "shortcut_class": "Effusion",
    }


def test_a_cheating_classifier_that_does_not_cheat_is_named() -> None:
    assert module._notes({"cheating": {"with marker": 0.99, "no marker": 0.6}}, "Effusion") == []
    (note,) = module._notes({"cheating": {"with marker": 0.99, "no marker": 0.97}}, "Effusion")
    assert "Effusion" in note


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"explainers": []}, "explainers"),
        ({"class_name": "Pneumotorax"}, "Did you mean 'Pneumothorax'"),
        ({"correlation": 0.0}, "correlation"),
        ({"correlation": float("nan")}, "correlation"),
        ({"images": 1}, "images"),
        ({"batch_size": 0}, "batch_size"),
        ({"benchmark": "chestxray8-sample"}, "--benchmark phantom"),
    ],
)
def test_bad_input_is_named(changes: dict[str, Any], says: str) -> None:
    given = {"explainers": ["cwm"], "benchmark": tiny_benchmark(), **changes}
    with pytest.raises(UsageError, match=says):
        shortcut("gcm", **given)


@pytest.mark.slow
def test_explanations_give_a_cheating_gcm_away() -> None:
    found = shortcut("gcm", ["cwm", "ccm", "gradcam"], "phantom")  # trains the cheating one: minutes
    cheating, honest = (found.roc_auc[kind] for kind in ("cheating", "honest"))
    assert cheating["with marker"] - cheating["no marker"] > 0.05
    assert abs(honest["with marker"] - honest["no marker"]) < 0.02
    for one in found.detections:
        if one.is_baseline:
            assert one.auc.value == 0.5
            continue
        assert one.auc.low > 0.5
        assert one.shares["marker"]["cheating"].low > one.shares["marker"]["honest"].high
        assert one.shares["lesion"]["honest"].low > one.shares["lesion"]["cheating"].high
