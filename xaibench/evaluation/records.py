"""What the stream leaves of a split: numbers only, whatever its length."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from xaibench.metrics._pixels import Row
from xaibench.metrics.bound import MapMetric
from xaibench.types import Sample


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
        chance_failed: metric to the reason why it has no chance level.
        given_up: metric to explainer to the reason why its columns are NaN there.
        seconds: "forward", each explainer's time, "metric:NAME" each metric's, and "metrics" for all of them.
        faults: explainer to what it did wrong without being given up, each with the remedy.
        pixels: metric to explainer to the pixels of each pair, (P,), of metrics that are made of them.
    """

    logits: npt.NDArray[np.float64]
    pair_images: npt.NDArray[np.int64]
    pair_targets: npt.NDArray[np.int64]
    columns: list[str]
    values: dict[str, npt.NDArray[np.float64]]
    chance: npt.NDArray[np.float64]
    constant: dict[str, npt.NDArray[np.bool_]]
    failed: dict[str, str] = field(default_factory=dict)
    chance_failed: dict[str, str] = field(default_factory=dict)
    given_up: dict[str, dict[str, str]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    faults: dict[str, list[str]] = field(default_factory=dict)
    pixels: dict[str, dict[str, list[Row]]] = field(default_factory=dict)


def _dict_of_dicts() -> dict[str, dict[str, str]]:
    return defaultdict(dict)


def _dict_of_floats() -> dict[str, float]:
    return defaultdict(float)


class Picture:
    """An image that a sheet may show, decoded when its sample is asked for.

    Attributes:
        id: the image's.
        key: names all that decides the sample; None where that is not known.
    """

    def __init__(self, id: str, decode: Callable[[], Sample], key: str | None = None) -> None:
        self.id, self.key, self._decode = id, key, decode

    @cached_property
    def sample(self) -> Sample:
        return self._decode()

    @property
    def is_decoded(self) -> bool:
        return "sample" in self.__dict__

    def __getstate__(self) -> dict[str, Any]:
        return {"id": self.id, "key": self.key, "sample": self.sample}  # another process may not have the data


@dataclass(frozen=True)
class Offer:
    """A map (H, W) in the input's frame that a sheet may want; see `xaibench.evaluation.batch.Sheet`."""

    target: int
    picture: Picture
    heat: Tensor
    hit: float | None


@dataclass
class Plain:
    """What an explainer does with one class of images without a region, which only a sheet asks for.

    Attributes:
        images: their ids.
        undefined, left, failed: as in `Part`, of this class; failed is None where the method did not.
        offers: for the sheet.
    """

    images: list[str]
    undefined: int = 0
    left: str | None = None
    failed: str | None = None
    offers: list[Offer] = field(default_factory=list)


@dataclass
class Part:
    """What some images leave, in the split's order: parts of all its images make `Records`.

    Attributes:
        logits: (n, K).
        pairs: (p, 2) row of the image in the split, and class index.
        chance, values, constant, seconds: as in `Records`, of these images.
        failed, chance_failed, given_up: as in `Records`.
        undefined, explained: explainer to how many of its maps are not finite, and to how many there are.
        left: explainer to what it left on the classifier.
        pixels: as in `Records`, of these images; of a metric that was given up they are not there.
        offers: explainer to its maps of pairs that the sheet wants.
        plain: explainer to class index to what it does with images without a region; `offers` and `plain` are gone once
            `xaibench.evaluation.merge.Settling` took the part.
    """

    logits: npt.NDArray[np.float64]
    pairs: npt.NDArray[np.int64]
    chance: npt.NDArray[np.float64]
    values: dict[str, npt.NDArray[np.float64]] = field(default_factory=dict)
    constant: dict[str, npt.NDArray[np.bool_]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    chance_failed: dict[str, str] = field(default_factory=dict)
    given_up: dict[str, dict[str, str]] = field(default_factory=_dict_of_dicts)
    seconds: dict[str, float] = field(default_factory=_dict_of_floats)
    undefined: dict[str, int] = field(default_factory=dict)
    explained: dict[str, int] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)
    pixels: dict[str, dict[str, list[Row]]] = field(default_factory=dict)
    offers: dict[str, list[Offer]] = field(default_factory=dict)
    plain: dict[str, dict[int, Plain]] = field(default_factory=dict)


def join(parts: Sequence[Part], metrics: Sequence[MapMetric], names: Sequence[str]) -> Records:
    """Join parts, in the split's order, of explainers by name.

    An explainer that failed on one part is left out; a metric given up on one part has NaN in all: a part of a column
    is no result.
    """
    columns = [name for metric in metrics for name in metric.names()]
    failed: dict[str, str] = {}
    chance_failed: dict[str, str] = {}
    given_up: dict[str, dict[str, str]] = defaultdict(dict)
    seconds: dict[str, float] = defaultdict(float)
    for part in parts:
        failed = part.failed | failed
        chance_failed = part.chance_failed | chance_failed
        for given, reasons in part.given_up.items():
            given_up[given] = reasons | given_up[given]
        for name, spent in part.seconds.items():
            seconds[name] += spent
    done = [name for name in names if name not in failed]
    width = len(columns)
    pairs = np.concatenate([np.empty((0, 2), dtype=np.int64), *(part.pairs for part in parts)])
    records = Records(
        logits=np.concatenate([part.logits for part in parts]) if parts else np.empty((0, 0)),
        pair_images=pairs[:, 0],
        pair_targets=pairs[:, 1],
        columns=columns,
        values={name: _stack([part.values.get(name) for part in parts], np.empty((0, width))) for name in done},
        chance=np.concatenate([np.empty((0, width)), *(part.chance for part in parts)]),
        constant={name: _stack([p.constant.get(name) for p in parts], np.empty(0, dtype=bool)) for name in done},
        failed=failed,
        chance_failed=chance_failed,
        given_up={name: dict(reasons) for name, reasons in given_up.items() if reasons},
        seconds=dict(seconds),
        faults=_faults(parts),
        pixels={
            metric.metric.name: {
                name: [row for part in parts for row in part.pixels.get(metric.metric.name, {}).get(name, [])]
                for name in done
                if name not in given_up[metric.metric.name]
            }
            for metric in metrics
            if metric.keeps_pixels
        },
    )
    start = 0
    for metric in metrics:
        end = start + len(metric.names())
        if metric.metric.name in chance_failed:
            records.chance[:, start:end] = np.nan
        for explainer in given_up[metric.metric.name]:
            if explainer in records.values:
                records.values[explainer][:, start:end] = np.nan
        start = end
    return records


def most_columns_first(metrics: Sequence[MapMetric]) -> list[int]:
    """Return the order in which to score: what many thresholds were scored with serves metrics of fewer."""
    return sorted(range(len(metrics)), key=lambda place: -len(metrics[place].names()))


def side_by_side(blocks: Sequence[npt.NDArray[np.float64]], rows: int) -> npt.NDArray[np.float64]:
    """Join the columns (rows, c) of all metrics."""
    return np.concatenate([np.empty((rows, 0)), *blocks], axis=1)


def _stack(arrays: Sequence[npt.NDArray[Any] | None], empty: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.concatenate([empty, *(array for array in arrays if array is not None)])


def _faults(parts: Sequence[Part]) -> dict[str, list[str]]:
    """Return explainer to what it did wrong, each with the remedy."""
    found: dict[str, list[str]] = defaultdict(list)
    left: dict[str, str] = {}
    undefined: dict[str, int] = defaultdict(int)
    explained: dict[str, int] = defaultdict(int)
    for part in parts:
        left = part.left | left
        for name, count in part.undefined.items():
            undefined[name] += count
        for name, count in part.explained.items():
            explained[name] += count
    for name, what in left.items():
        found[name].append(f"{what}: taken away for the others; put it back in a finally block")
    for name, count in undefined.items():
        if count:
            found[name].append(
                f"{count} of {explained[name]} maps hold NaN or infinity and count as chance: guard its divisions "
                "and roots"
            )
    return dict(found)
