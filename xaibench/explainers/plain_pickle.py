"""Read arrays out of pickles without executing what is in them.

A pickle is a program: it may call any function that it names. Here it may name the few that rebuild numpy arrays and
torch tensors from their bytes, and plain containers; anything else is refused by its name before it is called.
"""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from xaibench.errors import DataError, first_line


def read_pickle(path: Path) -> Any:
    """Return what a pickle holds: containers, numbers, strings, numpy arrays and torch tensors (on the CPU).

    Raises:
        DataError: it is damaged, or names something else, which is not called.
    """
    try:
        content = path.read_bytes()
        if content.startswith(b"PK"):  # of torch.save
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        return _Plain(io.BytesIO(content)).load()
    except _RefusedError as error:
        raise DataError(f"{path} would call {error}, and is not read: save the map as .npy") from error
    except Exception as error:  # a damaged pickle raises anything
        raise DataError(f"{path} can't be read as a pickle of arrays: {first_line(error)}") from error


class _RefusedError(pickle.UnpicklingError):
    """Names what a pickle would call."""


class _Plain(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        module = module.replace("numpy._core.", "numpy.core.")
        if (module, name) in _TYPES:
            return _TYPES[module, name]
        if (module, name) not in _FUNCTIONS:
            raise _RefusedError(f"{module}.{name}")
        call = _FUNCTIONS[module, name]
        return lambda *given: call(*given)  # made anew: a pickle may set attributes of what it is handed

    def persistent_load(self, pid: Any) -> Any:
        raise _RefusedError(f"for an object kept elsewhere ({str(pid)[:40]})")


def _tensor(storage: Any, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> torch.Tensor:
    found: torch.Tensor = torch._utils._rebuild_tensor_v2(storage, offset, size, stride, False, OrderedDict())  # type: ignore[no-untyped-call]
    return found


def _storage(content: bytes) -> Any:
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def _bytes(text: str, encoding: str) -> bytes:
    """Return bytes, which the oldest protocols write as text of Latin-1."""
    if encoding != "latin1":
        raise _RefusedError(f"_codecs.encode with {encoding!r}")
    return text.encode("latin1")


def _from_buffer(buffer: Any, dtype: Any, shape: Any, order: Any) -> Any:
    return np.frombuffer(buffer, dtype=dtype).reshape(shape, order=order)


def _numpy(name: str) -> Callable[..., Any]:
    from numpy.lib import NumpyVersion

    if NumpyVersion(np.__version__) >= "2.0.0b1":
        from numpy._core import multiarray
    else:
        from numpy.core import multiarray  # type: ignore[no-redef]
    return getattr(multiarray, name)  # type: ignore[no-any-return]


_TYPES: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("collections", "OrderedDict"): OrderedDict,
}
_FUNCTIONS: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy.core.multiarray", "_reconstruct"): _numpy("_reconstruct"),
    ("numpy.core.multiarray", "scalar"): _numpy("scalar"),
    ("numpy.core.numeric", "_frombuffer"): _from_buffer,
    ("_codecs", "encode"): _bytes,
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
    ("torch.storage", "_load_from_bytes"): _storage,
}
