"""The layer that is explained is the one the field would take, and is named."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from timm.models.swin_transformer import SwinTransformer
from torch import Tensor, nn

from tests.cases.base import Pair, Refused, Says, case
from tests.cases.network import SIZE, benchmark, noise, run, wrap
from tests.classifiers import odd_networks as odd
from tests.classifiers.architectures import Place
from tests.classifiers.handmade import gradcam
from xaibench.classifiers.base import seeded
from xaibench.classifiers.module import ModuleClassifier
from xaibench.doctor import diagnose
from xaibench.explainers import create
from xaibench.findings import errors

SECTION = "The layer that is explained is the one the field would take, and is named"
TARGET = "tests/classifiers/test_target.py"
ATTENTION = "tests/explainers/test_attention.py"
ARCHITECTURES = "tests/classifiers/test_architectures.py::test_grad_cam_is_the_one_by_hand_plain_and_wrapped"
BY_HAND = "Grad-CAM by torch.autograd at the layer that the head reads"
TARGETS = torch.tensor([0, 1, 2])


class Wrapped(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Any:
        return self.net(images)


def correlation(found: Tensor, wanted: Tensor) -> float:
    """Return the correlation of maps (B, H, W) with those by hand (B, h, w), brought to their size bilinearly."""
    wanted = F.interpolate(wanted[:, None].float(), found.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
    return float(np.corrcoef(found.detach().flatten(), wanted.detach().flatten())[0, 1])


def explained(network: nn.Module, place: Place, layer: str, *, wrapped: bool = False) -> Pair:
    """Return the layer that is explained, and the correlation of Grad-CAM with the one by hand; and what is right."""
    network, images = network.eval(), noise(3)
    wanted = gradcam(network, place, images, TARGETS).relu()
    classifier = wrap(Wrapped(network) if wrapped else network)
    found = create("gradcam").explain(classifier, classifier.predict(images), TARGETS)
    return Pair([classifier.layer_name, correlation(found, wanted)], [("net." if wrapped else "") + layer, 1.0])


@case(
    SECTION,
    "timm's ViT in a wrapper: layer, and correlation of Grad-CAM with the one by hand",
    before="net.blocks.2.attn.k_norm, 0.110431",
    source=f"{BY_HAND}: the last block's input",
    test=f"{TARGET}::test_grad_cam_in_a_wrapper_is_the_one_made_by_hand",
)
def wrapped_vit(folder: Path) -> Pair:
    return explained(odd.tiny_vit(), Place("blocks.2", (4, 4), "tokens", 1, "input"), "blocks.1", wrapped=True)


@case(
    SECTION,
    "the same with four registers",
    before="net.blocks.2.attn.k_norm, -0.0336468",
    source=f"{BY_HAND}: the last block's input",
    test=f"{TARGET}::test_a_vision_transformer_is_explained_where_its_head_reads",
)
def wrapped_vit_with_registers(folder: Path) -> Pair:
    place = Place("blocks.2", (4, 4), "tokens", 5, "input")
    return explained(odd.tiny_vit(reg_tokens=4), place, "blocks.1", wrapped=True)


@case(
    SECTION,
    "the same without a class token, the patches averaged",
    before="net.blocks.2.attn.k_norm, 0.0145498",
    source=f"{BY_HAND}: the last norm",
    test=f"{TARGET}::test_a_vision_transformer_is_explained_where_its_head_reads",
)
def wrapped_vit_of_patches(folder: Path) -> Pair:
    network = odd.tiny_vit(global_pool="avg", class_token=False, fc_norm=False)
    return explained(network, Place("norm", (4, 4), "tokens"), "norm", wrapped=True)


@case(
    SECTION,
    "timm's Swin as the user's own module: layer, and correlation of Grad-CAM with the one by hand",
    before="norm, 0.146678",
    source=f"{BY_HAND}: norm, (B, h, w, C)",
    test=ARCHITECTURES,
)
def swin(folder: Path) -> Pair:
    with seeded(7):
        sizes: Any = {"embed_dim": 16, "depths": (1, 1), "num_heads": (2, 2), "window_size": 4}
        network = SwinTransformer(img_size=SIZE, num_classes=4, **sizes)
        for parameter in network.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.15)
    return explained(network, Place("norm", (8, 8), "channels_last"), "norm")


@case(
    SECTION,
    "a ViT with nn.Softmax at the attention: layer, and correlation of Grad-CAM with the one by hand",
    before="blocks.2.attention.softmax, 0.502714",
    source=f"{BY_HAND}: the last block's input",
    test=f"{TARGET}::test_attention_from_a_module_is_no_map",
)
def softmax_vit(folder: Path) -> Pair:
    return explained(odd.SoftmaxViT(), Place("blocks.2", (4, 4), "tokens", 1, "input"), "blocks.1")


@case(
    SECTION,
    "torchvision's ViT: layer, and correlation of Grad-CAM with the one by hand",
    before="conv_proj, 0.483658",
    source=f"{BY_HAND}: the last block's input",
    test=ARCHITECTURES,
)
def torchvision_vit(folder: Path) -> Pair:
    with seeded(8):
        network = torchvision.models.VisionTransformer(
            image_size=SIZE, patch_size=16, num_layers=3, num_heads=2, hidden_dim=32, mlp_dim=64, num_classes=4
        )
        for parameter in network.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.15)
    place = Place("encoder.layers.encoder_layer_2", (4, 4), "tokens", 1, "input")
    return explained(network, place, "encoder.layers.encoder_layer_1")


class Flip(nn.Module):
    def forward(self, maps: Tensor) -> Tensor:
        return maps.flip(-1)


class Flipped(odd.Plain):
    """Mirrors its maps before they are pooled: their places are not the image's any more."""

    def __init__(self) -> None:
        super().__init__()
        self.flip = Flip()

    def forward(self, images: Tensor) -> Tensor:
        return self.last(self.flip(self.body(images)).mean((2, 3)))  # type: ignore[no-any-return]


class Global(nn.Module):
    """Mixes all places by a linear layer into what looks like maps: there is no layer that keeps places."""

    def __init__(self) -> None:
        super().__init__()
        with seeded(2):
            self.mix, self.last = nn.Linear(3 * 64, 8 * 16), nn.Linear(8, 4)
            self.unflatten = nn.Unflatten(1, (8, 4, 4))

    def forward(self, images: Tensor) -> Tensor:
        small = F.adaptive_avg_pool2d(images, 8).flatten(1)
        return self.last(self.unflatten(self.mix(small)).relu().mean((2, 3)))  # type: ignore[no-any-return]


class ToOnePlace(odd.Plain):
    """Ends with maps of 1 x 2: no grid."""

    def __init__(self) -> None:
        super().__init__()
        with seeded(9):
            self.third = nn.Conv2d(8, 8, (8, 4), stride=(8, 4))

    def forward(self, images: Tensor) -> Tensor:
        return self.last(self.third(self.body(images)).mean((2, 3)))  # type: ignore[no-any-return]


@case(
    SECTION,
    "a last layer of the shape of maps that mirrors them: layer",
    before="flip",
    right="second",
    source="the last whose places are the image's",
    test=f"{TARGET}::test_a_layer_whose_places_are_not_the_image_s_is_passed_over",
)
def flipped(folder: Path) -> str:
    return wrap(Flipped()).layer_name


@case(
    SECTION,
    "a last layer of 1 x 2 places: layer",
    before="third",
    right="second",
    source="grids below 2 x 2 show no place",
    test=f"{TARGET}::test_a_layer_of_one_row_is_passed_over",
)
def one_row(folder: Path) -> str:
    return wrap(ToOnePlace()).layer_name


@case(
    SECTION,
    "no layer keeps places (a linear layer mixes them all): layer",
    before="unflatten",
    right=Refused("nothing to explain: name a layer with layer=.*layout="),
    source="no map could be right",
    test=f"{TARGET}::test_where_no_layer_passes_it_is_refused_and_each_remedy_works",
)
def no_layer(folder: Path) -> str:
    return wrap(Global()).layer_name


def named(network: nn.Module, layer: str) -> ModuleClassifier:
    """Name a layer, and say that it is (B, C, h, w), where that can be said."""
    says = {"layout": "channels_first"} if "layout" in inspect.signature(ModuleClassifier).parameters else {}
    return wrap(network, layer=layer, **says)


@case(
    SECTION,
    "the doctor on that layer, named by the user: errors",
    before="none",
    right=Says("^the places of the target layer .* are not clearly the image's", "an error"),
    source="as above",
    test=f"{TARGET}::test_where_no_layer_passes_it_is_refused_and_each_remedy_works",
)
def doctor_of_no_places(folder: Path) -> str:
    return "; ".join(one.what for one in errors(diagnose(named(Global(), "unflatten"), {}, noise(3)))) or "none"


@case(
    SECTION,
    "the doctor on attn.k_norm of a ViT (heads x tokens x head dim): errors",
    before="none",
    right=Says("target layer", "an error"),
    source="its axes are no places",
    test=f"{TARGET}::test_the_doctor_says_that_heads_and_tokens_are_no_map",
)
def doctor_of_k_norm(folder: Path) -> str:
    faults = errors(diagnose(named(odd.tiny_vit(qk_norm=True), "blocks.2.attn.k_norm"), {}, noise(3)))
    return "; ".join(one.what for one in faults) or "none"


@case(
    SECTION,
    'a layer named that passes its input on (layer = "norm_pre", an nn.Identity): layer and layout',
    before="refused: VisionTransformer has no module 'norm_pre' with an output (B, C, h, w); it has ...",
    right="norm_pre, tokens (B, N, C), 1 before the grid",
    source="a class token, then 4 x 4 patches",
    test=f"{TARGET}::test_a_layer_that_passes_its_input_on_can_be_named",
)
def passes_on(folder: Path) -> str:
    classifier = wrap(odd.tiny_vit(), layer="norm_pre")
    return f"{classifier.layer_name}, {classifier.target.layout if classifier.target else None}"


@case(
    SECTION,
    "where a run says which layer was explained: run.json, note, report page",
    before="not there, no layout, no reason, no note, no report",
    right=["blocks.1", "tokens (B, N, C), 1 before the grid", "reason", "note", "report"],
    source="the last block's input",
    test=f"{TARGET}::test_the_layer_its_layout_and_the_reason_stand_in_the_record",
)
def recorded(folder: Path) -> list[str]:
    from xaibench.reporting.html import write_report

    found = run(odd.tiny_vit(), ["gradcam"], benchmark("energy"), out=folder)
    layer = found.record.get("layer", {"name": "not there"})
    write_report([found], folder / "report.html", images=0)
    note = any("blocks.1, 32 channels on 4 x 4" in note for note in found.notes)
    page = "blocks.1, 32 x 4 x 4" in (folder / "report.html").read_text()
    said = {"reason": bool(layer.get("reason")), "note": note, "report": page}
    return [
        layer["name"],
        layer.get("layout", "no layout"),
        *(key if there else f"no {key}" for key, there in said.items()),
    ]


POOLED: list[tuple[str, str, dict[str, Any], int, str]] = [
    ("attention_rollout", "on a ViT that averages its patches", {"global_pool": "avg"}, 1, "0.880275"),
    ("gradient_attention", "on it", {"global_pool": "avg"}, 1, "0.166455"),
    ("attention_rollout", "on one with four registers", {"global_pool": "avg", "reg_tokens": 4}, 5, "0.877119"),
    ("gradient_attention", "on it", {"global_pool": "avg", "reg_tokens": 4}, 5, "-0.0191399"),
]


def attention_by_hand(network: Any, images: Tensor, prefix: int, *, weighted: bool) -> Tensor:
    """Return rollout, or Chefer's weighted by gradients, of the patches' rows, averaged: (B, 4, 4)."""
    shares: list[Tensor] = []
    for block in network.blocks:
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_hook(lambda _, __, output: shares.append(output))
    score = network(images.clone().requires_grad_()).gather(1, TARGETS[:, None]).sum()
    gradients = torch.autograd.grad(score, shares)
    count = shares[0].shape[-1]
    joint = torch.eye(count).expand(len(images), -1, -1)
    for share, gradient in zip(shares, gradients, strict=True):
        if weighted:
            joint = joint + (share * gradient).clamp(min=0).mean(1) @ joint
        else:
            joint = (0.5 * share.mean(1) + 0.5 * torch.eye(count)) @ joint
    return joint[:, prefix:, prefix:].mean(1).unflatten(1, (4, 4)).detach()


def _pooled(name: str, what: str, options: dict[str, Any], prefix: int, before: str) -> None:
    @case(
        SECTION,
        f"{name} {what}: correlation with the one by hand",
        before=before,
        right=1.0,
        source="rows of the patches, which the head reads, by numpy and torch.autograd",
        test=f"{ATTENTION}::test_maps_start_from_the_tokens_that_the_head_reads",
    )
    def pooled(folder: Path) -> float:
        images = noise(3)
        wanted = attention_by_hand(odd.tiny_vit(**options), images, prefix, weighted=name == "gradient_attention")
        classifier = wrap(odd.tiny_vit(**options))
        return correlation(create(name).explain(classifier, classifier.predict(images), TARGETS), wanted)

    pooled.__name__ = f"{name}_{prefix - 1}"


for _row in POOLED:
    _pooled(*_row)
