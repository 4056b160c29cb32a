"""Statistics of all pixels of a class's maps: exact, whatever the values, their number and where they lie."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from xaibench.metrics import _pixels, pixel_rows
from xaibench.metrics._pixels import Spool, average_precision, binned_average_precision, histograms
from xaibench.metrics.pooled import pxap

Array = npt.NDArray[np.float64]
KINDS = ("heavy tail", "uniform", "ties")


def drawn(kind: str, pairs: int, side: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return maps and masks; a map is larger in its mask."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(pairs, side, side))
    masks = np.zeros((pairs, side, side), dtype=bool)
    for mask in masks:
        top, left, height, width = rng.integers(0, side // 2, 4)
        mask[top : top + height + 1, left : left + width + 1] = True
    maps = {"heavy tail": np.exp(2.5 * values), "uniform": rng.random(values.shape), "ties": values.clip(0).round(1)}[
        kind
    ]
    return torch.from_numpy((maps * (1 + 0.5 * masks)).astype(np.float32)), torch.from_numpy(masks)


def by_scikit_learn(maps: torch.Tensor, masks: torch.Tensor, weights: Array | None = None) -> float:
    exact = maps.numpy().astype(np.float64)
    low, high = exact.min((1, 2), keepdims=True), exact.max((1, 2), keepdims=True)
    pixels = None if weights is None else np.repeat(weights, exact[0].size)
    scaled = ((exact - low) / (high - low)).ravel()
    return float(average_precision_score(masks.numpy().ravel(), scaled, sample_weight=pixels))


@pytest.mark.parametrize("kind", KINDS)
def test_the_value_is_scikit_learns_of_all_pixels(kind: str) -> None:
    maps, masks = drawn(kind, 12, 32)
    assert average_precision(pixel_rows(maps, masks)) == pytest.approx(by_scikit_learn(maps, masks), abs=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("most", [1, 100, 5000])
def test_merging_in_ranges_from_the_disk_changes_nothing(kind: str, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    maps, masks = drawn(kind, 12, 32)
    whole = average_precision(pixel_rows(maps, masks))
    monkeypatch.setattr(_pixels, "MOST", most)
    monkeypatch.setattr(_pixels, "SAMPLE", 300)
    spool = Spool()
    stored = [spool.add(row) for row in pixel_rows(maps, masks)]
    ranges = list(_pixels._ranges(stored))
    assert len(ranges) > 2
    assert sum(int(gained.sum()) + outside for gained, _, outside in ranges) == maps.numel()
    assert average_precision(stored) == pytest.approx(whole, abs=1e-12)


@given(
    st.lists(st.lists(st.integers(-3, 3), min_size=6, max_size=6), min_size=1, max_size=5),
    st.integers(1, 62),
    st.integers(1, 20),
)
def test_any_values(values: list[list[int]], mask: int, most: int) -> None:
    maps = torch.tensor(values, dtype=torch.float32).reshape(-1, 2, 3)
    maps = maps[maps.flatten(1).std(1) > 0]
    masks = torch.tensor([bool(mask >> bit & 1) for bit in range(6)]).reshape(1, 2, 3).expand(len(maps), 2, 3)
    if not len(maps):
        return
    rows = pixel_rows(maps, masks)
    assert average_precision(rows) == pytest.approx(by_scikit_learn(maps, masks.contiguous()), abs=1e-12)
    assert sum(int(gained.sum()) + outside for gained, _, outside in _pixels._ranges(rows, most)) == maps.numel()


@pytest.mark.parametrize("kind", KINDS)
def test_resamples_from_histograms_are_those_of_the_pixels(kind: str) -> None:
    """200 pairs; the ends of a 95% interval to 1e-3 of the exact bootstrap's."""
    maps, masks = drawn(kind, 200, 24)
    binned = histograms(pixel_rows(maps, masks))
    off = by_scikit_learn(maps, masks) - binned_average_precision(binned.mean(0, keepdims=True))[0]
    rng = np.random.default_rng(1)
    weights = np.stack([np.bincount(rng.integers(200, size=200), minlength=200) for _ in range(60)]).astype(float)
    exact = np.array([by_scikit_learn(maps, masks, row) for row in weights])
    found = binned_average_precision(weights @ binned / 200) + off
    assert np.abs(found - exact).max() < 1e-3
    assert np.abs(np.quantile(found, [0.025, 0.975]) - np.quantile(exact, [0.025, 0.975])).max() < 1e-3


def test_an_undefined_map_is_evenly_spread_noise() -> None:
    maps, masks = torch.ones(1, 20, 20), torch.zeros(1, 20, 20, dtype=torch.bool)
    masks[0, :5] = True
    for bad in (maps, torch.full_like(maps, torch.nan)):
        (row,) = pixel_rows(bad, masks)
        assert not row.defined
        assert (len(row.inside), len(row.outside)) == (100, 300)
        assert average_precision([row]) == pytest.approx(0.25, abs=0.02)  # the area, but for so few pixels
        assert pxap(bad, masks).isnan().all()


def test_ignored_pixels_count_nowhere() -> None:
    maps, masks = drawn("uniform", 4, 16)
    ignore = torch.rand(4, 16, 16, generator=torch.Generator().manual_seed(0)) < 0.3
    exact = maps.double()
    scaled = (exact - exact.amin((1, 2), True)) / (exact.amax((1, 2), True) - exact.amin((1, 2), True))
    kept = ~ignore
    wanted = average_precision_score(masks[kept].numpy(), scaled[kept].numpy())
    assert average_precision(pixel_rows(maps, masks, ignore)) == pytest.approx(wanted, abs=1e-12)
    assert average_precision(pixel_rows(maps, masks)) != pytest.approx(wanted, abs=1e-6)
    each = [average_precision_score(masks[k][kept[k]].numpy(), scaled[k][kept[k]].numpy()) for k in range(4)]
    assert pxap(maps, masks, ignore=ignore)[:, 0].tolist() == pytest.approx(each, abs=1e-12)


def test_an_empty_mask_adds_nothing_inside() -> None:
    maps, masks = drawn("uniform", 2, 16)
    masks[1] = False
    assert np.isnan(average_precision(pixel_rows(maps[1:], masks[1:])))


def test_a_value_that_many_pixels_share_is_only_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Maps that are mostly zero: no range holds the zeros."""
    maps, masks = drawn("uniform", 10, 32)
    maps[:, :, 4:] = 0
    rows, longest = pixel_rows(maps, masks), []
    monkeypatch.setattr(_pixels, "MOST", 1000)
    scaled = _pixels.Run.scaled

    def watched(self: _pixels.Run, *args: int, **named: int) -> Array:
        found = scaled(self, *args, **named)
        if args:
            longest.append(len(found))
        return found

    monkeypatch.setattr(_pixels.Run, "scaled", watched)
    assert average_precision(rows) == pytest.approx(by_scikit_learn(maps, masks), abs=1e-12)
    assert max(longest) < 200
