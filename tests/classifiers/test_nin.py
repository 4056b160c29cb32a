"""NIN: the mean of a class's confidence map is its logit."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from xaibench.classifiers.nin import NIN
from xaibench.errors import NotApplicableError, UsageError
from xaibench.explainers import create

CLASSES = ["No Finding", "Cardiomegaly", "Pneumothorax", "Effusion"]


def build(size: int = 64, **options: Any) -> NIN:
    return NIN(CLASSES, size, **{"model": "test_resnet", "weights": "random", **options}).eval()


@pytest.mark.parametrize("options", [{}, {"hidden": 6}, {"head": "relu"}, {"model": "resnet10t"}])
def test_the_mean_of_the_confidence_map_is_the_logit(options: dict[str, Any]) -> None:
    classifier = build(**options)
    images = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    explainer = create("confidence_map")
    explainer.check(classifier)
    with torch.no_grad():
        prediction = classifier.predict(images)
        torch.testing.assert_close(classifier.confidence(prediction.features).mean((2, 3)), prediction.logits)
        torch.testing.assert_close(classifier(images), prediction.logits)
        for target in range(4):
            maps = explainer.explain(classifier, prediction, torch.full((3,), target))
            assert maps.shape == (3, 64, 64)
            assert maps[0].std() > 0 or options.get("head") == "relu"
            torch.testing.assert_close(maps.mean((1, 2)), prediction.logits[:, target], atol=1e-5, rtol=1e-5)


def test_without_a_hidden_layer_it_is_cam_and_with_one_cam_is_refused() -> None:
    plain, deep = build(), build(hidden=6)
    prediction = plain.predict(torch.rand(2, 3, 64, 64))
    targets = torch.tensor([1, 3])
    cam = create("cam").explain(plain, prediction, targets)
    bias = plain.maps[0].bias[targets].detach()  # type: ignore[index, union-attr]
    own = create("confidence_map").explain(plain, prediction, targets)
    torch.testing.assert_close(own, cam + bias[:, None, None], atol=1e-5, rtol=1e-5)
    with pytest.raises(NotApplicableError, match="cam needs a head of average pooling"):
        create("cam").check(deep)
    with pytest.raises(UsageError, match="use confidence_map"):
        deep.class_weights()


def test_relu_head_gives_no_evidence_against() -> None:
    prediction = build(head="relu").predict(torch.rand(2, 3, 64, 64))
    assert (prediction.maps["confidence"] >= 0).all()
    assert (build().predict(torch.rand(2, 3, 64, 64)).maps["confidence"] < 0).any()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"hidden": -1}, "hidden = -1"),
        ({"hidden": True}, "hidden = True"),
        ({"head": "softmax"}, "head = 'softmax'"),
        ({"model": "test_vit"}, r"features have shape \(1, \d+, 64\).*take a CNN"),
        ({"model": "resnt18"}, "close: resnet18"),
    ],
)
def test_what_does_not_fit_says_so(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        build(**options)


def test_confidence_map_names_its_classifier_where_it_does_not_apply() -> None:
    from xaibench.classifiers.timm import TimmClassifier

    with pytest.raises(NotApplicableError, match=r"NIN's own maps.*'confidence': use gradcam, or the classifier nin"):
        create("confidence_map").check(TimmClassifier(CLASSES, 64, model="test_resnet", weights="random"))
