"""Probe images, and what they must show of a network before anything is scored with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xaibench.errors import UsageError

if TYPE_CHECKING:
    from xaibench.classifiers.base import Classifier

IMAGES, QUARTERS = 3, 4
TOLERANCE, HALF = 1e-4, 2e-2
"""Of logits, as shares of the largest: other kernels and batch sizes add in another order."""


def probe_images(size: int) -> Tensor:
    """Return three images (3, 3, size, size) in [0, 1], the same every time: grey, with structure at every scale.

    They differ in brightness and contrast, so that a network which mixes the images of a batch is noticed.
    """
    generator = torch.Generator().manual_seed(20)
    total = torch.zeros(IMAGES, 1, size, size)
    side, weight = 2, 1.0
    while side <= size:
        noise = torch.rand(IMAGES, 1, side, side, generator=generator)
        total += weight * F.interpolate(noise, size=(size, size), mode="bilinear", align_corners=False)
        side, weight = 2 * side, 0.75 * weight
    low, high = total.amin((2, 3), keepdim=True), total.amax((2, 3), keepdim=True)
    scaled = (total - low) / (high - low).clamp(min=1e-6)
    contrast, brightness = torch.tensor([0.9, 0.5, 0.7]), torch.tensor([0.05, 0.1, 0.3])
    return (scaled * contrast.view(-1, 1, 1, 1) + brightness.view(-1, 1, 1, 1)).repeat(1, 3, 1, 1)


def quarter(place: int) -> tuple[float, float, float, float]:
    """Return top, bottom, left, right of a quarter of the image, as shares of its sides."""
    top, left = 0.5 * (place // 2), 0.5 * (place % 2)
    return top, top + 0.5, left, left + 0.5


def with_quarters_changed(image: Tensor) -> tuple[Tensor, Tensor]:
    """Return two sets of copies (4, 3, H, W) of an image (1, 3, H, W), a quarter of each changed: by noise, or blurred.

    Noise in the place of a quarter moves the features of trained networks there most and elsewhere least; a brighter
    quarter moves those of deep networks everywhere.
    """
    height, width = image.shape[-2:]
    generator = torch.Generator().manual_seed(21)
    noise = torch.rand(1, height, width, generator=generator).to(image.device)
    noisy, blurred = image.repeat(QUARTERS, 1, 1, 1), image.repeat(QUARTERS, 1, 1, 1)
    for place in range(QUARTERS):
        top, bottom, left, right = quarter(place)
        rows = slice(round(top * height), round(bottom * height))
        columns = slice(round(left * width), round(right * width))
        part = image[0, :, rows, columns]
        noisy[place, :, rows, columns] = noise[:, rows, columns]
        coarse = F.adaptive_avg_pool2d(part, (max(1, part.shape[-2] // 16), max(1, part.shape[-1] // 16)))
        smooth = F.interpolate(coarse[None], size=part.shape[-2:], mode="bilinear", align_corners=False)[0]
        blurred[place, :, rows, columns] = smooth
    return noisy, blurred


def alike(found: Tensor, wanted: Tensor, tolerance: float = TOLERANCE) -> bool:
    """Tell whether logits (N, K) are the same but for rounding: to 1e-4 of the largest, or 1e-5 where all are small.

    Half precision rounds to a hundredth: there the tolerance is 0.02.
    """
    scale = max(float(wanted.abs().max()), 0.1) if wanted.numel() else 1.0
    if found.shape != wanted.shape or not wanted.numel():
        return found.shape == wanted.shape
    return float((found.float() - wanted.float()).abs().max()) <= tolerance * scale


def splits_well(classifier: Classifier, images: Tensor) -> bool:
    """Tell whether body and head, and `predict`, are the network itself, on images (N, 3, H, W)."""
    return _parts(classifier, images)[0]


def _parts(classifier: Classifier, images: Tensor) -> tuple[bool, Tensor]:
    """Return whether every way through the classifier gives the network's logits, and the logits of `predict`."""
    from xaibench.classifiers.base import Classifier as Base

    kind = type(classifier)
    wanted = classifier.own_forward(images)
    prediction = classifier.predict(images)
    ways = [
        prediction.logits,
        classifier.head(prediction.features, images),
        classifier.head(classifier.features(images), images),
    ]
    if kind.forward is not Base.forward and kind.own_forward is not Base.own_forward:  # else it is one of these
        ways.append(classifier(images))
    # NaN and infinite logits are a fault of the network, which is told in the run: they must be so in every way.
    finite = wanted.isfinite().all(dim=1)
    tolerance = tolerance_of(classifier)
    same = all(
        found.shape == wanted.shape
        and torch.equal(found.isfinite().all(dim=1), finite)
        and alike(found[finite], wanted[finite], tolerance)
        for found in ways
    )
    return same, prediction.logits


def tolerance_of(classifier: nn.Module) -> float:
    """Return the tolerance of `alike` for a classifier's precision."""
    kinds = {tensor.dtype for tensor in classifier.parameters() if tensor.is_floating_point()}
    return HALF if kinds & {torch.float16, torch.bfloat16} else TOLERANCE


def check_network(classifier: Classifier, what: str, together: Tensor | None = None) -> None:
    """Return if a classifier's logits of an image depend on that image alone.

    Args:
        classifier: in eval mode.
        what: its name, for messages.
        together: the logits of the probe images, where they are known and came out the same more than once.

    Raises:
        UsageError: they change with the other images of the batch, or from one time to the next.
    """
    images = probe_images(classifier.input_size).to(classifier.device)
    tolerance = tolerance_of(classifier)
    with torch.no_grad():
        known, together = together, classifier(images) if together is None else together
        if not together.isfinite().all():
            return  # a fault of the network, which is told in the run
        alone = torch.cat([classifier(image) for image in torch.split(images, 1)])
        same = alike(alone, together, tolerance)
        if same and known is not None:
            return
        if not alike(classifier(images), together, tolerance):
            raise UsageError(
                f"{what} gives other logits for the same images the next time, in eval mode too: take out what is "
                "random, such as a dropout that is always on"
            )
    if same:
        return
    norms = [
        name
        for name, layer in classifier.named_modules()
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and (layer.training or layer.running_mean is None)
    ]
    where = f" (batch norm {norms[0]} has no running statistics)" if norms else ""
    raise UsageError(
        f"{what}'s logits for an image depend on the other images of its batch{where}, so that no score would be "
        "its own: give its norms running statistics, or use group norm"
    )


def check_parts(classifier: Classifier, what: str) -> None:
    """Return if a classifier's body and head are its network, and its logits of an image depend on that image alone.

    Raises:
        UsageError: they are not, or do not.
    """
    images = probe_images(classifier.input_size).to(classifier.device)
    with torch.no_grad():
        same, together = _parts(classifier, images)
    check_network(classifier, what, together if same else None)
    if not same:
        raise UsageError(
            f"{what}: head(features(images), images) gives other logits than the network itself, so that what is "
            "explained would not be what is scored: put all before the explained layer into features() and all after "
            "it into head()"
        )
