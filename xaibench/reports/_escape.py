"""Names that anybody chose, as text in Markdown, LaTeX and spreadsheets: never as markup, never as a formula."""

from __future__ import annotations

import re

_MARKDOWN = "\\`*<>[]|&~#"
_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "'": r"\textquotesingle{}",
    "`": r"\textasciigrave{}",
    "-": "{-}",  # no ligature of two
    ",": "{,}",
    "?": "{?}",
    "!": "{!}",
}
_FORMULA = "=+-@\t\r\n＝＋－＠"  # noqa: RUF001
"""What a spreadsheet may take for the start of a formula, full width too."""
_BREAKS = "_-/:.,() "
_UNBROKEN = 12
"""Characters of a name that LaTeX may not break."""


def one_line(text: str) -> str:
    r"""Return a text as one printable line of valid Unicode, with escapes for the rest.

    >>> print(one_line("a\nb"))
    a\nb
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def markdown(text: str) -> str:
    r"""Return a text in which nothing is Markdown's or HTML's own; an underscore inside a word is none.

    >>> print(markdown("prior_box | _x_ <b>"))
    prior_box \| \_x\_ \<b\>
    """
    shown = "".join(f"\\{c}" if c in _MARKDOWN else c for c in one_line(text))
    shown = re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", shown)
    shown = re.sub(r"^(\s*)([-+=])|^(\s*\d+)([.)])(?=\s|$)", _at_the_start, shown)
    return re.sub(r"(?i)\b(https?|ftp|mailto)(:)|\b(www)(\.)|(@)", _no_link, shown)


def _at_the_start(found: re.Match[str]) -> str:
    indent, sign = (found[1], found[2]) if found[2] else (found[3], found[4])
    return f"{indent}\\{sign}"


def _no_link(found: re.Match[str]) -> str:
    return "".join(f"\\{part}" if part in ":.@" else part for part in found.groups() if part)


def latex(text: str) -> str:
    r"""Return a text for LaTeX, with places to break it; a character that pdfTeX has not is ``\unichar{HEX}``.

    `xaibench.reports.comparison_latex` defines the macro: the character in XeTeX and LuaTeX, its number in pdfTeX.

    >>> print(latex("100% of a_b"))
    100\% of a\_\allowbreak{}b
    """
    parts, since = [], 0
    for sign in one_line(text):
        since += 1
        parts.append(_latex_sign(sign))
        if (sign in _BREAKS and sign != " ") or since >= _UNBROKEN:
            parts.append(r"\allowbreak{}")
        if sign in _BREAKS or since >= _UNBROKEN:
            since = 0
    shown = "".join(parts)
    return shown.removesuffix(r"\allowbreak{}")


def _latex_sign(sign: str) -> str:
    if sign in _LATEX:
        return _LATEX[sign]
    if sign.isascii() or ("À" <= sign <= "ÿ" and sign.isalpha()):
        return sign
    return rf"\unichar{{{ord(sign):X}}}"


def spreadsheet(text: str) -> str:
    """Return a text that no spreadsheet takes for a formula: an apostrophe goes before what looks like one.

    >>> spreadsheet("=1+2"), spreadsheet("cwm")
    ("'=1+2", 'cwm')
    """
    shown = one_line(text)
    return f"'{shown}" if text.lstrip(" ")[:1] in _FORMULA and text.strip(" ") else shown
