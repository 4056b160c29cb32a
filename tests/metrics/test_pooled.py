"""Metrics of a whole dataset: statistics worked by hand, agreement with other implementations, and chance levels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score
from torch import Tensor

from xaibench.errors import UsageError
from xaibench.metrics import Metric, _ops, pixel_rows
from xaibench.metrics.boxes import box_iou
from xaibench.metrics.pooled import iou_best, iou_fixed, max_box_acc, max_box_acc_v2, pxap


def maps_and_masks(batch: int = 24, size: int = 40) -> tuple[Tensor, Tensor]:
    """Smooth maps, as CAMs are, and one or two boxes each."""
    generator = torch.Generator().manual_seed(5)
    coarse = torch.randn(batch, 1, 7, 7, generator=generator)
    maps = torch.nn.functional.interpolate(coarse, (size, size), mode="bilinear", align_corners=False)[:, 0]
    masks = torch.zeros(batch, size, size, dtype=torch.bool)
    for index, mask in enumerate(masks):
        for _ in range(1 + index % 2):
            y, x, h, w = (int(torch.randint(1, size // 2, (1,), generator=generator)) for _ in range(4))
            mask[y : y + h, x : x + w] = True
    return maps, masks


def result(metric: Metric, maps: Tensor, masks: Tensor, **options: object) -> np.ndarray:
    """(J, T): the score at each threshold for each criterion, of all the maps as one class."""
    assert metric.pool is not None
    if metric.pool.pixels:
        return np.array(metric.pool.pixels.exact(pixel_rows(maps, masks)))
    means = metric(maps, masks, **options).numpy().mean(0, keepdims=True)
    return metric.pool.scores(means, **{**metric.parameters, **options})[0]


def test_pxap_is_scikit_learns_of_all_pixels() -> None:
    maps, masks = maps_and_masks()
    exact = maps.double()
    low, high = exact.amin((1, 2), keepdim=True), exact.amax((1, 2), keepdim=True)
    expected = average_precision_score(masks.flatten(), ((exact - low) / (high - low)).flatten())
    assert result(pxap, maps, masks).item() == pytest.approx(expected, abs=1e-12)


def test_pxap_lets_large_lesions_dominate() -> None:
    masks = torch.zeros(2, 20, 20, dtype=torch.bool)
    masks[0, :15, :15] = True
    masks[1, 18:20, 18:20] = True
    maps = masks.float()
    maps[1] = 1 - maps[1]  # the small one missed
    assert result(pxap, maps, masks).item() > 0.35
    assert result(pxap, maps.flip(0), masks.flip(0)).item() == pytest.approx(result(pxap, maps, masks).item())


def test_iou_at_thresholds_is_torchmetrics() -> None:
    functional = pytest.importorskip("torchmetrics.functional.classification")
    maps, masks = maps_and_masks(8)
    ious = iou_best(maps, masks, thresholds=[0.0, 0.31, 0.5, 0.99])
    for column, threshold in enumerate((0.0, 0.31, 0.5, 0.99)):
        exact = maps.double()
        low, high = exact.amin((1, 2), keepdim=True), exact.amax((1, 2), keepdim=True)
        segments = (exact - low) / (high - low) > threshold
        expected = [
            functional.binary_jaccard_index(s.int(), m.int()).item() for s, m in zip(segments, masks, strict=True)
        ]
        np.testing.assert_allclose(ious[:, column].numpy(), expected, rtol=0, atol=1e-6)  # theirs is float32
    assert torch.equal(iou_fixed(maps, masks, threshold=0.31), ious[:, 1])


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_iou_of_a_heavy_tail_is_exact_at_every_threshold(kind: torch.dtype) -> None:
    maps, masks = maps_and_masks(8)
    maps = maps.double().mul(6).exp().to(kind)
    thresholds = [0.07, 0.0, 0.5, 0.0033, 0.31, 0.999]  # in any order
    exact = maps.double().numpy()
    low, high = exact.min((1, 2), keepdims=True), exact.max((1, 2), keepdims=True)
    scaled, inside = (exact - low) / (high - low), masks.numpy()
    found = iou_best(maps, masks, thresholds=thresholds)
    for column, threshold in enumerate(thresholds):
        above = scaled > threshold
        wanted = (above & inside).sum((1, 2)) / (above | inside).sum((1, 2))
        assert found[:, column].tolist() == wanted.tolist()
        assert iou_fixed(maps, masks, threshold=threshold).tolist() == wanted.tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_foreground_lies_strictly_above_in_float64(dtype: torch.dtype) -> None:
    maps = torch.tensor([[[-1.0, 0.0, 1e-20], [1e-10, 0.5, 1.0]]], dtype=dtype)
    masks = torch.tensor([[[False, False, False], [True, True, True]]])
    # 1e-20 is lost beside the 1 that is added, 1e-10 is not
    assert iou_fixed(maps, masks, threshold=0.5).item() == 1
    assert iou_fixed(maps, masks, threshold=0.5 + 1e-10).item() == pytest.approx(2 / 3)
    moved = _ops.above(maps, masks, [0.5, 0.0])
    assert moved.tolist() == [[[0, 2], [3, 3]]]


def test_iou_without_the_pixels_to_ignore() -> None:
    maps, masks = maps_and_masks(6, 32)
    maps = maps.mul(6).exp()
    low, high = (end.double()[:, None, None] for end in (maps.amin((1, 2)), maps.amax((1, 2))))
    exact = (maps.double() - low) / (high - low)
    ignore = torch.rand(masks.shape, generator=torch.Generator().manual_seed(6)) < 0.3
    thresholds = (0.07, 0.0, 0.5, 0.003)
    ious = iou_best(maps, masks, thresholds=thresholds, ignore=ignore)
    for row in range(len(maps)):
        kept = ~ignore[row]
        for column, threshold in enumerate(thresholds):
            segment, mask = exact[row][kept] > threshold, masks[row][kept]
            expected = (segment & mask).sum() / (segment | mask).sum()
            assert ious[row, column].item() == pytest.approx(expected.item(), abs=1e-6)
    assert not torch.equal(ious, iou_best(maps, masks, thresholds=thresholds))
    assert iou_fixed(maps, masks, ignore=masks).isnan().all()  # nothing is left of the region
    assert iou_fixed.chance(masks, ignore=masks).isnan().all()


def test_max_box_acc_is_the_share_of_box_ious_that_reach() -> None:
    maps, masks = maps_and_masks()
    thresholds = (0.1, 0.3, 0.5, 0.7)
    ious = box_iou(maps, masks, thresholds=thresholds).numpy()
    expected = np.stack([(ious >= delta).mean(0) for delta in (0.3, 0.5, 0.7)])
    found = result(max_box_acc, maps, masks, thresholds=thresholds, deltas=(0.3, 0.5, 0.7))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    second = result(max_box_acc_v2, maps, masks, thresholds=thresholds)
    assert (second >= found).all()  # any box, not the largest one's only
    assert (second > found).any()
    assert (np.diff(second, axis=0) <= 0).all()  # a larger delta is harder


def test_v2_takes_the_best_pair_of_boxes() -> None:
    maps = torch.zeros(1, 20, 20)
    maps[0, 1:10, 1:10] = 1  # large and wrong
    maps[0, 14:18, 14:18] = 1
    masks = torch.zeros(1, 20, 20, dtype=torch.bool)
    masks[0, 14:18, 14:17] = True  # IoU 0.75 with the second box
    masks[0, 0, 19] = True  # a second region
    assert result(max_box_acc, maps, masks, thresholds=[0.5]).tolist() == [[0.0]]
    assert result(max_box_acc_v2, maps, masks, thresholds=[0.5], deltas=[0.5, 0.75, 0.8]).tolist() == [[1], [1], [0]]


@pytest.mark.parametrize("rows", [slice(0, 2), slice(4, 14)], ids=["small", "large"])
def test_iou_chance_is_what_noise_scores(rows: slice) -> None:
    maps = torch.rand(10_000, 16, 16, generator=torch.Generator().manual_seed(3))
    mask = torch.zeros(1, 16, 16, dtype=torch.bool)
    mask[0, rows, 3:9] = True
    thresholds = [0.0, 0.2, 0.5, 0.8]
    scores = iou_best(maps, mask.expand(len(maps), -1, -1), thresholds=thresholds)
    z = torch.special.ndtri(torch.tensor(1 - 0.005 / len(thresholds), dtype=torch.float64))
    expected = iou_best.chance(mask, thresholds=thresholds)[0]
    assert ((scores.mean(0) - expected).abs() <= z * scores.std(0) / 100).all()
    assert iou_fixed.chance(mask).item() == expected[2]
    ignore = torch.zeros_like(mask)
    ignore[0, 2:6, :6] = True
    scores = iou_best(
        maps, mask.expand(len(maps), -1, -1), thresholds=thresholds, ignore=ignore.expand(len(maps), -1, -1)
    )
    expected = iou_best.chance(mask, thresholds=thresholds, ignore=ignore)[0]
    assert ((scores.mean(0) - expected).abs() <= z * scores.std(0) / 100).all()


@pytest.mark.parametrize("metric", [max_box_acc, max_box_acc_v2], ids=lambda m: m.name)
def test_box_chance_is_what_noise_scores(metric: Metric) -> None:
    maps = torch.rand(400, 16, 16, generator=torch.Generator().manual_seed(4))
    mask = torch.zeros(1, 16, 16, dtype=torch.bool)
    mask[0, 4:14, 3:12] = True
    options = {"thresholds": (0.1, 0.5, 0.9), "deltas": (0.3, 0.5)}
    scores = metric(maps, mask.expand(len(maps), -1, -1), **options)
    expected = metric.chance(mask, **options)[0]
    variance = torch.maximum(scores.var(0), expected * (1 - expected))
    # chance rests on 500 maps and their mirror images; six columns share the band
    z = torch.special.ndtri(torch.tensor(1 - 0.005 / 6, dtype=torch.float64))
    assert ((scores.mean(0) - expected).abs() <= z * (variance / 400 + variance / 400).sqrt()).all()
    assert metric.chance(torch.zeros_like(mask), **options).isnan().all()


def test_pxap_chance_is_the_area() -> None:
    masks = maps_and_masks()[1]
    assert pxap.chance(masks).mean().item() == pytest.approx(masks.double().mean().item(), abs=1e-12)
    noise = torch.rand(masks.shape, generator=torch.Generator().manual_seed(0))
    assert result(pxap, noise, masks).item() == pytest.approx(masks.double().mean().item(), abs=0.01)


@pytest.mark.parametrize(
    ("metric", "options"),
    [
        (iou_fixed, {"threshold": 1.0}),
        (iou_best, {"thresholds": []}),
        (max_box_acc, {"deltas": []}),
        (max_box_acc_v2, {"deltas": [0.0]}),
    ],
)
def test_bad_parameters_are_named(metric: Metric, options: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=next(iter(options)).rstrip("s")):
        metric(*maps_and_masks(2), **options)
