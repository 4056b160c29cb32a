"""Metrics of boxes: scores worked by hand, agreement with other implementations, and chance levels."""

from __future__ import annotations

import sys
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage
from torch import Tensor

from xaibench.metrics import Metric, _boxes, _components, _noise, _ops
from xaibench.metrics._boxes import boxes_above, component_boxes, matches
from xaibench.metrics._components import components_above
from xaibench.metrics.boxes import (
    LEVELS,
    box_iou,
    t_iobb,
    t_iobb_false_positives,
    t_iou,
    t_iou_false_positives,
)
from xaibench.metrics.localization import THRESHOLDS
from xaibench.metrics.pooled import max_box_acc, max_box_acc_v2


def painted(*parts: tuple[int, slice, slice], side: int = 20) -> Tensor:
    """One map (1, side, side): a grey level in each rectangle, 0 elsewhere, and 255 in the last row's last pixel."""
    maps = torch.zeros(1, side, side)
    for grey, rows, columns in parts:
        maps[0, rows, columns] = grey
    maps[0, -1, -1] = 255
    return maps


def test_boxes_by_hand() -> None:
    maps = painted((100, slice(2, 8), slice(2, 7)), (200, slice(4, 7), slice(3, 7)))
    masks = torch.zeros(1, 20, 20, dtype=torch.bool)
    masks[0, 4:8, 2:7] = True  # 20 pixels
    # level 60: a box of 30, all of the region in it; level 180: one of 12, inside the region; the corner at both
    assert t_iou(maps, masks, thresholds=[0.59, 0.6, 0.66, 0.67]).tolist() == [[1, 1, 1, 0]]
    assert t_iou(maps, masks, thresholds=[0.59, 0.6], levels=[180]).tolist() == [[1, 0]]  # above T, not at it
    assert t_iou_false_positives(maps, masks, thresholds=[0.5, 0.6, 0.7]).tolist() == [[2, 3, 4]]
    assert t_iobb(maps, masks, thresholds=[0.5, 0.9]).tolist() == [[1, 1]]
    assert t_iobb(maps, masks, thresholds=[0.5, 0.9], levels=[60]).tolist() == [[1, 0]]
    assert t_iobb_false_positives(maps, masks, thresholds=[0.5, 0.9]).tolist() == [[2, 3]]
    assert box_iou(maps, masks, thresholds=[0.2, 0.5, 0.9]).numpy() == pytest.approx(np.array([[2 / 3, 0.6, 0]]))


def test_the_grey_level_itself_is_background() -> None:
    masks = torch.zeros(1, 20, 20, dtype=torch.bool)
    masks[0, 2:8, 2:7] = True
    for grey, hit in ((60, 0), (61, 1), (60.9, 0)):  # 8 bits, truncated
        assert t_iou(painted((grey, slice(2, 8), slice(2, 7))), masks, thresholds=[0.9]).item() == hit


def test_corners_link_and_each_region_counts_for_itself() -> None:
    maps = painted((255, slice(2, 4), slice(2, 4)), (255, slice(4, 6), slice(4, 6)))
    masks = torch.zeros(1, 20, 20, dtype=torch.bool)
    masks[0, 2:6, 2:6] = True
    assert t_iou(maps, masks, thresholds=[0.99]).item() == 1  # one box of 4 x 4, though half of it is empty
    masks[0, 10:20, 10:20] = True  # a second region, far off
    assert t_iou(maps, masks, thresholds=[0.99]).item() == 1
    assert t_iobb_false_positives(maps, masks, thresholds=[0.9]).item() == 0  # the corner lies in the second


def test_largest_components_share() -> None:
    maps = painted((255, slice(2, 4), slice(2, 4)), (255, slice(2, 4), slice(8, 10)))
    masks = torch.zeros(1, 20, 20, dtype=torch.bool)
    masks[0, 2:4, 2:4] = True
    assert box_iou(maps, masks, thresholds=[0.5]).item() == 0.5


def test_component_boxes_are_scikit_images() -> None:
    measure = pytest.importorskip("skimage.measure")
    segments = np.random.default_rng(0).random((6, 21, 17)) < 0.35
    segments[2] = False
    boxes = component_boxes(segments)
    found = sorted(zip(boxes.image.tolist(), boxes.corners.tolist(), boxes.pixels.tolist(), strict=True))
    regions = [(k, r) for k, s in enumerate(segments) for r in measure.regionprops(measure.label(s, connectivity=2))]
    assert found == sorted((k, list(r.bbox), int(r.area)) for k, r in regions)


def test_overlaps_are_torchvisions() -> None:
    ops = pytest.importorskip("torchvision.ops")
    segments = np.random.default_rng(1).random((4, 24, 24)) < 0.2
    masks = np.random.default_rng(2).random((4, 24, 24)) < 0.1
    masks[3] = False
    boxes, regions = component_boxes(segments), component_boxes(masks)
    found = matches(boxes, regions, 1)
    for image in range(3):
        mine, others = (torch.from_numpy(b.corners[b.image == image]).double() for b in (boxes, regions))
        expected = ops.box_iou(mine, others).amax(1).numpy()
        iou, iobb = found.overlap[:, found.image == image]
        np.testing.assert_allclose(iou, expected[expected > 0], rtol=0, atol=1e-12)
        assert ((iobb >= iou) & (iobb <= 1)).all()
    assert not (found.image == 3).any()
    assert found.number.tolist() == np.bincount(boxes.image).tolist()


def wsolevaluation_box(map_: np.ndarray, threshold: float) -> tuple[int, int, int, int]:
    """The box of wsolevaluation's compute_bboxes_from_scoremaps, without the pixel that it adds right and below."""
    cv2 = pytest.importorskip("cv2")
    scaled = (map_ - map_.min()) / (map_.max() - map_.min())
    grey = (scaled * 255).astype(np.uint8)
    binary = cv2.threshold(grey, int(threshold * grey.max()), 255, cv2.THRESH_BINARY)[1]
    contours = cv2.findContours(binary, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)[-2]
    left, top, width, height = cv2.boundingRect(max(contours, key=cv2.contourArea))
    return top, left, top + height, left + width


def test_max_box_acc_comes_from_the_columns() -> None:
    # One bump a map: its largest outline is its largest component, and the sources agree on the box.
    generator = torch.Generator().manual_seed(3)
    rows, columns = torch.meshgrid(torch.arange(48.0), torch.arange(48.0), indexing="ij")
    y, x, a, b = (
        low + (high - low) * torch.rand(40, generator=generator) for low, high in [(16, 32)] * 2 + [(4, 12)] * 2
    )
    maps = torch.exp(
        -(((rows - y[:, None, None]) / a[:, None, None]) ** 2) - ((columns - x[:, None, None]) / b[:, None, None]) ** 2
    ).double()
    masks = torch.zeros(40, 48, 48, dtype=torch.bool)
    masks[:, 14:36, 12:34] = True
    ious = box_iou(maps, masks).numpy()
    expected = np.empty_like(ious)
    for index, map_ in enumerate(maps.numpy()):
        for place, threshold in enumerate(THRESHOLDS):
            top, left, bottom, right = wsolevaluation_box(map_, threshold)
            shared = max(0, min(bottom, 36) - max(top, 14)) * max(0, min(right, 34) - max(left, 12))
            expected[index, place] = shared / ((bottom - top) * (right - left) + 22 * 22 - shared)
    np.testing.assert_allclose(ious, expected, rtol=0, atol=1e-12)
    accuracy = [(ious >= delta).mean(0).max() for delta in (0.3, 0.5, 0.7)]
    assert 1 > accuracy[0] > accuracy[1] > accuracy[2] > 0 or accuracy[0] == 1 > accuracy[1] > accuracy[2]


CHANCES = [t_iou, t_iobb, t_iou_false_positives, t_iobb_false_positives, box_iou]


@pytest.mark.parametrize("rows", [slice(0, 2), slice(4, 10)], ids=["small", "large"])
@pytest.mark.parametrize("metric", CHANCES, ids=lambda m: m.name)
def test_chance_is_what_noise_scores(metric: Metric, rows: slice) -> None:
    # Chance rests on 500 maps (box_iou: 431) and their mirror images, which may tell nothing new. The columns share
    # their draws: the band is widened to hold jointly (Bonferroni).
    maps = torch.rand(1000, 16, 16, generator=torch.Generator().manual_seed(14))
    mask = torch.zeros(1, 16, 16, dtype=torch.bool)
    mask[0, rows, 5:9] = True
    scores, expected = metric(maps, mask.expand(1000, -1, -1)), metric.chance(mask)[0]
    variance = scores.var(0)
    if metric.name in ("t_iou", "t_iobb"):
        variance = torch.maximum(variance, expected * (1 - expected))
    z = torch.special.ndtri(torch.tensor(1 - 0.005 / scores.shape[1], dtype=torch.float64))
    assert ((scores.mean(0) - expected).abs() <= z * (variance / 1000 + variance / 400).sqrt()).all()


def test_what_noise_is_worth() -> None:
    masks = torch.zeros(2, 64, 64, dtype=torch.bool)
    masks[0, 20:32, 20:32] = True  # 0.035 of the image: NIH's median Pneumothorax
    masks[1, 18:45, 18:45] = True  # 0.178: Cardiomegaly
    assert (t_iobb.chance(masks) > 0.9).all()  # a pixel inside is a hit
    chance = t_iou.chance(masks, thresholds=[0.1, 0.5])
    assert chance[0, 0] > 0.9  # among so many boxes one will do
    assert chance[1, 0] == 1  # the whole image overlaps by the region's area
    assert (chance[:, 1] < 0.1).all()
    assert (t_iobb_false_positives.chance(masks) > 50).all()
    assert LEVELS == (60, 180)


def listed(boxes: _boxes.Boxes) -> list[tuple[int, ...]]:
    table = zip(boxes.image.tolist(), *boxes.corners.T.tolist(), boxes.pixels.tolist(), strict=True)
    return sorted(table)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 1.0])
def test_boxes_are_the_same_without_opencv(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    segments = np.random.default_rng(0).random((5, 40, 30)) < share
    found = component_boxes(segments)
    monkeypatch.setitem(sys.modules, "cv2", None)
    other = component_boxes(segments)
    assert listed(found) == listed(other)
    assert [a.dtype for a in (found.corners, found.image, found.pixels)] == [
        a.dtype for a in (other.corners, other.image, other.pixels)
    ]


def by_outlines(image: np.ndarray, levels: list[int]) -> list[list[int]]:
    cuts = np.array(levels)
    places = np.arange(len(levels))
    return sorted(_components._by_outlines(image, cuts, _components._windows(image, cuts), places).tolist())


def by_scipy(image: np.ndarray, levels: list[int]) -> list[list[int]]:
    return sorted(row for k, level in enumerate(levels) for row in _components._by_scipy(image > level, k).tolist())


@given(
    arrays(np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.integers(0, 4)),
    st.lists(st.integers(0, 4), min_size=1, max_size=12),
)
def test_components_by_their_outlines_are_those_by_their_pixels(image: np.ndarray, levels: list[int]) -> None:
    assert by_outlines(image, levels) == by_scipy(image, levels)
    found = components_above(image, levels)
    assert sorted(found.tolist()) == by_scipy(image, levels)
    assert found.dtype == np.int32
    assert (np.diff(found[:, 0]) >= 0).all()


@pytest.mark.parametrize("sigma", [0, 1, 3])
def test_components_of_larger_images_by_their_outlines(sigma: float, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = ndimage.gaussian_filter(np.random.default_rng(7).random((97, 131)), sigma)
    image = (255 * (noise - noise.min()) / np.ptp(noise)).astype(np.uint8)
    levels = np.quantile(image, [0.02, 0.2, 0.4, 0.5, 0.6, 0.8, 0.98]).astype(int).tolist()
    levels = list(dict.fromkeys(levels))
    expected = by_scipy(image, levels)
    assert by_outlines(image, levels) == expected
    assert sorted(components_above(image, levels).tolist()) == expected
    monkeypatch.setattr(_components, "_STACKED", 20_000)  # one image and a half
    assert sorted(components_above(image, levels).tolist()) == expected


@given(
    arrays(np.uint8, st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9))),
    st.lists(st.integers(0, 254), min_size=1, max_size=12),
)
def test_boxes_above_levels_are_those_of_the_binary_images(grey: np.ndarray, levels: list[int]) -> None:
    segments = np.stack([image > level for image in grey for level in levels])
    found = boxes_above(grey, levels)
    assert listed(found) == listed(component_boxes(segments))
    assert found.images == len(grey) * len(levels)


@given(
    arrays(np.uint8, st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9))),
    st.lists(st.integers(0, 254), min_size=1, max_size=12, unique=True),
    st.randoms(use_true_random=False),
)
def test_boxes_at_some_of_the_levels_are_those_above_them(grey: np.ndarray, levels: list[int], random: Random) -> None:
    places = random.sample(range(len(levels)), random.randint(1, len(levels)))
    found = boxes_above(grey, levels).at(places, len(levels))
    expected = boxes_above(grey, [levels[place] for place in places])
    assert listed(found) == listed(expected)
    assert found.images == expected.images


@pytest.mark.parametrize("few", [tuple(range(0, 240, 30)), tuple(range(0, 120, 30)) * 2], ids=["apart", "twice"])
def test_noise_is_the_same_whether_or_not_more_levels_were_asked_before(few: tuple[int, ...]) -> None:
    many = tuple(range(0, 250, 10))
    assert _noise.noise_maps(300, 300, len(few)) == _noise.noise_maps(300, 300, len(many))
    found = []
    for before in ((), (many,)):
        _noise._detected_before.cache_clear()
        _noise.noise_of.cache_clear()
        for levels in before:
            _noise.noise_of(300, 300, levels, False)
        found.append(listed(_noise.noise_of(300, 300, few, False).boxes))
    assert found[0] == found[1]


def test_metrics_that_share_their_steps_score_the_same() -> None:
    generator = torch.Generator().manual_seed(5)
    maps, masks = torch.rand(6, 24, 20, generator=generator), torch.rand(6, 24, 20, generator=generator) > 0.9
    masks[4], maps[5] = False, 1.0
    used = [box_iou, max_box_acc, max_box_acc_v2, t_iou, t_iobb, t_iou_false_positives, t_iobb_false_positives]
    apart = [(m(maps, masks), m.chance(masks, **m.parameters)) for m in used]
    with _ops.sharing():
        together = [(m(maps, masks), m.chance(masks, **m.parameters)) for m in used]
    for ours, theirs in zip(apart, together, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            assert torch.equal(one.nan_to_num(-1), other.nan_to_num(-1))
