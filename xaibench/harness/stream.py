"""The stream: image, one forward pass, maps of every explainer, scores. Memory holds two batches and the numbers."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from xaibench.classifiers.base import Classifier
from xaibench.classifiers.state import State
from xaibench.datasets.base import Split
from xaibench.datasets.loader import batches
from xaibench.errors import NotApplicableError
from xaibench.explainers.base import Explainer, upsample
from xaibench.metrics.base import ASKS_NETWORK, Metric
from xaibench.metrics.explained import Explained
from xaibench.registry import one_line
from xaibench.types import Batch, Frame, Prediction

Sheet = Callable[[str, int, Any, Tensor, float | None], None]
"""Called with explainer, class index, sample, map (H, W) in the input's frame, and hit in [0, 1] or None."""
Running = Callable[[str, int, int, float], None]
"""Called with the name of a metric that asks the network, maps scored so far, maps in all, and its seconds so far."""


@dataclass(frozen=True)
class MapMetric:
    """A metric of maps with a benchmark's parameters."""

    metric: Metric
    parameters: Mapping[str, Any]

    @property
    def asks_network(self) -> bool:
        return self.metric.category in ASKS_NETWORK

    @property
    def chooses(self) -> bool:
        """Does it choose a threshold of the map, for a whole class?"""
        return self.metric.pool is not None and self.metric.pool.thresholds is not None

    def names(self) -> list[str]:
        """Return the names of its columns: one, one for each point of a curve, or ``NAME#0``, ... to be pooled."""
        if (pool := self.metric.pool) is not None:
            columns = pool.columns(**{**self.metric.parameters, **self.parameters})
            return [f"{self.metric.name}#{column}" for column in range(columns)]
        if self.metric.curve is None:
            return [self.metric.name]
        points = {**self.metric.parameters, **self.parameters}[self.metric.curve]
        return [f"{self.metric.name}@{point:.2f}" for point in points]

    def scores(self, maps: Tensor, masks: Tensor, explained: Explained) -> npt.NDArray[np.float64]:
        """Return (B, columns), of maps and masks in the benchmark's frame, or of what the network is asked about."""
        given = (explained,) if self.asks_network else (maps, masks)
        return self._columns(self.metric(*given, **self.parameters), len(maps))

    def chance(self, masks: Tensor) -> npt.NDArray[np.float64]:
        """Return (B, columns); NaN where the metric declares none."""
        chance = self.metric.chance
        if callable(chance):
            return self._columns(chance(masks, **{**self.metric.parameters, **self.parameters}), len(masks))
        level = np.nan if chance is None else chance
        return np.full((len(masks), len(self.names())), level, dtype=np.float64)

    def _columns(self, scores: Tensor, rows: int) -> npt.NDArray[np.float64]:
        wanted = (rows, len(self.names()))
        if scores.ndim not in (1, 2) or scores.reshape(len(scores), -1).shape != wanted:
            raise NotApplicableError(f"returned scores of shape {tuple(scores.shape)}, not {wanted}")
        return scores.detach().double().cpu().numpy().reshape(wanted)


@dataclass
class Records:
    """What the stream leaves: numbers only.

    Attributes:
        logits: (N, K).
        pair_images: index of each (image, class) pair's image, (P,).
        pair_targets: its class index, (P,).
        columns: names of the columns of metrics of maps, M of them.
        values: explainer to its (P, M) scores, NaN where undefined.
        chance: (P, M).
        constant: explainer to (P,) bool, its map is constant.
        failed: explainer to the reason why it was given up.
        given_up: metric to explainer to the reason why its columns are NaN there.
        seconds: "forward", each explainer's time, "metric:NAME" each metric's, and "metrics" for all of them.
        faults: explainer to what it did wrong without being given up, each with the remedy.
    """

    logits: npt.NDArray[np.float64]
    pair_images: npt.NDArray[np.int64]
    pair_targets: npt.NDArray[np.int64]
    columns: list[str]
    values: dict[str, npt.NDArray[np.float64]]
    chance: npt.NDArray[np.float64]
    constant: dict[str, npt.NDArray[np.bool_]]
    failed: dict[str, str] = field(default_factory=dict)
    given_up: dict[str, dict[str, str]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    faults: dict[str, list[str]] = field(default_factory=dict)


def stream(
    classifier: Classifier,
    explainers: Mapping[str, Explainer],
    split: Split,
    metrics: Sequence[MapMetric],
    *,
    frame: Frame,
    regions: str = "boxes",
    task: str = "multiclass",
    batch_size: int = 32,
    sheet: Sheet | None = None,
    advance: Callable[[int], None] = lambda _: None,
    running: Running = lambda *_: None,
) -> Records:
    """Run a split through a classifier and its explainers, and score every map of a class with a region.

    An explainer that fails is given up and named in `Records.failed`; a metric that fails on an explainer's maps is
    given up there and named in `Records.given_up`. The others go on. What an explainer hangs on the classifier is taken
    away again, so that the others see the classifier as it was.

    Args:
        frame: where localization is measured; metrics that ask the network get the maps in the input's frame.
        regions: "boxes" or "mask".
        task: "multiclass" or "multilabel", for the probability of a class.
        sheet: is shown every map that is scored, and maps of the own class of images without regions.
        advance: is told how many images are done.
        running: is told which metric asks the network now.
    """
    state = _State(metrics, list(explainers), running)
    if any(metric.asks_network for metric in metrics):
        state.pairs_in_all = sum(len(split.regions(row)) for row in range(len(split)))
    for batch in batches(split, batch_size, ahead=classifier.device.type != "cpu"):
        began = time.perf_counter()
        images = batch.images.to(classifier.device).contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            prediction = classifier.predict(images, batch.ids)
        state.logits.append(prediction.logits.double().cpu().numpy())
        state.seconds["forward"] += time.perf_counter() - began
        pairs = [(row, target) for row, sample in enumerate(batch.samples) for target in sorted(sample.regions)]
        shown = pairs + (list(_without_region(batch)) if sheet else [])
        state.add_pairs(pairs, masks := _masks(batch, pairs, frame, regions, classifier.device))
        if shown:
            selected = prediction.select([row for row, _ in shown])
            targets = torch.tensor([target for _, target in shown], device=classifier.device)
            scored = selected.select(range(len(pairs))) if len(shown) > len(pairs) else selected
            shared: dict[Hashable, Any] = {}
            for name, maps in _explain(classifier, explainers, selected, targets, state):
                own = maps[: len(pairs)]
                explained = Explained(
                    classifier, explainers[name], scored, targets[: len(pairs)], own, task, shared=shared
                )
                hits = state.score(name, upsample(own, frame), masks, explained)
                if sheet:
                    for index, (row, target) in enumerate(shown):
                        sheet(
                            name, target, batch.samples[row], maps[index], hits[index] if index < len(pairs) else None
                        )
        state.images += len(batch.samples)
        advance(len(batch.samples))
    return state.records()


def _without_region(batch: Batch) -> Iterator[tuple[int, int]]:
    for row, sample in enumerate(batch.samples):
        if not sample.regions:
            yield from ((row, int(target)) for target in np.flatnonzero(sample.labels))


def _masks(batch: Batch, pairs: Sequence[tuple[int, int]], frame: Frame, source: str, device: torch.device) -> Tensor:
    if not pairs:
        return torch.zeros((0, frame.height, frame.width), dtype=torch.bool, device=device)
    masks = [batch.samples[row].regions[target].rasterize(frame, source=source) for row, target in pairs]
    return torch.from_numpy(np.stack(masks)).to(device)


def _explain(
    classifier: Classifier, explainers: Mapping[str, Explainer], selected: Prediction, targets: Tensor, state: _State
) -> Iterator[tuple[str, Tensor]]:
    for name, explainer in explainers.items():
        if name in state.failed:
            continue
        began, before = time.perf_counter(), State.of(classifier)
        try:
            with torch.no_grad():
                maps = explainer.explain(classifier, selected, targets)
            wanted = (len(selected), selected.frame.height, selected.frame.width)
            if tuple(maps.shape) != wanted:
                raise NotApplicableError(
                    f"returned maps of shape {tuple(maps.shape)}, not {wanted} (B, H, W): end it with "
                    "upsample(maps, prediction.frame)"
                )
        except Exception as error:  # one method's fault must not cost the others' work
            state.failed[name] = one_line(error)
            continue
        finally:
            state.tidy(name, classifier, before)
        state.seconds[name] += time.perf_counter() - began
        if not explainer.is_baseline:
            state.undefined[name] += int((~maps.isfinite().flatten(1).all(1)).sum())
        state.explained[name] += len(maps)
        yield name, maps.detach().float()


class _State:
    """Numbers gathered batch by batch."""

    def __init__(self, metrics: Sequence[MapMetric], names: Sequence[str], running: Running) -> None:
        self.metrics, self.names, self.running = metrics, names, running
        self.images = self.pairs_in_all = 0
        self.logits: list[npt.NDArray[np.float64]] = []
        self.pairs: list[tuple[int, int]] = []
        self.chance: list[npt.NDArray[np.float64]] = []
        self.values: dict[str, list[npt.NDArray[np.float64]]] = {name: [] for name in names}
        self.constant: dict[str, list[npt.NDArray[np.bool_]]] = {name: [] for name in names}
        self.failed: dict[str, str] = {}
        self.given_up: dict[str, dict[str, str]] = defaultdict(dict)
        self.seconds: dict[str, float] = defaultdict(float)
        self.scored: dict[str, int] = defaultdict(int)
        self.left: dict[str, str] = {}
        self.undefined: dict[str, int] = defaultdict(int)
        self.explained: dict[str, int] = defaultdict(int)

    def tidy(self, name: str, classifier: Classifier, before: State) -> None:
        """Take away what an explainer left on the classifier, and remember the first of it."""
        left = [f"left a hook on {where or 'the classifier'}" for where in before.hooks_left(classifier)]
        left += [f"afterwards {change}" for change in before.changes(classifier)]
        if left:
            before.restore(classifier)
            self.left.setdefault(name, left[0])

    def faults(self) -> dict[str, list[str]]:
        """Return explainer to what it did wrong, each with the remedy."""
        found: dict[str, list[str]] = defaultdict(list)
        for name, left in self.left.items():
            found[name].append(f"{left}: taken away for the others; put it back in a finally block")
        for name, count in self.undefined.items():
            if count:
                found[name].append(
                    f"{count} of {self.explained[name]} maps hold NaN or infinity and count as undefined: guard its "
                    "divisions and roots"
                )
        return dict(found)

    def add_pairs(self, pairs: Sequence[tuple[int, int]], masks: Tensor) -> None:
        self.pairs += [(self.images + row, target) for row, target in pairs]
        if pairs:
            self.chance.append(_side_by_side([self._chance(metric, masks) for metric in self.metrics], len(pairs)))

    def _chance(self, metric: MapMetric, masks: Tensor) -> npt.NDArray[np.float64]:
        try:
            return metric.chance(masks)
        except Exception:  # its scores fail for the same reason, and say it
            return _undefined(metric, len(masks))

    def score(self, name: str, maps: Tensor, masks: Tensor, explained: Explained) -> list[float]:
        """Score the maps of the pairs and return each one's hit in [0, 1] (the first column called hit_rate)."""
        if not len(maps):
            return []
        blocks = [self._scores(metric, name, maps, masks, explained) for metric in self.metrics]
        values = _side_by_side(blocks, len(maps))
        self.values[name].append(values)
        flat = maps.flatten(1)
        self.constant[name].append((flat.amax(1) == flat.amin(1)).cpu().numpy())
        columns = self.columns()
        at = columns.index("hit_rate") if "hit_rate" in columns else None
        return [float("nan")] * len(maps) if at is None else values[:, at].tolist()

    def _scores(
        self, metric: MapMetric, explainer: str, maps: Tensor, masks: Tensor, explained: Explained
    ) -> npt.NDArray[np.float64]:
        name = metric.metric.name
        if explainer in self.given_up[name]:
            return _undefined(metric, len(maps))
        if metric.asks_network:
            in_all = self.pairs_in_all * len(self.names)
            self.running(name, self.scored[name], in_all, self.seconds[f"metric:{name}"])
        began = time.perf_counter()
        try:
            return metric.scores(maps, masks, explained)
        except Exception as error:  # one metric's fault must not cost the others' work
            self.given_up[name][explainer] = one_line(error)
            return _undefined(metric, len(maps))
        finally:
            spent = time.perf_counter() - began
            self.seconds[f"metric:{name}"] += spent
            self.seconds["metrics"] += spent
            self.scored[name] += len(maps)

    def columns(self) -> list[str]:
        return [name for metric in self.metrics for name in metric.names()]

    def records(self) -> Records:
        pairs = np.array(self.pairs, dtype=np.int64).reshape(-1, 2)
        width = len(self.columns())
        done = [name for name in self.names if name not in self.failed]
        values = {name: np.concatenate([np.empty((0, width)), *self.values[name]]) for name in done}
        self._forget(values)
        return Records(
            logits=np.concatenate(self.logits),
            pair_images=pairs[:, 0],
            pair_targets=pairs[:, 1],
            columns=self.columns(),
            values=values,
            chance=np.concatenate([np.empty((0, width)), *self.chance]),
            constant={name: np.concatenate([np.empty(0, dtype=bool), *self.constant[name]]) for name in done},
            failed=self.failed,
            given_up={name: dict(reasons) for name, reasons in self.given_up.items() if reasons},
            seconds=dict(self.seconds),
            faults=self.faults(),
        )

    def _forget(self, values: Mapping[str, npt.NDArray[np.float64]]) -> None:
        """Make NaN of what a metric gave for an explainer before it was given up: a part of a column is no result."""
        start = 0
        for metric in self.metrics:
            end = start + len(metric.names())
            for explainer in self.given_up[metric.metric.name]:
                if explainer in values:
                    values[explainer][:, start:end] = np.nan
            start = end


def _undefined(metric: MapMetric, rows: int) -> npt.NDArray[np.float64]:
    return np.full((rows, len(metric.names())), np.nan)


def _side_by_side(blocks: Sequence[npt.NDArray[np.float64]], rows: int) -> npt.NDArray[np.float64]:
    return np.concatenate([np.empty((rows, 0)), *blocks], axis=1)
