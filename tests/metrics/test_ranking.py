"""Ranking metrics: scores worked by hand, agreement with scikit-learn and Quantus, and chance levels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor

from xaibench.errors import UsageError
from xaibench.metrics import Metric, _ops
from xaibench.metrics.localization import energy
from xaibench.metrics.ranking import (
    attribution_localisation,
    attribution_localisation_weighted,
    pixel_ap,
    pixel_auc,
    relevance_rank_accuracy,
    top_k_intersection,
)


def maps_and_masks(batch: int = 12, size: int = 48) -> tuple[Tensor, Tensor]:
    """Smooth maps, as CAMs are, without ties, and random boxes."""
    generator = torch.Generator().manual_seed(5)
    coarse = torch.randn(batch, 1, 7, 7, generator=generator)
    maps = torch.nn.functional.interpolate(coarse, (size, size), mode="bilinear", align_corners=False)[:, 0]
    maps += 1e-3 * torch.randn(maps.shape, generator=generator)
    masks = torch.zeros(batch, size, size, dtype=torch.bool)
    for mask in masks:
        y, x, h, w = (int(torch.randint(1, size // 2, (1,), generator=generator)) for _ in range(4))
        mask[y : y + h, x : x + w] = True
    return maps, masks


def quantus_scores(name: str, maps: Tensor, masks: Tensor, **options: object) -> np.ndarray:
    quantus = pytest.importorskip("quantus")
    metric = getattr(quantus, name)(normalise=False, disable_warnings=True, **options)
    batch = {"a_batch": maps.numpy()[:, None], "s_batch": masks.numpy()[:, None]}
    return np.asarray(metric.evaluate_batch(x_batch=batch["a_batch"], **batch), dtype=float)


KINDS = {
    "smooth": lambda maps: maps,
    "negative": lambda maps: maps - 10,
    "coarse": lambda maps: maps.round(decimals=1),  # ties everywhere
    "rectified": lambda maps: maps.clamp(min=0),  # half the map is one tie
    "signed zeros": lambda maps: torch.where(maps > 0.5, maps, maps.sign() * 0.0),
    "two values": lambda maps: (maps > 0.3).float(),
    "tiny": lambda maps: maps * 1e-42,  # denormal
    "huge": lambda maps: maps * 1e37,
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize("kind", KINDS)
def test_auc_and_ap_are_scikit_learns(kind: str, dtype: torch.dtype) -> None:
    maps, masks = maps_and_masks()
    maps = KINDS[kind](maps).to(dtype)
    defined = (maps.isfinite().all(-1).all(-1) & (maps.amax((1, 2)) > maps.amin((1, 2)))).nonzero()[:, 0]
    assert len(defined) > 8 or dtype == torch.float16
    for ours, theirs in ((pixel_auc, roc_auc_score), (pixel_ap, average_precision_score)):
        scores = ours(maps, masks)
        for index in defined.tolist():
            # pairs and pixels are counted in whole numbers; what differs is the rounding of a few divisions
            expected = theirs(masks[index].flatten(), maps[index].double().flatten())
            assert scores[index].item() == pytest.approx(expected, abs=1e-13)


def test_auc_and_ap_by_hand() -> None:
    maps = torch.tensor([[[5.0, 4.0, 4.0], [4.0, 2.0, 1.0]]])
    masks = torch.tensor([[[False, True, False], [True, False, False]]])
    # 2 x 4 pairs: each of the mask's loses to 5, ties with 4, beats 2 and 1
    assert pixel_auc(maps, masks).item() == (0 + 0.5 + 1 + 1) * 2 / 8
    assert pixel_ap(maps, masks).item() == 2 / 4  # both are reached when four pixels have been passed
    assert pixel_auc(masks.float(), masks).item() == pixel_ap(masks.float(), masks).item() == 1
    assert pixel_auc(-masks.float(), masks).item() == 0
    full = torch.ones_like(masks)
    assert pixel_auc(maps, full).isnan()
    assert pixel_auc.chance(full).isnan()
    assert pixel_ap(maps, full).item() == pixel_ap.chance(full).item() == 1


@settings(max_examples=30)
@given(st.integers(0, 2**31))
def test_auc_of_the_negative_is_the_rest(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randint(-3, 4, (4, 6, 7), generator=generator).float()
    masks = torch.rand(4, 6, 7, generator=generator) < 0.3
    both = pixel_auc(maps, masks) + pixel_auc(-maps, masks)
    assert torch.allclose(both[~both.isnan()], torch.ones(1, dtype=torch.float64), rtol=0, atol=1e-15)


@pytest.mark.parametrize(
    ("ours", "theirs", "options"),
    [
        (relevance_rank_accuracy, "RelevanceRankAccuracy", {}),
        (top_k_intersection, "TopKIntersection", {}),
        (pixel_auc, "AUC", {}),
        (attribution_localisation, "AttributionLocalisation", {"positive_attributions": True}),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_quantus_agrees_without_ties(ours: Metric, theirs: str, options: dict[str, object]) -> None:
    maps, masks = maps_and_masks()
    scores = ours(maps.double(), masks).numpy()
    # Quantus adds 1e-9 to the whole of the attribution
    np.testing.assert_allclose(scores, quantus_scores(theirs, maps.double(), masks, **options), rtol=0, atol=1e-9)
    np.testing.assert_array_equal(ours(maps, masks).numpy(), scores) if ours is not attribution_localisation else None
    assert scores.std() > 0.01


def of_all_orders(maps: Tensor, masks: Tensor, k: int) -> float:
    """Share of the k largest pixels in the mask: the mean over many random orders of the ties."""
    generator = torch.Generator().manual_seed(0)
    total = 0.0
    for _ in range(1000):
        order = torch.randperm(maps.numel(), generator=generator)
        top = maps.flatten()[order].argsort(descending=True, stable=True)[:k]
        total += masks.flatten()[order][top].double().mean().item()
    return total / 1000


def test_ties_count_as_a_random_choice_would() -> None:
    maps = torch.tensor([[[3.0, 2.0, 2.0, 2.0], [2.0, 2.0, 1.0, 1.0]]])
    masks = torch.tensor([[[False, True, True, True], [False, False, True, False]]])
    # the first pixel is certain and outside; three of the next five are wanted, of which 3/5 are inside
    assert relevance_rank_accuracy(maps, masks).item() == pytest.approx((3 * 3 / 5) / 4, abs=1e-15)
    assert top_k_intersection(maps, masks, k=2).item() == pytest.approx((3 / 5) / 2, abs=1e-15)
    assert top_k_intersection(maps, masks, k=8).item() == 4 / 8
    # standard error of 1000 draws: 0.006
    assert relevance_rank_accuracy(maps, masks).item() == pytest.approx(of_all_orders(maps, masks, 4), abs=0.024)
    # Quantus's sort decides: the same map, mirrored, is worth something else
    flips = [[], [1], [2], [1, 2]]
    theirs = {quantus_scores("RelevanceRankAccuracy", maps.flip(d), masks.flip(d))[0] for d in flips}
    assert len(theirs) > 1


def test_a_rectified_map_of_no_overlap_still_reaches_its_zeros() -> None:
    maps = torch.zeros(1, 10, 10)
    maps[0, 0, :2] = 1
    masks = torch.zeros(1, 10, 10, dtype=torch.bool)
    masks[0, 5:7, 5:10] = True
    assert relevance_rank_accuracy(maps, masks).item() == pytest.approx(8 * (10 / 98) / 10, abs=1e-15)


def test_attribution_localisation_is_energy_and_its_weight_is_the_area() -> None:
    maps, masks = maps_and_masks()
    assert torch.equal(attribution_localisation(maps, masks), energy(maps, masks))
    even = torch.full((1, 8, 8), 0.25)
    even[0, 0, 0] += 1e-6  # all but constant
    mask = torch.zeros(1, 8, 8, dtype=torch.bool)
    mask[0, 2:4, 2:6] = True
    assert attribution_localisation_weighted(even, mask).item() == pytest.approx(1, abs=1e-6)
    assert attribution_localisation_weighted(mask.float(), mask).item() == 64 / 8


def test_quantus_weighted_is_not_the_papers() -> None:
    # Kohlbrenner et al.: mu_w = mu S_tot / S_in. All of the map lies in the mask, a quarter of the image: 1 x 4.
    masks = torch.zeros(4, 4, 4, dtype=torch.bool)
    masks[:, :2, :2] = True
    assert attribution_localisation_weighted(masks.float(), masks).tolist() == [4.0] * 4
    theirs = quantus_scores("AttributionLocalisation", masks.double(), masks, weighted=True)
    # x_batch[2:].size is 32, the pixels of the last two images; and it multiplies: 1 x 4 / 32
    np.testing.assert_allclose(theirs, 4 / 32, atol=1e-8)


CHANCES = [
    (relevance_rank_accuracy, {}),
    (top_k_intersection, {"k": 60}),
    (attribution_localisation, {}),
    (attribution_localisation_weighted, {}),
    (pixel_auc, {}),
    (pixel_ap, {}),
]


@pytest.mark.parametrize("rows", [slice(0, 1), slice(5, 14)], ids=["small", "large"])
@pytest.mark.parametrize(("metric", "options"), CHANCES, ids=lambda value: getattr(value, "name", ""))
def test_chance_is_what_noise_scores(metric: Metric, options: dict[str, int], rows: slice) -> None:
    maps = torch.rand(10_000, 16, 16, generator=torch.Generator().manual_seed(12))
    mask = torch.zeros(1, 16, 16, dtype=torch.bool)
    mask[0, rows, 3:9] = True
    scores = metric(maps, mask.expand(10_000, -1, -1), **options)
    expected = metric.chance(mask, **options).item()
    assert abs(scores.mean() - expected) <= 2.576 * scores.std() / 100


@given(
    arrays(np.float32, (3, 5, 7), elements=st.floats(-2, 2, width=16)),
    arrays(bool, (3, 5, 7)),
)
def test_metrics_that_share_one_sort_score_the_same(maps: np.ndarray, masks: np.ndarray) -> None:
    used = [pixel_auc, pixel_ap, relevance_rank_accuracy]
    for values in (torch.from_numpy(maps), torch.from_numpy(maps).double()):
        apart = [metric(values, torch.from_numpy(masks)) for metric in used]
        with _ops.sharing():
            kept = torch.from_numpy(masks)
            together = [metric(values, kept) for metric in used]
        for one, other in zip(apart, together, strict=True):
            assert torch.equal(one.nan_to_num(-1), other.nan_to_num(-1))


@given(arrays(np.float32, 40, elements=st.floats(width=32, allow_nan=False)))
def test_falling_is_numpys_order(values: np.ndarray) -> None:
    order, numbers = _ops.falling(values)
    ordered = values[order]
    np.testing.assert_array_equal(ordered, -np.sort(-values))
    np.testing.assert_array_equal(numbers[1:] == numbers[:-1], ordered[1:] == ordered[:-1])


def test_without_the_pixels_to_ignore() -> None:
    from sklearn.metrics import average_precision_score, roc_auc_score

    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(4, 12, 14, generator=generator).mul(3).round()  # with ties
    masks, ignore = (torch.rand(4, 12, 14, generator=generator) < share for share in (0.2, 0.3))
    for metric, theirs in ((pixel_auc, roc_auc_score), (pixel_ap, average_precision_score)):
        expected = [theirs(masks[k][~ignore[k]], maps[k][~ignore[k]]) for k in range(4)]
        assert metric(maps, masks, ignore=ignore).tolist() == pytest.approx(expected, abs=1e-12)
        assert metric(maps.double(), masks, ignore=ignore).tolist() == pytest.approx(expected, abs=1e-12)
        assert metric(maps, masks, ignore=masks).isnan().all()  # nothing is left of the region
        assert metric.chance(masks, ignore=masks).isnan().all()
        assert torch.equal(metric(maps, masks, ignore=torch.zeros_like(masks)), metric(maps, masks))
        none = metric.chance(masks, ignore=torch.zeros_like(masks))
        assert torch.allclose(none, metric.chance(masks), rtol=0, atol=1e-12)
    assert pixel_auc(maps, masks, ignore=~masks).isnan().all()  # nothing is left of the rest
    assert pixel_auc.chance(masks, ignore=~masks).isnan().all()
    with pytest.raises(UsageError, match="ignore"):
        pixel_ap(maps, masks, ignore=ignore[:2])
