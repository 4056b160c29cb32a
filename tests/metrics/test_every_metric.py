"""What every metric of maps must do, whatever it measures. They come from the registry: a new one is tested at once.

Its known answer is the example in its docstring; what another package makes of the same maps is in
`tests.metrics.references`. Metrics that ask the network have a tester of their own, `test_asking`.
"""

from __future__ import annotations

import doctest
import inspect
import sys
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from xaibench import registry
from xaibench.errors import UsageError
from xaibench.metrics import Metric, _ops, boxes, classification, complexity, localization, ranking

OF_MAPS = ("localization", "complexity")
SMALLER = {"k": 50}  # parameters that the small maps here need
FEWER = {"thresholds": (0.1, 0.5, 0.9)}  # of the hundred that a pooled metric tries


def registered() -> list[Metric]:
    found = []
    for name in registry.list_metrics():
        entry = registry.get("metrics", name)
        metric = entry.load() if entry.is_builtin else None
        if metric is not None and metric.category in OF_MAPS:
            small = SMALLER | FEWER if metric.pool else SMALLER
            changed = {key: value for key, value in small.items() if key in metric.parameters}
            found.append(replace(metric, parameters={**metric.parameters, **changed}))
    return found


METRICS = registered()
WITH_MASK = [m for m in METRICS if m.name != "map_area" and m.category != "complexity"]
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


def chance_of(metric: Metric, masks: Tensor) -> Tensor:
    assert callable(metric.chance)
    return metric.chance(masks, **metric.parameters)


def pooled(metric: Metric, statistics: Tensor) -> Tensor:
    """What is compared between maps: the scores themselves, or what a pooled metric makes of each map's statistics."""
    if metric.pool is None:
        return statistics
    scores = metric.pool.scores(statistics.numpy(), **metric.parameters)
    return torch.from_numpy(scores).flatten(1)


def width_of(metric: Metric) -> tuple[int, ...]:
    if metric.pool:
        return (metric.pool.columns(**metric.parameters),)
    return (len(metric.parameters[metric.curve]),) if metric.curve else ()


def test_all_are_registered_under_their_names() -> None:
    assert len(METRICS) >= 25
    for metric in METRICS:
        entry = registry.get("metrics", metric.name)
        assert entry.target == f"{metric.compute.__module__}:{metric.name}"


@pytest.mark.parametrize("metric", [*METRICS, classification.roc_auc], ids=lambda m: m.name)
def test_declares_all_that_a_table_shows(metric: Metric) -> None:
    assert metric.title
    assert metric.reference
    assert metric.chance is not None
    assert metric.range[0] == 0
    assert metric.range[1] > 0
    assert metric.range == (0.0, 1.0) or metric.category != "classification"
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
    example = doctest.DocTestParser().get_doctest(metric.compute.__doc__ or "", names, metric.name, None, 0)
    assert example.examples
    assert doctest.DocTestRunner().run(example).failed == 0


@every
def test_shape_type_and_range(metric: Metric) -> None:
    maps, masks = noise(0)
    scores = metric(maps, masks)
    expected = (5, *width_of(metric))
    assert scores.shape == expected
    assert chance_of(metric, masks).shape == expected
    assert scores.dtype == torch.float64
    for values in (pooled(metric, scores), pooled(metric, chance_of(metric, masks))):
        assert ((values >= metric.range[0]) & (values <= metric.range[1])).all()


@every
@settings(max_examples=10, deadline=None)
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
@settings(max_examples=10, deadline=None)
@given(seed=seeds, power=st.integers(-20, 20))
def test_a_positive_factor_changes_nothing(metric: Metric, seed: int, power: int) -> None:
    maps, masks = noise(seed)  # powers of two keep every bit; the sum of `energy` then scales exactly too
    assert torch.equal(metric(maps * 2.0**power, masks), metric(maps, masks))


@every
@settings(max_examples=10, deadline=None)
@given(seed=seeds, dims=st.sampled_from([(-1,), (-2,), (-2, -1)]))
def test_flipping_both_changes_nothing(metric: Metric, seed: int, dims: tuple[int, ...]) -> None:
    maps, masks = noise(seed)
    assert same(metric(maps.flip(dims), masks.flip(dims)), metric(maps, masks), 1e-12)  # order of summation


@every
def test_flipping_the_mask_leaves_chance(metric: Metric) -> None:
    masks = noise(12)[1]
    for dims in ((-1,), (-2,)):
        assert same(chance_of(metric, masks.flip(dims)), chance_of(metric, masks), 1e-12)


def of_neighbours(metric: Metric) -> bool:
    boxed = ("pointing_game", "max_box_acc", "max_box_acc_v2")
    return metric.name in boxed or metric.compute.__module__ == boxes.__name__


@pytest.mark.parametrize("metric", [m for m in METRICS if not of_neighbours(m)], ids=lambda m: m.name)
@settings(max_examples=10, deadline=None)
@given(seed=seeds)
def test_permuting_the_pixels_changes_nothing(metric: Metric, seed: int) -> None:
    maps, masks = noise(seed)
    order = torch.randperm(maps[0].numel(), generator=torch.Generator().manual_seed(seed))
    options = {"fill_holes": False} if metric.name == "iou_otsu" else {}  # holes are a matter of neighbours
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
    scores, chance = metric(maps, masks), chance_of(metric, masks)
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
        (ranking.top_k_intersection, {"k": 0}),
        (ranking.top_k_intersection, {"k": 19 * 23 + 1}),
        (boxes.t_iou, {"levels": [255]}),
        (boxes.t_iou, {"levels": []}),
        (boxes.t_iobb_false_positives, {"thresholds": [-0.1]}),
        (boxes.box_iou, {"thresholds": [1.0]}),
        (complexity.effective_complexity, {"eps": -1}),
    ],
)
def test_bad_parameters_are_named(metric: Metric, options: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=next(iter(options))):
        metric(*noise(7), **options)


@every
def test_every_tie_is_shared(metric: Metric) -> None:
    # Mirroring moves equal pixels to other places of the memory: nothing may depend on which comes first.
    maps, masks = noise(8)
    maps = (2 * maps).round()  # a handful of values
    scores = metric(maps, masks)
    for dims in ((-1,), (-2,), (-2, -1)):
        assert same(metric(maps.flip(dims), masks.flip(dims)), scores, 1e-12)
    assert same(metric(maps.double(), masks), scores, 1e-12)


@every
def test_a_single_pixel_is_a_region(metric: Metric) -> None:
    maps = noise(9)[0]
    masks = torch.zeros_like(maps, dtype=torch.bool)
    masks[:, 7, 11] = True
    for values in (metric(maps, masks), chance_of(metric, masks)):
        assert values.isfinite().all()


@with_mask
def test_the_region_itself_is_the_best_map(metric: Metric) -> None:
    maps, masks = noise(10)
    best, inverse = (pooled(metric, metric(m.float(), masks)) for m in (masks, ~masks))
    scores, chance = pooled(metric, metric(maps, masks)), pooled(metric, chance_of(metric, masks))
    for other in (scores, inverse):
        assert ((best >= other - 1e-12) if metric.direction == "higher" else (best <= other)).all()
    # by IoBB noise too is as good as it gets
    assert ((best >= chance) if metric.direction == "higher" else (best <= chance)).all()


@every
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_gives_the_same(metric: Metric) -> None:
    maps, masks = noise(11)
    maps[1] = maps[1].round()
    for values in (maps, maps.double()):
        assert same(metric(values.cuda(), masks.cuda()).cpu(), metric(values, masks), 1e-12)
    assert same(chance_of(metric, masks.cuda()).cpu(), chance_of(metric, masks), 1e-12)
