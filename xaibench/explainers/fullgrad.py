"""FullGrad: the gradient of the image and of every bias, which together make up the logit."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from xaibench.classifiers.base import Classifier, Normalize
from xaibench.errors import NotApplicableError
from xaibench.explainers.base import Explainer, frozen, upsample
from xaibench.explainers.gradient import ROWS, check_gradient
from xaibench.explainers.layers import sample_image, unchanged
from xaibench.types import Frame, Prediction


class FullGrad(Explainer):
    """FullGrad (Srinivas 2019): absolute gradients times image and biases, each channel scaled to [0, 1], summed.

    Batch norms count with their implicit biases, the classifier's normalisation with its own. Never negative. A
    classifier whose image and bias terms don't add up to its logit (products of features, smooth activations) is
    refused. Computed here: pytorch-grad-cam pairs biases with gradients by position, which goes wrong where layers run
    in another order than they are listed in, and passes over the batch norms of timm's DenseNet.
    """

    runs_body = True

    def check(self, classifier: Classifier) -> None:
        check_gradient(classifier, "fullgrad")
        image = sample_image(classifier)
        terms = full_gradients(classifier, image, torch.tensor([0], device=image.device))
        with torch.no_grad():
            logit = float(classifier(image)[0, 0])
        sums = [float(term.sum()) for term in (*terms.maps, *terms.rest)]
        scale = abs(logit) + sum(map(abs, sums))
        if not abs(sum(sums) - logit) <= 1e-3 * scale:
            raise NotApplicableError(
                f"fullgrad's terms must add up to the logit and don't on {type(classifier).__name__}, which multiplies "
                "features or has smooth activations: use integrated_gradients"
            )

    def explain(self, classifier: Classifier, prediction: Prediction, targets: Tensor) -> Tensor:
        images = prediction.images.detach()
        maps = []
        for rows in torch.split(torch.arange(len(images)), ROWS // 2):  # every layer's gradient is kept
            terms = full_gradients(classifier, images[rows], targets[rows.to(targets.device)])
            maps.append(sum_of_channels(terms.maps, prediction.frame))
        return torch.cat(maps)


@dataclass
class Terms:
    """What a logit is made of.

    Attributes:
        maps: image times gradient (B, 3, H, W), then bias times gradient of each layer with places, (B, C, h, w).
        rest: the same of linear layers, (B, ..., C).
    """

    maps: list[Tensor] = field(default_factory=list)
    rest: list[Tensor] = field(default_factory=list)


def full_gradients(classifier: Classifier, images: Tensor, targets: Tensor) -> Terms:
    """Return the terms of each image's logit of its target; in a piecewise linear network they add up to it."""
    images = images.clone(memory_format=torch.contiguous_format).requires_grad_(True)
    taps: list[tuple[Tensor, Tensor]] = []
    with ExitStack() as stack:
        stack.enter_context(unchanged(classifier))
        stack.enter_context(frozen(classifier))
        for layer in classifier.modules():
            bias = _bias(layer)
            if bias is not None:
                stack.callback(_tap(layer, bias, taps).remove)
        scores = classifier(images).gather(1, targets[:, None]).sum()
        found = torch.autograd.grad(scores, [images, *(output for _, output in taps)], allow_unused=True)
    terms = Terms([(images * found[0]).detach()])
    for (bias, _), gradient in zip(taps, found[1:], strict=True):
        if gradient is not None:  # a layer that the logit does not depend on
            (terms.maps if bias.ndim == 3 else terms.rest).append((bias * gradient).detach())
    return terms


def sum_of_channels(terms: list[Tensor], frame: Frame) -> Tensor:
    """Return (B, H, W): absolute values of terms (B, C, h, w), each channel scaled to [0, 1], summed."""
    total: Tensor | float = 0.0
    for term in terms:
        low, high = term.abs().amin((2, 3), keepdim=True), term.abs().amax((2, 3), keepdim=True)
        total = total + upsample(((term.abs() - low) / (1e-7 + high - low)).sum(dim=1), frame)
    assert isinstance(total, Tensor)
    return total


def _bias(layer: nn.Module) -> Tensor | None:
    """Return what a layer adds to a linear function of its input: (C, 1, 1), (C,) of a linear layer, or None."""
    if isinstance(layer, Normalize):
        return (-layer.mean / layer.std)[0]
    if isinstance(layer, nn.BatchNorm2d) and layer.running_mean is not None and layer.running_var is not None:
        scale = (layer.running_var + layer.eps).rsqrt()
        if layer.weight is not None:
            scale = scale * layer.weight
        bias = -layer.running_mean * scale + (0 if layer.bias is None else layer.bias)
        return bias.detach()[:, None, None]
    if isinstance(layer, nn.Conv2d) and layer.bias is not None:
        return layer.bias.detach()[:, None, None]
    if isinstance(layer, nn.Linear) and layer.bias is not None:
        return layer.bias.detach()
    return None


def _tap(layer: nn.Module, bias: Tensor, taps: list[tuple[Tensor, Tensor]]) -> Any:
    def keep(output: Tensor) -> Tensor:
        taps.append((bias, output))
        return output.clone()  # what follows may work in place

    def after(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        return keep(output)

    def before(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (keep(inputs[0]), *inputs[1:])

    first: Callable[..., Any] | None = next(layer.children(), None)
    if isinstance(first, nn.Module):  # timm's batch norms with an activation: the bias is added before their children
        return first.register_forward_pre_hook(before)
    return layer.register_forward_hook(after)
