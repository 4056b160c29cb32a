"""The network that is scored is the network that was given: hand calculations on networks that are odd in one way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.classifiers.odd_networks import (
    ANSWERS,
    AlwaysDropping,
    BatchStatistics,
    Counts,
    Gives,
    MeanOfPatches,
    OneLogit,
    Plain,
    Prototype,
    Viewed,
    tiny_vit,
)
from tests.tiny import tiny_benchmark
from xaibench.classifiers.base import Classifier, hash_tensors, seeded
from xaibench.classifiers.module import ModuleClassifier
from xaibench.classifiers.nin import NIN
from xaibench.classifiers.probe import check_network, check_parts, probe_images
from xaibench.errors import UsageError
from xaibench.evaluation.evaluate import evaluate
from xaibench.explainers import create
from xaibench.metrics._randomized import randomized
from xaibench.types import Prediction

CLASSES = ("No Finding", "Cardiomegaly", "Pneumothorax", "Effusion")
SIZE = 64


def wrap(module: nn.Module, **options: Any) -> ModuleClassifier:
    options = {"normalize": "none", **options}
    return ModuleClassifier(options.pop("classes", CLASSES), SIZE, module=module, **options)


@pytest.fixture
def images() -> Tensor:
    return torch.rand(5, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


def is_the_network(classifier: Classifier, images: Tensor, wanted: Tensor) -> None:
    with torch.no_grad():
        prediction = classifier.predict(images)
        torch.testing.assert_close(prediction.logits, wanted, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(classifier(images), wanted, atol=1e-5, rtol=1e-4)
        parts = classifier.head(classifier.features(images), images)
        torch.testing.assert_close(parts, wanted, atol=1e-5, rtol=1e-4)


def test_a_vision_transformer_with_a_forward_of_its_own_is_run_as_it_is(images: Tensor) -> None:
    network = tiny_vit(MeanOfPatches)
    with torch.no_grad():
        wanted = network.head(network.forward_features(images)[:, 1:].mean(1))
        by_class_token = network.forward_head(network.forward_features(images))
    assert float((wanted - by_class_token).abs().max()) > 0.1  # what was scored before
    classifier = wrap(network)
    is_the_network(classifier, images, wanted)
    # the head pools the patches that leave the last norm, so that is what is explained: its Grad-CAM is known
    tokens = network.forward_features(images)[:, 1:].detach()
    gradcam = (tokens @ network.head.weight.T)[..., 2].reshape(5, 4, 4) / 16
    found: Any = create("hirescam")
    signed = found.signed(classifier, classifier.predict(images), torch.full((5,), 2))
    torch.testing.assert_close(signed, gradcam.detach(), atol=1e-5, rtol=1e-4)


def test_its_scores_are_those_of_its_own_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    """A head trained on what its forward gives: ROC-AUC 1.0, which its class token does not have."""
    benchmark = tiny_benchmark(metrics=[{"name": "roc_auc"}], classes=["No Finding", "Cardiomegaly"])
    from xaibench.datasets.loader import batches
    from xaibench.evaluation.setup import load_splits

    test = load_splits(benchmark, None).test
    network = tiny_vit(MeanOfPatches, num_classes=2)
    seen = torch.cat([batch.images for batch in batches(test, 32)]).contiguous()
    with torch.no_grad():
        pooled = network.forward_features(seen)[:, 1:].mean(1)
        fitted = torch.linalg.lstsq(
            torch.cat([pooled, torch.ones(len(pooled), 1)], 1), torch.tensor(test.labels)
        ).solution
        network.head.weight.copy_(fitted[:-1].T)
        network.head.bias.copy_(fitted[-1])
    run = evaluate(network, ["gradcam"], benchmark, options={"normalize": "none"}, device="cpu")
    assert [score.value for score in run.select(metric="roc_auc", class_name="macro")] == [1.0]


def test_a_network_that_views_its_maps_runs_in_contiguous_memory(images: Tensor) -> None:
    network = Viewed()
    classifier = wrap(network).optimized()
    assert classifier.memory_format == torch.contiguous_format
    last = images.contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        wanted = network(images)
    is_the_network(classifier, last, wanted)
    assert wrap(Plain()).optimized().memory_format == torch.channels_last
    for copy in randomized(classifier, order="top_down", steps=2, seed=0):
        with torch.no_grad():
            assert copy(classifier.laid_out(last)).shape == (5, 4)


def test_it_runs_through_with_metrics_that_need_the_network() -> None:
    metrics = [{"name": name} for name in ("roc_auc", "energy", "insertion", "mprt", "max_sensitivity")]
    metrics[2] |= {"parameters": {"steps": 4}}
    metrics[4] |= {"parameters": {"samples": 2}}
    run = evaluate(Viewed(), ["gradcam", "saliency"], tiny_benchmark(metrics=metrics), device="cpu")
    assert run.record["memory_format"] == "contiguous"
    assert run.record["failed"] == run.record["given_up"] == {}
    assert all(score.value is not None for score in run.select(explainer="saliency", class_name="macro"))


@pytest.mark.parametrize("squeeze", [False, True])
def test_one_logit_of_two_classes(squeeze: bool, images: Tensor) -> None:
    network = OneLogit(squeeze)
    z = super(OneLogit, network).forward(images).detach()[:, 0]
    for negative, sign in (("healthy", 1), ("ill", -1)):
        classifier = wrap(network, classes=("healthy", "ill"), negative=negative)
        is_the_network(classifier, images, torch.stack([-sign * z / 2, sign * z / 2], 1))
        with torch.no_grad():
            probability = classifier(images).softmax(1)[:, 1]
        torch.testing.assert_close(probability, torch.sigmoid(sign * z))


def test_cam_of_one_logit_has_the_sign_of_the_class(images: Tensor) -> None:
    layers = [nn.Conv2d(3, 8, 5, stride=8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 1)]
    network = nn.Sequential(*layers)
    classifier = wrap(network, classes=("healthy", "ill"), negative="healthy")
    weight = network[4].weight.detach()
    torch.testing.assert_close(classifier.class_weights(), torch.cat([-weight, weight]) / 2)  # type: ignore[arg-type]


def test_one_logit_of_one_class(images: Tensor) -> None:
    network = OneLogit()
    classifier = wrap(network, classes=("ill",))
    is_the_network(classifier, images, network(images).detach())
    run = evaluate(
        network,
        ["gradcam", "rise"],
        tiny_benchmark(classes=["Effusion"], task="multilabel", metrics=[{"name": "roc_auc"}, {"name": "energy"}]),
        options={"normalize": "none"},
        device="cpu",
    )
    assert run.record["failed"] == {}


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({}, "has one output for the classes healthy, ill: say which .* negative = 'healthy'"),
        ({"negative": "sound"}, "negative = 'sound'; it is one of the two classes"),
        ({"negative": "ill", "outputs": [0, 1]}, r"outputs = \[0, 1\]; it is the index of the network's one logit"),
        ({"outputs": [0, 0]}, r"outputs = \[0, 0\] names one output for two classes"),
        ({"outputs": [0, -1]}, r"outputs = \[0, -1\] names one of its 1 outputs twice"),
    ],
)
def test_one_logit_says_what_it_needs(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        wrap(OneLogit(), classes=("healthy", "ill"), **options)


def test_one_column_is_not_two_classes() -> None:
    with pytest.raises(UsageError, match=r"outputs = \[1, 1\] names one output for two classes"):
        wrap(Plain(), classes=("healthy", "ill"), outputs=[1, 1])


def test_one_logit_of_exclusive_classes_is_no_multilabel() -> None:
    benchmark = tiny_benchmark(classes=["No Finding", "Effusion"], task="multilabel", metrics=[{"name": "roc_auc"}])
    with pytest.raises(UsageError, match='the task is "multilabel": name one class alone'):
        evaluate(OneLogit(), ["gradcam"], benchmark, options={"negative": "No Finding"}, device="cpu")


@pytest.mark.parametrize("how", ANSWERS)
def test_whatever_a_network_gives_its_logits_are_found(how: str, images: Tensor) -> None:
    network = Gives(ANSWERS[how])
    with torch.no_grad():
        wanted = Plain()(images)
    is_the_network(wrap(network), images, wanted)


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        (lambda logits, features: (logits, logits + 1), "of which several may be the logits: wrap it"),
        (lambda logits, features: {"features": features}, r"gives a dict of tensors \(1, 8\), not logits"),
        (lambda logits, features: None, "gives a NoneType, not logits"),
        (lambda logits, features: logits.long(), r"gives shape \(1, 4\), not logits"),
        (lambda logits, features: logits.numpy(), "gives a ndarray, not logits"),
    ],
)
def test_what_holds_no_logits_says_so(how: Any, reason: str) -> None:
    with torch.no_grad(), pytest.raises(UsageError, match=reason) as caught:
        wrap(Gives(how))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions(dtype: torch.dtype, images: Tensor) -> None:
    network = Plain().to(dtype)
    classifier = wrap(network).optimized()
    with torch.no_grad():
        wanted = network(images.to(dtype)).float()
        prediction = classifier.predict(images)
        parts = classifier.head(prediction.features, images)
    assert prediction.logits.dtype == prediction.features.dtype == torch.float32
    tolerance = 0.02 if dtype == torch.bfloat16 else 1e-6
    torch.testing.assert_close(prediction.logits, wanted, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(parts, wanted, atol=tolerance, rtol=tolerance)
    for name in ("gradcam", "saliency", "occlusion"):
        explainer = create(name)
        explainer.check(classifier)
        maps = explainer.explain(classifier, prediction, torch.tensor([0, 1, 2, 3, 0]))
        assert maps.dtype == torch.float32
        assert maps.isfinite().all()


def test_what_deepcopy_refuses_is_copied(images: Tensor) -> None:
    network = Prototype()
    classifier = wrap(network)
    is_the_network(classifier, images, network(images).detach())
    assert network.prototype.grad_fn is not None  # the user's own is left alone
    assert len(randomized(classifier, order="top_down", steps=2, seed=0)) == 2


def test_what_can_not_be_copied_says_so_and_the_remedy_works(images: Tensor) -> None:
    network = Plain()
    network.lock = __import__("threading").Lock()  # type: ignore[assignment]
    with pytest.raises(UsageError, match=r"can't be copied .* with the option copy=false it is used itself"):
        wrap(network)
    classifier = wrap(network, copy=False)
    assert classifier.module is network
    is_the_network(classifier, images, network(images).detach())


def test_layers_without_weights_say_so() -> None:
    with seeded(0):  # other weights may leave nothing after the ReLU
        network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LazyLinear(4))
    with pytest.raises(UsageError, match=r"layers without weights yet \(4.weight\): run it once on an image before"):
        wrap(network)
    with seeded(0):
        network(torch.zeros(1, 3, SIZE, SIZE))
    assert wrap(network).layer_name == "1"


@pytest.mark.parametrize("size", [64, 96])
def test_a_size_that_is_found_when_it_runs(size: int) -> None:
    """timm's dynamic sizes: the grid is that of the image, not the one that the model was made for."""
    network = tiny_vit(dynamic_img_size=True)
    classifier = ModuleClassifier(CLASSES, size, module=network, normalize="none")
    images = probe_images(size)
    with torch.no_grad():
        wanted = network(images)
    is_the_network(classifier, images, wanted)
    assert classifier.features(images).shape[2:] == (size // 16, size // 16)
    rollout = create("attention_rollout").explain(classifier, classifier.predict(images), torch.tensor([0, 1, 2]))
    assert rollout.shape == (3, size, size)


def test_what_depends_on_the_batch_is_refused() -> None:
    with pytest.raises(UsageError, match=r"depend on the other images of its batch .*norm has no running statistics"):
        wrap(BatchStatistics().eval())


def test_what_is_drawn_anew_each_time_is_refused() -> None:
    with pytest.raises(UsageError, match=r"other logits for the same images the next time.*dropout"):
        wrap(AlwaysDropping())


def test_a_classifier_of_a_plugin_is_looked_at_too() -> None:
    class Mixed(Classifier):
        """Its own forward is another network than its parts."""

        comes_trained = True

        def __init__(self) -> None:
            super().__init__(tiny_benchmark().classes, SIZE)
            self.plain = Plain()

        def features(self, images: Tensor) -> Tensor:
            return self.plain.body(images)

        def head(self, features: Tensor, images: Tensor) -> Tensor:
            return self.plain.last(features.mean((2, 3)))  # type: ignore[no-any-return]

        def own_forward(self, images: Tensor) -> Tensor:
            return self.plain.last(self.plain.body(images).amax((2, 3)))  # type: ignore[no-any-return]

    with pytest.raises(UsageError, match="gives other logits than the network itself"):
        evaluate(Mixed(), ["gradcam"], tiny_benchmark(), device="cpu")


def test_a_counter_of_calls_is_nobody_s_fault() -> None:
    network = Counts()
    run = evaluate(network, ["gradcam"], tiny_benchmark(metrics=[{"name": "energy"}]), device="cpu")
    assert run.record["failed"] == {}
    assert int(network.calls) == 0
    assert run.record["weights"]["sha256"] == hash_tensors(network.state_dict().items())


def test_pooled_after_a_function_stays_what_it_was(images: Tensor) -> None:
    network = Plain()
    classifier = wrap(network)
    with torch.no_grad():
        second = network.second(F.relu(network.first(images)))
    torch.testing.assert_close(classifier.features(images), second)


class Ways(NIN):
    """A classifier whose logits differ by the way they are asked for."""

    odd = ""

    def features(self, images: Tensor) -> Tensor:
        found = super().features(images)
        return found - found.mean(0) if self.odd == "features of a batch" and len(images) > 1 else found

    def predict(self, images: Tensor, ids: Sequence[str] = ()) -> Prediction:
        features = super().features(images)
        if self.odd == "features of predict":
            return Prediction(self.ids_of(images, ids), images, self.head(features, images), 0 * features)
        return Prediction(self.ids_of(images, ids), images, self.head(features, images), features)

    def own_forward(self, images: Tensor) -> Tensor:
        logits = self.head(super().features(images), images)
        return logits * float("nan") if self.odd == "NaN of its own" else logits

    def forward(self, images: Tensor) -> Tensor:
        logits = self.head(super().features(images), images)
        return logits - logits.mean(0) if self.odd == "forward of a batch" and len(images) > 1 else logits


@pytest.mark.parametrize(
    "odd", ["", "features of a batch", "features of predict", "NaN of its own", "forward of a batch"]
)
def test_every_way_through_a_classifier_is_tried(odd: str) -> None:
    classifier = Ways(("a", "b"), 64, weights="random").eval()
    classifier.odd = odd
    if not odd:
        check_parts(classifier, "Ways")
        return
    with pytest.raises(UsageError, match="Ways"):
        check_parts(classifier, "Ways")


def test_a_batch_that_is_drawn_at_random_is_found_when_it_comes_out_right_once() -> None:
    """The first batch comes out as the images alone do, the second does not."""
    classifier = Ways(("a", "b"), 64, weights="random").eval()
    batches = iter([0.0, 1.0])
    classifier.forward = lambda images: (  # type: ignore[method-assign]
        Ways.forward(classifier, images) + (next(batches) if len(images) > 1 else 0.0)
    )
    with pytest.raises(UsageError, match="other logits for the same images the next time"):
        check_network(classifier, "Ways")
