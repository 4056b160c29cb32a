"""zennit's composites: the kit, zennit's own values, and relevance that is conserved where nothing absorbs it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from xaibench.classifiers import create as create_classifier
from xaibench.classifiers.base import Classifier, seeded
from xaibench.errors import NotApplicableError
from xaibench.explainers import create
from xaibench.testing import check_explainer, small_prediction
from xaibench.testing.small import Small

zennit = pytest.importorskip("zennit", reason="zennit is not installed: pip install zennit")

NAMES = (
    "lrp_epsilon_plus",
    "lrp_epsilon_plus_flat",
    "lrp_epsilon_alpha2_beta1",
    "lrp_epsilon_gamma_box",
    "excitation_backprop",
)


class Plain(Classifier):
    """Convolutions without biases, ReLUs, and a linear layer without one, on the raw image."""

    def __init__(self, classes: Sequence[str] = ("a", "b", "c", "d"), input_size: int = 32) -> None:
        super().__init__(classes, input_size)
        with seeded(1):
            self.body = nn.Sequential(
                nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.ReLU(), nn.Conv2d(8, 12, 3, 2, 1, bias=False), nn.ReLU()
            )
            self.pool, self.flat = nn.AdaptiveAvgPool2d(1), nn.Flatten()
            self.last = nn.Linear(12, len(classes), bias=False)

    def features(self, images: Tensor) -> Tensor:
        return self.body(images)  # type: ignore[no-any-return]

    def head(self, features: Tensor, images: Tensor) -> Tensor:
        return self.last(self.flat(self.pool(features)))  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", NAMES)
def test_conforms(name: str) -> None:
    assert check_explainer(name, Small().eval()) == []


@pytest.mark.parametrize("name", NAMES[:4])
def test_relevance_is_conserved_without_biases(name: str) -> None:
    classifier = Plain().eval()
    prediction = small_prediction(classifier, 3, 32)
    targets = torch.tensor([0, 1, 2])
    found = create(name).explain(classifier, prediction, targets).double().sum((1, 2))
    wanted = prediction.logits.double().gather(1, targets[:, None])[:, 0]
    torch.testing.assert_close(found, wanted, rtol=2e-2, atol=1e-4)


def test_values_are_zennit_s_own() -> None:
    """On a network that sees the raw image, against zennit's attributor."""
    from zennit.attribution import Gradient
    from zennit.composites import EpsilonPlus

    classifier = Plain().eval()
    prediction = small_prediction(classifier, 2, 32)
    maps = create("lrp_epsilon_plus").explain(classifier, prediction, torch.tensor([1, 1]))
    classes = torch.eye(4)[[1, 1]]
    with Gradient(model=classifier, composite=EpsilonPlus()) as attributor:
        _, relevance = attributor(prediction.images.clone(), lambda logits: logits * classes)
    torch.testing.assert_close(maps, relevance.sum(1).detach(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("model", ["densenet121", "timm:test_resnet"])
def test_networks_that_add_or_concatenate_are_refused(model: str) -> None:
    classifier = create_classifier(model, classes=("a", "b"), input_size=64, weights="random").eval()
    with pytest.raises(NotApplicableError, match="use lrp"):
        create("lrp_epsilon_plus").check(classifier)
