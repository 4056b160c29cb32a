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
for _ in range(3):
    np.ones(2**24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    np.ones(2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc can be told to keep memory")
def test_large_arrays_no_longer_fault_their_pages_in_each_time() -> None:
    faults = {
        side: int(
            subprocess.run([sys.executable, "-c", SCRIPT, side], capture_output=True, text=True, check=True).stdout
        )
        for side in ("default", "kept")
    }
    assert faults["default"] > 100  # 128 MB an array, mapped and unmapped
    assert faults["kept"] < faults["default"] / 10
