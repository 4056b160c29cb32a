"""What the checks of every kind share: gathering findings, comparing, catching what a plugin raises."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xaibench.errors import XaibenchError
from xaibench.findings import Finding, Severity
from xaibench.registry import one_line


class GivenUpError(Exception):
    """A check failed so badly that those after it would only repeat it."""


class Report:
    """Findings about one subject, gathered check by check."""

    def __init__(self, subject: str) -> None:
        self.subject = subject
        self.findings: list[Finding] = []

    def add(self, check: str, what: str, remedy: str, severity: Severity = "error") -> None:
        self.findings.append(Finding(severity, check, what, remedy, self.subject))

    @contextmanager
    def checks(self) -> Iterator[None]:
        """End quietly when a check gives up, and make a finding of anything else that a plugin raises inside."""
        try:
            yield
        except GivenUpError:
            pass
        except Exception as error:
            self.add("raises", f"a check ended with {one_line(error)}", "Call it in a test to see the traceback.")

    def expect(self, holds: bool, check: str, what: str, remedy: str, severity: Severity = "error") -> bool:
        """Add a finding unless `holds`; return `holds`."""
        if not holds:
            self.add(check, what, remedy, severity)
        return holds

    def call(self, what: str, call: Callable[[], Any], remedy: str) -> Any:
        """Return what a call gives.

        Raises:
            GivenUpError: it raised, which is now a finding.
        """
        try:
            return call()
        except Exception as error:  # a plugin may raise anything
            self.add("raises", f"{what} raised {one_line(error)}", remedy)
            raise GivenUpError from error


def same(found: Tensor, wanted: Tensor, relative: float = 1e-4) -> bool:
    """Tell whether two tensors are equal but for the order of sums; NaN equals NaN."""
    if found.shape != wanted.shape:
        return False
    found, wanted = found.detach().cpu(), wanted.detach().cpu()
    scale = float(wanted.nan_to_num(posinf=0, neginf=0).abs().max()) if wanted.numel() else 0.0
    return torch.allclose(found, wanted, rtol=relative, atol=1e-5 * scale, equal_nan=True)


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one thread: with several, sums go in another order for another batch size, which is no fault."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def furthest(found: Tensor, wanted: Tensor) -> str:
    """Say how far two tensors are apart, as a share of the largest value."""
    if found.shape != wanted.shape:
        return f"shapes {tuple(found.shape)} and {tuple(wanted.shape)}"
    apart = (found.detach().cpu().double() - wanted.detach().cpu().double()).abs().nan_to_num(nan=float("inf")).max()
    scale = max(float(wanted.detach().nan_to_num().abs().max()), 1e-30)
    return f"by up to {100 * float(apart) / scale:.2g}% of the largest value"


def clear(error: Exception) -> str | None:
    """Return what is wrong with an error that a user is to read, None when it is one line of a kind of ours."""
    if not isinstance(error, XaibenchError):
        return f"{one_line(error, 120)}, which is no XaibenchError"
    return None if len(str(error).strip().splitlines()) == 1 else f"a {type(error).__name__} that is not one line"


def generators() -> tuple[Tensor, list[int]]:
    """Return the states of the global generators of torch and NumPy."""
    return torch.get_rng_state(), np.random.get_state()[1].tolist()  # type: ignore[index] # noqa: NPY002


def equal_generators(one: tuple[Tensor, list[int]], other: tuple[Tensor, list[int]]) -> bool:
    return torch.equal(one[0], other[0]) and one[1] == other[1]


@contextmanager
def reseeded(seed: int) -> Iterator[None]:
    """Seed the global generators for the block and put them back."""
    before = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    try:
        yield
    finally:
        torch.set_rng_state(before[0])
        np.random.set_state(before[1])  # noqa: NPY002


@contextmanager
def newborn() -> Iterator[Callable[[], int]]:
    """Give a count of the bytes of tensors made in the block and still alive, storages counted once."""
    gc.freeze()  # what was there before is looked at no more: ten times faster
    try:
        yield _newborn_bytes
    finally:
        gc.unfreeze()


def _newborn_bytes() -> int:
    gc.collect()
    storages = {}
    for thing in gc.get_objects():
        if type(thing) in (Tensor, torch.nn.Parameter) and thing.layout == torch.strided and not thing.is_meta:
            storage = thing.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())
