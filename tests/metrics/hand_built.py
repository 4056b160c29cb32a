"""A network whose true attribution is known, on images that differ, for metrics that ask it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from xaibench.classifiers.base import Classifier
from xaibench.explainers.base import Explainer
from xaibench.metrics.explained import Explained
from xaibench.types import Prediction

SIDE = 16
CLASSES = ("absent", "present")


class Evidence(Classifier):
    """Two classes; the second one's logit is a weighted sum of the grey image, so that weight x pixel is what it adds.

    A spot speaks strongly for it, a smaller one strongly against it, all the rest mildly for it.
    """

    def __init__(self, weight: Tensor | None = None, *, against: float = -0.3) -> None:
        super().__init__(CLASSES, SIDE)
        if weight is None:
            weight = 0.06 * torch.rand(SIDE, SIDE, generator=torch.Generator().manual_seed(4))
            weight[3:8, 4:9] = 0.2
            weight[9:13, 9:13] = against
        self.weight = nn.Parameter(weight.clone())

    def features(self, images: Tensor) -> Tensor:
        return images * 1.0

    def head(self, features: Tensor, images: Tensor) -> Tensor:
        present = (features.mean(1) * self.weight).sum((-2, -1)) - 2.0
        return torch.stack([torch.zeros_like(present), present], 1)


class Truth(Explainer):
    """What each pixel adds to the logit."""

    def explain(self, classifier: Classifier, prediction: Prediction, targets: Tensor) -> Tensor:
        assert isinstance(classifier, Evidence)
        sign = torch.where(targets == 1, 1.0, -1.0)[:, None, None]
        return sign * (prediction.images.mean(1) * classifier.weight).detach()


def images(count: int = 12) -> Tensor:
    """Grey images with bright points on dark ground, so that what is around a point does not tell its value.

    The spot that speaks against the class is as bright as the other one in every other image.
    """
    generator = torch.Generator().manual_seed(5)
    made = 0.05 + 0.1 * torch.rand(count, 1, SIDE, SIDE, generator=generator)
    points = torch.rand(count, 1, SIDE, SIDE, generator=generator) < 0.4
    made[points] += 0.7
    made[::2, :, 9:13, 9:13] *= 0.1
    return made.repeat(1, 3, 1, 1)


def explained(maps: Tensor | None = None, *, count: int = 12, rows: list[int] | None = None, **more: Any) -> Explained:
    """Return `Explained` of the true maps, or of others, of the class "present"."""
    classifier = more.pop("classifier", None) or Evidence().eval()
    rows = list(range(count)) if rows is None else rows
    with torch.no_grad():
        prediction = classifier.predict(images(count), [f"image{row}" for row in range(count)]).select(rows)
    targets = torch.ones(len(rows), dtype=torch.int64)
    found = Truth().explain(classifier, prediction, targets) if maps is None else maps[rows]
    return Explained(classifier, Truth(), prediction, targets, found, **more)


def shuffled(maps: Tensor, seed: int = 6) -> Tensor:
    """Return the maps with each one's pixels in another order."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.stack([torch.randperm(maps[0].numel(), generator=generator) for _ in maps])
    return maps.flatten(1).gather(1, order).reshape(maps.shape)
