"""The console script leaves at once, and loses neither output, exit code nor anybody's exit handlers."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(("arguments", "code"), [(["--version"], 0), (["nonsense"], 2)])
def test_the_script_leaves_with_its_code_after_everything_is_said(arguments: list[str], code: int) -> None:
    program = (
        "import atexit, sys; from xaibench.cli import script; sys.argv = ['xaibench', *sys.argv[1:]];"
        "done = script();"
        "atexit.register(print, 'handler ran'); sys.exit(done)"
    )
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == code
    assert done.stdout.splitlines()[-1] == "handler ran"
    assert bool(done.stderr) == bool(code)
