"""Axioms: worked cases on linear classifiers, what methods promise, and where Quantus says otherwise."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.explainers.small import CLASSES, Linear, Small, predict
from tests.metrics.asked import Brightness, Fixed, explained_by
from tests.metrics.references.again import Given
from xaibench.classifiers.base import Classifier
from xaibench.classifiers.gcm import GCM
from xaibench.errors import UsageError
from xaibench.explainers.backward_rules import LRP, DeepLift, DeepLiftShap
from xaibench.explainers.base import Explainer
from xaibench.explainers.cam import GradCAM
from xaibench.explainers.fullgrad import FullGrad
from xaibench.explainers.gcm import CCM, CWM
from xaibench.explainers.gradient import GradientShap, InputXGradient, IntegratedGradients, Saliency
from xaibench.metrics import axioms
from xaibench.metrics.axioms import Shifted, cells, completeness, input_invariance, non_sensitivity
from xaibench.metrics.explained import Explained

TARGETS = torch.tensor([0, 1, 2])


@pytest.fixture(scope="module")
def small() -> Classifier:
    return Small().eval()


@pytest.fixture(scope="module")
def linear() -> Classifier:
    return Linear().eval()


def by(classifier: Classifier, explainer: Explainer) -> Explained:
    return explained_by(classifier, explainer, predict(classifier, 3, size=classifier.input_size), TARGETS)


@pytest.mark.parametrize("multiply", ["raw", "normalized"])
def test_contribution_maps_are_the_logit(multiply: Any) -> None:
    gcm = GCM(CLASSES, 64, encoder="tf_efficientnet_lite0", weights="package", multiply=multiply).eval()
    assert completeness(by(gcm, CCM())).max() < 1e-4  # rounding of a sum of 4096 values that nearly cancel
    assert completeness(by(gcm, CWM())).min() > 0.5
    assert completeness(by(gcm, CCM()), aggregate="sum").min() > 0.99


def test_input_times_gradient_of_a_linear_model_is_complete_and_its_gradient_is_not(linear: Classifier) -> None:
    assert completeness(by(linear, InputXGradient())).max() < 1e-5
    assert completeness(by(linear, Saliency())).min() > 0.1


class Times(InputXGradient):
    """Input times gradient, times something."""

    factor = 3.0

    def reduce(self, attributions: Tensor) -> Tensor:
        return super().reduce(attributions) * self.factor


def test_completeness_worked_by_hand(linear: Classifier) -> None:
    # S = 3 D: |3 D - D| / (3 |D| + |D|) = 1/2; a quarter of it: |1/4 - 1| / (1/4 + 1) = 3/5; the other sign: 1
    for factor, expected in ((3.0, 0.5), (0.25, 0.6), (-1.0, 1.0), (1e-9, 1.0)):
        tripled = Times()
        tripled.factor = factor
        assert completeness(by(linear, tripled)).tolist() == pytest.approx([expected] * 3, abs=1e-4)


@pytest.mark.parametrize("reference", ["black", "grey", "blurred"])
def test_methods_with_a_reference_are_complete_against_theirs(reference: str, small: Classifier) -> None:
    assert completeness(by(small, DeepLift(reference=reference))).max() < 1e-3
    assert completeness(by(small, IntegratedGradients(steps=200, reference=reference))).max() < 0.02


def test_methods_with_many_references_are_complete_against_their_mean(small: Classifier) -> None:
    generator = torch.Generator().manual_seed(3)
    deep, gradient = DeepLiftShap(background=4), GradientShap(samples=400, background=4)
    deep.background = gradient.background = torch.rand(4, 3, 64, 64, generator=generator)
    explained = by(small, deep)
    assert completeness(explained).max() < 1e-3
    with torch.no_grad():
        base = small(deep.background).mean(0)
    wanted = explained.prediction.logits[torch.arange(3), TARGETS] - base[TARGETS]
    torch.testing.assert_close(explained.maps.sum((1, 2)), wanted, rtol=1e-3, atol=1e-4)
    assert completeness(by(small, gradient)).median() < 0.2  # in the mean over draws only
    torch.testing.assert_close(axioms._baseline_logits(by(small, gradient)), base[TARGETS].double())


def test_every_explainer_that_declares_nothing_is_summed_against_black(small: Classifier) -> None:
    explained = by(small, GradCAM())
    with torch.no_grad():
        black = small(torch.zeros(1, 3, 64, 64))[0, TARGETS].double()
    wanted = explained.prediction.logits.double()[torch.arange(3), TARGETS] - black
    found = explained.maps.double().sum((1, 2))
    expected = (found - wanted).abs() / (found.abs() + wanted.abs())
    torch.testing.assert_close(
        completeness(explained),
        expected.nan_to_num(nan=7).where(~completeness(explained).isnan(), torch.nan),
        equal_nan=True,
    )


@pytest.mark.filterwarnings("ignore")
def test_quantus_completeness_asks_floats_to_be_equal() -> None:
    quantus = pytest.importorskip("quantus")
    linear = Linear(size=4).eval()
    explained = by(linear, InputXGradient())
    assert completeness(explained).max() < 1e-5
    metric = quantus.Completeness(disable_warnings=True, normalise=False, abs=False)

    def logits(x: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return linear(torch.from_numpy(x)).numpy()

    model = SimpleNamespace(predict=logits, shape_input=lambda x, *_, **__: x)
    metric.perturb_func = lambda arr, indices: np.zeros_like(arr)
    theirs = metric.evaluate_batch(
        model=model,
        x_batch=explained.prediction.images.numpy(),
        y_batch=TARGETS.numpy(),
        a_batch=(explained.prediction.images * linear.weight[TARGETS]).detach().numpy(),
    )
    assert not np.all(theirs)  # true by the model's own definition


def test_a_shifted_classifier_says_the_same(small: Classifier) -> None:
    images = predict(small, 3).images
    moved = Shifted(small, -1.0)
    assert not moved.training
    with torch.no_grad():
        torch.testing.assert_close(moved(images - 1.0), small(images), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(moved.class_weights(), small.class_weights())
    for explainer in (LRP(), FullGrad(), DeepLift()):
        explainer.check(moved)


def test_gradients_are_invariant_and_input_times_gradient_is_not(linear: Classifier, small: Classifier) -> None:
    assert input_invariance(by(linear, Saliency())).tolist() == [0, 0, 0]
    assert input_invariance(by(small, GradCAM())).max() < 1e-3
    explained = by(linear, InputXGradient())
    for shift in (-1.0, 0.5):
        weights = linear.weight[TARGETS].detach().sum(1)
        expected = abs(shift) * weights.flatten(1).norm(dim=1) / explained.maps.flatten(1).norm(dim=1)
        torch.testing.assert_close(input_invariance(explained, shift=shift).float(), expected, rtol=1e-4, atol=0)
    fixed = by(small, Fixed())
    assert input_invariance(fixed).tolist() == [0, 0, 0]
    # the image itself, off by 1 at every pixel
    seen = by(small, Brightness())
    expected = 64 / seen.maps.flatten(1).norm(dim=1)
    torch.testing.assert_close(input_invariance(seen).float(), expected, rtol=1e-5, atol=0)


def test_contribution_maps_are_invariant() -> None:
    gcm = GCM(CLASSES, 64, encoder="tf_efficientnet_lite0", weights="package").eval()
    assert input_invariance(by(gcm, CCM())).max() < 1e-3


def test_quantus_moves_the_bias_by_what_padding_spoils() -> None:
    pytest.importorskip("quantus")
    from quantus.helpers.model.pytorch_model import PyTorchModel

    torch.manual_seed(0)
    network = nn.Sequential(nn.Sequential(nn.Conv2d(3, 2, 3, padding=1)), nn.Flatten(), nn.Linear(2 * 36, 2)).eval()
    images = torch.rand(2, 3, 6, 6)

    class Padded(Classifier):
        def __init__(self) -> None:
            super().__init__(CLASSES[:2], 6)
            self.network = network

        def features(self, images: Tensor) -> Tensor:
            return self.network[0](images)  # type: ignore[no-any-return]

        def head(self, features: Tensor, images: Tensor) -> Tensor:
            return self.network[2](features.flatten(1))  # type: ignore[no-any-return]

    with torch.no_grad():
        own = network(images)
        torch.testing.assert_close(Shifted(Padded(), -1.0)(images - 1.0), own, rtol=1e-4, atol=1e-5)
        wrapped = PyTorchModel(nn.Sequential(network[0][0], *network[1:]), channel_first=True)
        try:
            theirs = wrapped.add_mean_shift_to_first_layer(-1.0, (1, 3, 6, 6))(images - 1.0)
        except TypeError:  # a convolution that is the network's first layer can't be indexed
            wrapped = PyTorchModel(network, channel_first=True)
            wrapped.model = network
            theirs = wrapped.add_mean_shift_to_first_layer(-1.0, (1, 3, 6, 6))(images - 1.0)
    assert (theirs - own).abs().max() > 0.05  # the two networks must say the same, and don't


class Dead(Classifier):
    """Linear in the image, its left half without weight."""

    def __init__(self) -> None:
        super().__init__(CLASSES[:2], 4)
        weight = torch.rand(2, 4, 4, generator=torch.Generator().manual_seed(0)) + 0.5
        weight[:, :, :2] = 0
        self.weight = nn.Parameter(weight)

    def features(self, images: Tensor) -> Tensor:
        return images.mean(1, keepdim=True)

    def head(self, features: Tensor, images: Tensor) -> Tensor:
        return torch.einsum("khw,bhw->bk", self.weight, features[:, 0])


def test_non_sensitivity_worked_by_hand_and_as_in_quantus() -> None:
    dead = Dead().eval()
    prediction = dead.predict(torch.rand(3, 3, 4, 4, generator=torch.Generator().manual_seed(1)) * 0.5 + 0.25)
    maps = dead.weight[0].detach().repeat(3, 1, 1)
    maps[1, 0, 0] = 0.3  # says that a pixel without weight matters
    maps[2, :2, 3] = 0  # says that two with weight don't
    explained = Explained(dead, Given(maps), prediction, torch.tensor([0, 0, 0]), maps)
    ours = non_sensitivity(explained, grid=4)
    assert ours.tolist() == [0, 1 / 16, 2 / 16]
    assert non_sensitivity(explained, grid=2).tolist() == [0, 1 / 4, 0]  # the upper right cell holds others
    assert non_sensitivity(explained, grid=1).tolist() == [0, 0, 0]
    quantus = pytest.importorskip("quantus")
    metric = quantus.NonSensitivity(disable_warnings=True, normalise=False, features_in_step=1)
    grey = prediction.images.mean(1, keepdim=True).detach()

    def logits(x: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return dead(torch.from_numpy(x).expand(-1, 3, -1, -1)).numpy()

    def theirs() -> list[float]:
        found = metric.evaluate_batch(
            model=SimpleNamespace(predict=logits, shape_input=lambda x, *_, **__: x),
            x_batch=grey.numpy(),
            y_batch=np.zeros(3, dtype=int),
            a_batch=maps[:, None].numpy(),
        )
        return np.asarray(found, dtype=float).tolist()

    # Quantus paints a pixel as dark as the image's darkest: that one is never changed, and never matters
    assert int(grey[2].argmin()) == 2 * 4 + 3
    assert theirs() == [0, 1, 3]
    grey[:, 0, 3, 0] = 0  # a black one where the classifier has no weight
    assert theirs() == pytest.approx((16 * ours).tolist(), abs=1e-6)


def test_non_sensitivity_of_a_constant_map_is_that_all_matters() -> None:
    dead = Dead().eval()
    prediction = dead.predict(torch.rand(4, 3, 4, 4, generator=torch.Generator().manual_seed(1)) * 0.5 + 0.25)
    maps = torch.full((4, 4, 4), 0.5)
    maps[1], maps[2], maps[3] = -2.0, 0.0, torch.nan
    explained = Explained(dead, Given(maps), prediction, torch.zeros(4, dtype=torch.long), maps)
    found = non_sensitivity(explained, grid=4)
    assert found[:2].tolist() == [0.5, 0.5]  # the left half has no weight
    assert found[2:].isnan().all()


def test_cells_cover_the_image_once() -> None:
    for height, width, grid in ((7, 9, 3), (8, 8, 8), (5, 4, 1)):
        found = cells(height, width, grid)
        assert found.shape == (grid**2, height, width)
        assert (found.sum(0) == 1).all()
        assert found.flatten(1).any(1).all()


def test_painted_cells_are_shared(small: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    prediction, shared = predict(small, 2), {}
    both = [explained_by(small, one, prediction, TARGETS[:2], shared=shared) for one in (Fixed(), Brightness())]
    seen: list[int] = []
    forward = Small.features
    monkeypatch.setattr(Small, "features", lambda self, images: seen.append(len(images)) or forward(self, images))
    for explained in both:
        assert non_sensitivity(explained, grid=4).isfinite().all()
    assert sum(seen) == 2 * 2 * 16


@pytest.mark.parametrize(
    ("metric", "options"),
    [
        (completeness, {"aggregate": "max"}),
        (input_invariance, {"shift": 0.0}),
        (input_invariance, {"shift": float("inf")}),
        (non_sensitivity, {"grid": 0}),
        (non_sensitivity, {"grid": 65}),
        (non_sensitivity, {"eps": 1.0}),
    ],
)
def test_bad_parameters_are_named(metric: Any, options: dict[str, Any], small: Classifier) -> None:
    with pytest.raises(UsageError, match=next(iter(options))):
        metric(by(small, Brightness()), **options)
