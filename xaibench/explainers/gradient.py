"""Gradients of the class's logit with respect to the raw image in [0, 1], by captum.

Unless a docstring says otherwise, a map is the sum of the signed attributions over the three channels: for a grey image
repeated as RGB, exactly the attribution of the grey pixel.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import captum.attr
import torch
from torch import Tensor

from xaibench.classifiers.base import Classifier
from xaibench.datasets.base import Splits
from xaibench.errors import NotApplicableError, UsageError
from xaibench.explainers.base import Explainer, frozen, seed_of
from xaibench.explainers.layers import sample_image
from xaibench.explainers.reference import Reference, draw
from xaibench.types import Prediction

ROWS = 8  # images in a backward pass: DenseNet-121 at 224 px keeps some 0.2 GB for each


class Gradient(Explainer):
    """Base of the methods that need the gradient of the image.

    Attributes:
        name: as registered, for messages.
        rows: how many images are explained at once; 1 for the methods that make many of one.
    """

    runs_body = True
    name: ClassVar[str]
    rows: ClassVar[int] = ROWS

    def check(self, classifier: Classifier) -> None:
        check_gradient(classifier, self.name)

    def explain(self, classifier: Classifier, prediction: Prediction, targets: Tensor) -> Tensor:
        images = prediction.images.detach()
        maps = []
        with frozen(classifier):
            for rows in torch.split(torch.arange(len(images)), self.rows):
                ids = [prediction.ids[row] for row in rows]
                chosen = images[rows].clone(memory_format=torch.contiguous_format).requires_grad_(True)
                found = self.attribute(classifier, chosen, targets[rows.to(targets.device)], ids)
                maps.append(self.reduce(found.detach()))
        return torch.cat(maps).float()

    @abstractmethod
    def attribute(self, classifier: Classifier, images: Tensor, targets: Tensor, ids: Sequence[str]) -> Tensor:
        """Return the attributions (b, 3, H, W) of images (b, 3, H, W), which carry gradients."""

    def reduce(self, attributions: Tensor) -> Tensor:
        """Return maps (b, H, W) of attributions (b, 3, H, W)."""
        return attributions.sum(dim=1)


class Saliency(Gradient):
    """Saliency (Simonyan 2014): the largest absolute gradient over the channels."""

    name = "saliency"

    def attribute(self, classifier: Classifier, images: Tensor, targets: Tensor, ids: Sequence[str]) -> Tensor:
        return gradient(classifier, images, targets)

    def reduce(self, attributions: Tensor) -> Tensor:
        return attributions.abs().amax(dim=1)


class InputXGradient(Gradient):
    """Input times gradient (Shrikumar 2016), of the raw image: a black pixel gets 0."""

    name = "input_x_gradient"

    def attribute(self, classifier: Classifier, images: Tensor, targets: Tensor, ids: Sequence[str]) -> Tensor:
        return captum.attr.InputXGradient(classifier).attribute(images, target=targets)  # type: ignore[no-any-return]


class IntegratedGradients(Gradient):
    """Integrated gradients (Sundararajan 2017): the gradient along the way from a reference, times the difference.

    Adds up to the logit less the reference's. One forward and backward pass of the network for each step.

    Args:
        steps: points of the Gauss-Legendre rule; the paper finds 20 to 300 enough, 50 is captum's.
        reference: see `Reference`; the paper's is black.

    Raises:
        UsageError: an option out of its range.
    """

    name = "integrated_gradients"
    completeness = "sum"
    rows = 1

    def __init__(self, steps: int = 50, reference: str = "black") -> None:
        self.steps = whole_number(self.name, "steps", steps)
        self.reference = Reference(self.name, reference)

    def prepare(self, splits: Splits) -> None:
        self.reference.prepare(splits)

    def baselines(self, images: Tensor) -> Tensor:
        return self.reference(images)[:, None]

    def attribute(self, classifier: Classifier, images: Tensor, targets: Tensor, ids: Sequence[str]) -> Tensor:
        return captum.attr.IntegratedGradients(classifier).attribute(  # type: ignore[no-any-return]
            images,
            baselines=self.reference(images.detach()),
            target=targets,
            n_steps=self.steps,
            internal_batch_size=ROWS,
        )


class _Noisy(Gradient):
    """Gradients of noisy copies of the image; the noise is drawn from the image's id.

    Args:
        samples: how many copies; one forward and backward pass of the network for each.
        noise: its standard deviation, as a share of the image's range.

    Raises:
        UsageError: an option out of its range.
    """

    rows = 1

    def __init__(self, samples: int, noise: float) -> None:
        self.samples = whole_number(self.name, "samples", samples)
        if noise <= 0:
            raise UsageError(f"{self.name}: noise = {noise}; it is a share of the image's range, above 0")
        self.noise = noise

    def attribute(self, classifier: Classifier, images: Tensor, targets: Tensor, ids: Sequence[str]) -> Tensor:
        image = images.detach()
        generator = torch.Generator().manual_seed(seed_of("noise", ids[0]))
        scale = self.noise * (image.amax() - image.amin())
        first, second = torch.zeros_like(image[0]), torch.zeros_like(image[0])
        for size in _sizes(self.samples):
            noise = torch.randn(size, *image.shape[1:], generator=generator).to(image.device)
            gradients = gradient(classifier, (image + scale * noise).requires_grad_(True), targets.expand(size))
            first += gradients.sum(dim=0)
            second += gradients.square().sum(dim=0)
        return self.combine(first / self.samples, second / self.samples)[None]

    @abstractmethod
    def combine(self, mean: Tensor, mean_square: Tensor) -> Tensor:
        """Return the attribution (3, H, W) of the gradients' first two moments."""


class SmoothGrad(_Noisy):
    """SmoothGrad (Smilkov 2017): the mean gradient under noise, then, as in saliency, its largest absolute channel.

    Args:
        samples: the paper's 50, beyond which it saw no gain.
        noise: standard deviation as a share of the image's range; 0.15, the middle of the paper's 10 to 20%.

    Raises:
        UsageError: an option out of its range.
    """

    name = "smoothgrad"

    def __init__(self, samples: int = 50, noise: float = 0.15) -> None:
        super().__init__(samples, noise)

    def combine(self, mean: Tensor, mean_square: Tensor) -> Tensor:
        return mean

    def reduce(self, attributions: Tensor) -> Tensor:
        return attributions.abs().amax(dim=1)


class VarGrad(_Noisy):
    """VarGrad (Adebayo 2018): the variance of the gradient under noise, summed over the channels; never negative.

    Args:
        samples: 15, as in Hooker 2019.
        noise: standard deviation as a share of the image's range; 0.15, as in Hooker 2019.

    Raises:
        UsageError: an option out of its range.
    """

    name = "vargrad"

    def __init__(self, samples: int = 15, noise: float = 0.15) -> None:
        super().__init__(samples, noise)

    def combine(self, mean: Tensor, mean_square: Tensor) -> Tensor:
        return (mean_square - mean.square()).clamp(min=0)  # rounding alone makes it negative


class GradientShap(Gradient):
    """GradientSHAP (Lundberg 2017; Erion 2021): gradients at random points between the image and training images.

    In the mean over the draws, adds up to the logit less the training images' mean logit.

    Args:
        samples: draws of a training image and a point, from the image's id; one forward and backward pass for each.
        background: how many training images are drawn from.

    Raises:
        UsageError: an option out of its range.
    """

    name = "gradientshap"
    completeness = "sum"
    rows = 1

    def __init__(self, samples: int = 50, background: int = 50) -> None:
        self.samples = whole_number(self.name, "samples", samples)
        self.count = whole_number(self.name, "background", background)
        self.background: Tensor | None = None

    def prepare(self, splits: Splits) -> None:
        self.background = draw(splits, self.name, self.count)

    def baselines(self, images: Tensor) -> Tensor:
        return drawn(self.background, self.name).to(images).expand(len(images), -1, -1, -1, -1)

    def attribute(self, classifier: Classifier, images: Tensor, targets: Tensor, ids: Sequence[str]) -> Tensor:
        background = drawn(self.background, self.name)
        generator = torch.Generator().manual_seed(seed_of(self.name, ids[0]))
        chosen = torch.randint(len(background), (self.samples,), generator=generator)
        places = torch.rand(self.samples, 1, 1, 1, generator=generator)
        image, total = images.detach(), torch.zeros_like(images[0])
        for rows, along in zip(torch.split(chosen, ROWS), torch.split(places, ROWS), strict=True):
            difference = image - background[rows].to(image)
            points = (image - (1 - along.to(image)) * difference).requires_grad_(True)
            total += (difference * gradient(classifier, points, targets.expand(len(rows)))).sum(dim=0)
        return (total / self.samples)[None]


def gradient(classifier: Classifier, images: Tensor, targets: Tensor) -> Tensor:
    """Return the gradients (b, 3, H, W) of each image's logit of its target, by captum."""
    return captum.attr.Saliency(classifier).attribute(images, target=targets, abs=False)  # type: ignore[no-any-return]


def check_gradient(classifier: Classifier, explainer: str) -> None:
    """Return if the logits carry the gradient of the image.

    Raises:
        NotApplicableError: they don't.
    """
    with frozen(classifier):
        if not classifier(sample_image(classifier).requires_grad_(True)).requires_grad:
            raise NotApplicableError(
                f"{explainer} needs gradients, and {type(classifier).__name__} gives none: use rise or occlusion, "
                "which need forward passes only"
            )


def whole_number(explainer: str, option: str, value: Any, least: int = 1) -> int:
    """Return an option that counts something.

    Raises:
        UsageError: it is no whole number, or too small.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UsageError(f"{explainer}: {option} = {value!r}; it is a whole number of at least {least}")
    return value


def drawn(background: Tensor | None, explainer: str) -> Tensor:
    """Return the training images that `prepare` drew.

    Raises:
        UsageError: it was not called.
    """
    if background is None:
        raise UsageError(f"{explainer} compares with training images: call prepare(splits) first")
    return background


def _sizes(count: int) -> list[int]:
    return [min(ROWS, count - start) for start in range(0, count, ROWS)]
