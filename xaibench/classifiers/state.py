"""What an explainer must leave as it found it: hooks, flags and modes of a classifier's layers."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from torch import nn

_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_pre_hooks_with_kwargs",
    "_forward_hooks_always_called",
)
_GROWING = ("_backward_hooks", "_post_accumulate_grad_hooks")  # None or a dict, on tensors


@dataclass(frozen=True)
class State:
    """Hooks, attributes and flags of a classifier's layers and parameters at one moment; no numbers."""

    layers: Mapping[str, nn.Module]
    hooks: Mapping[str, Mapping[str, Mapping[int, Any]]]
    attributes: Mapping[str, frozenset[str]]
    training: Mapping[str, bool]
    in_place: Mapping[str, Any]
    gradients: Mapping[str, bool]
    tensor_hooks: Mapping[str, Mapping[str, Mapping[int, Any]]]

    @classmethod
    def of(cls, classifier: nn.Module) -> Self:
        """Look at a classifier."""
        layers = dict(classifier.named_modules())
        parameters = dict(classifier.named_parameters())
        return cls(
            layers,
            {name: {kind: dict(getattr(layer, kind, {})) for kind in _HOOKS} for name, layer in layers.items()},
            {name: frozenset(vars(layer)) for name, layer in layers.items()},
            {name: layer.training for name, layer in layers.items()},
            {name: getattr(layer, "inplace", None) for name, layer in layers.items()},
            {name: parameter.requires_grad for name, parameter in parameters.items()},
            {
                name: {kind: dict(getattr(parameter, kind, None) or {}) for kind in _GROWING}
                for name, parameter in parameters.items()
            },
        )

    @staticmethod
    def glance(classifier: nn.Module) -> Hashable:
        """Return what differs when the state does, in less time: the harness looks around every explanation.

        An attribute that goes while another comes is not seen.
        """
        layers, parameters = [], []
        found, seen = [("", classifier)], {id(classifier)}  # `named_modules` takes most of the time
        while found:
            name, layer = found.pop()
            own = layer.__dict__
            hooks = [tuple(here) for kind in _HOOKS if (here := own.get(kind))]
            layers.append((name, id(layer), layer.training, own.get("inplace"), len(own), *hooks))
            for parameter in layer._parameters.values():
                if parameter is not None:
                    growing = [tuple(here) for kind in _GROWING if (here := getattr(parameter, kind, None))]
                    parameters.append((parameter.requires_grad, *growing))
            for below, child in layer._modules.items():
                if child is not None and id(child) not in seen:
                    seen.add(id(child))
                    found.append((f"{name}.{below}", child))
        return tuple(layers), tuple(parameters)

    def hooks_left(self, now: State) -> list[str]:
        """Return the names of layers and parameters with a hook that was not there, "" being the classifier itself."""
        layers = [n for n, kinds in now.hooks.items() if _more(kinds, self.hooks.get(n, {}))]
        return layers + [n for n, kinds in now.tensor_hooks.items() if _more(kinds, self.tensor_hooks.get(n, {}))]

    def changes(self, now: State) -> list[str]:
        """Return what else differs, each as a phrase: "layer body.2 is in training mode"."""
        found = []
        if (names := sorted(set(now.layers) ^ set(self.layers))) or now.layers.keys() != self.layers.keys():
            found.append(f"layers came or went ({', '.join(names[:3])})")
        for name, layer in self.layers.items():
            where = name or "the classifier"
            if name not in now.layers or now.layers[name] is not layer:
                found.append(f"layer {where} is another object")
                continue
            if now.training[name] != self.training[name]:
                found.append(f"{where} is in {'training' if now.training[name] else 'eval'} mode")
            if now.in_place[name] != self.in_place[name]:
                found.append(f"{where}.inplace is {now.in_place[name]}")
            if new := sorted(now.attributes[name] - self.attributes[name]):
                found.append(f"{where} has a new attribute {new[0]!r}")
        for name, flag in self.gradients.items():
            if now.gradients.get(name) != flag:
                found.append(f"{name}.requires_grad is {now.gradients.get(name)}")
        return found

    def restore(self, classifier: nn.Module) -> None:
        """Take hooks away that were not there, and put modes and flags back."""
        for name, layer in classifier.named_modules():
            for kind in _HOOKS:
                _keep(getattr(layer, kind, None), self.hooks.get(name, {}).get(kind, {}))
            layer.training = self.training.get(name, layer.training)
            if self.in_place.get(name) is not None:
                layer.inplace = self.in_place[name]
        for name, parameter in classifier.named_parameters():
            for kind in _GROWING:
                _keep(getattr(parameter, kind, None), self.tensor_hooks.get(name, {}).get(kind, {}))
            if name in self.gradients and parameter.requires_grad != self.gradients[name]:
                parameter.requires_grad_(self.gradients[name])


@dataclass(frozen=True)
class Seen:
    """A classifier's state, and the glance by which to tell whether it is still that."""

    glance: Hashable
    state: State

    @classmethod
    def of(cls, classifier: nn.Module) -> Self:
        """Look at a classifier."""
        return cls(State.glance(classifier), State.of(classifier))

    def tidy(self, classifier: nn.Module) -> str | None:
        """Take away what an explainer left on a classifier since, and return the first of it; None for nothing."""
        if State.glance(classifier) == self.glance:
            return None
        now = State.of(classifier)
        left = [f"left a hook on {where or 'the classifier'}" for where in self.state.hooks_left(now)]
        left += [f"afterwards {change}" for change in self.state.changes(now)]
        if not left:
            return None
        self.state.restore(classifier)
        return left[0]


def is_hooked(network: nn.Module) -> bool:
    """Tell whether running a network calls more than its layers' own code: hooks, or a ``forward`` put on a layer."""
    if any(
        hooks
        for name, hooks in vars(nn.modules.module).items()
        if name.startswith("_global_") and name.endswith("_hooks")
    ):
        return True
    return any(
        "forward" in vars(layer) or any(layer.__dict__.get(kind) for kind in _HOOKS) for layer in network.modules()
    )


def _more(now: Mapping[str, Mapping[int, Any]], before: Mapping[str, Mapping[int, Any]]) -> bool:
    return any(set(hooks) - set(before.get(kind, {})) for kind, hooks in now.items())


def _keep(hooks: Any, known: Mapping[int, Any]) -> None:
    for key in [key for key in hooks or () if key not in known]:
        del hooks[key]
