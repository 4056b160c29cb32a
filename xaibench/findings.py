"""A finding: what a check saw, how bad it is, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

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


class Note(str):
    """A run's note: its text, with how much it matters and what it is about, which no reader has to guess from words.

    Args:
        text: one line.
        severity: as of a `Finding`.
        subject: what it is about, such as "doctor"; "" for the run.

    >>> note = Note("biased: the epoch was chosen on the test images", "warning")
    >>> note.severity, note == "biased: the epoch was chosen on the test images"
    ('warning', True)
    """

    severity: Severity
    subject: str

    def __new__(cls, text: str, severity: Severity = "note", subject: str = "") -> Note:
        made = super().__new__(cls, text)
        made.severity, made.subject = severity, subject
        return made

    @classmethod
    def of(cls, text: str) -> Note:
        """Return a note as it is, and other text as a note that is good to know."""
        return text if isinstance(text, Note) else cls(text)

    def to_json(self) -> dict[str, str]:
        return {"severity": self.severity, "subject": self.subject, "text": str(self)}

    @classmethod
    def from_json(cls, value: object) -> Note:
        """Read what `to_json` gave, or the bare text of earlier versions, whose words tell how much it matters.

        Raises:
            TypeError, KeyError, ValueError: it is neither.
        """
        if isinstance(value, str):
            return cls(value, *_by_words(value))
        if not isinstance(value, dict):
            raise TypeError(f"{str(value)[:40]!r} stands where a note does")
        text, severity, subject = value["text"], value["severity"], value["subject"]
        if not isinstance(text, str) or not isinstance(subject, str):
            raise TypeError("a note's text is no text")
        if severity not in get_args(Severity):
            raise ValueError(f"a note's severity is {str(severity)[:40]!r}")
        return cls(text, severity, subject)


_ALARMING = ("biased", "given up", "leak", "warning", "overlap", "test box", "undefined")
"""What warnings held that earlier versions wrote as bare text."""
_DOCTOR = "doctor: "


def _by_words(text: str) -> tuple[Severity, str]:
    if text.startswith(_DOCTOR):
        return "warning", "doctor"
    return "warning" if any(word in text.lower() for word in _ALARMING) else "note", ""


def errors(findings: Iterable[Finding]) -> list[Finding]:
    """Return those findings that are errors.

    >>> errors([Finding("note", "layer", "3 x 3"), Finding("error", "shape", "(2, 8)")])[0].check
    'shape'
    """
    return [finding for finding in findings if finding.severity == "error"]
