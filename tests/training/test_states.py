"""What an interrupted training left is taken up again where it is whole, and only there."""

from __future__ import annotations

import errno
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.tiny import tiny_benchmark
from xaibench.classifiers.gcm import GCM
from xaibench.evaluation.setup import load_splits
from xaibench.training import arrays
from xaibench.training.states import find_state, keep_state


def keep(folder: Path, epoch: int, content: bytes) -> Path:
    part = folder / "last.part"
    part.write_bytes(content)
    return keep_state(part, epoch)


def test_the_last_whole_state_is_found(tmp_path: Path) -> None:
    assert find_state(tmp_path) is None
    first = keep(tmp_path, 1, b"one")
    assert find_state(tmp_path) == first
    second = keep(tmp_path, 2, b"two")
    assert find_state(tmp_path) == second
    assert sorted(tmp_path.iterdir()) == [second]
    first.write_bytes(b"one")  # as a kill leaves it, between the two
    assert find_state(tmp_path) == second
    second.write_bytes(b"twp")
    assert find_state(tmp_path) == first
    first.write_bytes(b"")
    assert find_state(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["images", "features"])
def test_damaged_arrays_are_made_anew(tmp_path: Path, name: str) -> None:
    benchmark = tiny_benchmark()
    classifier = GCM(benchmark.classes, 64, encoder="tf_efficientnet_lite0").optimized()
    split = load_splits(benchmark, None).val
    done: list[int] = []

    def made() -> arrays.Arrays:
        return arrays.compute_arrays(classifier, split, tmp_path, flip=False, advance=done.append)

    first = made()
    known: Any = np.array(getattr(first, name))
    del first
    count = len(done)
    made()
    assert len(done) == count  # found again
    path = tmp_path / f"{name}.npy"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    assert np.array_equal(getattr(made(), name), known)
    assert len(done) == 2 * count


def test_a_disk_too_small_for_the_arrays_is_an_error_and_no_crash(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(OSError, match=r"large|space") as caught:
            arrays._new(tmp_path / "images.npy", np.uint8, (10, 1000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.errno in (errno.EFBIG, errno.ENOSPC)
