"""Which layer is explained, and whether it is the right one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from xaibench.classifiers.base import Classifier
from xaibench.classifiers.layout import Layout
from xaibench.classifiers.probe import probe_images
from xaibench.classifiers.target import every_place, judge_features
from xaibench.doctor.outputs import gradient_of
from xaibench.findings import Finding
from xaibench.io.memory import out_of_memory

if TYPE_CHECKING:
    from xaibench.doctor.diagnose import Patient

_SPATIAL = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)


def check(patient: Patient) -> Iterator[Finding]:
    """Say which layer is the target and why; find one whose places are not the image's, or too early or too late."""
    classifier, images = patient.classifier, patient.images[:1]
    if not classifier.has_features:
        what = classifier.no_target or "the network is a program, run as it is"
        yield Finding("note", "layer", f"there is no target layer: {what}", "", _who)
        return
    with torch.no_grad():
        body = _outputs(classifier, lambda: classifier.features(images))
        features = body.result
        kept = features.clone()
        head = _outputs(classifier, lambda: classifier.head(features, images), kept)
    yield Finding("note", "layer", f"the target layer is {_described(classifier, kept, _maker(body, kept))}", "", _who)
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
    height, width = features.shape[2:]
    if height * width == 1:
        yield Finding(
            "error",
            "layer",
            f"the target layer has one place only ({features.shape[1]} x 1 x 1): every map of it is constant",
            "End features() before the pooling, or give larger images (resize).",
            _who,
        )
    else:
        yield from _places(patient, kept)
    yield from _too_early(classifier, head, height, width)


def target_layer(classifier: Classifier) -> dict[str, Any]:
    """Return what a run's record says of the explained layer: its name, layout, channels, grid, and why it is that one.

    Args:
        classifier: in eval mode.
    """
    if not classifier.has_features:
        return {"name": None, "reason": classifier.no_target or "the network is a program, run as it is"}
    if classifier.target is not None:
        return classifier.target.to_json()
    image = probe_images(classifier.input_size)[:1].to(classifier.device)
    with torch.no_grad():
        body = _outputs(classifier, lambda: classifier.features(image))
    return {
        "name": _maker(body, body.result) or "features()",
        "layout": str(Layout("channels_first", *body.result.shape[2:])),
        "channels": body.result.shape[1],
        "grid": list(body.result.shape[2:]),
        "reason": _why(classifier),
    }


def _described(classifier: Classifier, features: Tensor, maker: str) -> str:
    channels, height, width = features.shape[1:]
    if (target := classifier.target) is not None:
        return f"the output of {target.name}, {channels} x {height} x {width}, {target.layout}: {target.reason}"
    where = f"the output of {maker}" if maker else "what features() returns"
    return f"{where}, {channels} x {height} x {width}: {_why(classifier)}"


def _why(classifier: Classifier) -> str:
    if classifier.own_maps:
        return f"what the head makes its own maps ({', '.join(classifier.own_maps)}) of"
    return "the last before the head pools over the places"


def _places(patient: Patient, features: Tensor) -> Iterator[Finding]:
    """Find features whose places are not the image's, and places that the logits do not depend on."""
    classifier = patient.classifier
    name = "" if classifier.target is None else f" ({classifier.target.name}, {classifier.target.layout})"
    try:
        verdict = judge_features(classifier.features, classifier.input_size, classifier.device)
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        return  # the probe images are too many for this memory: nothing is known
    if not verdict.holds:
        yield Finding(
            "error",
            "layer",
            f"the places of the target layer{name} are not clearly the image's: where a quarter of the image is "
            f"changed, its cells change no more than others {verdict}",
            "Explain an earlier layer, or larger images (resize); a module's layer is named by layer= and layout=.",
            _who,
        )
    image = patient.images[:1]

    def logits_of(change: Callable[[Tensor], Tensor], copies: int) -> Tensor:
        with torch.no_grad():
            changed = change(features.repeat(copies, 1, 1, 1))
            return classifier.head(changed, image.repeat(copies, 1, 1, 1))

    with torch.enable_grad():
        leaf = features.detach().clone().requires_grad_(True)
        gradient = gradient_of(classifier.head(leaf * 1, image), leaf)
    height, width = features.shape[2:]
    if not every_place(None if gradient is None else gradient[0], (height, width), logits_of):
        yield Finding(
            "error",
            "layer",
            f"the logits do not depend on every place of the target layer{name}: a map of it can't show what they are "
            "made of",
            "Explain an earlier layer: of a network that reads its class token only, the last block's input.",
            _who,
        )


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
