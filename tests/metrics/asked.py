"""What the tests of metrics that ask the network share: a batch of maps with what made them, and what must not move."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from xaibench.classifiers.base import Classifier, hash_tensors
from xaibench.explainers.base import Explainer
from xaibench.metrics.explained import Explained
from xaibench.types import Prediction


def explained_by(
    classifier: Classifier, explainer: Explainer, prediction: Prediction, targets: Tensor, **options: Any
) -> Explained:
    with torch.no_grad():
        maps = explainer.explain(classifier, prediction, targets).detach().float()
    return Explained(classifier, explainer, prediction, targets, maps, **options)


def part(explained: Explained, rows: list[int]) -> Explained:
    """Some pairs of a batch, as a batch of their own: predicted anew, as the stream would."""
    chosen = explained.prediction.select(rows)
    with torch.no_grad():
        prediction = explained.classifier.predict(chosen.images, chosen.ids)
    return explained_by(
        explained.classifier, explained.explainer, prediction, explained.targets[rows], task=explained.task
    )


def state_of(classifier: Classifier) -> list[object]:
    """Everything a metric could leave changed: weights, buffers, flags, modes, hooks, attributes, gradients."""
    tensors = [*classifier.named_parameters(), *classifier.named_buffers()]
    layers = list(classifier.modules())
    return [
        hash_tensors(tensors),
        [(id(tensor), tensor.requires_grad, tensor.grad is None) for _, tensor in tensors],
        [layer.training for layer in layers],
        [len(layer._forward_hooks) + len(layer._forward_pre_hooks) + len(layer._backward_hooks) for layer in layers],
        [sorted(vars(layer)) for layer in layers],
    ]


class Fixed(Explainer):
    """The same map for every image and classifier, unless told a value to fill it with."""

    def __init__(self, value: float | None = None) -> None:
        self.value = value

    def explain(self, classifier: Classifier, prediction: Prediction, targets: Tensor) -> Tensor:
        height, width = prediction.frame.height, prediction.frame.width
        if self.value is not None:
            return torch.full((len(prediction), height, width), self.value)
        one = torch.rand(height, width, generator=torch.Generator().manual_seed(1))
        return one.repeat(len(prediction), 1, 1)


class Brightness(Explainer):
    """The image itself, averaged over the channels: moves as the image does, whatever the classifier."""

    def explain(self, classifier: Classifier, prediction: Prediction, targets: Tensor) -> Tensor:
        return prediction.images.mean(1)
