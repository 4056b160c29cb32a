"""The frozen half of GCM: a timm backbone up to stride 16, and on request the finer stages before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
import torch.nn.functional as F
from timm.models.efficientnet import EfficientNetFeatures
from torch import Tensor, nn

from xaibench.classifiers.base import Normalize, Weights
from xaibench.classifiers.weights import build_backbone, normalize_of, outline, pretrained_config
from xaibench.errors import UsageError, first_line

STRIDE: Final = 16
"""Of the encoder's last stage: 256 px give 16x16 features."""


class Encoder(nn.Module):
    """A backbone that ends at stride 16: (B, 3, H, W) normalised images to (B, C, H/16, W/16).

    Attributes:
        channels: stride to channels, the coarsest stage first. Finer stages are packed into the coarsest one's grid,
            space to depth, so that features stay one tensor: see `unpack`.
    """

    def __init__(self, backbone: nn.Module, channels: Mapping[int, int]) -> None:
        super().__init__()
        self.backbone = backbone
        self.channels = dict(channels)
        self.channels_are_last = getattr(backbone, "output_fmt", "NCHW") == "NHWC"  # Swin and its kin

    def forward(self, images: Tensor) -> Tensor:
        stages = self.backbone(images)[::-1]
        if self.channels_are_last:
            stages = [stage.permute(0, 3, 1, 2) for stage in stages]
        packed = [
            F.pixel_unshuffle(stage, STRIDE // stride) if stride != STRIDE else stage
            for stride, stage in zip(self.channels, stages, strict=True)
        ]
        return packed[0] if len(packed) == 1 else torch.cat(packed, dim=1)


def unpack(features: Tensor, channels: Mapping[int, int]) -> dict[int, Tensor]:
    """Return stride to stage, (B, c, H/stride, W/stride), of an encoder's features.

    >>> stages = unpack(torch.zeros(2, 112 + 4 * 40, 8, 8), {16: 112, 8: 40})
    >>> tuple(stages[16].shape), tuple(stages[8].shape)
    ((2, 112, 8, 8), (2, 40, 16, 16))
    """
    if len(channels) == 1:
        return dict.fromkeys(channels, features)
    factors = [STRIDE // stride for stride in channels]
    parts = torch.split(features, [count * f**2 for count, f in zip(channels.values(), factors, strict=True)], dim=1)
    return {
        stride: part if f == 1 else F.pixel_shuffle(part, f)
        for stride, part, f in zip(channels, parts, factors, strict=True)
    }


class _FirstBlocks(nn.Module):
    """An EfficientNet up to one of its blocks; timm's own keeps, and runs, those after it."""

    def __init__(self, backbone: EfficientNetFeatures, taps: Sequence[int]) -> None:
        super().__init__()
        self.conv_stem, self.bn1 = backbone.conv_stem, backbone.bn1
        self.blocks, self.taps = backbone.blocks[: taps[-1] + 1], frozenset(taps)

    def forward(self, images: Tensor) -> list[Tensor]:
        found, stage = [], self.bn1(self.conv_stem(images))
        for index, block in enumerate(self.blocks):
            stage = block(stage)
            if index in self.taps:
                found.append(stage)
        return found


def build_encoder(
    name: str, weights: str, input_size: int, stage: str | None = None, skips: Sequence[int] = (), *, seed: int = 0
) -> tuple[Encoder, Normalize, Weights]:
    """Build a frozen encoder in eval mode, with the normalisation it was trained with.

    Args:
        name, weights: see `xaibench.classifiers.weights`.
        input_size: side of the images.
        stage: where an EfficientNet ends, such as "blocks.3"; None: at its last stage of stride 16.
        skips: strides of finer stages to give along.
        seed: of weights that are "random".

    Raises:
        UsageError: no stage of that stride, or an input size that the backbone does not take.
        WeightsError: the weights can't be had.
    """
    options: dict[str, Any] = {"features_only": True}
    probe = outline(name, **options)  # which stages there are is only known of a built model
    strides = probe.feature_info.reduction()
    if STRIDE not in strides:
        raise UsageError(
            f"encoder {name!r} has no stage of stride {STRIDE}, only {strides}; take another timm backbone"
        )
    if input_size % STRIDE:
        raise UsageError(f"input_size = {input_size} is no multiple of {STRIDE}, the stride of encoder {name!r}")
    for skip in skips:
        if skip not in strides or skip >= STRIDE:
            finer = sorted({stride for stride in strides if stride < STRIDE}) or "none"
            raise UsageError(
                f"gcm: skips = {list(skips)}: encoder {name!r} has no finer stage of stride {skip}, only {finer}"
            )
    wanted = [STRIDE, *sorted(set(skips), reverse=True)]
    last = {stride: max(i for i, s in enumerate(strides) if s == stride) for stride in wanted}  # index of each
    config = pretrained_config(name)
    if config is not None and config.fixed_input_size:  # a Vision Transformer: its position embedding fits one grid
        options["img_size"] = input_size
    backbone, record = build_backbone(name, weights, seed=seed, **options, out_indices=sorted(last.values()))
    if isinstance(backbone, EfficientNetFeatures):  # timm keeps, and runs, the stages after the one asked for
        taps = {stride: int(probe.feature_info.module_name(index).split(".")[1]) for stride, index in last.items()}
        if stage is not None:
            taps[STRIDE] = _block(stage, taps[STRIDE], name)
        backbone = _FirstBlocks(backbone, sorted(taps.values()))
    elif stage is not None:
        raise UsageError(
            f"stage = {stage!r}: only an EfficientNet can be cut elsewhere than at its last stage of stride {STRIDE}"
        )
    backbone.requires_grad_(False).eval()
    return _measured(backbone, wanted, name, input_size), normalize_of(name), record


def _measured(backbone: nn.Module, strides: Sequence[int], name: str, size: int) -> Encoder:
    """Run one image through: a backbone that does not fit says so before an hour of training."""
    last = getattr(backbone, "output_fmt", "NCHW") == "NHWC"
    try:
        with torch.no_grad():
            shapes = [tuple(stage.shape) for stage in backbone(torch.zeros(1, 3, size, size))[::-1]]
    except (RuntimeError, ValueError, AssertionError) as error:
        raise UsageError(f"encoder {name!r} takes no images of {size} px: {first_line(error)}") from error
    for shape in shapes:
        if len(shape) != 4:
            raise UsageError(f"encoder {name!r}'s features have shape {shape}, not (B, C, h, w); take another backbone")
    return Encoder(
        backbone, {stride: shape[3 if last else 1] for stride, shape in zip(strides, shapes, strict=True)}
    ).eval()


def _block(stage: str, last: int, name: str) -> int:
    known = [f"blocks.{index}" for index in (last - 1, last)]
    if stage not in known:
        raise UsageError(f"gcm: stage = {stage!r} of encoder {name!r}; it is one of {', '.join(known)}")
    return int(stage.split(".")[1])
