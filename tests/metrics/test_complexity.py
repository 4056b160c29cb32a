"""Complexity metrics: scores worked by hand, agreement with Quantus, and chance levels."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from xaibench.metrics import Metric
from xaibench.metrics.complexity import complexity, effective_complexity, sparseness

MAPS = torch.nn.functional.interpolate(
    torch.randn(8, 1, 7, 7, generator=torch.Generator().manual_seed(1)), (40, 40), mode="bilinear"
)[:, 0]


def quantus_scores(name: str, maps: Tensor) -> np.ndarray:
    quantus = pytest.importorskip("quantus")
    values = maps.double().abs().numpy()[:, None].copy()  # Quantus works in place
    metric = getattr(quantus, name)(normalise=False, disable_warnings=True)
    return np.asarray(metric.evaluate_batch(a_batch=values, x_batch=values), dtype=float)


def pixels(count: int, *, of: int = 100) -> Tensor:
    """One map of `of` pixels: 1 at `count` of them."""
    maps = torch.zeros(1, 1, of)
    maps[..., :count] = 1
    return maps


def test_an_even_share_of_k_pixels() -> None:
    for k in (1, 2, 10, 50):
        assert sparseness(pixels(k)).item() == pytest.approx(1 - k / 100, abs=1e-12)
        assert complexity(pixels(k)).item() == pytest.approx(math.log(k), abs=1e-12)
        assert effective_complexity(pixels(k)).item() == k


def test_the_sign_plays_no_part_and_zero_does() -> None:
    for metric in (sparseness, complexity, effective_complexity):
        assert torch.equal(metric(-MAPS), metric(MAPS))
        assert torch.equal(metric(MAPS.abs()), metric(MAPS))
        assert not torch.allclose(metric(MAPS + 1), metric(MAPS))


def test_masks_are_ignored() -> None:
    empty = torch.zeros(MAPS.shape, dtype=torch.bool)
    for metric in (sparseness, complexity, effective_complexity):
        assert torch.equal(metric(MAPS, empty), metric(MAPS))
        assert metric.chance(empty).isfinite().all()


def test_effective_complexity_counts_above_a_share_of_the_largest() -> None:
    maps = torch.tensor([[[8.0, 4.0, 2.0, -2.0, 1.0, 0.0]]], dtype=torch.float64)
    assert [effective_complexity(maps, eps=eps).item() for eps in (0.0, 0.125, 0.25, 0.5, 0.9)] == [5, 4, 2, 1, 1]
    # Quantus normalises by the largest of the batch: beside a map of values a million times larger, nothing is left
    pair = torch.cat([maps, 1e6 * maps])
    assert effective_complexity(pair).tolist() == [5, 5]
    assert quantus_scores("EffectiveComplexity", pair / pair.max()).tolist() == [0, 5]


def test_quantus_agrees() -> None:
    # Quantus adds 1e-7 to each value before the Gini index, 1e-12 to each share inside the logarithm
    np.testing.assert_allclose(sparseness(MAPS).numpy(), quantus_scores("Sparseness", MAPS), rtol=0, atol=1e-6)
    np.testing.assert_allclose(complexity(MAPS).numpy(), quantus_scores("Complexity", MAPS), rtol=0, atol=1e-8)
    scaled = MAPS / MAPS.abs().amax((-2, -1), keepdim=True)
    np.testing.assert_array_equal(effective_complexity(MAPS).numpy(), quantus_scores("EffectiveComplexity", scaled))


def test_quantus_sparseness_depends_on_the_unit() -> None:
    small = 1e-7 * pixels(1)
    assert sparseness(small).item() == pytest.approx(0.99, abs=1e-12)
    # one value of 2e-7 among 99 of 1e-7: (99 x 2 - 99 x 1) / (100 x 101) after the sum's other terms cancel
    assert quantus_scores("Sparseness", small)[0] == pytest.approx(99 / 10100, abs=1e-6)


@pytest.mark.parametrize("side", [8, 24])
@pytest.mark.parametrize("metric", [sparseness, complexity, effective_complexity], ids=lambda m: m.name)
def test_chance_is_what_noise_scores(metric: Metric, side: int) -> None:
    maps = torch.rand(10_000, side, side, generator=torch.Generator().manual_seed(13))
    options = {"eps": 0.3} if metric is effective_complexity else {}
    scores = metric(maps, **options)
    expected = metric.chance(torch.zeros(1, side, side, dtype=torch.bool), **options).item()
    assert abs(scores.mean() - expected) <= 2.576 * scores.std() / 100
