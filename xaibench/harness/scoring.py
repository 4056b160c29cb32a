"""One explainer's maps of one batch, and their scores: from the store, or made and kept there."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from xaibench.classifiers.base import Classifier
from xaibench.classifiers.state import State
from xaibench.errors import PLUGIN_ERRORS, PluginError, SideEffectError
from xaibench.explainers.base import Explainer, upsample
from xaibench.explainers.calling import call, is_foreign, undone
from xaibench.harness.kept import Pairs
from xaibench.harness.records import MapMetric, Part, most_columns_first, side_by_side
from xaibench.memory import out_of_memory
from xaibench.metrics._ops import ends, forget
from xaibench.metrics._randomized import forget_randomized
from xaibench.metrics.explained import Explained
from xaibench.registry import one_line
from xaibench.types import Prediction

if TYPE_CHECKING:
    from xaibench.harness.batch import BatchWork, Seen

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

    @cached_property
    def _found(self) -> tuple[Tensor, Mapping[str, Any]]:
        at = self.batch.at
        found = at.maps(self.name, self.pairs) if at else None
        self.batch.work.maps_found = found is not None
        if found:
            return torch.from_numpy(found.arrays["maps"]).to(self.batch.work.classifier.device), found.about
        maps, made = self._explain()
        if at:
            at.keep_maps(self.name, self.pairs, maps.cpu().numpy(), made)
        return maps, made

    def _explain(self) -> tuple[Tensor, dict[str, Any]]:
        classifier = self.batch.work.classifier
        prediction, targets = self.batch.selected(self.pairs)
        began, before = time.perf_counter(), self.batch.work.state
        try:
            maps = call(self.explainer, classifier, prediction, targets)
        except PLUGIN_ERRORS as error:  # one method's fault must not cost the others' work
            if len(self.batch.rows) > 1 and out_of_memory(error):
                raise
            raise ExplainerFailedError(_reason(error, prediction)) from error
        finally:
            left = _tidy(classifier, before)
        low, high = ends(maps)
        # what a network's own NaN has made of a map is no fault of the explainer
        undefined = int(
            (~(low.isfinite() & high.isfinite()) & prediction.logits.isfinite().all(1).to(low.device)).sum()
        )
        return maps, {"seconds": time.perf_counter() - began, "undefined": undefined, "left": left}


class Scores:
    """Scores of one explainer's maps of all pairs of a batch."""

    def __init__(self, batch: BatchWork, maps: Maps) -> None:
        self._batch, self._maps = batch, maps
        found = batch.at.scores(maps.name, maps.pairs, batch.where) if batch.at else None
        self._arrays: dict[str, npt.NDArray[Any]] = dict(found.arrays) if found else {}
        self._about: dict[str, Any] = dict(found.about) if found else {}
        self._new, self._kept_at = False, time.monotonic()

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
        return upsample(self._maps.tensor, self._batch.work.frame)

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
        key = batch.at.metric_key(name) if batch.at else None
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
        masks, explained = self._batch.masks_of(metric), self._explained if metric.asks_network else None
        if not is_foreign(metric.metric.compute):
            return metric.scores(maps, masks, explained)
        try:
            with undone(self._batch.work.classifier):
                return metric.scores(maps.clone(), masks.clone(), explained)
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


def _tidy(classifier: Classifier, before: Seen) -> str | None:
    """Take away what an explainer left on the classifier, and return the first of it."""
    if State.glance(classifier) == before.glance:
        return None
    now = State.of(classifier)
    left = [f"left a hook on {where or 'the classifier'}" for where in before.state.hooks_left(now)]
    left += [f"afterwards {change}" for change in before.state.changes(now)]
    if not left:
        return None
    before.state.restore(classifier)
    return left[0]
