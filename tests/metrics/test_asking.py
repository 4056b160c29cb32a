"""What every metric of robustness, randomization and the axioms must do, whatever it measures."""

from __future__ import annotations

import inspect
from importlib import metadata

import pytest
import torch

from tests.explainers.small import CLASSES, Small, predict
from tests.metrics.asked import Fixed, explained_by, part, state_of
from xaibench.classifiers.base import Classifier
from xaibench.classifiers.gcm import GCM
from xaibench.explainers.backward_rules import DeepLift
from xaibench.explainers.base import Explainer
from xaibench.explainers.baselines import Random
from xaibench.explainers.cam import GradCAM
from xaibench.explainers.gcm import CCM, CWM
from xaibench.explainers.gradient import InputXGradient, Saliency, SmoothGrad
from xaibench.metrics import Metric, axioms, randomization, robustness
from xaibench.metrics.explained import Explained

MODULES = (robustness, randomization, axioms)
METRICS = [
    value
    for module in MODULES
    for value in vars(module).values()
    if isinstance(value, Metric) and value.compute.__module__ == module.__name__
]
QUICK = {"samples": 3, "steps": 2, "grid": 3}
every = pytest.mark.parametrize("metric", METRICS, ids=lambda m: m.name)


def quick(metric: Metric, explained: Explained) -> torch.Tensor:
    scores = metric(explained, **{name: value for name, value in QUICK.items() if name in metric.parameters})
    assert isinstance(scores, torch.Tensor)
    return scores


@pytest.fixture(scope="module")
def small() -> Classifier:
    return Small().eval()


@pytest.fixture(scope="module")
def by_saliency(small: Classifier) -> Explained:
    return explained_by(small, InputXGradient(), predict(small, 5), torch.tensor([0, 1, 2, 3, 1]))


def test_all_are_registered_under_their_names() -> None:
    points = {p.name: p.value for p in metadata.entry_points(group="xaibench.metrics")}
    assert len(METRICS) == 16
    for metric in METRICS:
        assert points[metric.name] == f"{metric.compute.__module__}:{metric.name}"


@every
def test_declares_all_that_a_table_shows(metric: Metric) -> None:
    assert metric.title
    assert metric.reference
    assert metric.category == metric.compute.__module__.rsplit(".", 1)[1]
    assert metric.chance is None
    assert metric.range[0] < metric.range[1]
    accepted = list(inspect.signature(metric.compute).parameters.values())[1:]
    assert metric.parameters == {parameter.name: parameter.default for parameter in accepted}
    lines = inspect.getsource(metric.compute).split('"""', 2)[2].strip().splitlines()
    assert len(lines) <= 25


@every
def test_shape_type_range_and_determinism(metric: Metric, by_saliency: Explained) -> None:
    scores = quick(metric, by_saliency)
    assert scores.shape == (5,)
    assert scores.dtype == torch.float64
    assert ((scores >= metric.range[0]) & (scores <= metric.range[1]) | scores.isnan()).all()
    assert scores.isfinite().any()
    torch.random.manual_seed(5)
    again = part(by_saliency, [0, 1, 2, 3, 4])
    assert torch.equal(quick(metric, again).nan_to_num(7), scores.nan_to_num(7))


@every
def test_batch_size_and_order_change_nothing(metric: Metric, by_saliency: Explained) -> None:
    whole = quick(metric, by_saliency)
    parts = torch.cat([quick(metric, part(by_saliency, rows)) for rows in ([0, 1], [2], [3, 4])])
    turned = quick(metric, part(by_saliency, [4, 3, 2, 1, 0])).flip(0)
    # relative stabilities divide by values near 0, where the rounding of a batched convolution shows
    tolerance = {"rtol": 1e-3 if "stability" in metric.name else 1e-5, "atol": 1e-6, "equal_nan": True}
    torch.testing.assert_close(parts, whole, **tolerance)
    torch.testing.assert_close(turned, whole, **tolerance)


@every
@pytest.mark.parametrize("value", [0.0, -2.0, float("nan")])
def test_constant_and_non_finite_maps_are_undefined(metric: Metric, value: float, small: Classifier) -> None:
    constant = explained_by(small, Fixed(value), predict(small, 2), torch.tensor([0, 1]))
    speaks = metric.name == "non_sensitivity" and value == -2  # of all cells alike
    assert quick(metric, constant).isnan().all() != speaks


@every
def test_no_pairs_give_no_scores(metric: Metric, small: Classifier) -> None:
    prediction = predict(small, 2).select([])
    empty = Explained(small, Fixed(), prediction, torch.zeros(0, dtype=torch.long), torch.zeros(0, 64, 64))
    assert quick(metric, empty).shape == (0,)


@pytest.fixture(scope="module")
def gcm() -> Classifier:
    return GCM(CLASSES, 64, encoder="tf_efficientnet_lite0", weights="package").eval()


@pytest.mark.parametrize("explainer", [Saliency(), DeepLift(), GradCAM(), SmoothGrad(samples=2), Random()], ids=type)
def test_nothing_is_left_changed(explainer: Explainer, small: Classifier) -> None:
    explained = explained_by(small, explainer, predict(small, 2), torch.tensor([0, 3]))
    before = state_of(small)
    for metric in METRICS:
        quick(metric, explained)
        assert state_of(small) == before, metric.name


@pytest.mark.parametrize("explainer", [CWM(), CCM()], ids=type)
def test_a_self_explaining_classifier_is_left_as_it_was_too(explainer: Explainer, gcm: Classifier) -> None:
    explained = explained_by(gcm, explainer, predict(gcm, 2), torch.tensor([0, 3]))
    before = state_of(gcm)
    for metric in METRICS:
        assert quick(metric, explained).isfinite().any(), metric.name
        assert state_of(gcm) == before, metric.name


class Broken(Explainer):
    """Fails once the classifier is another one, or the images are others, than the first time."""

    calls = 0

    def explain(self, classifier, prediction, targets):  # type: ignore[no-untyped-def]
        self.calls += 1
        if self.calls > 2:
            raise RuntimeError("broken")
        return prediction.images.mean(1)


@every
def test_nothing_is_left_changed_by_an_error(metric: Metric, small: Classifier) -> None:
    explained = explained_by(small, Broken(), predict(small, 2), torch.tensor([0, 3]))
    before = state_of(small)
    try:
        for _ in range(3):
            metric(explained)
    except RuntimeError as error:
        assert str(error) == "broken"  # noqa: PT017 - some metrics ask the explainer less often
    assert state_of(small) == before
