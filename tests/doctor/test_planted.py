"""The doctor finds each planted fault, and cries no wolf."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from xaibench.classifiers import create as create_classifier
from xaibench.classifiers.base import Classifier, Normalize
from xaibench.doctor import diagnose, glance
from xaibench.explainers import create
from xaibench.explainers.base import Explainer, upsample
from xaibench.findings import Finding, errors
from xaibench.testing.small import CLASSES, BoxSplit, Small, small_images
from xaibench.types import Prediction


def smooth_images(count: int = 4, size: int = 64) -> Tensor:
    coarse = torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    return nn.functional.interpolate(coarse, size, mode="bilinear").expand(-1, 3, -1, -1).contiguous()


def found(
    classifier: Classifier, explainers: Mapping[str, Explainer] | None = None, images: Tensor | None = None
) -> list[Finding]:
    return errors(diagnose(classifier.eval(), explainers or {}, smooth_images() if images is None else images))


def weighted(prediction: Prediction, weights: Tensor) -> Tensor:
    return upsample(torch.einsum("bchw,bc->bhw", prediction.features.detach(), weights), prediction.frame)


class InPlaceAfterTarget(Small):
    """The last batch norm is the target, and the ReLU behind it writes into it."""

    head_is_pooled_linear = False

    def features(self, images: Tensor) -> Tensor:
        return self.body[:-1](self.normalize(images))

    def head(self, features: Tensor, images: Tensor) -> Tensor:
        return super().head(self.body[-1](features), images)


class DoubleSoftmax(Small):
    head_is_pooled_linear = False

    def head(self, features: Tensor, images: Tensor) -> Tensor:
        return super().head(features, images).softmax(1)


class DoubleSigmoid(Small):
    head_is_pooled_linear = False

    def head(self, features: Tensor, images: Tensor) -> Tensor:
        return super().head(features, images).sigmoid()


class TooEarly(Small):
    """The first block is the target, with a convolution and a pooling behind it."""

    head_is_pooled_linear = False

    def features(self, images: Tensor) -> Tensor:
        return self.body[:3](self.normalize(images))

    def head(self, features: Tensor, images: Tensor) -> Tensor:
        return super().head(self.body[3:](features), images)


class TooLate(Small):
    """What the pooling leaves is the target."""

    def features(self, images: Tensor) -> Tensor:
        return self.pool(super().features(images))  # type: ignore[no-any-return]


class FrozenBody(Small):
    def features(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            return super().features(images)


class FrozenHead(Small):
    def head(self, features: Tensor, images: Tensor) -> Tensor:
        return super().head(features.detach(), images)


class Of255(Small):
    """Mean and standard deviation of images of 0 to 255, on images in [0, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.normalize = Normalize([123.7, 116.3, 103.5], [58.4, 57.1, 57.4])


class BatchNormCAM(Explainer):
    """A "CAM" whose channel weights are the last batch norm's, as one reproduction builds it."""

    def explain(self, classifier: Classifier, prediction: Prediction, targets: Tensor) -> Tensor:
        weights = classifier.get_submodule("body.5").weight.detach()
        assert isinstance(weights, Tensor)
        return weighted(prediction, weights.expand(len(prediction), -1))


class OneTarget(Explainer):
    def explain(self, classifier: Classifier, prediction: Prediction, targets: Tensor) -> Tensor:
        return weighted(prediction, classifier.class_weights().detach()[targets[0]].expand(len(targets), -1))


class Leaky(Explainer):
    def explain(self, classifier: Classifier, prediction: Prediction, targets: Tensor) -> Tensor:
        classifier.get_submodule("body.4").register_forward_hook(lambda *_: None)
        return weighted(prediction, classifier.class_weights().detach()[targets])


class Undefined(Explainer):
    def explain(self, classifier: Classifier, prediction: Prediction, targets: Tensor) -> Tensor:
        return weighted(prediction, classifier.class_weights().detach()[targets]).sqrt()


class OverTheBatch(Explainer):
    def explain(self, classifier: Classifier, prediction: Prediction, targets: Tensor) -> Tensor:
        maps = weighted(prediction, classifier.class_weights().detach()[targets])
        return maps / maps.max()


class Raises(Explainer):
    def explain(self, classifier: Classifier, prediction: Prediction, targets: Tensor) -> Tensor:
        raise KeyError("layer4")


class Incomplete(Explainer):
    """Promises that its sum is the logit; it is a third of it."""

    completeness = "sum"
    share = 1 / 3

    def baselines(self, images: Tensor) -> Tensor:
        return images[:, None][:, :0]  # it adds up to the logit itself

    def explain(self, classifier: Classifier, prediction: Prediction, targets: Tensor) -> Tensor:
        maps = weighted(prediction, classifier.class_weights().detach()[targets]).abs() + 1e-3
        logits = prediction.logits.gather(1, targets[:, None])[:, 0]
        return maps / maps.sum((1, 2), keepdim=True) * logits[:, None, None] * self.share


class Complete(Incomplete):
    share = 1.0


@pytest.mark.parametrize(
    ("classifier", "check", "says", "remedy"),
    [
        (InPlaceAfterTarget, "in-place", "body.6", "inplace=False"),
        (DoubleSoftmax, "saturated", "softmax", "Take the softmax out"),
        (DoubleSigmoid, "saturated", "sigmoid", "Take the sigmoid out"),
        (TooEarly, "layer", "body.4", "End features() behind"),
        (TooLate, "layer", "one place only", "before the pooling"),
        (FrozenBody, "gradient", "reaches the image", "no_grad"),
        (FrozenHead, "gradient", "reaches the target layer", "detach"),
        (Of255, "normalisation", "all but constant", "[0, 1]"),
    ],
)
def test_faults_of_a_classifier(classifier: type[Classifier], check: str, says: str, remedy: str) -> None:
    faults = found(classifier())
    assert {fault.check for fault in faults} == {check}
    assert says in faults[0].what
    assert remedy in faults[0].remedy


@pytest.mark.parametrize("share", [4095 / 65535, 16383 / 65535])
def test_images_that_use_the_lower_part_of_their_range(share: float) -> None:
    images = smooth_images() / smooth_images().max()
    (fault,) = [fault for fault in found(Small(), images=images * share) if "almost black" in fault.what]
    assert 'range = "stored"' in fault.remedy
    assert not [fault for fault in found(Small(), images=images * 0.3) if "almost black" in fault.what]
    dark = images * share
    dark[0] = images[0]  # one that is not: an ordinary dark image among others
    assert not [fault for fault in found(Small(), images=dark) if "almost black" in fault.what]


def test_raw_255_input() -> None:
    faults = found(Small(), images=smooth_images() * 255)
    assert faults[0].check == "input"
    assert "to 25" in faults[0].what
    assert "Divide by 255" in faults[0].remedy
    already = found(Small(), images=(smooth_images() - 0.5) / 0.25)
    assert "normalising to the classifier" in already[0].remedy


@pytest.mark.parametrize(
    ("explainer", "check", "says", "remedy"),
    [
        (BatchNormCAM, "class", "same for all of 4 classes", "batch norm"),
        (OneTarget, "target", "the first image's target for the whole batch of 4", "targets[:, None]"),
        (Leaky, "hooks", "body.4", "handle.remove()"),
        (Undefined, "nan", "NaN", "Guard"),
        (OverTheBatch, "batch", "other images", "image by image"),
        (Raises, "maps", "KeyError: 'layer4'", "plugin check"),
        (Incomplete, "completeness", "misses it by 67%", "steps"),
    ],
)
def test_faults_of_an_explainer(explainer: type[Explainer], check: str, says: str, remedy: str) -> None:
    classifier = Small()
    faults = found(classifier, {"faulty": explainer(), "cam": create("cam")})
    assert {fault.check for fault in faults} == {check}
    assert {fault.subject for fault in faults} == {"explainer faulty"}
    assert says in faults[0].what
    assert remedy in faults[0].remedy
    assert not any(layer._forward_hooks for layer in classifier.modules())


SOUND = (
    "cam",
    "gradcam",
    "hirescam",
    "eigencam",
    "layercam",
    "saliency",
    "integrated_gradients",
    "fullgrad",
    "random",
    "center",
)


def test_no_false_alarms_on_small() -> None:
    made = {name: create(name) for name in SOUND} | {"complete": Complete()}
    findings = diagnose(Small().eval(), made, smooth_images())
    assert errors(findings) == []
    notes = " ".join(map(str, findings))
    assert "the target layer is the output of body.6, 12 x 8 x 8" in notes
    assert "eigencam: the map is the same for every class, by the method's definition" in notes
    assert "the sum is the logit's difference" in notes


@pytest.mark.parametrize(
    ("name", "options", "explainers"),
    [
        ("gcm", {"encoder": "tf_efficientnet_lite0", "weights": "package"}, ("cwm", "ccm", "ccm_contrast", "gradcam")),
        ("densenet121", {"weights": "random"}, ("cam", "gradcam", "gradcam_pp", "layercam", "saliency")),
        ("timm:test_resnet", {"weights": "random"}, ("cam", "gradcam")),
        ("timm:test_convnext", {"weights": "random"}, ("gradcam",)),
        ("timm:test_efficientnet", {"weights": "random"}, ("cam", "gradcam")),
    ],
)
def test_no_false_alarms(name: str, options: Mapping[str, str], explainers: tuple[str, ...]) -> None:
    classifier = create_classifier(name, classes=CLASSES, input_size=64, **options).eval()
    for images in (smooth_images(), small_images(4)):
        assert errors(diagnose(classifier, {e: create(e) for e in explainers}, images)) == []


def test_the_fast_part_finds_them_with_one_image() -> None:
    explainers = {
        "blind": BatchNormCAM(),
        "one": OneTarget(),
        "cam": create("cam"),
        "eigencam": create("eigencam"),
        "raises": Raises(),  # left to the run
    }
    said = glance(Small().eval(), explainers, BoxSplit("test", 6))
    assert [line.split(":")[1].strip() for line in said] == ["explainer blind", "explainer one"]
    assert "takes one image's target for the whole batch" in said[1]
    assert "saturated" not in " ".join(said)
    assert "softmax" in " ".join(glance(DoubleSoftmax().eval(), {}, BoxSplit("test", 6)))
