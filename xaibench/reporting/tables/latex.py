r"""A comparison as LaTeX: a document of its own with booktabs tables, which can be cut out of it."""

from __future__ import annotations

from collections.abc import Sequence

from xaibench.reporting.tables.comparison import BETTER, WORSE, Part, Shown, legend, parts
from xaibench.reporting.tables.escape import latex
from xaibench.reporting.tables.layout import FEWER
from xaibench.results.comparison.compared import ComparedRuns
from xaibench.results.comparison.contenders import run_name

_HEAD = r"""\documentclass[10pt]{article}
% For pdfTeX, XeTeX or LuaTeX; run it twice, for the widths of the tables.
% To use a table elsewhere, take the packages and \unichar along.
\usepackage{iftex}
\ifPDFTeX
  \usepackage[utf8]{inputenc}
  \usepackage[T1]{fontenc}
  \usepackage{lmodern}
  \newcommand{\unichar}[1]{\texttt{U+#1}\allowbreak{}}
\else
  \newcommand{\unichar}[1]{\char"#1\relax\allowbreak{}}
\fi
\usepackage{textcomp}
\usepackage[a4paper,landscape,margin=15mm]{geometry}
\usepackage{array,booktabs,longtable}
\setlength{\parindent}{0pt}
\setlength{\LTleft}{0pt}
\setlength{\LTright}{\fill}
% #1: columns, #2: text as wide as the page that widens none of them
\newcommand{\heading}[2]{\multicolumn{#1}{@{}l}{\rlap{\parbox[t]{0.9\linewidth}{\raggedright #2\strut}}}}
\begin{document}
"""
_MARKS = {BETTER: r"$\uparrow$", WORSE: r"$\downarrow$"}
_LABEL = r">{\raggedright\arraybackslash}p{50mm}"


def comparison_latex(compared: ComparedRuns, *, pairs: bool = False) -> str:
    """Return a standalone document; names are text, never commands.

    Args:
        compared: the comparison.
        pairs: every paired difference too.
    """
    benchmark = compared.runs[0].benchmark
    title = f": {latex(benchmark.title)}" if benchmark.title else ""
    blocks = [_HEAD + rf"\section*{{Comparison on {latex(benchmark.name)}}}"]
    blocks.append(f"Benchmark {latex(benchmark.name)} ({benchmark.hash[:8]}){title}")
    blocks.append(_list([run_name(run, number) for number, run in enumerate(compared.runs)]))
    blocks += [_table(part) for part in parts(compared, pairs=pairs)]
    blocks.append(_list(legend(compared, pairs=pairs, signs=("better (arrow up)", "worse (arrow down)"))))
    if compared.notes:
        blocks += [r"\subsection*{Notes}", _list(compared.notes)]
    text = "\n\n".join([*blocks, r"\end{document}"]) + "\n"
    return text.replace(latex(FEWER), r"$\dagger$")


def _list(items: Sequence[str]) -> str:
    lines = "\n".join(rf"  \item {{}}{latex(item)}" for item in items)
    return r"\begin{itemize}\raggedright" + "\n" + lines + "\n" + r"\end{itemize}"


def _table(part: Part) -> str:
    lettered = any(line.letter for block in part.blocks for line in block.lines)
    columns = ("l" if lettered else "") + _LABEL
    columns += "".join("r" if number in part.numbers else "l" for number in range(len(part.headers)))
    headers = [*([""] if lettered else []), latex(part.labels), *map(latex, part.headers)]
    lines = [rf"\subsection*{{{latex(part.title)}}}"]
    lines += [latex(part.caption) + "\n"] if part.caption else []
    lines += [rf"\begin{{longtable}}{{{columns}}}", r"\toprule", _row(headers), r"\midrule", r"\endhead"]
    lines += [r"\bottomrule", r"\endfoot"]
    for number, block in enumerate(part.blocks):
        if number:
            lines.append(r"\addlinespace")
        heading = rf"\textbf{{{latex(block.heading)}}}: {latex(block.detail)}"
        lines.append(rf"\heading{{{len(headers)}}}{{{heading}}} \\*")
        for line in block.lines:
            label = latex(line.label) if line.is_baseline else rf"\textbf{{{latex(line.label)}}}"
            lines.append(_row([*([line.letter] if lettered else []), label, *map(_cell, line.cells)]))
    return "\n".join([*lines, r"\end{longtable}"])


def _row(cells: Sequence[str]) -> str:
    return "  " + " & ".join(cells) + r" \\"


def _cell(cell: Shown | None) -> str:
    if cell is None:
        return ""
    texts = [_sign(cell.value), f"{{{_sign(cell.interval)}}}" if cell.interval else "", _MARKS.get(cell.verdict, "")]
    return " ".join(text for text in texts if text)


def _sign(text: str) -> str:
    """Set numbers with a minus sign, not a hyphen."""
    plain = latex(text).replace("{,}", ",")
    return plain.replace("{-}", "$-$") if any(sign.isdigit() for sign in text) else plain
