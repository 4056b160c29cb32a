"""What methods that reach into the network's layers need: to look at them, and to leave them as they were."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from xaibench.classifiers.base import Classifier

# Operations that only move numbers, and those of bookkeeping.
_MOVES = frozenset(
    """view _unsafe_view reshape flatten permute transpose t unsqueeze squeeze expand slice select cat stack clone alias
    detach copy_ _to_copy split split_with_sizes as_strided empty zeros ones full arange lift_fresh""".split()  # noqa: SIM905
)


@contextmanager
def unchanged(classifier: Classifier) -> Iterator[None]:
    """Turn in-place activations into plain ones for the block, and take back what it hangs on the layers."""
    layers: list[Any] = list(classifier.modules())
    in_place = [layer for layer in layers if getattr(layer, "inplace", False) is True]
    before = [set(vars(layer)) for layer in layers]
    for layer in in_place:
        layer.inplace = False
    try:
        yield
    finally:
        for layer in in_place:
            layer.inplace = True
        for layer, known in zip(layers, before, strict=True):
            for name in set(vars(layer)) - known:
                delattr(layer, name)


def sample_image(classifier: Classifier) -> Tensor:
    """Return an image (1, 3, H, W) of noise, the same every time, to try a method on."""
    size = classifier.input_size
    image = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    return image.to(classifier.device)


def leaves(classifier: Classifier) -> list[nn.Module]:
    """Return the layers without layers of their own."""
    return [layer for layer in classifier.modules() if not list(layer.children())]


def operations(classifier: Classifier, image: Tensor) -> Mapping[str, set[type[nn.Module] | None]]:
    """Return what a forward pass computes: each operation of ATen, with the kinds of leaf layers that run it.

    None stands for between the layers: additions of shortcuts, functions in place of layers. Operations that only move
    numbers (views, concatenation) are left out; an in-place operation goes by its plain name.
    """
    watch = _Watch()
    handles = []
    for layer in leaves(classifier):
        handles.append(layer.register_forward_pre_hook(watch.enter))
        handles.append(layer.register_forward_hook(watch.leave, always_call=True))
    try:
        with torch.no_grad(), watch:
            classifier(image)
    finally:
        for handle in handles:
            handle.remove()
    return watch.seen


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.running: list[type[nn.Module]] = []
        self.seen: dict[str, set[type[nn.Module] | None]] = {}

    def enter(self, layer: nn.Module, _: Any) -> None:
        self.running.append(type(layer))

    def leave(self, *_: Any) -> None:
        self.running.pop()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        name = name if name in _MOVES else name.rstrip("_")
        if name not in _MOVES:
            self.seen.setdefault(name, set()).add(self.running[-1] if self.running else None)
        return func(*args, **(kwargs or {}))
