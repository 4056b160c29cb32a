"""A classifier's tensors, parts and plain settings at one moment: to notice what foreign code changes and undo it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

_PLAIN = (bool, int, float, str, tuple, type(None))
_MODES = ("training", "inplace")
"""`xaibench.classifiers.state.State` looks after them."""


class Snapshot:
    """Copies of all tensors of a classifier, and what its layers are made of.

    Args:
        classifier: any module.
    """

    def __init__(self, classifier: nn.Module) -> None:
        self.classifier = classifier
        self._layers = [
            (
                name,
                layer,
                dict(layer._parameters),
                dict(layer._buffers),
                dict(layer._modules),
                {key: value for key, value in vars(layer).items() if key not in _MODES and isinstance(value, _PLAIN)},
            )
            for name, layer in classifier.named_modules()
        ]
        self._tensors: dict[int, tuple[str, Tensor, Tensor]] = {}
        for name, _, parameters, buffers, *_ in self._layers:
            for key, tensor in (*parameters.items(), *buffers.items()):
                if tensor is not None and id(tensor) not in self._tensors:
                    self._tensors[id(tensor)] = (f"{name}.{key}".lstrip("."), tensor, tensor.detach().clone())

    def changes(self) -> list[str]:
        """Return what is another than it was, each as a phrase: "changed the weights body.0.weight"."""
        found = [f"changed {name}" for name, tensor, copy in self._tensors.values() if not _same(tensor.detach(), copy)]
        for name, layer, parameters, buffers, modules, plain in self._layers:
            for kind, before in (("_parameters", parameters), ("_buffers", buffers), ("_modules", modules)):
                now = getattr(layer, kind)
                found += [
                    f"replaced {f'{name}.{key}'.lstrip('.')}"
                    for key in {*before, *now}
                    if now.get(key) is not before.get(key)
                ]
            there = vars(layer)
            found += [f"set {f'{name}.{key}'.lstrip('.')}" for key, value in plain.items() if there.get(key) != value]
        return found

    def restore(self) -> None:
        """Put everything back."""
        for _, layer, parameters, buffers, modules, plain in self._layers:
            for kind, before in (("_parameters", parameters), ("_buffers", buffers), ("_modules", modules)):
                now: dict[str, Any] = getattr(layer, kind)
                now.clear()
                now.update(before)
            for key, value in plain.items():
                if vars(layer).get(key, layer) != value:
                    vars(layer)[key] = value
        with torch.no_grad():
            for _, tensor, copy in self._tensors.values():
                if not _same(tensor.detach(), copy):
                    tensor.data = copy.clone()  # also where shape, type or memory have changed


def _same(tensor: Tensor, copy: Tensor) -> bool:
    """Tell whether two tensors hold the same bits, NaN too."""
    if tensor.shape != copy.shape or tensor.dtype != copy.dtype or tensor.device != copy.device:
        return False
    if tensor.is_meta or tensor.layout != torch.strided:
        return tensor.is_meta or torch.equal(tensor.to_dense(), copy.to_dense())
    whole = {2: torch.int16, 4: torch.int32, 8: torch.int64}.get(tensor.element_size())
    if tensor.is_floating_point() and whole is not None:
        return torch.equal(tensor.view(whole), copy.view(whole))
    return torch.equal(tensor, copy)
