"""Architectures of timm and torchvision with the tensor that each is to be explained at, worked out from their sources.

The rule: the layer that pytorch-grad-cam's documentation names; else the last place-keeping tensor that the head reads,
after its activation. The head begins with what mixes the places into one: pooling, flattening, or the attention of a
token without a place, with that attention's own projections.

- A head that reads a class token is fed by the patch tokens through the last block's attention alone; their own values
  after that block are not used. The tensor is that block's input. The documentation names the block's ``norm1``, which
  the class token passes by on its shortcut: not all that the head reads is in it. CoaT's last block encodes positions
  before it branches: there the tensor is the encoding's output.
- The documentation's ``layers[-1].blocks[-1].norm1`` of Swin is likewise inside a residual branch; its head pools the
  places of ``norm``.
- torchvision's DenseNet applies its last ReLU in a function. The documentation names ``features[-1]``, so the tensor is
  what that module returns, before the ReLU. timm's ``norm5`` has the ReLU in it.
- torchvision's SqueezeNet makes the classes' maps by a convolution inside ``classifier``, and timm's EfficientViT
  convolves inside ``head``; the pooling reads what comes of it.
- The pooling of SigLIP is an attention, which reads the last ``norm``.

Nothing here uses xaibench.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

CLASSES = ("a", "b", "c", "d")

Layout = Literal["channels_first", "channels_last", "tokens"]

DOCUMENTED = "named by pytorch-grad-cam's documentation"
READ = "last place-keeping tensor that the head reads"
CLASS_TOKEN = "the head reads the class token: the last block's input"


@dataclass(frozen=True)
class Place:
    """A tensor inside a network.

    Attributes:
        module: name of a module.
        grid: height and width.
        layout: (B, C, h, w), (B, h, w, C), or (B, prefix + h * w, C) in rows from the top left.
        prefix: tokens in front that have no place.
        side: the module's output, or its first input.
        call: which of the module's calls, from 1.
    """

    module: str
    grid: tuple[int, int]
    layout: Layout = "channels_first"
    prefix: int = 0
    side: Literal["output", "input"] = "output"
    call: int = 1

    def __str__(self) -> str:
        call = f" of call {self.call}" if self.call > 1 else ""
        tokens = f", prefix {self.prefix}" if self.layout == "tokens" else ""
        return f"{self.module} {self.side}{call}, {self.layout} {self.grid[0]} x {self.grid[1]}{tokens}"

    def channels_first(self, tensor: Tensor) -> Tensor:
        """Return the tensor as (B, C, h, w), without its prefix."""
        if self.layout == "channels_last":
            return tensor.permute(0, 3, 1, 2)
        if self.layout == "tokens":
            return tensor[:, self.prefix :].transpose(1, 2).unflatten(2, self.grid)
        return tensor


@dataclass(frozen=True)
class Architecture:
    """A network and the tensor that it is to be explained at.

    Attributes:
        library: timm or torchvision.
        model: the library's name of it.
        size: side of the images.
        place: the tensor; None where there is none.
        why: the part of the rule that says so.
        documented: what pytorch-grad-cam's documentation names.
        options: how it is made, besides four classes.
        variant: tells apart two networks of one name.
        refused: why `ModuleClassifier` refuses it, also where there is a place.
    """

    library: Literal["timm", "torchvision"]
    model: str
    size: int
    place: Place | None
    why: str = READ
    documented: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    variant: str = ""
    refused: str = ""

    def __str__(self) -> str:
        return f"{self.library}-{self.model}{self.variant and '-'}{self.variant}"

    def build(self) -> nn.Module:
        """Return the network with random weights, the same every time, in eval mode."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            make = timm.create_model if self.library == "timm" else torchvision.models.get_model
            network: nn.Module = make(self.model, num_classes=len(CLASSES), **self.options)
            redraw_zeros(network)
        set_batch_norms(network, images(8, self.size, seed=1))
        return network.eval()


def redraw_zeros(network: nn.Module) -> None:
    """Draw weights that start at zero, or nearly: heads, and gains of residual branches, which would be invisible."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "bias" in name or parameter.abs().max() > 1e-3:
                continue
            if parameter.numel() == max(parameter.shape, default=1):
                parameter.uniform_(0.5, 1.5)
            else:
                parameter.normal_(std=parameter[0].numel() ** -0.5)


def set_batch_norms(network: nn.Module, batch: Tensor) -> None:
    """Take the running statistics from a batch: those of fresh layers let values grow or vanish with depth."""
    network.eval()
    norms = [layer for layer in network.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    kept = [layer.momentum for layer in norms]
    for layer in norms:
        layer.train().momentum = 1.0
    with torch.no_grad():
        network(batch)
    for layer, momentum in zip(norms, kept, strict=True):
        layer.momentum = momentum
        if layer.running_var is not None:  # a channel that was silent in this batch would drown the others in the next
            layer.running_var.clamp_(min=0.1 * float(layer.running_var.mean()))


def images(count: int, size: int, seed: int = 0) -> Tensor:
    """Return images (B, 3, size, size) in [0, 1]: blobs on a colour of each image's own, and some noise."""
    generator = torch.Generator().manual_seed(seed)
    colour = torch.rand(count, 3, 1, 1, generator=generator)
    blobs = F.interpolate(torch.rand(count, 3, 5, 5, generator=generator), size=size, mode="bicubic")
    noise = torch.rand(count, 3, size, size, generator=generator)
    return (0.5 * colour + blobs - 0.25 + 0.2 * (noise - 0.5)).clamp(0, 1)


def _torchvision(model: str, size: int, place: Place, why: str = READ, **more: Any) -> Architecture:
    return Architecture("torchvision", model, size, place, why, **more)


def _timm(model: str, size: int, place: Place | None, why: str = READ, **more: Any) -> Architecture:
    return Architecture("timm", model, size, place, why, **more)


def _map(module: str, side: int) -> Place:
    return Place(module, (side, side))


def _last(module: str, side: int) -> Place:
    return Place(module, (side, side), "channels_last")


def _tokens(module: str, side: int, prefix: int = 0) -> Place:
    return Place(module, (side, side), "tokens", prefix)


def _block(module: str, side: int, prefix: int = 1) -> Place:
    return Place(module, (side, side), "tokens", prefix, "input")


UNPLACED = "with random weights every cell sees the whole image about equally: no cells are the quarters' own"
_VIT = "blocks[-1].norm1"
_SWIN = "layers[-1].blocks[-1].norm1"
_NARROW = {"embed_dim": 192, "num_heads": 3, "depth": 3}

ARCHITECTURES = (
    # torchvision: convolutions
    _torchvision("resnet18", 160, _map("layer4.1", 5), DOCUMENTED, documented="layer4[-1]"),
    _torchvision("resnext50_32x4d", 128, _map("layer4.2", 4), DOCUMENTED, documented="layer4[-1]"),
    _torchvision("wide_resnet50_2", 128, _map("layer4.2", 4), DOCUMENTED, documented="layer4[-1]"),
    _torchvision("densenet121", 128, _map("features.norm5", 4), DOCUMENTED, documented="features[-1]"),
    _torchvision("vgg11", 224, _map("features.20", 7), DOCUMENTED, documented="features[-1]"),
    _torchvision("vgg11_bn", 128, _map("features.28", 4), DOCUMENTED, documented="features[-1]"),
    _torchvision("alexnet", 224, _map("features.12", 6)),
    _torchvision("squeezenet1_1", 128, _map("classifier.2", 7)),
    _torchvision("mobilenet_v2", 128, _map("features.18", 4), DOCUMENTED, documented="features[-1]"),
    _torchvision("mobilenet_v3_small", 160, _map("features.12", 5), DOCUMENTED, documented="features[-1]"),
    _torchvision("mnasnet0_5", 128, _map("layers.16", 4), DOCUMENTED, documented="layers[-1]"),
    _torchvision("shufflenet_v2_x0_5", 128, _map("conv5", 4)),
    _torchvision("googlenet", 128, _map("inception5b", 4), options={"init_weights": False}),
    _torchvision("inception_v3", 203, _map("Mixed_7c", 5), options={"init_weights": False}),
    _torchvision("efficientnet_b0", 128, _map("features.8", 4)),
    _torchvision("efficientnet_v2_s", 128, _map("features.7", 4)),
    _torchvision("regnet_y_400mf", 160, _map("trunk_output", 5)),
    _torchvision("convnext_tiny", 128, _map("features.7", 4)),
    # torchvision: transformers (its MViT takes films, not images)
    _torchvision("vit_b_32", 224, _block("encoder.layers.encoder_layer_11", 7), CLASS_TOKEN, documented=_VIT),
    _torchvision("swin_t", 128, _last("norm", 4), documented=_SWIN),
    _torchvision("swin_v2_t", 128, _last("norm", 4), documented=_SWIN),
    _torchvision("maxvit_t", 224, _map("blocks.3", 7)),
    # timm: convolutions
    _timm("resnet10t", 128, _map("layer4.0", 4), DOCUMENTED, documented="layer4[-1]"),
    _timm("skresnet18", 128, _map("layer4", 4)),
    _timm("legacy_seresnet18", 128, _map("layer4", 4)),
    _timm("resnest14d", 128, _map("layer4", 4)),
    _timm("res2net50_14w_8s", 128, _map("layer4", 4)),
    _timm("densenet121", 128, _map("features.norm5", 4), DOCUMENTED, documented="features[-1]"),
    _timm("regnetx_002", 128, _map("s4", 4)),
    _timm("convnext_atto", 160, _map("stages", 5)),
    _timm("convnextv2_atto", 160, _map("stages", 5)),
    _timm("inception_next_atto", 160, _map("stages", 5)),
    _timm("nfnet_l0", 128, _map("final_act", 4)),
    _timm("nf_regnet_b0", 128, _map("final_act", 4)),
    _timm("repvgg_a0", 128, _map("stages", 4)),
    _timm("ghostnet_050", 128, _map("blocks", 4)),
    _timm("hardcorenas_a", 128, _map("blocks", 4)),
    _timm("mobilenetv3_small_050", 128, _map("blocks", 4)),
    _timm("mobilenetv4_conv_small", 128, _map("blocks", 4)),
    _timm("efficientnet_lite0", 128, _map("bn2", 4)),
    _timm("tf_efficientnetv2_b0", 128, _map("bn2", 4)),
    _timm("dla34", 128, _map("level5", 4)),
    _timm("legacy_xception", 160, _map("act4", 5)),
    _timm("xception41", 128, _map("blocks", 4)),
    _timm("hrnet_w18_small", 128, _map("final_layer", 4)),
    _timm("cspresnet50", 128, _map("stages", 4)),
    _timm("cs3darknet_s", 128, _map("stages", 4)),
    _timm("darknet17", 128, _map("stages", 4)),
    _timm("dpn68", 128, _map("features", 4)),
    _timm("ese_vovnet19b_slim", 128, _map("stages", 4)),
    _timm("rexnet_100", 128, _map("features", 4)),
    _timm("selecsls42b", 256, _map("head", 4)),
    _timm("botnet26t_256", 256, _map("stages", 8), refused=UNPLACED),
    _timm("starnet_s050", 128, _map("norm", 4)),
    _timm("repvit_m0_9", 128, _map("stages", 4)),
    _timm("fastvit_t8", 128, _map("final_conv", 4)),
    _timm("efficientvit_b0", 128, _map("head.in_conv", 4), refused=UNPLACED),
    _timm("mambaout_femto", 128, _last("stages", 4)),
    _timm("convmixer_768_32", 56, _map("blocks", 8)),
    # timm: transformers whose head reads class tokens
    _timm(
        "vit_tiny_patch16_224",
        96,
        _block("blocks.3", 6),
        CLASS_TOKEN,
        documented=_VIT,
        options={"depth": 4, "img_size": 96},
    ),
    _timm(
        "deit_tiny_distilled_patch16_224",
        96,
        _block("blocks.2", 6, 2),
        CLASS_TOKEN,
        documented=_VIT,
        options={"depth": 3, "img_size": 96},
    ),
    _timm(
        "vit_small_patch14_reg4_dinov2",
        126,
        _block("blocks.2", 9, 5),
        CLASS_TOKEN,
        documented=_VIT,
        options={"depth": 3, "img_size": 126},
    ),
    _timm("vit_tiny_r_s16_p8_224", 224, _block("blocks.11", 7), CLASS_TOKEN, documented=_VIT),
    _timm(
        "beit_base_patch16_224",
        224,
        _block("blocks.2", 14),
        CLASS_TOKEN,
        documented=_VIT,
        options=_NARROW | {"global_pool": "token"},
        variant="token",
    ),
    _timm(
        "eva02_tiny_patch14_224",
        112,
        _block("blocks.2", 8),
        CLASS_TOKEN,
        documented=_VIT,
        options={"depth": 3, "img_size": 112, "global_pool": "token"},
        variant="token",
    ),
    _timm(
        "convit_tiny",
        96,
        _block("blocks.3", 6),
        CLASS_TOKEN,
        options={"depth": 4, "local_up_to_layer": 2, "img_size": 96},
    ),
    _timm("pit_ti_224", 224, _block("transformers.2.blocks.3", 7), CLASS_TOKEN),
    _timm("mvitv2_small_cls", 224, _block("stages.3.blocks.1", 7), CLASS_TOKEN),
    _timm(
        "coat_lite_tiny",
        224,
        Place("cpe4", (7, 7), "tokens", 1, call=2),
        "the head reads the class token: the last block's positions, encoded before it branches",
    ),
    _timm(
        "xcit_nano_12_p16_224", 96, _block("cls_attn_blocks.1", 6), CLASS_TOKEN, options={"depth": 3, "img_size": 96}
    ),
    _timm(
        "volo_d1_224",
        112,
        _block("post_network.1", 7),
        "a class token and one maximum over places: the last block's input",
        options={"img_size": 112},
    ),
    _timm(
        "cait_xxs24_224",
        96,
        _tokens("blocks", 6),
        "both class attentions read it",
        options={"depth": 3, "img_size": 96},
    ),
    # timm: transformers and MLPs whose head pools places
    _timm(
        "vit_tiny_patch16_224",
        96,
        _tokens("blocks", 6, 1),
        documented=_VIT,
        options={"depth": 3, "img_size": 96, "global_pool": "avg"},
        variant="avg",
    ),
    _timm("vit_base_patch16_gap_224", 96, _tokens("norm", 6), documented=_VIT, options=_NARROW | {"img_size": 96}),
    _timm(
        "vit_medium_patch16_reg4_gap_256",
        96,
        _tokens("blocks", 6, 4),
        documented=_VIT,
        options={"depth": 3, "img_size": 96},
    ),
    _timm("vit_base_patch16_siglip_224", 96, _tokens("norm", 6), documented=_VIT, options=_NARROW | {"img_size": 96}),
    _timm("beit_base_patch16_224", 224, _tokens("blocks.2", 14, 1), documented=_VIT, options=_NARROW),
    _timm(
        "eva02_tiny_patch14_224", 112, _tokens("blocks.2", 8, 1), documented=_VIT, options={"depth": 3, "img_size": 112}
    ),
    _timm("swin_tiny_patch4_window7_224", 224, _last("norm", 7), documented=_SWIN),
    _timm("swinv2_tiny_window8_256", 128, _last("norm", 4), documented=_SWIN, options={"img_size": 128}),
    _timm("swinv2_cr_tiny_224", 224, _map("stages", 7)),
    _timm("maxvit_pico_rw_256", 128, _map("norm", 4), options={"img_size": 128}),
    _timm("coatnet_pico_rw_224", 128, _map("norm", 4), options={"img_size": 128}, refused=UNPLACED),
    _timm("pvt_v2_b0", 128, _map("stages", 4)),
    _timm("poolformer_s12", 128, _map("stages", 4)),
    _timm("caformer_s18", 128, _map("stages", 4)),
    _timm("edgenext_xx_small", 128, _map("stages", 4)),
    _timm("mobilevit_xxs", 128, _map("final_conv", 4)),
    _timm("mobilevitv2_050", 128, _map("stages", 4), refused=UNPLACED),
    _timm("efficientformer_l1", 224, _tokens("norm", 7)),
    _timm("efficientformerv2_s0", 224, _map("norm", 7), refused=UNPLACED),
    _timm("efficientvit_m0", 224, _map("stages", 4), refused=UNPLACED),
    _timm("swiftformer_xs", 128, _map("norm", 4)),
    _timm("mixer_s32_224", 224, _tokens("norm", 7), refused=UNPLACED),
    _timm("gmlp_ti16_224", 96, _tokens("norm", 6), options={"img_size": 96}, refused=UNPLACED),
    _timm("resmlp_12_224", 96, _tokens("norm", 6), options={"img_size": 96}, refused=UNPLACED),
    _timm("twins_svt_small", 128, _tokens("norm", 4)),
    _timm("focalnet_tiny_srf", 128, _map("norm", 4)),
    _timm("levit_128s", 224, _tokens("stages", 4), refused=UNPLACED),
    _timm("levit_conv_128s", 224, _map("stages", 4), refused=UNPLACED),
    _timm("tiny_vit_5m_224", 224, _map("stages", 7)),
    _timm("gcvit_xxtiny", 224, _map("stages", 7)),
    _timm("nest_tiny_jx", 224, _last("norm", 14)),
    _timm("hiera_tiny_224", 224, _tokens("blocks.11", 7)),
    _timm("mvitv2_tiny", 224, _tokens("norm", 7)),
    _timm("davit_tiny", 128, _map("stages", 4)),
    _timm("sequencer2d_s", 112, _last("norm", 8), options={"img_size": 112}),
    _timm("visformer_tiny", 224, _map("norm", 7)),
    _timm(
        "crossvit_tiny_240",
        240,
        None,
        "two branches from the image on, of different patches: no tensor has all that the head reads",
        refused="no such tensor",
    ),
)
