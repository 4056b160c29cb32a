"""Damaged files: each either loads, or is an error of one line. Nothing else is raised, and nothing hangs."""

from __future__ import annotations

import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from tests.fuzz.damage import Edit, damage, edits
from tests.fuzz.parsers import PARSERS, Parser
from xaibench.errors import XaibenchError

FEW, MANY = 25, 1000
SECONDS = 20
"""Until a parser counts as hanging."""


@contextmanager
def alarm(seconds: int) -> Iterator[None]:
    def ring(*_: Any) -> None:
        raise TimeoutError(f"still reading after {seconds} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def read(parser: Parser, path: Path) -> None:
    """Read a damaged file; fails unless it loads or is refused in one line."""
    try:
        with alarm(SECONDS), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow and numpy, about what they read
            parser.read(path)
    except XaibenchError as error:
        message = str(error)
        assert message.strip()
        assert "\n" not in message
        assert path.name in message or str(path.parent) in message, message


def fuzz(name: str, examples: int) -> None:
    parser = PARSERS[name]
    with TemporaryDirectory() as folder:
        path = parser.make(Path(folder))
        valid = path.read_bytes()
        parser.read(path)  # as it was, it loads

        @settings(
            max_examples=examples,
            derandomize=True,
            database=None,
            deadline=None,
            suppress_health_check=[*HealthCheck],
        )
        @given(edits(text=parser.text))
        def check(done: list[Edit]) -> None:
            path.write_bytes(damage(valid, done))
            read(parser, path)

        check()


@pytest.mark.parametrize("name", PARSERS)
def test_damaged_files(name: str) -> None:
    fuzz(name, FEW)


@pytest.mark.slow
@pytest.mark.parametrize("name", PARSERS)
def test_many_damaged_files(name: str) -> None:
    fuzz(name, MANY)
