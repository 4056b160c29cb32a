"""Generative Contribution Mappings: a classifier whose score is the mean of its own explanation.

Arai and Nagao 2017 (IPSJ TOM 10(2)); as used on chest X-rays by Fukai, Arai and Nagao.

    z = encoder(x);  CWM = decoder(z);  CCM = x * CWM;  score = mean of CCM

So a score is the inner product of the image with a weight map made on the fly, and ``CCM.mean() == logit``.
The option ``skips`` goes past the papers: the decoder also sees the encoder's finer stages, as in a U-Net.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xaibench.classifiers.base import Classifier, seeded
from xaibench.classifiers.encoder import STRIDE, build_encoder, unpack
from xaibench.errors import UsageError

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
        skips: strides, of 8, 4 and 2, of the encoder's stages that join the decoder at their resolution: sharper maps.
        decoders: "shared", one decoder with K maps (the chest X-ray paper's table 4), or "per_class" (GCM as published
            first).
        cwm_channels: 1, each map broadcast over RGB, or 3.
        head: "linear" (CWM is signed) or "relu" (BatchNorm and ReLU after the last convolution: no evidence against).
        last_kernel: 3 or 1, of the last convolution.
        multiply: the image that CWM multiplies: "raw", in [0, 1], or "normalized", as the encoder sees it.
        train_encoder: train the encoder too, for one whose weights are not pretrained; the papers freeze it.
        seed: of the decoder's initial weights (and of an encoder's whose weights are "random").

    `features` are z, (B, C, H/16, W/16); finer stages follow as further channels, space to depth. Own maps, each
    (B, K, H, W): "cwm" (mean over its channels) and "ccm" (mean over RGB; its mean over the image is the logit).

    Raises:
        UsageError: an option out of its range, or a backbone without a usable stage of stride 16.
        WeightsError: the encoder's weights can't be had.
    """

    body_is_frozen = True
    memory_format = torch.channels_last
    own_maps = ("cwm", "ccm")

    def __init__(
        self,
        classes: Sequence[str],
        input_size: int = 256,
        *,
        encoder: str = "efficientnet_b0",
        weights: str = "auto",
        stage: str | None = None,
        skips: Sequence[int] = (),
        decoders: Literal["shared", "per_class"] = "shared",
        cwm_channels: Literal[1, 3] = 1,
        head: Literal["linear", "relu"] = "linear",
        last_kernel: Literal[1, 3] = 3,
        multiply: Literal["raw", "normalized"] = "raw",
        train_encoder: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(classes, input_size)
        for option, value, allowed in (
            ("decoders", decoders, ("shared", "per_class")),
            ("cwm_channels", cwm_channels, (1, 3)),
            ("head", head, ("linear", "relu")),
            ("last_kernel", last_kernel, (1, 3)),
            ("multiply", multiply, ("raw", "normalized")),
            ("train_encoder", train_encoder, (False, True)),
        ):
            if value not in allowed:
                raise UsageError(f"gcm: {option} = {value!r}; it is one of {', '.join(map(repr, allowed))}")
        self.encoder, self.normalize, self.weights = build_encoder(
            encoder, weights, input_size, stage, skips, seed=seed if train_encoder else 0
        )
        self.encoder.requires_grad_(train_encoder)
        self.body_is_frozen = not train_encoder
        self.cwm_channels, self.multiply = cwm_channels, multiply
        maps, copies = (len(classes) * cwm_channels, 1) if decoders == "shared" else (cwm_channels, len(classes))
        with seeded(seed):
            self.decoders = nn.ModuleList(
                Decoder(self.encoder.channels, maps, head, last_kernel) for _ in range(copies)
            )

    def train(self, mode: bool = True) -> GCM:
        """Set training mode of what trains; a frozen encoder stays in eval mode, so its batch statistics never move."""
        super().train(mode)
        self.encoder.train(mode and not self.body_is_frozen)
        return self

    def features(self, images: Tensor) -> Tensor:
        # Frozen, also for the optimiser; yet a gradient of the image itself must pass.
        wanted = images.requires_grad or not self.body_is_frozen
        with torch.set_grad_enabled(torch.is_grad_enabled() and wanted):
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
        decoders = dict(self.decoders.state_dict())
        if self.body_is_frozen:
            return decoders
        return decoders | {f"encoder.{name}": tensor for name, tensor in self.encoder.state_dict().items()}

    def load_trained_state(self, state: Mapping[str, Tensor]) -> None:
        encoder = {name.removeprefix("encoder."): t for name, t in state.items() if name.startswith("encoder.")}
        self.decoders.load_state_dict({name: t for name, t in state.items() if not name.startswith("encoder.")})
        if encoder or not self.body_is_frozen:
            self.encoder.load_state_dict(encoder)


class Decoder(nn.Sequential):
    """Table 4: features (B, C, h, w) to maps (B, maps, 16 h, 16 w), signed unless `head` is "relu".

    Args:
        channels: stride to channels of what `unpack` gives: the coarsest stage, then skips.
        maps: number of output channels.
        head, last_kernel: see `GCM`.
    """

    def __init__(self, channels: Mapping[int, int], maps: int, head: str, last_kernel: int) -> None:
        width = channels[STRIDE]
        layers = [*_conv_block(width, width)]
        for level, wider in enumerate(_WIDTHS, start=1):
            width += channels.get(STRIDE >> level, 0)
            layers += [nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)]
            layers += [nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)]
            layers += _conv_block(width, wider, kernel=1)
            width = wider
        if head == "relu":
            layers += _conv_block(width, maps, kernel=last_kernel)
        else:
            layers += [nn.Conv2d(width, maps, last_kernel, padding=last_kernel // 2)]
        super().__init__(*layers)
        self.channels = dict(channels)

    def forward(self, features: Tensor) -> Tensor:
        stages = unpack(features, self.channels)
        maps, stride = stages[STRIDE], STRIDE
        for layer in self:
            maps = layer(maps)
            if isinstance(layer, nn.Upsample):
                stride //= 2
                if stride in stages:
                    maps = torch.cat([maps, stages[stride]], dim=1)
        return maps


def _conv_block(channels: int, width: int, kernel: int = 3) -> list[nn.Module]:
    convolution = nn.Conv2d(channels, width, kernel, padding=kernel // 2, bias=False)
    return [convolution, nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
