"""A classifier and explainers that a worker process can import, and with which a shard is done in milliseconds."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from xaibench import registry
from xaibench.classifiers.base import Classifier, seeded
from xaibench.datasets.base import Split
from xaibench.errors import DataError
from xaibench.explainers.base import Explainer, upsample
from xaibench.types import Prediction, Region, Sample

NAMES = {
    "classifiers": ("ray_small",),
    "explainers": ("ray_brightness", "ray_slow", "ray_fails", "ray_plain_late", "ray_plain_early", "ray_holes"),
}


class Small(Classifier):
    """Two convolutions with fixed weights."""

    comes_trained = True

    def __init__(self, classes: Sequence[str], input_size: int) -> None:
        super().__init__(classes, input_size)
        with seeded(0):
            self.body = torch.nn.Conv2d(3, 4, 5, stride=4)
            self.last = torch.nn.Linear(4, len(self.classes))

    def features(self, images: Tensor) -> Tensor:
        return torch.relu(self.body(images))

    def head(self, features: Tensor, images: Tensor) -> Tensor:
        logits: Tensor = self.last(features.mean((2, 3)))
        return logits


class Brightness(Explainer):
    """The features' sum, times the class."""

    def explain(self, classifier: Classifier, prediction: Prediction, targets: Tensor) -> Tensor:
        return upsample(prediction.features.sum(1) * (1 + targets[:, None, None]), prediction.frame)


class Slow(Brightness):
    """Takes its time for every batch."""

    def explain(self, classifier: Classifier, prediction: Prediction, targets: Tensor) -> Tensor:
        time.sleep(0.3)
        return super().explain(classifier, prediction, targets)


class Fails(Brightness):
    """Fails on image 16 and after, with another word in every batch."""

    def explain(self, classifier: Classifier, prediction: Prediction, targets: Tensor) -> Tensor:
        if max(map(_number, prediction.ids)) >= 16:
            raise RuntimeError(f"cannot explain {prediction.ids[0]}")
        return super().explain(classifier, prediction, targets)


class PlainLate(Brightness):
    """Fails on images of class 0 from image 16 on: in the phantom they have no region, and four come before."""

    first = 16

    def explain(self, classifier: Classifier, prediction: Prediction, targets: Tensor) -> Tensor:
        if (targets == 0).any() and max(map(_number, prediction.ids)) >= self.first:
            raise RuntimeError("no region, no map")
        return super().explain(classifier, prediction, targets)


class PlainEarly(PlainLate):
    """Fails there from image 8 on, while the contact sheet still has room."""

    first = 8


class Holes(Brightness):
    """NaN in every third map."""

    def explain(self, classifier: Classifier, prediction: Prediction, targets: Tensor) -> Tensor:
        maps = super().explain(classifier, prediction, targets)
        for at, name in enumerate(prediction.ids):
            if _number(name) % 3 == 0:
                maps[at, 0, 0] = float("nan")
        return maps


def register() -> None:
    registry.register("classifiers", "ray_small", Small)
    for name, made in zip(NAMES["explainers"], (Brightness, Slow, Fails, PlainLate, PlainEarly, Holes), strict=True):
        registry.register("explainers", name, made)


def unregister() -> None:
    for kind, names in NAMES.items():
        for name in names:
            registry.unregister(kind, name)


def _number(image: str) -> int:
    return int("".join(filter(str.isdigit, image)) or 0) % 1000


class Damaged(Split):
    """A split of which image 20 can't be decoded."""

    def __init__(self, split: Split) -> None:
        self._split = split
        self.classes, self.frame, self.threads = split.classes, split.frame, split.threads
        self.ids, self.patients, self.labels = split.ids, split.patients, split.labels
        self.fingerprint = f"damaged {split.fingerprint}"

    def __getitem__(self, index: int) -> Sample:
        if index == 20:
            raise DataError("image 20 is damaged")
        return self._split[index]

    def regions(self, index: int) -> Mapping[int, Region]:
        return self._split.regions(index)


class Unsendable(torch.nn.Module):
    """Can be copied but not pickled."""

    def __deepcopy__(self, memo: object) -> Unsendable:
        return self

    def __reduce__(self) -> str:
        raise TypeError("no pickle of this")

    def forward(self, logits: Tensor) -> Tensor:
        return logits
