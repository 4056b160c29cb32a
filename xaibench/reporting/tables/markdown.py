"""A comparison as GitHub-flavoured Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from xaibench.reporting.tables.comparison import BETTER, WORSE, Part, Shown, legend, parts
from xaibench.reporting.tables.escape import markdown
from xaibench.results.comparison.compared import ComparedRuns
from xaibench.results.comparison.contenders import run_name

_MARKS = {BETTER: "▲", WORSE: "▼"}


def comparison_markdown(compared: ComparedRuns, *, pairs: bool = False) -> str:
    """Return a heading, a table for each category of metrics, the legend and the notes; names are text, never markup.

    Args:
        compared: the comparison.
        pairs: every paired difference too.
    """
    benchmark = compared.runs[0].benchmark
    blocks = [f"# Comparison on {markdown(benchmark.name)}"]
    blocks.append(f"Benchmark {markdown(benchmark.name)} ({benchmark.hash[:8]})" + _title(benchmark.title))
    blocks.append(_list([run_name(run, number) for number, run in enumerate(compared.runs)]))
    for part in parts(compared, pairs=pairs):
        blocks.append(f"## {markdown(part.title)}")
        blocks += [markdown(part.caption)] if part.caption else []
        blocks.append(_table(part))
    blocks.append(_list(legend(compared, pairs=pairs, signs=("▲ better", "▼ worse"))))
    if compared.notes:
        blocks += ["## Notes", _list(compared.notes)]
    return "\n\n".join(blocks) + "\n"


def _title(title: str) -> str:
    return f": {markdown(title)}" if title else ""


def _list(items: Sequence[str]) -> str:
    return "\n".join(f"- {markdown(item)}" for item in items)


def _table(part: Part) -> str:
    lettered = any(line.letter for block in part.blocks for line in block.lines)
    headers = ["metric", *([""] if lettered else []), part.labels, *part.headers]
    left = len(headers) - len(part.headers)
    rule = ["---"] * left + ["---:" if number in part.numbers else "---" for number in range(len(part.headers))]
    lines = [_row(headers), "|" + "|".join(rule) + "|"]
    for block in part.blocks:
        for number, line in enumerate(block.lines):
            metric = markdown(f"{block.heading}: {block.detail}") if number == 0 else ""
            label = markdown(line.label) if line.is_baseline else f"**{markdown(line.label)}**"
            cells = [metric, *([line.letter] if lettered else []), label, *map(_cell, line.cells)]
            lines.append(_row(cells))
    return "\n".join(lines)


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _cell(cell: Shown | None) -> str:
    if cell is None:
        return ""
    return " ".join(part for part in (cell.value, cell.interval, _MARKS.get(cell.verdict, "")) if part)
