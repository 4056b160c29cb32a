"""docs/cases.md: each row names a test that exists, and the rows are those of the script."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cases.all import CASES

ROOT = Path(__file__).resolve().parent.parent


def test_every_named_test_exists() -> None:
    for named in {one.test for one in CASES}:
        path, _, name = named.partition("::")
        assert re.search(rf"^def {name}\(", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE), named


def test_the_page_has_a_row_for_each_case() -> None:
    page = (ROOT / "docs" / "cases.md").read_text(encoding="utf-8").replace("\\", "")
    rows = [line for line in page.splitlines() if "::test_" in line]
    assert len(rows) == len(CASES)
    for row, one in zip(rows, CASES, strict=True):
        assert one.test in row
        assert one.before


@pytest.mark.slow
def test_the_script_finds_every_value_right(nih_sample: Path) -> None:
    command = [sys.executable, "benchmarks/cases.py", "--check", "--nih-sample", str(nih_sample)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=1200)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
