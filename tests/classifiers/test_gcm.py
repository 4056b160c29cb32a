"""GCM against the paper's numbers and its one invariant: the mean of a contribution map is the score."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from xaibench.classifiers.base import count_macs
from xaibench.classifiers.encoder import unpack
from xaibench.classifiers.gcm import GCM
from xaibench.classifiers.weights import build_backbone
from xaibench.errors import UsageError

CLASSES = ["No Finding", "Cardiomegaly", "Pneumothorax", "Effusion"]
COMBINATIONS = list(
    itertools.product(("shared", "per_class"), (1, 3), ("linear", "relu"), (3, 1), ("raw", "normalized"))
)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def make(**options: Any) -> GCM:
    """A small one, with the batch statistics of noise in the decoder rather than the trivial 0 and 1."""
    size = options.pop("input_size", 64)
    gcm = GCM(CLASSES, size, **{"encoder": "test_efficientnet", "weights": "random", **options}).train()
    norms = [module for module in gcm.decoders.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        gcm(pictures(4, size, seed=1))
    for norm in norms:
        norm.momentum = 0.1
    return gcm.eval()


def pictures(count: int, size: int = 64, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def b0() -> GCM:
    return GCM(CLASSES, 256, weights="random").eval()


@pytest.fixture(scope="module")
def lite0() -> GCM:
    return GCM(CLASSES, 64, encoder="tf_efficientnet_lite0", weights="package").eval()


def test_paper_sizes_of_the_default(b0: GCM) -> None:
    with torch.no_grad():
        image = pictures(1, 256)
        features = b0.features(image)
    assert features.shape == (1, 112, 16, 16)
    assert count(b0.encoder) == 851_808
    assert count(b0.decoders) == 355_796
    assert round(count_macs(b0.encoder, image) / 1e6) == 318
    assert round(count_macs(b0.decoders[0], features) / 1e9, 2) == 1.98
    assert sum(parameter.numel() for parameter in b0.parameters() if parameter.requires_grad) == 355_796


def test_paper_sizes_of_one_decoder_per_class() -> None:
    gcm = GCM(CLASSES, 256, weights="random", decoders="per_class").eval()
    assert len(gcm.decoders) == 4
    assert round(count(gcm.decoders) / 1e6, 2) == 1.42
    one = count_macs(gcm.decoders[0], torch.zeros(1, 112, 16, 16))
    assert round(4 * one / 1e9, 1) == 7.5


@pytest.mark.parametrize("encoder", ["test_efficientnet", "resnet10t", "convnext_atto"])
def test_finer_stages_reach_the_decoder_as_the_backbone_gives_them(encoder: str) -> None:
    gcm = make(encoder=encoder, skips=(8, 4))
    images = pictures(2)
    import timm

    backbone = timm.create_model(encoder, features_only=True).eval()
    seen = gcm.encoder.backbone.state_dict()
    backbone.load_state_dict({**backbone.state_dict(), **seen})
    with torch.no_grad():
        expected = dict(zip(backbone.feature_info.reduction(), backbone(gcm.normalize(images)), strict=True))
        features = gcm.features(images)
    assert features.shape[-2:] == (4, 4)
    stages = unpack(features, gcm.encoder.channels)
    assert list(stages) == [16, 8, 4]
    for stride, stage in stages.items():
        torch.testing.assert_close(stage, expected[stride], atol=1e-5, rtol=1e-5)


def test_a_skip_makes_the_map_depend_on_the_finer_stage_alone() -> None:
    gcm = make(skips=(4,))
    with torch.no_grad():
        features = gcm.features(pictures(1))
        changed = features.clone()
        changed[:, gcm.encoder.channels[16] :, 0, 0] += 1  # the corner's finer pixels
        difference = (gcm.cwm(features, (64, 64)) - gcm.cwm(changed, (64, 64))).abs().amax(dim=(0, 1, 2))
    # 16 px of the image, and what the convolutions at 16, 32 and 64 px a side carry on: 4 + 2 + 1 + 1 px.
    assert difference[:16, :16].max() > 0
    assert difference[28:, :].max() == 0
    assert difference[:, 28:].max() == 0


@pytest.mark.parametrize(("skips", "said"), [((3,), "no finer stage of stride 3"), ((16,), "no finer stage")])
def test_a_skip_that_the_encoder_lacks_is_refused(skips: tuple[int, ...], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        GCM(CLASSES, 64, encoder="test_efficientnet", weights="random", skips=skips)


@pytest.mark.parametrize("skips", [(), (8, 4)])
@pytest.mark.parametrize(("decoders", "cwm_channels", "head", "last_kernel", "multiply"), COMBINATIONS)
def test_contribution_averages_to_the_logit(
    skips: Any, decoders: Any, cwm_channels: Any, head: Any, last_kernel: Any, multiply: Any
) -> None:
    gcm = make(
        skips=skips,
        decoders=decoders,
        cwm_channels=cwm_channels,
        head=head,
        last_kernel=last_kernel,
        multiply=multiply,
        input_size=32,
    )
    images = pictures(2, 32)
    with torch.no_grad():
        prediction = gcm.predict(images, ["a", "b"])
        # The paper's form, with all its axes, computed apart from the fast path.
        explicit = gcm.cwm(prediction.features, (32, 32))
        factor = images if multiply == "raw" else gcm.normalize(images)
        pairs = zip(explicit, factor, strict=True)
        contribution = torch.stack([torch.stack([one * image for one in row]) for row, image in pairs])
        logits = gcm(images)
    assert explicit.shape == (2, 4, cwm_channels, 32, 32)
    assert prediction.logits.std() > 1e-4  # a network that gives zeros would satisfy the rest
    torch.testing.assert_close(gcm.ccm(explicit, images), contribution)
    assert contribution.shape == (2, 4, 3, 32, 32)
    torch.testing.assert_close(contribution.mean(dim=(2, 3, 4)), prediction.logits, atol=1e-5, rtol=0)
    torch.testing.assert_close(prediction.maps["ccm"].mean(dim=(-2, -1)), prediction.logits, atol=1e-5, rtol=0)
    torch.testing.assert_close(prediction.maps["ccm"], contribution.mean(dim=2), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(prediction.maps["cwm"], explicit.mean(dim=2))
    torch.testing.assert_close(logits, prediction.logits)
    last = gcm.decoders[0][-1]
    if head == "relu":
        assert isinstance(last, nn.ReLU)
        assert explicit.min() >= 0
    else:
        assert explicit.min() < 0 < explicit.max()
        assert last.kernel_size == (last_kernel, last_kernel)  # type: ignore[union-attr]


def test_decoder_of_a_class_makes_the_map_of_that_class() -> None:
    gcm = make(decoders="per_class")
    images = pictures(1)
    with torch.no_grad():
        before = gcm.predict(images).maps["cwm"]
        for parameter in gcm.decoders[2].parameters():
            parameter.mul_(1.5)
        after = gcm.predict(images).maps["cwm"]
    changed = (before - after).abs().amax(dim=(0, 2, 3)) > 0
    assert changed.tolist() == [False, False, True, False]


def test_training_changes_the_decoder_alone() -> None:
    gcm = make().train()
    assert gcm.decoders.training
    assert not any(module.training for module in gcm.encoder.modules())
    before = {name: tensor.clone() for name, tensor in gcm.state_dict().items()}
    optimizer = torch.optim.SGD((p for p in gcm.parameters() if p.requires_grad), lr=0.1)
    nn.functional.cross_entropy(gcm(pictures(4)), torch.arange(4)).backward()
    optimizer.step()
    assert all(parameter.grad is None for parameter in gcm.encoder.parameters())
    assert all(parameter.grad is not None for parameter in gcm.decoders.parameters())
    after = gcm.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert not {name for name in moved if name.startswith("encoder.")}
    assert "decoders.0.0.weight" in moved
    assert "decoders.0.1.running_mean" in moved
    assert not gcm.eval().decoders.training


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"decoders": "two"}, "decoders = 'two'"),
        ({"cwm_channels": 2}, "cwm_channels = 2"),
        ({"head": "softmax"}, "head = 'softmax'"),
        ({"last_kernel": 5}, "last_kernel = 5"),
        ({"multiply": "grey"}, "multiply = 'grey'"),
        ({"input_size": 60}, "input_size = 60 is no multiple of 16"),
        ({"input_size": 0}, "input_size = 0"),
        ({"encoder": "test_efficientnt"}, "test_efficientnet"),
        ({"encoder": "resnet18.nosuch"}, "no weights tagged 'nosuch'"),
        ({"encoder": "vit_tiny_patch16_224", "input_size": 72}, "input_size = 72"),
        ({"encoder": "vit_small_patch32_224"}, "no stage of stride 16"),
        ({"encoder": "gmlp_ti16_224", "weights": "package"}, "gmlp_ti16_224"),
    ],
)
def test_wrong_options_are_one_line(options: dict[str, Any], named: str) -> None:
    from xaibench.errors import XaibenchError

    with pytest.raises(XaibenchError) as caught:
        make(**options)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("classes", [["a", "a"], []])
def test_classes_must_differ(classes: list[str]) -> None:
    with pytest.raises(UsageError, match="two different classes"):
        GCM(classes, 64, encoder="test_efficientnet", weights="random")


@pytest.mark.parametrize(
    ("encoder", "size", "channels"),
    [
        ("vit_tiny_patch16_224", 64, 192),
        ("vit_tiny_patch16_224", 96, 192),
        ("resnet18", 64, 256),
        ("convnext_atto", 64, 160),
        ("mobilenetv3_small_050", 64, 24),
        ("levit_128s", 64, 128),  # tokens, and no option for the image's size
    ],
)
def test_any_backbone_of_stride_16(encoder: str, size: int, channels: int) -> None:
    gcm = GCM(CLASSES, size, encoder=encoder, weights="random").eval()
    with torch.no_grad():
        prediction = gcm.predict(pictures(2, size))
    assert prediction.features.shape == (2, channels, size // 16, size // 16)
    assert prediction.maps["cwm"].shape == (2, 4, size, size)
    torch.testing.assert_close(prediction.maps["ccm"].mean(dim=(-2, -1)), prediction.logits, atol=1e-5, rtol=0)


def test_channels_last_inside_come_out_first() -> None:
    """Swin's grid is (B, h, w, C): a change in the top right corner must move the top right features most."""
    gcm = GCM(CLASSES, 64, encoder="swin_tiny_patch4_window7_224", weights="random").eval()
    image = pictures(1)
    changed = image.clone()
    changed[..., :8, 48:] = 0
    with torch.no_grad():
        prediction = gcm.predict(image)
        moved = (gcm.features(image) - gcm.features(changed)).abs().mean(dim=1)[0]
    assert prediction.features.shape == (1, 384, 4, 4)
    assert prediction.maps["cwm"].shape == (1, 4, 64, 64)
    assert divmod(int(moved.argmax()), 4) == (0, 3)


def test_seed_decides_and_the_global_generator_does_not_notice() -> None:
    torch.manual_seed(11)
    state = torch.get_rng_state()
    first, again, other = make(seed=1), make(seed=1), make(seed=2)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(3)
    late = make(seed=1)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])
        assert torch.equal(tensor, late.state_dict()[name])
    assert not torch.equal(first.decoders[0][0].weight, other.decoders[0][0].weight)  # type: ignore[arg-type]
    assert first.weights == again.weights


def test_trained_state_is_the_decoder_and_comes_back() -> None:
    source, target = make(seed=1), make(seed=2)
    images = pictures(2)
    with torch.no_grad():
        wanted = source(images)
        assert not torch.allclose(target(images), wanted)
        state = source.trained_state()
        assert (
            sum(tensor.numel() for tensor in state.values() if tensor.is_floating_point())
            < count(source.decoders) * 1.1
        )
        target.load_trained_state(state)
        assert torch.equal(target(images), wanted)
    with pytest.raises(RuntimeError, match="size mismatch"):
        make(cwm_channels=3).load_trained_state(state)


def test_images_of_another_size_than_announced() -> None:
    """Maps come in the size of the images, also where the strides do not divide it."""
    gcm = make()
    with torch.no_grad():
        prediction = gcm.predict(pictures(1, 72))
    assert prediction.maps["cwm"].shape == (1, 4, 72, 72)
    torch.testing.assert_close(prediction.maps["ccm"].mean(dim=(-2, -1)), prediction.logits, atol=1e-5, rtol=0)


def test_predict_names_the_images_and_counts_them() -> None:
    gcm = make()
    with torch.no_grad():
        assert gcm.predict(pictures(2)).ids == ("0", "1")
        assert gcm.predict(pictures(2), ["x", "y"]).ids == ("x", "y")
        with pytest.raises(ValueError, match="1 ids for 2 images"):
            gcm.predict(pictures(2), ["x"])


def test_fast_layout_gives_the_same_numbers(lite0: GCM) -> None:
    """Other kernels add in another order: float32 rounding, some 1e-6 of the largest value, through 30 layers."""
    images = pictures(3)
    with torch.no_grad():
        plain = lite0.predict(images)
        fast = GCM(CLASSES, 64, encoder="tf_efficientnet_lite0", weights="package").optimized()
        laid_out = fast.predict(images.contiguous(memory_format=torch.channels_last))
    assert not fast.training
    weight = fast.decoders[0][0].weight
    assert isinstance(weight, Tensor)
    assert weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(laid_out.logits, plain.logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(laid_out.maps["cwm"], plain.maps["cwm"], atol=1e-4, rtol=1e-4)


def test_batch_size_does_not_matter(lite0: GCM) -> None:
    images = pictures(32)
    with torch.no_grad():
        whole = lite0.predict(images)
        for size in (1, 7):
            parts = [lite0.predict(part) for part in images.split(size)]
            torch.testing.assert_close(torch.cat([p.logits for p in parts]), whole.logits, atol=1e-4, rtol=1e-4)
            for name in ("cwm", "ccm"):
                found = torch.cat([p.maps[name] for p in parts])
                torch.testing.assert_close(found, whole.maps[name], atol=1e-4, rtol=1e-4)


def test_cut_encoder_is_the_whole_networks_stage(lite0: GCM) -> None:
    """Cutting the blocks after the stage changes nothing of the stage itself."""
    whole, _ = build_backbone("tf_efficientnet_lite0", "package")
    images = pictures(1)
    with torch.no_grad():
        x = whole.eval().bn1(whole.conv_stem(lite0.normalize(images)))
        for block in whole.blocks[:5]:
            x = block(x)
        torch.testing.assert_close(lite0.features(images), x)


def test_encoder_sees_normalised_images_and_cwm_multiplies_raw_ones(lite0: GCM) -> None:
    black = torch.zeros(1, 3, 64, 64)
    with torch.no_grad():
        prediction = lite0.predict(black)
    assert prediction.maps["cwm"].abs().max() > 0
    assert not prediction.logits.any()  # nothing to multiply: no evidence, whatever the weights
    assert lite0.normalize.mean.flatten().tolist() == [0.5, 0.5, 0.5]  # this backbone's own, not ImageNet's usual


def test_an_efficientnet_may_end_one_stage_earlier_and_others_may_not() -> None:
    earlier = GCM("ab", 64, encoder="tf_efficientnet_lite0", weights="random", stage="blocks.3")
    assert earlier.features(torch.zeros(1, 3, 64, 64)).shape == (1, 80, 4, 4)
    with pytest.raises(UsageError, match=r"one of blocks\.3, blocks\.4"):
        GCM("ab", 64, encoder="tf_efficientnet_lite0", weights="random", stage="blocks.1")
    with pytest.raises(UsageError, match="only an EfficientNet"):
        GCM("ab", 64, encoder="resnet18", weights="random", stage="layer3")
