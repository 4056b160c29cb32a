"""docs/plugins.md, step by step in a fresh virtual environment: from ``plugin new`` to the table."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "plugins.md").read_text()
STEPS = re.findall(r"```(bash|python)\n(.*?)```", PAGE.partition("## What an explainer promises")[0], re.DOTALL)


@pytest.fixture
def fresh(tmp_path: Path) -> Path:
    """A virtual environment that sees the packages installed here, so that nothing is downloaded."""
    folder = tmp_path / "venv"
    venv.create(folder, with_pip=False)
    site = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    here = sorted(path for path in sys.path if path.endswith("site-packages"))
    lines = [f"import site; site.addsitedir({path!r})" for path in here]
    lines.append(f"import sys; sys.path.insert(0, {str(ROOT)!r})")  # before another checkout that is installed
    (site / "here.pth").write_text("\n".join(lines))
    scripts = {"pip": "-m pip", "pytest": "-m pytest", "xaibench": "-m xaibench"}
    for name, module in scripts.items():
        script = folder / "bin" / name
        script.write_text(f'#!/bin/sh\nexec "{folder}/bin/python" {module} "$@"\n')
        script.chmod(0o755)
    return folder


def run(fresh: Path, work: Path, line: str) -> str:
    offline = {"PIP_NO_DEPS": "1", "PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "false"}
    path = f"{fresh / 'bin'}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, **offline, "PATH": path, "COLUMNS": "200", "XAIBENCH_CACHE": str(work / "cache")}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        ["bash", "-c", line], cwd=work, env=environment, capture_output=True, text=True, timeout=570, check=False
    )
    assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_the_steps_are_there_and_at_most_25_lines_are_written() -> None:
    assert [language for language, _ in STEPS] == ["bash", "python", "bash"]
    code = STEPS[1][1]
    assert sum(bool(line.strip()) for line in code.splitlines()) == 14 <= 25
    assert "(14, less than 25)" in PAGE


@pytest.mark.slow
def test_from_plugin_new_to_the_table(fresh: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    (path,) = re.findall(r"In `(\S+\.py)`:", PAGE)
    said = []
    for language, text in STEPS:
        if language == "python":
            (work / path).write_text(text)
        else:
            said += [run(fresh, work, line) for line in text.splitlines() if line.strip()]
    assert "2 passed" in said[2]
    assert "1 of 1 plugins of xaibench-contrast conform" in said[3]
    assert "No errors" in said[4]
    table = said[5]
    for explainer in ("contrast", "cwm", "gradcam", "random"):
        assert re.search(rf"\b{explainer}\b", table), table
    assert (work / "runs").is_dir()
