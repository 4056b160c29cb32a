"""A network as body and head, split at the output of one of its layers by taking that layer's place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from xaibench.classifiers.layout import Layout, tensor_of
from xaibench.errors import UsageError


@dataclass(frozen=True)
class Target:
    """The layer that is explained.

    Attributes:
        name: the module's path.
        call: which of its calls in one forward pass, from 1.
        layout: of its output, at the classifier's input size.
        channels: of its output.
        dtype: of its output.
        reason: why this one, for the user.
        wrapped: the output is a tuple whose first element is meant.
    """

    name: str
    call: int
    layout: Layout
    channels: int
    dtype: torch.dtype
    reason: str
    wrapped: bool = False

    def __str__(self) -> str:
        layout = self.layout
        return f"{self.name}, {self.channels} channels on {layout.height} x {layout.width}, {layout}: {self.reason}"

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "layout": str(self.layout),
            "channels": self.channels,
            "grid": [self.layout.height, self.layout.width],
            "reason": self.reason,
        }


@contextmanager
def replaced(module: nn.Module, name: str, call: int, instead: Callable[[Callable[[], Any]], Any]) -> Iterator[None]:
    """Let `instead` take the place of a layer's call for the block; it is handed what would run the layer.

    The layer's `forward` is replaced, not hooked, so that hooks that others put on it still run.
    """
    layer: Any = module.get_submodule(name)
    forward, calls = layer.forward, 0

    def run(*inputs: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls != call:
            return forward(*inputs, **options)
        return instead(lambda: forward(*inputs, **options))

    was_own = "forward" in vars(layer)
    layer.forward = run
    try:
        yield
    finally:
        if was_own:
            layer.forward = forward
        else:
            del layer.forward


def with_tensor(output: Any, tensor: Tensor) -> Any:
    """Return a layer's output with its tensor replaced."""
    if isinstance(output, tuple) and hasattr(output, "_fields"):
        return type(output)(tensor, *output[1:])
    return type(output)([tensor, *output[1:]]) if isinstance(output, tuple | list) else tensor


class Hooked:
    """Splits a network at its target; holds no weights of its own.

    What comes before the layer runs again with the head, but what is inside it (a container of convolutions) does not,
    unless tokens without a place are needed of it.

    Args:
        module: the network.
        target: the layer whose output the features are.
        memory_format: of features that are channels first.
    """

    def __init__(
        self, module: nn.Module, target: Target, memory_format: torch.memory_format = torch.contiguous_format
    ) -> None:
        self.module, self.target, self.memory_format = module, target, memory_format

    def features(self, run: Callable[[], Any]) -> Tensor:
        """Return the features (B, C, h, w) float32; `run` runs the network, which ends at the layer.

        Raises:
            UsageError: the network did not run the layer.
        """

        def stop(layer: Callable[[], Any]) -> Any:
            raise _Stop(self._features(layer()))

        try:
            with self._instead(stop):
                run()
        except _Stop as stopped:
            return stopped.features
        raise UsageError(f"{type(self.module).__name__} did not run its layer {self.target.name!r}: give another layer")

    def head(self, run: Callable[[], Any], features: Tensor) -> Any:
        """Return the network's output with features (B, C, h, w) in the place of its own."""

        layout, given = self.target.layout, features.to(self.target.dtype)

        def give(layer: Callable[[], Any]) -> Any:  # a copy, as an activation in place may follow
            if layout.kind == "channels_first" and not self.target.wrapped:
                return given.clone(memory_format=self.memory_format)
            if not (self.target.wrapped or layout.prefix or layout.suffix):
                return layout.to_output(given, given).clone(memory_format=torch.contiguous_format)
            output = layer()
            tensor = tensor_of(output)
            assert tensor is not None
            return with_tensor(output, layout.to_output(given, tensor).clone(memory_format=torch.contiguous_format))

        with self._instead(give):
            return run()

    def both(self, run: Callable[[], Any]) -> tuple[Any, Tensor]:
        """Return the network's output and the features, of one pass.

        Raises:
            UsageError: the network did not run the layer.
        """
        seen: list[Tensor] = []

        def keep(layer: Callable[[], Any]) -> Any:
            output = layer()
            seen.append(self._features(output))
            return output

        with self._instead(keep):
            output = run()
        if not seen:
            name = type(self.module).__name__
            raise UsageError(f"{name} did not run its layer {self.target.name!r}: give another layer")
        return output, seen[0]

    def _instead(self, instead: Callable[[Callable[[], Any]], Any]) -> AbstractContextManager[None]:
        return replaced(self.module, self.target.name, self.target.call, instead)

    def _features(self, output: Any) -> Tensor:
        tensor = tensor_of(output)
        assert tensor is not None
        return self.target.layout.to_grid(tensor).float().clone()  # an activation in place may follow


class _Stop(Exception):
    def __init__(self, features: Tensor) -> None:
        super().__init__()
        self.features = features
