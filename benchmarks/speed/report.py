"""The report page of 400 images with six explainers and three baselines, from stored maps: time, size, first view.

    python benchmarks/speed/report.py [--images N] [--listed N] [--keep FILE]

Drawn radiographs of 224 px whose maps (coarse as CAMs are, finer, pixel by pixel as gradients) lie in a file. Prints
wall and processor seconds of `write_report`, megabytes, and how long headless Chromium takes until the summary and the
table are painted, each the median of three; then the page with its gallery repeated to 5,000 pairs: milliseconds from a
jump in the list to maps painted in view. Needs playwright (`pip install 'xaibench[test]'`) and chromium for these.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.nn.functional import interpolate

from xaibench import load_benchmark
from xaibench.datasets.base import Split
from xaibench.datasets.phantom import phantom
from xaibench.reporting.html import render_report, write_report
from xaibench.reporting.html.data import Report
from xaibench.reporting.html.gallery import Gallery, choose_pairs
from xaibench.results.run import MACRO, Run, Score, save_run

SIZE, BATCH, ROUNDS = 224, 32, 3
GRIDS = {"cwm": 7, "ccm": 7, "ccm_contrast": 7, "gradcam": 7, "layercam": 14, "saliency": SIZE}
"""Explainers and the side at which their maps are made."""
BASELINES = ("random", "center", "prior_box")


@dataclass
class Stored:
    """Stands for a run reopened: shows maps that lie in a file, image after image."""

    split: Split
    maps: np.ndarray[Any, Any]

    @property
    def splits(self) -> Any:
        return SimpleNamespace(test=self.split)

    def show(
        self,
        pairs: Collection[tuple[str, str]],
        explainers: Sequence[str],
        sheet: Callable[..., None],
        *,
        progress: Any = None,
    ) -> None:
        names = [*GRIDS, *BASELINES]
        for first in range(0, len(self.split), BATCH):
            rows = range(first, min(first + BATCH, len(self.split)))
            samples = [self.split[row] for row in rows]
            for explainer in explainers:
                for row, sample in zip(rows, samples, strict=True):
                    target = int(np.argmax(sample.labels))
                    if (sample.id, self.split.classes[target]) in pairs:
                        heat = torch.from_numpy(np.array(self.maps[row, names.index(explainer)], dtype=np.float32))
                        sheet(explainer, target, sample, heat, None)


def make(folder: Path, images: int) -> tuple[Run, Stored]:
    """Write a run of so many drawn test images, and their maps."""
    spec = load_benchmark("phantom").model_copy(update={"input_size": SIZE})
    counts = {"train": 4, "val": 4, "test": images}
    split = phantom(classes=spec.classes, input_size=SIZE, options=counts).test
    names = [*GRIDS, *BASELINES]
    maps = np.lib.format.open_memmap(
        folder / "maps.npy", mode="w+", dtype=np.float16, shape=(images, len(names), SIZE, SIZE)
    )
    generator = torch.Generator().manual_seed(0)
    blind = [torch.randn(1, 1, 7, 7, generator=generator) for _ in (*spec.classes, "the centre")]
    for row in range(images):
        for column, name in enumerate(names):
            side = GRIDS.get(name, SIZE)
            coarse = torch.randn(1, 1, side, side, generator=generator)
            if name in BASELINES[1:]:  # the same for all images (of a class)
                coarse = blind[-1 if name == "center" else int(np.argmax(split.labels[row]))]
            maps[row, column] = interpolate(coarse, (SIZE, SIZE), mode="bilinear", align_corners=False)[0, 0].numpy()
    maps.flush()
    draw = np.random.default_rng(0)
    points = [f"visible_in_box@{step / 20:.2f}" for step in range(1, 20)]
    metrics = ["hit_rate", "pointing_game", "energy", "iou_otsu", *points]
    rows, predictions = [], []
    for index in range(images):
        label = split.labels[index]
        target, where = int(np.argmax(label)), {"image": split.ids[index], "patient": split.patients[index]}
        if split.regions(index):
            own = where | {"class": spec.classes[target], "chance": 0.1}
            rows += [own | {"explainer": e, "metric": m, "value": float(draw.random())} for e in names for m in metrics]
        logits = draw.normal(size=len(spec.classes)) + 2 * label
        predictions.append(
            where
            | {f"logit:{c}": float(x) for c, x in zip(spec.classes, logits, strict=True)}
            | {f"label:{c}": int(x) for c, x in zip(spec.classes, label, strict=True)}
        )
    scores = [
        Score("gcm", name, metric, place, float(draw.random()), 0.0, 1.0, 0.1, images, images, 0)
        for name in names
        for metric in metrics
        for place in (*spec.classes[1:], MACRO)
    ]
    scores += [Score("gcm", None, "roc_auc", c, 0.9, 0.8, 1.0, 0.5, images, images, 0) for c in (*spec.classes, MACRO)]
    seconds = {"forward": 1.0} | dict.fromkeys(names, 1.0)
    record = {"id": "synthetic", "seconds": seconds, "test": {"images": images, "patients": images, "pairs": images}}
    run = Run(spec, "gcm", tuple(GRIDS), BASELINES, tuple(scores), record, (), folder / "run")
    save_run(run, [pd.DataFrame(rows)], pd.DataFrame(predictions))
    return run, Stored(split, np.load(folder / "maps.npy", mmap_mode="r"))


def longer(run: Run, stored: Stored, pairs: int, path: Path) -> None:
    """Write a page whose gallery repeats its items up to so many."""

    class Many(Gallery):
        def page(self) -> dict[str, Any]:
            found = super().page()
            items = (found["items"] * (pairs // len(found["items"]) + 1))[:pairs]
            return found | {"items": [item | {"id": f"{item['id']} {k}"} for k, item in enumerate(items)]}

    report = Report([run])
    gallery = Many(report, choose_pairs(report, 40))
    gallery.fill(0, stored)  # type: ignore[arg-type]
    path.write_text(render_report(report, gallery), encoding="utf-8")


def browse() -> Iterator[Any]:
    """Yield a headless Chromium, or nothing, with the reason printed."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        print("no playwright, so no first view: pip install 'xaibench[test]'")
        return
    chromium = os.environ.get("XAIBENCH_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if not chromium:
        print("no chromium, so no first view: apt-get install chromium, or set XAIBENCH_CHROMIUM")
        return
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


_FIRST = """() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => {
  const paint = performance.getEntriesByName("first-contentful-paint")[0];
  done([paint ? paint.startTime : NaN, performance.now()]); })))"""
_JUMP = """(share) => scrollTo({top: share * document.documentElement.scrollHeight, behavior: "instant"})"""
_SEEN = """() => [...document.querySelectorAll('#items li.filled canvas[data-painted]')].some((c) => {
  const r = c.getBoundingClientRect(); return r.bottom > 0 && r.top < innerHeight; })"""


def first_view(browser: Any, file: Path) -> tuple[float, float]:
    """Return milliseconds until something is painted, and until summary and table are."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(file.as_uri(), wait_until="commit")
    page.wait_for_selector("#board tbody tr")
    first, table = page.evaluate(_FIRST)
    page.close()
    return float(first), float(table)


def scroll(browser: Any, file: Path) -> list[float]:
    """Return milliseconds from jumps into the list until maps are painted there."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(file.as_uri())
    page.wait_for_selector("#items li")
    spent = []
    for place in (0.2, 0.4, 0.6, 0.8, 0.97):
        start = time.perf_counter()
        page.evaluate(_JUMP, place)
        page.wait_for_function(_SEEN)
        spent.append(1000 * (time.perf_counter() - start))
    page.close()
    return spent


def main() -> None:
    """Make the pages and print the numbers."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--images", type=int, default=400, help="images with maps (400)")
    parser.add_argument("--listed", type=int, default=5000, help="pairs in the long gallery (5000)")
    parser.add_argument("--keep", type=Path, help="where to leave the page")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run, stored = make(folder, given.images)
        file = given.keep or folder / "report.html"
        wall, processor = time.perf_counter(), time.process_time()
        made = write_report([run], file, images=given.images, opened=lambda _: stored)  # type: ignore[arg-type,return-value]
        wall, processor = time.perf_counter() - wall, time.process_time() - processor
        print(
            f"report of {made['pairs']} pairs and {made['methods']} methods: {wall:.1f} s, {processor:.1f} s of "
            f"processor, {made['bytes'] / 1e6:.2f} MB"
        )
        longer(run, stored, given.listed, folder / "long.html")
        for browser in browse():
            first_view(browser, file)  # warms the browser
            views = [first_view(browser, file) for _ in range(ROUNDS)]
            first, table = (statistics.median(column) for column in zip(*views, strict=True))
            print(f"first view: something painted after {first:.0f} ms, summary and table after {table:.0f} ms")
            jumps = scroll(browser, folder / "long.html")
            each = ", ".join(f"{jump:.0f}" for jump in jumps)
            print(f"gallery of {given.listed:,} pairs: maps in view {each} ms after a jump")


if __name__ == "__main__":
    main()
