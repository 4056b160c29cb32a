"""What every explainer must do, whatever its method; one tester puts each through the same checks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from xaibench.classifiers.base import Classifier
from xaibench.datasets.base import Splits
from xaibench.explainers import create
from xaibench.explainers.base import Explainer, frozen, seed_of, upsample
from xaibench.registry import entries
from xaibench.types import Frame, Prediction

BOXES = [("Cardiomegaly", (10, 5, 30, 25)), ("Effusion", (40, 20, 60, 30)), ("Pneumothorax", (1, 1, 9, 9))]
BASELINES = {"random", "center", "prior_box", "oracle_prior_box"}
# Fewer samples than anyone would take: what holds for few holds for many.
FEW = {
    "integrated_gradients": {"steps": 5},
    "smoothgrad": {"samples": 3},
    "vargrad": {"samples": 3},
    "gradientshap": {"samples": 3},
    "deepliftshap": {"background": 2},
    "occlusion": {"window": 0.25},
    "feature_ablation": {"segments": 9},
    "lime": {"samples": 12, "segments": 4},
    "kernel_shap": {"samples": 12, "segments": 4},
    "rise": {"masks": 10},
}
CASES: list[tuple[str, str]] = [
    *((name, "gcm") for name in ("cwm", "ccm", "ccm_contrast", "gradcam", "oracle_prior_box", "hirescam", "eigencam")),
    *((name, "gcm") for name in ("saliency", "guided_backprop")),
    *((name, "densenet") for name in ("gradcam", "cam", "gradcam_pp", "random", "center", "prior_box")),
    *((name, "bigger_head") for name in ("gradcam", "layercam", "shapleycam", "ablationcam")),
    *((name, "small") for name in ("gradcam", "gradcam_pp", "hirescam", "gradcam_elementwise", "xgradcam", "layercam")),
    *((name, "small") for name in ("shapleycam", "finercam", "fem", "eigencam", "eigengradcam", "seg_eigencam")),
    *((name, "small") for name in ("kpca_cam", "randomcam", "scorecam", "ablationcam", "fullgrad", "saliency")),
    *((name, "small") for name in ("input_x_gradient", "integrated_gradients", "smoothgrad", "vargrad")),
    *((name, "small") for name in ("gradientshap", "guided_backprop", "guided_gradcam", "deconvnet", "deeplift")),
    *((name, "small") for name in ("deepliftshap", "lrp", "occlusion", "feature_ablation", "lime", "kernel_shap")),
    ("rise", "small"),
    *((name, "vit") for name in ("attention_rollout", "gradient_attention", "gradcam", "eigencam", "ablationcam")),
    ("confidence_map", "nin"),
    ("maps", "small"),
]


@dataclass
class Case:
    name: str
    explainer: Explainer
    classifier: Classifier
    prediction: Prediction


@pytest.fixture(scope="module", params=CASES, ids=lambda case: "-".join(case))
def case(request: pytest.FixtureRequest, splits_of: Callable[..., Splits]) -> Case:
    name, net = request.param
    few = {"folder": str(request.getfixturevalue("folder_of_maps")), "allow_missing": True} if name == "maps" else {}
    explainer = create(name, **FEW.get(name, {}), **few)
    explainer.prepare(splits_of(train=BOXES, test=BOXES, frame=Frame(64, 64)))
    classifier = request.getfixturevalue(net)
    explainer.check(classifier)
    return Case(name, explainer, classifier, request.getfixturevalue(f"seen_by_{net}"))


def test_every_explainer_of_ours_is_here() -> None:
    assert {entry.name for entry in entries("explainers") if entry.is_builtin} == {name for name, _ in CASES}


def same(found: Tensor, wanted: Tensor) -> None:
    scale = float(wanted.nan_to_num().abs().max())
    torch.testing.assert_close(found, wanted, atol=1e-5 * scale, rtol=1e-4, equal_nan=True)


def test_frame_type_and_no_graph(case: Case, targets: Tensor) -> None:
    maps = case.explainer.explain(case.classifier, case.prediction, targets)
    assert maps.shape == (7, 64, 64)
    assert maps.dtype == torch.float32
    assert not maps.requires_grad
    assert maps[1].isfinite().all()
    assert maps[[1, 2, 3]].std() > 0  # one map alone may be nothing after a ReLU


@pytest.mark.parametrize("size", [1, 3])
def test_batches_do_not_matter(case: Case, targets: Tensor, size: int) -> None:
    whole = case.explainer.explain(case.classifier, case.prediction, targets)
    rows = torch.arange(7).split(size)
    parts = [
        case.explainer.explain(case.classifier, case.prediction.select(part.tolist()), targets[part]) for part in rows
    ]
    same(torch.cat(parts), whole)


def test_order_and_company_do_not_matter(case: Case, targets: Tensor) -> None:
    """Backwards, with one image twice, for two classes."""
    whole = case.explainer.explain(case.classifier, case.prediction, targets)
    order = [6, 5, 5, 3, 1, 0]
    chosen = targets[order].clone()
    chosen[2] = 3
    found = case.explainer.explain(case.classifier, case.prediction.select(order), chosen)
    same(found[[0, 1, 3, 4, 5]], whole[[6, 5, 3, 1, 0]])
    alone = case.explainer.explain(case.classifier, case.prediction.select([5]), torch.tensor([3]))
    same(found[[2]], alone)


def test_gradients_may_be_off_and_the_body_runs_only_where_declared(case: Case, targets: Tensor) -> None:
    """The harness explains under `no_grad`, from a prediction: one forward pass serves unless a method says so."""
    wanted = case.explainer.explain(case.classifier, case.prediction, targets)
    runs = []
    handle = case.classifier.normalize.register_forward_hook(lambda *_: runs.append(1))  # type: ignore[union-attr, operator]
    try:
        with torch.no_grad():
            found = case.explainer.explain(case.classifier, case.prediction, targets)
    finally:
        handle.remove()
    same(found, wanted)
    assert bool(runs) == case.explainer.runs_body


def test_global_generators_do_not_matter(case: Case, targets: Tensor) -> None:
    wanted = case.explainer.explain(case.classifier, case.prediction.select([1, 2]), targets[1:3])
    torch.manual_seed(11)
    np.random.seed(12)  # noqa: NPY002 - what libraries draw from
    states = torch.get_rng_state(), np.random.get_state()[1].tolist()  # type: ignore[index, union-attr] # noqa: NPY002
    found = case.explainer.explain(case.classifier, case.prediction.select([1, 2]), targets[1:3])
    same(found, wanted)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.random.get_state()[1].tolist() == states[1]  # type: ignore[index, union-attr] # noqa: NPY002


def test_classifier_is_left_as_it_was_found(case: Case, targets: Tensor) -> None:
    classifier = case.classifier
    before = {name: tensor.clone() for name, tensor in classifier.state_dict().items()}
    flags = {name: parameter.requires_grad for name, parameter in classifier.named_parameters()}
    modes = [module.training for module in classifier.modules()]
    hung = [sorted(vars(module)) for module in classifier.modules()]
    in_place = [getattr(module, "inplace", None) for module in classifier.modules()]
    images = case.prediction.images.clone()
    features = case.prediction.features.clone()
    case.explainer.explain(classifier, case.prediction, targets)
    assert all(torch.equal(tensor, before[name]) for name, tensor in classifier.state_dict().items())
    assert {name: parameter.requires_grad for name, parameter in classifier.named_parameters()} == flags
    assert any(flags.values())  # else the line above would compare nothing that an explainer can change
    assert all(parameter.grad is None for parameter in classifier.parameters())
    assert [module.training for module in classifier.modules()] == modes
    assert [sorted(vars(module)) for module in classifier.modules()] == hung
    assert [getattr(module, "inplace", None) for module in classifier.modules()] == in_place
    for module in classifier.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
        assert not module._backward_hooks
        assert not module._backward_pre_hooks
    assert torch.equal(case.prediction.images, images)
    assert not case.prediction.images.requires_grad
    assert torch.equal(case.prediction.features, features)
    assert not case.prediction.features.requires_grad
    assert case.prediction.features.grad is None


def test_prediction_with_a_graph(case: Case, targets: Tensor) -> None:
    """A prediction made without `no_grad` gives the same maps, without its graph."""
    images = case.prediction.images[:2]
    tracked = case.classifier.predict(images, case.prediction.ids[:2])
    maps = case.explainer.explain(case.classifier, tracked, targets[:2])
    assert not maps.requires_grad
    wanted = case.explainer.explain(case.classifier, case.prediction.select([0, 1]), targets[:2])
    same(maps, wanted)
    assert all(parameter.grad is None for parameter in case.classifier.parameters())


def test_baselines_say_so(case: Case) -> None:
    assert case.explainer.is_baseline == (case.name in BASELINES)


def test_frozen_restores_flags_after_an_error(gcm: Classifier) -> None:
    flags = [parameter.requires_grad for parameter in gcm.parameters()]
    assert set(flags) == {True, False}
    seen = []

    def fail() -> None:
        with torch.no_grad(), frozen(gcm):
            seen.append((torch.is_grad_enabled(), any(parameter.requires_grad for parameter in gcm.parameters())))
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert seen == [(True, False)]
    assert [parameter.requires_grad for parameter in gcm.parameters()] == flags
    assert torch.is_grad_enabled()


def test_upsample_known_answer() -> None:
    ramp = torch.tensor([[[0.0, 4.0]]], dtype=torch.float64)
    found = upsample(ramp, Frame(1, 4))  # centres at 0.25, 0.75, 1.25, 1.75 of [0.5, 1.5]: clamped outside
    assert found.dtype == torch.float32
    assert found.tolist() == [[[0.0, 1.0, 3.0, 4.0]]]
    assert upsample(ramp, Frame(1, 2)).tolist() == ramp.tolist()


def test_seed_known_answer_and_boundaries() -> None:
    assert seed_of("random", "00000001_000.png", 1) == seed_of("random", "00000001_000.png", 1) < 2**63
    assert len({seed_of("a", "b"), seed_of("ab"), seed_of("", "ab"), seed_of("a", "b", "")}) == 4
    # sha256 of "a", first 8 bytes, top bit dropped: the same on every machine and in every release.
    assert seed_of("a") == 0xCA978112CA1BBDCA >> 1
