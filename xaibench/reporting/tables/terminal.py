"""A comparison on a terminal or into a pipe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rich.box import ROUNDED
from rich.console import Console, RenderableType
from rich.panel import Panel
from rich.text import Text

from xaibench.reporting.tables.comparison import BETTER, WORSE, Block, Line, Part, Shown, legend, parts
from xaibench.reporting.tables.layout import FEWER, ONE_LINE_WIDTH, Cell, Glyphs, Grid, Group, Row, fold, paragraphs
from xaibench.results.comparison.compared import ComparedRuns
from xaibench.results.comparison.contenders import run_name

PIPE_WIDTH = 160
_TERMINAL = Glyphs()


def comparison_tables(
    compared: ComparedRuns,
    *,
    width: int,
    pairs: bool = False,
    glyphs: Glyphs = _TERMINAL,
    panel: bool = True,
) -> list[RenderableType]:
    """Lay a comparison out for a console of `width` columns: header, a table for each category, legend, notes.

    Args:
        compared: the comparison.
        width: columns; where they are few, intervals stand below their values.
        pairs: every paired difference too.
        glyphs: signs and encoding of the output.
        panel: frame the header.
    """
    found: list[RenderableType] = [_header(compared, width, glyphs, panel)]
    for part in _fitting(parts(compared, pairs=pairs), width):
        title = [Text(part.title, "bold")]
        title += [Text(line, "dim") for line in paragraphs([part.caption] if part.caption else [], width, "", str)]
        if len(title) == 2 and len(part.title) + 2 + len(part.caption) <= width:
            title = [Text.assemble((part.title, "bold"), (f"  {part.caption}", "dim"))]
        found.append(_section([*title, *_grid(part, glyphs).render(width)]))
    up, down = _signs(glyphs)
    lines = legend(compared, pairs=pairs, signs=(f"{up} better", f"{down} worse"))
    lines = [line.replace(FEWER, glyphs.fewer) for line in lines]
    found.append(_section([Text(line, "dim") for line in paragraphs(lines, width, "", glyphs.clean)]))
    if compared.notes:
        folded = paragraphs(compared.notes, width, f"{glyphs.dot} " if panel else "- ", glyphs.clean)
        found.append(_section([Text("Notes", "bold"), *map(Text, folded)]))
    return found


def print_comparison(compared: ComparedRuns, console: Console, *, pairs: bool = False) -> None:
    """Print a comparison: in colour and at its width on a terminal, else as plain text of 160 columns."""
    terminal = console.is_terminal
    found = comparison_tables(
        compared,
        width=console.width if terminal else PIPE_WIDTH,
        pairs=pairs,
        glyphs=Glyphs.for_output(console.encoding, terminal=terminal),
        panel=terminal,
    )
    for number, part in enumerate(found):
        if number:
            console.print()
        console.print(part, crop=False, no_wrap=True, overflow="ignore", highlight=False)


def _fitting(found: Sequence[Part], width: int) -> list[Part]:
    """Where a terminal is narrow, give differences from a reference a table of their own, behind the standings'."""
    if width >= ONE_LINE_WIDTH:
        return list(found)
    fitting = []
    for part in found:
        at = part.headers.index("difference") if "difference" in part.headers else 0
        if not at:
            fitting.append(part)
            continue
        versus = [replace(block, lines=tuple(line for line in block.lines if line.cells[at])) for block in part.blocks]
        fitting.append(_columns(part, part.blocks, 0, at))
        second = _columns(part, versus, at, len(part.headers))
        fitting.append(replace(second, title=f"{part.title}: differences", caption=""))
    return fitting


def _columns(part: Part, blocks: Sequence[Block], start: int, end: int) -> Part:
    cut = [replace(b, lines=tuple(replace(line, cells=line.cells[start:end]) for line in b.lines)) for b in blocks]
    numbers = frozenset(number - start for number in part.numbers if start <= number < end)
    return replace(part, headers=part.headers[start:end], blocks=tuple(cut), numbers=numbers)


def _section(lines: list[Text]) -> Text:
    return Text("\n", no_wrap=True, overflow="ignore").join(lines)


def _header(compared: ComparedRuns, width: int, glyphs: Glyphs, panel: bool) -> RenderableType:
    benchmark = compared.runs[0].benchmark
    facts = [("benchmark", f"{benchmark.name} {benchmark.hash[:8]}"), ("", benchmark.title)]
    facts += [("runs" if number == 0 else "", run_name(run, number)) for number, run in enumerate(compared.runs)]
    if compared.against is not None:
        facts.append(("against", compared.against))
    room = width - 4 if panel else width
    key_width = max(len(key) for key, _ in facts) + 2
    lines = []
    for key, value in facts:
        for number, piece in enumerate(fold(glyphs.clean(value), room - key_width) if value else []):
            style = "bold" if key in ("benchmark", "against") else "" if value != benchmark.title else "dim"
            lines.append(Text.assemble(((key if number == 0 else "").ljust(key_width), "dim"), (piece, style)))
    if not panel:
        return _section(lines)
    return Panel(_section(lines), box=ROUNDED, border_style="cyan", width=width, padding=(0, 1))


def _grid(part: Part, glyphs: Glyphs) -> Grid:
    lettered = max((len(line.letter) for block in part.blocks for line in block.lines), default=0)
    groups = []
    for block in part.blocks:
        rows = []
        for line in block.lines:
            letter = f"{line.letter:<{lettered}} " if lettered else ""
            rows.append(
                Row(
                    letter + glyphs.clean(line.label),
                    [_cell(cell, glyphs) for cell in line.cells],
                    style="dim" if line.is_baseline and not _speaks(line) else "",
                    label_style="" if line.is_baseline else "bold",
                )
            )
        groups.append(Group(rows, glyphs.clean(block.heading), glyphs.clean(block.detail)))
    return Grid(part.headers, groups, glyphs, part.numbers)


def _speaks(line: Line) -> bool:
    return any(cell is not None and cell.verdict for cell in line.cells)


def _cell(cell: Shown | None, glyphs: Glyphs) -> Cell | None:
    if cell is None:
        return None
    up, down = _signs(glyphs)
    mark = {BETTER: up, WORSE: down}.get(cell.verdict, "")
    style = "bold red" if cell.verdict == WORSE else "bold green"
    return Cell(
        glyphs.clean(cell.value.replace(FEWER, glyphs.fewer)), cell.interval, cell.interval, mark, mark_style=style
    )


def _signs(glyphs: Glyphs) -> tuple[str, str]:
    return (glyphs.mark, "▼") if glyphs.mark == "▲" else ("+", "-")
