"""One explainer's maps of one batch, and their scores: from the store, or made and kept there."""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from xaibench.classifiers.base import Classifier
from xaibench.classifiers.state import State
from xaibench.errors import NotApplicableError
from xaibench.explainers.base import Explainer, upsample
from xaibench.harness.kept import Pairs
from xaibench.harness.records import MapMetric, Part, side_by_side
from xaibench.harness.scorer import Scorer
from xaibench.metrics._ops import ends, forget
from xaibench.metrics.explained import Explained
from xaibench.registry import one_line

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
            with torch.no_grad():
                maps = self.explainer.explain(classifier, prediction, targets)
            wanted = (len(prediction), prediction.frame.height, prediction.frame.width)
            if tuple(maps.shape) != wanted:
                raise NotApplicableError(
                    f"returned maps of shape {tuple(maps.shape)}, not {wanted} (B, H, W): end it with "
                    "upsample(maps, prediction.frame)"
                )
        except Exception as error:  # one method's fault must not cost the others' work
            if len(self.batch.rows) > 1 and out_of_memory(error):
                raise
            raise ExplainerFailedError(one_line(error)) from error
        finally:
            left = _tidy(classifier, before)
        maps = maps.detach().float()
        low, high = ends(maps)
        undefined = int((~(low.isfinite() & high.isfinite())).sum())
        return maps, {"seconds": time.perf_counter() - began, "undefined": undefined, "left": left}


@dataclass(frozen=True)
class _Outcome:
    """What a metric came to: scores (p, columns), or what it raised; and its seconds."""

    scores: npt.NDArray[np.float64] | None
    error: Exception | None
    seconds: float


class Scores:
    """Scores of one explainer's maps of all pairs of a batch: begun, and then asked for.

    Args:
        scorer: computes the metrics that ask no network.
    """

    def __init__(self, batch: BatchWork, maps: Maps, scorer: Scorer) -> None:
        self._batch, self.maps, self._scorer = batch, maps, scorer
        found = batch.at.scores(maps.name, maps.pairs, batch.where) if batch.at else None
        self._arrays: dict[str, npt.NDArray[Any]] = dict(found.arrays) if found else {}
        self._about: dict[str, Any] = dict(found.about) if found else {}
        self._new, self._kept_at = False, time.monotonic()
        self._begun: dict[str, Future[_Outcome]] = {}
        self._done: dict[str, npt.NDArray[np.float64]] = {}

    @property
    def made(self) -> Mapping[str, Any]:
        """How the maps were made; see `Maps.made`. The scores know it too, so that the maps need not be read for it."""
        if "made" not in self._about:
            self._about["made"] = {name: self.maps.made[name] for name in ("seconds", "undefined", "left")}
            self._new = True
        return self._about["made"]  # type: ignore[no-any-return]

    @property
    def constant(self) -> npt.NDArray[np.bool_]:
        """Which maps are constant, (p,)."""
        if _CONSTANT not in self._arrays:
            low, high = ends(self._scored)
            self._arrays[_CONSTANT], self._new = (high == low).cpu().numpy(), True
        return self._arrays[_CONSTANT]

    def begin(self, part: Part) -> None:
        """Look up what is known, compute what asks the network, and leave the rest to the scorer.

        Raises:
            ExplainerFailedError: the method failed.
        """
        batch = self._batch
        lacking = [metric for metric in batch.work.metrics if not self._looked_up(metric, part)]
        if lacking or "made" not in self._about or _CONSTANT not in self._arrays:
            _ = self.maps.tensor  # made here, where the network is
        asking = [metric for metric in lacking if metric.asks_network]
        if asking:
            _ = self._scored
        for metric in (metric for metric in lacking if not metric.asks_network):
            batch.masks_if_given(metric)  # may decode images
            self._begun[metric.metric.name] = self._scorer.submit(partial(self._outcome, metric))
        if self._begun:
            self._scorer.submit(self._forget)
        for metric in asking:
            name = metric.metric.name
            done, spent = batch.work.scored.get(name, 0), batch.work.spent.get(name, 0.0)
            batch.work.running(name, done, batch.work.maps_in_all, spent)
            self._take(metric, self._outcome(metric), part)
        if asking:
            self._forget()

    def values(self, part: Part) -> npt.NDArray[np.float64]:
        """Return the scores (p, columns) of all metrics, and say in `part` their seconds and which were given up."""
        metrics = self._batch.work.metrics
        for metric in metrics:
            if begun := self._begun.pop(metric.metric.name, None):
                self._take(metric, begun.result(), part)
        _ = self.made, self.constant  # known now, kept with the scores
        self._keep()
        return side_by_side([self._done[metric.metric.name] for metric in metrics], len(self.maps.pairs))

    @cached_property
    def _scored(self) -> Tensor:
        return upsample(self.maps.tensor, self._batch.work.frame)

    def _forget(self) -> None:
        forget(self._scored)

    @cached_property
    def _explained(self) -> Explained:
        batch, maps = self._batch, self.maps
        prediction, targets = batch.selected(maps.pairs)
        classifier, task = batch.work.classifier, batch.work.task
        shelf = batch.at.shelf(maps.pairs, task) if batch.at else None
        forward = batch.work.forward
        return Explained(
            classifier, maps.explainer, prediction, targets, maps.tensor, task, batch.shared, shelf, forward
        )

    def _key(self, metric: MapMetric) -> str | None:
        return self._batch.at.metric_key(metric.metric.name) if self._batch.at else None

    def _looked_up(self, metric: MapMetric, part: Part) -> bool:
        """Tell whether a metric is known already, or given up."""
        name, key = metric.metric.name, self._key(metric)
        if key is not None and key in self._arrays:
            seconds = self._about.setdefault("metric seconds", {}).get(name, 0.0)
            self._spent(part, name, float(seconds))
            self._count(name)
            self._done[name] = self._arrays[key]
        elif self.maps.name in self._batch.given_up.get(name, {}):
            self._done[name] = metric.undefined(len(self.maps.pairs))
        return name in self._done

    def _outcome(self, metric: MapMetric) -> _Outcome:
        maps = self._scored  # before the clock of the metric runs
        began = time.perf_counter()
        try:
            explained = self._explained if metric.asks_network else None
            scores, error = metric.scores(maps, self._batch.masks_of(metric), explained), None
        except Exception as raised:  # one metric's fault must not cost the others' work
            scores, error = None, raised
        return _Outcome(scores, error, time.perf_counter() - began)

    def _take(self, metric: MapMetric, outcome: _Outcome, part: Part) -> None:
        name, key, scores = metric.metric.name, self._key(metric), outcome.scores
        if scores is None:
            assert outcome.error is not None
            if len(self._batch.rows) > 1 and out_of_memory(outcome.error):
                raise outcome.error
            part.given_up[name][self.maps.name] = one_line(outcome.error)
            scores, key = metric.undefined(len(self.maps.pairs)), None
        self._done[name] = scores
        self._spent(part, name, outcome.seconds)
        self._count(name)
        work = self._batch.work
        work.spent[name] = work.spent.get(name, 0.0) + outcome.seconds
        if key is not None:
            self._about.setdefault("metric seconds", {})[name] = outcome.seconds
            self._arrays[key], self._new = scores, True
            if time.monotonic() - self._kept_at > _KEEP_AFTER:
                self._keep()

    def _count(self, metric: str) -> None:
        scored = self._batch.work.scored
        scored[metric] = scored.get(metric, 0) + len(self.maps.pairs)

    def _keep(self) -> None:
        batch, maps = self._batch, self.maps
        if batch.at and self._new:
            batch.at.keep_scores(maps.name, maps.pairs, batch.where, self._arrays, self._about)
            self._new, self._kept_at = False, time.monotonic()

    @staticmethod
    def _spent(part: Part, metric: str, seconds: float) -> None:
        part.seconds[f"metric:{metric}"] += seconds
        part.seconds["metrics"] += seconds


def out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that a batch was too large for the memory."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


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
