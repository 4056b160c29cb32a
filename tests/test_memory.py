"""Freed memory is kept where malloc can be told so; the command line does that to its process, the library never."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys
import numpy as np
from xaibench.io.memory import keep_freed_memory
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


LIBRARY = """
import os, resource
before = dict(os.environ)
import xaibench
import numpy as np
from torch import nn
from tests.tiny import tiny_benchmark
network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4))
xaibench.evaluate(network, ["random"], tiny_benchmark(metrics=[{"name": "roc_auc"}, {"name": "energy"}]), device="cpu")
changed = {key for key in {**before, **os.environ} if before.get(key) != os.environ.get(key)}
def use():
    np.empty(2**24)[::512] = 1
use()
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults, sorted(changed))
"""


def test_the_library_leaves_environment_and_malloc_alone() -> None:
    plain = {key: value for key, value in os.environ.items() if key not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    command = [sys.executable, "-c", LIBRARY]
    done = subprocess.run(command, env=plain, capture_output=True, text=True, check=True)
    faults, changed = done.stdout.strip().split(maxsplit=1)
    assert changed == "[]"
    if platform.libc_ver()[0] == "glibc":
        assert int(faults) > 100  # each array's pages are mapped anew, as by default


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc can be told to keep memory")
def test_the_command_line_keeps_freed_memory() -> None:
    code = SCRIPT.replace("from xaibench.io.memory import keep_freed_memory\n", "from xaibench.cli import main\n")
    code = code.replace("assert keep_freed_memory()", 'assert main(["--version"]) == 0')
    done = subprocess.run([sys.executable, "-c", code, "kept", "1"], capture_output=True, text=True, check=True)
    assert int(done.stdout.split()[-1]) < 100
