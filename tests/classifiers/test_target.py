"""The explained layer is found by what the layers do with an image: known answers on networks made for the purpose."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.classifiers.odd_networks import Plain, SoftmaxViT, tiny_vit
from tests.tiny import tiny_benchmark
from xaibench.classifiers.base import seeded
from xaibench.classifiers.layout import Layout, changes, judge, layouts
from xaibench.classifiers.module import ModuleClassifier
from xaibench.classifiers.probe import QUARTERS, probe_images, quarter, with_quarters_changed
from xaibench.doctor import diagnose
from xaibench.errors import NotApplicableError, UsageError
from xaibench.evaluation.evaluate import evaluate
from xaibench.explainers import create
from xaibench.findings import errors
from xaibench.results.run import Run

CLASSES = ("No Finding", "Cardiomegaly", "Pneumothorax", "Effusion")
SIZE = 64


def wrap(module: nn.Module, size: int = SIZE, **options: Any) -> ModuleClassifier:
    return ModuleClassifier(CLASSES, size, module=module.eval(), **{"normalize": "none", **options})


@given(
    kind=st.sampled_from(["channels_first", "channels_last", "tokens", "tokens_first"]),
    height=st.integers(2, 5),
    width=st.integers(2, 5),
    prefix=st.integers(0, 3),
    suffix=st.integers(0, 1),
    channels=st.integers(1, 4),
)
def test_a_layout_there_and_back_is_the_same(
    kind: Any, height: int, width: int, prefix: int, suffix: int, channels: int
) -> None:
    tokens = kind.startswith("tokens")
    layout = Layout(kind, height, width, prefix * tokens, suffix * tokens)
    count = height * width + layout.prefix + layout.suffix
    shape = {
        "channels_first": (3, channels, height, width),
        "channels_last": (3, height, width, channels),
        "tokens": (3, count, channels),
        "tokens_first": (count, 3, channels),
    }[kind]
    output = torch.rand(shape)
    grid = layout.to_grid(output)
    assert grid.shape == (3, channels, height, width)
    assert torch.equal(layout.to_output(grid, output), output)


def test_the_grids_that_tokens_may_have() -> None:
    found = {(layout.prefix, layout.suffix): (layout.height, layout.width) for layout in layouts((1, 197, 8), 1)}
    assert found[1, 0] == found[0, 1] == (14, 14)
    assert Layout("tokens", 4, 2) in set(layouts((1, 8, 5), 1))
    assert list(layouts((1, 4, 1, 8), 1, "channels_first")) == []  # one row is no grid
    assert list(layouts((2, 49, 8), 1)) == []  # another batch: windows of a Swin


def test_probe_images_change_in_their_quarter_alone() -> None:
    images = probe_images(32)
    assert images.shape == (3, 3, 32, 32)
    assert 0 <= float(images.min()) < float(images.max()) <= 1
    for changed in with_quarters_changed(images[:1]):
        for place in range(QUARTERS):
            top, bottom, left, right = (round(32 * edge) for edge in quarter(place))
            differs = (changed[place] != images[0]).any(0)
            inside = torch.zeros(32, 32, dtype=torch.bool)
            inside[top:bottom, left:right] = True
            assert not differs[~inside].any()
            assert differs[inside].float().mean() > 0.9


def test_the_verdict_on_changes_worked_by_hand() -> None:
    """4 x 4 cells of which those inside the changed quarter change by 1, the others by `elsewhere`."""

    def verdict(elsewhere: float, *, rows_only: bool = False) -> tuple[int, bool]:
        images = []
        for _ in range(3):
            cells = torch.full((QUARTERS, 4, 4), elsewhere)
            for place in range(QUARTERS):
                top, bottom, left, right = (round(4 * edge) for edge in quarter(place))
                cells[place, top:bottom, slice(None) if rows_only else slice(left, right)] = 1.0
            images.append(cells)
        found = judge(images)
        return found.passed, found.holds

    assert verdict(0.5) == (12, True)
    assert verdict(0.51) == (0, False)  # not twice as much
    assert verdict(0.0, rows_only=True) == (0, False)  # three times as much as outside, and no columns known
    one_short = torch.ones(QUARTERS, 2, 2)
    assert judge([one_short * 0] * 3).passed == 0  # nothing changes
    grid = torch.rand(5, 2, 3, 3)
    assert torch.allclose(changes(grid, Layout("channels_first", 3, 3)), (grid[1:] - grid[:1]).abs().mean(1))


class Wrapped(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Any:
        return self.net(images)


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize(
    ("options", "layer", "layout"),
    [
        ({}, "blocks.1", "tokens (B, N, C), 1 before the grid"),
        ({"reg_tokens": 4}, "blocks.1", "tokens (B, N, C), 5 before the grid"),
        ({"global_pool": "avg", "fc_norm": False}, "norm", "tokens (B, N, C), 1 before the grid"),
        ({"global_pool": "avg", "reg_tokens": 4}, "blocks", "tokens (B, N, C), 5 before the grid"),
        ({"global_pool": "map", "class_token": False}, "norm", "tokens (B, N, C)"),
    ],
)
def test_a_vision_transformer_is_explained_where_its_head_reads(
    wrapped: bool, options: dict[str, Any], layer: str, layout: str
) -> None:
    network = tiny_vit(**options)
    classifier = wrap(Wrapped(network) if wrapped else network)
    assert classifier.layer_name == ("net." if wrapped else "") + layer
    assert classifier.target is not None
    assert str(classifier.target.layout) == layout
    assert classifier.features(probe_images(SIZE)).shape == (3, 32, 4, 4)


class Tokens(nn.Module):
    """Patch embeddings with tokens that have no place, in any order, and their mean over the patches."""

    def __init__(self, before: int, after: int, first: bool = False) -> None:
        super().__init__()
        with seeded(1):
            self.embed = nn.Conv2d(3, 16, 8, stride=8)
            self.extra = nn.Parameter(torch.randn(1, before + after, 16))
            self.mix = Mix(before, after, first)
            self.last = nn.Linear(16, 4)

    def forward(self, images: Tensor) -> Tensor:
        patches = self.embed(images).flatten(2).transpose(1, 2)
        return self.last(self.mix(patches, self.extra.expand(len(images), -1, -1)))  # type: ignore[no-any-return]


class Mix(nn.Module):
    def __init__(self, before: int, after: int, first: bool) -> None:
        super().__init__()
        self.before, self.after, self.first = before, after, first
        self.norm = nn.LayerNorm(16)

    def forward(self, patches: Tensor, extra: Tensor) -> Tensor:
        tokens = torch.cat([extra[:, : self.before], patches, extra[:, self.before :]], 1)
        tokens = self.norm(tokens.transpose(0, 1) if self.first else tokens)
        tokens = tokens.transpose(0, 1) if self.first else tokens
        return tokens[:, self.before : tokens.shape[1] - self.after].mean(1)


@pytest.mark.parametrize(("before", "after", "first"), [(0, 0, False), (1, 0, False), (0, 1, False), (5, 0, True)])
def test_tokens_in_any_order(before: int, after: int, first: bool) -> None:
    network = Tokens(before, after, first)
    classifier = wrap(network)
    assert classifier.target is not None
    layout = classifier.target.layout
    assert (layout.prefix, layout.suffix, layout.height, layout.width) == (before, after, 8, 8)
    assert layout.kind == ("tokens_first" if first else "tokens")
    images = probe_images(SIZE)
    with torch.no_grad():
        wanted = network.mix.norm(network.embed(images).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    torch.testing.assert_close(classifier.features(images), wanted)


class Scrambled(Plain):
    """Puts its maps in another order before they are pooled: their places are not the image's any more."""

    def __init__(self) -> None:
        super().__init__()
        self.scrambles = Flip()

    def forward(self, images: Tensor) -> Tensor:
        return self.last(self.scrambles(self.body(images)).mean((2, 3)))  # type: ignore[no-any-return]


class Flip(nn.Module):
    def forward(self, maps: Tensor) -> Tensor:
        return maps.flip(-1)


class Global(nn.Module):
    """Mixes all places by a linear layer into what looks like maps, and is nothing else: there is no layer."""

    def __init__(self) -> None:
        super().__init__()
        with seeded(2):
            self.mix, self.last = nn.Linear(3 * 64, 8 * 16), nn.Linear(8, 4)
            self.unflatten = nn.Unflatten(1, (8, 4, 4))

    def forward(self, images: Tensor) -> Tensor:
        small = F.adaptive_avg_pool2d(images, 8).flatten(1)
        return self.last(self.unflatten(self.mix(small)).relu().mean((2, 3)))  # type: ignore[no-any-return]


def test_a_layer_whose_places_are_not_the_image_s_is_passed_over() -> None:
    assert wrap(Scrambled()).layer_name == "second"


def test_where_no_layer_passes_it_is_refused_and_each_remedy_works() -> None:
    with pytest.raises(
        UsageError, match=r"nothing to explain: name a layer with layer=.*layout=.*layer=none"
    ) as caught:
        wrap(Global())
    assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match=r"layer 'unflatten' that does not pass the test .* layout=, one of channels_"):
        wrap(Global(), layer="unflatten")
    named = wrap(Global(), layer="unflatten", layout="channels_first")
    assert named.features(probe_images(SIZE)).shape == (3, 8, 4, 4)
    faults = errors(diagnose(named, {}, probe_images(SIZE)))
    assert [fault.check for fault in faults] == ["layer"]
    assert "not clearly the image's" in faults[0].what
    assert "unflatten, channels_first" in faults[0].what
    without = wrap(Global(), layer="none")
    create("saliency").check(without)
    with pytest.raises(NotApplicableError, match="gradcam needs the features of a layer, and by the option layer=none"):
        create("gradcam").check(without)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"layer": "second", "layout": "channels"}, "layout = 'channels'; it is one of 'channels_first'"),
        ({"layout": "tokens"}, "layout = 'tokens' says how a layer's output is laid out: give layer too"),
        ({"layer": "second", "layout": "tokens"}, "no module 'second' with an output that is laid out tokens"),
    ],
)
def test_a_layout_that_can_not_be_says_so(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        wrap(Plain(), **options)


def test_the_doctor_says_that_later_patch_tokens_are_read_by_nobody() -> None:
    classifier = wrap(tiny_vit(), layer="norm")
    faults = errors(diagnose(classifier, {}, probe_images(SIZE)))
    assert "the logits do not depend on every place of the target layer (norm, tokens" in faults[0].what
    assert errors(diagnose(wrap(tiny_vit()), {}, probe_images(SIZE))) == []


def test_grad_cam_in_a_wrapper_is_the_one_made_by_hand() -> None:
    network = tiny_vit()
    images, targets = probe_images(SIZE), torch.tensor([0, 1, 2])
    tokens = network.norm_pre(network.patch_drop(network._pos_embed(network.patch_embed(images))))
    for block in network.blocks[:-1]:
        tokens = block(tokens)
    tokens = tokens.detach().requires_grad_(True)
    logits = network.head(network.norm(network.blocks[-1](tokens))[:, 0])
    (gradient,) = torch.autograd.grad(logits.gather(1, targets[:, None]).sum(), tokens)
    weights = gradient[:, 1:].mean(1, keepdim=True)
    wanted = (weights * tokens[:, 1:]).sum(2).relu().reshape(3, 4, 4).detach()
    explainer: Any = create("gradcam")
    for module in (network, Wrapped(network)):
        classifier = wrap(module)
        found = explainer.signed(classifier, classifier.predict(images), targets).relu()
        torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-4)


def test_the_layer_its_layout_and_the_reason_stand_in_the_record(tmp_path: Any) -> None:
    network = tiny_vit()
    run = evaluate(network, ["gradcam"], tiny_benchmark(), out=tmp_path, device="cpu")
    assert run.directory is not None
    for record in (run.record, Run.load(run.directory).record):
        layer = record["layer"]
        assert (layer["name"], layer["channels"], layer["grid"]) == ("blocks.1", 32, [4, 4])
        assert layer["layout"] == "tokens (B, N, C), 1 before the grid"
        assert "on each of which the logits depend" in layer["reason"]
    assert [note for note in run.notes if note.startswith("explained layer: blocks.1, 32 channels on 4 x 4, tokens")]
    from xaibench.reporting.html import write_report

    write_report([run], tmp_path / "report.html", images=0)
    assert "blocks.1, 32 x 4 x 4, tokens (B, N, C)" in (tmp_path / "report.html").read_text()


def test_attention_from_a_module_is_no_map() -> None:
    """Shares of attention, (B, heads, N, N), have the shape of maps; the last block's input is what is explained."""
    network, images, targets = SoftmaxViT().eval(), probe_images(SIZE), torch.tensor([0, 1, 2])
    classifier = wrap(network)
    assert classifier.layer_name == "blocks.1"
    tokens = network.embed(images).flatten(2).transpose(1, 2)
    tokens = torch.cat([network.token.expand(3, -1, -1), tokens], 1) + network.places
    tokens = network.blocks[:2](tokens).detach().requires_grad_(True)
    logits = network.last(network.blocks[2](tokens)[:, 0])
    (gradient,) = torch.autograd.grad(logits.gather(1, targets[:, None]).sum(), tokens)
    wanted = (gradient[:, 1:].mean(1, keepdim=True) * tokens[:, 1:]).sum(2).reshape(3, 4, 4).detach()
    explainer: Any = create("gradcam")
    found = explainer.signed(classifier, classifier.predict(images), targets)
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-4)


def test_a_layer_of_one_row_is_passed_over() -> None:
    network = Plain()
    network.third = nn.Conv2d(8, 8, (8, 4), stride=(8, 4))
    network.body = lambda images: network.third(Plain.body(network, images))  # type: ignore[method-assign]
    assert network.body(probe_images(SIZE)).shape[2:] == (1, 2)
    assert wrap(network, copy=False).layer_name == "second"


def test_the_doctor_says_that_heads_and_tokens_are_no_map() -> None:
    classifier = wrap(tiny_vit(qk_norm=True), layer="blocks.2.attn.k_norm", layout="channels_first")
    faults = errors(diagnose(classifier, {}, probe_images(SIZE)))
    assert "the places of the target layer (blocks.2.attn.k_norm" in faults[0].what


def test_a_layer_that_passes_its_input_on_can_be_named() -> None:
    classifier = wrap(tiny_vit(), layer="norm_pre")
    assert classifier.target is not None
    assert str(classifier.target.layout) == "tokens (B, N, C), 1 before the grid"
