"""B-cos networks (Boehle, Fritz and Schiele, CVPR 2022): a network that is a linear map made for each input.

A B-cos layer is ``|cos(x, w)|^(B-1) * (w / |w|) x``: linear in x but for a factor that says how well x and w are
aligned. Without biases the whole network is ``y = W(x) x``, and the contributions ``W(x) * x`` of the input add up to
the logit, exactly.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xaibench.plugin import Classifier, Explainer, NotApplicableError, Prediction, UsageError, frozen, seeded

_TINY = 1e-6


class BcosConv2d(nn.Module):
    """A convolution with unit-norm weights, times the alignment of input and weight to the power of B - 1; no bias.

    Attributes:
        detached: take the alignment as a constant, so that a gradient gives the dynamic linear map W(x).
    """

    def __init__(self, channels: int, width: int, kernel: int, stride: int = 1, *, b: float = 2.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width, channels, kernel, kernel))
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)
        self.stride, self.padding, self.b = stride, kernel // 2, b
        self.detached = False

    def forward(self, images: Tensor) -> Tensor:
        unit = self.weight / (self.weight.flatten(1).norm(dim=1)[:, None, None, None] + _TINY)
        linear = F.conv2d(images, unit, stride=self.stride, padding=self.padding)
        if self.b == 1:
            return linear
        ones = torch.ones_like(self.weight[:1])
        energy = F.conv2d(images**2, ones, stride=self.stride, padding=self.padding)
        cosine = (linear / (energy + _TINY).sqrt()).abs() + _TINY
        alignment = cosine ** (self.b - 1)
        return linear * (alignment.detach() if self.detached else alignment)


class Uncentred(nn.Module):
    """Batch norm without mean and bias: division by the root mean square of each channel, a constant in eval mode."""

    square: Tensor

    def __init__(self, channels: int, momentum: float = 0.1) -> None:
        super().__init__()
        self.register_buffer("square", torch.ones(channels))
        self.momentum = momentum

    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            square = (images**2).mean(dim=(0, 2, 3))
            with torch.no_grad():
                self.square.lerp_(square.detach(), self.momentum)
        else:
            square = self.square
        return images / (square + _TINY).sqrt()[None, :, None, None]


class BcosNet(Classifier):
    """A small B-cos CNN, trained from scratch.

    Args:
        classes: K class names.
        input_size: side of the images.
        b: the exponent B; 1 is a linear network, 2 the paper's.
        widths: channels of the layers, each of stride 2.
        temperature: factor of the logits, which are cosines times norms and small.
        seed: of the initial weights.

    `features` are the last layer's, (B, C, H / 2^n, W / 2^n). The image comes in six channels, itself and its negative
    ``1 - x``, so that dark and bright places alike can contribute.

    Raises:
        UsageError: an option out of its range.
    """

    def __init__(
        self,
        classes: Sequence[str],
        input_size: int = 256,
        *,
        b: float = 2.0,
        widths: Sequence[int] = (32, 64, 128, 128),
        temperature: float = 10.0,
        seed: int = 0,
    ) -> None:
        super().__init__(classes, input_size)
        if b < 1 or temperature <= 0 or not widths or min(widths) < 1:
            raise UsageError(f"bcos: b = {b} is at least 1, temperature = {temperature} above 0, widths = {widths} too")
        self.temperature = temperature
        layers: list[nn.Module] = []
        with seeded(seed):
            for channels, width in zip((6, *widths), widths, strict=False):
                layers += [BcosConv2d(channels, width, 3, 2, b=b), Uncentred(width)]
            self.body = nn.Sequential(*layers)
            self.last = BcosConv2d(widths[-1], len(classes), 1, b=b)

    def encode(self, images: Tensor) -> Tensor:
        """Return (B, 6, H, W): the images and their negatives."""
        return torch.cat([images, 1 - images], dim=1)

    def features(self, images: Tensor) -> Tensor:
        return self.body(self.encode(images))  # type: ignore[no-any-return]

    def head(self, features: Tensor, images: Tensor) -> Tensor:
        return self.temperature * self.last(features).mean(dim=(-2, -1))  # type: ignore[no-any-return]

    @contextmanager
    def linear(self) -> Iterator[None]:
        """Take alignments as constants for the block: a gradient then is the dynamic linear map."""
        layers = [layer for layer in self.modules() if isinstance(layer, BcosConv2d)]
        for layer in layers:
            layer.detached = True
        try:
            yield
        finally:
            for layer in layers:
                layer.detached = False


class BcosMap(Explainer):
    """B-cos contributions (Boehle 2022): W(x) * x of the class, summed over channels; their sum is the logit."""

    runs_body = True
    completeness = "sum"

    def check(self, classifier: Classifier) -> None:
        if not isinstance(classifier, BcosNet):
            raise NotApplicableError(
                f"bcos explains B-cos networks, and {type(classifier).__name__} is none: use input_x_gradient, or the "
                "classifier bcos"
            )

    def baselines(self, images: Tensor) -> Tensor:
        """Return no reference image for each image, (B, 0, 3, H, W): the logit itself is explained."""
        return images[:, None][:, :0]

    def explain(self, classifier: Classifier, prediction: Prediction, targets: Tensor) -> Tensor:
        assert isinstance(classifier, BcosNet)
        maps = []
        with frozen(classifier), classifier.linear():
            for images, wanted in zip(torch.split(prediction.images, 8), torch.split(targets, 8), strict=True):
                encoded = classifier.encode(images.detach()).clone().requires_grad_(True)
                logits = classifier.head(classifier.body(encoded), images)
                score = logits.gather(1, wanted[:, None]).sum()
                (found,) = torch.autograd.grad(score, encoded)
                maps.append((found * encoded.detach()).sum(dim=1))
        return torch.cat(maps).float()
