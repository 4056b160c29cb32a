"""One explainer's maps of one batch, and their scores: from the store, or made and kept there."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from xaibench.errors import PLUGIN_ERRORS, PluginError, SideEffectError
from xaibench.evaluation.cache import Pairs
from xaibench.evaluation.frames import together
from xaibench.evaluation.records import Part, most_columns_first, side_by_side
from xaibench.explainers.base import Explainer, upsample
from xaibench.explainers.calling import call, call_native, has_native, is_foreign, undone
from xaibench.io.memory import out_of_memory
from xaibench.metrics._ops import ends, forget
from xaibench.metrics._pixels import Row, pixel_rows
from xaibench.metrics._randomized import forget_randomized
from xaibench.metrics.bound import MapMetric
from xaibench.metrics.explained import Explained
from xaibench.registry import one_line
from xaibench.types import Frame, Prediction

if TYPE_CHECKING:
    from xaibench.evaluation.batch import BatchWork

_KEEP_AFTER = 2.0
"""Seconds of scoring after which scores are kept, so that a killed run has no more than about that to do again."""
_CONSTANT = "constant"


class ExplainerFailedError(Exception):
    """An explainer that is given up, and why."""


class Maps:
    """An explainer's maps of pairs of a batch, looked up or made when they are asked for."""

    def __init__(self, batch: BatchWork, name: str, explainer: Explainer, pairs: Pairs) -> None:
        self.batch, self.name, self.explainer, self.pairs = batch, name, explainer, pairs

    @property
    def tensor(self) -> Tensor:
        """The maps, (p, H, W) float32 in the input's frame, on the classifier's device.

        Raises:
            ExplainerFailedError: the method failed.
        """
        return self._found[0]

    @property
    def made(self) -> Mapping[str, Any]:
        """How they were made: ``seconds``, ``undefined`` (how many are not finite), ``left`` (on the classifier)."""
        return self._found[1]

    def in_frame(self, frame: Frame, places: Sequence[int] | None = None) -> Tensor:
        """Return the maps of all or some pairs in a frame, (n, H, W): from their own resolution, in one step.

        Raises:
            ExplainerFailedError: the method failed.
        """
        maps, _, native = self._found
        if native is None:
            return upsample(maps if places is None else maps[list(places)], frame)
        found = [upsample(native[place][None], frame) for place in places or range(len(maps))]
        return torch.cat(found).to(maps.device) if found else maps.new_zeros(0, frame.height, frame.width)

    @cached_property
    def _found(self) -> tuple[Tensor, Mapping[str, Any], Tensor | Sequence[Tensor] | None]:
        """The maps in the input's frame, how they were made and, for scores in another frame, at their own size."""
        at, device = self.batch.at, self.batch.work.classifier.device
        found = at.maps(self.name, self.pairs) if at else None
        elsewhere = self.batch.work.frame != self.batch.work.split.frame
        if found and elsewhere and has_native(self.explainer) and "native" not in found.arrays:
            found = None  # kept by a run whose scores are in the input's frame
        self.batch.work.maps_found = found is not None
        if found:
            native = found.arrays.get("native")
            maps = torch.from_numpy(found.arrays["maps"]).to(device)
            return maps, found.about, None if native is None else torch.from_numpy(native).to(device)
        maps, made, own = self._explain(elsewhere)
        if at:
            small = isinstance(own, Tensor) and own.numel() <= maps.numel()
            at.keep_maps(self.name, self.pairs, maps.cpu().numpy(), made, own.cpu().numpy() if small else None)  # type: ignore[union-attr]
        return maps, made, own

    def _explain(self, elsewhere: bool) -> tuple[Tensor, dict[str, Any], Tensor | Sequence[Tensor] | None]:
        classifier = self.batch.work.classifier
        prediction, targets = self.batch.selected(self.pairs)
        began, before = time.perf_counter(), self.batch.work.state
        native: Tensor | Sequence[Tensor] | None = None
        try:
            if elsewhere:
                native = call_native(self.explainer, classifier, prediction, targets)
            if native is None:
                maps = call(self.explainer, classifier, prediction, targets)
            else:
                maps = torch.cat([upsample(one[None], prediction.frame) for one in native]).to(classifier.device)
        except PLUGIN_ERRORS as error:  # one method's fault must not cost the others' work
            if len(self.batch.rows) > 1 and out_of_memory(error):
                raise
            raise ExplainerFailedError(_reason(error, prediction)) from error
        finally:
            left = before.tidy(classifier)
        low, high = ends(maps)
        # what a network's own NaN has made of a map is no fault of the explainer
        undefined = int(
            (~(low.isfinite() & high.isfinite()) & prediction.logits.isfinite().all(1).to(low.device)).sum()
        )
        made = {"seconds": time.perf_counter() - began, "undefined": undefined, "left": left}
        return maps, made, native


class Scores:
    """Scores of one explainer's maps of all pairs of a batch."""

    def __init__(self, batch: BatchWork, maps: Maps) -> None:
        self._batch, self._maps = batch, maps
        found = batch.at.scores(maps.name, maps.pairs, batch.where) if batch.at else None
        self._arrays: dict[str, npt.NDArray[Any]] = dict(found.arrays) if found else {}
        self._about: dict[str, Any] = dict(found.about) if found else {}
        self._new, self._kept_at = False, time.monotonic()
        self._held: tuple[Any, Tensor | None] = (None, None)

    @property
    def made(self) -> Mapping[str, Any]:
        """How the maps were made; see `Maps.made`. The scores know it too, so that the maps need not be read for it."""
        if "made" not in self._about:
            self._about["made"] = {name: self._maps.made[name] for name in ("seconds", "undefined", "left")}
            self._new = True
        return self._about["made"]  # type: ignore[no-any-return]

    @property
    def constant(self) -> npt.NDArray[np.bool_]:
        """Which maps are constant, (p,)."""
        if _CONSTANT not in self._arrays:
            low, high = ends(self._scored)
            self._arrays[_CONSTANT], self._new = (high == low).cpu().numpy(), True
        return self._arrays[_CONSTANT]

    def values(self, part: Part) -> npt.NDArray[np.float64]:
        """Return the scores (p, columns) of all metrics, and say in `part` how long they took and which were given up.

        Raises:
            ExplainerFailedError: the method failed.
        """
        metrics, blocks = self._batch.work.metrics, {}
        try:
            for place in most_columns_first(metrics):
                blocks[place] = self._metric(metrics[place], part)
        finally:
            if "_scored" in self.__dict__:
                forget(self._scored)
        _ = self.made, self.constant  # known now, kept with the scores
        self._keep()
        return side_by_side([blocks[place] for place in range(len(metrics))], len(self._maps.pairs))

    @cached_property
    def _scored(self) -> Tensor:
        """The maps in the frame that all pairs share; in the input's, where each has its own."""
        frame = self._batch.work.frame
        return self._maps.in_frame(frame) if frame else self._maps.tensor

    @cached_property
    def _explained(self) -> Explained:
        batch, maps = self._batch, self._maps
        prediction, targets = batch.selected(maps.pairs)
        classifier, task = batch.work.classifier, batch.work.task
        shelf = batch.at.shelf(maps.pairs, task) if batch.at else None
        forward = batch.work.forward
        return Explained(
            classifier, maps.explainer, prediction, targets, maps.tensor, task, batch.shared, shelf, forward
        )

    def _metric(self, metric: MapMetric, part: Part) -> npt.NDArray[np.float64]:
        batch, explainer, name = self._batch, self._maps.name, metric.metric.name
        rows = len(self._maps.pairs)
        key = batch.at.metric_key(name) if batch.at and not metric.keeps_pixels else None
        seconds = self._about.setdefault("metric seconds", {})
        if key is not None and key in self._arrays:
            self._spent(part, name, float(seconds.get(name, 0.0)))
            batch.work.scored[name] = batch.work.scored.get(name, 0) + rows
            return self._arrays[key]
        if explainer in batch.given_up.get(name, {}):
            return metric.undefined(rows)
        maps = self._scored  # before the clock of the metric runs
        if metric.asks_network:
            done, spent = batch.work.scored.get(name, 0), batch.work.spent.get(name, 0.0)
            batch.work.running(name, done, batch.work.maps_in_all, spent)
        began = time.perf_counter()
        try:
            scores = self._computed(metric, maps)
            if metric.keeps_pixels:
                part.pixels.setdefault(name, {})[explainer] = self._pixels(metric)
        except SideEffectError as error:
            forget_randomized(batch.work.classifier)  # which share its tensors
            if batch.at:
                batch.at.drop(explainer, self._maps.pairs, batch.where)
            raise ExplainerFailedError(one_line(error)) from error
        except PLUGIN_ERRORS as error:  # one metric's fault must not cost the others' work
            if len(batch.rows) > 1 and out_of_memory(error):
                raise
            part.given_up[name][explainer] = one_line(error)
            scores, key = metric.undefined(rows), None
        spent = time.perf_counter() - began
        self._spent(part, name, spent)
        batch.work.scored[name] = batch.work.scored.get(name, 0) + rows
        batch.work.spent[name] = batch.work.spent.get(name, 0.0) + spent
        if key is not None:
            self._arrays[key], seconds[name], self._new = scores, spent, True
            if time.monotonic() - self._kept_at > _KEEP_AFTER:
                self._keep()
        return scores

    def _computed(self, metric: MapMetric, maps: Tensor) -> npt.NDArray[np.float64]:
        """Score the maps; a metric of another package gets copies, and what it changes is put back.

        Raises:
            SideEffectError: the explainer changed something when the metric called it.
            PluginError: the metric did.
        """
        if metric.asks_network:
            return self._guarded(metric, maps, maps, self._explained)
        if self._batch.work.frame:
            ignored = self._batch.ignored_by(metric, self._batch.work.frame, range(len(maps)))
            return self._guarded(metric, maps, self._batch.masks_of(metric), ignore=ignored)
        found = metric.undefined(len(maps))
        for frame, places in together([region.frame for _, region in self._batch.own_regions]):
            masks = self._batch.masks_in(metric, frame, places)
            ignored = self._batch.ignored_by(metric, frame, places)
            found[places] = self._guarded(metric, self._in_frame(frame, places), masks, ignore=ignored)
        return found

    def _pixels(self, metric: MapMetric) -> list[Row]:
        """Return the pixels of each pair's map, in and outside its region."""
        batch, found = self._batch, dict[int, Row]()
        if frame := batch.work.frame:
            ignored = batch.ignored(frame, range(len(self._maps.pairs)))
            return pixel_rows(self._scored, batch.masks_of(metric), ignored)
        for frame, places in together([region.frame for _, region in batch.own_regions]):
            masks, ignored = batch.masks_in(metric, frame, places), batch.ignored(frame, places)
            found |= dict(zip(places, pixel_rows(self._in_frame(frame, places), masks, ignored), strict=True))
        return [found[place] for place in range(len(found))]

    def _in_frame(self, frame: Frame, places: Sequence[int]) -> Tensor:
        """Return maps in a frame; the last ones are held, as all metrics of pairs of one size ask for the same."""
        key = (frame, tuple(places))
        if self._held[0] != key:
            if isinstance(self._held[1], Tensor):
                forget(self._held[1])
            self._held = (key, self._maps.in_frame(frame, places))
        return self._held[1]  # type: ignore[return-value]

    def _guarded(
        self,
        metric: MapMetric,
        maps: Tensor,
        masks: Tensor,
        explained: Explained | None = None,
        ignore: Tensor | None = None,
    ) -> npt.NDArray[np.float64]:
        if not is_foreign(metric.metric.compute):
            return metric.scores(maps, masks, explained, ignore)
        try:
            with undone(self._batch.work.classifier):
                left_out = None if ignore is None else ignore.clone()
                return metric.scores(maps.clone(), masks.clone(), explained, left_out)
        except SideEffectError as error:
            raise PluginError(str(error)) from error

    def _keep(self) -> None:
        batch, maps = self._batch, self._maps
        if batch.at and self._new:
            batch.at.keep_scores(maps.name, maps.pairs, batch.where, self._arrays, self._about)
            self._new, self._kept_at = False, time.monotonic()

    @staticmethod
    def _spent(part: Part, metric: str, seconds: float) -> None:
        part.seconds[f"metric:{metric}"] += seconds
        part.seconds["metrics"] += seconds


def _reason(error: BaseException, prediction: Prediction) -> str:
    lost = int((~prediction.logits.isfinite().all(1)).sum())
    network = f" (the network's logits are NaN or infinite on {lost} of its images)" if lost else ""
    return one_line(error) + network
