"""The report page in headless Chromium: it works, alone, by keyboard, with names that attack."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.reports.report_runs import CLASSES, EXPLAINERS, write_run
from xaibench.reports.html import render_report, write_report
from xaibench.reports.html.data import Report
from xaibench.reports.html.gallery import Gallery, choose_pairs

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install -e '.[test]'")

_TIMEOUT = 20_000  # ms: machines under load
_MANY = 5_000


def _chromium() -> str:
    found = os.environ.get("XAIBENCH_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if not found:
        pytest.skip("no chromium on this machine: apt-get install chromium, or set XAIBENCH_CHROMIUM")
    return found


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    path = _chromium()
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"], timeout=2 * _TIMEOUT)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    run, shown = write_run(folder / "run")
    write_report([run], folder / "report.html", opened=lambda _: shown)  # type: ignore[arg-type,return-value]
    return folder / "report.html"


@pytest.fixture
def page(browser: Any, file: Path) -> Iterator[Any]:
    yield from _opened(browser, file)


def _opened(browser: Any, file: Path, width: int = 1280) -> Iterator[Any]:
    """Open the page and check at the end that it neither complained nor asked for anything but itself."""
    context = browser.new_context(viewport={"width": width, "height": 900}, reduced_motion="reduce")
    page, faults = context.new_page(), []
    page.set_default_timeout(_TIMEOUT)
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


def _set(page: Any, name: str, value: float) -> None:
    page.evaluate(
        "([id, value]) => { const e = document.getElementById(id); e.value = value;"
        " e.dispatchEvent(new Event('input')); }",
        [name, value],
    )
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def _first_column(page: Any) -> list[str]:
    return page.locator("#board tbody th .name").all_text_contents()


def _hits(page: Any) -> list[int]:
    return [int(n) for n in page.locator(".count").evaluate_all("all => all.map((e) => e.dataset.hits)")]


def _status(page: Any) -> str:
    return page.locator("#status").inner_text()


def test_the_leaderboard_sorts_and_filters(page: Any) -> None:
    assert _first_column(page)[:2] == [EXPLAINERS[1], EXPLAINERS[3]]
    assert page.locator("#board th[aria-sort=descending]").count() == 1
    page.locator("#board thead button").nth(1).click()
    assert _first_column(page)[0] == "random"
    assert page.locator("#board th[aria-sort=ascending]").count() == 1
    page.get_by_label("Baselines", exact=True).uncheck()
    assert "random" not in _first_column(page)
    columns = page.locator("#board thead th").count()
    page.get_by_label("Every point of the curves").check()
    assert page.locator("#board thead th").count() == columns + 2
    page.get_by_label("Class", exact=True).select_option(label=CLASSES[1])
    assert CLASSES[1] in page.locator("#board caption").text_content()
    page.get_by_label("Metrics").select_option("classification")
    assert _first_column(page) == ["gcm"]
    assert page.locator("#board tbody td .value").all_text_contents() == ["0.850"]


def test_sliders_change_the_picture_the_verdict_and_the_count(page: Any) -> None:
    canvas = page.locator("#items canvas").first
    ink = (
        "(c) => { const copy = Object.assign(document.createElement('canvas'), {width: 128, height: 128});"
        " const context = copy.getContext('2d', {willReadFrequently: true}); context.drawImage(c, 0, 0);"
        " return context.getImageData(0, 0, 128, 128).data.reduce((sum, v, i) => sum + (i % 4 === 3 ? v : 0), 0); }"
    )
    before, hits = canvas.evaluate(ink), _hits(page)
    assert hits[:2] == [12, 0]
    _set(page, "threshold", 0.9)
    page.wait_for_function("() => document.querySelector('#items canvas').dataset.painted.endsWith(' 0.9')")
    cut = canvas.evaluate(ink)
    assert 0 < cut < before / 2
    assert _hits(page)[0] == 0
    assert "miss" in page.locator("#items .tile[data-k='0'] .verdict:not(.plain)").first.inner_text()
    _set(page, "opacity", 0.4)
    page.wait_for_function("() => document.querySelector('#items canvas').dataset.painted.includes(' 0.4 ')")
    assert canvas.evaluate(ink) == pytest.approx(cut / 2, rel=0.05)
    _set(page, "threshold", 0)
    assert _hits(page)[0] == 12
    page.get_by_text("Hit rule, colours").click()
    page.get_by_label("A hit is").select_option("peak")
    page.wait_for_function("() => document.querySelector('#items .verdict.hit').textContent.includes('in the box')")
    assert _hits(page)[:2] == [12, 0]
    _set(page, "near", 50)
    assert _hits(page)[:2] == [12, 12]


def test_the_gallery_filters_by_class_verdict_and_disagreement(page: Any) -> None:
    assert _status(page).startswith("16 of 16")

    def after(label: str, option: str, expected: str) -> None:
        page.get_by_label(label, exact=True).select_option(label=option)
        page.wait_for_function("(text) => document.getElementById('status').textContent.startsWith(text)", arg=expected)

    after("Gallery class", CLASSES[2], "4 of 16")
    assert page.locator("#items > li").count() == 4
    after("Gallery class", "all classes", "16 of 16")
    after("Show", "images without a box", "4 of 16")
    after("Show", "explainers disagree", "12 of 16")
    after("Show", "hits", "12 of 16")
    after("Hit or miss of", EXPLAINERS[1], "No pair")
    after("Show", "misses", "12 of 16")
    after("Hit or miss of", EXPLAINERS[2], "No pair")  # its maps are constant: neither hit nor miss


def test_the_keyboard_moves_through_the_gallery(page: Any) -> None:
    focus = "() => { const t = document.activeElement; return [t.closest('li')?.dataset.i, t.dataset.k]; }"
    assert page.locator("#items button[tabindex='0']").count() == 1
    page.locator("#items button[tabindex='0']").focus()
    assert page.evaluate(focus) == ["0", "-1"]
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    assert page.evaluate(focus) == ["1", "0"]
    page.keyboard.press("End")
    assert page.evaluate(focus) == ["15", "0"]
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    title = page.locator("#detail-title")
    assert title.inner_text().endswith(f"· {EXPLAINERS[0]}")
    page.wait_for_selector("dialog canvas[data-painted]")
    page.keyboard.press("ArrowRight")
    assert title.inner_text().endswith(f"· {EXPLAINERS[1]}")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Escape")
    page.wait_for_function("() => !document.getElementById('detail').open")
    assert page.evaluate(focus) == ["13", "1"]


def test_charts_follow_the_class_and_the_explainers(page: Any) -> None:
    titles = page.locator("#chart-grid figure h3").all_text_contents()
    assert titles == [
        "ROC curves",
        "Hit rate against tolerance",
        "Visible in the box against threshold",
        "Cost against score",
        "Average ranks",
        "Scores of single maps",
    ]
    roc = page.locator("#roc svg[role=img]")
    assert roc.get_attribute("aria-label").count("(") == 4
    keys = page.locator("#tolerance .keys li")
    assert keys.count() == 4  # the third explainer's maps are constant
    page.locator("#chart-controls .legend button").first.click()
    assert keys.count() == 3
    page.get_by_label("Class of the charts").select_option(label=CLASSES[0])
    assert roc.get_attribute("aria-label").count("(") == 1
    assert "no boxes" in page.locator("#tolerance").inner_text()
    page.locator("#roc summary").click()
    assert page.locator("#roc .numbers tbody tr").count() == 1


@pytest.mark.parametrize("width", [400, 1280, 1920])
def test_names_are_text_and_nothing_overflows(browser: Any, file: Path, width: int) -> None:
    for page in _opened(browser, file, width):
        assert page.evaluate("() => document.documentElement.scrollWidth") <= width
        assert page.locator("#summary script, main b, main img[src=x]").count() == 0
        assert EXPLAINERS[1] in page.locator("#summary").inner_text()
        assert page.locator("#title").inner_text() == "<b>Toy</b> & 肺"
        page.locator("#theme").click(click_count=2)
        assert page.evaluate("() => document.documentElement.dataset.theme") == "dark"


def test_five_thousand_images_scroll_and_few_are_drawn(browser: Any, tmp_path: Path) -> None:
    run, shown = write_run(tmp_path / "run")

    class Many(Gallery):
        def page(self) -> dict[str, Any]:
            found = super().page()
            items = (found["items"] * (_MANY // len(found["items"]) + 1))[:_MANY]
            return found | {"items": [item | {"id": f"{item['id']} {k}"} for k, item in enumerate(items)]}

    report = Report([run])
    gallery = Many(report, choose_pairs(report, 100))
    gallery.fill(0, shown)  # type: ignore[arg-type]
    file = tmp_path / "many.html"
    file.write_text(render_report(report, gallery), encoding="utf-8")
    for page in _opened(browser, file):
        assert _status(page).startswith("5,000 of 5,000")
        assert page.locator("#items > li").count() == _MANY
        for place in (0.3, 0.6, 0.95):
            page.evaluate("(share) => scrollTo(0, share * document.documentElement.scrollHeight)", place)
            page.wait_for_function(
                "() => [...document.querySelectorAll('#items li.filled canvas[data-painted]')].some((c) => {"
                " const r = c.getBoundingClientRect(); return r.bottom > 0 && r.top < innerHeight; })"
            )
            assert page.locator("#items li.filled").count() < 80
        _set(page, "threshold", 0.9)
        assert _hits(page)[0] == 0


def test_axe_finds_no_serious_fault(page: Any, tmp_path: Path) -> None:
    page.evaluate(_axe(tmp_path))
    for theme in ("light", "dark"):
        page.evaluate("(theme) => { document.documentElement.dataset.theme = theme; }", theme)
        found = page.evaluate("async () => (await axe.run(document, {resultTypes: ['violations']})).violations")
        bad = [
            (fault["id"], fault["help"], [node["html"][:160] for node in fault["nodes"][:3]])
            for fault in found
            if fault["impact"] in ("serious", "critical")
        ]
        assert bad == [], theme


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
