"""Scores on a thread beside the network: the same ones, and no work lost to what the network meets meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.harness import ray_plugins
from tests.harness.test_engine import EXPLAINERS, _work
from xaibench.errors import DataError
from xaibench.harness import scorer as module
from xaibench.harness.batch import Work
from xaibench.harness.records import MapMetric, Records
from xaibench.harness.scorer import Scorer, has_core_to_spare
from xaibench.harness.stream import records_of, unsettled
from xaibench.metrics import _ops
from xaibench.metrics.base import Metric
from xaibench.types import Sample

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _plugins() -> Iterator[None]:
    ray_plugins.register()
    yield
    ray_plugins.unregister()


def _choose(monkeypatch: pytest.MonkeyPatch, *, beside: bool) -> None:
    monkeypatch.setattr(module, "has_core_to_spare", lambda device: beside)


@pytest.fixture(params=[False, True], ids=["at once", "beside"])
def beside(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    found: bool = request.param
    _choose(monkeypatch, beside=found)
    return found


def test_a_thread_of_its_own_where_the_network_leaves_a_core() -> None:
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert has_core_to_spare(CPU)
        assert not has_core_to_spare(torch.device("cuda"))
        torch.set_num_threads(1)
        assert not has_core_to_spare(CPU)
    finally:
        torch.set_num_threads(threads)


def test_torch_computes_alone_on_that_thread_and_as_before_elsewhere() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        with Scorer(CPU) as scorer:
            assert scorer.submit(torch.get_num_threads).result() == 1
            assert torch.get_num_threads() == 3
            with ThreadPoolExecutor(1) as later:
                assert later.submit(torch.get_num_threads).result() == 3
    finally:
        torch.set_num_threads(before)


MADE: list[int] = []


def _counted(maps: Tensor) -> int:
    MADE.append(threading.get_ident())
    return len(MADE)


def test_steps_of_a_batch_share_and_come_in_order(beside: bool) -> None:
    maps, order = torch.zeros(1, 2, 2), list[int]()
    MADE.clear()

    def step(number: int) -> int:
        time.sleep(0.01 * (5 - number))
        order.append(number)
        return _ops.once(_counted, maps)

    with Scorer(CPU) as scorer:
        jobs = [scorer.submit(lambda number=number: step(number)) for number in range(5)]  # type: ignore[misc]
        assert [job.result() for job in jobs] == [1] * 5
        assert order == list(range(5))
        scorer.begin_batch()
        assert scorer.submit(lambda: step(5)).result() == 2  # anew in another batch
    assert (threading.get_ident() in MADE) is not beside
    with pytest.raises(ZeroDivisionError), Scorer(CPU) as scorer:
        scorer.submit(lambda: 1 // 0).result()


def test_another_batch_drops_what_is_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    _choose(monkeypatch, beside=True)
    running_now, go, done = threading.Event(), threading.Event(), list[int]()

    def run() -> bool:
        running_now.set()
        return go.wait(10)

    with Scorer(CPU) as scorer:
        running = scorer.submit(run)
        assert running_now.wait(10)
        dropped = scorer.submit(lambda: done.append(1))
        scorer.begin_batch()
        go.set()
        assert running.result()
        scorer.submit(lambda: done.append(2)).result()
        assert dropped.cancelled()
    assert done == [2]


def test_the_records_are_those_of_scoring_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Records] = []
    for beside in (False, True):
        _choose(monkeypatch, beside=beside)
        found.append(records_of(_work(EXPLAINERS), 8))
    one, other = found
    assert one.failed == other.failed
    assert one.faults == other.faults
    assert list(one.values) == list(other.values)
    np.testing.assert_array_equal(one.chance, other.chance)
    np.testing.assert_array_equal(one.logits, other.logits)
    for name in one.values:
        np.testing.assert_array_equal(one.values[name], other.values[name])
        np.testing.assert_array_equal(one.constant[name], other.constant[name])


def _one_metric(function: Callable[[Tensor, Tensor], Tensor]) -> Work:
    work = _work(["ray_brightness"])
    work.metrics = [MapMetric(Metric("odd", function, "localization", "higher", (0.0, 1.0), "Nobody 2026", "Odd"), {})]
    return work


def test_what_a_metric_raises_is_told_and_given_up_in_later_batches(beside: bool) -> None:
    calls: list[int] = []

    def odd(maps: Tensor, masks: Tensor) -> Tensor:
        calls.append(len(maps))
        raise ValueError("no such luck")

    records = records_of(_one_metric(odd), 8)
    assert records.given_up == {
        "odd": {"ray_brightness": "ValueError: no such luck", "random": "ValueError: no such luck"}
    }
    assert len(calls) == 2  # an explainer each, of the first batch alone


def test_a_batch_too_large_for_a_metric_is_halved(beside: bool) -> None:
    sizes: list[int] = []

    def odd(maps: Tensor, masks: Tensor) -> Tensor:
        sizes.append(len(maps))
        if len(maps) > 4:
            raise MemoryError
        return maps.mean((1, 2))

    whole = records_of(_one_metric(lambda maps, masks: maps.mean((1, 2))), 8)
    halved = records_of(_one_metric(odd), 8)
    assert max(sizes) > 4
    assert halved.given_up == {}
    np.testing.assert_allclose(halved.values["ray_brightness"], whole.values["ray_brightness"], rtol=1e-5)


def test_an_image_that_cannot_be_decoded_does_not_cost_the_batch_before(
    beside: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = _work(["ray_brightness"])
    decode = type(work.split).__getitem__

    def broken(split: object, index: int) -> Sample:
        if index == 9:
            raise DataError("image 9 is torn")
        return decode(work.split, index)

    monkeypatch.setattr(type(work.split), "__getitem__", broken)
    parts = unsettled(work, range(28), 8, {}, {})
    assert len(next(parts).logits) == 8
    with pytest.raises(DataError, match="image 9 is torn"):
        next(parts)


def test_the_network_goes_on_to_the_next_batch_before_the_scores_of_this_one_are_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _choose(monkeypatch, beside=True)
    predicted = threading.Event()

    def odd(maps: Tensor, masks: Tensor) -> Tensor:
        assert predicted.wait(20)
        return maps.mean((1, 2))

    work = _one_metric(odd)
    forward, seen = type(work.forward).__call__, list[int]()

    def noticed(self: object, *given: object) -> object:
        seen.append(1)
        if len(seen) == 2:
            predicted.set()
        return forward(self, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(type(work.forward), "__call__", noticed)
    assert len(records_of(work, 8).values["ray_brightness"]) > 0
