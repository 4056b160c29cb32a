"""Classifiers small enough to run every explainer on, and a prediction of one."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from xaibench.classifiers.base import Classifier, Normalize, seeded
from xaibench.types import Prediction

CLASSES = ("No Finding", "Cardiomegaly", "Pneumothorax", "Effusion")


class Small(Classifier):
    """Conv, batch norm, ReLU (in place), overlapping max pooling, and once more: 12 x 8 x 8 features of 64 px."""

    head_is_pooled_linear = True

    def __init__(self, *, normalized: bool = True, pooled: bool = True) -> None:
        super().__init__(CLASSES, 64)
        self.normalize = Normalize([0.5] * 3, [0.25] * 3) if normalized else Normalize([0.0] * 3, [1.0] * 3)
        with seeded(0):
            self.body = nn.Sequential(
                nn.Conv2d(3, 8, 3, stride=2, padding=1),
                nn.BatchNorm2d(8),
                nn.ReLU(inplace=True),
                nn.MaxPool2d(3, 2, padding=1) if pooled else nn.AvgPool2d(2),
                nn.Conv2d(8, 12, 3, stride=2, padding=1),
                nn.BatchNorm2d(12),
                nn.ReLU(inplace=True),
            )
            self.pool, self.flatten, self.last = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, len(CLASSES))
            for norm in (self.body[1], self.body[5]):
                norm.running_mean.uniform_(-0.2, 0.2)
                norm.running_var.uniform_(0.2, 0.5)
                nn.init.uniform_(norm.weight, 0.5, 1.5)
                nn.init.uniform_(norm.bias, -0.3, 0.3)
            nn.init.normal_(self.last.weight)  # so that the classes differ

    def features(self, images: Tensor) -> Tensor:
        return self.body(self.normalize(images))  # type: ignore[no-any-return]

    def head(self, features: Tensor, images: Tensor) -> Tensor:
        return self.last(self.flatten(self.pool(features)))  # type: ignore[no-any-return]

    def class_weights(self) -> Tensor:
        return self.last.weight


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
