"""A network of timm or torchvision is explained at the tensor that `architectures` names, or refused: nowhere else.

Some run by default; all, plain and wrapped: ``pytest -m "" tests/classifiers/test_architectures.py``.
The table as Markdown: ``python -m tests.classifiers.test_architectures > table.md``.
"""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from tests.classifiers.architectures import ARCHITECTURES, CLASSES, Architecture, Place, images
from tests.classifiers.handmade import gradcam, gradient_at, replaced, tensor_at
from xaibench.classifiers.module import ModuleClassifier
from xaibench.errors import XaibenchError
from xaibench.explainers.cam import GradCAM

TARGETS = torch.arange(len(CLASSES))

FAST = {
    "torchvision-resnet18",
    "torchvision-squeezenet1_1",
    "torchvision-mobilenet_v3_small",
    "timm-convnext_atto",
    "timm-mambaout_femto",
    "timm-vit_tiny_patch16_224",
    "timm-vit_tiny_patch16_224-avg",
    "timm-vit_small_patch14_reg4_dinov2",
    "timm-cait_xxs24_224",
}

PREPARED = {
    "torchvision-densenet121",
    "timm-vit_tiny_patch16_224",
    "timm-swin_tiny_patch4_window7_224",
    "timm-levit_128s",
}


class Wrapped(nn.Module):
    """What a user makes of a network: a module of their own around it."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, batch: Tensor) -> Any:
        return self.net(batch)


class Output(dict[str, Tensor]):
    """What transformers gives: a dictionary that has the logits as an attribute too."""

    @property
    def logits(self) -> Tensor:
        return self["logits"]


class Prepared(nn.Module):
    """Normalises the images itself, under other names, and gives a dictionary."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.register_buffer("mean", torch.full((3, 1, 1), 0.5))
        self.encoder = nn.ModuleDict({"body": net})

    def forward(self, pixel_values: Tensor) -> Output:
        return Output(logits=self.encoder["body"]((pixel_values - self.mean) / 0.25))


@dataclass(frozen=True)
class Outcome:
    """How `ModuleClassifier` fared with a network.

    Attributes:
        verdict: right: its Grad-CAM is the one by hand; refused: it said so; wrong: all else.
        chosen: the layer, or the error.
        correlation: with the Grad-CAM by hand, the least of the images.
    """

    verdict: Literal["right", "refused", "wrong"]
    chosen: str
    correlation: float = float("nan")


def outcome(module: nn.Module, size: int, wanted: Tensor | None) -> Outcome:
    """Compare Grad-CAM of `ModuleClassifier` with that by hand, of `images(4, size)` and the targets in turn."""
    try:
        classifier = ModuleClassifier(CLASSES, size, module=module, normalize="none")
        GradCAM().check(classifier)
    except XaibenchError as error:
        return Outcome("refused", str(error))
    except Exception as error:  # the user gets a traceback
        return Outcome("wrong", f"{type(error).__name__}: {error}")
    with torch.no_grad():
        found = GradCAM().signed(classifier, classifier.predict(images(len(TARGETS), size)), TARGETS)
    chosen = str(classifier.layer_name)
    if wanted is None or found.shape != wanted.shape:
        return Outcome("wrong", f"{chosen}, {found.shape[1]} x {found.shape[2]}")
    agreement = correlation(found, wanted)
    return Outcome("right" if agreement > 0.999 else "wrong", chosen, agreement)


def correlation(found: Tensor, wanted: Tensor) -> float:
    """Return the least correlation over the maps that vary, (B, h, w); constant ones must be equal instead.

    Nothing is left to compare where no map varies: NaN.
    """
    least = float("inf")
    for one, other in zip(found.double(), wanted.double(), strict=True):
        if float(other.std()) > 1e-5 * float(other.abs().max()):
            least = min(least, float(torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1].nan_to_num()))
        elif not torch.allclose(one, other, rtol=1e-3, atol=1e-9):
            return 0.0
    return least if least <= 1.1 else float("nan")


def by_hand(network: nn.Module, architecture: Architecture, mean: float = 0.0, std: float = 1.0) -> Tensor | None:
    if architecture.place is None:
        return None
    batch = (images(len(TARGETS), architecture.size) - mean) / std
    return gradcam(network, architecture.place, batch, TARGETS)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(one, id=str(one), marks=() if str(one) in FAST else pytest.mark.slow) for one in ARCHITECTURES
    ],
)
def built(request: pytest.FixtureRequest) -> tuple[Architecture, nn.Module]:
    return request.param, request.param.build()


Built = tuple[Architecture, nn.Module]


def test_the_tensor_keeps_places_and_all_that_the_head_reads_is_in_it(built: Built) -> None:
    """Without xaibench: the table holds what its rule asks for."""
    architecture, network = built
    place = architecture.place
    if place is None:
        assert architecture.refused
        return
    batch, others = images(4, architecture.size), images(4, architecture.size, seed=2)
    features, gradient = gradient_at(network, place, batch, TARGETS)
    laid_out = place.channels_first(features)
    assert laid_out.ndim == 4
    assert laid_out.shape[2:] == place.grid
    assert bool((place.channels_first(gradient).abs().sum(dim=1) > 0).all())
    assert_everything_passes(network, place, batch, others)


def assert_everything_passes(network: nn.Module, place: Place, batch: Tensor, others: Tensor) -> None:
    """With other images' tensor there, the logits are theirs."""
    (_, logits), (tensor, wanted) = tensor_at(network, place, batch), tensor_at(network, place, others)
    with torch.no_grad(), replaced(network, place, lambda _: tensor.clone()):
        found = network(batch)
    apart = float((wanted - logits).abs().max())
    assert apart > 1e-5 * float(wanted.abs().max())
    assert float((found - wanted).abs().max()) < 1e-4 * apart


def test_grad_cam_is_the_one_by_hand_plain_and_wrapped(built: Built) -> None:
    architecture, network = built
    wanted = by_hand(network, architecture)
    expected = "refused" if architecture.refused else "right"
    for module in (network, Wrapped(network)):
        found = outcome(module, architecture.size, wanted)
        assert found.verdict == expected, f"{type(module).__name__}: {found}; expected {architecture.place}"
    if str(architecture) in PREPARED:
        found = outcome(Prepared(network), architecture.size, by_hand(network, architecture, 0.5, 0.25))
        assert found.verdict == expected, f"Prepared: {found}; expected {architecture.place}"


def test_the_table_is_large_and_names_no_network_twice() -> None:
    names = [str(one) for one in ARCHITECTURES]
    assert len(names) == len(set(names)) >= 48
    assert set(names) >= FAST | PREPARED
    assert {one.library for one in ARCHITECTURES} == {"timm", "torchvision"}


class Pooled(nn.Module):
    """Features of one image that can be followed by hand: two channels, weighted by the head."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Identity()
        self.head = nn.Linear(2, 4, bias=False)
        with torch.no_grad():
            self.head.weight.copy_(torch.tensor([[4.0, 8.0], [0.0, -4.0], [1.0, 0.0], [0.0, 0.0]]))

    def forward(self, batch: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(batch).relu_().mean(dim=(2, 3)))
        return logits


def test_grad_cam_by_hand_of_a_network_that_can_be_followed() -> None:
    """Channel means of the gradient: weight / 4 places, times the share of places that the ReLU lets through."""
    batch = torch.tensor([[[[1.0, -2.0], [3.0, 4.0]], [[-1.0, 1.0], [-1.0, 2.0]]]])
    place = Place("features", (2, 2))
    found = gradcam(Pooled(), place, batch, torch.tensor([0]))
    first, second = 4 / 4 * 3 / 4, 8 / 4 * 2 / 4
    torch.testing.assert_close(
        found, torch.tensor([[[first - second, -2 * first + second], [3 * first - second, 4 * first + 2 * second]]])
    )
    tokens = Place("features", (1, 2), "tokens", prefix=1)
    laid_out = tokens.channels_first(torch.arange(6.0).reshape(1, 3, 2))
    torch.testing.assert_close(laid_out, torch.tensor([[[[2.0, 4.0]], [[3.0, 5.0]]]]))


def test_the_checks_of_the_table_fail_where_a_place_is_wrong() -> None:
    """A class token's ViT: no gradient on the last block's patches, and the norm misses what the shortcut carries."""
    architecture = next(one for one in ARCHITECTURES if str(one) == "timm-vit_tiny_patch16_224")
    network = architecture.build()
    batch, others = images(4, architecture.size), images(4, architecture.size, seed=2)
    assert architecture.place is not None
    assert_everything_passes(network, architecture.place, batch, others)
    after = Place("blocks.3", (6, 6), "tokens", 1)
    _, gradient = gradient_at(network, after, batch, TARGETS)
    assert float(gradient[:, 0].abs().min()) > 0
    assert float(after.channels_first(gradient).abs().max()) == 0
    with pytest.raises(AssertionError):
        assert_everything_passes(network, Place("blocks.3.norm1", (6, 6), "tokens", 1), batch, others)


def test_maps_are_told_apart() -> None:
    maps = torch.rand(2, 5, 5, generator=torch.Generator().manual_seed(0))
    assert correlation(3 * maps + 1, maps) == pytest.approx(1)
    assert correlation(-maps, maps) == pytest.approx(-1)
    assert correlation(maps.flip(2), maps) < 0.999
    constant = maps.clone()
    constant[0] = 0
    assert correlation(constant, constant) == pytest.approx(1)
    assert correlation(maps, constant) == 0
    assert correlation(torch.zeros(2, 5, 5), maps) == 0


def report() -> None:
    """Print how each network of the table fares, as Markdown, plain and inside a wrapper."""
    counts: Counter[str] = Counter()
    print("| network | expected | verdict | chosen | correlation | wrapped |\n|---|---|---|---|---|---|", flush=True)
    for architecture in ARCHITECTURES:
        network = architecture.build()
        wanted = by_hand(network, architecture)
        plain, wrapped = (outcome(module, architecture.size, wanted) for module in (network, Wrapped(network)))
        counts.update([f"plain {plain.verdict}", f"wrapped {wrapped.verdict}"])
        expected = str(architecture.place) if architecture.place else architecture.refused
        print(
            f"| {architecture} | {expected} | {plain.verdict} | {plain.chosen} | {plain.correlation:.6f} "
            f"| {wrapped.verdict}: {wrapped.chosen}, {wrapped.correlation:.6f} |",
            flush=True,
        )
    print("\n" + ", ".join(f"{name}: {count}" for name, count in sorted(counts.items())), file=sys.stdout)


if __name__ == "__main__":
    report()
