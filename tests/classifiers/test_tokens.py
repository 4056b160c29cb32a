"""Transformers of timm as body and head."""

from __future__ import annotations

import copy

import pytest
import torch
from pytorch_grad_cam import GradCAM, LayerCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import nn

from xaibench.classifiers.timm import TimmClassifier
from xaibench.explainers import create

CLASSES = ["a", "b", "c", "d"]


def build(model: str, size: int = 64, **options: object) -> TimmClassifier:
    return TimmClassifier(CLASSES, size, model=model, weights="random", **options).eval()  # type: ignore[arg-type]


def noise(count: int = 3, size: int = 64, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("model", "size", "shape"),
    [
        ("test_vit", 64, (64, 4, 4)),
        ("test_vit", 96, (64, 6, 6)),
        ("test_vit2", 64, (64, 4, 4)),  # registers
        ("test_vit4", 64, (96, 4, 4)),  # no class token where tokens are pooled
        ("deit_tiny_distilled_patch16_224", 64, (192, 4, 4)),  # two class tokens
        ("vit_tiny_patch16_224", 80, (192, 5, 5)),
        ("swin_tiny_patch4_window7_224", 64, (768, 2, 2)),
    ],
)
def test_body_and_head_are_the_network_at_any_size(model: str, size: int, shape: tuple[int, ...]) -> None:
    classifier, images = build(model, size), noise(size=size)
    with torch.no_grad():
        prediction = classifier.predict(images)
        raw = classifier.model(classifier.normalize(images))
        assert prediction.features.shape == (3, *shape)
        torch.testing.assert_close(prediction.logits, raw)
        torch.testing.assert_close(classifier(images), raw)
        some = prediction.select([2, 0, 2])
        torch.testing.assert_close(classifier.head(some.features, some.images), raw[[2, 0, 2]])
        one = images[1].expand(4, -1, -1, -1)
        features = prediction.features[1].expand(4, -1, -1, -1)
        torch.testing.assert_close(classifier.head(features, one), raw[[1] * 4])


def test_the_head_does_not_run_the_body_again_and_new_weights_do() -> None:
    classifier, images = build("test_vit"), noise()
    runs: list[int] = []
    classifier.model.patch_embed.register_forward_hook(lambda *_: runs.append(1))
    with torch.no_grad():
        prediction = classifier.predict(images)
        classifier.predict(noise(seed=1))
        some = prediction.select([2, 1])
        before = classifier.head(some.features, some.images)
        assert len(runs) == 2
        classifier.model.cls_token.add_(1)  # what was kept belongs to other weights
        after = classifier.head(some.features, some.images)
        assert len(runs) == 3
        assert not torch.allclose(before, after)


def test_training_reaches_the_class_token_and_leaves_no_graph() -> None:
    classifier, images = build("test_vit").train(), noise()
    features = classifier.features(images)
    classifier.head_with_maps(features.contiguous(memory_format=torch.channels_last), images)[0].sum().backward()
    whole = build("test_vit").train()
    whole.model(whole.normalize(images)).sum().backward()
    for (name, found), wanted in zip(classifier.named_parameters(), whole.parameters(), strict=True):
        assert found.grad is not None, name
        torch.testing.assert_close(found.grad, wanted.grad, atol=1e-5, rtol=1e-4)
    assert classifier.tokens is not None
    assert classifier.tokens._last is None
    assert copy.deepcopy(classifier).tokens.model is not classifier.model  # type: ignore[union-attr]


@pytest.mark.parametrize(("name", "method"), [("gradcam", GradCAM), ("layercam", LayerCAM)])
def test_cam_on_the_grid_is_the_library_s_on_the_block(name: str, method: type) -> None:
    """Stock call: the whole network, its target layer the last block but one, tokens reshaped, class token left out."""
    classifier, images = build("test_vit"), noise()
    model = nn.Sequential(classifier.normalize, classifier.model)

    def grid(tokens: torch.Tensor) -> torch.Tensor:
        return tokens[:, 1:].transpose(1, 2).unflatten(2, (4, 4))

    targets = torch.tensor([0, 2, 3])
    stock = method(model=model, target_layers=[classifier.model.blocks[-2]], reshape_transform=grid)
    outputs = stock.activations_and_grads(images)
    wanted_of = [ClassifierOutputTarget(int(target)) for target in targets]
    sum(target(output) for target, output in zip(wanted_of, outputs, strict=True)).backward()  # type: ignore[union-attr]
    activations = stock.activations_and_grads.activations[0].detach().numpy()
    gradients = stock.activations_and_grads.gradients[0].detach().numpy()
    raw = torch.as_tensor(stock.get_cam_image(images, None, wanted_of, activations, gradients, False)).relu()
    wanted = nn.functional.interpolate(raw[:, None].float(), size=64, mode="bilinear", align_corners=False)[:, 0]
    with torch.no_grad():
        found = create(name).explain(classifier, classifier.predict(images), targets)
    scale = float(wanted.abs().max())
    assert scale > 0
    torch.testing.assert_close(found, wanted, atol=1e-5 * scale, rtol=1e-4)
