"""Classifiers small enough to run every explainer on, and a prediction of one."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from xaibench.classifiers.base import Classifier, seeded
from xaibench.testing.small import CLASSES, Small
from xaibench.types import Prediction

__all__ = ["CLASSES", "Linear", "Small", "predict"]


class Linear(Classifier):
    """Logits that are linear in the image: what every attribution of a pixel must be is known."""

    def __init__(self, size: int = 16) -> None:
        super().__init__(CLASSES, size)
        with seeded(0):
            self.weight = nn.Parameter(torch.randn(len(CLASSES), 3, size, size))

    def features(self, images: Tensor) -> Tensor:
        return images * 1.0

    def head(self, features: Tensor, images: Tensor) -> Tensor:
        return torch.einsum("kchw,bchw->bk", self.weight, features)


def predict(classifier: Classifier, count: int = 7, size: int = 64) -> Prediction:
    images = torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        return classifier.predict(images, [f"image{row}.png" for row in range(count)])
