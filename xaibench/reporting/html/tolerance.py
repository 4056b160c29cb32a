"""The pointing game's hit rate against its tolerance, which a run does not keep: gathered from maps made again."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from xaibench.evaluation.restore import Pair, Reopened
from xaibench.explainers.base import upsample
from xaibench.metrics import _ops
from xaibench.progress import Progress
from xaibench.reporting.html.data import Report, number
from xaibench.statistics import Resampling, mean_intervals
from xaibench.types import FloatArray, Region, Sample

TOLERANCES = tuple(2.5 * step for step in range(21))
"""Pixels of an image `reference_size` wide, as the pointing game has them."""
_LIMITS = np.maximum(TOLERANCES, 1e-9)  # at 0 the peak in the region itself
_RESAMPLES = 500
"""Enough for a band that is drawn a pixel or two wide."""
_KEPT = 128
"""Pairs whose mask is kept: more than a batch has, so that a batch's explainers share it."""


class Tolerances:
    """Takes where the maps of boxed pairs peak, one after the other, and makes curves of them."""

    def __init__(self, report: Report) -> None:
        self.report, self.frame = report, report.benchmark.shown_frame
        self.reference = reference_size(report)
        self._regions: dict[Pair, Region] = {}
        self._patients: dict[Pair, str] = {}
        self._chance: dict[Pair, FloatArray] = {}
        self._shares: dict[tuple[Pair, int], FloatArray] = {}
        self._fresh: dict[Pair, tuple[npt.NDArray[np.bool_], FloatArray]] = {}

    def place(self, pair: Pair, sample: Sample, target: int) -> npt.NDArray[np.bool_] | None:
        """Take note of a pair, and return its region's mask (H, W) in the report's frame; None without one."""
        region = sample.regions.get(target)
        if region is None:
            return None
        self._regions[pair] = region
        mask, reach = self._geometry(pair)
        if not mask.any():
            return None
        self._patients[pair] = sample.patient
        if pair not in self._chance:
            # pixels nearer than each tolerance, counted by one pass
            nearer = np.searchsorted(np.sort(reach, axis=None), _LIMITS, side="left")
            self._chance[pair] = nearer / reach.size
        return mask

    def take(self, pair: Pair, column: int, maxima: npt.NDArray[np.bool_]) -> float:
        """Take the maxima (H, W) of a method's map of a placed pair, and return the tolerance that makes it a hit.

        In pixels of the reference; 0: a maximum lies in the region. A map with several maxima is a hit if half are.
        """
        near = np.sort(self._geometry(pair)[1][maxima])
        self._shares[pair, column] = np.searchsorted(near, _LIMITS, side="left") / len(near)
        return float(near[(len(near) - 1) // 2])

    def _geometry(self, pair: Pair) -> tuple[npt.NDArray[np.bool_], FloatArray]:
        found = self._fresh.get(pair)
        if found is None:
            mask = self._regions[pair].rasterize(self.frame, source=self.report.benchmark.localization.regions)
            reach = distance_transform_edt(~mask) * (self.reference / self.frame.width)
            found = self._fresh[pair] = (mask, reach)
            if len(self._fresh) > _KEPT:
                self._fresh.pop(next(iter(self._fresh)))
        return found

    def curves(self) -> list[dict[str, Any]]:
        """Return hit rate against tolerance for each method and class and their mean, with bands and chance.

        Over the pairs taken; the band is a bootstrap of their patients.
        """
        pairs = sorted(self._chance)
        if not pairs:
            return []
        spec, classes = self.report.benchmark.statistics, self.report.classes
        names = sorted({pair[1] for pair in pairs}, key=classes.index)
        patients = [self._patients[pair] for pair in pairs]
        drawn = Resampling(patients, resamples=min(spec.resamples, _RESAMPLES), seed=spec.seed)
        member = np.array([[pair[1] == name for name in names] for pair in pairs])
        chance = np.array([self._chance[pair] for pair in pairs])
        floor = np.array([chance[member[:, k]].mean(0) for k in range(len(names))])
        found = []
        for column in range(len(self.report.methods)):
            if not any((pair, column) in self._shares for pair in pairs):
                continue
            empty = np.full(len(TOLERANCES), np.nan)
            own = np.array([self._shares.get((pair, column), empty) for pair in pairs])
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
            places = [*(classes.index(name) for name in names), len(classes)]
            for place, line, level in zip(places, lines, [*floor, floor.mean(0)], strict=True):
                chances = [number(float(x)) for x in level]
                found.append(
                    {"m": column, "class": place, "y": line[0], "low": line[1], "high": line[2], "chance": chances}
                )
        return found


def tolerance_curves(
    report: Report, opened: Mapping[int, Reopened], pairs: Collection[Pair], progress: Progress | None = None
) -> list[dict[str, Any]]:
    """Make the maps of pairs again, and return the curves of them; `opened` is by the run's index.

    Raises:
        XaibenchError: an explainer failed.
    """
    gathered = Tolerances(report)
    for run, again in opened.items():
        columns = {m.explainer: k for k, m in enumerate(report.methods) if m.run == run}

        def keep(
            explainer: str, target: int, sample: Sample, heat: Tensor, _: float | None, columns: Any = columns
        ) -> None:
            pair = (sample.id, report.classes[target])
            scored = upsample(heat[None], report.benchmark.shown_frame).cpu()
            if gathered.place(pair, sample, target) is not None and not bool(_ops.undefined(scored)[0]):
                gathered.take(pair, columns[explainer], _ops.maxima(scored)[0].numpy())

        again.show(pairs, list(columns), keep, progress=progress)
    return gathered.curves()


def reference_size(report: Report) -> float:
    """Return the width in pixels to which the pointing game's tolerance belongs."""
    declared = report.metrics.get("pointing_game")
    given = next((spec.parameters for spec in report.benchmark.metrics if spec.name == "pointing_game"), {})
    defaults: Mapping[str, Any] = declared.parameters if declared else {}
    return float({"reference_size": 224, **defaults, **given}["reference_size"])
