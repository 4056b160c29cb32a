"""Faithfulness: declarations, invariances, and a network whose truth is known."""

from __future__ import annotations

import inspect
from importlib import metadata
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.metrics.hand_built import Evidence, explained, images, shuffled
from xaibench.errors import UsageError
from xaibench.metrics import Metric, faithfulness, faithfulness_sums
from xaibench.metrics.explained import Explained

METRICS: list[Metric] = [
    loaded
    for point in metadata.entry_points(group="xaibench.metrics")
    if isinstance(loaded := point.load(), Metric) and loaded.category == "faithfulness"
]
SMALL: dict[str, dict[str, Any]] = {"irof": {"segments": 12}}
every = pytest.mark.parametrize("metric", METRICS, ids=lambda m: m.name)


def scores(metric: Metric, given: Explained, **parameters: Any) -> Tensor:
    """Score against black, where the metric has a choice: the truth is what a pixel adds to a black one's logit."""
    black = {"baseline": "black"} if "baseline" in metric.parameters else {}
    return metric(given, **{**black, **SMALL.get(metric.name, {}), **parameters})


def test_sixteen_are_registered_under_their_names() -> None:
    modules = (faithfulness, faithfulness_sums)
    declared = {v.name for module in modules for v in vars(module).values() if isinstance(v, Metric)}
    assert {metric.name for metric in METRICS} >= declared
    assert len(declared) == 16


@every
def test_declares_its_parameters_and_is_short(metric: Metric) -> None:
    signature = inspect.signature(metric.compute).parameters
    defaults = {name: p.default for name, p in signature.items() if p.kind is p.KEYWORD_ONLY}
    plain = {name: list(v) if isinstance(v, tuple) else v for name, v in defaults.items()}
    assert plain == dict(metric.parameters)
    source = inspect.getsource(metric.compute)
    body = source[source.rindex('"""') :].splitlines()
    assert len(body) <= 25
    assert metric.reference
    assert metric.compute.__doc__


@every
def test_the_faithful_map_beats_shuffled_ones(metric: Metric) -> None:
    # A probability can only rise as evidence leaves if much of it speaks against the class.
    against = -0.6 if metric.name in ("average_gain", "average_increase") else -0.3
    classifier = Evidence(against=against).eval()
    faithful = explained(classifier=classifier)
    best = scores(metric, faithful)
    assert best.dtype == torch.float64
    sign = 1 if metric.direction == "higher" else -1
    for seed in (6, 7, 8):
        other = scores(metric, explained(shuffled(faithful.maps, seed), classifier=classifier))
        assert sign * best.nanmean() > sign * other.nanmean()


@every
def test_scores_lie_in_the_declared_range(metric: Metric) -> None:
    for maps in (None, shuffled(explained().maps)):
        found = scores(metric, explained(maps))
        found = found[~found.isnan()]
        assert len(found)
        assert ((found >= metric.range[0] - 1e-9) & (found <= metric.range[1] + 1e-9)).all()


@every
def test_batch_size_order_and_company_change_nothing(metric: Metric) -> None:
    maps = shuffled(explained().maps)
    maps[3] = maps[3].mul(20).round()  # ties
    whole = scores(metric, explained(maps))
    parts = torch.cat([scores(metric, explained(maps, rows=[row])) for row in range(len(maps))])
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-6, equal_nan=True)
    order = [7, 3, 0, 3, 11]
    torch.testing.assert_close(
        scores(metric, explained(maps, rows=order)), whole[order], rtol=0, atol=1e-6, equal_nan=True
    )
    shared: dict[Any, Any] = {}
    scores(metric, explained(explained().maps, shared=shared))
    torch.testing.assert_close(scores(metric, explained(maps, shared=shared)), whole, rtol=0, atol=0, equal_nan=True)


@every
def test_a_maps_unit_changes_nothing(metric: Metric) -> None:
    maps = shuffled(explained().maps)
    torch.testing.assert_close(
        scores(metric, explained(8 * maps)), scores(metric, explained(maps)), rtol=0, atol=1e-9, equal_nan=True
    )


@every
@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_constant_and_non_finite_maps_are_undefined(metric: Metric, value: float) -> None:
    maps = shuffled(explained().maps)
    plain = scores(metric, explained(maps))
    if value == 0:
        maps[1] = 0.7
    else:
        maps[1, 2, 3] = value
    found = scores(metric, explained(maps))
    assert found[1].isnan()
    others = [row for row in range(len(maps)) if row != 1]
    torch.testing.assert_close(found[others], plain[others], rtol=0, atol=1e-9, equal_nan=True)


@pytest.mark.parametrize(
    ("metric", "options"),
    [
        (faithfulness.insertion, {"steps": 0}),
        (faithfulness.deletion, {"baseline": "meen"}),
        (faithfulness.road_morf, {"percentages": [100]}),
        (faithfulness.region_perturbation, {"regions": 300}),
        (faithfulness.monotonicity, {"cells": 17}),
        (faithfulness.sufficiency, {"share": 1.0}),
        (faithfulness_sums.infidelity, {"samples": 1}),
        (faithfulness_sums.sensitivity_n, {"shares": []}),
        (faithfulness_sums.monotonicity_correlation, {"levels": [2.0]}),
    ],
)
def test_bad_parameters_are_named(metric: Metric, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(options))) as caught:
        metric(explained(), **options)
    assert "\n" not in str(caught.value)


def test_what_does_not_depend_on_the_map_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    logits = Explained.logits

    def counted(self: Explained, made: Tensor) -> Tensor:
        asked.append(len(made))
        return logits(self, made)

    monkeypatch.setattr(Explained, "logits", counted)
    shared: dict[Any, Any] = {}
    for metric in (faithfulness_sums.infidelity, faithfulness_sums.faithfulness_correlation):
        for seed in (1, 2, 3):
            metric(explained(shuffled(explained().maps, seed), shared=shared))
    assert sum(asked) == 12 * 64
    asked.clear()
    faithfulness.average_drop(given := explained())
    faithfulness.average_gain(given)
    faithfulness.average_increase(given)
    assert sum(asked) == len(images())
