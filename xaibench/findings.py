"""A finding: what a check saw, how bad it is, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """One thing that a check of the conformance kit or of the doctor has to say.

    Args:
        severity: "error" makes scores wrong or stops a run, "warning" may, "note" is good to know.
        check: which check found it, such as "hooks".
        what: what was seen, one line.
        remedy: what to do about it, one line; "" for a note.
        subject: what it is about, such as "explainer gradcam".
    """

    severity: Severity
    check: str
    what: str
    remedy: str = ""
    subject: str = ""

    def __str__(self) -> str:
        return ": ".join(filter(None, (self.subject, self.what))) + (f". {self.remedy}" if self.remedy else "")

    def to_json(self) -> dict[str, str]:
        return {
            "severity": self.severity,
            "check": self.check,
            "subject": self.subject,
            "what": self.what,
            "remedy": self.remedy,
        }


def errors(findings: Iterable[Finding]) -> list[Finding]:
    """Return those findings that are errors.

    >>> errors([Finding("note", "layer", "3 x 3"), Finding("error", "shape", "(2, 8)")])[0].check
    'shape'
    """
    return [finding for finding in findings if finding.severity == "error"]
