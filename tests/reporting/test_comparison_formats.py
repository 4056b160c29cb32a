"""A comparison in its formats: they parse back, and a name is text in each of them."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from tests.reporting.compared import metrics, random_values, write_run
from xaibench.reporting.tables.escape import latex, markdown, one_line, spreadsheet
from xaibench.reporting.tables.files import (
    comparison_csv,
    comparison_json,
    comparison_parquet,
    json_text,
    pair_rows,
    score_rows,
)
from xaibench.reporting.tables.latex import comparison_latex
from xaibench.reporting.tables.markdown import comparison_markdown
from xaibench.reporting.tables.terminal import print_comparison
from xaibench.results.comparison.compare import ComparedRuns, compare

HOSTILE = (
    "<script>alert(1)</script>",
    "=cmd|' /C calc'!A0",
    "\"quotes\" & 'more' _x_ 100% $a^2$ #1 {b} \\input{c} ~d",
    "a|b\nnext line\r\n| c |",
    "胸部X線 😀 é",
    "[bold red]rich[/] [x](javascript:alert(1)) ![y](http://z)",
    "long_" * 40,
)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> ComparedRuns:
    values = random_values(1, ["cwm", "ccm"], level=0.3) | random_values(5, ["prior_box"])
    run = write_run(tmp_path_factory.mktemp("runs") / "A", values, explainers=("cwm", "ccm"))
    return compare(run, metrics=metrics())


@pytest.fixture(scope="module")
def against(plain: ComparedRuns) -> ComparedRuns:
    return compare(plain.runs, metrics=metrics(), against="prior_box")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> ComparedRuns:
    values = random_values(2, HOSTILE, level=0.3) | random_values(5, ["prior_box"])
    folder = tmp_path_factory.mktemp("runs") / "<b>_&_%"
    run = write_run(folder, values, classifier="evil:<img src=x>", explainers=HOSTILE, notes=["<script> note"])
    return compare(run, metrics=metrics())


def terminal(found: ComparedRuns, width: int, *, pairs: bool = False) -> list[str]:
    file = io.StringIO()
    console = Console(file=file, width=width, force_terminal=True, color_system="truecolor", _environ={})
    print_comparison(found, console, pairs=pairs)
    return re.sub(r"\x1b\[[0-9;]*m", "", file.getvalue()).splitlines()


@pytest.mark.parametrize("pairs", [False, True])
def test_csv_and_parquet_parse_back(plain: ComparedRuns, pairs: bool) -> None:
    rows = pair_rows(plain) if pairs else score_rows(plain)
    table = pd.read_csv(io.StringIO(comparison_csv(plain, pairs=pairs)))
    parquet = pd.read_parquet(io.BytesIO(comparison_parquet(plain, pairs=pairs)))
    assert list(table.columns) == list(parquet.columns) == list(rows[0])
    assert len(table) == len(parquet) == len(rows)
    column = "difference" if pairs else "value"
    assert table[column].tolist() == parquet[column].tolist() == [row[column] for row in rows]
    if not pairs:
        assert [list(names) for names in parquet["better_than"]] == [row["better_than"] for row in rows]


def test_json_has_everything(against: ComparedRuns) -> None:
    found = json.loads(json_text(comparison_json(against)))
    assert (found["against"], found["benchmark"], len(found["runs"])) == ("prior_box", "toy", 1)
    zero = next(row for row in found["scores"] if row["name"] == "prior_box" and row["metric"] == "energy")
    assert (zero["difference"], zero["p"]) == (0.0, None)
    ours = next(row for row in found["scores"] if row["name"] == "gcm:cwm" and row["metric"] == "energy")
    pair = next(row for row in found["pairs"] if row["first"] == "gcm:cwm" and row["metric"] == "energy")
    assert (ours["difference"], ours["p_holm"]) == (pair["difference"], pair["p_holm"])
    assert {ranking["metric"] for ranking in found["rankings"]} >= {"energy", "hit_rate", "complexity"}


def test_markdown_tables_are_whole(plain: ComparedRuns, hostile: ComparedRuns) -> None:
    for found in (plain, hostile):
        text = comparison_markdown(found, pairs=True)
        tables = re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE)
        assert len(tables) == 5  # three categories, and differences of localization and complexity
        for table in tables:
            sizes = {len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) for line in table.splitlines()}
            assert len(sizes) == 1
        assert not re.search(r"(?<!\\)<", text)
        assert "\\<script>" in comparison_markdown(hostile)


def test_a_spreadsheet_sees_no_formula_and_one_line_a_row(hostile: ComparedRuns) -> None:
    for pairs in (False, True):
        text = comparison_csv(hostile, pairs=pairs)
        rows = pair_rows(hostile) if pairs else score_rows(hostile)
        assert len(text.splitlines()) == len(rows) + 1
        table = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False)
        named = [column for column in ("name", "explainer", "first", "second") if column in table]
        for column in named:
            assert table[column].tolist() == [spreadsheet(row[column] or "") for row in rows]
            assert not table[column].str.match(r"\s*[=+@-]").any()
    assert pd.read_parquet(io.BytesIO(comparison_parquet(hostile)))["explainer"].isin(HOSTILE).any()


@pytest.mark.parametrize("width", [80, 120, 200])
@pytest.mark.parametrize("pairs", [False, True])
def test_a_terminal_gets_lines_that_fit_and_names_as_text(
    plain: ComparedRuns, against: ComparedRuns, hostile: ComparedRuns, width: int, pairs: bool
) -> None:
    for found in (plain, against, hostile):
        lines = terminal(found, width, pairs=pairs)
        assert max(map(cell_len, lines)) <= width
    whole = "".join(line.strip() for line in terminal(hostile, 200))
    assert "[bold red]rich[/]" in whole
    assert any("gcm:cwm" in line for line in terminal(plain, width))


def test_a_terminal_shows_the_numbers_and_the_marks(plain: ComparedRuns, against: ComparedRuns) -> None:
    (table,) = plain.select(metric="energy")
    best = table.standings[0]
    lines = terminal(plain, 120)
    start = next(i for i, line in enumerate(lines) if line.startswith("Energy"))
    row = next(line for line in lines[start:] if best.entrant.label in line)
    assert f"{best.value:.2f} [{best.low:.2f}, {best.high:.2f}]" in row
    assert f"{best.mean_rank:.1f} [{best.rank_low:g}, {best.rank_high:g}]" in row
    assert f"{best.rank_first:.0%}" in row
    (size,) = {f"{seen:.2f}" for seen in (min(table.detectable.values()),)}
    assert f"12 pairs of 6 patients, exploratory, could have shown a difference of {size}" in lines[start + 1]
    assert any("Holm" in line for line in lines)
    narrow = terminal(against, 80)
    assert any(line.startswith("Localization: differences") for line in narrow)
    (table,) = against.select(metric="energy")
    survivors = [pair for pair in table.pairs if table.survives(pair, against.alpha)]
    text = "\n".join(terminal(against, 120))
    wins = sum(
        t.is_better(pair.difference) for t in against.tables for pair in t.pairs if t.survives(pair, against.alpha)
    )
    assert text.count("▲") == wins + 1  # one in the legend
    assert len(survivors) <= 2


def test_latex_is_balanced(plain: ComparedRuns, hostile: ComparedRuns) -> None:
    for found in (plain, hostile):
        text = re.sub(r"\\[{}%]", "", comparison_latex(found, pairs=True))
        text = re.sub(r"(?m)^%.*$", "", text)
        assert text.count("{") == text.count("}")
        assert text.count("\\begin{longtable}") == text.count("\\end{longtable}") == 5
        assert text.isascii() or not re.search(r"[^\x00-\xff]", text)


def test_latex_compiles(plain: ComparedRuns, hostile: ComparedRuns, against: ComparedRuns, tmp_path: Path) -> None:
    engine = next((name for name in ("pdflatex", "tectonic", "lualatex", "xelatex") if shutil.which(name)), None)
    if engine is None:
        pytest.skip("no LaTeX here: apt install texlive-latex-base texlive-latex-recommended lmodern")
    for name, found in (("plain", plain), ("hostile", hostile), ("against", against)):
        path = tmp_path / f"{name}.tex"
        path.write_text(comparison_latex(found, pairs=True), encoding="utf-8")
        options = [] if engine == "tectonic" else ["-interaction=nonstopmode", "-halt-on-error"]
        done = subprocess.run(
            [engine, *options, path.name], cwd=tmp_path, capture_output=True, check=False, timeout=300
        )
        assert done.returncode == 0, done.stdout.decode(errors="replace")[-1500:]
        assert path.with_suffix(".pdf").stat().st_size > 10_000


NAMES = st.text(st.characters(codec="utf-8"), max_size=60) | st.text(
    "<>&|_*`[]()!\\#=+-@'\"%${}^~\n\r\t1.", max_size=40
)


@given(NAMES)
@example("=cmd|' /C calc'!A0")
@example(" =1+1")
@example("\t=1")
def test_no_name_is_a_formula(name: str) -> None:
    shown = spreadsheet(name)
    assert shown.isprintable()
    assert shown.lstrip(" ")[:1] not in {"=", "+", "-", "@", "＝", "＋", "－", "＠"}  # noqa: RUF001
    assert shown.removeprefix("'") == one_line(name) or shown == one_line(name)


@given(NAMES)
@example("<script>")
@example("a|b\\|c")
@example("&lt;b&gt;")
def test_no_name_is_markup_in_markdown(name: str) -> None:
    shown = markdown(name)
    assert "\n" not in shown
    assert not re.search(r"(?<!\\)(?:\\\\)*[|<`*~]", shown)
    bare = re.sub(r"\\([!-/:-@\[-`{-~])", lambda found: f"\0{ord(found[1])}\0", shown)
    assert unescape(bare) == bare, "an entity"
    assert "](" not in bare
    back = re.sub(r"\0(\d+)\0", lambda found: chr(int(found[1])), bare)
    assert back == one_line(name)


@given(NAMES)
@example("\\end{document}")
@example("%{")
def test_no_name_is_a_command_in_latex(name: str) -> None:
    shown = latex(name)
    known = r"\\(?:text\w+\{\}|allowbreak\{\}|unichar\{[0-9A-F]+\}|[{}$&#%_])|\{[-,?!]\}"
    assert not re.search(r"[\\{}$&#%_^~<>|\"'`]", re.sub(known, "", shown))
    assert not re.search(r"[^\x20-\x7eÀ-ÿ]", shown)
