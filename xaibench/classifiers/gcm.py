"""Generative Contribution Mappings: a classifier whose score is the mean of its own explanation.

Arai and Nagao 2017 (IPSJ TOM 10(2)); as used on chest X-rays by Fukai, Arai and Nagao.

    z = encoder(x);  CWM = decoder(z);  CCM = x * CWM;  score = mean of CCM

So a score is the inner product of the image with a weight map made on the fly, and ``CCM.mean() == logit``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from timm.models.efficientnet import EfficientNetFeatures
from torch import Tensor, nn

from xaibench.classifiers.base import Classifier, Normalize, Weights, seeded
from xaibench.classifiers.weights import build_backbone, normalize_of, outline, pretrained_config
from xaibench.errors import UsageError, first_line

_WIDTHS = (512, 256, 128, 64)


class GCM(Classifier):
    """Frozen encoder cut at stride 16, trained decoder, parameter-free mean (paper: tables 3 and 4).

    Args:
        classes: K class names.
        input_size: side of the images; a multiple of 16 (of the patch size for a Vision Transformer).
        encoder: any timm backbone with a stage of stride 16 (EfficientNet-B0: up to ``blocks[4]``, 16x16x112 at 256).
        weights: of the encoder, see `xaibench.classifiers.weights`.
        stage: where the encoder ends; None: its last stage of stride 16. An EfficientNet takes "blocks.3" too, whose
            features see half as much of the image as those of ``blocks[4]``.
        decoders: "shared", one decoder with K maps (the chest X-ray paper's table 4), or "per_class" (GCM as published
            first).
        cwm_channels: 1, each map broadcast over RGB, or 3.
        head: "linear" (CWM is signed) or "relu" (BatchNorm and ReLU after the last convolution: no evidence against).
        last_kernel: 3 or 1, of the last convolution.
        multiply: the image that CWM multiplies: "raw", in [0, 1], or "normalized", as the encoder sees it.
        seed: of the decoder's initial weights.

    `features` are z, (B, C, H/16, W/16). Own maps, each (B, K, H, W): "cwm" (mean over its channels) and "ccm" (mean
    over RGB, so that its mean over the image is the logit).

    Raises:
        UsageError: an option out of its range, or a backbone without a usable stage of stride 16.
        WeightsError: the encoder's weights can't be had.
    """

    body_is_frozen = True
    own_maps = ("cwm", "ccm")

    def __init__(
        self,
        classes: Sequence[str],
        input_size: int = 256,
        *,
        encoder: str = "efficientnet_b0",
        weights: str = "auto",
        stage: str | None = None,
        decoders: Literal["shared", "per_class"] = "shared",
        cwm_channels: Literal[1, 3] = 1,
        head: Literal["linear", "relu"] = "linear",
        last_kernel: Literal[1, 3] = 3,
        multiply: Literal["raw", "normalized"] = "raw",
        seed: int = 0,
    ) -> None:
        super().__init__(classes, input_size)
        for option, value, allowed in (
            ("decoders", decoders, ("shared", "per_class")),
            ("cwm_channels", cwm_channels, (1, 3)),
            ("head", head, ("linear", "relu")),
            ("last_kernel", last_kernel, (1, 3)),
            ("multiply", multiply, ("raw", "normalized")),
        ):
            if value not in allowed:
                raise UsageError(f"gcm: {option} = {value!r}; it is one of {', '.join(map(repr, allowed))}")
        self.encoder, self.normalize, self.weights = build_encoder(encoder, weights, input_size, stage)
        self.cwm_channels, self.multiply = cwm_channels, multiply
        with seeded(seed):
            channels = self.encoder.out_channels
            if decoders == "shared":
                self.decoders = nn.ModuleList([build_decoder(channels, len(classes) * cwm_channels, head, last_kernel)])
            else:
                self.decoders = nn.ModuleList(build_decoder(channels, cwm_channels, head, last_kernel) for _ in classes)

    def train(self, mode: bool = True) -> GCM:
        """Set training mode of the decoder; the encoder stays in eval mode, so its batch statistics never move."""
        super().train(mode)
        self.encoder.eval()
        return self

    def features(self, images: Tensor) -> Tensor:
        with torch.no_grad():  # frozen, also for the optimiser
            return self.encoder(self.normalize(images))  # type: ignore[no-any-return]

    def cwm(self, features: Tensor, size: tuple[int, int]) -> Tensor:
        """Return the class weight maps (B, K, cwm_channels, H, W) of features (B, C, h, w)."""
        maps = torch.cat([decode(features) for decode in self.decoders], dim=1)
        if maps.shape[-2:] != size:  # a patch size other than 16
            maps = F.interpolate(maps, size=size, mode="bilinear", align_corners=False)
        return maps.reshape(len(maps), len(self.classes), self.cwm_channels, *size)

    def ccm(self, cwm: Tensor, images: Tensor) -> Tensor:
        """Return the class contribution maps (B, K, 3, H, W) of CWM (B, K, 1 or 3, H, W) and images (B, 3, H, W)."""
        return cwm * self.factor(images)[:, None]

    def factor(self, images: Tensor) -> Tensor:
        """Return the image that CWM multiplies, (B, 3, H, W)."""
        return images if self.multiply == "raw" else self.normalize(images)

    def head(self, features: Tensor, images: Tensor) -> Tensor:
        return self._contribution(features, images)[1].mean(dim=(-2, -1))

    def head_with_maps(self, features: Tensor, images: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
        cwm, ccm = self._contribution(features, images)
        return ccm.mean(dim=(-2, -1)), {"cwm": cwm.mean(dim=2), "ccm": ccm}

    def _contribution(self, features: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return CWM (B, K, c, H, W) and CCM averaged over RGB (B, K, H, W), never storing three equal channels."""
        height, width = images.shape[-2:]
        cwm, factor = self.cwm(features, (height, width)), self.factor(images)
        if self.cwm_channels == 1:
            return cwm, cwm[:, :, 0] * factor.mean(dim=1, keepdim=True)
        return cwm, (cwm * factor[:, None]).mean(dim=2)

    def trained_state(self) -> dict[str, Tensor]:
        return dict(self.decoders.state_dict())

    def load_trained_state(self, state: Mapping[str, Tensor]) -> None:
        self.decoders.load_state_dict(state)


class Encoder(nn.Module):
    """A timm backbone that ends at stride 16: (B, 3, H, W) normalised images to (B, out_channels, H/16, W/16)."""

    def __init__(self, backbone: nn.Module, out_channels: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.out_channels = out_channels
        self.channels_are_last = getattr(backbone, "output_fmt", "NCHW") == "NHWC"  # Swin and its kin

    def forward(self, images: Tensor) -> Tensor:
        features = self.backbone(images)[-1]
        return features.permute(0, 3, 1, 2) if self.channels_are_last else features  # type: ignore[no-any-return]


class _FirstBlocks(nn.Module):
    """An EfficientNet up to one of its blocks; timm's own keeps, and runs, those after it."""

    def __init__(self, backbone: EfficientNetFeatures, last: int) -> None:
        super().__init__()
        self.conv_stem, self.bn1, self.blocks = backbone.conv_stem, backbone.bn1, backbone.blocks[: last + 1]
        with torch.no_grad():
            self.out_channels = int(self.eval()(torch.zeros(1, 3, 32, 32))[-1].shape[1])

    def forward(self, images: Tensor) -> list[Tensor]:
        return [self.blocks(self.bn1(self.conv_stem(images)))]


def _block(stage: str, last: int, name: str) -> int:
    known = [f"blocks.{index}" for index in (last - 1, last)]
    if stage not in known:
        raise UsageError(f"gcm: stage = {stage!r} of encoder {name!r}; it is one of {', '.join(known)}")
    return int(stage.split(".")[1])


def build_encoder(
    name: str, weights: str, input_size: int, stage: str | None = None
) -> tuple[Encoder, Normalize, Weights]:
    """Build a frozen encoder in eval mode, with the normalisation it was trained with.

    Raises:
        UsageError: no stage of stride 16, or an input size that the backbone does not take.
        WeightsError: the weights can't be had.
    """
    options: dict[str, Any] = {"features_only": True}
    probe = outline(name, **options)  # which stages there are is only known of a built model
    strides = probe.feature_info.reduction()
    stages = [index for index, stride in enumerate(strides) if stride == 16]
    if not stages:
        raise UsageError(f"encoder {name!r} has no stage of stride 16, only {strides}; take another timm backbone")
    if input_size % 16:
        raise UsageError(f"input_size = {input_size} is no multiple of 16, the stride of encoder {name!r}")
    config = pretrained_config(name)
    if config is not None and config.fixed_input_size:  # a Vision Transformer: its position embedding fits one grid
        options["img_size"] = input_size
    backbone, record = build_backbone(name, weights, **options, out_indices=stages[-1:])
    if isinstance(backbone, EfficientNetFeatures):  # timm keeps, and runs, the stages after the one asked for
        last = int(probe.feature_info.module_name(stages[-1]).split(".")[1])
        backbone = _FirstBlocks(backbone, last if stage is None else _block(stage, last, name))
        channels = backbone.out_channels
    elif stage is None:
        channels = int(probe.feature_info.channels()[stages[-1]])
    else:
        raise UsageError(
            f"stage = {stage!r}: only an EfficientNet can be cut elsewhere than at its last stage of stride 16"
        )
    encoder = Encoder(backbone, channels)
    encoder.requires_grad_(False).eval()
    try:
        with torch.no_grad():
            found = tuple(encoder(torch.zeros(1, 3, input_size, input_size)).shape)
    except (RuntimeError, ValueError, AssertionError) as error:
        raise UsageError(f"encoder {name!r} takes no images of {input_size} px: {first_line(error)}") from error
    if len(found) != 4 or found[1] != encoder.out_channels:
        raise UsageError(f"encoder {name!r}'s features have shape {found}, not (B, C, h, w); take another backbone")
    return encoder, normalize_of(name), record


def build_decoder(channels: int, maps: int, head: str, last_kernel: int) -> nn.Sequential:
    """Build table 4: (B, channels, h, w) to (B, maps, 16 h, 16 w), signed unless `head` is "relu"."""
    layers = [*_conv_block(channels, channels)]
    for width in _WIDTHS:
        layers += [nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)]
        layers += [nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)]
        layers += _conv_block(channels, width, kernel=1)
        channels = width
    if head == "relu":
        return nn.Sequential(*layers, *_conv_block(channels, maps, kernel=last_kernel))
    return nn.Sequential(*layers, nn.Conv2d(channels, maps, last_kernel, padding=last_kernel // 2))


def _conv_block(channels: int, width: int, kernel: int = 3) -> list[nn.Module]:
    convolution = nn.Conv2d(channels, width, kernel, padding=kernel // 2, bias=False)
    return [convolution, nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
