"""Copies of a classifier with random weights in some of its layers, made once for a classifier.

A copy shares the tensors of the layers that stay, so that it costs no more than its random ones, and nothing is ever
written to the classifier itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from xaibench.classifiers.base import Classifier, seeded
from xaibench.classifiers.copies import deepcopied
from xaibench.errors import UsageError
from xaibench.explainers.base import seed_of
from xaibench.metrics._rerun import count

Order = Literal["top_down", "bottom_up", "independent"]
_MADE: WeakKeyDictionary[Classifier, dict[Any, Any]] = WeakKeyDictionary()


def randomized(classifier: Classifier, *, order: Order, steps: int, seed: int) -> list[Classifier]:
    """Return `steps` copies of a classifier, evenly spaced over its layers, in the mode of the original.

    Args:
        order: "top_down" (copy i has random weights in the last i / steps of the layers, the last copy in all),
            "bottom_up" (in the first), or "independent" (in the i-th part from the top alone).
        steps: cut to the number of layers; as many as there are layers take them one by one.
        seed: of the random weights, which depend on it and on the layer's name alone.

    Raises:
        UsageError: another order, or no whole number of steps.
    """
    count("steps", steps)
    if order not in ("top_down", "bottom_up", "independent"):
        raise UsageError(f'order = {order!r}; it is "top_down", "bottom_up" or "independent"')
    made = _MADE.setdefault(classifier, {})
    key = (order, steps, seed, classifier.device, classifier.training)
    if key not in made:
        source = _once(made, (seed, classifier.device), lambda: _all_random(classifier, seed))
        names = [name for name, _ in layers(classifier)]
        names = names if order == "bottom_up" else names[::-1]
        ends = sorted({max(1, round(len(names) * step / steps)) for step in range(1, steps + 1)})
        starts = [0, *ends[:-1]] if order == "independent" else [0] * len(ends)
        made[key] = [_mixed(classifier, source, names[a:b]) for a, b in zip(starts, ends, strict=True)]
    return made[key]  # type: ignore[no-any-return]


def forget_randomized(classifier: Classifier) -> None:
    """Drop the copies of a classifier, whose weights somebody has changed."""
    _MADE.pop(classifier, None)


def layers(classifier: Classifier) -> list[tuple[str, nn.Module]]:
    """Return the layers that hold weights or running statistics of their own, in the order of their registration."""
    return [
        (name, layer)
        for name, layer in classifier.named_modules()
        if next(layer.parameters(recurse=False), None) is not None or _has_statistics(layer)
    ]


def _has_statistics(layer: nn.Module) -> bool:
    return getattr(layer, "running_mean", None) is not None and hasattr(layer, "reset_running_stats")


def _all_random(classifier: Classifier, seed: int) -> Classifier:
    """Return a copy, sharing nothing, whose layers are all drawn anew.

    A layer draws by its `reset_parameters` (batch norms return to mean 0 and variance 1); one that has none draws from
    a normal distribution with its weights' own mean and standard deviation.
    """
    made = deepcopied(classifier).cpu().to(memory_format=torch.contiguous_format)  # layout must not decide a draw
    for name, layer in layers(made):
        with seeded(seed_of("randomized", seed, name)), torch.no_grad():
            reset: Callable[[], object] | None = getattr(layer, "reset_parameters", None)
            if callable(reset):
                reset()
                continue
            for parameter in layer.parameters(recurse=False):
                _draw(parameter)
            if _has_statistics(layer):
                layer.reset_running_stats()  # type: ignore[operator]
    return made.to(classifier.device).to(memory_format=classifier.memory_format or torch.contiguous_format)


def _draw(parameter: Tensor) -> None:
    mean = float(parameter.mean())
    spread = float(parameter.std(correction=0)) or abs(mean) or 1.0
    parameter.normal_(mean, spread)


def _mixed(classifier: Classifier, source: Classifier, names: Sequence[str]) -> Classifier:
    """Return a copy that has the layers `names` from `source` and shares all other tensors with the classifier."""
    tensors = chain(classifier.parameters(), classifier.buffers())
    made = deepcopied(classifier, {id(tensor): tensor for tensor in tensors})
    into, out_of = dict(made.named_modules()), dict(source.named_modules())
    for name in names:
        for key, parameter in out_of[name].named_parameters(recurse=False):
            into[name].register_parameter(key, parameter)
        if _has_statistics(into[name]):
            for key, buffer in out_of[name].named_buffers(recurse=False):
                into[name]._buffers[key] = buffer
    return made


def _once(made: dict[Any, Any], key: Any, make: Callable[[], Any]) -> Any:
    if key not in made:
        made[key] = make()
    return made[key]
