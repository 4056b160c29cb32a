"""The report page of real runs with six explainers, in headless Chromium: on drawn and on real radiographs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.reporting import browsing
from tests.reporting.browsing import first_column, hit_counts, opened, serious_faults, slide, status
from tests.tiny import tiny_benchmark
from xaibench.benchmark import Benchmark
from xaibench.evaluation.evaluate import evaluate
from xaibench.reporting.html import write_report
from xaibench.results.run import MACRO, Run

SIX = ("cwm", "ccm", "ccm_contrast", "gradcam", "saliency", "layercam")
pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    yield from browsing.launched()


def reported(folder: Path, benchmark: Benchmark | str, **options: Any) -> tuple[Run, Path]:
    """Run six explainers of a gcm and write the page, with a cache of its own."""
    root = options.get("data_root")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XAIBENCH_CACHE", str(folder / "cache"))
        patch.setattr(
            "xaibench.reporting.figures.contact_sheet.contact_sheet", lambda *_, **__: b""
        )  # has tests of its own
        run = evaluate("gcm", SIX, benchmark, out=folder / "runs", device="cpu", **options)
        made = write_report([run], folder / "report.html", images=400, data_root=root, device="cpu")
    assert made["methods"] == 9
    assert made["bytes"] < 15e6
    return run, folder / "report.html"


def exercised(page: Any, run: Run, folder: Path) -> None:
    """Use the page as a reader would; `opened` checks the console and the requests."""
    assert page.locator("#doctor").inner_text().startswith("Warnings of the doctor")
    # the table: as scored, sorted, filtered
    energy = {s.explainer: s.value for s in run.select(metric="energy", class_name=MACRO)}
    heads = page.locator("#board thead button").all_inner_texts()
    column = next(place for place, text in enumerate(heads) if text.startswith("Energy"))
    page.locator("#board thead button").nth(column).click()
    names = first_column(page)
    assert names == sorted(names, key=lambda name: -energy[name]) or len(set(energy.values())) < len(energy)
    assert set(names) == {*SIX, *run.baselines}
    cells = page.locator(f"#board tbody td:nth-child({column + 1}) .value").all_text_contents()
    assert [float(text) for text in cells] == pytest.approx([energy[name] for name in names], abs=0.0051)
    page.get_by_label("Baselines", exact=True).uncheck()
    assert set(first_column(page)) == set(SIX)
    # sliders: picture and counts
    page.evaluate("() => document.getElementById('gallery').scrollIntoView()")
    page.wait_for_selector("#items li.filled canvas[data-painted]")
    canvas = page.locator("#items canvas").first
    before, low = canvas.evaluate("(c) => c.toDataURL()"), {}
    for threshold in (0, 0.95):
        slide(page, "threshold", threshold)
        page.wait_for_function(
            "(t) => document.querySelector('#items canvas').dataset.painted.endsWith(` ${t}`)", arg=threshold
        )
        low[threshold] = hit_counts(page)
    assert canvas.evaluate("(c) => c.toDataURL()") != before
    assert all(more >= fewer for more, fewer in zip(low[0], low[0.95], strict=True))
    assert sum(low[0]) > sum(low[0.95])
    # filters
    pairs = int(status(page).split(" of ")[1].split()[0].replace(",", ""))
    name = run.benchmark.classes[1]
    page.get_by_label("Gallery class", exact=True).select_option(label=name)
    page.wait_for_function(f"() => !document.getElementById('status').textContent.startsWith('{pairs} ')")
    assert 0 < int(status(page).split()[0]) < pairs
    assert set(page.locator("#items li.filled h3").all_inner_texts()) == {name}
    page.get_by_label("Gallery class", exact=True).select_option(label="all classes")
    page.wait_for_function(f"() => document.getElementById('status').textContent.startsWith('{pairs} ')")
    # keyboard
    focus = "() => { const t = document.activeElement; return [t.closest('li')?.dataset.i, t.dataset.k]; }"
    page.wait_for_selector("#items button[tabindex='0']")
    page.locator("#items button[tabindex='0']").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    assert page.evaluate(focus) == ["1", "0"]
    page.keyboard.press("Enter")
    page.wait_for_selector("dialog[open] canvas[data-painted]")
    assert page.locator("#detail-title").inner_text().endswith("cwm")
    page.keyboard.press("Escape")
    assert serious_faults(page, folder) == []


def seen(browser: Any, run: Run, file: Path, folder: Path, widths: Sequence[int] = (400, 1920)) -> None:
    """Exercise a page at 1280 px, and check that it fits the other widths."""
    for page in opened(browser, file):
        exercised(page, run, folder)
    for width in widths:
        for page in opened(browser, file, width):
            assert page.evaluate("() => document.documentElement.scrollWidth") <= width


def test_a_page_of_six_explainers(browser: Any, tmp_path: Path) -> None:
    run, file = reported(tmp_path, tiny_benchmark())
    seen(browser, run, file, tmp_path, widths=(400,))


@pytest.mark.slow
def test_a_page_of_six_explainers_on_the_phantom(browser: Any, tmp_path: Path) -> None:
    run, file = reported(tmp_path, "phantom")
    seen(browser, run, file, tmp_path)


@pytest.mark.slow
def test_a_page_of_six_explainers_on_real_radiographs(browser: Any, tmp_path: Path, nih_sample: Path) -> None:
    run, file = reported(tmp_path, "chestxray8-sample", data_root=nih_sample, recipe={"epochs": 1})
    seen(browser, run, file, tmp_path)
