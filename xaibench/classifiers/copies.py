"""Copies of networks whose attributes `copy.deepcopy` refuses: tensors that carry a graph."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from xaibench.errors import PLUGIN_ERRORS, UsageError, first_line

Network = TypeVar("Network", bound=nn.Module)


def deepcopied(network: Network, shared: Mapping[int, Any] | None = None) -> Network:
    """Return a deep copy; tensors that are the result of an operation (a weight norm's, a prototype's) come detached.

    Args:
        network: the network.
        shared: id to what stands for that object in the copy.
    """
    memo = {id(tensor): tensor.detach().clone() for tensor in _results(network)}
    return copy.deepcopy(network, {**memo, **(shared or {})})


def copied(network: Network, what: str) -> Network:
    """Return a deep copy of a user's network.

    Raises:
        UsageError: it can't be copied, or has layers whose weights are not there yet.
    """
    tensors = [*network.named_parameters(), *network.named_buffers()]
    if lacking := [name for name, tensor in tensors if is_lazy(tensor)]:
        raise UsageError(f"{what} has layers without weights yet ({lacking[0]}): run it once on an image before")
    try:
        return deepcopied(network)
    except PLUGIN_ERRORS as error:
        raise UsageError(
            f"{what} can't be copied ({first_line(error)}): with the option copy=false it is used itself, in eval mode"
        ) from error


def _results(network: nn.Module) -> Iterator[Tensor]:
    """Yield the tensors of a network's attributes and buffers that are no leaves of a graph."""
    for layer in network.modules():
        for value in (*vars(layer).values(), *layer._buffers.values()):
            values = value.values() if type(value) is dict else value if isinstance(value, list | tuple) else (value,)
            yield from (one for one in values if isinstance(one, Tensor) and not one.is_leaf)
