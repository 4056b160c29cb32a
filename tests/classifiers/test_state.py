"""A glance at a classifier's state tells whatever a close look would."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from xaibench.classifiers.state import State


def _attribute(network: Any) -> None:
    network[0].left = 1


CHANGES: dict[str, Callable[[Any], Any]] = {
    "forward hook": lambda network: network[0].register_forward_hook(lambda *_: None),
    "pre-hook": lambda network: network[1].register_forward_pre_hook(lambda *_: None),
    "backward hook": lambda network: network[0].register_full_backward_hook(lambda *_: None),
    "hook on a tensor": lambda network: network[0].weight.register_hook(lambda gradient: gradient),
    "training": lambda network: network[1].train(),
    "in place": lambda network: setattr(network[1], "inplace", True),
    "gradient": lambda network: network[0].weight.requires_grad_(False),
    "attribute": _attribute,
    "another layer": lambda network: network.__setitem__(0, nn.Conv2d(3, 4, 3).eval()),
    "one layer more": lambda network: network.append(nn.Identity().eval()),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_glance_sees_what_a_look_sees(change: Callable[[Any], Any]) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval()
    before, state = State.glance(network), State.of(network)
    network(torch.zeros(1, 3, 5, 5))
    assert State.glance(network) == before  # running it leaves nothing
    change(network)
    now = State.of(network)
    assert state.hooks_left(now) or state.changes(now)
    assert State.glance(network) != before
