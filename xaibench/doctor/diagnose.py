"""Put the doctor's checks together: all of them, or the fast part that every run starts with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from xaibench.classifiers.base import Classifier
from xaibench.classifiers.state import State
from xaibench.datasets.base import Split
from xaibench.datasets.loader import batches
from xaibench.explainers.base import Explainer
from xaibench.findings import Finding
from xaibench.types import Prediction

IMAGES = 4


@dataclass(frozen=True, eq=False)
class Patient:
    """What is examined.

    Args:
        classifier: in eval mode, on its device.
        images: (B, 3, H, W) as the dataset gives them; they should lie in [0, 1].
        ids: of the images.
        targets: (B,) int64, a class for each image; different ones, where there are.
        prediction: of the images.
    """

    classifier: Classifier
    images: Tensor
    ids: tuple[str, ...]
    targets: Tensor
    prediction: Prediction

    @classmethod
    def of(cls, classifier: Classifier, images: Tensor, ids: tuple[str, ...] = ()) -> Patient:
        """Run the network once over a few images."""
        images = images.to(classifier.device)
        names = ids or tuple(f"image{row}" for row in range(len(images)))
        with torch.no_grad():
            prediction = classifier.predict(images, names)
        targets = torch.arange(len(images), device=images.device) % len(classifier.classes)
        return cls(classifier, images, names, targets, prediction)


def drawn_rows(split: Split, count: int = IMAGES) -> list[int]:
    """Return which images of a split are looked at: a few, spread over it."""
    return sorted({round(i * (len(split) - 1) / max(count - 1, 1)) for i in range(min(count, len(split)))})


def draw(split: Split, count: int = IMAGES) -> tuple[Tensor, tuple[str, ...]]:
    """Return a few images of a split, spread over it, and their ids."""
    rows = drawn_rows(split, count)
    batch = next(batches(split, len(rows), rows))
    return batch.images, batch.ids


def diagnose(
    classifier: Classifier, explainers: Mapping[str, Explainer], images: Tensor, ids: tuple[str, ...] = ()
) -> list[Finding]:
    """Examine a classifier and its explainers on a few images; the classifier is left as it was found.

    Args:
        classifier: in eval mode.
        explainers: name to explainer, prepared.
        images: (B, 3, H, W) as the dataset gives them; four show more than one does.
        ids: of the images.

    Returns:
        Errors, warnings and notes, of the classifier first.
    """
    from xaibench.doctor import inputs, layers, maps, outputs

    state = State.of(classifier)
    try:
        patient = Patient.of(classifier, images, ids)
        found = [*layers.check(patient), *inputs.check(patient), *outputs.check(patient)]
        for name, explainer in explainers.items():
            found += maps.check(patient, name, explainer)
    finally:
        state.restore(classifier)
    return found


def glance(classifier: Classifier, explainers: Mapping[str, Explainer], split: Split) -> list[str]:
    """Return what the fast part has to say before a run, a line each: the classifier's faults, and class-blind maps.

    One image, two maps of each explainer. Faults of single maps are left to the run, which sees them all.
    """
    from xaibench.doctor import inputs, layers, maps, outputs

    if not len(split):
        return []
    state = State.of(classifier)
    try:
        patient = Patient.of(classifier, *draw(split, 1))
        found = [*layers.check(patient), *inputs.check(patient), *outputs.check(patient)]
        for name, explainer in explainers.items():
            found += maps.glance(patient, name, explainer)
    finally:
        state.restore(classifier)
    return [f"doctor: {finding}" for finding in found if finding.severity != "note"]
