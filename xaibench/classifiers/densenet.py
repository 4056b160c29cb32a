"""DenseNet's body in five sixths of the time, where no gradient is asked for: the same sums, fewer passes over memory.

A dense layer is ``conv2(relu(norm2(conv1(relu(norm1(all that came before))))))``. Run as it stands, what came before is
copied together, normalised and rectified in three passes; they take a third as long as the convolutions. But with norm1
as ``s x + t``, ``relu(s x + t) = s clamp(x) + t``: from below by ``-t / s`` where s > 0, from above where s < 0. ``s``
and ``t`` go into conv1, which is 1 x 1 and pads nothing, norm2 goes into it too, and all layers of a block write into
one tensor, so that one pass is left. Average pooling commutes with the 1 x 1 convolution of a transition, max pooling
with ReLU. Results differ by rounding. (The network: Huang et al. 2017.)

All is made of the weights as they are at the call, and a body that something has been hooked to runs as it is.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from xaibench.classifiers.state import is_hooked

_BLOCKS = {
    "timm.models.densenet.DenseBlock": "DenseLayer",
    "torchvision.models.densenet._DenseBlock": "_DenseLayer",
    "torchxrayvision.models._DenseBlock": "_DenseLayer",
}
_TRANSITIONS = (
    "timm.models.densenet.DenseTransition",
    "torchvision.models.densenet._Transition",
    "torchxrayvision.models._Transition",
)
_NORM_WITH_RELU = "timm.layers.norm_act.BatchNormAct2d"
_STEMS = (["conv0", "norm0", "pool0"], ["conv0", "norm0", "relu0", "pool0"])
_CACHED = 2**23  # bytes of a block's output that are worked on at once: they stay in the processor's cache
_ENOUGH = 4 * 224 * 224  # pixels in all: fewer are run sooner than the weights are made
_AS_GOOD_AS_ZERO = 1e-20  # of a scale beside its shift: the clamp's bound would be infinite


def run_densenet(body: nn.Module, images: Tensor) -> Tensor:
    """Return ``body(images)``, (B, C, h, w): for the ``features`` of the DenseNets named above.

    Faster on a CPU in eval mode, for a few images at least, without gradients, compilation and hooks; by autocast in
    bfloat16 too. Otherwise, and where the body is another network's, it just runs.
    """
    if not _applies(body, images):
        return body(images)  # type: ignore[no-any-return]
    steps = dict(body.named_children())
    x = images
    if stem := _stem(body):
        layers: list[Any] = [steps.pop(name) for name in stem]
        x = layers[-1](
            F.conv2d(x, *_followed(layers[0].weight, layers[0].bias, layers[1]), *_geometry(layers[0]))
        ).relu_()
    for step in steps.values():
        if _is_block(step):
            x = _block(step, x)
        elif _is_transition(step):
            x = _transition(step, x)
        else:
            x = step(x)
    return x


class _Pointwise(NamedTuple):
    """A norm, its ReLU and the 1 x 1 convolution after them: ``conv2d(x clamped to low and high, weight, bias)``."""

    low: Tensor
    high: Tensor | None
    weight: Tensor
    bias: Tensor

    def clamp(self, x: Tensor) -> Tensor:
        # maximum: two thirds of the time of a clamp from both sides
        return torch.maximum(x, self.low) if self.high is None else torch.clamp(x, self.low, self.high)


def _block(block: nn.Module, x: Tensor) -> Tensor:
    layers: list[Any] = list(block.children())
    first = [_pointwise(x.dtype, layer.norm1, layer.conv1, layer.norm2) for layer in layers]
    images, known, height, width = x.shape
    channels = known + sum(layer.conv2.out_channels for layer in layers)
    out = torch.empty((images, channels, height, width), dtype=x.dtype, memory_format=torch.channels_last)
    step = max(1, _CACHED // (channels * height * width * x.element_size()))
    for own, given in zip(torch.split(out, step), torch.split(x, step), strict=True):
        own[:, :known] = given
        end = known
        for layer, pointwise in zip(layers, first, strict=True):
            between = F.conv2d(pointwise.clamp(own[:, :end]), pointwise.weight, pointwise.bias).relu_()
            own[:, end : end + layer.conv2.out_channels] = layer.conv2(between)
            end += layer.conv2.out_channels
    return out


def _transition(transition: Any, x: Tensor) -> Tensor:
    pointwise = _pointwise(x.dtype, transition.norm, transition.conv)
    return F.conv2d(transition.pool(pointwise.clamp(x)), pointwise.weight, pointwise.bias)


def _pointwise(dtype: torch.dtype, norm: nn.Module, conv: nn.Conv2d, after: nn.Module | None = None) -> _Pointwise:
    """Return norm, ReLU and convolution, with the norm `after` it if there is one."""
    scale, shift = _affine(norm)
    constant = scale.abs() <= _AS_GOOD_AS_ZERO * shift.abs().clamp(min=1)
    bound = torch.where(constant, 0, -shift / scale).view(-1, 1, 1)
    scale, rest = torch.where(constant, 0, scale), torch.where(constant, shift.relu(), 0)
    weight, bias = conv.weight * scale.view(-1, 1, 1), (conv.weight[:, :, 0, 0] * rest).sum(1)
    if conv.bias is not None:
        bias = bias + conv.bias
    if after is not None:
        weight, bias = _followed(weight, bias, after)
    # -scale * bound is the shift; of what was rounded, so that a unit that is off adds nothing
    low, rounded = bound.to(dtype), weight.to(dtype)
    bias = bias - (rounded.to(bias) * low.to(bias)).sum((1, 2, 3))
    rises = (scale >= 0).view(-1, 1, 1)
    if rises.all():
        return _Pointwise(low, None, rounded, bias.to(dtype))
    high = torch.where(rises, torch.inf, low)
    return _Pointwise(torch.where(rises, low, -torch.inf), high, rounded, bias.to(dtype))


def _followed(weight: Tensor, bias: Tensor | None, norm: Any) -> tuple[Tensor, Tensor]:
    """Return weight and bias of a convolution with the batch norm that follows it."""
    return fuse_conv_bn_weights(weight, bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias)


def _affine(norm: Any) -> tuple[Tensor, Tensor]:
    """Return scale and shift (C,) of a batch norm in eval mode."""
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    return scale, norm.bias - norm.running_mean * scale


def _geometry(conv: nn.Conv2d) -> tuple[Any, ...]:
    return conv.stride, conv.padding, conv.dilation, conv.groups


# where it applies: to the libraries' own classes alone, and as they make them


def _applies(body: nn.Module, images: Tensor) -> bool:
    return (
        type(body) is nn.Sequential
        and images.device.type == "cpu"
        and images.dtype in (torch.float32, torch.float64)
        and images[:, 0].numel() >= _ENOUGH
        and not torch.is_grad_enabled()
        and not (torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") != torch.bfloat16)
        and not (torch.compiler.is_compiling() or torch._C._is_tracing())
        and not (is_hooked(body) or any(layer.training for layer in body.modules()))
        and any(map(_is_block, body))
    )


def _stem(body: nn.Module) -> list[str]:
    """Return the names of the first convolution, its norm, ReLU and pooling, if it begins with them."""
    names = [name for name, _ in body.named_children()]
    for stem in _STEMS:
        if (
            names[: len(stem)] == stem
            and type(body.get_submodule("conv0")) is nn.Conv2d
            and body.get_submodule("conv0").padding_mode == "zeros"
            and _rectifies(body, "norm0", "relu0")
            and type(body.get_submodule("pool0")) is nn.MaxPool2d
        ):
            return stem
    return []


def _is_block(block: nn.Module) -> bool:
    kind = _BLOCKS.get(_kind(block))
    return kind is not None and all(type(layer).__name__ == kind and _is_layer(layer) for layer in block.children())


def _is_layer(layer: nn.Module) -> bool:
    return (
        [name for name, _ in layer.named_children() if "relu" not in name] == ["norm1", "conv1", "norm2", "conv2"]
        and _rectifies(layer, "norm1", "relu1")
        and _is_pointwise(layer.get_submodule("conv1"))
        and _rectifies(layer, "norm2", "relu2")
    )


def _is_transition(transition: nn.Module) -> bool:
    return (
        _kind(transition) in _TRANSITIONS
        and [name for name, _ in transition.named_children() if "relu" not in name] == ["norm", "conv", "pool"]
        and _rectifies(transition, "norm", "relu")
        and _is_pointwise(transition.get_submodule("conv"))
        and type(transition.get_submodule("pool")) is nn.AvgPool2d
    )


def _rectifies(parent: nn.Module, norm: str, relu: str) -> bool:
    """Tell whether a batch norm is followed by ReLU: timm's has it inside, the others beside."""
    layers: dict[str, Any] = dict(parent.named_children())
    found = layers[norm]
    if not getattr(found, "affine", False) or found.running_mean is None:
        return False
    if _kind(found) == _NORM_WITH_RELU:
        return type(found.act) is nn.ReLU and type(found.drop) is nn.Identity
    return type(found) is nn.BatchNorm2d and type(layers.get(relu)) is nn.ReLU


def _is_pointwise(conv: nn.Module) -> bool:
    return type(conv) is nn.Conv2d and _geometry(conv) == ((1, 1), (0, 0), (1, 1), 1) and conv.kernel_size == (1, 1)


def _kind(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__name__}"
