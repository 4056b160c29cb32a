"""A run that is killed, interrupted, starved of disk or damaged goes on with the same command, to the same bits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks, /proc, tmpfs: Linux")
ROOT = Path(__file__).resolve().parents[2]


def campaign(folder: Path, *options: str) -> list[dict[str, Any]]:
    """Run the harness in a process of its own, which has no threads when it forks."""
    out = folder / "rows.json"
    command = [sys.executable, "-m", "tests.faults.campaign", "--json", str(out), *options]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert out.exists(), done.stdout + done.stderr
    rows: list[dict[str, Any]] = json.loads(out.read_text())
    return rows


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return campaign(tmp_path_factory.mktemp("faults"), "--kills", "50", "--corruptions", "30", "--full-disks", "6")


def checked(rows: list[dict[str, Any]], *words: str) -> int:
    """Assert that every fault of some kinds was mended, and return how many there were."""
    found = [row for row in rows if any(word in row["fault"] for word in words)]
    assert found
    for row in found:
        assert row["problems"] == [], row["fault"]
        assert row["identical"] == row["times"], row["fault"]
        assert row["times"] or row["skipped"], row["fault"]
    return sum(row["times"] for row in found)


def test_a_killed_run_goes_on_to_the_same_bits(rows: list[dict[str, Any]]) -> None:
    assert checked(rows, "kill -9", "power cut") >= 50


def test_every_file_is_flushed_before_it_gets_its_name(rows: list[dict[str, Any]]) -> None:
    assert checked(rows, "flushed") > 50


def test_ctrl_c_ends_with_130_and_the_run_goes_on(rows: list[dict[str, Any]]) -> None:
    assert checked(rows, "Ctrl-C") >= 2


def test_a_full_disk_is_one_line_or_a_note_and_the_run_goes_on(rows: list[dict[str, Any]]) -> None:
    assert checked(rows, "full disk", "file-size") >= 3


def test_random_bytes_are_noticed_or_change_nothing(rows: list[dict[str, Any]]) -> None:
    assert checked(rows, "random bytes") >= 30


def test_two_processes_at_once_give_what_one_gives(rows: list[dict[str, Any]]) -> None:
    assert checked(rows, "two processes") >= 2


@pytest.mark.slow
def test_a_thousand_kills(tmp_path: Path) -> None:
    many = campaign(tmp_path, "--kills", "1000", "--corruptions", "200", "--full-disks", "20", "--seed", "1")
    assert checked(many, "kill -9", "power cut") >= 1000
    assert checked(many, "random bytes") >= 200
    checked(many, "")
