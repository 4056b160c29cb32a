"""Which layer is explained, and whether it is the right one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from xaibench.classifiers.base import Classifier
from xaibench.findings import Finding

if TYPE_CHECKING:
    from xaibench.doctor.diagnose import Patient

_SPATIAL = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)


def check(patient: Patient) -> Iterator[Finding]:
    """Say which layer is the target and why; find in-place changes of it, and a layer too early or too late."""
    classifier, images = patient.classifier, patient.images[:1]
    if not classifier.has_features:
        yield Finding("note", "layer", "there is no target layer: the network is a program, run as it is", "", _who)
        return
    with torch.no_grad():
        body = _outputs(classifier, lambda: classifier.features(images))
        features = body.result
        kept = features.clone()
        head = _outputs(classifier, lambda: classifier.head(features, images), kept)
    name = _maker(body, kept)
    channels, height, width = features.shape[1:]
    where = f"the output of {name}" if name else "what features() returns"
    why = "the last before the head pools over the places"
    if classifier.own_maps:
        why = f"what the head makes its own maps ({', '.join(classifier.own_maps)}) of"
    yield Finding("note", "layer", f"the target layer is {where}, {channels} x {height} x {width}: {why}", "", _who)
    if not torch.equal(features, kept):
        names = [n for n, layer in classifier.named_modules() if n in head.seen and getattr(layer, "inplace", False)]
        by = f" by {names[0]}" if names else ""
        yield Finding(
            "error",
            "in-place",
            f"the head changes the target layer's output in place{by}: every map would be made of the changed values",
            f"Set inplace=False on {names[0] if names else 'what follows'}, or end features() behind it.",
            _who,
        )
    if height * width == 1:
        yield Finding(
            "error",
            "layer",
            f"the target layer has one place only ({channels} x 1 x 1): every map of it is constant",
            "End features() before the pooling, or give larger images (resize).",
            _who,
        )
    yield from _too_early(classifier, head, height, width)


_who = "classifier"


def _too_early(classifier: Classifier, head: _Seen, height: int, width: int) -> Iterator[Finding]:
    """Find layers behind the target that still work on places, where the classifier does not explain itself."""
    if classifier.own_maps:
        return
    later = [
        (name, layer, tuple(output.shape[-2:]))
        for name, layer, output in head.calls
        if isinstance(layer, _SPATIAL) and output.ndim == 4 and output.shape[-1] * output.shape[-2] > 1
    ]
    if not later:
        return
    name, _, size = later[-1]
    what = f"{len(later)} layers behind the target still work on places, the last {name} ({size[0]} x {size[1]})"
    smaller = size[0] * size[1] < height * width
    remedy = f"End features() behind {name}: the last layer with places is the one that the class is read from."
    if smaller or any(isinstance(layer, nn.Conv2d) for _, layer, _ in later):
        yield Finding("error", "layer", f"{what}: the target is not the last layer", remedy, _who)


class _Seen:
    """The leaf layers that ran, in order, with their outputs."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, nn.Module, Tensor]] = []
        self.result: Tensor

    @property
    def seen(self) -> set[str]:
        return {name for name, _, _ in self.calls}


def _outputs(classifier: Classifier, call: Any, features: Tensor | None = None) -> _Seen:
    """Run `call` and note its layers; those alone that follow the one that gives `features`, should one do.

    A head may be the whole network again with one layer's output replaced: what comes before is not behind the target.
    """
    seen, handles = _Seen(), []
    for name, layer in classifier.named_modules():
        if name:

            def note(layer: nn.Module, _: Any, output: Any, name: str = name) -> None:
                if not isinstance(output, Tensor):
                    return
                if features is not None and output.shape == features.shape and torch.equal(output, features):
                    seen.calls.clear()
                elif not list(layer.children()):
                    seen.calls.append((name, layer, output))

            handles.append(layer.register_forward_hook(note))
    try:
        seen.result = call()
    finally:
        for handle in handles:
            handle.remove()
    return seen


def _maker(body: _Seen, features: Tensor) -> str:
    """Return the name of the layer whose output the features are, "" where no layer's is."""
    for name, _, output in reversed(body.calls):
        if output.shape == features.shape and torch.equal(output, features):
            return name
    return ""
