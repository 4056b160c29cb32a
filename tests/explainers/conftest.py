"""Small classifiers, their predictions, and a dataset of boxes, shared by the explainers' tests."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.explainers.small import CLASSES, Linear, Small, predict
from xaibench.classifiers.base import Classifier
from xaibench.classifiers.gcm import GCM
from xaibench.classifiers.nin import NIN
from xaibench.classifiers.timm import TimmClassifier, densenet121
from xaibench.datasets.base import Split, Splits
from xaibench.types import Frame, Prediction, Region, Sample


class Boxes(Split):
    """Grey images with the regions given; each an image of its own patient."""

    def __init__(self, name: str, rows: Sequence[tuple[str, Region]], frame: Frame) -> None:
        self.classes = CLASSES
        self.frame = frame
        self.ids = [f"{name}{row}" for row in range(len(rows) + 1)]
        self.patients = self.ids
        self.labels = np.zeros((len(self.ids), len(CLASSES)), dtype=np.float32)
        self.labels[-1, 0] = 1  # the last has no finding and no region
        self._regions: list[dict[int, Region]] = [{} for _ in self.ids]
        for row, (label, region) in enumerate(rows):
            target = CLASSES.index(label)
            self.labels[row, target] = 1
            self._regions[row][target] = region
        self.fingerprint = uuid.uuid4().hex  # the cache must not take one dataset for another

    def __getitem__(self, index: int) -> Sample:
        image = np.full((1, self.frame.height, self.frame.width), 0.5, dtype=np.float32)
        return Sample(self.ids[index], image, self.labels[index], self.patients[index], self._regions[index])

    def regions(self, index: int) -> Mapping[int, Region]:
        return self._regions[index]


Rows = Sequence[tuple[str, Sequence[float]]]


@pytest.fixture(scope="session")
def splits_of() -> Callable[..., Splits]:
    """Make splits of (class, box) pairs for train, val and test, in one frame."""

    def make(train: Rows = (), val: Rows = (), test: Rows = (), frame: Frame | None = None) -> Splits:
        frame = frame or Frame(40, 80)

        def split(name: str, rows: Rows) -> Boxes:
            return Boxes(name, [(label, Region(np.array([box]), frame)) for label, box in rows], frame)

        return Splits(split("train", train), split("val", val), split("test", test))

    return make


@pytest.fixture(scope="session")
def densenet() -> Classifier:
    return densenet121(CLASSES, 64, weights="random").eval()


@pytest.fixture(scope="session")
def gcm() -> Classifier:
    return GCM(CLASSES, 64, encoder="tf_efficientnet_lite0", weights="package").eval()


@pytest.fixture(scope="session")
def bigger_head() -> Classifier:
    """A classifier with a norm between the pooling and the linear layer."""
    return TimmClassifier(CLASSES, 64, model="test_convnext", weights="random").eval()


@pytest.fixture(scope="session")
def vit() -> Classifier:
    return TimmClassifier(CLASSES, 64, model="test_vit", weights="random").eval()


@pytest.fixture(scope="session")
def nin() -> Classifier:
    return NIN(CLASSES, 64, model="test_resnet", weights="random", hidden=8).eval()


@pytest.fixture(scope="session")
def folder_of_maps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Maps of 8 x 8 of the images that `predict` makes, for every class."""
    folder = tmp_path_factory.mktemp("maps")
    for row in range(7):
        for target, name in enumerate(CLASSES):
            np.save(folder / f"image{row}_{name}.npy", np.random.default_rng([row, target]).normal(size=(8, 8)))
    return folder


@pytest.fixture(scope="session")
def small() -> Classifier:
    return Small().eval()


@pytest.fixture(scope="session")
def linear() -> Classifier:
    return Linear().eval()


@pytest.fixture(scope="session")
def seen_by_small(small: Classifier) -> Prediction:
    return predict(small)


@pytest.fixture(scope="session")
def seen_by_vit(vit: Classifier) -> Prediction:
    return predict(vit)


@pytest.fixture(scope="session")
def seen_by_nin(nin: Classifier) -> Prediction:
    return predict(nin)


@pytest.fixture(scope="session")
def seen_by_linear(linear: Classifier) -> Prediction:
    return predict(linear, size=16)


@pytest.fixture(scope="session")
def seen_by_densenet(densenet: Classifier) -> Prediction:
    return predict(densenet)


@pytest.fixture(scope="session")
def seen_by_gcm(gcm: Classifier) -> Prediction:
    return predict(gcm)


@pytest.fixture(scope="session")
def seen_by_bigger_head(bigger_head: Classifier) -> Prediction:
    return predict(bigger_head)


@pytest.fixture(scope="session")
def targets() -> torch.Tensor:
    return torch.tensor([0, 1, 2, 3, 1, 1, 0])
