"""``xaibench plugin``: packages that pass their own tests at once, and the kit on installed ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from xaibench import registry
from xaibench.cli.app import main

KINDS = ("explainer", "classifier", "metric", "dataset", "benchmark")


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], Path]]:
    """Put a written package on the path as an editable install would: its src folder, with metadata beside it."""
    before = set(sys.modules)

    def install(folder: Path) -> Path:
        project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
        metadata = folder / "src" / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
        metadata.mkdir()
        head = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
        (metadata / "METADATA").write_text(head)
        points = project["entry-points"].items()
        lines = [f"[{g}]\n" + "".join(f"{n} = {t}\n" for n, t in names.items()) for g, names in points]
        (metadata / "entry_points.txt").write_text("\n".join(lines))
        monkeypatch.syspath_prepend(folder / "src")
        monkeypatch.setenv("PYTHONPATH", str(folder / "src"), prepend=os.pathsep)
        monkeypatch.setenv("XAIBENCH_CACHE", str(tmp_path / "cache"))
        registry.refresh()
        return folder

    yield install
    registry.refresh()
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def test_new_packages_pass_their_own_tests_and_the_check(
    tmp_path: Path, installed: Callable[[Path], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    for kind in KINDS:
        assert main(["plugin", "new", f"my_{kind}", "--kind", kind, "--out", str(out)]) == 0
        assert f"xaibench plugin check xaibench-my-{kind}" in capsys.readouterr().out
        folder = installed(out / f"xaibench-my-{kind}")
        code = (folder / "src" / f"xaibench_my_{kind}" / "__init__.py").read_text()
        assert sum(bool(line.strip()) for line in code.splitlines()) <= 25
        assert "{{" not in "".join(path.read_text() for path in folder.rglob("*") if path.is_file())
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n0", str(out)]
    done = subprocess.run(command, cwd=out, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "10 passed" in done.stdout
    for kind in KINDS:
        assert main(["plugin", "check", f"xaibench_my_{kind}"]) == 0
        said = capsys.readouterr().out
        assert "1 of 1 plugins" in said
        assert "  conforms" in said
    for tool in (["check", "--no-cache"], ["format", "--check", "--no-cache"]):
        lint = ["ruff", *tool, str(out)]
        found = subprocess.run([sys.executable, "-m", *lint], capture_output=True, text=True, check=False)
        assert found.returncode == 0, found.stdout + found.stderr


def test_nothing_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["plugin", "new", "my-map", "--kind", "explainer", "--out", str(tmp_path), "--json"]
    assert main(arguments) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["package"] == "xaibench-my-map"
    code = Path(made["code"])
    code.write_text("mine")
    assert main(arguments) == 2
    assert "nothing is overwritten" in capsys.readouterr().err
    assert code.read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "kind", "says"),
    [
        ("My Map", "explainer", "lower-case letters"),
        ("../up", "explainer", "lower-case letters"),
        ("1st", "explainer", "a letter first"),
        ("class", "explainer", "can't name a plugin"),
        ("gradcam", "explainer", "already there, from xaibench"),
        ("xaibench-energy", "metric", "already there, from xaibench"),
        ("fine", "explaner", "Did you mean 'explainer'?"),
    ],
)
def test_bad_names_are_one_line(
    name: str, kind: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plugin", "new", name, "--kind", kind, "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


FAULTY = """
import torch
from xaibench.explainers.base import Explainer

class Coarse(Explainer):
    def explain(self, classifier, prediction, targets):
        return torch.zeros(len(targets), 8, 8)
"""


def test_check_names_each_fault_with_its_remedy(
    install: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    points = {"xaibench.explainers": "coarse = faulty:Coarse\nsad = no_such_module:Sad"}
    install("faulty-pkg", points, faulty=FAULTY)
    assert main(["plugin", "check", "faulty-pkg"]) == 1
    said = capsys.readouterr().out
    assert "shape: returned (7, 8, 8), not (B, H, W) = (7, 64, 64)" in said
    assert "upsample(maps, prediction.frame)" in said
    assert "No module named 'no_such_module'" in said
    assert "0 of 2 plugins of faulty-pkg conform" in said
    assert main(["plugin", "check", "faulty-pkg", "--json"]) == 1
    table = json.loads(capsys.readouterr().out)
    assert [row["conforms"] for row in table["plugins"]] == [False, False]
    assert all(finding["remedy"] for row in table["plugins"] for finding in row["findings"])


def test_an_unknown_package_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugin", "check", "xaibnch"]) == 1
    assert "Did you mean 'xaibench'?" in capsys.readouterr().err
