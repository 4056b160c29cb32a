"""Decode a split in order, in bounded memory, ahead of a network that runs elsewhere."""

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
    with ThreadPoolExecutor(split.threads) as pool:
        waiting: list[list[Future[Sample]]] = []
        for chunk in chunks:
            waiting.append([pool.submit(split.__getitem__, int(index)) for index in chunk])
            if len(waiting) > ahead:
                yield stack([job.result() for job in waiting.pop(0)])
        for jobs in waiting:
            yield stack([job.result() for job in jobs])
