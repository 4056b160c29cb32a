"""What a user installs: metadata, entry points, the files in the wheel, and a package that is cheap to import."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

import xaibench
from xaibench import builtin_benchmarks

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def project() -> dict[str, object]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    pytest.importorskip("hatchling", reason="hatchling builds the wheel: pip install -e '.[test]'")
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=300)
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        return archive.namelist()


def test_version_is_the_installed_one() -> None:
    assert metadata.version("xaibench") == xaibench.__version__


def test_installed_entry_points_are_those_of_pyproject(project: dict[str, dict[str, dict[str, str]]]) -> None:
    groups = {g: points for g, points in project["entry-points"].items() if g.startswith("xaibench.")}
    written = {(g, n, t) for g, points in groups.items() for n, t in points.items()}
    points = metadata.distribution("xaibench").entry_points
    installed = {(p.group, p.name, p.value) for p in points if p.group.startswith("xaibench.")}
    assert installed == written, "run: pip install -e ."


def test_torch_has_no_upper_bound(project: dict[str, list[str]]) -> None:
    (torch,) = (d for d in project["dependencies"] if re.match(r"torch\b", d))
    assert not re.search(r"<|==|~=", torch)


def test_import_is_lazy() -> None:
    code = "import sys, xaibench; dir(xaibench); sys.exit(', '.join({'torch', 'numpy', 'click'} & {*sys.modules}) or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_public_names() -> None:
    assert set(xaibench.__all__) - {"__version__"} == set(xaibench._TARGETS)
    assert set(xaibench.__all__) <= set(dir(xaibench))
    assert xaibench.list_metrics is sys.modules["xaibench.registry"].list_metrics
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = xaibench.nonsense


def test_benchmarks_are_found_in_a_checkout() -> None:
    assert builtin_benchmarks.FOLDER == ROOT / "benchmarks"
    assert builtin_benchmarks.phantom.is_file()


def test_wheel_has_the_package_and_the_benchmarks(wheel: list[str]) -> None:
    here = {f"xaibench/_benchmarks/{p.name}" for p in (ROOT / "benchmarks").glob("*.toml")}
    here |= {f"xaibench/_benchmarks/checkpoints/{p.name}" for p in (ROOT / "benchmarks" / "checkpoints").glob("*.*")}
    assert {"xaibench/_benchmarks/phantom.toml", "xaibench/py.typed", "xaibench/registry.py"} <= set(wheel)
    assert here <= set(wheel)
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in wheel)


def test_wheel_has_nothing_else(wheel: list[str]) -> None:
    assert {name.split("/")[0] for name in wheel if ".dist-info" not in name} == {"xaibench"}
    assert not [name for name in wheel if "/speed/" in name or "__pycache__" in name]


def test_ci_runs_the_readme_commands_and_the_linters() -> None:
    script, check = ROOT / ".ci" / "run", ROOT / "scripts" / "check"
    assert script.stat().st_mode & 0o111
    lines = script.read_text().splitlines()
    assert {"set -euo pipefail", "pip install -e '.[test]' && pytest", "scripts/check"} <= set(lines)
    assert {"ruff check .", "ruff format --check .", "codespell", "lint-imports", "mypy"} <= set(
        check.read_text().splitlines()
    )


@pytest.mark.parametrize(
    ("given", "found"), [({}, "10000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "unset")]
)
def test_threads_of_the_command_line_spin_less_unless_the_user_said_otherwise(
    given: dict[str, str], found: str
) -> None:
    plain = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    code = "import os, sys; from xaibench.cli import main; main(['list', 'benchmarks']); "
    code += "print(os.environ.get('GOMP_SPINCOUNT', 'unset'), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], env=plain | given, capture_output=True, text=True, check=True)
    assert done.stdout.split()[-2:] == [found, "False"]
