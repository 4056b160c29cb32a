"""What suits a process that does nothing else: freed memory is kept for the next batch, and idle threads wait less.

The command line and Ray's workers call `settle_process` when they start. The library never does: in a notebook, call it
before torch is imported. No number depends on it.

A network's activations are tens to hundreds of megabytes, freed and asked for again in every step. By default glibc
maps and unmaps each anew, and the page faults can cost more than the arithmetic (benchmarks/speed/malloc.py compares).
"""

from __future__ import annotations

import ctypes
import os
import platform

_SPINS = "10000"
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_LARGEST = 2**31 - 1
_NEVER = -1  # to trim; the largest number would give back what a batch frees beyond 2 GB, each time


def settle_process() -> None:
    """Set both, for the whole process and those that it starts; what the user has set in the environment stays.

    GNU's OpenMP threads, torch's on Linux, wait for the next operation in a loop, for a millisecond or so by default,
    on cores that decoding and metrics can use. They read how long when torch is first imported.
    """
    if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = _SPINS
    keep_freed_memory()


def keep_freed_memory() -> bool:
    """Tell glibc's malloc to keep freed memory; return whether it could (not on other systems).

    The process's peak is as before; only what lies idle between peaks is kept.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    wanted = ((_M_MMAP_THRESHOLD, _LARGEST), (_M_TRIM_THRESHOLD, _NEVER), (_M_TOP_PAD, 64 * 2**20))
    return all(mallopt(parameter, value) == 1 for parameter, value in wanted)


def out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that a batch was too large for the memory."""
    import torch  # here, as the command line settles the process before torch is imported

    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
