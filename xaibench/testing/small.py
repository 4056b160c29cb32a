"""Classifiers and predictions small enough to run every check on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from xaibench.classifiers.base import Classifier, Normalize, seeded
from xaibench.datasets.base import Split, Splits
from xaibench.types import Frame, Prediction, Region, Sample

CLASSES = ("No Finding", "Cardiomegaly", "Pneumothorax", "Effusion")
SIZE = 64


class Small(Classifier):
    """Conv, batch norm, ReLU (in place), overlapping max pooling, and once more: 12 x 8 x 8 features of 64 px."""

    head_is_pooled_linear = True

    def __init__(self, *, normalized: bool = True, pooled: bool = True) -> None:
        super().__init__(CLASSES, SIZE)
        self.normalize = Normalize([0.5] * 3, [0.25] * 3) if normalized else Normalize([0.0] * 3, [1.0] * 3)
        with seeded(0):
            norms = nn.BatchNorm2d(8), nn.BatchNorm2d(12)
            self.body = nn.Sequential(
                nn.Conv2d(3, 8, 3, stride=2, padding=1),
                norms[0],
                nn.ReLU(inplace=True),
                nn.MaxPool2d(3, 2, padding=1) if pooled else nn.AvgPool2d(2),
                nn.Conv2d(8, 12, 3, stride=2, padding=1),
                norms[1],
                nn.ReLU(inplace=True),
            )
            self.pool, self.flatten, self.last = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, len(CLASSES))
            for norm in norms:
                nn.init.uniform_(norm.running_mean, -0.2, 0.2)  # type: ignore[arg-type]
                nn.init.uniform_(norm.running_var, 0.2, 0.5)  # type: ignore[arg-type]
                nn.init.uniform_(norm.weight, 0.5, 1.5)
                nn.init.uniform_(norm.bias, -0.3, 0.3)
            nn.init.normal_(self.last.weight)  # so that the classes differ

    def features(self, images: Tensor) -> Tensor:
        return self.body(self.normalize(images))  # type: ignore[no-any-return]

    def head(self, features: Tensor, images: Tensor) -> Tensor:
        return self.last(self.flatten(self.pool(features)))  # type: ignore[no-any-return]

    def class_weights(self) -> Tensor:
        return self.last.weight


class BoxSplit(Split):
    """Grey noise; each image but the last has a box of one of the classes but the first."""

    def __init__(self, name: str, count: int, classes: Sequence[str] = CLASSES, size: int = SIZE) -> None:
        self.classes, self.frame = tuple(classes), Frame.square(size)
        self.ids = [f"{name}{row}" for row in range(count)]
        self.patients = self.ids
        self.labels = np.zeros((count, len(classes)), dtype=np.float32)
        for row in range(count):
            self.labels[row, 0 if row == count - 1 else 1 + row % (len(classes) - 1)] = 1
        self.fingerprint = f"xaibench.testing {name} {count} {len(classes)} {size}"

    def __getitem__(self, index: int) -> Sample:
        draw = np.random.default_rng([index, len(self)])
        image = draw.random((1, self.frame.height, self.frame.width), dtype=np.float32)
        return Sample(self.ids[index], image, self.labels[index], self.patients[index], self.regions(index))

    def regions(self, index: int, frame: Frame | Literal["input"] | None = "input") -> Mapping[int, Region]:
        target, size = int(self.labels[index].argmax()), self.frame.width
        if target == 0:
            return {}
        left, side = (0.1 * target + 0.05) * size, 0.3 * size
        region = Region(np.array([[left, left, left + side, left + side]]), self.frame)
        return {target: region.to(frame) if isinstance(frame, Frame) else region}


def small_splits(classes: Sequence[str] = CLASSES, size: int = SIZE) -> Splits:
    """Return splits of noise with boxes: 8 training, 4 validation and 8 test images."""
    train, val, test = (BoxSplit(name, n, classes, size) for name, n in (("train", 8), ("val", 4), ("test", 8)))
    return Splits(train, val, test)


def small_images(count: int = 7, size: int = SIZE) -> Tensor:
    """Return images (count, 3, size, size) of noise, the same every time."""
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(2))


def small_prediction(classifier: Classifier, count: int = 7, size: int | None = None) -> Prediction:
    """Return what a classifier sees in `small_images`, named "image0.png" and so on."""
    images = small_images(count, size or classifier.input_size).to(classifier.device)
    with torch.no_grad():
        return classifier.predict(images, [f"image{row}.png" for row in range(count)])


def small_classifiers() -> Iterator[Classifier]:
    """Yield classifiers of 64 px in eval mode, one for each kind of explainer: a CNN, GCM, a Vision Transformer."""
    from xaibench.classifiers import create

    yield Small().eval()
    yield create(
        "gcm", classes=CLASSES, input_size=SIZE, encoder="tf_efficientnet_lite0", weights="package", decoders="shared"
    ).eval()
    yield create("timm:test_vit", classes=CLASSES, input_size=SIZE, weights="random").eval()
