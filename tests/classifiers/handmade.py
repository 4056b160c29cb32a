"""A tensor inside a network, by plain hooks: what it is, what hangs on it, and Grad-CAM there by hand.

Nothing here uses xaibench or pytorch-grad-cam: it is their reference.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tests.classifiers.architectures import Place


@contextmanager
def replaced(network: nn.Module, place: Place, instead: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Let `instead` of the tensor go on in its stead, for the block."""
    calls = 0

    def first(values: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls != place.call:
            return values
        if isinstance(values, tuple):
            return (instead(values[0]), *values[1:])
        return instead(values)

    layer = network.get_submodule(place.module)
    if place.side == "input":
        handle = layer.register_forward_pre_hook(lambda _, inputs: first(inputs))
    else:
        handle = layer.register_forward_hook(lambda _, __, output: first(output))
    try:
        yield
    finally:
        handle.remove()


def tensor_at(network: nn.Module, place: Place, batch: Tensor) -> tuple[Tensor, Tensor]:
    """Return the tensor at a place, as the network has it, and the logits."""
    seen: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        seen.append(tensor.clone())  # a function in place may follow
        return tensor

    with torch.no_grad(), replaced(network, place, note):
        logits: Tensor = network(batch)
    return seen[0], logits


def gradient_at(network: nn.Module, place: Place, batch: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return the tensor at a place and the gradient there of each image's target logit, laid out as in the network."""
    network = copy.deepcopy(network)  # timm's LeViT caches tensors with their graph, and can't be copied afterwards
    seen: list[Tensor] = []

    def cut(tensor: Tensor) -> Tensor:
        seen.append(tensor.detach().clone().requires_grad_())
        return seen[0].clone()

    with torch.enable_grad(), replaced(network, place, cut):
        score = network(batch).gather(1, targets[:, None]).sum()
    return seen[0].detach(), torch.autograd.grad(score, seen[0])[0]


def gradcam(network: nn.Module, place: Place, batch: Tensor, targets: Tensor) -> Tensor:
    """Return Grad-CAM before its ReLU, (B, h, w): channels weighted by their gradient's mean over places."""
    tensor, gradient = (place.channels_first(part) for part in gradient_at(network, place, batch, targets))
    return (gradient.mean(dim=(2, 3), keepdim=True) * tensor).sum(dim=1)
