"""Methods of forward passes: captum's own values, known answers on a linear classifier, and RISE by its definition."""

from __future__ import annotations

import sys
from typing import Any

import captum.attr
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from captum._utils.models.linear_model import SkLearnRidge
from torch import Tensor

from tests.explainers.small import Linear, Small
from xaibench.classifiers.base import Classifier, seeded
from xaibench.errors import NotApplicableError, UsageError
from xaibench.explainers import create
from xaibench.explainers.base import seed_of
from xaibench.explainers.perturbation import RISE, grid, slic
from xaibench.types import Frame, Prediction


def near(found: Tensor, wanted: Tensor, relative: float = 1e-5) -> None:
    assert wanted.abs().max() > 0
    torch.testing.assert_close(found, wanted.float(), rtol=0, atol=relative * float(wanted.abs().max()))


def explained(name: str, classifier: Classifier, prediction: Prediction, targets: Tensor, **options: Any) -> Tensor:
    explainer = create(name, **options)
    explainer.check(classifier)
    return explainer.explain(classifier, prediction, targets)


def loss(linear: Linear, prediction: Prediction, targets: Tensor) -> Tensor:
    """What each pixel's hiding in grey takes off a linear logit, (B, H, W)."""
    return (linear.weight.detach()[targets] * (prediction.images - 0.5)).sum(dim=1)


def test_occlusion_is_captums(small: Small, seen_by_small: Prediction, targets: Tensor) -> None:
    few, target = seen_by_small.select([0, 3]), targets[[0, 3]]
    wanted = captum.attr.Occlusion(small).attribute(few.images, (3, 16, 16), (3, 8, 8), baselines=0.5, target=target)
    near(explained("occlusion", small, few, target, window=0.25), wanted[:, 0])
    black = captum.attr.Occlusion(small).attribute(few.images, (3, 8, 8), (3, 8, 8), baselines=0.0, target=target)
    near(explained("occlusion", small, few, target, step=1.0, reference="black", batch_size=7), black[:, 0])


def test_occlusion_and_ablation_of_a_linear_classifier(
    linear: Linear, seen_by_linear: Prediction, targets: Tensor
) -> None:
    pixels = loss(linear, seen_by_linear, targets)
    squares = F.avg_pool2d(pixels[:, None], 4) * 16
    wanted = squares.repeat_interleave(4, -1).repeat_interleave(4, -2)[:, 0]
    near(explained("occlusion", linear, seen_by_linear, targets, window=0.25, step=1.0), wanted)
    options = {"superpixels": "grid", "segments": 16}
    near(explained("feature_ablation", linear, seen_by_linear, targets, **options), wanted)


def test_kernel_shap_of_a_linear_classifier_is_exact(
    linear: Linear, seen_by_linear: Prediction, targets: Tensor
) -> None:
    """Shapley values of a sum are its terms; LIME's are them too, up to its ridge's shrinking."""
    squares = F.avg_pool2d(loss(linear, seen_by_linear, targets)[:, None], 8) * 64
    wanted = squares.repeat_interleave(8, -1).repeat_interleave(8, -2)[:, 0]
    options = {"superpixels": "grid", "segments": 4, "samples": 200}
    near(explained("kernel_shap", linear, seen_by_linear, targets, **options), wanted, 1e-3)
    lime = explained("lime", linear, seen_by_linear, targets, **options)
    for row in range(len(targets)):
        assert np.corrcoef(lime[row].flatten(), wanted[row].flatten())[0, 1] > 0.98


@pytest.mark.parametrize("name", ["lime", "kernel_shap"])
def test_regressions_are_captums_with_the_same_draw(
    name: str, small: Small, seen_by_small: Prediction, targets: Tensor
) -> None:
    few, target = seen_by_small.select([3]), targets[[3]]
    parts = slic(few.images, 9, name)
    method: Any = captum.attr.KernelShap(small)
    if name == "lime":
        # Its authors' kernel on the superpixels shown: cosine distance at a width of 0.25.
        def nearness(_: Tensor, __: Tensor, shown: Tensor, **___: Any) -> float:
            distance = 1 - F.cosine_similarity(shown.float(), torch.ones_like(shown).float())
            return float(np.sqrt(np.exp(-(float(distance) ** 2) / 0.25**2)))

        method = captum.attr.Lime(small, SkLearnRidge(alpha=1.0), nearness)
    with seeded(seed_of(name, few.ids[0])):
        wanted = method.attribute(few.images, baselines=0.5, target=target, feature_mask=parts, n_samples=30)
    near(explained(name, small, few, target, samples=30, segments=9), wanted[:, 0].detach())


def test_kernel_shap_adds_up(small: Small, seen_by_small: Prediction, targets: Tensor) -> None:
    few, target = seen_by_small.select([0, 3]), targets[[0, 3]]
    maps = explained("kernel_shap", small, few, target, samples=40, superpixels="grid", segments=9)
    parts = grid(Frame(64, 64), 9)
    total = torch.stack([maps[:, parts == part].mean(dim=1) for part in range(9)]).sum(dim=0)
    with torch.no_grad():
        change = few.logits - small(torch.full_like(few.images, 0.5))
    # captum weights the two ends a million times, not infinitely.
    torch.testing.assert_close(total, change.gather(1, target[:, None])[:, 0], rtol=1e-2, atol=1e-3)


def test_rise_is_its_definition(small: Small, seen_by_small: Prediction, targets: Tensor) -> None:
    few, target = seen_by_small.select([0, 3]), targets[[0, 3]]
    explainer = RISE(masks=9, batch_size=4)
    maps = explainer.explain(small, few, target)
    for row in range(2):
        masks = torch.cat(list(explainer.draw(Frame(64, 64), few.ids[row])))
        assert masks.shape == (9, 64, 64)
        wanted = torch.zeros(64, 64)
        for mask in masks:
            with torch.no_grad():
                wanted += small(few.images[row : row + 1] * mask).softmax(dim=1)[0, target[row]] * mask
        near(maps[row], wanted / (9 * 0.5))
    near(RISE(masks=9, batch_size=1).explain(small, few, target), maps)


def test_rise_masks(small: Small) -> None:
    masks = torch.cat(list(RISE(masks=300, shown=0.3).draw(Frame(40, 60), "a")))
    assert masks.shape == (300, 40, 60)
    assert masks.min() == 0
    assert float(masks.max()) == pytest.approx(1)
    assert masks.mean() == pytest.approx(0.3, abs=0.02)  # 300 masks of some 50 cells: a standard error of 0.004
    spread = masks.mean(dim=0)
    assert spread.std() < 0.04  # no place is shown more than another: sqrt(0.3 * 0.7 / 300) = 0.026, less by smoothing
    other = torch.cat(list(RISE(masks=300, shown=0.3).draw(Frame(40, 60), "b")))
    assert not torch.equal(masks, other)


def test_rise_finds_what_a_probability_hangs_on(targets: Tensor) -> None:
    linear = Linear(32).eval()
    with torch.no_grad():
        linear.weight.zero_()
        linear.weight[1, :, 4:12, 20:28] = 0.05  # the second class sees this square alone
    prediction = linear.predict(torch.full((1, 3, 32, 32), 0.8), ["a"])
    heat = RISE(masks=800).explain(linear, prediction, torch.tensor([1]))[0].detach()
    y, x = divmod(int(heat.argmax()), 32)
    assert 2 <= y < 14
    assert 18 <= x < 30


def test_superpixels(seen_by_small: Prediction, monkeypatch: pytest.MonkeyPatch) -> None:
    image = torch.zeros(1, 3, 32, 32)
    image[..., 16:] = 1
    parts = slic(image, 8, "lime")
    assert parts.shape == (1, 1, 32, 32)
    assert parts.min() == 0
    left, right = set(parts[..., :15].flatten().tolist()), set(parts[..., 17:].flatten().tolist())
    assert not left & right  # no superpixel spans the edge
    assert left | right == set(range(int(parts.max()) + 1))
    assert grid(Frame(9, 12), 9).unique(return_counts=True)[1].tolist() == [12] * 9
    monkeypatch.setitem(sys.modules, "skimage.segmentation", None)
    with pytest.raises(NotApplicableError, match=r"^lime makes its superpixels with scikit-image: pip install"):
        create("lime").check(None)  # type: ignore[arg-type]
    create("lime", superpixels="grid").check(None)  # type: ignore[arg-type]


def test_options_out_of_range_are_named() -> None:
    for name, options, message in (
        ("occlusion", {"window": 0.0}, "occlusion: window = 0.0; it is a share"),
        ("occlusion", {"step": 1.5}, "occlusion: step = 1.5"),
        ("occlusion", {"batch_size": 0}, "occlusion: batch_size = 0"),
        ("lime", {"superpixels": "squares"}, "lime: superpixels = 'squares'"),
        ("kernel_shap", {"samples": 1}, "kernel_shap: samples = 1; it is a whole number of at least 2"),
        ("feature_ablation", {"segments": 1}, "segments = 1"),
        ("rise", {"shown": 1.0}, "rise: shown = 1.0; it is a probability"),
        ("rise", {"masks": 0}, "rise: masks = 0"),
    ):
        with pytest.raises(UsageError, match=message):
            create(name, **options)
