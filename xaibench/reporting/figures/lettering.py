"""One line of text in a figure: in letters that every machine has, made to fit."""

from __future__ import annotations

import unicodedata
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.text import Text

FONT = "DejaVu Sans"  # comes with matplotlib: the same letters everywhere


def fit_text(label: Any, text: str, room: float) -> None:
    """Set a text of one line, smaller and then with its middle left out, so that it takes at most `room` inches."""
    label.whole_text, label.room = text, room  # for `every_letter`
    text = _printable(text)
    renderer = label.figure.canvas.get_renderer()
    room *= 0.98 * label.figure.dpi  # letters are rounded to pixels, in other ways at another resolution

    def fits(shown: str) -> bool:
        label.set_text(shown)
        return bool(label.get_window_extent(renderer).width <= room)

    smallest = max(label.get_fontsize() * 0.75, 5.5)
    while not fits(text) and label.get_fontsize() > smallest:
        label.set_fontsize(max(label.get_fontsize() - 0.5, smallest))
    keep = len(text)
    while not fits(_shortened(text, keep)) and keep > 1:
        keep -= max(1, keep // 20)


@contextmanager
def every_letter(figure: Figure) -> Iterator[None]:
    """While it lasts, texts of `fit_text` hold the letters that the font lacks, instead of escapes.

    For SVG, whose reader has other fonts. Their width is a guess, on the safe side: an em for East Asian letters.
    """
    changed = []
    for label in figure.findobj(Text):
        whole = "".join(c if c.isprintable() else _escape(c) for c in getattr(label, "whole_text", ""))
        if whole and whole != _printable(whole):
            changed.append((label, label.get_text()))
            ems = 72 * float(getattr(label, "room", 0.0)) / float(label.get_fontsize())
            keep = len(whole)
            while keep > 1 and sum(map(_ems, _shortened(whole, keep))) > ems:
                keep -= 1
            label.set_text(_shortened(whole, keep))
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r"Glyph .* missing from font")
            yield
    finally:
        for label, text in changed:
            label.set_text(text)


def _shortened(text: str, keep: int) -> str:
    """Return a text of which about `keep` letters are left, those at its ends.

    >>> _shortened("cardiomegaly", 4), _shortened("cwm", 3)
    ('ca…ly', 'cwm')
    """
    return text if keep >= len(text) else f"{text[: (keep + 1) // 2]}…{text[len(text) - keep // 2 :]}"


def _ems(letter: str) -> float:
    return 1.0 if unicodedata.east_asian_width(letter) in "WF" else 0.7


@cache
def _letters() -> frozenset[int]:
    path = font_manager.findfont(font_manager.FontProperties(family=FONT))
    return frozenset(font_manager.get_font(path).get_charmap())


def _printable(text: str) -> str:
    """Return one line with escapes for characters that the font lacks."""
    known = _letters()
    return "".join(c if c.isprintable() and ord(c) in known else _escape(c) for c in text)


def _escape(letter: str) -> str:
    return letter.encode("unicode_escape", "replace").decode()
