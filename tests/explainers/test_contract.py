"""What every explainer must do, whatever its method: each of ours through the conformance kit."""

from __future__ import annotations

import pytest
import torch

from xaibench.classifiers.base import Classifier
from xaibench.explainers import create
from xaibench.explainers.base import frozen, seed_of, upsample
from xaibench.registry import entries
from xaibench.testing import check_explainer
from xaibench.testing.small import small_classifiers
from xaibench.types import Frame

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
NAMES = [  # what takes an argument (a folder of maps) can't be made by its name alone
    entry.name for entry in entries("explainers") if entry.is_builtin and not hasattr(entry.load(), "argument")
]
FURTHER = [  # where another kind of network may matter
    *((name, "gcm") for name in ("gradcam", "oracle_prior_box", "hirescam", "eigencam", "saliency", "guided_backprop")),
    *((name, "densenet") for name in ("gradcam", "cam", "gradcam_pp", "prior_box")),
    *((name, "bigger_head") for name in ("gradcam", "layercam", "shapleycam", "ablationcam")),
    *((name, "vit") for name in ("attention_rollout", "gradient_attention", "gradcam", "eigencam", "ablationcam")),
    ("confidence_map", "nin"),
]


@pytest.fixture(scope="module")
def nets(nin: Classifier) -> list[Classifier]:
    return [*small_classifiers(), nin]


@pytest.mark.parametrize("name", NAMES)
def test_conforms(name: str, nets: list[Classifier]) -> None:
    assert check_explainer(name, nets, options=FEW.get(name)) == []


@pytest.mark.parametrize(("name", "net"), FURTHER)
def test_conforms_on_other_networks_too(name: str, net: str, request: pytest.FixtureRequest) -> None:
    assert check_explainer(name, request.getfixturevalue(net), options=FEW.get(name)) == []


@pytest.mark.parametrize("name", NAMES)
def test_baselines_say_so(name: str) -> None:
    assert create(name, **FEW.get(name, {})).is_baseline == (name in BASELINES)


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
