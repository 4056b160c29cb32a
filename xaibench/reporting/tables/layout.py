"""Text in columns: numbers are never wrapped or cut; where a table is too wide, its cells or its columns stack."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from rich.cells import cell_len
from rich.text import Text

ONE_LINE_WIDTH = 120
"""From this width on, labels fold before intervals move to a line of their own."""
FEWER = "\N{DAGGER}"
"""Behind a mean over fewer classes than its neighbours'."""
_GAP = 2
_SEPARATORS = " _-/:.,"


@dataclass(frozen=True)
class Glyphs:
    """The signs of a table, and the encoding that every string must survive."""

    mark: str = "▲"
    dash: str = "–"  # noqa: RUF001
    rule: str = "─"
    dot: str = "·"
    encoding: str = "utf-8"
    fewer: str = FEWER

    @classmethod
    def for_output(cls, encoding: str, *, terminal: bool) -> Glyphs:
        """Return signs that the encoding has; into a pipe no box-drawing ones."""
        if not encoding.lower().replace("-", "").startswith("utf"):
            return cls("*", "-", "-", "|", encoding, "#")
        return cls(rule="─" if terminal else "-", encoding=encoding)

    def clean(self, text: str) -> str:
        r"""Return a string of the user's as one printable line, with escapes for what the output can't show.

        >>> print(Glyphs(encoding="ascii").clean("Herzgröße\nright"))
        Herzgr\xf6\xdfe\nright
        """
        shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
        return shown.encode(self.encoding, "backslashreplace").decode(self.encoding)


@dataclass(frozen=True)
class Cell:
    """A value, its interval on the same line (`interval`) or below (`short`), and a remark below both."""

    value: str
    interval: str = ""
    short: str = ""
    mark: str = ""
    remark: str = ""
    mark_style: str = "bold green"

    def lines(self, one_line: bool) -> list[Text]:
        value_style = self.mark_style if self.mark else ""
        mark = (" " + self.mark if self.mark else "", value_style)
        if one_line:
            interval = (" " + self.interval if self.interval else "", "dim")
            lines = [Text.assemble((self.value, value_style), interval, mark)]
        else:
            lines = [Text.assemble((self.value, value_style), mark)]
            lines += [Text(self.short, "dim")] if self.short else []
        return lines + ([Text(self.remark, "yellow")] if self.remark else [])


@dataclass(frozen=True)
class Row:
    """A label and a cell (or nothing) for each column."""

    label: str
    cells: Sequence[Cell | None]
    style: str = ""
    """Of the whole row: "dim" for what only stands beside."""
    label_style: str = "bold"
    remark: str = ""
    """Below the label."""


@dataclass(frozen=True)
class Group:
    """Rows under a heading that takes the full width."""

    rows: Sequence[Row]
    heading: str = ""
    detail: str = ""
    """Behind the heading, dim."""


@dataclass
class Grid:
    """A table of groups of rows.

    Args:
        headers: a title for each column.
        groups: the rows.
        glyphs: the signs to use.
        right: indices of columns set flush right.
    """

    headers: Sequence[str]
    groups: Sequence[Group]
    glyphs: Glyphs
    right: frozenset[int] = field(default_factory=frozenset)

    def render(self, width: int) -> list[Text]:
        """Return the lines, none longer than `width` where that can be done without cutting a number or a word."""
        one_line, label_width, blocks = self._fit(width)
        widths = self._widths(one_line)
        longest = max(blocks, key=lambda block: sum(widths[column] + _GAP for column in block), default=[])
        while self._height(widths) > 3 and label_width + sum(widths[c] + 1 + _GAP for c in longest) <= width:
            widths = [column_width + 1 for column_width in widths]
        lines: list[Text] = []
        for number, block in enumerate(blocks):
            if number:
                lines.append(Text())
            lines += self._block(block, label_width, widths, one_line)
        return lines

    def _rows(self) -> list[Row]:
        return [row for group in self.groups for row in group.rows]

    def _indent(self) -> str:
        return "  " if any(group.heading for group in self.groups) else ""

    def _widths(self, one_line: bool) -> list[int]:
        """Return each column's width: its widest cell, or the longest word of its header."""
        widths = []
        for column, header in enumerate(self.headers):
            cells = [row.cells[column] for row in self._rows()]
            content = [line.cell_len for cell in cells if cell is not None for line in cell.lines(one_line)]
            widths.append(max([*content, *(cell_len(word) for word in header.split()), 1]))
        return widths

    def _fit(self, width: int) -> tuple[bool, int, list[list[int]]]:
        """Choose between one and two lines a cell, how wide labels may be, and which columns stand side by side."""
        labels = [cell_len(text) for row in self._rows() for text in (row.label, row.remark)]
        wanted = max(labels, default=1) + len(self._indent())
        everything = list(range(len(self.headers)))
        for one_line, least in ((True, 14 if width >= ONE_LINE_WIDTH else wanted), (False, 14)):
            left = width - sum(w + _GAP for w in self._widths(one_line))
            if left >= min(wanted, least):
                return one_line, min(wanted, left), [everything]
        label_width = min(wanted, max(14, width // 3))
        blocks: list[list[int]] = [[]]
        used = label_width
        for column, column_width in enumerate(self._widths(False)):
            if blocks[-1] and used + column_width + _GAP > width:
                blocks.append([])
                used = label_width
            blocks[-1].append(column)
            used += column_width + _GAP
        return False, label_width, blocks

    def _block(self, columns: list[int], label_width: int, widths: list[int], one_line: bool) -> list[Text]:
        headers = [self._header(column, widths[column]) for column in columns]
        lines = [
            self._line(Text(), label_width, [h[i] if i < len(h) else Text() for h in headers], columns, widths)
            for i in range(max(map(len, headers), default=0))
        ]
        total = label_width + sum(widths[column] + _GAP for column in columns)
        lines.append(Text(self.glyphs.rule * total, "dim"))
        for number, group in enumerate(self.groups):
            rows = [row for row in group.rows if any(row.cells[column] for column in columns)]
            if not rows:
                continue
            if group.heading:
                lines += [Text()] if number else []
                lines += self._heading(group, total)
            for row in rows:
                lines += self._row(row, columns, label_width, widths, one_line)
        return lines

    def _header(self, column: int, width: int) -> list[Text]:
        """Return the lines of a title: what is in brackets starts a new one."""
        name, bracket, rest = self.headers[column].partition(" (")
        return [Text(part, "bold") for part in fold(name, width, " ")] + [
            Text(part, "dim") for part in fold(bracket.strip() + rest, width, " ") if part
        ]

    def _height(self, widths: Sequence[int]) -> int:
        return max((len(self._header(column, widths[column])) for column in range(len(self.headers))), default=0)

    def _heading(self, group: Group, total: int) -> list[Text]:
        detail = f" {self.glyphs.dot} {group.detail}" if group.detail else ""
        if cell_len(group.heading + detail) <= total:
            return [Text.assemble((group.heading, "bold cyan"), (detail, "dim"))]
        folded = [Text(part, "bold cyan") for part in fold(group.heading, total)]
        return folded + ([Text("  " + part, "dim") for part in fold(group.detail, total - 2, " ")] if detail else [])

    def _row(self, row: Row, columns: list[int], label_width: int, widths: list[int], one_line: bool) -> list[Text]:
        indent = self._indent()
        labels = [Text(indent + part, row.label_style) for part in fold(row.label, label_width - len(indent))]
        labels += [Text(indent + part, "yellow") for part in fold(row.remark, label_width - len(indent)) if part]
        cells = [cell.lines(one_line) if (cell := row.cells[column]) else [] for column in columns]
        lines = []
        for number in range(max([len(labels), *map(len, cells)])):
            label = labels[number] if number < len(labels) else Text()
            line = [cell[number] if number < len(cell) else Text() for cell in cells]
            lines.append(self._line(label, label_width, line, columns, widths, row.style))
        return lines

    def _line(
        self,
        label: Text,
        label_width: int,
        cells: Sequence[Text],
        columns: list[int],
        widths: list[int],
        style: str = "",
    ) -> Text:
        line = Text(style=style)
        line.append_text(label)
        line.append(" " * (label_width - label.cell_len))
        for column, cell in zip(columns, cells, strict=True):
            blanks = " " * (widths[column] - cell.cell_len)
            line.append(" " * _GAP + (blanks if column in self.right else ""))
            line.append_text(cell)
            line.append("" if column in self.right else blanks)
        line.rstrip()
        return line


def fold(text: str, width: int, separators: str = _SEPARATORS) -> list[str]:
    """Break a string into pieces of at most `width` columns, behind separators where there is one.

    >>> fold("guided_backprop_smooth", 12)
    ['guided_', 'backprop_', 'smooth']
    >>> fold("no separator at all", 12, " ")
    ['no separator', 'at all']
    """
    lines: list[str] = []
    width = max(width, 2)  # a wide character takes two
    while cell_len(text) > width:
        end = next(i for i in range(1, len(text) + 1) if cell_len(text[: i + 1]) > width)
        cut = max((i for i in range(1, end + 1) if text[i - 1] in separators or text[i] == " "), default=end)
        lines.append(text[:cut].rstrip())
        text = text[cut:].lstrip()
    return [*lines, text]


def paragraphs(items: Sequence[str], width: int, bullet: str, clean: Callable[[str], str]) -> list[str]:
    """Fold each string to the width under a bullet, further lines indented."""
    lines = []
    for item in items:
        first, *rest = fold(clean(item), width - len(bullet), " ") if item else [""]
        lines += [bullet + first, *(" " * len(bullet) + part for part in rest)]
    return lines
