"""The rows of a batch in threads: for steps in numpy, SciPy and OpenCV, which leave Python's lock free."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sized
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any, TypeVar

import torch

Made = TypeVar("Made")


def each_row(step: Callable[..., Made], first: Sized, *others: Iterable[Any]) -> list[Made]:
    """Return ``step`` of each row of the arguments, in order, on as many threads as torch computes with.

    For steps of a few tenths of a millisecond and more; shorter ones take longer in threads. A step calls no torch,
    which would take threads of its own, nor this again for several rows, which might wait for itself; and what it makes
    is not shared by `_ops.once`.
    """
    threads = torch.get_num_threads()
    run: Any = map if threads == 1 or len(first) < 2 else _pool(threads).map
    return list(run(step, first, *others))


@lru_cache(maxsize=1)
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "xaibench-rows")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # a forked process has none of the threads
