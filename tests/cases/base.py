"""What a case is, and how what is found is compared with what is right."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from xaibench.errors import XaibenchError

LONGEST = 200
"""Characters of a value that are shown."""


@dataclass(frozen=True)
class Refused:
    """A refusal of one line that says `says`, a regular expression, is right."""

    says: str


@dataclass(frozen=True)
class Says:
    """A text in which `says`, a regular expression, is found is right."""

    says: str
    shown: str


@dataclass(frozen=True)
class Pair:
    """What xaibench gives, and what is right by a computation of the case's own."""

    found: Any
    right: Any


@dataclass(frozen=True)
class Case:
    """One row.

    Attributes:
        section: heading of its table.
        given: what the user gives.
        run: returns the value, or a `Pair`; it is handed an empty folder.
        before: what it gave at the commit before, as `Outcome.shown`.
        right: the value, `Refused` or `Says`; None where `run` gives a `Pair`.
        source: where the right value comes from.
        test: path::name.
        tolerance: of numbers, absolute.
    """

    section: str
    given: str
    run: Callable[[Path], Any]
    before: str
    right: Any
    source: str
    test: str
    tolerance: float


@dataclass(frozen=True)
class Outcome:
    """What a case gives now."""

    shown: str
    right: str
    holds: bool


CASES: list[Case] = []


def case(
    section: str, given: str, *, before: str, source: str, test: str, right: Any = None, tolerance: float = 1e-6
) -> Callable[[Callable[[Path], Any]], Callable[[Path], Any]]:
    """Register a function as a `Case`."""

    def register(run: Callable[[Path], Any]) -> Callable[[Path], Any]:
        CASES.append(Case(section, given, run, before, right, source, test, tolerance))
        return run

    return register


def outcome(one: Case, folder: Path, longest: int = LONGEST) -> Outcome:
    """Run a case in a folder of its own."""
    try:
        found = one.run(folder)
    except (XaibenchError, ValidationError) as error:
        text = (
            error.errors()[0]["msg"].removeprefix("Value error, ") if isinstance(error, ValidationError) else str(error)
        )
        text = text.replace(f"{folder}/", "").replace(str(folder), "DIR")
        holds = isinstance(one.right, Refused) and "\n" not in text and re.search(one.right.says, text) is not None
        return Outcome(_cut(f"refused: {text}", longest), _show(one.right), holds)
    except (Exception, SystemExit) as error:
        return Outcome(
            _cut(f"{type(error).__name__}: {error}".replace(f"{folder}/", ""), longest), _show(one.right), False
        )
    right = one.right
    if isinstance(found, Pair):
        found, right = found.found, found.right
    return Outcome(
        _cut(_show(found).replace(f"{folder}/", ""), longest), _show(right), _same(found, right, one.tolerance)
    )


def _same(found: Any, right: Any, tolerance: float) -> bool:
    if isinstance(right, Refused):
        return False
    if isinstance(right, Says):
        return isinstance(found, str) and re.search(right.says, found) is not None
    if isinstance(right, str) or isinstance(found, str):
        return bool(found == right)
    if isinstance(right, Sequence):
        pairs = zip(found, right, strict=False)
        return len(found) == len(right) and all(_same(one, other, tolerance) for one, other in pairs)
    return math.isclose(found, right, rel_tol=0, abs_tol=tolerance)


def _show(value: Any) -> str:
    if isinstance(value, Refused):
        return "refused"
    if isinstance(value, Says):
        return value.shown
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(f"[{_show(one)}]" if isinstance(one, list | tuple) else _show(one) for one in value)
    if isinstance(value, float):
        return "0" if abs(value) < 5e-7 else f"{value:.6g}"  # rounding errors are none
    return str(value)


def _cut(text: str, longest: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= longest else text[: longest - 4].rsplit(" ", 1)[0] + " ..."
