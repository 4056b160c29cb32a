"""The gallery: pictures and maps small enough for one file, and what a browser needs to judge a hit by itself."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from scipy.ndimage import distance_transform_edt
from torch import Tensor
from torch.nn.functional import interpolate

from xaibench.errors import UsageError, XaibenchError
from xaibench.explainers.base import upsample
from xaibench.harness.reopen import Pair, Reopened
from xaibench.metrics import _ops
from xaibench.progress import Progress
from xaibench.reports.html.data import Report, clean, number, run_names
from xaibench.statistics import Resampling, mean_intervals
from xaibench.types import FloatArray, Frame, Sample

THRESHOLDS = tuple(round(step / 40, 3) for step in range(40))
"""Shares of the map's largest value at which the page knows how much of the box is visible."""
TOLERANCES = tuple(2.5 * step for step in range(21))
"""Pixels of an image `reference_size` wide, as the pointing game has them."""
_SIDES = (16, 32, 64)
_FAITHFUL = 0.05
"""A map is kept at the smallest side from which it comes back within this share of its largest absolute value."""
_THUMB_SIDE, _THUMB_QUALITY = 256, 78
_BOXED_SHARE = 0.85
_RESAMPLES = 500


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
        self.report, self.frame = report, report.benchmark.frame
        self.source = report.benchmark.localization.regions
        self.reference = _reference_size(report)
        self.places = {pair: index for index, pair in enumerate(pairs)}
        self.columns = {(method.run, method.explainer): index for index, method in enumerate(report.methods)}
        self.thumbs: dict[str, str] = {}
        self.maps: dict[str, int] = {}
        self.boxes: dict[Pair, list[list[float]]] = {}
        self.patients: dict[Pair, str] = {}
        self.reach: dict[Pair, FloatArray] = {}
        self.masks: dict[Pair, npt.NDArray[np.bool_]] = {}
        self.cells: dict[tuple[Pair, int], list[Any]] = {}
        self.curves: dict[tuple[Pair, int], FloatArray] = {}

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
        self.patients[pair] = sample.patient
        if region is not None and pair not in self.boxes:
            height, width = region.frame.height, region.frame.width
            scale = np.array([width, height, width, height])
            self.boxes[pair] = [
                [round(float(x), 4) for x in (x0, y0, x1 - x0, y1 - y0)] for x0, y0, x1, y1 in region.boxes / scale
            ]
            mask = region.rasterize(self.frame, source=self.source)
            if mask.any():
                self.masks[pair] = mask
                self.reach[pair] = distance_transform_edt(~mask) * (self.reference / self.frame.width)
        text, largest = encode_map(heat, self.frame)
        index = self.maps.setdefault(text, len(self.maps))
        scored = upsample(heat[None], self.frame).cpu()
        peak, distance, visible = None, None, None
        if not bool(_ops.undefined(scored)[0]):
            maxima = _ops.maxima(scored)[0].numpy()
            peak = _centre(maxima)
            if pair in self.masks:
                reach = np.sort(self.reach[pair][maxima])
                distance = number(float(reach[(len(reach) - 1) // 2]), 2)  # of half of the maxima, at least
                shares = [(reach < max(limit, 1e-9)).mean() for limit in TOLERANCES]
                self.curves[pair, column] = np.array(shares, dtype=np.float64)
                visible = _pack(_ops.visible_share(scored, torch.from_numpy(self.masks[pair])[None], THRESHOLDS)[0])
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
        """Return hit rate against tolerance for each method and class and their mean, with bands and chance.

        Over the pairs shown; the band is a bootstrap of their patients.
        """
        pairs = [pair for pair in self.places if pair in self.masks]
        if not pairs:
            return []
        spec, names = (
            self.report.benchmark.statistics,
            sorted({pair[1] for pair in pairs}, key=self.report.classes.index),
        )
        patients = [self.patients[pair] for pair in pairs]
        drawn = Resampling(patients, resamples=min(spec.resamples, _RESAMPLES), seed=spec.seed)
        member = np.array([[pair[1] == name for name in names] for pair in pairs])
        limits = np.maximum(TOLERANCES, 1e-9)
        chance = np.array([[(self.reach[pair] < limit).mean() for limit in limits] for pair in pairs])
        floor = np.array([chance[member[:, k]].mean(0) for k in range(len(names))])
        found = []
        for column in range(len(self.report.methods)):
            if not any((pair, column) in self.curves for pair in pairs):
                continue
            empty = np.full(len(TOLERANCES), np.nan)
            own = np.array([self.curves.get((pair, column), empty) for pair in pairs])
            lines: list[list[list[float | None]]] = [[[], [], []] for _ in range(len(names) + 1)]
            for step in range(len(TOLERANCES)):
                table = np.where(member, own[:, step : step + 1], np.nan)
                intervals = mean_intervals(table, patients, confidence=spec.confidence, resampling=drawn)
                counts = np.isfinite(table).sum(0)
                means = np.nansum(table, axis=0) / np.where(counts, counts, np.nan)
                macro = float(np.nanmean(means)) if counts.any() else math.nan
                for line, value, interval in zip(
                    lines, [*means, macro], [*intervals.columns, intervals.macro], strict=True
                ):
                    for part, x in zip(line, (value, interval.low, interval.high), strict=True):
                        part.append(number(float(x)))
            places = [*(self.report.classes.index(name) for name in names), len(self.report.classes)]
            floors = [*floor, floor.mean(0)]
            for place, line, level in zip(places, lines, floors, strict=True):
                chances = [number(float(x)) for x in level]
                found.append(
                    {"m": column, "class": place, "y": line[0], "low": line[1], "high": line[2], "chance": chances}
                )
        return found


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


def _reference_size(report: Report) -> float:
    declared = report.metrics.get("pointing_game")
    given = next((spec.parameters for spec in report.benchmark.metrics if spec.name == "pointing_game"), {})
    defaults: Mapping[str, Any] = declared.parameters if declared else {}
    return float({"reference_size": 224, **defaults, **given}["reference_size"])


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
    shown = {report.headline(spec.name) for spec in report.benchmark.metrics}
    columns = {(method.run, method.explainer): index for index, method in enumerate(report.methods)}
    images = {image for image, _ in pairs}
    found: dict[tuple[Pair, int], dict[str, float | None]] = {}
    for index, run in enumerate(report.runs):
        table = run.images()
        table = table[table["metric"].astype(str).isin(shown) & table["image"].astype(str).isin(images)]
        rows = table[["image", "class", "explainer", "metric", "value"]].itertuples(index=False)
        for image, name, explainer, metric, value in rows:
            pair, place = (str(image), str(name)), (index, str(explainer))
            if pair in pairs and place in columns:
                found.setdefault((pair, columns[place]), {})[clean(str(metric))] = number(float(value), 3)
    return found
