"""The gallery: pictures and maps small enough for one file, and what a browser needs to judge a hit by itself."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from xaibench.errors import UsageError, XaibenchError
from xaibench.evaluation.restore import Pair, Reopened
from xaibench.explainers.base import upsample
from xaibench.metrics import _ops
from xaibench.progress import Progress
from xaibench.reporting.html.data import Report, clean, number, run_names
from xaibench.reporting.html.tolerance import Tolerances
from xaibench.types import FloatArray, Frame, Sample

THRESHOLDS = tuple(round(step / 40, 3) for step in range(40))
"""Shares of the map's largest value at which the page knows how much of the box is visible."""
_SIDES = (16, 32, 64)
_FAITHFUL = 0.05
"""A map is kept at the smallest side from which it comes back within this share of its largest absolute value."""
_THUMB_SIDE, _THUMB_QUALITY = 256, 78
_BOXED_SHARE = 0.85


def choose_pairs(report: Report, images: int, seed: int = 0) -> list[Pair]:
    """Draw at most so many test images, and return their pairs in the order of the images' names.

    Images with a box fill 85% of the places, those without the rest; either kind fills the other's empty places.
    """
    run = report.runs[0]
    try:
        boxed_table, labels = run.images(), run.predictions()
    except XaibenchError as error:
        raise UsageError(f"{error}. Without a gallery: --images 0") from error
    boxed: dict[str, list[Pair]] = {}
    for image, name in boxed_table[["image", "class"]].drop_duplicates().itertuples(index=False):
        boxed.setdefault(str(image), []).append((str(image), str(name)))
    plain: dict[str, list[Pair]] = {}
    for name in report.classes:
        for image in labels["image"][labels[f"label:{name}"] == 1].astype(str):
            if image not in boxed:
                plain.setdefault(image, []).append((image, name))
    rng = np.random.default_rng(seed)
    drawn = [[names[i] for i in rng.permutation(len(names))] for names in (sorted(boxed), sorted(plain))]
    with_box = max(math.ceil(_BOXED_SHARE * images), images - len(plain))
    chosen = drawn[0][:with_box]
    chosen += drawn[1][: images - len(chosen)]
    return [pair for image in sorted(chosen) for pair in (boxed.get(image) or plain[image])]


class Gallery:
    """Takes the maps of pairs, one after the other, and keeps what the page shows of them."""

    def __init__(self, report: Report, pairs: Sequence[Pair]) -> None:
        self.report, self.frame = report, report.benchmark.shown_frame
        self.tolerances = Tolerances(report)
        self.reference = self.tolerances.reference
        self.places = {pair: index for index, pair in enumerate(pairs)}
        self.columns = {(method.run, method.explainer): index for index, method in enumerate(report.methods)}
        self.thumbs: dict[str, str] = {}
        self.maps: dict[str, int] = {}
        self.boxes: dict[Pair, list[list[float]]] = {}
        self.cells: dict[tuple[Pair, int], list[Any]] = {}

    def fill(self, run: int, opened: Reopened, progress: Progress | None = None) -> None:
        """Make the maps of one run again.

        Raises:
            XaibenchError: an explainer failed.
        """
        names = [method.explainer for method in self.report.methods if method.run == run]

        def keep(explainer: str, target: int, sample: Sample, heat: Tensor, _: float | None) -> None:
            self._keep(self.columns[run, explainer], sample, target, heat)

        opened.show(set(self.places), names, keep, progress=progress)

    def _keep(self, column: int, sample: Sample, target: int, heat: Tensor) -> None:
        pair = (sample.id, self.report.classes[target])
        if sample.id not in self.thumbs:
            self.thumbs[sample.id] = encode_picture(np.asarray(sample.image.mean(axis=0)))
        region = sample.regions.get(target)
        if region is not None and pair not in self.boxes:
            height, width = region.frame.height, region.frame.width
            scale = np.array([width, height, width, height])
            self.boxes[pair] = [
                [round(float(x), 4) for x in (x0, y0, x1 - x0, y1 - y0)] for x0, y0, x1, y1 in region.boxes / scale
            ]
        text, largest = encode_map(heat, self.frame)
        index = self.maps.setdefault(text, len(self.maps))
        mask = self.tolerances.place(pair, sample, target)
        scored = upsample(heat[None], self.frame).cpu()
        peak, distance, visible = None, None, None
        if not bool(_ops.undefined(scored)[0]):
            maxima = _ops.maxima(scored)[0].numpy()
            peak = _centre(maxima)
            if mask is not None:
                distance = number(self.tolerances.take(pair, column, maxima), 2)
                visible = _pack(_ops.visible_share(scored, torch.from_numpy(mask)[None], THRESHOLDS)[0])
        top = float(torch.nan_to_num(scored, posinf=0.0, neginf=0.0).max())
        share = number(max(top, 0.0) / largest if largest else 0.0)  # of the largest absolute value: full red
        self.cells[pair, column] = [index, float(f"{largest:.4g}"), share, distance, peak, visible]

    def page(self) -> dict[str, Any]:
        """Return what the page embeds: thumbnails and maps once each, and items that point at them."""
        probabilities = [_probabilities(self.report, index) for index in range(len(self.report.runs))]
        thumbs = {image: place for place, image in enumerate(self.thumbs)}
        values = _values(self.report, set(self.places))
        columns = range(len(self.report.methods))
        items = []
        for pair in self.places:
            if pair[0] not in thumbs:
                continue
            cells = [self.cells.get((pair, column)) for column in columns]
            items.append(
                {
                    "id": clean(pair[0]),
                    "class": self.report.classes.index(pair[1]),
                    "thumb": thumbs[pair[0]],
                    "boxes": self.boxes.get(pair, []),
                    "p": [number(known.get(pair), 3) for known in probabilities],
                    "cells": [cell and [*cell, values.get((pair, k), {})] for k, cell in enumerate(cells)],
                }
            )
        return {
            "items": items,
            "thumbs": list(self.thumbs.values()),
            "maps": list(self.maps),
            "thresholds": THRESHOLDS,
            "reference": self.reference,
            "runs": run_names(self.report.runs),
        }

    def tolerance_curves(self) -> list[dict[str, Any]]:
        """Return hit rate against tolerance over the pairs shown; see `Tolerances.curves`."""
        return self.tolerances.curves()


def encode_picture(image: FloatArray) -> str:
    """Return a grey image in [0, 1] as WebP of at most 256 px, in base64."""
    levels = np.round(255 * np.clip(np.nan_to_num(image), 0, 1)).astype(np.uint8)
    picture = Image.fromarray(levels)
    picture.thumbnail((_THUMB_SIDE, _THUMB_SIDE), Image.Resampling.LANCZOS)
    return _encode(picture, "WEBP", quality=_THUMB_QUALITY, method=4)


def encode_map(heat: Tensor, frame: Frame) -> tuple[str, float]:
    """Return a signed map as a small grey PNG in base64, and the largest absolute value.

    Grey 128 is 0, 255 and 1 are plus and minus the largest absolute value. The side is 16, 32 or 64 px: the smallest
    that keeps the map, by bilinear interpolation, within 5%.
    """
    values = torch.nan_to_num(heat.detach().float().cpu(), posinf=0.0, neginf=0.0)[None, None]
    largest = float(values.abs().max())
    if largest == 0:
        return _encode(Image.new("L", (1, 1), 128), "PNG"), 0.0
    values = values / largest
    small = values
    for side in _SIDES:
        small = interpolate(values, (side, side), mode="area")
        if float((upsample(small[0], Frame(*values.shape[-2:])) - values[0]).abs().max()) < _FAITHFUL:
            break
    levels = (128 + 127 * small[0, 0]).round().to(torch.uint8).numpy()
    return _encode(Image.fromarray(levels), "PNG", optimize=True), largest


def _encode(picture: Image.Image, form: str, **options: Any) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return base64.b64encode(buffer.getvalue()).decode()


def _pack(shares: Tensor) -> str:
    """Return shares in [0, 1] as little-endian 16-bit numbers of 1/65535, in base64."""
    return base64.b64encode((shares * 65535).round().numpy().astype("<u2").tobytes()).decode()


def _centre(maxima: npt.NDArray[np.bool_]) -> list[float] | None:
    """Return the only maximum's place as shares of width and height; None where there are several."""
    rows, columns = np.nonzero(maxima)
    if len(rows) != 1:
        return None
    return [round(float(columns[0] + 0.5) / maxima.shape[1], 4), round(float(rows[0] + 0.5) / maxima.shape[0], 4)]


def _probabilities(report: Report, run: int) -> dict[Pair, float]:
    """Return the probability that a run's classifier gave each image's class; empty without logits."""
    table = report.runs[run].predictions()
    columns = [f"logit:{name}" for name in report.classes]
    if not set(columns) <= set(table):
        return {}
    logits = torch.from_numpy(table[columns].to_numpy(dtype=np.float64, copy=True))
    shares = (torch.sigmoid(logits) if report.benchmark.task == "multilabel" else logits.softmax(1)).numpy()
    return {
        (str(image), name): float(share)
        for image, row in zip(table["image"], shares, strict=True)
        for name, share in zip(report.classes, row, strict=True)
    }


def _values(report: Report, pairs: set[Pair]) -> dict[tuple[Pair, int], dict[str, float | None]]:
    """Return the run's own scores of each pair and method, of metrics in the short table."""
    columns = {(method.run, method.explainer): index for index, method in enumerate(report.methods)}
    images = {image for image, _ in pairs}
    found: dict[tuple[Pair, int], dict[str, float | None]] = {}
    for index, run in enumerate(report.runs):
        table = run.images()
        table = table[table["metric"].astype(str).isin(report.shown) & table["image"].astype(str).isin(images)]
        rows = table[["image", "class", "explainer", "metric", "value"]].itertuples(index=False)
        for image, name, explainer, metric, value in rows:
            pair, place = (str(image), str(name)), (index, str(explainer))
            if pair in pairs and place in columns:
                found.setdefault((pair, columns[place]), {})[clean(str(metric))] = number(float(value), 3)
    return found
