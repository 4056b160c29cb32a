"""The report page in headless Chromium: what its tests share."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

TIMEOUT = 20_000  # ms: machines under load


def launched() -> Iterator[Any]:
    """Yield a headless Chromium; skip where there is none."""
    sync_api = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: pip install -e '.[test-browser]'"
    )
    path = _chromium()
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"], timeout=2 * TIMEOUT)
        yield browser
        browser.close()


def _chromium() -> str:
    found = os.environ.get("XAIBENCH_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if not found:
        pytest.skip("no chromium on this machine: apt-get install chromium, or set XAIBENCH_CHROMIUM")
    return found


def opened(browser: Any, file: Path, width: int = 1280) -> Iterator[Any]:
    """Open the page and check at the end that it neither complained nor asked for anything but itself."""
    context = browser.new_context(viewport={"width": width, "height": 900}, reduced_motion="reduce")
    page, faults = context.new_page(), []
    page.set_default_timeout(TIMEOUT)
    page.on("console", lambda message: faults.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("dialog", lambda dialog: (faults.append(f"dialog {dialog.message}"), dialog.dismiss()))
    page.on("request", lambda request: faults.append(request.url) if _leaves(request.url, file) else None)
    page.goto(file.as_uri())
    page.evaluate("() => document.getElementById('gallery').scrollIntoView()")
    page.wait_for_selector("#items li.filled canvas[data-painted]")
    yield page
    assert faults == []
    context.close()


def _leaves(url: str, file: Path) -> bool:
    return not url.startswith("data:") and url != file.as_uri()


def slide(page: Any, name: str, value: float) -> None:
    page.evaluate(
        "([id, value]) => { const e = document.getElementById(id); e.value = value;"
        " e.dispatchEvent(new Event('input')); }",
        [name, value],
    )
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def first_column(page: Any) -> list[str]:
    return page.locator("#board tbody th .name").all_text_contents()


def hit_counts(page: Any) -> list[int]:
    return [int(n) for n in page.locator(".count[data-hits]").evaluate_all("all => all.map((e) => e.dataset.hits)")]


def status(page: Any) -> str:
    return page.locator("#status").inner_text()


def serious_faults(page: Any, folder: Path) -> list[tuple[str, str, str, list[str]]]:
    """Return the serious and critical faults that axe-core finds in either theme."""
    page.evaluate(_axe(folder))
    bad = []
    for theme in ("light", "dark"):
        page.evaluate("(theme) => { document.documentElement.dataset.theme = theme; }", theme)
        found = page.evaluate("async () => (await axe.run(document, {resultTypes: ['violations']})).violations")
        bad += [
            (theme, fault["id"], fault["help"], [node["html"][:160] for node in fault["nodes"][:3]])
            for fault in found
            if fault["impact"] in ("serious", "critical")
        ]
    return bad


def _axe(folder: Path) -> str:
    """Return axe-core's source, from $XAIBENCH_AXE or the npm registry."""
    given = os.environ.get("XAIBENCH_AXE")
    if given:
        return Path(given).read_text(encoding="utf-8")
    npm = shutil.which("npm")
    if not npm:
        pytest.skip("no npm to fetch axe-core with: install it, or set XAIBENCH_AXE to axe.min.js")
    try:
        subprocess.run([npm, "pack", "axe-core@4"], cwd=folder, check=True, capture_output=True, timeout=90)
        with tarfile.open(next(folder.glob("axe-core-*.tgz"))) as archive:
            member = archive.extractfile("package/axe.min.js")
            assert member is not None
            return member.read().decode()
    except (subprocess.SubprocessError, OSError, StopIteration, tarfile.TarError) as error:
        pytest.skip(f"axe-core could not be fetched: {type(error).__name__}")
