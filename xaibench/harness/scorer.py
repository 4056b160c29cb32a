"""A thread that computes scores which ask no network, while the network explains and predicts."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from types import TracebackType
from typing import Any, Self, TypeVar

import torch

from xaibench.metrics._ops import sharing

Made = TypeVar("Made")


class Scorer:
    """Does steps one after the other, in the order in which they were submitted.

    On a thread of its own if there is a core for it, else at once.

    Args:
        device: where the network runs.

    Attributes:
        beside: has it a thread of its own?
    """

    def __init__(self, device: torch.device) -> None:
        self.beside = has_core_to_spare(device)
        self._pool = _one_thread() if self.beside else None
        self._begun: list[Future[Any]] = []
        self.begin_batch()

    def begin_batch(self) -> None:
        """Drop the steps that are not begun, and what those before shared with each other; see `_ops.sharing`."""
        for job in self._begun:
            job.cancel()
        self._begun.clear()
        with sharing():
            self._context = copy_context()

    def submit(self, step: Callable[[], Made]) -> Future[Made]:
        """Return what a step comes to, or raises."""
        if self._pool is None:
            done: Future[Made] = Future()
            try:
                done.set_result(self._context.run(step))
            except Exception as error:
                done.set_exception(error)
            return done
        job = self._pool.submit(self._context.run, step)
        self._begun.append(job)
        return job

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)


def _one_thread() -> ThreadPoolExecutor:
    """Return a thread on which torch computes without further ones.

    Threads for two callers are more than there are cores; OpenMP then lets none wait for work awake, and networks of
    many short operations take a fifth longer.
    """
    pool, threads = ThreadPoolExecutor(1, "xaibench-scores"), torch.get_num_threads()
    pool.submit(_compute_alone).result()
    torch.set_num_threads(threads)  # each thread has a number of its own, but new ones get what was set last
    return pool


def _compute_alone() -> None:
    torch.get_num_threads()  # takes what was set last, which it would otherwise do later
    torch.set_num_threads(1)


def has_core_to_spare(device: torch.device) -> bool:
    """Tell whether a network there leaves cores of this machine idle: where one of its threads waits for the others.

    Of networks on a GPU it is not known whether the kernels of two threads get into each other's way.
    """
    return device.type == "cpu" and torch.get_num_threads() > 1
