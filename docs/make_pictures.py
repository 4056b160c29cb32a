"""Make README's pictures from real runs: ``python docs/make_pictures.py [run.svg contact-sheet.png report.png]``.

Without names it makes all. The report's needs playwright (``pip install 'xaibench[test]'``) and chromium.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from xaibench import evaluate
from xaibench.reporting.html import write_report
from xaibench.reporting.tables.run import export_svg
from xaibench.results.run import Run

HERE = Path(__file__).resolve().parent
FIRST_RUN = ("run.svg", "contact-sheet.png")
REPORT = "report.png"
EXPLAINERS = ("cwm", "ccm", "gradcam", "layercam")
_WIDTH, _MAX_BYTES = 1280, 400_000
_IMAGES = 60


def main(names: Sequence[str]) -> None:
    """Make the pictures of these names."""
    wanted = set(names) or {*FIRST_RUN, REPORT}
    if unknown := sorted(wanted - {*FIRST_RUN, REPORT}):
        sys.exit(f"no such picture: {', '.join(unknown)}. There are {', '.join([*FIRST_RUN, REPORT])}")
    chromium = _chromium() if REPORT in wanted else ""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if wanted & set(FIRST_RUN):
            _first_run(folder, wanted)
        if REPORT in wanted:
            _report(folder, chromium)


def _first_run(folder: Path, wanted: set[str]) -> None:
    """Run gcm with cwm on the phantom and keep its table and its contact sheet."""
    with contextlib.chdir(folder):  # the table says where the run is saved: in "runs", as on anyone's machine
        run = evaluate("gcm", ["cwm"], "phantom", out=Path("runs"), device="cpu")
        assert run.directory is not None
        if "contact-sheet.png" in wanted:
            shutil.copyfile(run.directory / "contact-sheet-cwm.png", HERE / "contact-sheet.png")
        if "run.svg" in wanted:
            export_svg(run, HERE / "run.svg", width=140)


def _report(folder: Path, chromium: str) -> None:
    """Photograph the report page of gcm with a few explainers on the phantom."""
    run = evaluate("gcm", EXPLAINERS, "phantom", out=folder, device="cpu")
    page = folder / "report.html"
    write_report([run], page, images=_IMAGES, device="cpu")
    shot = Image.open(io.BytesIO(_photograph(page, chromium, run))).convert("RGB")
    for colours in (256, 192, 128, 96, 64):
        buffer = io.BytesIO()
        shot.quantize(colours, kmeans=3, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
        if len(buffer.getvalue()) <= _MAX_BYTES:
            break
    (HERE / REPORT).write_bytes(buffer.getvalue())


def _photograph(file: Path, chromium: str, run: Run) -> bytes:
    """Return a PNG of the summary, the leaderboard and the gallery's head with two images of classes with boxes."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        tall = {"width": _WIDTH, "height": 2400}  # all that is photographed is in view, so nothing of it is emptied
        page = browser.new_page(viewport=tall, color_scheme="light", reduced_motion="reduce")
        page.set_default_timeout(120_000)
        page.goto(file.as_uri())
        page.wait_for_selector("#board tbody tr")
        # what lies between table and gallery is left out, and the bar does not stick in the middle of the picture
        page.add_style_tag(
            content="#charts, #board-note { display: none } .top, .tools { position: static !important } "
            "section { margin-block: 1.4rem 1.6rem }"
        )
        page.get_by_label("Baselines", exact=True).uncheck()
        page.get_by_label("Gallery class", exact=True).select_option(label=run.benchmark.classes[2])
        page.get_by_label("Show", exact=True).select_option("disagree")
        row = page.locator("#items li").nth(1)
        page.wait_for_function(
            "() => [...document.querySelectorAll('#items li')].slice(0, 2).every((li) => li.className === 'filled'"
            " && [...li.querySelectorAll('canvas')].every((c) => c.dataset.painted))"
        )
        box = row.bounding_box()
        assert box is not None
        height = box["y"] + box["height"] + 16
        picture = page.screenshot(clip={"x": 0, "y": 0, "width": _WIDTH, "height": height})
        browser.close()
    return bytes(picture)


def _chromium() -> str:
    """Return where chromium is; end with one line where it or playwright is missing."""
    try:
        import playwright.sync_api  # noqa: F401
    except ImportError:
        sys.exit(f"docs/{REPORT} needs playwright: pip install 'xaibench[test]'")
    found = os.environ.get("XAIBENCH_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if not found:
        sys.exit(f"docs/{REPORT} needs chromium: apt-get install chromium, or set XAIBENCH_CHROMIUM to its path")
    return found


if __name__ == "__main__":
    main(sys.argv[1:])
