"""A metric's parameters are tried before a run: what is out of range is a usage error before anything is trained."""

from __future__ import annotations

import math
from typing import Any

import pytest

from tests.tiny import tiny_benchmark
from xaibench import registry
from xaibench.errors import UsageError
from xaibench.evaluation.evaluate import evaluate
from xaibench.metrics.base import Metric
from xaibench.metrics.trial import check_parameters

METRICS = {name: registry.get("metrics", name).load() for name in registry.claims("metrics")}
OF_MAPS = {name: metric for name, metric in METRICS.items() if metric.category != "classification"}
PARAMETERS = [(name, parameter) for name, metric in OF_MAPS.items() for parameter in metric.parameters]


@pytest.mark.parametrize(("name", "parameter"), PARAMETERS)
def test_values_of_another_type_are_refused_and_the_default_is_not(name: str, parameter: str) -> None:
    metric: Metric = OF_MAPS[name]
    default = metric.parameters[parameter]
    check_parameters(metric, {parameter: default}, 64, "multiclass")
    wrong: list[Any] = [math.nan, None, [], {"a": 1}]
    wrong += [1.5, 7] if isinstance(default, bool | str | list | tuple) else ["7", [7], True]
    for value in wrong:
        with pytest.raises(UsageError) as caught:
            check_parameters(metric, {parameter: value}, 64, "multiclass")
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)


OUT_OF_RANGE: list[tuple[str, dict[str, Any]]] = [
    ("visible_in_box", {"thresholds": [0.5, 1.0]}),
    ("iou_best", {"thresholds": [-0.1]}),
    ("max_box_acc", {"deltas": [0.5, 1.5]}),
    ("t_iou", {"levels": [60, 255]}),
    ("top_k_intersection", {"k": 0}),
    ("top_k_intersection", {"k": 64 * 64 + 1}),
    ("pointing_game", {"tolerance": -1.0}),
    ("insertion", {"steps": 0}),
    ("deletion", {"output": "probabilty"}),
    ("insertion", {"baseline": "bleu"}),
    ("road_morf", {"percentages": [10, 100]}),
    ("road_lerf", {"noise": -0.1}),
    ("infidelity", {"share": 0.0}),
    ("sensitivity_n", {"samples": 1}),
    ("region_perturbation", {"regions": -1}),
    ("irof", {"segments": 0}),
    ("monotonicity", {"tolerance": -1e-6}),
    ("max_sensitivity", {"radius": 1.5}),
    ("consistency", {"grid": 0}),
    ("mprt", {"steps": 0}),
    ("mprt", {"similarity": "pearsons"}),
    ("smooth_mprt", {"noise": -1.0}),
    ("completeness", {"aggregate": "max"}),
    ("effective_complexity", {"eps": -1.0}),
]


@pytest.mark.parametrize(("name", "parameters"), OUT_OF_RANGE)
def test_values_out_of_range_are_usage_errors(name: str, parameters: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as caught:
        check_parameters(OF_MAPS[name], parameters, 64, "multiclass")
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


def test_a_run_ends_before_it_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xaibench.evaluation.evaluate.obtain_weights", lambda *_, **__: pytest.fail("it trained"))
    metrics = [{"name": "energy"}, {"name": "mprt", "parameters": {"steps": 0}}]
    with pytest.raises(
        UsageError, match=r"metric 'mprt' with steps = 0: steps = 0; it is a whole number of at least 1"
    ):
        evaluate("gcm", ["cwm"], tiny_benchmark(metrics=metrics), device="cpu")


def test_many_samples_are_not_tried_before_the_run() -> None:
    check_parameters(OF_MAPS["infidelity"], {"samples": 10**6}, 64, "multiclass")
