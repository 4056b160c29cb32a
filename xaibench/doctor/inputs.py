"""What the network is fed: images in [0, 1] from the dataset, about 0 with a spread of about 1 at its first layer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from xaibench.classifiers.base import Classifier
from xaibench.findings import Finding

if TYPE_CHECKING:
    from xaibench.doctor.diagnose import Patient

USED = 0.25  # no radiograph of the NIH sample stays below 0.56, resized to 32 px or more
FARTHEST, NARROWEST = 10.0, 0.02  # ImageNet's normalising gives values of -2.2 to 2.7 and a spread near 1


def check(patient: Patient) -> Iterator[Finding]:
    """Find images out of [0, 1], and a first layer that sees values it was not made for."""
    low, high = float(patient.images.min()), float(patient.images.max())
    spread = float(patient.images.std())
    if not torch.isfinite(patient.images).all():
        yield Finding("error", "input", "images hold NaN or infinity", "Look at the dataset's decoding.", "dataset")
    elif low < -1e-6 or high > 1 + 1e-6:
        remedy = "Divide by 255 (by 65,535 for 16 bits)." if high > 10 else "Leave normalising to the classifier."
        yield Finding("error", "input", f"images run from {low:.3g} to {high:.3g}, not in [0, 1]", remedy, "dataset")
    elif spread < 1e-3:
        yield Finding(
            "error",
            "input",
            f"images are all but constant (standard deviation {spread:.2g})",
            "Divided by 255 twice?",
            "dataset",
        )
    elif high <= USED:
        yield Finding(
            "error",
            "input",
            f"images are almost black: no pixel of those looked at ({len(patient.images)}) is above {high:.3g}, of 1: "
            "12 bits in files of 16?",
            'Bring the values in use to [0, 1]; the dataset folder does with range = "stored" or "percentile".',
            "dataset",
        )
    first = _first_input(patient.classifier, patient.images)
    if first is None:
        return
    name, seen = first
    mean, deviation = float(seen.mean()), float(seen.transpose(0, 1).flatten(1).std(1).max())
    yield Finding(
        "note",
        "input",
        f"images in [{low:.3g}, {high:.3g}] reach the first layer ({name}) with mean {mean:.2g} and standard deviation "
        f"{deviation:.2g}",
        "",
        "classifier",
    )
    if float(seen.abs().max()) > FARTHEST and high <= 1 + 1e-6:
        yield Finding(
            "error",
            "normalisation",
            f"the first layer ({name}) sees values up to {float(seen.abs().max()):.3g}: scaled to 0 to 255 on the way?",
            "Give Normalize mean and standard deviation of images in [0, 1].",
            "classifier",
        )
    elif deviation < NARROWEST * max(spread / 0.25, 0.1):
        yield Finding(
            "error",
            "normalisation",
            f"the first layer ({name}) sees a standard deviation of {deviation:.2g}, all but constant: normalised by "
            "mean and standard deviation of images of 0 to 255?",
            "Give Normalize mean and standard deviation of images in [0, 1].",
            "classifier",
        )


def _first_input(classifier: Classifier, images: Tensor) -> tuple[str, Tensor] | None:
    """Return name and input of the first convolution or linear layer that runs."""
    seen: list[tuple[str, Tensor]] = []
    handles = []
    for name, layer in classifier.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):

            def note(_: nn.Module, inputs: Any, name: str = name) -> None:
                if not seen and inputs and isinstance(inputs[0], Tensor):
                    seen.append((name, inputs[0].detach()))

            handles.append(layer.register_forward_pre_hook(note))
    try:
        with torch.no_grad():
            classifier.features(images)
    finally:
        for handle in handles:
            handle.remove()
    return seen[0] if seen else None
