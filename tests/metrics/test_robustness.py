"""Robustness: worked cases on a linear classifier, and where Quantus is wrong; where packages hold: `references`."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.explainers.small import CLASSES, Linear, Small, predict
from tests.metrics.asked import Brightness, Fixed, explained_by
from tests.metrics.references.again import HOW, RADIUS, SAMPLES, ask_quantus, near
from xaibench.classifiers.base import Classifier
from xaibench.errors import UsageError
from xaibench.explainers.base import Explainer
from xaibench.explainers.gradient import InputXGradient, Saliency
from xaibench.metrics import _rerun
from xaibench.metrics.explained import Explained
from xaibench.metrics.robustness import (
    avg_sensitivity,
    consistency,
    local_lipschitz,
    max_sensitivity,
    relative_input_stability,
    relative_output_stability,
    relative_representation_stability,
)
from xaibench.types import Prediction

PUBLISHED = [max_sensitivity, avg_sensitivity, local_lipschitz]
RELATIVE = [relative_input_stability, relative_output_stability, relative_representation_stability]


@pytest.fixture(scope="module")
def explained() -> Explained:
    small = Small().eval()
    return explained_by(small, InputXGradient(), predict(small, 5), torch.tensor([0, 1, 2, 3, 1]))


def test_a_gradient_that_is_the_same_everywhere_never_moves() -> None:
    linear = Linear().eval()
    by_gradient = explained_by(linear, Saliency(), predict(linear, 3, size=16), torch.tensor([0, 1, 2]))
    for metric in [*PUBLISHED, *RELATIVE]:
        assert metric(by_gradient, **HOW).tolist() == [0, 0, 0], metric.name


def test_worked_by_hand_on_a_grey_image() -> None:
    # The map is the image, 0.5 everywhere but for one pixel, so that it is not constant; noise d is added to it.
    linear = Linear(size=8).eval()
    images = torch.full((1, 3, 8, 8), 0.5)
    images[..., 0, 0] = 0.25
    prediction = linear.predict(images, ["a"])
    explained = explained_by(linear, Brightness(), prediction, torch.tensor([0]))
    noise = RADIUS * _rerun.noise(["a"], SAMPLES, (8, 8), kind="uniform")[0, :, 0].double()
    size = math.sqrt(63 * 0.25 + 0.0625)
    shares = noise.flatten(1).norm(dim=1) / size
    assert max_sensitivity(explained, **HOW).item() == pytest.approx(shares.max().item(), abs=1e-6)
    assert avg_sensitivity(explained, **HOW).item() == pytest.approx(shares.mean().item(), abs=1e-6)
    # three equal channels: the image moves by sqrt(3) times the map; over its largest value, 0.5, the map by twice that
    one = {"samples": 1, "radius": RADIUS}
    assert local_lipschitz(explained, **one, normalise=False).item() == pytest.approx(1 / math.sqrt(3), abs=1e-6)
    relative = noise[0] / images[0, 0].double()
    same = (prediction.logits + linear(noise[:1, None].float().expand(-1, 3, -1, -1))).argmax() == 0
    assert same == (prediction.logits.argmax() == 0)
    moved = linear(noise[:1, None].float().expand(-1, 3, -1, -1)).norm().item()
    values = [metric(explained, **one).item() for metric in RELATIVE]
    # image and features of `Linear` are the map, three times over
    assert values[0] == pytest.approx(1 / math.sqrt(3), abs=1e-5)
    assert values[1] == pytest.approx(relative.norm().item() / moved, rel=1e-4)
    assert values[2] == pytest.approx(1 / math.sqrt(3), abs=1e-5)


def test_neighbours_are_images_of_the_ball_and_depend_on_the_id_alone(explained: Explained) -> None:
    images, _ = near(explained)
    own = explained.prediction.images
    assert (images - own[:, None]).abs().max() <= RADIUS + 1e-6
    assert (images - own[:, None]).abs().max() > 0.9 * RADIUS
    assert images.min() >= 0
    assert images.max() <= 1
    more, _ = near(explained_by(explained.classifier, Fixed(), explained.prediction, explained.targets), samples=6)
    assert torch.equal(more[:, :SAMPLES], images)
    grey = explained.classifier.predict(own[:1].mean(1, keepdim=True).expand(-1, 3, -1, -1), ["image0.png"])
    stays, _ = near(explained_by(explained.classifier, Fixed(), grey, torch.tensor([0])))
    assert torch.equal(stays[:, :, 0], stays[:, :, 2])
    change = stays[0, :, 0] - grey.images[0, 0]
    inside = ((grey.images[0, 0] > RADIUS) & (grey.images[0, 0] < 1 - RADIUS)).expand_as(change)
    assert abs(change[inside].mean()) < 1e-3  # uniform: mean 0, variance r^2 / 3
    assert change[inside].var() == pytest.approx(RADIUS**2 / 3, rel=0.05)


class Step(Classifier):
    """Two classes told apart by whether the mean brightness exceeds a half."""

    def __init__(self) -> None:
        super().__init__(CLASSES[:2], 8)
        self.scale = nn.Parameter(torch.ones(1))

    def features(self, images: Tensor) -> Tensor:
        return images * self.scale

    def head(self, features: Tensor, images: Tensor) -> Tensor:
        above = features.mean((1, 2, 3)) - 0.5
        return torch.stack([above, -above], dim=1)


def on_the_edge() -> Explained:
    """An image that some neighbours leave for the other class, and some don't."""
    image = torch.full((1, 3, 8, 8), 0.5001)
    image[..., 0, 0] = 0.6
    return explained_by(Step().eval(), Brightness(), Step().predict(image, ["edge"]), torch.tensor([0]))


@pytest.mark.filterwarnings("ignore")
def test_relative_stability_is_over_the_neighbours_with_the_same_prediction() -> None:
    explained = on_the_edge()
    images, _ = near(explained)
    stays = images[0].mean((1, 2, 3)) > 0.5
    assert 0 < stays.sum() < SAMPLES
    own = explained.maps[0].double()
    change = (images[0, :, 0].double() - own) / own
    with torch.no_grad():
        moved = (explained.classifier(images[0]) - explained.prediction.logits).double().norm(dim=1)
    ratios = change.flatten(1).norm(dim=1) / moved
    found = relative_output_stability(explained, **HOW).item()
    assert found == pytest.approx(ratios[stays].max().item(), rel=1e-4)
    # Agarwal's maximum is over such neighbours; Quantus's is undefined as soon as one is predicted otherwise
    assert math.isnan(ask_quantus("RelativeOutputStability", explained)[0])


def test_relative_stability_is_undefined_where_every_prediction_changes() -> None:
    explained = on_the_edge()
    for rows, prediction in _rerun.neighbours(explained, **HOW):
        prediction.logits.copy_(prediction.logits.flip(1).abs() * torch.tensor([-1.0, 1.0]))  # kept for all metrics
        assert len(rows) == SAMPLES
    for metric in RELATIVE:
        assert metric(explained, **HOW).isnan().all()
    assert max_sensitivity(explained, **HOW).isfinite().all()


class Peak(Explainer):
    """Points left if the image's mean is above the threshold, else right."""

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold

    def explain(self, classifier: Classifier, prediction: Prediction, targets: Tensor) -> Tensor:
        maps = torch.zeros(len(prediction), 8, 8)
        left = prediction.images.mean((1, 2, 3)) > self.threshold
        maps[left, 4, 1] = 1
        maps[~left, 4, 6] = 1
        return maps


def test_consistency_worked_by_hand() -> None:
    image = torch.full((1, 3, 8, 8), 0.5)
    image[..., 0, 0] = 0.51
    prediction = Step().predict(image, ["edge"])
    how = {"samples": 20, "radius": 0.2}

    def score(threshold: float) -> float:
        return consistency(explained_by(Step().eval(), Peak(threshold), prediction, torch.tensor([0])), **how).item()

    images, _ = near(explained_by(Step().eval(), Fixed(), prediction, torch.tensor([0])), **how)
    means = images[0].mean((1, 2, 3))
    same = int((means > 0.5).sum())
    assert 0 < same < 20
    assert score(0.5) == 1.0  # the map says exactly what the prediction says
    assert score(0.0) == same / 20  # the map is always the same
    assert score(float(means.max()) + 0.1) == same / 20  # on the other side
    few = float(means.sort().values[-2]) - 1e-6  # the two brightest point left; the image itself points right
    right = means <= few
    assert score(few) == pytest.approx(int(((means > 0.5) & right).sum()) / int(right.sum()))


def test_quantus_consistency_agrees_given_the_labels_and_takes_the_first_pixels_for_the_top_ones() -> None:
    quantus = pytest.importorskip("quantus")
    cells, answers = np.array([3, 3, 1, 3, 3]), np.array([0, 0, 0, 1, 0])
    metric = quantus.Consistency(disable_warnings=True)
    theirs = metric.evaluate_batch(
        a_batch=np.zeros((5, 1)), i_batch=np.zeros(5), a_label_batch=cells, y_pred_classes=answers
    )[0]
    alike = cells[1:] == cells[0]
    ours = (alike & (answers[1:] == answers[0])).sum() / alike.sum()
    assert ours == pytest.approx(theirs, abs=1e-6)
    from quantus.functions.discretise_func import top_n_sign

    high = np.array([1.0, 1, 1, 1, 1, -9, -9, -9, -9, -9])
    assert top_n_sign(high) == top_n_sign(np.abs(high))  # the five largest values have not the same signs


def test_predictions_are_made_once_for_all_explainers_and_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    small = Small().eval()
    prediction, targets = predict(small, 3), torch.tensor([0, 1, 2])
    shared: dict[Any, Any] = {}
    batches = [
        explained_by(small, explainer, prediction, targets, shared=shared) for explainer in (Fixed(), Brightness())
    ]
    seen: list[int] = []
    features = Small.features
    monkeypatch.setattr(Small, "features", lambda self, images: seen.append(len(images)) or features(self, images))
    for explained in batches:
        for metric in [*PUBLISHED, *RELATIVE]:
            metric(explained, **HOW)
    assert seen == [3 * SAMPLES]
    assert max_sensitivity(batches[0], **HOW).tolist() == [0, 0, 0]
    assert (max_sensitivity(batches[1], **HOW) > 0).all()


def test_predictions_that_are_too_large_are_made_again(explained: Explained, monkeypatch: pytest.MonkeyPatch) -> None:
    again = explained_by(explained.classifier, explained.explainer, explained.prediction, explained.targets)
    monkeypatch.setattr(_rerun, "KEEP", 0)
    assert torch.equal(max_sensitivity(again, **HOW), max_sensitivity(explained, **HOW))
    assert not [key for key in again.shared if isinstance(key, tuple) and key[0] == "neighbours"]


@pytest.mark.parametrize("metric", [max_sensitivity, avg_sensitivity, *RELATIVE])
def test_a_factor_on_the_map_changes_nothing(metric: Any, explained: Explained) -> None:
    class Scaled(InputXGradient):
        def explain(self, classifier: Classifier, prediction: Prediction, targets: Tensor) -> Tensor:
            return super().explain(classifier, prediction, targets) * 4

    larger = explained_by(explained.classifier, Scaled(), explained.prediction, explained.targets)
    torch.testing.assert_close(metric(larger, **HOW), metric(explained, **HOW))
    torch.testing.assert_close(local_lipschitz(larger, **HOW), local_lipschitz(explained, **HOW))
    raw = [local_lipschitz(one, **HOW, normalise=False) for one in (larger, explained)]
    torch.testing.assert_close(raw[0], 4 * raw[1])


def test_several_labels_are_decided_one_by_one(explained: Explained) -> None:
    many = explained_by(
        explained.classifier, explained.explainer, explained.prediction, explained.targets, task="multilabel"
    )
    logits = torch.tensor([[1.0, -1, -1, -1], [9.0, -1, -1, -1], [-1.0, 0, 0, 0]])
    rows = torch.tensor([0, 0, 0])
    assert _rerun.decisions(many, logits, rows).tolist() == [1, 1, 0]
    assert _rerun.decisions(explained, logits, rows).tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    ("metric", "options"),
    [
        (max_sensitivity, {"samples": 0}),
        (avg_sensitivity, {"samples": 1.5}),
        (local_lipschitz, {"radius": 0.0}),
        (max_sensitivity, {"radius": float("nan")}),
        (relative_input_stability, {"eps": 0.0}),
        (consistency, {"grid": 0}),
    ],
)
def test_bad_parameters_are_named(metric: Any, options: dict[str, Any], explained: Explained) -> None:
    with pytest.raises(UsageError, match=next(iter(options))):
        metric(explained, **options)
