"""What comes out: logits that are none, saturated ones, and gradients that do not come through."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from xaibench.classifiers.base import Classifier
from xaibench.findings import Finding

if TYPE_CHECKING:
    from xaibench.doctor.diagnose import Patient

_who = "classifier"


def check(patient: Patient) -> Iterator[Finding]:
    """Find NaN, probabilities in place of logits, logits that see no image, and cut gradients."""
    classifier, logits = patient.classifier, patient.prediction.logits
    if not logits.isfinite().all() or not patient.prediction.features.isfinite().all():
        yield Finding(
            "error", "output", "logits or features hold NaN or infinity", "Train with a lower learning rate.", _who
        )
        return
    if kind := _bounded(classifier, patient):
        yield Finding(
            "error",
            "saturated",
            f"the logits are {kind} already: taken again by whoever needs probabilities, they saturate, and gradients "
            "vanish",
            f"Take the {kind.split()[-1]} out of head(), and train without it.",
            _who,
        )
    elif len(logits) > 1 and float((logits - logits[:1]).abs().max()) == 0:
        yield Finding(
            "error", "output", "the logits are the same for every image", "Look at the weights and at the input.", _who
        )
    elif logits.shape[1] > 1 and float(logits.softmax(1).amax(1).min()) > 0.9999:
        yield Finding(
            "warning",
            "saturated",
            f"every image's largest probability is above 0.9999 (logits up to {float(logits.abs().max()):.3g})",
            "Gradients of probabilities vanish there: explain logits; train with weight decay or fewer epochs.",
            _who,
        )
    yield from _gradients(patient)


def _bounded(classifier: Classifier, patient: Patient) -> str:
    """Return "a softmax" or "a sigmoid" where the outputs stay in [0, 1] however large the features, else ""."""
    with torch.no_grad():
        features, images = patient.prediction.features, patient.images
        scales = [classifier.head(features * scale, images) for scale in (1.0, -30.0, 1e3)]
    outputs = torch.cat(scales).nan_to_num()
    if float(outputs.min()) < 0 or float(outputs.max()) > 1 + 1e-6:
        return ""
    sums = outputs.sum(1)
    if torch.allclose(sums, torch.ones_like(sums), atol=1e-3):
        return "probabilities of a softmax"
    return "probabilities of a sigmoid" if float(outputs.std()) > 0 and float(outputs.max()) > 0.5 else ""


def _gradients(patient: Patient) -> Iterator[Finding]:
    classifier = patient.classifier
    images = patient.images[:1].detach().clone().requires_grad_(True)
    with torch.enable_grad():
        features = patient.prediction.features[:1].detach().clone().requires_grad_(True)
        of_features = gradient_of(classifier.head(features * 1, images.detach()), features)
        of_images = gradient_of(classifier(images), images)
    if of_images is None and not classifier.has_features:
        what = "the program gives no gradient: methods that need one do not apply, those of forward passes do"
        yield Finding("note", "gradient", what, "", _who)
    elif of_features is None or float(of_features.abs().max()) == 0:
        yield Finding(
            "error",
            "gradient",
            "no gradient of the logits reaches the target layer: Grad-CAM and its kin would be blank",
            "Take no_grad, detach and arrays out of head(); a dead last layer gives no gradient either.",
            _who,
        )
    elif of_images is None or float(of_images.abs().max()) == 0:
        yield Finding(
            "error",
            "gradient",
            "no gradient of the logits reaches the image: saliency, integrated gradients and the like would be blank",
            "Take no_grad and detach out of features(): frozen weights need requires_grad_(False) only.",
            _who,
        )


def gradient_of(logits: Tensor, source: Tensor) -> Tensor | None:
    """Return the gradient of the first image's logits, weighted so that none cancels, or None where it is cut."""
    if not logits.requires_grad:
        return None
    weights = torch.linspace(1, 2, logits.shape[1], device=logits.device)
    return torch.autograd.grad((logits[0] * weights).sum(), source, allow_unused=True)[0]
