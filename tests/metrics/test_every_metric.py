"""What every localization metric must do, whatever it measures. A new one is added to `METRICS`."""

from __future__ import annotations

import doctest
import inspect
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from xaibench.errors import UsageError
from xaibench.metrics import Metric, _ops, classification, localization

METRICS = [value for value in vars(localization).values() if isinstance(value, Metric)]
WITH_MASK = [m for m in METRICS if m.name != "map_area"]
every = pytest.mark.parametrize("metric", METRICS, ids=lambda m: m.name)
with_mask = pytest.mark.parametrize("metric", WITH_MASK, ids=lambda m: m.name)
seeds = st.integers(0, 2**31)


def noise(seed: int, batch: int = 5, height: int = 19, width: int = 23) -> tuple[Tensor, Tensor]:
    """Signed, smooth-ish maps without ties, and a box each (never empty)."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(batch, 1, 4, 5, generator=generator)
    maps = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")[:, 0]
    maps = maps + 0.01 * torch.randn(batch, height, width, generator=generator)
    masks = torch.zeros(batch, height, width, dtype=torch.bool)
    for mask in masks:
        y, x, h, w = (int(torch.randint(1, high, (1,), generator=generator)) for high in (12, 15, 8, 8))
        mask[y : y + h, x : x + w] = True
    return maps, masks


def same(a: Tensor, b: Tensor, tolerance: float = 0.0) -> bool:
    return torch.allclose(a, b, rtol=0, atol=tolerance, equal_nan=True)


def test_the_six_of_the_first_release_are_there() -> None:
    assert {m.name for m in METRICS} == {
        "hit_rate", "pointing_game", "energy", "iou_otsu", "visible_in_box", "map_area"
    }  # fmt: skip


@pytest.mark.parametrize("metric", [*METRICS, classification.roc_auc], ids=lambda m: m.name)
def test_declares_all_that_a_table_shows(metric: Metric) -> None:
    assert metric.title
    assert metric.reference
    assert metric.chance is not None
    assert metric.range == (0.0, 1.0)
    accepted = inspect.signature(metric.compute).parameters
    assert set(metric.parameters) <= set(accepted)
    if callable(metric.chance):
        assert set(metric.parameters) <= set(inspect.signature(metric.chance).parameters)
    if metric.curve:
        assert metric.headline_at in metric.parameters[metric.curve]


@pytest.mark.parametrize("metric", [*METRICS, classification.roc_auc], ids=lambda m: m.name)
def test_its_example_runs(metric: Metric) -> None:
    # doctest looks at functions and classes only; a declared metric is neither
    names = dict(vars(sys.modules[metric.compute.__module__]))
    example = doctest.DocTestParser().get_doctest(metric.__doc__ or "", names, metric.name, None, 0)
    assert example.examples
    assert doctest.DocTestRunner().run(example).failed == 0


@every
def test_shape_type_and_range(metric: Metric) -> None:
    maps, masks = noise(0)
    scores = metric(maps, masks)
    expected = (5, 19) if metric.curve else (5,)
    assert scores.shape == expected
    assert metric.chance(masks).shape == expected
    assert scores.dtype == torch.float64
    for values in (scores, metric.chance(masks)):
        assert ((values >= 0) & (values <= 1)).all()


@every
@settings(max_examples=20, deadline=None)
@given(seed=seeds, batch=st.sampled_from([1, 2, 3, 7]))
def test_batch_size_changes_nothing(metric: Metric, seed: int, batch: int) -> None:
    maps, masks = noise(seed, batch=7)
    parts = zip(maps.split(batch), masks.split(batch), strict=True)
    assert torch.equal(metric(maps, masks), torch.cat([metric(*part) for part in parts]))


@every
def test_batch_size_changes_nothing_where_threads_split_the_work(metric: Metric) -> None:
    maps, masks = noise(1, batch=3, height=400, width=500)  # far above torch's grain size
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert torch.equal(
            metric(maps, masks), torch.cat([metric(maps[i : i + 1], masks[i : i + 1]) for i in range(3)])
        )
    finally:
        torch.set_num_threads(threads)


def test_sums_do_not_depend_on_the_batch_size() -> None:
    values = torch.randn(4, 400, 500, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).mul(5).exp()
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert torch.equal(_ops.total(values), torch.cat([_ops.total(one) for one in values.split(1)]))
    finally:
        torch.set_num_threads(threads)


@every
@settings(max_examples=20, deadline=None)
@given(seed=seeds, power=st.integers(-20, 20))
def test_a_positive_factor_changes_nothing(metric: Metric, seed: int, power: int) -> None:
    maps, masks = noise(seed)  # powers of two keep every bit; the sum of `energy` then scales exactly too
    assert torch.equal(metric(maps * 2.0**power, masks), metric(maps, masks))


@every
@settings(max_examples=20, deadline=None)
@given(seed=seeds, dims=st.sampled_from([(-1,), (-2,), (-2, -1)]))
def test_flipping_both_changes_nothing(metric: Metric, seed: int, dims: tuple[int, ...]) -> None:
    maps, masks = noise(seed)
    assert same(metric(maps.flip(dims), masks.flip(dims)), metric(maps, masks), 1e-12)  # order of summation
    assert same(metric.chance(masks.flip(dims)), metric.chance(masks), 1e-12)


@pytest.mark.parametrize("name", ["hit_rate", "energy", "visible_in_box", "map_area", "iou_otsu"])
@settings(max_examples=20, deadline=None)
@given(seed=seeds)
def test_permuting_the_pixels_changes_nothing(name: str, seed: int) -> None:
    metric = getattr(localization, name)
    maps, masks = noise(seed)
    order = torch.randperm(maps[0].numel(), generator=torch.Generator().manual_seed(seed))
    options = {"fill_holes": False} if name == "iou_otsu" else {}  # holes, as distances, are a matter of neighbours
    moved = [tensor.flatten(1)[:, order].reshape(tensor.shape) for tensor in (maps, masks)]
    assert same(metric(*moved, **options), metric(maps, masks, **options), 1e-12)  # order of summation


@every
def test_float64_gives_the_same(metric: Metric) -> None:
    maps, masks = noise(3)
    assert same(metric(maps.double(), masks), metric(maps, masks), 1e-12)


@with_mask
def test_empty_masks_are_undefined(metric: Metric) -> None:
    maps, masks = noise(4)
    masks[1] = False
    scores, chance = metric(maps, masks), metric.chance(masks)
    assert scores[1].isnan().all()
    assert chance[1].isnan().all()
    others = [0, 2, 3, 4]
    assert torch.equal(scores[others], metric(maps[others], masks[others]))
    assert not scores[others].isnan().any()


@every
@pytest.mark.parametrize("value", [0.0, 1.0, -2.5, float("nan"), float("inf"), float("-inf")])
def test_constant_and_non_finite_maps_are_undefined(metric: Metric, value: float) -> None:
    maps, masks = noise(5)
    plain = metric(maps, masks)
    maps[0] = value
    if value != value or value in (float("inf"), float("-inf")):
        maps[0] = 1.0
        maps[0, 3, 4] = value
        maps[0, 0, 0] = 2.0
    scores = metric(maps, masks)
    assert scores[0].isnan().all()
    assert torch.equal(scores[1:], plain[1:])


@every
def test_no_images_give_no_scores(metric: Metric) -> None:
    scores = metric(torch.zeros(0, 8, 8), torch.zeros(0, 8, 8, dtype=torch.bool))
    assert scores.shape[0] == 0


@with_mask
def test_bad_input_is_named(metric: Metric) -> None:
    maps, masks = noise(6)
    for bad_maps, bad_masks, word in (
        (maps[0], masks[0], "maps"),
        (maps.long(), masks, "maps"),
        (maps, masks.float(), "masks"),
        (maps, masks[:, 1:], "masks"),
    ):
        with pytest.raises(UsageError, match=f"^{word}") as caught:
            metric(bad_maps, bad_masks)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("metric", "options"),
    [
        (localization.pointing_game, {"tolerance": -1}),
        (localization.pointing_game, {"reference_size": 0}),
        (localization.visible_in_box, {"thresholds": []}),
        (localization.visible_in_box, {"thresholds": [0.5, 1.0]}),
        (localization.map_area, {"thresholds": [float("nan")]}),
    ],
)
def test_bad_parameters_are_named(metric: Metric, options: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=next(iter(options))):
        metric(*noise(7), **options)
