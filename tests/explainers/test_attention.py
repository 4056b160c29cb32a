"""Attention rollout and gradient-weighted attention: known answers, and attention computed by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.classifiers.odd_networks import tiny_vit
from tests.explainers.small import CLASSES, predict
from xaibench.classifiers.base import Classifier
from xaibench.classifiers.module import ModuleClassifier
from xaibench.classifiers.timm import TimmClassifier
from xaibench.errors import NotApplicableError, UsageError
from xaibench.explainers import create
from xaibench.explainers.attention import rollout, weighted_rollout
from xaibench.explainers.base import upsample
from xaibench.types import Frame, Prediction


def attention_by_hand(classifier: Classifier, images: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Return logits and every block's softmax, from the weights alone."""
    model: Any = classifier.model
    tokens = model._pos_embed(model.patch_embed(classifier.normalize(images)))  # type: ignore[operator]
    softmaxes = []
    for block in model.blocks:
        normed, attn = block.norm1(tokens), block.attn
        count, width = tokens.shape[1], tokens.shape[2] // attn.num_heads
        qkv = normed @ attn.qkv.weight.T + attn.qkv.bias
        q, k, v = qkv.view(len(tokens), count, 3, attn.num_heads, width).permute(2, 0, 3, 1, 4)
        shares = torch.softmax(q @ k.transpose(2, 3) / width**0.5, dim=-1)
        softmaxes.append(shares)
        tokens = tokens + block.ls1(attn.proj((shares @ v).transpose(1, 2).flatten(2)))
        tokens = tokens + block.ls2(block.mlp(block.norm2(tokens)))
    return model.head(model.norm(tokens)[:, 0]), softmaxes


@pytest.fixture(scope="module")
def case(vit: Classifier, seen_by_vit: Prediction) -> tuple[Classifier, Prediction, Tensor]:
    return vit, seen_by_vit.select([0, 1, 2]), torch.tensor([1, 3, 0])


def test_rollout_is_the_paper_s_on_the_same_attention(case: tuple[Classifier, Prediction, Tensor]) -> None:
    classifier, prediction, targets = case
    with torch.no_grad():
        logits, layers = attention_by_hand(classifier, prediction.images)
    torch.testing.assert_close(logits, prediction.logits, atol=1e-5, rtol=1e-5)
    wanted = []
    for row in range(3):
        joint = np.eye(17)
        for layer in layers:
            mixed = 0.5 * layer[row].double().mean(dim=0).numpy() + 0.5 * np.eye(17)
            joint = mixed / mixed.sum(axis=1, keepdims=True) @ joint
        wanted.append(torch.from_numpy(joint[0, 1:].reshape(4, 4)))
    found = create("attention_rollout").explain(classifier, prediction, targets)
    torch.testing.assert_close(found, upsample(torch.stack(wanted), prediction.frame), atol=1e-6, rtol=1e-5)


def test_gradient_attention_is_chefer_s_on_the_same_attention(case: tuple[Classifier, Prediction, Tensor]) -> None:
    classifier, prediction, targets = case
    logits, layers = attention_by_hand(classifier, prediction.images)
    gradients = torch.autograd.grad(logits.gather(1, targets[:, None]).sum(), layers)
    wanted = []
    for row in range(3):
        relevance = np.eye(17)
        for layer, gradient in zip(layers, gradients, strict=True):
            product = (layer[row] * gradient[row]).detach().double().numpy()
            relevance = relevance + np.maximum(product, 0).mean(axis=0) @ relevance
        wanted.append(torch.from_numpy(relevance[0, 1:].reshape(4, 4)))
    found = create("gradient_attention").explain(classifier, prediction, targets)
    scale = float(found.abs().max())
    torch.testing.assert_close(found, upsample(torch.stack(wanted), prediction.frame), atol=1e-5 * scale, rtol=1e-4)


def test_known_answers_of_two_tokens() -> None:
    """Half of each row is the token itself: [[.75, .25], [.5, .5]], and squared for two equal blocks."""
    layer = torch.tensor([[[[0.5, 0.5], [1.0, 0.0]]]])
    once = torch.tensor([[0.75, 0.25], [0.5, 0.5]])
    torch.testing.assert_close(rollout([layer, layer])[0], once @ once)
    heads = torch.tensor([[[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [1.0, 0.0]]]])
    for fusion, wanted in (("mean", [[0.75, 0.25]]), ("max", [[2 / 3, 1 / 3]]), ("min", [[1.0, 0.0]])):
        torch.testing.assert_close(rollout([heads], fusion)[0, :1], torch.tensor(wanted))
    gradient = torch.tensor([[[[2.0, -4.0], [1.0, 1.0]]]])
    assert weighted_rollout([layer], [gradient])[0].tolist() == [[2.0, 0.0], [1.0, 1.0]]


def test_discard_takes_the_smallest_but_never_the_class_token() -> None:
    layer = torch.tensor([[[[0.1, 0.2, 0.7], [0.1, 0.5, 0.4], [0.1, 0.6, 0.3]]]])
    # four of nine are smallest: the first column's three, which stay, and 0.2
    wanted = torch.tensor([[1.1, 0.0, 0.7], [0.1, 1.5, 0.4], [0.1, 0.6, 1.3]])
    torch.testing.assert_close(rollout([layer], discard=4 / 9)[0], wanted / wanted.sum(1, keepdim=True))


def test_rollout_knows_no_class_and_says_so(case: tuple[Classifier, Prediction, Tensor]) -> None:
    classifier, prediction, _ = case
    both = prediction.select([0, 0])
    same, other = (
        create(n).explain(classifier, both, torch.tensor([1, 2])) for n in ("attention_rollout", "gradient_attention")
    )
    assert torch.equal(same[0], same[1])
    assert not torch.allclose(other[0], other[1])
    assert not create("attention_rollout").class_specific
    assert create("gradient_attention").class_specific


@pytest.mark.parametrize("name", ["attention_rollout", "gradient_attention"])
def test_fused_attention_is_off_inside_and_back_outside_even_after_an_error(
    name: str, case: tuple[Classifier, Prediction, Tensor]
) -> None:
    classifier, prediction, targets = case
    attentions = [block.attn for block in classifier.model.blocks]  # type: ignore[union-attr]
    seen: list[bool] = []
    handle = classifier.model.norm.register_forward_hook(lambda *_: seen.append(attentions[0].fused_attn))  # type: ignore[union-attr, operator]
    attentions[0].fused_attn, attentions[1].fused_attn = True, False
    try:
        create(name).explain(classifier, prediction, targets)
        with pytest.raises((RuntimeError, IndexError)):
            create(name).explain(classifier, prediction, torch.tensor([9, 9, 9])) if name != "attention_rollout" else (
                create(name).explain(
                    classifier, Prediction(("x",), torch.zeros(1, 2, 64, 64), *[torch.zeros(1)] * 2), targets[:1]
                )
            )
        assert [attention.fused_attn for attention in attentions[:2]] == [True, False]
    finally:
        handle.remove()
        for attention in attentions:
            attention.fused_attn = True
    assert seen
    assert not any(seen)
    assert not any(attention.attn_drop._forward_hooks for attention in attentions)


@pytest.mark.parametrize(
    ("options", "reads"),
    [
        ({}, [0]),
        ({"reg_tokens": 4}, [0]),
        ({"global_pool": "avg"}, list(range(1, 17))),
        ({"global_pool": "avg", "reg_tokens": 4}, list(range(5, 21))),
        ({"global_pool": "avg", "reg_tokens": 4, "class_token": False}, list(range(4, 20))),
        ({"global_pool": "map", "class_token": False}, list(range(16))),
    ],
)
def test_maps_start_from_the_tokens_that_the_head_reads(options: dict[str, Any], reads: list[int]) -> None:
    """The mean of their rows; row 0 is a register or a patch like any other where the head pools."""
    network = tiny_vit(**options)
    classifier = ModuleClassifier(CLASSES, 64, module=network, normalize="none")
    prediction, targets = predict(classifier, 2), torch.tensor([1, 3])
    layers: list[Tensor] = []
    for block in network.blocks:
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_hook(lambda _, __, output: layers.append(output))
    images = prediction.images.clone().requires_grad_(True)
    logits = network(images)
    gradients = torch.autograd.grad(logits.gather(1, targets[:, None]).sum(), layers)
    shares = [layer.detach() for layer in layers]
    for name, rolled in (
        ("attention_rollout", rollout(shares)),
        ("gradient_attention", weighted_rollout(shares, gradients)),
    ):
        wanted = rolled[:, reads].mean(1)[:, -16:].reshape(2, 4, 4)
        found = create(name).explain(classifier, prediction, targets)
        scale = float(wanted.abs().max())
        torch.testing.assert_close(found, upsample(wanted, prediction.frame), atol=1e-5 * scale, rtol=1e-4)


@pytest.mark.parametrize("model", ["test_vit2", "test_vit4", "deit_tiny_distilled_patch16_224"])
def test_registers_and_no_class_token(model: str) -> None:
    classifier = TimmClassifier(CLASSES, 64, model=model, weights="random").eval()
    prediction = predict(classifier, 2)
    for name in ("attention_rollout", "gradient_attention"):
        maps = create(name).explain(classifier, prediction, torch.tensor([0, 1]))
        assert maps.shape == (2, 64, 64)
        assert maps.std() > 0


def test_not_for_cnns_and_options_are_checked(small: Classifier) -> None:
    for name in ("attention_rollout", "gradient_attention"):
        with pytest.raises(NotApplicableError, match=f"{name} is made of a Vision Transformer's.*use gradcam"):
            create(name).check(small)
    swin = TimmClassifier(CLASSES, 64, model="swin_tiny_patch4_window7_224", weights="random")
    with pytest.raises(NotApplicableError, match="attention and TimmClassifier has none: use gradcam"):
        create("attention_rollout").check(swin)
    for options, reason in (({"head_fusion": "sum"}, "'mean', 'max' or 'min'"), ({"discard": 1.0}, "below 1")):
        with pytest.raises(UsageError, match=reason):
            create("attention_rollout", **options)
    assert Frame(64, 64) == predict(small, 1).frame
