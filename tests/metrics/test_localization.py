"""Scores worked by hand, and chance levels against simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

from xaibench.metrics import Metric, _ops
from xaibench.metrics._dilate import dilate
from xaibench.metrics.localization import (
    energy,
    hit_rate,
    iou_otsu,
    map_area,
    pointing_game,
    visible_in_box,
    visible_outside,
)


def point(height: int, width: int, *where: tuple[int, int]) -> Tensor:
    """One map (1, H, W): 1 at each (row, column), 0 elsewhere."""
    maps = torch.zeros(1, height, width)
    for row, column in where:
        maps[0, row, column] = 1
    return maps


def box(height: int, width: int, rows: slice, columns: slice) -> Tensor:
    masks = torch.zeros(1, height, width, dtype=torch.bool)
    masks[0, rows, columns] = True
    return masks


def test_hit_rate_shares_the_point_between_ties() -> None:
    mask = box(6, 6, slice(1, 3), slice(1, 3))
    assert hit_rate(point(6, 6, (1, 1)), mask).item() == 1
    assert hit_rate(point(6, 6, (3, 3)), mask).item() == 0
    assert hit_rate(point(6, 6, (0, 0), (1, 2), (5, 5), (4, 0)), mask).item() == 0.25
    assert hit_rate.chance(mask).item() == 4 / 36


def test_hit_rate_of_a_negative_map_takes_its_largest_value() -> None:
    assert hit_rate(point(6, 6, (1, 1)) - 5, box(6, 6, slice(1, 3), slice(1, 3))).item() == 1


@pytest.mark.parametrize(
    ("peak", "hit"),
    [
        ((100, 100), 1),  # inside
        ((100, 135), 1),  # 14 columns from the last column of the mask
        ((100, 136), 0),  # 15: strictly less is asked
        ((132, 133), 0),  # 9 and 12 pixels: distance exactly 15
        ((131, 133), 1),  # 8 and 12: 14.4
        ((85, 100), 0),
        ((86, 100), 1),  # 14 rows above the first row
    ],
)
def test_pointing_game_at_its_reference_size(peak: tuple[int, int], hit: int) -> None:
    masks = box(224, 224, slice(100, 124), slice(90, 122))  # last row 123, last column 121
    assert pointing_game(point(224, 224, peak), masks).item() == hit


def test_pointing_game_scales_its_tolerance_with_the_width() -> None:
    masks = box(128, 128, slice(60, 70), slice(60, 70))  # 15 * 128 / 224 = 8.57 pixels
    assert pointing_game(point(128, 128, (65, 77)), masks).item() == 1
    assert pointing_game(point(128, 128, (65, 78)), masks).item() == 0
    assert pointing_game(point(128, 128, (65, 78)), masks, reference_size=128).item() == 1
    assert pointing_game(point(128, 128, (65, 78), (65, 65), (0, 0), (77, 65)), masks).item() == 0.5


def test_pointing_game_without_tolerance_is_the_hit_rate() -> None:
    generator = torch.Generator().manual_seed(0)
    maps = torch.randint(0, 5, (50, 12, 12), generator=generator).float()  # many ties
    masks = torch.rand(50, 12, 12, generator=generator) < 0.3
    assert torch.equal(pointing_game(maps, masks, tolerance=0), hit_rate(maps, masks))
    assert torch.equal(pointing_game.chance(masks, tolerance=0), hit_rate.chance(masks))


def test_dilation_equals_the_definition() -> None:
    generator = torch.Generator().manual_seed(1)
    masks = torch.rand(8, 21, 17, generator=generator) < 0.01
    masks[0] = False
    masks[1, 0, 0] = masks[1, -1, -1] = True
    masks[2:5] = False
    masks[2, 3:9, 4:6] = masks[3, 18:, :3] = masks[4, 5:8, 5:9] = True  # rectangles
    masks[4, 7, 8] = False  # but for a pixel
    rows, columns = torch.meshgrid(torch.arange(21), torch.arange(17), indexing="ij")
    for radius in (0.5, 1.0, 2.0, 2.3, 5.0, 40.0):
        expected = masks.clone()
        for image, row, column in masks.nonzero().tolist():
            expected[image] |= (rows - row) ** 2 + (columns - column) ** 2 < radius**2
        assert torch.equal(dilate(masks, radius), expected)


def test_energy_ignores_negative_values() -> None:
    maps = torch.tensor([[[2.0, 1.0], [-7.0, 5.0]]])
    masks = torch.tensor([[[True, False], [True, False]]])
    assert energy(maps, masks).item() == 0.25
    assert energy.chance(masks).item() == 0.5
    assert math.isnan(energy(-maps.abs(), masks).item())


def test_energy_adds_in_double_precision() -> None:
    maps = torch.full((1, 1024, 1024), 1e-4)
    maps[0, 0, 0] = 1e4  # in float32, where steps at 1e4 are 1e-3, all the rest would vanish
    masks = ~point(1024, 1024, (0, 0)).bool()
    small = float(torch.tensor(1e-4)) * (1024**2 - 1)
    assert energy(maps, masks).item() == pytest.approx(small / (small + 1e4), rel=1e-12)


def test_iou_fills_holes_but_not_bays() -> None:
    ring = torch.zeros(1, 7, 7)
    ring[0, 1:6, 1:6] = 1
    ring[0, 2:5, 2:5] = 0
    masks = box(7, 7, slice(1, 6), slice(1, 6))
    assert iou_otsu(ring, masks).item() == 1
    assert iou_otsu(ring, masks, fill_holes=False).item() == 16 / 25
    ring[0, 1, 3] = 0  # a gap in the ring lets the outside in
    assert iou_otsu(ring, masks).item() == 15 / 25
    ring[0, 1, 3] = 1
    ring[0, 1, 1] = 0  # a diagonal gap does not: background is joined by 4-neighbours
    assert iou_otsu(ring, masks).item() == 24 / 25


def test_iou_by_hand() -> None:
    maps = torch.tensor([[[0.0, 10, 200], [0, 220, 255]]])  # Otsu: {0, 0, 10} below, {200, 220, 255} above
    masks = torch.tensor([[[False, True, True], [False, True, False]]])
    assert iou_otsu(maps, masks).item() == 2 / 4
    assert iou_otsu(maps - 1000, masks).item() == 2 / 4  # the sign plays no part
    assert iou_otsu(maps, ~(maps > 100)).item() == 0


def test_displayed_map_is_the_positive_part_over_the_images_maximum() -> None:
    maps = torch.tensor([[[8.0, 4.0, 2.0], [-9.0, 1.0, 0.0]]])
    masks = torch.tensor([[[False, True, True], [True, True, False]]])
    shares = visible_in_box(maps, masks, thresholds=[0.5, 0.0, 0.125, 0.49])  # strictly above; any order
    assert shares.tolist() == [[0, 0.75, 0.5, 0.25]]
    assert map_area(maps, masks, thresholds=[0.5, 0.0, 0.125, 0.49]).tolist() == [[1 / 6, 4 / 6, 3 / 6, 2 / 6]]


@given(
    arrays(np.float32, (2, 3, 4), elements=st.floats(-1, 1, width=32) | st.sampled_from([0.5, 1.0])),
    arrays(bool, (2, 3, 4)),
    st.sampled_from([2.0**-140, 1e-20, 0.1, 1.0, 3.0, 1e30]),
)
def test_what_is_displayed_is_counted_as_in_float64(values: np.ndarray, inside: np.ndarray, scale: float) -> None:
    # Rows of float32 are compared with bounds, float64 is divided by the largest value: the same pixels, to the last.
    maps, levels = torch.from_numpy(values * np.float32(scale)), (0.0, 0.05, 0.95, 0.1, 0.2, 0.5)
    for masks in (None, torch.from_numpy(inside)):
        expected = _ops.visible_share(maps.double(), masks, levels)
        torch.testing.assert_close(_ops.visible_share(maps, masks, levels), expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("peak", [1.0, 0.3, 7.7, 3e38, 1e-38])
def test_what_is_displayed_at_the_thresholds_themselves(peak: float) -> None:
    levels = torch.linspace(0, 0.95, 20, dtype=torch.float64)
    at = (levels * np.float64(np.float32(peak))).float()
    near = torch.cat([torch.nextafter(at, torch.tensor(end)) for end in (-math.inf, math.inf)] + [at])
    maps = torch.cat([near, torch.tensor([peak])]).reshape(1, 1, -1)
    expected = _ops.visible_share(maps.double(), None, levels.tolist())
    assert _ops.visible_share(maps, None, levels.tolist()).tolist() == expected.tolist()


def test_nothing_is_displayed_of_a_map_without_positive_values() -> None:
    maps, masks = point(4, 4, (0, 0)) - 1, box(4, 4, slice(0, 2), slice(0, 2))
    assert visible_in_box(maps, masks).eq(0).all()
    assert map_area(maps).eq(0).all()


def test_map_area_needs_no_mask() -> None:
    maps = torch.rand(3, 9, 9, generator=torch.Generator().manual_seed(2))
    empty = torch.zeros(3, 9, 9, dtype=torch.bool)
    assert torch.equal(map_area(maps), map_area(maps, empty))
    assert torch.equal(map_area(maps), visible_in_box(maps, ~empty))
    assert not map_area.chance(empty).isnan().any()


@given(
    st.sampled_from([np.float16, np.float32, np.float64]).flatmap(
        lambda kind: arrays(kind, (3, 4, 5), elements=st.floats(-2, 2, width=16))
    ),
    st.floats(2**-10, 2**10),
    st.lists(st.floats(0, 0.999), min_size=1, max_size=4),
)
def test_what_is_displayed_exceeds_the_threshold_in_the_quotient_itself(
    values: np.ndarray, scale: float, thresholds: list[float]
) -> None:
    maps = torch.from_numpy((values * scale).astype(values.dtype))
    for own in maps.double():  # thresholds that pixels reach to the bit, and no product rounds to
        thresholds += [float(share) for share in (own / own.max()).flatten()[:4] if own.max() > 0 and 0 <= share < 1]
    shares = map_area(maps, thresholds=thresholds)
    for own, found in zip(maps.double(), shares, strict=True):
        if own.isfinite().all() and own.max() > own.min():
            displayed = own / own.max() if own.max() > 0 else torch.zeros_like(own)
            assert found.tolist() == [(displayed > threshold).sum().item() / own.numel() for threshold in thresholds]


MASKS = {
    "corner": box(24, 24, slice(0, 5), slice(0, 7)),
    "middle": box(24, 24, slice(8, 17), slice(6, 18)),
    "two": box(24, 24, slice(2, 6), slice(3, 9)) | box(24, 24, slice(15, 22), slice(14, 16)),
}


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS.keys())
@pytest.mark.parametrize(
    "metric", [hit_rate, pointing_game, energy, visible_in_box, visible_outside, map_area], ids=lambda m: m.name
)
def test_chance_is_what_noise_scores(metric: Metric, mask: Tensor) -> None:
    # Thresholds share their draws: with 19 of them the band is widened to hold jointly (Bonferroni).
    maps = torch.rand(5000, 24, 24, generator=torch.Generator().manual_seed(11))
    scores = metric(maps, mask.expand(5000, -1, -1)).reshape(5000, -1)
    expected = metric.chance(mask).reshape(-1)
    z = torch.special.ndtri(torch.tensor(1 - 0.005 / scores.shape[1], dtype=torch.float64))
    assert ((scores.mean(0) - expected).abs() <= z * scores.std(0) / 5000**0.5).all()


@pytest.mark.parametrize("fill_holes", [False, True])
@pytest.mark.parametrize(
    "mask",
    [
        box(128, 128, slice(4, 28), slice(4, 28)),  # 0.036 of the image: NIH's median Pneumothorax
        box(128, 128, slice(49, 79), slice(49, 79)),  # 0.056: Effusion
        box(128, 128, slice(37, 90), slice(37, 90)),  # 0.171: Cardiomegaly
        box(128, 128, slice(0, 8), slice(0, 128)),  # along the border, where holes stay open
    ],
    ids=["small", "medium", "large", "border"],
)
def test_chance_of_iou_is_near_what_noise_scores(mask: Tensor, fill_holes: bool) -> None:
    # The closed form is a ratio of means with a fitted decay: good to 0.002. Beside it, two standard errors.
    maps = torch.rand(100, 128, 128, generator=torch.Generator().manual_seed(3))
    scores = iou_otsu(maps, mask.expand(100, -1, -1), fill_holes=fill_holes)
    error = abs(scores.mean() - iou_otsu.chance(mask, fill_holes=fill_holes).item())
    assert error < 0.002 + 2 * scores.std() / 10


def test_outside_is_inside_of_all_else_and_over_coverage_shows() -> None:
    """A nearly constant map with its peak outside the box shows all of the box, and all of the rest."""
    masks = torch.zeros(1, 8, 8, dtype=torch.bool)
    masks[0, 2:5, 2:5] = True
    maps = torch.full((1, 8, 8), 0.9)
    maps[0, 7, 7] = 1
    inside, outside = (metric(maps, masks, thresholds=[0.5]).item() for metric in (visible_in_box, visible_outside))
    assert (inside, outside) == (1, 1)
    assert hit_rate(maps, masks).item() == 0
    noise = torch.rand(20, 8, 8, generator=torch.Generator().manual_seed(0))
    many = masks.expand(20, 8, 8)
    assert torch.equal(visible_outside(noise, many), visible_in_box(noise, ~many))
    assert visible_outside(noise, torch.ones_like(many)).isnan().all()  # there is no outside
    assert visible_outside.chance(torch.ones_like(many)).isnan().all()
    assert torch.equal(visible_outside.chance(many), visible_in_box.chance(many))


@pytest.mark.parametrize("metric", [visible_in_box, visible_outside], ids=lambda one: one.name)
def test_an_undefined_map_displays_nothing(metric: Metric) -> None:
    counted = metric.counted(np.array([[np.nan], [0.7], [np.nan]]), np.array([[0.5], [0.5], [np.nan]]))
    assert counted[:2, 0].tolist() == [0, 0.7]
    assert np.isnan(counted[2, 0])  # without a region
