"""Gradient methods against captum's own call on the whole classifier, known answers, and what they refuse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import captum.attr
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.explainers.small import CLASSES, Linear, Small, predict
from xaibench.classifiers.base import Classifier
from xaibench.classifiers.timm import TimmClassifier
from xaibench.datasets.base import Splits
from xaibench.errors import NotApplicableError, UsageError
from xaibench.explainers import create
from xaibench.explainers.base import seed_of
from xaibench.explainers.layers import operations, sample_image
from xaibench.explainers.reference import Reference
from xaibench.types import Frame, Prediction

Make = Callable[..., Splits]


def near(found: Tensor, wanted: Tensor, relative: float = 1e-5) -> None:
    assert wanted.abs().max() > 0
    torch.testing.assert_close(found, wanted.float(), rtol=0, atol=relative * float(wanted.abs().max()))


def images_of(prediction: Prediction) -> Tensor:
    return prediction.images.clone().requires_grad_(True)


def explained(name: str, classifier: Classifier, prediction: Prediction, targets: Tensor, **options: Any) -> Tensor:
    explainer = create(name, **options)
    explainer.check(classifier)
    with torch.no_grad():
        return explainer.explain(classifier, prediction, targets)


def absolute(attributions: Tensor) -> Tensor:
    return attributions.abs().amax(dim=1)


def signed(attributions: Tensor) -> Tensor:
    return attributions.sum(dim=1)


@pytest.mark.parametrize(
    ("name", "method", "reduce"),
    [
        ("saliency", captum.attr.Saliency, absolute),
        ("input_x_gradient", captum.attr.InputXGradient, signed),
        ("guided_backprop", captum.attr.GuidedBackprop, signed),
        ("deconvnet", captum.attr.Deconvolution, signed),
    ],
)
@pytest.mark.parametrize("net", ["small", "resnet"])
def test_values_are_captums(
    request: pytest.FixtureRequest, name: str, method: Any, reduce: Any, net: str, targets: Tensor
) -> None:
    classifier, prediction = request.getfixturevalue(net), request.getfixturevalue(f"seen_by_{net}").select([0, 3])
    wanted = method(classifier).attribute(images_of(prediction), target=targets[[0, 3]])
    classifier.zero_grad(set_to_none=True)
    near(explained(name, classifier, prediction, targets[[0, 3]]), reduce(wanted.detach()))


@pytest.fixture(scope="module")
def resnet() -> TimmClassifier:
    return TimmClassifier(CLASSES, 64, model="resnet10t", weights="random").eval()


@pytest.fixture(scope="module")
def seen_by_resnet(resnet: TimmClassifier) -> Prediction:
    return predict(resnet)


def test_integrated_gradients_are_captums_and_complete(
    small: Small, seen_by_small: Prediction, targets: Tensor
) -> None:
    method = captum.attr.IntegratedGradients(small)
    for reference, value in (("black", 0.0), ("grey", 0.5)):
        maps = explained("integrated_gradients", small, seen_by_small, targets, steps=20, reference=reference)
        wanted = method.attribute(images_of(seen_by_small), baselines=value, target=targets, n_steps=20)
        near(maps, signed(wanted.detach()))
        with torch.no_grad():
            start = small(torch.full_like(seen_by_small.images, value)).gather(1, targets[:, None])[:, 0]
        change = seen_by_small.logits.gather(1, targets[:, None])[:, 0] - start
        assert ((maps.sum(dim=(1, 2)) - change).abs() <= 0.05 * change.abs().mean()).all()  # the paper's 5%


@pytest.mark.parametrize("name", ["smoothgrad", "vargrad"])
def test_noise_is_captums_with_the_same_draw(
    name: str, small: Small, seen_by_small: Prediction, targets: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    prediction, target = seen_by_small.select([4]), targets[[4]]
    image = prediction.images
    noise = torch.randn(20, 3, 64, 64, generator=torch.Generator().manual_seed(seed_of("noise", prediction.ids[0])))
    scale = 0.15 * float(image.max() - image.min())
    monkeypatch.setattr(torch, "normal", lambda mean, deviation: noise * deviation)
    wanted = captum.attr.NoiseTunnel(captum.attr.Saliency(small)).attribute(
        images_of(prediction), nt_type=name, nt_samples=20, stdevs=scale, target=target, abs=False
    )
    reduce = absolute if name == "smoothgrad" else signed
    # captum's variance is the mean square less the squared mean, too: they cancel, and rounding grows.
    near(explained(name, small, prediction, target, samples=20), reduce(wanted.detach()), 1e-4)


def test_gradientshap_is_captums_with_the_same_draw(
    small: Small, seen_by_small: Prediction, targets: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    prediction, target = seen_by_small.select([4]), targets[[4]]
    background = torch.rand(5, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    explainer = create("gradientshap", samples=12)
    explainer.background = background  # type: ignore[attr-defined]
    generator = torch.Generator().manual_seed(seed_of("gradientshap", prediction.ids[0]))
    rows = torch.randint(5, (12,), generator=generator).numpy()
    along = torch.rand(12, generator=generator).numpy()
    monkeypatch.setattr(np.random, "choice", lambda *_, **__: rows)
    monkeypatch.setattr(np.random, "uniform", lambda *_, **__: along)
    wanted = captum.attr.GradientShap(small).attribute(images_of(prediction), background, n_samples=12, target=target)
    near(explainer.explain(small, prediction, target), signed(wanted.detach()))


def test_deeplift_is_captums_where_captum_is_sound(seen_by_small: Prediction, targets: Tensor) -> None:
    plain = Small(pooled=False).eval()
    prediction = predict(plain)
    wanted = captum.attr.DeepLift(plain).attribute(images_of(prediction), target=targets)
    near(explained("deeplift", plain, prediction, targets), signed(wanted.detach()))
    background = torch.rand(6, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    explainer = create("deepliftshap", background=6)
    explainer.background = background  # type: ignore[attr-defined]
    wanted = captum.attr.DeepLiftShap(plain).attribute(images_of(prediction), background, target=targets)
    near(explainer.explain(plain, prediction, targets), signed(wanted.detach()))


@pytest.mark.parametrize("net", ["small", "resnet", "densenet"])
def test_deeplift_adds_up_where_pools_overlap(request: pytest.FixtureRequest, net: str, targets: Tensor) -> None:
    """ReLU then overlapping max pooling: captum's own rule misses."""
    classifier, prediction = request.getfixturevalue(net), request.getfixturevalue(f"seen_by_{net}").select([0, 3])
    few = targets[[0, 3]]
    with torch.no_grad():
        change = (prediction.logits - classifier(torch.zeros_like(prediction.images))).gather(1, few[:, None])[:, 0]
    maps = explained("deeplift", classifier, prediction, few)
    torch.testing.assert_close(maps.sum(dim=(1, 2)), change, rtol=1e-3, atol=1e-4 * float(change.abs().max()))
    if net == "small":
        own = captum.attr.DeepLift(classifier).attribute(images_of(prediction), target=few).detach().sum(dim=(1, 2, 3))
        assert ((own - change).abs() > 1e-2 * change.abs()).all()


def test_lrp_is_captums_on_the_normalised_image(small: Small, seen_by_small: Prediction, targets: Tensor) -> None:
    net = nn.Sequential(small.body, small.pool, small.flatten, small.last)
    small.flatten.rule = captum.attr._utils.lrp_rules.EpsilonRule()  # type: ignore[attr-defined, assignment]
    wanted = captum.attr.LRP(net).attribute(small.normalize(images_of(seen_by_small)).detach(), target=targets)
    for layer in net.modules():
        vars(layer).pop("activations", None)  # captum leaves them behind
    near(explained("lrp", small, seen_by_small, targets), signed(wanted.detach()))


def test_guided_gradcam_is_captums(small: Small, seen_by_small: Prediction, targets: Tensor) -> None:
    wanted = captum.attr.GuidedGradCam(small, small.body).attribute(
        images_of(seen_by_small), target=targets, interpolate_mode="bilinear"
    )
    small.zero_grad(set_to_none=True)
    near(explained("guided_gradcam", small, seen_by_small, targets), signed(wanted.detach()))


def test_known_answers_on_a_linear_classifier(linear: Linear, seen_by_linear: Prediction, targets: Tensor) -> None:
    weight, images = linear.weight.detach()[targets], seen_by_linear.images
    near(explained("saliency", linear, seen_by_linear, targets), weight.abs().amax(dim=1))
    near(explained("smoothgrad", linear, seen_by_linear, targets, samples=2), weight.abs().amax(dim=1))
    assert explained("vargrad", linear, seen_by_linear, targets, samples=3).max() <= 1e-5
    product = (weight * images).sum(dim=1)
    near(explained("input_x_gradient", linear, seen_by_linear, targets), product)
    near(explained("deeplift", linear, seen_by_linear, targets), product)
    near(explained("integrated_gradients", linear, seen_by_linear, targets, steps=3), product)
    less_grey = (weight * (images - 0.5)).sum(dim=1)
    near(explained("integrated_gradients", linear, seen_by_linear, targets, steps=3, reference="grey"), less_grey)
    explainer = create("gradientshap", samples=2)
    explainer.background = torch.full((3, 3, 16, 16), 0.5)  # type: ignore[attr-defined]
    near(explainer.explain(linear, seen_by_linear, targets), less_grey)


def test_gcm_passes_the_gradient_through_its_frozen_encoder(gcm: Classifier, seen_by_gcm: Prediction) -> None:
    """The score's gradient is more than CWM: the encoder sees the image too."""
    few, target = seen_by_gcm.select([0]), torch.tensor([1])
    images = images_of(few)
    (gradient,) = torch.autograd.grad(gcm(images)[0, 1], images)
    near(explained("saliency", gcm, few, target), gradient.abs().amax(dim=1))
    direct = few.maps["cwm"][:, 1] / (3 * 64 * 64)  # what is left with the encoder held fast
    assert (gradient[:, 0] - direct).abs().max() > 0.01 * direct.abs().max()


def test_references(splits_of: Make) -> None:
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert Reference("x", "black")(images).tolist() == torch.zeros(2, 3, 8, 8).tolist()
    assert Reference("x", "grey")(images).unique().tolist() == [0.5]
    blurred = Reference("x", "blurred")(images)
    assert blurred.shape == images.shape
    assert blurred.std() < 0.5 * images.std()
    assert blurred.mean() == pytest.approx(float(images.mean()), abs=0.05)
    mean = Reference("x", "mean")
    with pytest.raises(UsageError, match="call prepare"):
        mean(images)
    mean.prepare(splits_of(train=[("Effusion", (0, 0, 5, 5))], frame=Frame(8, 8)))
    assert mean(images).unique().tolist() == [0.5]  # its images are grey
    with pytest.raises(UsageError, match=r"integrated_gradients: reference = 'white'; it is one of 'black'"):
        create("integrated_gradients", reference="white")


def test_options_out_of_range_are_named() -> None:
    for name, options, message in (
        ("integrated_gradients", {"steps": 0}, "integrated_gradients: steps = 0"),
        ("smoothgrad", {"samples": 1.5}, "smoothgrad: samples = 1.5"),
        ("vargrad", {"noise": 0.0}, "vargrad: noise = 0.0"),
        ("deepliftshap", {"background": 0}, "background = 0; it is a whole number of at least 1"),
        ("gradientshap", {"samples": True}, "samples = True"),
    ):
        with pytest.raises(UsageError, match=message):
            create(name, **options)


def test_background_must_be_drawn(small: Small, seen_by_small: Prediction, targets: Tensor, splits_of: Make) -> None:
    for name in ("gradientshap", "deepliftshap"):
        with pytest.raises(UsageError, match=r"call prepare\(splits\) first"):
            create(name).explain(small, seen_by_small, targets)
        explainer = create(name)
        explainer.prepare(splits_of(train=[("Effusion", (0, 0, 5, 5))] * 60, frame=Frame(64, 64)))
        assert explainer.background.shape == (explainer.count, 3, 64, 64)  # type: ignore[attr-defined]


class _Odd(Small):
    """A ReLU that is a function, or one layer run twice."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.relu = nn.ReLU()

    def features(self, images: Tensor) -> Tensor:
        features = super().features(images)
        if self.kind == "function":
            return F.relu(features - 0.1)
        if self.kind == "twice":
            return self.relu(features.roll(1, 1) - self.relu(features - 0.1))  # type: ignore[no-any-return]
        return features.detach()


def test_what_cannot_be_followed_is_refused(bigger_head: TimmClassifier, gcm: Classifier, densenet: Classifier) -> None:
    function, twice, detached = (_Odd(kind).eval() for kind in ("function", "twice", "detached"))
    cases: list[tuple[str, Classifier, str]] = [
        ("saliency", detached, "saliency needs gradients, and _Odd gives none: use rise or occlusion"),
        ("fullgrad", detached, "fullgrad needs gradients"),
        ("guided_backprop", function, "computes a ReLU in a function between layers: make it an nn.ReLU"),
        ("deconvnet", bigger_head, "deconvnet is defined for networks of ReLUs and TimmClassifier has gelu: use"),
        ("guided_backprop", Linear().eval(), "changes the ReLUs, and Linear has none: use saliency"),
        ("deeplift", twice, "deeplift can't follow _Odd .*more than once.*: use integrated_gradients"),
        ("deeplift", bigger_head, "must add up to the change of the logits and miss it by .* use integrated_gradients"),
        ("deepliftshap", gcm, "deepliftshap's contributions must add up"),
        ("lrp", densenet, "lrp has no rule for native_batch_norm between TimmClassifier's layers: use"),
        ("lrp", bigger_head, "lrp has no rule for TimmClassifier's GELU"),
        ("cam", gcm, "use gradcam"),
    ]
    for name, classifier, message in cases:
        hung = [sorted(vars(layer)) for layer in classifier.modules()]
        with pytest.raises(NotApplicableError, match=message) as caught:
            create(name).check(classifier)
        assert "\n" not in str(caught.value)
        assert [sorted(vars(layer)) for layer in classifier.modules()] == hung
        assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in classifier.modules())
    create("guided_backprop").check(twice)  # a ReLU run twice is no obstacle to this one


def test_operations_known_answer(small: Small, linear: Linear) -> None:
    seen = operations(small, sample_image(small))
    assert seen["relu"] == {nn.ReLU}
    assert all(None not in runners for runners in seen.values())
    assert operations(_Odd("function").eval(), sample_image(small))["relu"] == {nn.ReLU, None}
    assert set(operations(linear, sample_image(linear))) <= {"mul", "bmm", "mm", "sum"}
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in small.modules())
