"""The audit of dependencies: what CI makes of pip-audit's report, and what it says without a network."""

from __future__ import annotations

import importlib.util
import subprocess
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / ".ci" / "audit"
GOOD = {"name": "a", "version": "1", "vulns": []}
BAD = {
    "name": "b",
    "version": "2",
    "vulns": [{"id": "CVE-1", "fix_versions": ["3"]}, {"id": "CVE-2", "fix_versions": []}],
}
UNKNOWN = {"name": "c", "skip_reason": "Dependency not found on PyPI and could not be audited: c (3)"}
OURS = {"name": "xaibench", "skip_reason": "distribution marked as editable"}


@pytest.fixture(scope="module")
def audit() -> Any:
    loader = SourceFileLoader("_ci_audit", str(SCRIPT))
    spec = importlib.util.spec_from_loader("_ci_audit", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("packages", "lines", "code"),
    [
        ([GOOD, OURS], ["audit: 1 packages, 0 known vulnerabilities"], 0),
        (
            [GOOD, BAD, UNKNOWN],
            [
                "b 2: CVE-1, mended in 3",
                "b 2: CVE-2, mended in no version",
                "audit: 2 packages, 2 known vulnerabilities, 1 not known to the advisories",
            ],
            1,
        ),
        ([UNKNOWN, OURS], ["audit skipped: no advisories can be reached for any of the 1 packages"], 0),
    ],
)
def test_verdict(audit: Any, packages: list[Any], lines: list[str], code: int) -> None:
    assert audit.verdict({"dependencies": packages}) == (lines, code)


def test_without_pip_audit_it_is_skipped(
    audit: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        failed = "install" in command
        return subprocess.CompletedProcess(command, int(failed), "", "ERROR: No matching distribution\n" * failed)

    monkeypatch.setattr(audit.subprocess, "run", run)
    assert audit.main("site") == 0
    assert capsys.readouterr().out == "audit skipped: ERROR: No matching distribution\n"

    def hang(command: list[str], **given: Any) -> None:
        raise subprocess.TimeoutExpired(command, given["timeout"])

    monkeypatch.setattr(audit.subprocess, "run", hang)
    assert audit.main("site") == 0
    assert capsys.readouterr().out.startswith("audit skipped: TimeoutExpired at ")


def test_ci_runs_it() -> None:
    assert SCRIPT.stat().st_mode & 0o111
    assert "python .ci/audit" in (SCRIPT.parent / "run").read_text().splitlines()
