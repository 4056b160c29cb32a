"""Fixtures that several test files share."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: a worker for each core is threads enough

import pytest
from hypothesis import settings

settings.register_profile("xaibench", deadline=None, print_blob=True)
settings.load_profile("xaibench")

ROOT = Path(__file__).resolve().parent.parent
LACKING = {"test": ("could not import",), "all": ("could not import", "pip install")}
"""Reasons of skips that are failures: XAIBENCH_REQUIRE=test where the extra test is installed, =all where all are."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    return _required((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    return _required((yield))


def _required(report: Any) -> Any:
    """Fail where a package is missing that should be there: a broken install must not look like a passed test."""
    lacking = LACKING.get(os.environ.get("XAIBENCH_REQUIRE", ""), ())
    if report.skipped and any(words in str(report.longrepr) for words in lacking):
        report.outcome, report.longrepr = "failed", f"a package is missing: {report.longrepr}"
    return report


@pytest.fixture(scope="session")
def nih_sample() -> Path:
    """Folder of 1,244 real NIH images with the complete tables, where this checkout has it beside it."""
    folder = ROOT.parent / "shared" / "nih-sample"
    if not (folder / "images").is_dir():
        pytest.skip("the NIH sample is not beside this checkout (../shared/nih-sample)")
    return folder


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Path]]:
    """Put distributions with entry points on sys.path (and on PYTHONPATH); the user's cache is a fresh folder.

    ``install(name, {group: "lines of entry points"}, module_name="source", ...)`` returns the metadata's folder.
    """
    from xaibench import registry

    monkeypatch.setenv("XAIBENCH_CACHE", str(tmp_path / "cache"))
    loaded = set(sys.modules)

    def build(name: str, points: dict[str, str], *, suffix: str = "dist-info", **modules: str) -> Path:
        site = tmp_path / f"site-{name}"
        metadata = site / (f"{name}-1.0.dist-info" if suffix == "dist-info" else f"{name}.egg-info")
        metadata.mkdir(parents=True)
        head = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
        (metadata / ("METADATA" if suffix == "dist-info" else "PKG-INFO")).write_text(head)
        (metadata / "entry_points.txt").write_text("\n".join(f"[{g}]\n{lines}\n" for g, lines in points.items()))
        for module, source in modules.items():
            (site / f"{module}.py").write_text(source)
        monkeypatch.syspath_prepend(site)
        monkeypatch.setenv("PYTHONPATH", str(site), prepend=os.pathsep)
        registry.refresh()
        return metadata

    yield build
    registry.refresh()
    for name in set(sys.modules) - loaded:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]
