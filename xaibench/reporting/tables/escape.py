"""Names that anybody chose, as text in Markdown, LaTeX and spreadsheets: never as markup, never as a formula."""

from __future__ import annotations

import re

_MARKDOWN = re.compile(
    r"""[\\`*<|~]                         # always markup
    | (?<![^\W_])_ | _(?![^\W_])         # an underscore that is not inside a word
    | &(?=\#|\w+;)                       # an entity
    | \](?=[(\[:]) | !(?=\[)              # a link, a picture
    | ^[-+=>\#\[] | ^\d{1,9}[.)](?=\s|$)  # a list, a quotation, a heading, a box to tick
    | (?<=http):(?=//) | (?<=https):(?=//) | (?<=www)\.  # what becomes a link of itself
    | @(?=[^\W\d])                       # a mention, an address
    """,
    re.VERBOSE | re.IGNORECASE,
)
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
    r"""Return a text in which nothing is Markdown's or HTML's own, escaped no more than that takes.

    >>> print(markdown("prior_box | _x_ <b> [0.1, 0.2]"))
    prior_box \| \_x\_ \<b> [0.1, 0.2]
    """
    return _MARKDOWN.sub(lambda found: f"{found[0][:-1]}\\{found[0][-1]}", one_line(text))


def latex(text: str) -> str:
    r"""Return a text for LaTeX, with places to break it; a character that pdfTeX has not is ``\unichar{HEX}``.

    `xaibench.reporting.tables.latex` defines the macro: the character in XeTeX and LuaTeX, its number in pdfTeX.

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
