"""How subcommands print: rich on a terminal, plain and complete lines into a pipe, JSON for programs."""

from __future__ import annotations

import json
import re
import sys
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console

LONGEST_LINE = 110


def printable(text: object) -> str:
    r"""Return a text in which what a terminal would obey, or would not show, is an escape; lines and tabs stay.

    >>> print(printable("red\x1b[31m"))
    red\x1b[31m
    """
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in str(text))


def echo(text: object = "", *, err: bool = False) -> None:
    """Print a line with names that anybody chose."""
    click.echo(printable(text), err=err)


def is_terminal() -> bool:
    return sys.stdout.isatty()


def console() -> Console:
    from rich.console import Console

    return Console(highlight=False, markup=False, emoji=False)


def print_json(value: Any) -> None:
    """Print a JSON value, indented; `ValueError` for NaN and infinity, which JSON has not."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


def print_table(
    columns: Mapping[str, str], rows: Sequence[Sequence[str]], *, title: str | None = None, bad: Sequence[int] = ()
) -> None:
    """Print rows in columns.

    Args:
        columns: header to style: "name" (bold), "text" (wraps), "line" (cut to one line, but not in the rows `bad`),
            "dim", or "state" (green).
        rows: one string for each column.
        title: a line above; a terminal shows it bold.
        bad: indices of rows to show in red.

    Into a pipe: cells padded with blanks, two between columns, nothing wrapped or cut, no title.
    """
    rows = [[printable(cell) for cell in row] for row in rows]
    if not is_terminal():
        for line in plain_table(list(columns), rows):
            click.echo(line)
        return
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(
        box=box.SIMPLE_HEAD,
        title=Text(printable(title), style="bold") if title else None,
        title_justify="left",
        header_style="dim",
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    styles = {"name": "bold", "dim": "dim", "state": "green"}
    for header, style in columns.items():
        if style in ("text", "line"):
            table.add_column(header, overflow="fold", min_width=10)
        else:
            table.add_column(header, style=styles[style], no_wrap=True)
    cut = [style == "line" for style in columns.values()]
    for index, row in enumerate(rows):
        cells = [
            Text(cell, no_wrap=True, overflow="ellipsis") if short and index not in bad else Text(cell)
            for cell, short in zip(row, cut, strict=True)
        ]
        table.add_row(*cells, style="red" if index in bad else None)
    console().print(table)


def plain_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a header and rows as lines of padded cells, without trailing blanks.

    >>> plain_table(["name", "is"], [["cam", "a map"]])
    ['name  is', 'cam   a map']
    """
    cells = [[" ".join(cell.split()) for cell in row] for row in [header, *rows]]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells]


def reflow(doc: str, width: int) -> str:
    """Fit a docstring to a width: source lines broken at their limit are joined, lines too long are wrapped.

    >>> print(reflow("One two three four.\\n\\n    indented line", 12))
    One two
    three four.
    <BLANKLINE>
        indented
        line
    """
    joined: list[str] = []
    was_full = False
    for line in doc.splitlines():
        if was_full and line.strip() and not re.match(r"\s*(>>>|\.\.\. |- |\w[\w, ]*: )", line):
            joined[-1] += " " + line.strip()
        else:
            joined.append(line)
        was_full = len(line) > 95 and not line.lstrip().startswith((">>>", "..."))
    wrapped: list[str] = []
    for line in joined:
        if line.lstrip().startswith((">>>", "...")):  # code stays as it is
            wrapped.append(line)
            continue
        indent = line[: len(line) - len(line.lstrip())]
        hanging = indent + "    " if re.match(r"\s+\w[\w, ]*: ", line) else indent
        wrapped += textwrap.wrap(line, max(width, 20), subsequent_indent=hanging, break_on_hyphens=False) or [""]
    return "\n".join(wrapped)
