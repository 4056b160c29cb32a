"""Decode a split in order, in bounded memory, ahead of a network that runs elsewhere."""

from __future__ import annotations

import multiprocessing
import pickle
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from types import TracebackType
from typing import Self

import numpy as np
import torch

from xaibench.datasets.base import Split
from xaibench.errors import UsageError, first_line
from xaibench.types import Batch, Sample


def stack(samples: Sequence[Sample], *, pin: bool = False) -> Batch:
    """Stack samples into a batch; grey images repeat as RGB without being copied.

    Args:
        samples: images of one shape.
        pin: into page-locked memory, from which a GPU copies while it computes.
    """
    images = torch.from_numpy(np.stack([sample.image for sample in samples]))
    if pin:
        images = images.pin_memory()
    return Batch(tuple(samples), images if images.shape[1] == 3 else images.expand(-1, 3, -1, -1))


_SPLIT: list[Split] = []
"""In a worker process: the split that it decodes."""


def _begin(split: Split) -> None:
    torch.set_num_threads(1)  # the processes are the parallelism
    _SPLIT[:] = [split]


def _decode(index: int) -> Sample:
    return _SPLIT[0][index]


class Decoder:
    """Decodes batches of a split; what was submitted is decoded while the caller does something else.

    Args:
        split: the images.
        pin: see `stack`.
        workers: processes that decode, for a network on a GPU that threads can't keep busy; 0 for threads.

    Raises:
        UsageError: a split that can't be sent to another process.
    """

    def __init__(self, split: Split, *, pin: bool = False, workers: int = 0) -> None:
        self._pin = pin
        self._pool: Executor
        if workers:
            try:
                pickle.dumps(split)
            except Exception as error:
                what = f"{type(split).__name__} can't be sent to worker processes ({first_line(error)})"
                raise UsageError(f"{what}: leave --decode-workers out") from error
            context = multiprocessing.get_context("spawn")  # a forked copy of a process with threads may hang
            self._pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=(split,))
            self._decode: Callable[[int], Sample] = _decode
        else:
            self._pool = ThreadPoolExecutor(split.threads)
            self._decode = split.__getitem__
        self._waiting: dict[tuple[int, ...], list[Future[Sample]]] = {}

    def submit(self, rows: Sequence[int]) -> None:
        """Begin to decode a batch, unless that was done."""
        if (key := tuple(rows)) not in self._waiting:
            self._waiting[key] = [self._pool.submit(self._decode, int(row)) for row in key]

    def take(self, rows: Sequence[int]) -> Batch:
        """Return a batch, submitted or not.

        Raises:
            DataError: as `Split.__getitem__`.
        """
        self.submit(rows)
        return stack([job.result() for job in self._waiting.pop(tuple(rows))], pin=self._pin)

    def forget(self) -> None:
        """Drop what was submitted and not taken."""
        for jobs in self._waiting.values():
            for job in jobs:
                job.cancel()
        self._waiting.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)


def batches(
    split: Split, batch_size: int, indices: Sequence[int] | None = None, *, ahead: bool = False
) -> Iterator[Batch]:
    """Decode a split in order, in threads; memory holds two batches at most.

    Args:
        split: the images.
        batch_size: images at once; the last batch may be smaller.
        indices: which images, in which order; all by default.
        ahead: decode the next batch while the caller uses this one. That pays where the network runs on a GPU; on the
            CPU decoding takes the cores from the network, whose threads then wait for each other.
    """
    order = range(len(split)) if indices is None else indices
    chunks = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    with Decoder(split) as decoder:
        for number, chunk in enumerate(chunks):
            for near in chunks[number : number + 1 + ahead]:
                decoder.submit(near)
            yield decoder.take(chunk)
