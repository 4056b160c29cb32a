"""One batch of the stream: what is kept of it is taken from the store, the rest computed once and kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from xaibench.classifiers.base import Classifier
from xaibench.classifiers.state import Seen, State
from xaibench.datasets.base import Split, regions_of
from xaibench.datasets.loader import Decoder
from xaibench.errors import PLUGIN_ERRORS, NotApplicableError
from xaibench.evaluation.cache import Kept, Pairs, ignored_hash, masks_hash, regions_hash
from xaibench.evaluation.frames import mask_in, nearest_fixed, together
from xaibench.evaluation.inference import Forward, Precision
from xaibench.evaluation.records import Offer, Part, Picture, Plain, most_columns_first, side_by_side
from xaibench.evaluation.scoring import ExplainerFailedError, Maps, Scores
from xaibench.explainers.base import Explainer
from xaibench.metrics._ops import sharing
from xaibench.metrics.bound import MapMetric
from xaibench.registry import one_line
from xaibench.types import Batch, BoolArray, Frame, Prediction, Region

Running = Callable[[str, int, int, float], None]
"""Called with the name of a metric that asks the network, maps scored so far, maps in all, and its seconds so far."""


class Sheet(Protocol):
    """Is shown maps: of every pair of an image and a class with a region, and of the own classes of other images."""

    def wants(self, explainer: str, image: str, target: int, hit: float | None) -> bool:
        """Tell whether a map would be used. `hit` is in [0, 1] or NaN, None for an image without a region."""

    def offer(self, explainer: str, target: int, picture: Picture, heat: Tensor, hit: float | None) -> None:
        """Take a map (H, W) in the input's frame."""


@dataclass
class Work:
    """What all batches of an evaluation have in common.

    Attributes:
        frame: where localization is measured, None for each image's own size; metrics that ask the network get the maps
            in the input's frame.
        regions: "boxes" or "mask".
        task: "multiclass" or "multilabel", for the probability of a class.
        sheet: is shown the maps that it wants: those that are scored, and of the own classes of images without regions.
        running: is told which metric asks the network now.
        kept: what is known already is taken from here, and what is new goes there.
        precision, compiled: see `xaibench.evaluation.inference.Forward`.
        decode_workers: processes that decode images; 0 for threads.
        remake: makes the classifier again, its trained part untrained: for a worker that it can't be sent to.
    """

    classifier: Classifier
    explainers: Mapping[str, Explainer]
    split: Split
    metrics: Sequence[MapMetric]
    frame: Frame | None
    regions: str = "boxes"
    task: str = "multiclass"
    sheet: Sheet | None = None
    running: Running = lambda *_: None
    kept: Kept | None = None
    precision: Precision = "float32"
    compiled: bool = False
    decode_workers: int = 0
    remake: Callable[[], Classifier] | None = None

    def __post_init__(self) -> None:
        self.maps_found = False  # the last maps that were needed were in the store
        self.scored: dict[str, int] = {}
        self.spent: dict[str, float] = {}

    @cached_property
    def forward(self) -> Forward:
        return Forward(self.classifier, self.precision, compiled=self.compiled)

    @property
    def state(self) -> Seen:
        """The classifier's state as it is now; looked at closely only when it is another than before."""
        if (seen := State.glance(self.classifier)) != self._seen.glance:
            self._seen = Seen(seen, State.of(self.classifier))
        return self._seen

    @cached_property
    def _seen(self) -> Seen:
        return Seen.of(self.classifier)

    @cached_property
    def maps_in_all(self) -> int:
        return len(self.explainers) * sum(len(self.split.regions(row)) for row in range(len(self.split)))

    @cached_property
    def columns(self) -> list[str]:
        return [name for metric in self.metrics for name in metric.names()]


class BatchWork:
    """Images `rows` of the work's split.

    Args:
        failed, given_up: explainers and metrics that earlier batches gave up.

    Attributes:
        meanwhile: called once the network has run, and the scores, which leave cores idle, are about to be computed.
    """

    def __init__(
        self,
        work: Work,
        rows: range,
        decoder: Decoder,
        failed: Mapping[str, str],
        given_up: Mapping[str, Mapping[str, str]],
    ) -> None:
        self.work, self.rows, self._decoder = work, rows, decoder
        self._failed, self.given_up = failed, given_up
        self.at = work.kept.batch(work.split, rows) if work.kept else None
        self.shared: dict[Hashable, Any] = {}
        self._pictures: dict[int, Picture] = {}
        self._masks_of: dict[str, Tensor] = {}
        self.meanwhile: Callable[[], None] = lambda: None

    def needs_images(self) -> bool:
        """Tell whether something of the batch has to be computed of its images, as far as can be seen cheaply."""
        if self.at is None or not self.at.has_logits():
            return True
        return any(not self.at.has_maps(name, self.pairs) for name in self.work.explainers if name not in self._failed)

    def begin_maps(self, name: str | None = None) -> None:
        """Begin to read an explainer's maps, the first one's by default, if those before were found in the store."""
        name = name or next(iter(self.work.explainers), None)
        if name is None:  # only the network is asked
            return
        if self.at and self.work.maps_found:
            self.at.begin_maps(name, self.pairs)

    def run(self) -> Part:
        """Return what the batch leaves, with what the sheet wants as it is now."""
        with sharing():
            return self._run()

    def _run(self) -> Part:
        logits = self._logits()
        self.meanwhile()
        part = Part(logits, np.array(self.pairs, dtype=np.int64).reshape(-1, 2), np.empty((0, 0)))
        part.chance = self._chance(part)
        part.seconds["forward"] += self._forward_seconds
        names = [name for name in self.work.explainers if name not in self._failed]
        for name, following in zip(names, [*names[1:], None], strict=False):  # none where only the network is asked
            if following:
                self.begin_maps(following)
            try:
                self._explained(name, self.work.explainers[name], part)
            except ExplainerFailedError as failed:
                part.failed[name] = str(failed)
                part.values.pop(name, None)
        return part

    # what the batch is made of, at most once, and only if asked for

    @cached_property
    def _images(self) -> Batch:
        return self._decoder.take(self.rows)

    @cached_property
    def _prediction(self) -> Prediction:
        classifier, batch = self.work.classifier, self._images
        began = time.perf_counter()
        images = classifier.laid_out(batch.images.to(classifier.device, non_blocking=True))
        prediction = self.work.forward(images, batch.ids)
        self._forward_seconds = time.perf_counter() - began
        return prediction

    @cached_property
    def _regions(self) -> tuple[list[tuple[int, int]], BoolArray]:
        """The pairs with a region, and their masks (p, H, W) in the frame that all share."""
        frame, source = self.work.frame, self.work.regions
        assert frame is not None
        if self.at and (found := self.at.regions(frame, source)):
            return [(row, target) for row, target in found[0].tolist()], found[1]
        found_of = self._regions_of("input")
        masks = [region.rasterize(frame, source=source) for _, region in found_of]
        stacked = np.stack(masks) if masks else np.zeros((0, frame.height, frame.width), dtype=bool)
        pairs = [pair for pair, _ in found_of]
        if self.at:
            self.at.keep_regions(frame, source, np.array(pairs, dtype=np.int64).reshape(-1, 2), stacked)
        return pairs, stacked

    @cached_property
    def own_regions(self) -> list[tuple[tuple[int, int], Region]]:
        """The pairs with a region, and the region at the size of the pair's image."""
        return self._regions_of(None)

    def _regions_of(self, frame: Literal["input"] | None) -> list[tuple[tuple[int, int], Region]]:
        split = self.work.split
        return [
            ((row, target), region)
            for row in self.rows
            for target, region in sorted(regions_of(split, row, frame).items())
        ]

    @cached_property
    def pairs(self) -> list[tuple[int, int]]:
        """Row and class of every region."""
        return self._regions[0] if self.work.frame else [pair for pair, _ in self.own_regions]

    @cached_property
    def masks(self) -> Tensor:
        return torch.from_numpy(self._regions[1]).to(self.work.classifier.device)

    def masks_of(self, metric: MapMetric) -> Tensor:
        """Return what a metric scores the maps against, (p, H, W): the regions, or masks that the dataset gives.

        Raises:
            NotApplicableError: an image comes without that mask.
        """
        if (name := metric.metric.mask) is None:
            return self.masks
        if name not in self._masks_of:
            frame = self.work.frame
            assert frame is not None
            made = [self._given(name, row).rasterize(frame, source="mask") for row, _ in self.pairs]
            self._masks_of[name] = torch.from_numpy(np.stack(made)).to(self.work.classifier.device)
        return self._masks_of[name]

    def masks_in(self, metric: MapMetric, frame: Frame, places: Sequence[int], *, coarse: bool = False) -> Tensor:
        """Return what a metric scores the maps of some pairs against, (n, H, W) in a frame; see `masks_of`.

        Args:
            coarse: a region too small for a pixel of the frame covers one all the same.
        """
        masks = []
        for place in places:
            pair, region = self.own_regions[place]
            source = self.work.regions
            if (name := metric.metric.mask) is not None:
                region, source = self._given(name, pair[0]), "mask"
            masks.append(mask_in(region, frame, source) if coarse else region.rasterize(frame, source=source))
        return torch.from_numpy(np.stack(masks)).to(self.work.classifier.device)

    def ignored(self, frame: Frame, places: Sequence[int]) -> Tensor | None:
        """Return which pixels of pairs the dataset leaves out, (n, H, W) in a frame; None where it leaves out none."""
        found = [self._left_out[place] for place in places]
        if all(mask is None for mask in found):
            return None
        masks = [
            np.zeros((frame.height, frame.width), dtype=bool)
            if mask is None
            else Region(np.empty((0, 4)), Frame(*mask.shape), mask).rasterize(frame, source="mask")
            for mask in found
        ]
        return torch.from_numpy(np.stack(masks)).to(self.work.classifier.device)

    @cached_property
    def _left_out(self) -> list[BoolArray | None]:
        """The pixels of each pair's image that the dataset leaves out."""
        known = {row: self.work.split.ignored(row) for row in {row for row, _ in self.pairs}}
        return [known[row] for row, _ in self.pairs]

    def ignored_by(self, metric: MapMetric, frame: Frame, places: Sequence[int]) -> Tensor | None:
        """Return what `ignored` does, for a metric that can leave pixels out."""
        return self.ignored(frame, places) if metric.ignores else None

    def _given(self, name: str, row: int) -> Region:
        """Return a mask that the dataset gives with an image."""
        mask = self._images.samples[row - self.rows.start].meta.get(name)
        if mask is None:
            raise NotApplicableError(f"image {self.work.split.ids[row]} comes without a mask of its {name}")
        return Region(np.empty((0, 4)), Frame(*mask.shape), mask)

    @cached_property
    def where(self) -> dict[str, Any]:
        """What decides a score beside the map."""
        known = {"scored in": str(self.work.frame or "image"), "task": self.work.task}
        if any(mask is not None for mask in self._left_out):
            known["ignored"] = ignored_hash(self._left_out)
        if self.work.frame:
            return {**known, "masks": masks_hash(self.pairs, self._regions[1])}
        return {**known, "masks": regions_hash(self.own_regions, self.work.regions)}

    def selected(self, pairs: Pairs) -> tuple[Prediction, Tensor]:
        """Return the prediction of pairs, and their classes."""
        if pairs is self.pairs:
            return self._scored
        targets = torch.tensor([target for _, target in pairs], device=self.work.classifier.device)
        return self._prediction.select([row - self.rows.start for row, _ in pairs]), targets

    @cached_property
    def _scored(self) -> tuple[Prediction, Tensor]:
        return self.selected(list(self.pairs))

    def _logits(self) -> npt.NDArray[np.float64]:
        if self.at and (found := self.at.logits()):
            self._forward_seconds = found[1]
            return found[0]
        logits = self._prediction.logits.double().cpu().numpy()
        if self.at:
            self.at.keep_logits(logits, self._forward_seconds)
        return logits

    def _chance(self, part: Part) -> npt.NDArray[np.float64]:
        """Return the levels of chance (p, columns), NaN where there are none; say in `part` which failed."""
        if not self.pairs:
            return np.empty((0, len(self.work.columns)))
        found = self.at.scores(None, self.pairs, self.where) if self.at else None
        known = dict(found.arrays) if found else {}
        blocks, new = dict[int, npt.NDArray[np.float64]](), False
        for place in most_columns_first(self.work.metrics):
            metric = self.work.metrics[place]
            key = self.at.metric_key(metric.metric.name) if self.at else None
            if key is None or (block := known.get(key)) is None:
                try:
                    block = self._chance_of(metric)
                except PLUGIN_ERRORS as error:  # one metric's fault must not cost the others' work
                    part.chance_failed.setdefault(metric.metric.name, one_line(error))
                    block, key = metric.undefined(len(self.pairs)), None
                if key is not None:
                    known[key], new = block, True
            blocks[place] = block
        if self.at and new:
            self.at.keep_scores(None, self.pairs, self.where, known, {})
        return side_by_side([blocks[place] for place in sorted(blocks)], len(self.pairs))

    def _chance_of(self, metric: MapMetric) -> npt.NDArray[np.float64]:
        """Return a metric's levels of chance, (p, columns)."""
        if self.work.frame:
            ignored = self.ignored_by(metric, self.work.frame, range(len(self.pairs)))
            return metric.chance(self.masks_of(metric), ignored)
        found = metric.undefined(len(self.pairs))
        for frame, places in together([region.frame for _, region in self.own_regions]):
            # noise at the size of a radiograph would take minutes, and no map is made of such pixels
            simulated = metric.metric.simulated
            shown = nearest_fixed(frame) if simulated else frame
            masks = self.masks_in(metric, shown, places, coarse=simulated)
            found[places] = metric.chance(masks, self.ignored_by(metric, shown, places))
        return found

    # one explainer

    def _explained(self, name: str, explainer: Explainer, part: Part) -> None:
        if self.pairs:
            maps = Maps(self, name, explainer, self.pairs)
            scores = Scores(self, maps)
            part.values[name] = scores.values(part)
            part.constant[name] = scores.constant
            self._count(part, maps, scores.made)
            part.seconds[name] += float(scores.made["seconds"])
            self._offer(part.offers.setdefault(name, []), maps, _hits(self.work.columns, part.values[name]))
        for target, pairs in self._plain(name).items():
            part.plain.setdefault(name, {})[target] = self._explained_plain(Maps(self, name, explainer, pairs))

    def _count(self, part: Part, maps: Maps, made: Mapping[str, Any]) -> None:
        part.explained[maps.name] = part.explained.get(maps.name, 0) + len(maps.pairs)
        if not maps.explainer.is_baseline:
            part.undefined[maps.name] = part.undefined.get(maps.name, 0) + int(made["undefined"])
        if made["left"]:
            part.left.setdefault(maps.name, str(made["left"]))

    # the contact sheet

    def _plain(self, name: str) -> dict[int, list[tuple[int, int]]]:
        """Return the pairs of images without a region that the sheet wants, by class.

        Each class is explained by itself, so that its maps don't depend on how much of the others is wanted.
        """
        sheet, split = self.work.sheet, self.work.split
        found: dict[int, list[tuple[int, int]]] = {}
        if sheet is None:
            return found
        with_region = {row for row, _ in self.pairs}
        for row in self.rows:
            if row not in with_region:
                for target in map(int, np.flatnonzero(split.labels[row])):
                    if sheet.wants(name, split.ids[row], target, None):
                        found.setdefault(target, []).append((row, target))
        return dict(sorted(found.items()))

    def _explained_plain(self, maps: Maps) -> Plain:
        plain = Plain([self.work.split.ids[row] for row, _ in maps.pairs])
        try:
            self._offer(plain.offers, maps, [None] * len(maps.pairs))
            plain.undefined, plain.left = int(maps.made["undefined"]), maps.made["left"]
        except ExplainerFailedError as failed:
            plain.failed = str(failed)
        return plain

    def _offer(self, offers: list[Offer], maps: Maps, hits: Sequence[float | None]) -> None:
        if (sheet := self.work.sheet) is None:
            return
        for index, ((row, target), hit) in enumerate(zip(maps.pairs, hits, strict=True)):
            if sheet.wants(maps.name, self.work.split.ids[row], target, hit):
                offers.append(Offer(target, self._picture(row), maps.tensor[index], hit))

    def _picture(self, row: int) -> Picture:
        if row not in self._pictures:
            split, place = self.work.split, row - self.rows.start
            key = self.at.picture_key(place) if self.at else None
            self._pictures[row] = Picture(split.ids[row], partial(split.__getitem__, row), key)
            if "_images" in self.__dict__:
                self._pictures[row].sample = self._images.samples[place]
        return self._pictures[row]


def _hits(columns: Sequence[str], values: npt.NDArray[np.float64]) -> list[float]:
    """Return each pair's hit in [0, 1]: the first column called hit_rate."""
    at = columns.index("hit_rate") if "hit_rate" in columns else None
    return [float("nan")] * len(values) if at is None else [float(value) for value in values[:, at]]
