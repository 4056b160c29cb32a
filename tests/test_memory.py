"""Freed memory is kept where malloc can be told so, and nothing else changes."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys
import numpy as np
from xaibench.memory import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
def use():
    arrays = [np.empty(2**24) for _ in range(int(sys.argv[2]))]  # 128 MB each
    for array in arrays:
        array[::512] = 1  # every page
for _ in range(3):
    use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc can be told to keep memory")
@pytest.mark.parametrize("arrays", [1, 20], ids=["128 MB", "2.7 GB, more than malloc's numbers reach"])
def test_large_arrays_no_longer_fault_their_pages_in_each_time(arrays: int) -> None:
    faults = {}
    for side in ("default", "kept"):
        command = [sys.executable, "-c", SCRIPT, side, str(arrays)]
        faults[side] = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert faults["default"] > 100  # mapped and unmapped
    assert faults["kept"] < faults["default"] / 10
