"""Pages: one description as Markdown and as HTML, nothing of a user's text taken for markup."""

from __future__ import annotations

from pathlib import Path

import pytest

from xaibench.reporting.page import Missing, Page, Picture, Section, Table, Text, to_html, to_markdown, write_page

NASTY = "a|b <script>alert(1)</script> `x` *y*\nnext"
PAGE = Page(
    "A title",
    [
        Section("First", [Text("Some text"), Table(["", "n"], [["row", "1"]], "What it is")]),
        Section("Second", [Missing("no boxes", "Hit rate"), Missing("no data"), Picture("a b/c.png", "A picture")]),
    ],
)


def test_markdown() -> None:
    lines = to_markdown(PAGE).splitlines()
    assert lines[0] == "# A title"
    table = lines.index("|  | n |")
    assert lines[table - 2 : table + 3] == ["What it is", "", "|  | n |", "|---|---|", "| row | 1 |"]
    assert "**Hit rate: not computable from this data (no boxes).**" in lines
    assert "**Not computable from this data (no data).**" in lines
    assert "![A picture](<a b/c.png>)" in lines


def test_html_has_the_same() -> None:
    html = to_html(PAGE)
    for text in ("A title", "What it is", "Hit rate: not computable from this data (no boxes).", "a%20b/c.png"):
        assert text in html
    assert html.count("<h2>") == 2
    assert "http" not in html.replace("http-equiv", "")


@pytest.mark.parametrize("block", [Text(NASTY), Missing(NASTY), Table([NASTY], [[NASTY]], NASTY), Picture("p", NASTY)])
def test_text_is_never_markup(block: Text | Missing | Table | Picture) -> None:
    page = Page(NASTY, [Section(NASTY, [block])])
    html, markdown = to_html(page), to_markdown(page)
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    assert "<script" not in markdown.replace("\\<", "")
    table = [line for line in markdown.splitlines() if line.startswith("| ")]
    assert all(line.replace("\\|", "").count("|") == 2 for line in table)


def test_both_files_are_written(tmp_path: Path) -> None:
    paths = write_page(PAGE, tmp_path / "new", "page")
    assert [path.name for path in paths] == ["page.md", "page.html"]
    assert paths[0].read_text() == to_markdown(PAGE)
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["page.html", "page.md"]
