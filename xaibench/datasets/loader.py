"""Decode a split in order, ahead of the network, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch

from xaibench.datasets.base import Split
from xaibench.types import Batch, Sample


def stack(samples: Sequence[Sample]) -> Batch:
    """Stack samples into a batch; grey images repeat as RGB without being copied."""
    images = torch.from_numpy(np.stack([sample.image for sample in samples]))
    return Batch(tuple(samples), images if images.shape[1] == 3 else images.expand(-1, 3, -1, -1))


def batches(
    split: Split, batch_size: int, indices: Sequence[int] | None = None, *, workers: int = 2
) -> Iterator[Batch]:
    """Decode a split in order, in threads one batch ahead of whoever uses it; memory holds two batches at most."""
    order = range(len(split)) if indices is None else indices
    chunks = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    with ThreadPoolExecutor(workers) as pool:
        ahead: list[Future[Sample]] = []
        for chunk in (*chunks, None):
            ready = ahead
            ahead = [pool.submit(split.__getitem__, int(index)) for index in chunk] if chunk is not None else []
            if ready:
                yield stack([job.result() for job in ready])
