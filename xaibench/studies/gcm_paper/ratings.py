"""Sheets for a human rater: every map of boxed test images, in a random order, to be marked hit or miss.

The paper's rater judged by eye whether "red is clearly visible inside the box" (sec. 5.2). Here a person does the same
without seeing class scores, names or metrics. The map is coloured as on a contact sheet, but full red is the map's own
largest value, as in the metric ``visible_in_box``, whose threshold the ratings calibrate.
"""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from xaibench.benchmark import digest
from xaibench.errors import UsageError
from xaibench.evaluation.restore import Reopened, check_explainer
from xaibench.io.files import write_atomically
from xaibench.progress import Progress
from xaibench.reporting.figures.contact_sheet import BOX, draw_boxes, encode_png, overlay, show_picture
from xaibench.reporting.figures.tiles import Tile
from xaibench.reporting.templating import render
from xaibench.results.run import Run
from xaibench.types import FloatArray, Sample

COLUMNS = ("image", "class", "explainer", "rater", "rating")
"""Of a ratings file."""
_JPEG_QUALITY = 95
_PNG_SIDE = 512  # pixels


@dataclass(frozen=True, order=True)
class Item:
    """One map to rate."""

    image: str
    class_name: str
    explainer: str


def rating_items(run: Run, explainers: Sequence[str] = (), seed: int = 0) -> list[Item]:
    """Return the run's maps of classes with a box, in an order that depends on `seed` and on what there is only.

    Args:
        explainers: whose maps; those that the run was asked for when empty. Baselines can be named too.

    Raises:
        UsageError: an explainer that the run did not score, or no boxed test image.
    """
    table = run.images()
    if table.empty:
        raise UsageError(f"{run.directory} has no boxed test image, so there is nothing to rate")
    names = list(dict.fromkeys(explainers)) or [name for name in run.explainers if (table["explainer"] == name).any()]
    for name in names:
        check_explainer(run, name, table)
    chosen = table[table["explainer"].isin(names)][["image", "class", "explainer"]].drop_duplicates()
    items = sorted(Item(*map(str, row)) for row in chosen.itertuples(index=False))
    return [items[index] for index in np.random.default_rng(seed).permutation(len(items))]


def write_page(opened: Reopened, items: Sequence[Item], path: Path, progress: Progress | None = None) -> None:
    """Write one HTML file, without outside addresses, on which a person rates the items in their order.

    Keys answer, progress is kept in the browser, and a button downloads the ratings as CSV.
    """
    pictures: dict[Item, dict[str, Any]] = {}

    def keep(item: Item, tile: Tile) -> None:
        corners: list[list[float]] = [] if tile.region is None else tile.region.boxes.tolist()
        sides = [[round(side, 2) for side in (x0, y0, x1 - x0, y1 - y0)] for x0, y0, x1, y1 in corners]
        pictures[item] = {"picture": _data_uri(_coloured(tile), "jpeg"), "boxes": sides}

    _draw_items(opened, items, keep, progress)
    run = opened.run
    named = [{"image": item.image, "class": item.class_name, "explainer": item.explainer} for item in items]
    identity = digest([run.record.get("id"), named])[:12]
    frame = opened.splits.test.frame
    bar = np.repeat(np.linspace(0, 1, 128)[None], 8, axis=0)
    page = render(
        "rate.html.j2",
        benchmark=run.benchmark.title or run.benchmark.name,
        frame=frame,
        box_colour=BOX,
        colour_bar=_data_uri(overlay(np.full_like(bar, 0.35), bar, 1.0), "png"),
        data={
            "key": f"xaibench-rate-{identity}",
            "file": f"ratings-{identity}",
            "columns": COLUMNS,
            "items": [{**name, **pictures[item]} for name, item in zip(named, items, strict=True)],
        },
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda part: part.write_text(page, encoding="utf-8"))


def write_folder(opened: Reopened, items: Sequence[Item], folder: Path, progress: Progress | None = None) -> None:
    """Write the items as 0001.png, 0002.png, ... and ``ratings.csv``, whose columns rater and rating are to be filled.

    Raises:
        UsageError: there is a ``ratings.csv`` already, which may hold somebody's work.
    """
    kept = folder / "ratings.csv"
    if kept.exists():
        raise UsageError(f"{kept} exists and may hold ratings: give another folder, or move it away")
    folder.mkdir(parents=True, exist_ok=True)
    files = {item: f"{number:0{max(4, len(str(len(items))))}d}.png" for number, item in enumerate(items, start=1)}

    def keep(item: Item, tile: Tile) -> None:
        write_atomically(folder / files[item], lambda part: part.write_bytes(_png(tile)))

    _draw_items(opened, items, keep, progress)
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["file", *COLUMNS])
    writer.writerows([files[item], item.image, item.class_name, item.explainer, "", ""] for item in items)
    # the byte order mark tells spreadsheets that it is UTF-8
    write_atomically(kept, lambda part: part.write_bytes(text.getvalue().encode("utf-8-sig")))


def full_red(tiles: Sequence[Tile]) -> float:
    """Return the largest value of the tiles' maps, 0 where none is positive: what is drawn in full red.

    >>> full_red([Tile(np.zeros((1, 2)), np.array([[4.0, -9.0]]), None, "a.png", "Effusion")])
    4.0
    """
    return max(float(np.max(tile.map, where=np.isfinite(tile.map), initial=0.0)) for tile in tiles)


def _coloured(tile: Tile) -> FloatArray:
    return overlay(tile.image, tile.map, full_red([tile]))


def _draw_items(
    opened: Reopened, items: Sequence[Item], keep: Callable[[Item, Tile], None], progress: Progress | None
) -> None:
    wanted, classes = set(items), opened.splits.test.classes

    def draw(explainer: str, target: int, sample: Sample, heat: Tensor, _: float | None) -> None:
        item = Item(sample.id, classes[target], explainer)
        if item in wanted:
            image = sample.image.mean(axis=0)
            keep(item, Tile(image, heat.cpu().numpy(), sample.regions.get(target), sample.id, classes[target]))

    pairs = {(item.image, item.class_name) for item in items}
    opened.show(pairs, list(dict.fromkeys(item.explainer for item in items)), draw, progress=progress)


def _data_uri(picture: FloatArray, form: str) -> str:
    buffer = io.BytesIO()
    image = Image.fromarray(np.round(255 * picture).astype(np.uint8))
    image.save(buffer, form, **({"quality": _JPEG_QUALITY, "subsampling": 0} if form == "jpeg" else {}))
    return f"data:image/{form};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _png(tile: Tile) -> bytes:
    figure = Figure(figsize=(_PNG_SIDE / 200, _PNG_SIDE / 200), dpi=200)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    show_picture(axes, _coloured(tile))
    draw_boxes(axes, tile)
    return encode_png(figure)
