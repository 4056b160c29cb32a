"""Read arrays out of pickles without executing what is in them.

A pickle is a program: it may call any function that it names. Here it may name the few that rebuild numpy arrays and
torch tensors from their bytes, and plain containers; anything else is refused by its name before it is called. Those of
numpy are written anew below: numpy's own believe what a pickle says of a type, so that a type "object" that denies
being one makes them follow eight bytes of the file as an address in memory.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import re
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from xaibench.errors import DataError, first_line
from xaibench.io.limits import MAP_BYTES, check_archive, read_bytes


def read_pickle(path: Path) -> Any:
    """Return what a pickle holds: containers, numbers, strings, numpy arrays and torch tensors (on the CPU).

    Arrays are numpy's at the top and one container below it, which is where maps are.

    Raises:
        DataError: it is damaged, too large, or names something else, which is not called.
    """
    try:
        content = read_bytes(path, MAP_BYTES)
        if content.startswith(b"PK"):  # of torch.save
            check_archive(path)
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        _check_slots(content)
        found = _Plain(io.BytesIO(content)).load()
        if type(found) is dict:
            return {key: _plain(value) for key, value in found.items()}
        return [_plain(value) for value in found] if type(found) is list else _plain(found)
    except _RefusedError as error:
        raise DataError(f"{path} would call {error}, and is not read: save the map as .npy") from error
    except Exception as error:  # a damaged pickle raises anything
        raise DataError(f"{path} can't be read as a pickle of arrays: {first_line(error)}") from error


def _check_slots(content: bytes) -> None:
    """Refuse a pickle that is cut off, or that keeps a value in slot 4,000,000,000, for which C makes room."""
    for count, (code, argument, _) in enumerate(pickletools.genops(content)):
        if code.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(argument or 0) > count:
            raise ValueError(f"slot {argument} after {count} steps")


class _RefusedError(pickle.UnpicklingError):
    """Names what a pickle would call."""


class _Plain(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        module = module.replace("numpy._core.", "numpy.core.")
        if (module, name) not in _FUNCTIONS:
            raise _RefusedError(f"{module}.{name}")
        call = _FUNCTIONS[module, name]
        return lambda *given: call(*given)  # made anew: a pickle may set attributes of what it is handed

    def persistent_load(self, pid: Any) -> Any:
        raise _RefusedError(f"for an object kept elsewhere ({str(pid)[:40]})")


class _Type:
    """Stands for a numpy type of numbers while a pickle is read."""

    def __init__(self, name: str) -> None:
        if not re.fullmatch(r"[<>=|]?[biuf]\d{1,2}", name):
            raise ValueError(f"an array of {name!r} holds no numbers")
        self.numbers = np.dtype(name)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, order, *rest = state
        if order not in ("<", ">", "=", "|") or any(part is not None for part in rest[:3]):
            raise ValueError("a type with parts holds no numbers")
        self.numbers = self.numbers.newbyteorder(order)


class _Array:
    """Stands for a numpy array while a pickle is read."""

    found: Any = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, by_columns, content = state
        self.found = _from_buffer(content, kind, shape, "F" if by_columns else "C")


def _plain(value: Any) -> Any:
    return value.found if isinstance(value, _Array) else value


def _from_buffer(content: Any, kind: _Type, shape: Any, order: str) -> Any:
    if not isinstance(content, bytes | bytearray) or not isinstance(kind, _Type):
        raise TypeError("an array is made of bytes and a type")
    return np.frombuffer(content, kind.numbers).reshape(shape, order="F" if order == "F" else "C")


def _scalar(kind: _Type, content: bytes) -> Any:
    return _from_buffer(content, kind, (), "C")[()]


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


_FUNCTIONS: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "ndarray"): lambda *_: None,  # named, and passed to _reconstruct
    ("numpy", "dtype"): lambda name, *_: _Type(name),
    ("collections", "OrderedDict"): lambda: OrderedDict(),
    ("numpy.core.multiarray", "_reconstruct"): lambda *_: _Array(),
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy.core.numeric", "_frombuffer"): _from_buffer,
    ("_codecs", "encode"): _bytes,
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
    ("torch.storage", "_load_from_bytes"): _storage,
}
