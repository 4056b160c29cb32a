"""A classifier is a body and a head, so that everything after the one forward pass works on small tensors."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from xaibench.classifiers.hooked import Target
from xaibench.classifiers.probe import alike, probe_images, tolerance_of
from xaibench.errors import UsageError
from xaibench.types import Prediction

MEMORY_FORMATS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}


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
        has_features: there is a layer to explain; False for a program that can't be looked into, or a network without
            a layer that keeps places, whose `features` are the images.
        no_target: why there is none, with the remedy; "" for a program.
        target: the layer whose output the features are, where it was chosen by `find_target`.
        memory_format: of the weights and images, as `optimized` finds it; None before.
        task: the benchmark's: whether a class's probability is a softmax ("multiclass") or a sigmoid ("multilabel").
    """

    body_is_frozen = False
    head_is_pooled_linear = False
    comes_trained = False
    has_features = True
    no_target = ""
    target: Target | None = None
    memory_format: torch.memory_format | None = None
    task: Literal["multiclass", "multilabel"] = "multiclass"
    own_maps: tuple[str, ...] = ()

    def __init__(self, classes: Sequence[str], input_size: int) -> None:
        super().__init__()
        if len(set(classes)) != len(classes) or not classes:
            raise UsageError(f"a classifier needs one class, or at least two different classes, got {list(classes)}")
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
        names = self.ids_of(images, ids)
        features = self.features(images)
        logits, maps = self.head_with_maps(features, images)
        return Prediction(names, images, logits, features, maps)

    def own_forward(self, images: Tensor) -> Tensor:
        """Return logits (B, K) by the network's own forward pass, where `features` and `head` take a way of their own.

        A classifier is refused where the two differ.
        """
        return self(images)  # type: ignore[no-any-return]

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return the probabilities (B, K) of logits (B, K)."""
        return logits.sigmoid() if self.task == "multilabel" or logits.shape[1] == 1 else logits.softmax(dim=1)

    def check_task(self, task: str) -> None:
        """Return if the logits are meant for a task, "multiclass" or "multilabel".

        Raises:
            UsageError: they are not.
        """

    @staticmethod
    def ids_of(images: Tensor, ids: Sequence[str]) -> tuple[str, ...]:
        """Return the ids of images, "0", "1", ... when none are given.

        Raises:
            ValueError: as many ids as images are needed.
        """
        if ids and len(ids) != len(images):
            raise ValueError(f"{len(ids)} ids for {len(images)} images")
        return tuple(ids) or tuple(map(str, range(len(images))))

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
        """Switch to eval mode and the memory format that is fastest for inference; the numbers stay the same.

        Channels last, unless the network does not take it (one that calls ``view`` on its maps) or gives other numbers.
        """
        self.eval()
        if self.memory_format is None:
            self.memory_format = torch.channels_last if self._takes_channels_last() else torch.contiguous_format
        self.set_memory_format(self.memory_format)
        return self

    def set_memory_format(self, memory_format: torch.memory_format) -> None:
        """Bring the weights into a memory format."""
        self.to(memory_format=memory_format)

    def laid_out(self, images: Tensor) -> Tensor:
        """Return images (B, 3, H, W) in the memory format that the network takes."""
        return images.contiguous(memory_format=self.memory_format or torch.contiguous_format)

    def _takes_channels_last(self) -> bool:
        image = probe_images(self.input_size)[:1].to(self.device)
        with torch.no_grad():
            wanted = self(image.contiguous())
            self.set_memory_format(torch.channels_last)
            try:
                found = self(image.contiguous(memory_format=torch.channels_last))
            except RuntimeError:
                return False
        return alike(found, wanted, tolerance_of(self)) or not bool(wanted.isfinite().all())


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
