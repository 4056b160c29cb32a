"""Figures 5 to 9 of the paper (Fukai, Arai and Nagao), of any run, as PNG and PDF ready for print.

Figure 5: CCM against the coloured CWM overlay of one image. Then one figure a class with boxes, three hits and a miss,
and one a class without (figure 9: No Finding), four images. Boxes are blue; the colour scale is fixed and shown.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from xaibench.errors import NotApplicableError, UsageError
from xaibench.evaluation.restore import Pair, Reopened, check_explainer, reopen
from xaibench.progress import Progress
from xaibench.reporting.figures.charts import DPI, Format, save, slug
from xaibench.reporting.figures.contact_sheet import (
    Colours,
    colour_bar,
    draw_boxes,
    largest_value,
    overlay,
    show_picture,
    verdict,
)
from xaibench.reporting.figures.lettering import FONT, fit_text
from xaibench.reporting.figures.tiles import SheetCollector, Tile
from xaibench.results.run import Run
from xaibench.studies.gcm_paper.rated import read_ratings
from xaibench.studies.gcm_paper.ratings import full_red
from xaibench.types import FloatArray, Sample

Scale = Literal["figure", "all", "image"]

_HITS, _MISSES = 3, 1
_TILE, _GAP, _MARGIN, _BAR = 1.58, 0.08, 0.06, 0.80  # inches: four tiles and a bar in a text width of 7.5
_HEAD, _CAPTION, _FOOT = 0.30, 0.34, 0.36
_SIGNS: Mapping[Colours, str] = {
    "signed": "Red: evidence for the class; green: against it. Blue: the lesion's box.",
    "cividis": "Yellow: evidence for the class; dark blue: none, or against it. Blue: the lesion's box.",
    "jet": "Dark red: evidence for the class; dark blue: none, or against it. Light blue lines: the lesion's box.",
}
_CONTRAST_SIGNS = (
    "(a) White: contributes to the class; black: against it. (b) Red: weighs for it; green: against. Blue: box."
)


@dataclass(frozen=True)
class _Panel:
    """A picture in a row: what is drawn, the caption below it, and its bar on the right, if it has one of its own."""

    tile: Tile
    picture: FloatArray
    caption: str
    colour: str = "black"
    remark: str = ""
    bar: Callable[[Axes], None] | None = None


def paper_figures(
    run: Run,
    out: Path,
    *,
    explainer: str | None = None,
    ratings: Sequence[Path] = (),
    scale: Scale = "figure",
    seed: int = 0,
    colours: Colours = "signed",
    formats: Sequence[Format] = ("png", "pdf"),
    data_root: Path | None = None,
    checkpoint: Path | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> list[Path]:
    """Draw the paper's figures 5 to 9 of a run, its maps made again, and return the files written.

    Images are drawn at random among the hits, the misses and the images without a box; which is which says the run's
    hit rate (the map's peak lies in the box), or a person's ratings. Figures follow the benchmark's classes: those with
    boxes from 6 on, then those without. The same run and seed give the same bytes.

    Args:
        out: the folder to write into.
        explainer: whose maps figures 6 to 9 show: ``cwm`` where the run has it, else the run's first.
        ratings: ratings files (see ``xaibench rate``); a hit is then what most raters marked so.
        scale: what gets the full red: the largest value of the maps in a "figure", in "all" of 6 to 9, or in the
            "image" itself, as the metric ``visible_in_box`` and the rating page have it. Green ends at minus that.
        seed: of the draw.
        colours: of the maps in figures 6 to 9; see `overlay`.
        formats: files of each figure.
        data_root, checkpoint, device: see `reopen`.

    Raises:
        UsageError: an explainer or a metric that the run did not score, or no image to show.
        XaibenchError: the run's maps can't be made again; says why.
    """
    progress = progress or Progress()
    name = explainer or ("cwm" if "cwm" in run.explainers else run.explainers[0])
    chosen = _choose(run, name, ratings, seed)
    if not chosen:
        raise UsageError(f"run {run.directory} has no image to show: no boxed test image and none of a class without")
    opened = reopen(run, data_root=data_root, checkpoint=checkpoint, device=device)
    tiles = _tiles(opened, name, chosen, progress)
    contrast = _contrast(opened, tiles, progress)
    out.mkdir(parents=True, exist_ok=True)
    written = []
    source = f"{name} of {run.classifier} on {run.benchmark.name}"
    every = full_red([tile for row in tiles.values() for tile in row])
    if contrast is not None:
        ccm, cwm = contrast
        title = f"Figure 5. CCM against the coloured CWM: {cwm.class_name}, {cwm.image_id}"
        written += _write(_draw(title, _contrast_panels(ccm, cwm), _CONTRAST_SIGNS), out / "figure-5-ccm-cwm", formats)
    rule = f"marked by {_count(len(ratings), 'rater')}" if ratings else "the map's peak lies in the box"
    for number, (class_name, row) in enumerate(tiles.items(), start=6):
        limit = {"all": every, "figure": full_red(row), "image": None}[scale]
        panels = [_overlay_panel(tile, limit, colours) for tile in row]
        foot = f"{_SIGNS[colours]} Hit: {rule}." if any(tile.region is not None for tile in row) else _SIGNS[colours]
        bar = partial(_bar, limit=limit, colours=colours)
        figure = _draw(f"Figure {number}. {class_name}: {source}", panels, foot, bar)
        written += _write(figure, out / f"figure-{number}-{slug(class_name)}", formats)
    return written


def _choose(run: Run, explainer: str, ratings: Sequence[Path], seed: int) -> dict[Pair, bool | None]:
    """Return pairs to explain, at most as many as a row could need of each kind, in the order of the draw."""
    table = run.images()
    hits: dict[Pair, bool | None] = {}
    if ratings:
        marks = read_ratings(ratings, run).table
        own = marks[marks["explainer"] == explainer]
        rated = own.groupby(["image", "class"], as_index=False)["hit"].mean()
        hits = {
            (str(image), str(name)): bool(share > 0.5)
            for image, name, share in zip(rated["image"], rated["class"], rated["hit"], strict=True)
        }
    elif not table.empty:
        check_explainer(run, explainer, table)
        peaks = table[(table["explainer"] == explainer) & (table["metric"] == "hit_rate")]
        if peaks.empty:
            raise UsageError(
                f"benchmark {run.benchmark.name!r} does not measure hit_rate, so hits and misses are not known: "
                "give --ratings CSV"
            )
        rows = peaks[["image", "class", "value"]].dropna().itertuples(index=False)
        hits = {(str(image), str(name)): bool(value >= 0.5) for image, name, value in rows}
    boxed = set(table["image"].astype(str))
    candidates = hits | dict.fromkeys(_unboxed(run, boxed))
    order = sorted(candidates)
    drawn = [order[index] for index in np.random.default_rng(seed).permutation(len(order))]
    kept: dict[Pair, bool | None] = {}
    for pair in drawn:
        alike = sum(other[1] == pair[1] and hit is candidates[pair] for other, hit in kept.items())
        if alike < _HITS + _MISSES:
            kept[pair] = candidates[pair]
    return kept


def _unboxed(run: Run, boxed: set[str]) -> list[Pair]:
    """Return images of classes that have no box at all."""
    table = run.predictions()
    there = {str(name) for name in run.images()["class"].unique()}
    return [
        (str(image), name)
        for name in run.benchmark.classes
        if name not in there
        for image in table["image"][table[f"label:{name}"] == 1]
        if str(image) not in boxed
    ]


def _tiles(
    opened: Reopened, explainer: str, chosen: Mapping[Pair, bool | None], progress: Progress
) -> dict[str, list[Tile]]:
    """Return the row of each class: those with boxes first, in the benchmark's order."""
    made: dict[Pair, Tile] = {}
    classes = opened.run.benchmark.classes

    def keep(_: str, target: int, sample: Sample, heat: Tensor, __: float | None) -> None:
        pair = (sample.id, classes[target])
        made[pair] = _tile(sample, target, heat, classes[target], chosen[pair])

    opened.show(chosen, [explainer], keep, progress=progress)
    collector: SheetCollector[Tile] = SheetCollector(classes, _HITS, _MISSES, plain=_HITS + _MISSES)
    for pair in chosen:  # the draw's order, not the split's
        collector.offer(classes.index(pair[1]), made[pair])
    rows = collector.tiles()
    return dict(sorted(rows.items(), key=lambda row: all(tile.hit is None for tile in row[1])))


def _contrast(opened: Reopened, tiles: Mapping[str, list[Tile]], progress: Progress) -> tuple[Tile, Tile] | None:
    """Return CCM and CWM of the first image shown, or None where the classifier has no such maps."""
    row = next(iter(tiles.values()))
    pair = (row[0].image_id, row[0].class_name)
    made: dict[str, Tile] = {}

    def keep(explainer: str, target: int, sample: Sample, heat: Tensor, _: float | None) -> None:
        made[explainer] = _tile(sample, target, heat, pair[1], row[0].hit)

    try:
        opened.show([pair], ["ccm", "cwm"], keep)
    except NotApplicableError as error:
        progress.say(f"figure 5 left out: {error}")
        return None
    return made["ccm"], made["cwm"]


def _tile(sample: Sample, target: int, heat: Tensor, class_name: str, hit: bool | None) -> Tile:
    image = np.asarray(sample.image.mean(axis=0))
    return Tile(image, heat.cpu().numpy(), sample.regions.get(target), sample.id, class_name, hit)


def _overlay_panel(tile: Tile, limit: float | None, colours: Colours) -> _Panel:
    picture = overlay(tile.image, tile.map, full_red([tile]) if limit is None else limit, colours)
    if tile.hit is None:
        return _Panel(tile, picture, tile.image_id)
    word, colour = verdict(tile)
    return _Panel(tile, picture, word, colour, tile.image_id)


def _contrast_panels(ccm: Tile, cwm: Tile) -> list[_Panel]:
    """Return the X-ray, (a) the CCM as the grey picture that it is, and (b) the coloured CWM over the X-ray."""
    grey, colour = largest_value([ccm]), full_red([cwm])
    shade = np.clip(0.5 + 0.5 * ccm.map / grey if grey > 0 else np.full(ccm.map.shape, 0.5), 0, 1)

    def grey_bar(axes: Axes) -> None:
        _bar(axes, grey)
        axes.images[0].set_data(np.linspace(1, 0, 201)[:, None, None].repeat(3, axis=2))

    return [
        _Panel(ccm, overlay(ccm.image, ccm.map, 0.0), "input"),
        _Panel(ccm, np.repeat(shade[..., None], 3, axis=2), "(a) CCM", bar=grey_bar),
        _Panel(cwm, overlay(cwm.image, cwm.map, colour), "(b) CWM over the input", bar=partial(_bar, limit=colour)),
    ]


def _bar(axes: Axes, limit: float | None, colours: Colours = "signed") -> None:
    colour_bar(axes, 1.0 if limit is None else limit, colours)
    if limit is None:
        axes.set_ylabel("share of the map's largest value", fontsize=7, family=FONT, labelpad=4)


def _draw(title: str, panels: Sequence[_Panel], foot: str, bar: Callable[[Axes], None] | None = None) -> Figure:
    """Draw a row of panels with a title, captions, bars and a line at the foot."""
    own = any(panel.bar for panel in panels)
    columns = len(panels) if own else _HITS + _MISSES  # a short row keeps the width of the others
    width = (
        2 * _MARGIN + columns * (_TILE + _GAP) - _GAP + _BAR * max(1, sum(panel.bar is not None for panel in panels))
    )
    caption = _CAPTION if any(panel.remark for panel in panels) else _CAPTION / 2
    height = _HEAD + _TILE + caption + _FOOT
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)

    def write(x: float, top: float, text: str, size: float, room: float, **style: Any) -> None:
        label = figure.text(x / width, 1 - top / height, "", fontsize=size, family=FONT, va="top", parse_math=False)
        label.set(**style)
        fit_text(label, text, room)

    def place(x: float, wide: float) -> Axes:
        return figure.add_axes((x / width, 1 - (_HEAD + _TILE) / height, wide / width, _TILE / height))

    write(_MARGIN, 0.07, title, 9, width - 2 * _MARGIN, weight="bold")
    left = _MARGIN
    for panel in panels:
        axes = place(left, _TILE)
        show_picture(axes, panel.picture)
        draw_boxes(axes, panel.tile)
        write(left, _HEAD + _TILE + 0.04, panel.caption, 8, _TILE, color=panel.colour)
        write(left, _HEAD + _TILE + 0.19, panel.remark, 6, _TILE, color="0.35")
        left += _TILE + _GAP
        if panel.bar:
            panel.bar(place(left - _GAP / 2, 0.11))
            left += _BAR
    if bar is not None:
        bar(place(width - _BAR - _MARGIN + _GAP / 2, 0.11))
    write(_MARGIN, height - _FOOT + 0.12, foot, 7, width - 2 * _MARGIN, color="0.25")
    return figure


def _write(figure: Figure, stem: Path, formats: Sequence[Format] = ("png", "pdf")) -> list[Path]:
    return save(figure, stem, formats)


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'s' * (number != 1)}"
