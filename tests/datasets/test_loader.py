"""Decoding in threads keeps the order, whether or not it runs ahead."""

from __future__ import annotations

import pytest
import torch

from xaibench.datasets.loader import batches
from xaibench.datasets.phantom import phantom


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("threads", [1, 3])
def test_batches_come_in_order_and_whole(ahead: bool, threads: int) -> None:
    split = phantom(classes=["No Finding", "Effusion"], input_size=32, options={"train": 2, "val": 2, "test": 7}).test
    split.threads = threads
    found = list(batches(split, 3, ahead=ahead))
    assert [len(batch.samples) for batch in found] == [3, 3, 1]
    assert [sample.id for batch in found for sample in batch.samples] == list(split.ids)
    assert torch.equal(found[2].images[0, 0], torch.from_numpy(split[6].image[0]))
    assert [sample.id for batch in batches(split, 2, [5, 0, 3], ahead=ahead) for sample in batch.samples] == [
        split.ids[index] for index in (5, 0, 3)
    ]
