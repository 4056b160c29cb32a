"""The outcome of ``xaibench data check``, whatever the dataset."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Level = Literal["error", "warning", "info"]
_SHOWN = 5
SAMPLE = 100
"""Files that are decoded for their range of values where not all are."""


def spread(count: int, most: int = SAMPLE) -> list[int]:
    """Return so many places of a list, or all, spread evenly over it.

    >>> spread(3), spread(1000, 3)
    ([0, 1, 2], [0, 500, 999])
    """
    return sorted({round(n * (count - 1) / max(most - 1, 1)) for n in range(most)}) if count > most else [*range(count)]


def unused_upper_range(found: Iterable[tuple[float, float]]) -> dict[float, float]:
    """Return, of pairs of what a file's type holds and its largest value, the types of which no file passes a quarter.

    >>> unused_upper_range([(65535, 4095), (65535, 900), (255, 30), (255, 200)])
    {65535: 4095}
    """
    largest: dict[float, float] = {}
    for full, high in found:
        largest[full] = max(high, largest.get(full, high))
    return {full: high for full, high in largest.items() if high <= full / 4}


@dataclass(frozen=True)
class Finding:
    """One thing found: `error` breaks a run, `warning` needs a decision or a look, `info` is good to know."""

    level: Level
    text: str
    remedy: str = ""
    examples: Sequence[str] = ()


@dataclass
class Audit:
    """What was found.

    Attributes:
        root: the data root.
        counts: name to number.
        classes: one row a class, a dataclass of a name and numbers.
        files: ``mode, width x height`` of the image files to their number.
        findings: what was found, worst first once `sort` was called.
    """

    root: str
    counts: dict[str, int] = field(default_factory=dict)
    classes: list[Any] = field(default_factory=list)
    files: dict[str, int] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def error(self, text: str, remedy: str, examples: Sequence[str] = (), shown: int = _SHOWN) -> None:
        self.findings.append(Finding("error", text, remedy, list(examples[:shown])))

    def warn(self, text: str, remedy: str, examples: Sequence[str] = ()) -> None:
        self.findings.append(Finding("warning", text, remedy, list(examples[:_SHOWN])))

    def info(self, text: str, examples: Sequence[str] = ()) -> None:
        self.findings.append(Finding("info", text, "", list(examples[:_SHOWN])))

    def sort(self) -> None:
        self.findings.sort(key=lambda finding: ("error", "warning", "info").index(finding.level))

    @property
    def usable(self) -> bool:
        """Whether nothing was found that breaks a run."""
        return all(finding.level != "error" for finding in self.findings)

    @property
    def verdict(self) -> str:
        """One line: whether the data can be used, and what to do."""
        errors = [finding for finding in self.findings if finding.level == "error"]
        if errors:
            more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
            return f"not usable: {errors[0].text}{more}; {errors[0].remedy}"
        warnings = sum(finding.level == "warning" for finding in self.findings)
        return f"usable, with {warnings} warnings above" if warnings else "usable"

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain values, for JSON."""
        return {"usable": self.usable, "verdict": self.verdict} | asdict(self)
