"""Any timm CNN: body and head are the network, and only a pooled linear head passes for one."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from timm.models.densenet import DenseNet
from torch import nn

from xaibench.classifiers.base import Normalize, count_macs
from xaibench.classifiers.timm import TimmClassifier, densenet121
from xaibench.errors import UsageError

CLASSES = ["No Finding", "Cardiomegaly", "Pneumothorax", "Effusion"]


def build(model: str, size: int = 64, **options: object) -> TimmClassifier:
    return TimmClassifier(CLASSES, size, model=model, weights="random", **options).eval()  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def test_densenet_is_the_raw_timm_model(images: torch.Tensor) -> None:
    classifier = densenet121(CLASSES, 64, weights="random").eval()
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        raw = classifier.model((images - mean.view(3, 1, 1)) / std.view(3, 1, 1))
        features = classifier.features(images)
        prediction = classifier.predict(images)
    assert features.shape == (3, 1024, 2, 2)
    assert raw.shape == (3, 4)
    torch.testing.assert_close(classifier.head(features, images), raw)
    torch.testing.assert_close(classifier(images), raw)
    torch.testing.assert_close(prediction.logits, raw)
    assert prediction.maps == {}
    assert not classifier.body_is_frozen
    assert all(parameter.requires_grad for parameter in classifier.parameters())


@pytest.mark.parametrize(
    ("model", "pooled"),
    [
        ("densenet121", True),
        ("resnet18", True),
        ("test_efficientnet", True),
        ("test_convnext", False),  # a norm between pooling and the linear layer
        ("mobilenetv3_small_050", False),  # a convolution between them
    ],
)
def test_pooled_linear_heads_are_found_by_trial(model: str, pooled: bool, images: torch.Tensor) -> None:
    classifier = build(model)
    assert classifier.head_is_pooled_linear is pooled
    with torch.no_grad():
        features = classifier.features(images)
        logits = classifier(images)
    assert features.ndim == 4
    torch.testing.assert_close(logits, classifier.model(classifier.normalize(images)))
    if pooled:
        weight = classifier.class_weights()
        assert weight.shape == (4, features.shape[1])
        torch.testing.assert_close(features.mean(dim=(2, 3)) @ weight.T + classifier.last_layer.bias, logits)
    else:
        with pytest.raises(UsageError, match="more than average pooling"):
            classifier.class_weights()


@pytest.mark.parametrize(
    ("model", "size", "reason"),
    [
        ("test_vit", 72, "takes no images of 72 px"),
        ("mixer_s32_224", 224, r"features have shape \(1, \d+, 512\).*take a CNN"),
        ("inception_v3", 64, "takes no images of 64 px"),
        ("resnt18", 64, "close: resnet18"),
    ],
)
def test_models_that_do_not_fit_say_so_at_once(model: str, size: int, reason: str) -> None:
    with pytest.raises(UsageError, match=reason) as caught:
        build(model, size)
    assert "\n" not in str(caught.value)


def test_making_one_leaves_batch_statistics_and_mode_alone() -> None:
    classifier = TimmClassifier(CLASSES, 64, model="test_resnet", weights="random")
    assert all(module.training for module in classifier.modules())
    counted = [buffer for name, buffer in classifier.named_buffers() if name.endswith("num_batches_tracked")]
    assert counted
    assert not any(int(buffer) for buffer in counted)


def test_seed_decides_and_the_global_generator_does_not_notice() -> None:
    state = torch.get_rng_state()
    first, again, other = build("test_resnet", seed=1), build("test_resnet", seed=1), build("test_resnet", seed=2)
    assert torch.equal(torch.get_rng_state(), state)
    assert first.weights == again.weights
    assert first.weights.sha256 != other.weights.sha256


def test_trained_state_is_everything_and_comes_back(images: torch.Tensor) -> None:
    source, target = build("test_resnet", seed=1), build("test_resnet", seed=2)
    with torch.no_grad():
        assert not torch.allclose(source(images), target(images))
        target.load_trained_state(source.trained_state())
        assert torch.equal(source(images), target(images))
    with pytest.raises(RuntimeError, match="Missing key"):
        target.load_trained_state({})


def test_fast_layout_gives_the_same_numbers(images: torch.Tensor) -> None:
    """Other kernels add in another order: float32 rounding only."""
    with torch.no_grad():
        wanted = build("resnet18")(images)
        found = build("resnet18").optimized()(images.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


def test_normalize_known_answer() -> None:
    normalize = Normalize([0.5, 0.25, 0.0], [0.5, 0.25, 2.0])
    found = normalize(torch.ones(1, 3, 1, 1))
    assert found.flatten().tolist() == [1.0, 3.0, 0.5]
    assert not normalize.state_dict()  # no part of a checkpoint


def test_macs_known_answer_and_hooks_gone() -> None:
    # 4 groups: each of 8 outputs sums 3x3 of one input, at 5x5 places; then 8 x 10.
    network = nn.Sequential(
        nn.Conv2d(4, 8, 3, groups=4, stride=2, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)
    )
    assert count_macs(network, torch.zeros(1, 4, 9, 9)) == 8 * 25 * 9 + 80
    assert not any(module._forward_hooks for module in network.modules())
    with pytest.raises(RuntimeError):
        count_macs(network, torch.zeros(1, 5, 9, 9))
    assert not any(module._forward_hooks for module in network.modules())


def test_a_network_may_see_images_at_another_side() -> None:
    plain = TimmClassifier(["a", "b"], 128, model="resnet10t", weights="random").eval()
    small = TimmClassifier(["a", "b"], 64, model="resnet10t", weights="random", resize=128).eval()
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    larger = torch.nn.functional.interpolate(images, size=128, mode="bilinear", align_corners=False)
    with torch.no_grad():
        prediction = small.predict(images)
        assert prediction.features.shape == (2, 512, 4, 4)
        assert prediction.frame.height == 64
        assert torch.equal(prediction.logits, plain(larger))


@pytest.mark.parametrize("resize", [16, 4096, "224", True])
def test_an_absurd_side_is_refused(resize: Any) -> None:
    with pytest.raises(UsageError, match="resize"):
        TimmClassifier(["a", "b"], 64, model="resnet10t", weights="random", resize=resize)


class LargestOfMaps(DenseNet):
    """Its forward is none of timm's parts: the largest value of each map."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.forward_features(x).amax((2, 3)))  # type: ignore[no-any-return]


def test_a_registered_model_with_a_forward_of_its_own_is_run_as_it_is(images: torch.Tensor) -> None:
    def largest_of_maps_tested(pretrained: bool = False, num_classes: int = 4, **_: Any) -> LargestOfMaps:
        return LargestOfMaps(growth_rate=8, block_config=(2, 2), num_classes=num_classes)

    timm.models.register_model(largest_of_maps_tested)
    classifier = build("largest_of_maps_tested")
    with torch.no_grad():
        wanted = classifier.model(classifier.normalize(images))
        torch.testing.assert_close(classifier.predict(images).logits, wanted)
        torch.testing.assert_close(classifier.head(classifier.features(images), images), wanted)
        assert not torch.allclose(wanted, classifier.model.forward_head(classifier.features(images)))
