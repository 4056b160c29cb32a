"""The kit sees each fault that an explainer can have, and nothing else."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from xaibench.classifiers.base import Classifier
from xaibench.errors import NotApplicableError
from xaibench.explainers.base import Explainer, upsample
from xaibench.testing import check_explainer
from xaibench.testing.small import Small
from xaibench.types import Prediction


class Sound(Explainer):
    """Features weighted by the class's weights: conforms."""

    def explain(self, classifier: Classifier, prediction: Prediction, targets: Tensor) -> Tensor:
        weights = classifier.class_weights().detach()[targets]
        return upsample(torch.einsum("bchw,bc->bhw", prediction.features.detach(), weights), prediction.frame)


def sound(classifier: Classifier, prediction: Prediction, targets: Tensor) -> Tensor:
    return Sound().explain(classifier, prediction, targets)


class Coarse(Explainer):
    def explain(self, classifier: Classifier, prediction: Prediction, targets: Tensor) -> Tensor:
        return torch.ones(len(prediction), 8, 8)


class Double(Explainer):
    def explain(self, classifier: Classifier, prediction: Prediction, targets: Tensor) -> Tensor:
        return sound(classifier, prediction, targets).double()


class Undefined(Explainer):
    def explain(self, classifier: Classifier, prediction: Prediction, targets: Tensor) -> Tensor:
        maps = sound(classifier, prediction, targets)
        maps[2, 0, 0] = torch.nan
        return maps


class Flat(Explainer):
    def explain(self, classifier: Classifier, prediction: Prediction, targets: Tensor) -> Tensor:
        return torch.zeros(len(prediction), 64, 64)


class Leaky(Explainer):
    def explain(self, classifier: Classifier, prediction: Prediction, targets: Tensor) -> Tensor:
        classifier.get_submodule("body.0").register_forward_hook(lambda *_: None)
        return sound(classifier, prediction, targets)


class Trains(Explainer):
    def explain(self, classifier: Classifier, prediction: Prediction, targets: Tensor) -> Tensor:
        classifier.train()
        return sound(classifier, prediction, targets)


class Freezes(Explainer):
    def explain(self, classifier: Classifier, prediction: Prediction, targets: Tensor) -> Tensor:
        classifier.requires_grad_(False)
        return sound(classifier, prediction, targets)


class Writes(Explainer):
    def explain(self, classifier: Classifier, prediction: Prediction, targets: Tensor) -> Tensor:
        with torch.no_grad():
            classifier.class_weights().mul_(1.001)
        return sound(classifier, prediction, targets)


class WritesInput(Explainer):
    def explain(self, classifier: Classifier, prediction: Prediction, targets: Tensor) -> Tensor:
        maps = sound(classifier, prediction, targets)
        prediction.features.detach().clamp_(min=0.3)
        return maps


class OneTarget(Explainer):
    def explain(self, classifier: Classifier, prediction: Prediction, targets: Tensor) -> Tensor:
        return sound(classifier, prediction, targets[:1].expand(len(targets)))


class Scaled(Explainer):
    def explain(self, classifier: Classifier, prediction: Prediction, targets: Tensor) -> Tensor:
        maps = sound(classifier, prediction, targets)
        return (maps - maps.amin()) / (maps.amax() - maps.amin())  # over the batch


class MinMax(Explainer):
    def explain(self, classifier: Classifier, prediction: Prediction, targets: Tensor) -> Tensor:
        maps = sound(classifier, prediction, targets)
        low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
        return (maps - low) / (high - low)


class Noise(Explainer):
    def explain(self, classifier: Classifier, prediction: Prediction, targets: Tensor) -> Tensor:
        return torch.rand(len(prediction), 64, 64)


class Secret(Explainer):
    def explain(self, classifier: Classifier, prediction: Prediction, targets: Tensor) -> Tensor:
        classifier(prediction.images)
        return sound(classifier, prediction, targets)


class Graph(Explainer):
    def explain(self, classifier: Classifier, prediction: Prediction, targets: Tensor) -> Tensor:
        with torch.enable_grad():
            weights = classifier.class_weights()[targets]
            return upsample(torch.einsum("bchw,bc->bhw", prediction.features, weights), prediction.frame)


class Hoards(Explainer):
    def __init__(self) -> None:
        self.kept: list[Tensor] = []

    def explain(self, classifier: Classifier, prediction: Prediction, targets: Tensor) -> Tensor:
        self.kept.append(sound(classifier, prediction, targets))
        return self.kept[-1]


class AnyClass(Explainer):
    def explain(self, classifier: Classifier, prediction: Prediction, targets: Tensor) -> Tensor:
        return upsample(prediction.features.detach().mean(1), prediction.frame)


class NeedsGrad(Explainer):
    def explain(self, classifier: Classifier, prediction: Prediction, targets: Tensor) -> Tensor:
        features = prediction.features.detach().clone().requires_grad_(True)
        head = classifier.head(features, prediction.images)
        score = head.gather(1, targets[:, None]).sum()
        (found,) = torch.autograd.grad(score, features)
        return upsample((found * features).sum(1).detach(), prediction.frame)


class Crashes(Explainer):
    def check(self, classifier: Classifier) -> None:
        raise AttributeError("no attribute 'layer4'")

    def explain(self, classifier: Classifier, prediction: Prediction, targets: Tensor) -> Tensor:
        return torch.zeros(0)


class Picky(Explainer):
    def check(self, classifier: Classifier) -> None:
        raise NotApplicableError("picky applies to nothing: use gradcam")

    def explain(self, classifier: Classifier, prediction: Prediction, targets: Tensor) -> Tensor:
        return torch.zeros(0)


@pytest.fixture(scope="module")
def small() -> Classifier:
    return Small().eval()


def test_a_sound_one_passes(small: Classifier) -> None:
    assert check_explainer(Sound(), small) == []


@pytest.mark.parametrize(
    ("explainer", "check", "says"),
    [
        (Coarse, "shape", "(7, 8, 8)"),
        (Double, "dtype", "float64"),
        (Undefined, "finite", "NaN"),
        (Flat, "information", "constant"),
        (Leaky, "hooks", "body.0"),
        (Trains, "state", "training mode"),
        (Freezes, "state", "requires_grad is False"),
        (Writes, "state", "last.weight"),
        (WritesInput, "inputs", "features"),
        (OneTarget, "batches", "batches of 1"),
        (Scaled, "batches", "batches of 1"),
        (MinMax, "sign", "min-max"),
        (Noise, "random", "global random generator"),
        (Secret, "runs_body", "whole network"),
        (Graph, "graph", "graph"),
        (Hoards, "memory", "keeps"),
        (AnyClass, "class", "same for every class"),
        (NeedsGrad, "raises", "does not require grad"),
        (Crashes, "clear errors", "AttributeError"),
        (Picky, "applies", "use gradcam"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else None,
)
def test_each_fault_is_found(explainer: type[Explainer], check: str, says: str, small: Classifier) -> None:
    net = Small().eval() if explainer is Writes else small
    found = [finding for finding in check_explainer(explainer(), net) if finding.check == check]
    assert found
    assert any(says in finding.what for finding in found), found
    assert all(finding.remedy and "\n" not in str(finding) for finding in found)
    assert all(not layer._forward_hooks for layer in net.modules())
    assert not net.training
    assert all(parameter.requires_grad for parameter in net.parameters())
