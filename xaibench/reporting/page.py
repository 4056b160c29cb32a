"""A page of sections, as Markdown and as HTML from one description."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from xaibench.io.files import write_atomically
from xaibench.reporting.tables.escape import markdown
from xaibench.reporting.templating import render

NOT_COMPUTABLE = "Not computable from this data"


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str
    kind: str = "text"


@dataclass(frozen=True)
class Table:
    """Rows of cells under headers; the first column names the row."""

    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    kind: str = "table"


@dataclass(frozen=True)
class Picture:
    """An image file, by its path relative to the page."""

    path: str
    caption: str
    kind: str = "picture"


@dataclass(frozen=True)
class Missing:
    """What would stand here, and why it can't."""

    reason: str
    what: str = ""
    kind: str = "missing"

    @property
    def sentence(self) -> str:
        """Return the mark and the reason.

        >>> Missing("the NIH release has no lung masks", "Spread over the lungs").sentence
        'Spread over the lungs: not computable from this data (the NIH release has no lung masks).'
        """
        mark = f"{self.what}: {NOT_COMPUTABLE[0].lower()}{NOT_COMPUTABLE[1:]}" if self.what else NOT_COMPUTABLE
        return f"{mark} ({self.reason.rstrip('.')})."


Block = Text | Table | Picture | Missing


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Page:
    """A title and sections."""

    title: str
    sections: Sequence[Section]


def to_markdown(page: Page) -> str:
    """Return the page as GitHub-flavoured Markdown.

    >>> print(to_markdown(Page("P", [Section("S", [Table(["a", "b"], [["1|2", "x"]])])])))
    # P
    <BLANKLINE>
    ## S
    <BLANKLINE>
    | a | b |
    |---|---|
    | 1\\|2 | x |
    <BLANKLINE>
    """
    parts = [f"# {_escape(page.title)}"]
    for section in page.sections:
        parts.append(f"## {_escape(section.title)}")
        parts += [_markdown(block) for block in section.blocks]
    return "\n\n".join(parts) + "\n"


def _markdown(block: Block) -> str:
    if isinstance(block, Text):
        return _escape(block.text)
    if isinstance(block, Missing):
        return f"**{_escape(block.sentence)}**"
    if isinstance(block, Picture):
        return f"![{_escape(block.caption)}](<{block.path}>)\n\n{_escape(block.caption)}"
    lines = [_row(block.headers), "|" + "---|" * len(block.headers), *map(_row, block.rows)]
    caption = [f"{_escape(block.caption)}", ""] if block.caption else []
    return "\n".join([*caption, *lines])


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(_escape(cell) for cell in cells) + " |"


def _escape(text: str) -> str:
    """Return one line in which no character is Markdown's or HTML's own."""
    return markdown(" ".join(text.split()))


def to_html(page: Page) -> str:
    """Return the page as HTML that loads nothing but the pictures beside it."""
    return render("page.html.j2", page=page)


def write_page(page: Page, folder: Path, name: str) -> tuple[Path, Path]:
    """Write ``NAME.md`` and ``NAME.html`` into a folder and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = (folder / f"{name}.md", folder / f"{name}.html")
    for path, text in zip(paths, (to_markdown(page), to_html(page)), strict=True):
        write_atomically(path, lambda part, text=text: part.write_text(text, encoding="utf-8"))  # type: ignore[misc]
    return paths
