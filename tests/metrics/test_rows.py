"""Rows in threads: the same results in the same order as one after the other."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from xaibench.metrics._dilate import dilate
from xaibench.metrics._rows import each_row
from xaibench.metrics.pooled import max_box_acc
from xaibench.metrics.ranking import pixel_auc, top_k_intersection


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_results_come_in_order_from_as_many_threads() -> None:
    torch.set_num_threads(2)
    meeting = threading.Barrier(2, timeout=10)  # passed by two at once, or by none

    def step(row: int, other: str) -> tuple[int, str]:
        meeting.wait()
        time.sleep(0.02 * (row % 2 == 0))
        return row, other

    assert each_row(step, range(4), "abcd") == [(0, "a"), (1, "b"), (2, "c"), (3, "d")]


def test_one_thread_needs_no_other() -> None:
    torch.set_num_threads(1)
    assert each_row(lambda _: threading.current_thread(), range(3)) == [threading.current_thread()] * 3


def test_an_error_is_passed_on() -> None:
    torch.set_num_threads(2)
    with pytest.raises(ZeroDivisionError):
        each_row(lambda row: 1 // row, range(4))


def test_scores_are_the_same_bit_for_bit_in_threads() -> None:
    generator = torch.Generator().manual_seed(0)
    maps = (20 * torch.rand(9, 48, 48, generator=generator)).round()  # ties
    masks = torch.zeros(9, 48, 48, dtype=torch.bool)
    for row, mask in enumerate(masks):
        mask[4 + row : 20 + row, 8 : 30 - row] = True
        mask[5 + row, 9] = False  # no rectangle, which would be grown without threads
    found = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        made = [pixel_auc(maps, masks), top_k_intersection(maps, masks, k=50), dilate(masks, 4.5)]
        found.append([*made, max_box_acc(maps, masks), max_box_acc.chance(masks)])
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())
