"""The report page in headless Chromium: it works, alone, by keyboard, with names that attack."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.reporting import browsing
from tests.reporting.browsing import first_column, hit_counts, opened, serious_faults, slide, status
from tests.reporting.report_runs import CLASSES, EXPLAINERS, write_run
from xaibench.reporting.html import render_report, write_report
from xaibench.reporting.html.data import Report
from xaibench.reporting.html.gallery import Gallery, choose_pairs

_MANY = 5_000
pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    yield from browsing.launched()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    run, shown = write_run(folder / "run")
    write_report([run], folder / "report.html", opened=lambda _: shown)  # type: ignore[arg-type,return-value]
    return folder / "report.html"


@pytest.fixture
def page(browser: Any, file: Path) -> Iterator[Any]:
    yield from opened(browser, file)


def test_the_leaderboard_sorts_and_filters(page: Any) -> None:
    assert first_column(page)[:2] == [EXPLAINERS[1], EXPLAINERS[3]]
    assert page.locator("#board th[aria-sort=descending]").count() == 1
    page.locator("#board thead button").nth(1).click()
    assert first_column(page)[0] == "random"
    assert page.locator("#board th[aria-sort=ascending]").count() == 1
    page.get_by_label("Baselines", exact=True).uncheck()
    assert "random" not in first_column(page)
    columns = page.locator("#board thead th").count()
    page.get_by_label("Every point of the curves").check()
    assert page.locator("#board thead th").count() == columns + 2
    page.get_by_label("Class", exact=True).select_option(label=CLASSES[1])
    assert CLASSES[1] in page.locator("#board caption").text_content()
    page.get_by_label("Metrics").select_option("classification")
    assert first_column(page) == ["gcm"]
    assert page.locator("#board tbody td .value").all_text_contents() == ["0.850"]


def test_sliders_change_the_picture_the_verdict_and_the_count(page: Any) -> None:
    canvas = page.locator("#items canvas").first
    ink = (
        "(c) => { const copy = Object.assign(document.createElement('canvas'), {width: 128, height: 128});"
        " const context = copy.getContext('2d', {willReadFrequently: true}); context.drawImage(c, 0, 0);"
        " return context.getImageData(0, 0, 128, 128).data.reduce((sum, v, i) => sum + (i % 4 === 3 ? v : 0), 0); }"
    )
    before, hits = canvas.evaluate(ink), hit_counts(page)
    assert hits[:2] == [12, 0]
    slide(page, "threshold", 0.9)
    page.wait_for_function("() => document.querySelector('#items canvas').dataset.painted.endsWith(' 0.9')")
    cut = canvas.evaluate(ink)
    assert 0 < cut < before / 2
    assert hit_counts(page)[0] == 0
    assert "miss" in page.locator("#items .tile[data-k='0'] .verdict:not(.plain)").first.inner_text()
    slide(page, "opacity", 0.4)
    page.wait_for_function("() => document.querySelector('#items canvas').dataset.painted.includes(' 0.4 ')")
    assert canvas.evaluate(ink) == pytest.approx(cut / 2, rel=0.05)
    slide(page, "threshold", 0)
    assert hit_counts(page)[0] == 12
    page.get_by_text("Hit rule, colours").click()
    page.get_by_label("A hit is").select_option("peak")
    page.wait_for_function("() => document.querySelector('#items .verdict.hit').textContent.includes('in the box')")
    assert hit_counts(page)[:2] == [12, 0]
    slide(page, "near", 50)
    assert hit_counts(page)[:2] == [12, 12]


def test_the_gallery_filters_by_class_verdict_and_disagreement(page: Any) -> None:
    assert status(page).startswith("16 of 16")

    def after(label: str, option: str, expected: str) -> None:
        page.get_by_label(label, exact=True).select_option(label=option)
        page.wait_for_function("(text) => document.getElementById('status').textContent.startsWith(text)", arg=expected)

    after("Gallery class", CLASSES[2], "4 of 16")
    assert page.locator("#items > li").count() == 4
    after("Gallery class", "all classes", "16 of 16")
    after("Show", "images without a box", "4 of 16")
    after("Show", "images with a box", "12 of 16")
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
    page.wait_for_function(f'() => JSON.stringify(({focus})()) === \'["13","1"]\'')  # when the page has told of it
    assert page.evaluate(focus) == ["13", "1"]


def test_charts_follow_the_class_and_the_explainers(page: Any) -> None:
    titles = page.locator("#chart-grid figure h3").all_text_contents()
    assert titles == [
        "ROC curves",
        "Hit rate against tolerance",
        "Visible in the box against threshold",
        "Cost against score",
        "Rank stability",
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
    page.wait_for_selector("#roc .numbers tbody tr", state="attached")
    assert page.locator("#roc .numbers tbody tr").count() == 1


def test_beside_the_hits_stands_what_maps_of_noise_would_hit(page: Any) -> None:
    """Noise shows 1 - threshold of any box: the gallery's first settings, 25% of the box at 0.5, it always meets."""

    def chance() -> float:
        page.wait_for_timeout(100)
        return float(page.locator("#counts [data-chance]").get_attribute("data-chance"))

    assert chance() == 1
    slide(page, "threshold", 0.8)
    assert chance() == 0
    page.locator("#tools summary").click()
    page.get_by_label("A hit is").select_option("peak in the box")
    levels = page.evaluate(
        "() => [...new Set(DATA.tolerance.lines.filter((l) => l.class !== 4).map((l) => l.chance[0]))]"
    )
    assert min(levels) - 1e-4 <= chance() <= max(levels) + 1e-4
    assert 0 < chance() < 1


def test_ranks_show_how_they_move(page: Any) -> None:
    chart = page.locator("#ranks svg[role=img]")
    assert chart.get_attribute("aria-label").startswith("Ranks by Hit rate")
    assert "best in" in chart.get_attribute("aria-label")
    found = page.evaluate("() => DATA.rankings[0]")
    page.locator("#ranks summary").click()
    ticks = page.locator("#ranks .numbers tbody tr")
    ticks.first.wait_for()  # drawn when it is opened
    assert ticks.count() == len(found["methods"])
    assert found["low"][0] <= found["ranks"][0] <= found["high"][0]


@pytest.mark.parametrize("width", [400, 1280, 1920])
def test_names_are_text_and_nothing_overflows(browser: Any, file: Path, width: int) -> None:
    for page in opened(browser, file, width):
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
    for page in opened(browser, file):
        assert status(page).startswith("5,000 of 5,000")
        assert page.locator("#items > li").count() == _MANY
        for place in (0.3, 0.6, 0.95):
            page.evaluate("(share) => scrollTo(0, share * document.documentElement.scrollHeight)", place)
            page.wait_for_function(
                "() => [...document.querySelectorAll('#items li.filled canvas[data-painted]')].some((c) => {"
                " const r = c.getBoundingClientRect(); return r.bottom > 0 && r.top < innerHeight; })"
            )
            assert page.locator("#items li.filled").count() < 80
        slide(page, "threshold", 0.9)
        assert hit_counts(page)[0] == 0


def test_axe_finds_no_serious_fault(page: Any, tmp_path: Path) -> None:
    assert serious_faults(page, tmp_path) == []
