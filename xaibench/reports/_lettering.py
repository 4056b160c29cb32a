"""One line of text in a figure: in letters that every machine has, made to fit."""

from __future__ import annotations

from functools import cache
from typing import Any

from matplotlib import font_manager

FONT = "DejaVu Sans"  # comes with matplotlib: the same letters everywhere


def fit_text(label: Any, text: str, room: float) -> None:
    """Set a text of one line, smaller and then with its middle left out, so that it takes at most `room` inches."""
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
    shown = text
    while not fits(shown) and keep > 1:
        keep -= max(1, keep // 20)
        shown = f"{text[: (keep + 1) // 2]}…{text[len(text) - keep // 2 :]}"


@cache
def _letters() -> frozenset[int]:
    path = font_manager.findfont(font_manager.FontProperties(family=FONT))
    return frozenset(font_manager.get_font(path).get_charmap())


def _printable(text: str) -> str:
    """Return one line with escapes for characters that the font lacks."""
    known = _letters()
    return "".join(
        c if c.isprintable() and ord(c) in known else c.encode("unicode_escape", "replace").decode() for c in text
    )
