"""A classifier is a body and a head, so that everything after the one forward pass works on small tensors."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from xaibench.errors import UsageError
from xaibench.types import Prediction


@dataclass(frozen=True)
class Weights:
    """Where weights came from: recorded in every run."""

    source: str
    """"timm:NAME", "package:NAME VERSION", "file:PATH" or "random (seed N)"."""
    sha256: str


class Classifier(nn.Module, ABC):
    """Base of every classifier.

    Images go in raw, (B, 3, H, W) float in [0, 1]; a classifier normalises for itself. ``features(images)`` is the
    explained layer and ``head(features, images)`` the rest, so that ``head(features(images), images)`` are the logits
    (B, K).

    Attributes:
        classes: the K class names.
        input_size: side of the square images, in pixels.
        weights: where the pretrained part came from.
        body_is_frozen: nothing trains in `features`, so training computes them once.
        own_maps: names of the maps that `head_with_maps` returns.
        head_is_pooled_linear: the head is global average pooling and one linear layer, which CAM needs.
        comes_trained: the weights are there when it is made, and no recipe trains it.
        has_features: there is a layer to explain; False for a program that can't be looked into, whose `features` are
            the images.
    """

    body_is_frozen = False
    head_is_pooled_linear = False
    comes_trained = False
    has_features = True
    own_maps: tuple[str, ...] = ()

    def __init__(self, classes: Sequence[str], input_size: int) -> None:
        super().__init__()
        if len(set(classes)) != len(classes) or len(classes) < 2:
            raise UsageError(f"a classifier needs at least two different classes, got {list(classes)}")
        if input_size < 1:
            raise UsageError(f"input_size = {input_size}; it is the side of the images in pixels")
        self.classes = tuple(classes)
        self.input_size = input_size
        self.weights = Weights("random", "")

    @abstractmethod
    def features(self, images: Tensor) -> Tensor:
        """Return the explained layer, (B, C, h, w)."""

    @abstractmethod
    def head(self, features: Tensor, images: Tensor) -> Tensor:
        """Return logits (B, K) of features (B, C, h, w); `images` only where the head multiplies them (GCM)."""

    def head_with_maps(self, features: Tensor, images: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Return logits and the classifier's own maps, each (B, K, H, W); none unless it explains itself."""
        return self.head(features, images), {}

    def class_weights(self) -> Tensor:
        """Return the last layer's weights (K, C), of a head that is average pooling and one linear layer.

        Raises:
            UsageError: the head is something else.
        """
        raise UsageError(f"{type(self).__name__}'s head is more than average pooling and one linear layer")

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, K) of images (B, 3, H, W) in [0, 1]."""
        return self.head(self.features(images), images)

    def predict(self, images: Tensor, ids: Sequence[str] = ()) -> Prediction:
        """Run the network once.

        Args:
            images: (B, 3, H, W) float in [0, 1].
            ids: B image ids; "0", "1", ... when not given.

        Raises:
            ValueError: as many ids as images are needed.
        """
        if ids and len(ids) != len(images):
            raise ValueError(f"{len(ids)} ids for {len(images)} images")
        features = self.features(images)
        logits, maps = self.head_with_maps(features, images)
        return Prediction(tuple(ids) or tuple(map(str, range(len(images)))), images, logits, features, maps)

    def trained_state(self) -> dict[str, Tensor]:
        """Return the tensors that training changes, by name: what a checkpoint holds."""
        return dict(self.state_dict())

    def load_trained_state(self, state: Mapping[str, Tensor]) -> None:
        """Load what `trained_state` gave.

        Raises:
            RuntimeError: names or shapes differ.
        """
        self.load_state_dict(state)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def optimized(self) -> Self:
        """Switch to eval mode and the memory layout that is fastest for inference; the numbers stay the same."""
        return self.eval().to(memory_format=torch.channels_last)


class Normalize(nn.Module):
    """``(images - mean) / std`` per channel, on raw images in [0, 1]."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return (images - self.mean).div_(self.std)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw initial weights from `seed` inside the block; the global generator does not notice."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed reseeds GPUs too, and nothing would restore them
        yield


def hash_tensors(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """Return the sha256 over names, shapes, types and bytes: equal exactly when the weights are."""
    digest = hashlib.sha256()
    for name, tensor in tensors:
        array = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {tuple(array.shape)} {array.dtype}\n".encode())
        digest.update(array.view(-1).view(torch.uint8).numpy().tobytes() if array.numel() else b"")
    return digest.hexdigest()


def count_macs(module: nn.Module, *inputs: Any) -> int:
    """Count the multiply-accumulates of convolutions and linear layers in one forward pass.

    >>> count_macs(nn.Conv2d(3, 8, 3, padding=1, bias=False), torch.zeros(1, 3, 10, 10))
    21600
    """
    total = 0

    def count(layer: nn.Module, _: Any, output: Tensor) -> None:
        nonlocal total
        if isinstance(layer, nn.Conv2d):
            total += output.numel() * layer.weight[0].numel()
        elif isinstance(layer, nn.Linear):
            total += output.numel() * layer.in_features

    layers = [m for m in module.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    try:
        with torch.no_grad():
            module(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return total
