"""Keep freed memory for the next batch instead of giving it back to the operating system.

A network's activations are tens to hundreds of megabytes, freed and asked for again in every step. By default glibc
maps and unmaps each anew, and the page faults can cost more than the arithmetic (benchmarks/speed/malloc.py compares).
"""

from __future__ import annotations

import ctypes
import platform

import torch

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_LARGEST = 2**31 - 1
_NEVER = -1  # to trim; the largest number would give back what a batch frees beyond 2 GB, each time


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
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
