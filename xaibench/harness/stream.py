"""The stream: image, one forward pass, maps of every explainer, scores. Memory holds two batches and the numbers."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from xaibench.metrics.base import Metric
from xaibench.types import Batch, Frame, Prediction

Sheet = Callable[[str, int, Any, Tensor, float | None], None]
"""Called with explainer, class index, sample, map (H, W) in the input's frame, and hit in [0, 1] or None."""


@dataclass(frozen=True)
class MapMetric:
    """A localization metric with a benchmark's parameters."""

    metric: Metric
    parameters: Mapping[str, Any]

    def names(self) -> list[str]:
        """Return the names of its columns: one, or one for each point of a curve."""
        if self.metric.curve is None:
            return [self.metric.name]
        points = {**self.metric.parameters, **self.parameters}[self.metric.curve]
        return [f"{self.metric.name}@{point:.2f}" for point in points]

    def scores(self, maps: Tensor, masks: Tensor) -> npt.NDArray[np.float64]:
        """Return (B, columns)."""
        return self._columns(self.metric(maps, masks, **self.parameters))

    def chance(self, masks: Tensor) -> npt.NDArray[np.float64]:
        """Return (B, columns); NaN where the metric declares none."""
        chance = self.metric.chance
        if callable(chance):
            return self._columns(chance(masks, **{**self.metric.parameters, **self.parameters}))
        level = np.nan if chance is None else chance
        return np.full((len(masks), len(self.names())), level, dtype=np.float64)

    def _columns(self, scores: Tensor) -> npt.NDArray[np.float64]:
        return scores.detach().double().cpu().numpy().reshape(len(scores), -1)


@dataclass
class Records:
    """What the stream leaves: numbers only.

    Attributes:
        logits: (N, K).
        pair_images: index of each (image, class) pair's image, (P,).
        pair_targets: its class index, (P,).
        columns: names of the localization columns, M of them.
        values: explainer to its (P, M) scores, NaN where undefined.
        chance: (P, M).
        constant: explainer to (P,) bool, its map is constant.
        failed: explainer to the reason why it was given up.
        faults: explainer to what it did wrong without being given up, each with the remedy.
        seconds: "forward" and each explainer's time.
    """

    logits: npt.NDArray[np.float64]
    pair_images: npt.NDArray[np.int64]
    pair_targets: npt.NDArray[np.int64]
    columns: list[str]
    values: dict[str, npt.NDArray[np.float64]]
    chance: npt.NDArray[np.float64]
    constant: dict[str, npt.NDArray[np.bool_]]
    failed: dict[str, str] = field(default_factory=dict)
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
    batch_size: int = 32,
    sheet: Sheet | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> Records:
    """Run a split through a classifier and its explainers, and score every map of a class with a region.

    An explainer that fails is given up and named in `Records.failed`; the others go on. What it hangs on the
    classifier is taken away again, so that the others see the classifier as it was.

    Args:
        frame: where localization is measured.
        regions: "boxes" or "mask".
        sheet: is shown every map that is scored, and maps of the own class of images without regions.
    """
    state = _State(metrics, list(explainers))
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
            for name, maps in _explain(classifier, explainers, selected, targets, state):
                hits = state.score(name, upsample(maps[: len(pairs)], frame), masks)
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
            state.failed[name] = " ".join(f"{type(error).__name__}: {error}".split())[:300]
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

    def __init__(self, metrics: Sequence[MapMetric], names: Sequence[str]) -> None:
        self.metrics, self.names = metrics, names
        self.images = 0
        self.logits: list[npt.NDArray[np.float64]] = []
        self.pairs: list[tuple[int, int]] = []
        self.chance: list[npt.NDArray[np.float64]] = []
        self.values: dict[str, list[npt.NDArray[np.float64]]] = {name: [] for name in names}
        self.constant: dict[str, list[npt.NDArray[np.bool_]]] = {name: [] for name in names}
        self.failed: dict[str, str] = {}
        self.seconds: dict[str, float] = defaultdict(float)
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
            self.chance.append(_side_by_side([metric.chance(masks) for metric in self.metrics], len(pairs)))

    def score(self, name: str, maps: Tensor, masks: Tensor) -> list[float]:
        """Score the maps of the pairs and return each one's hit in [0, 1] (the first column called hit_rate)."""
        if not len(maps):
            return []
        began = time.perf_counter()
        values = _side_by_side([metric.scores(maps, masks) for metric in self.metrics], len(maps))
        self.values[name].append(values)
        flat = maps.flatten(1)
        self.constant[name].append((flat.amax(1) == flat.amin(1)).cpu().numpy())
        self.seconds["metrics"] += time.perf_counter() - began
        columns = self.columns()
        at = columns.index("hit_rate") if "hit_rate" in columns else None
        return [float("nan")] * len(maps) if at is None else values[:, at].tolist()

    def columns(self) -> list[str]:
        return [name for metric in self.metrics for name in metric.names()]

    def records(self) -> Records:
        pairs = np.array(self.pairs, dtype=np.int64).reshape(-1, 2)
        width = len(self.columns())
        done = [name for name in self.names if name not in self.failed]
        return Records(
            logits=np.concatenate(self.logits),
            pair_images=pairs[:, 0],
            pair_targets=pairs[:, 1],
            columns=self.columns(),
            values={name: np.concatenate([np.empty((0, width)), *self.values[name]]) for name in done},
            chance=np.concatenate([np.empty((0, width)), *self.chance]),
            constant={name: np.concatenate([np.empty(0, dtype=bool), *self.constant[name]]) for name in done},
            failed=self.failed,
            seconds=dict(self.seconds),
            faults=self.faults(),
        )


def _side_by_side(blocks: Sequence[npt.NDArray[np.float64]], rows: int) -> npt.NDArray[np.float64]:
    return np.concatenate([np.empty((rows, 0)), *blocks], axis=1)
