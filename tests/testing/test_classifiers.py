"""Every classifier of ours passes the kit, and the kit sees each fault that one can have."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pytest
import torch
from torch import Tensor, nn

from xaibench.classifiers.base import Classifier, seeded
from xaibench.registry import Entry, entries
from xaibench.testing import check_classifier
from xaibench.testing.small import CLASSES

OURS: dict[str, tuple[str, dict[str, str]]] = {  # full name and options, where the plain name is not enough
    "gcm": ("gcm", {"encoder": "tf_efficientnet_lite0", "weights": "package"}),
    "timm": ("timm:test_resnet", {}),
    "module": ("module:tests.classifiers.networks:make", {}),
    "nin": ("nin", {"model": "test_resnet"}),
}


@pytest.mark.parametrize("entry", [e for e in entries("classifiers") if e.is_builtin], ids=lambda e: e.name)
def test_conforms(entry: Entry) -> None:
    if entry.name not in OURS and hasattr(entry.load(), "argument"):
        pytest.skip("made of a file that the user brings")
    full, options = OURS.get(entry.name, (entry.name, {}))
    assert check_classifier(full, options=options) == []


class Sound(Classifier):
    """One convolution, one linear layer."""

    head_is_pooled_linear = True

    def __init__(self, classes: Sequence[str], input_size: int, *, seed: int = 0) -> None:
        super().__init__(classes, input_size)
        with seeded(seed):
            self.body = nn.Sequential(nn.Conv2d(3, 6, 5, stride=4), nn.BatchNorm2d(6), nn.ReLU(inplace=True))
            self.last = nn.Linear(6, len(classes))

    def features(self, images: Tensor) -> Tensor:
        return self.body(images)  # type: ignore[no-any-return]

    def head(self, features: Tensor, images: Tensor) -> Tensor:
        return self.last(features.mean((2, 3)))  # type: ignore[no-any-return]

    def class_weights(self) -> Tensor:
        return self.last.weight


class InPlace(Sound):
    def head(self, features: Tensor, images: Tensor) -> Tensor:
        return self.last(features.sub_(0.1).relu_().mean((2, 3)))  # type: ignore[no-any-return]


class Softmax(Sound):
    def head(self, features: Tensor, images: Tensor) -> Tensor:
        return super().head(features, images).softmax(1)


class Flat(Sound):
    def features(self, images: Tensor) -> Tensor:
        return super().features(images).mean((2, 3))

    def head(self, features: Tensor, images: Tensor) -> Tensor:
        return self.last(features)  # type: ignore[no-any-return]


class Trains(Sound):
    def train(self, mode: bool = True) -> Trains:
        super().train(mode)
        self.body.train()
        return self


class Drops(Sound):
    def head(self, features: Tensor, images: Tensor) -> Tensor:
        return super().head(nn.functional.dropout(features, training=True), images)


class Unseeded(Sound):
    def __init__(self, classes: Sequence[str], input_size: int, *, seed: int = 0) -> None:
        super().__init__(classes, input_size, seed=seed)
        self.last = nn.Linear(6, len(classes))


class Cut(Sound):
    def features(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            return super().features(images)


class NotPooled(Sound):
    def head(self, features: Tensor, images: Tensor) -> Tensor:
        return self.last(features.amax((2, 3)))  # type: ignore[no-any-return]


class Forgets(Sound):
    def trained_state(self) -> dict[str, Tensor]:
        return dict(self.last.state_dict())

    def load_trained_state(self, state: Mapping[str, Tensor]) -> None:
        self.last.load_state_dict(state)


class NotFrozen(Sound):
    body_is_frozen = True


class Unnamed(Sound):
    def head_with_maps(self, features: Tensor, images: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
        return self.head(features, images), {"mine": features}


class OtherHead(Sound):
    def forward(self, images: Tensor) -> Tensor:
        return 2 * super().forward(images)


class Greedy(Sound):
    def __init__(self, classes: Sequence[str], input_size: int) -> None:
        super().__init__(CLASSES, 64)


def test_a_sound_one_passes() -> None:
    assert check_classifier(Sound) == []


@pytest.mark.parametrize(
    ("factory", "check", "says"),
    [
        (InPlace, "in-place", "changes the features"),
        (Softmax, "logits", "probabilities"),
        (Flat, "shape", "(B, C, h, w)"),
        (Trains, "batches", "batch size"),
        (Drops, "random", "other logits"),
        (Unseeded, "seed", "one seed"),
        (Cut, "gradient", "no gradient"),
        (NotPooled, "pooled linear", "mean features"),
        (Forgets, "checkpoint", "predicts otherwise"),
        (NotFrozen, "frozen body", "training mode"),
        (Unnamed, "own maps", "mine"),
        (OtherHead, "parts", "forward"),
        (Greedy, "clear errors", "without an error"),
        (lambda classes: nn.Identity(), "raises", "input_size"),
        (lambda classes, input_size: nn.Identity(), "type", "Identity"),
    ],
)
def test_each_fault_is_found(factory: Callable[..., Classifier], check: str, says: str) -> None:
    found = [finding for finding in check_classifier(factory) if finding.check == check]
    assert any(says in finding.what for finding in found), check_classifier(factory)
    assert all(finding.remedy and "\n" not in str(finding) for finding in found)
