"""The store as one evaluation sees it: what was computed for a batch of a split, by what decides it.

Entries are batches, not images: a batch of other images gives a map that may differ in its last bit, so that only the
same batch gives the same bits again, and a run that was killed ends with the scores that it would have had.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from xaibench.datasets.base import Split, Splits
from xaibench.doctor import glance
from xaibench.doctor.diagnose import drawn_rows
from xaibench.evaluation.cache_keys import classifier_identity, code_of, explainer_identity, metric_identity
from xaibench.io.store import Found, Store, key_of
from xaibench.metrics.explained import Explained
from xaibench.types import BoolArray, Frame, Region

if TYPE_CHECKING:
    from xaibench.evaluation.batch import Work

Pairs = Sequence[tuple[int, int]]
"""Row of an image in the split, and class index."""


@dataclass(frozen=True)
class Kept:
    """A store, and what decides the results of an evaluation.

    Attributes:
        classifier: of `classifier_identity`.
        explainers: name to identity, None where the maps are not kept.
        metrics: name to the hash of its identity, None where the scores are not kept.
    """

    store: Store
    classifier: Mapping[str, Any]
    explainers: Mapping[str, Mapping[str, Any] | None]
    metrics: Mapping[str, str | None]

    @classmethod
    def of(cls, store: Store, name: str, options: Mapping[str, Any], work: Work, splits: Splits) -> Kept | None:
        """Identify what an evaluation is made of; None where the classifier's code can't be found.

        Args:
            name, options: of the classifier.
            work: the evaluation.
            splits: the data that explainers learn from.
        """
        identity = classifier_identity(name, work.classifier, options)
        if identity is None:
            return None
        return cls(
            store,
            {**identity, **work.forward.identity()},
            {name: explainer_identity(name, explainer, splits) for name, explainer in work.explainers.items()},
            {metric.metric.name: metric_identity(metric) for metric in work.metrics},
        )

    def batch(self, split: Split, rows: range) -> KeptBatch | None:
        """Return what is kept of some images; None where the code of the dataset can't be found."""
        code = code_of({type(split)}, "maps")
        return None if code is None else KeptBatch(self, split, rows, [split.image_key(row) for row in rows], code)

    def examination(self, split: Split) -> Mapping[str, Any] | None:
        """Return what is known of the classifier before a run, as `keep_examination` took it; None where nothing is."""
        if None in self.explainers.values():
            return None
        found = self.store.read(key_of("examination", self._examined(split)))
        return found.about["examination"] if found else None

    def keep_examination(self, split: Split, examination: Mapping[str, Any]) -> None:
        """Keep what was found of the classifier and its explainers, as JSON."""
        if None in self.explainers.values():
            return
        about = {"kind": "examination", "classifier": self.classifier["name"], "examination": dict(examination)}
        self.store.write(key_of("examination", self._examined(split)), {}, about)

    def _examined(self, split: Split) -> dict[str, Any]:
        return {
            "classifier": self.classifier,
            "explainers": self.explainers,
            "images": [[split.ids[row], split.image_key(row)] for row in drawn_rows(split, 1)],
            "code": [code_of({type(split)}, "maps"), code_of({glance}, "doctor")],
        }


@dataclass
class KeptBatch:
    """What is kept of the images `rows` of a split, named by `images`."""

    kept: Kept
    split: Split
    rows: range
    images: Sequence[str]
    code: str
    _predicted: Mapping[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        # Ids, as what is random draws its seed from them.
        ids = [str(self.split.ids[row]) for row in self.rows]
        known = {"classifier": self.kept.classifier, "images": self.images, "ids": ids, "data": self.code}
        self._predicted = {"predicted": key_of("prediction", known)}  # by its hash: many keys hold it

    def logits(self) -> tuple[npt.NDArray[np.float64], float] | None:
        """Return the logits (n, K), and the seconds that they took."""
        found = self._read("prediction", self._predicted)
        return (found.arrays["logits"], float(found.about["seconds"])) if found else None

    def has_logits(self) -> bool:
        return self.kept.store.has(key_of("prediction", self._predicted))

    def keep_logits(self, logits: npt.NDArray[np.float64], seconds: float) -> None:
        self._write("prediction", self._predicted, {"logits": logits}, {"seconds": seconds})

    def regions(self, frame: Frame, source: str) -> tuple[npt.NDArray[np.int64], BoolArray] | None:
        """Return the pairs (p, 2) with a region, and their masks (p, H, W)."""
        if (found := self._read("regions", self._regions(frame, source))) is None:
            return None
        shape = tuple(found.arrays["shape"].tolist())
        masks = np.unpackbits(found.arrays["masks"], count=int(np.prod(shape))).reshape(shape).astype(bool)
        return found.arrays["pairs"] + [self.rows.start, 0], masks

    def keep_regions(self, frame: Frame, source: str, pairs: npt.NDArray[np.int64], masks: BoolArray) -> None:
        arrays: dict[str, npt.NDArray[Any]] = {
            "pairs": pairs - [self.rows.start, 0],
            "masks": np.packbits(masks),
            "shape": np.array(masks.shape, dtype=np.int64),
        }
        self._write("regions", self._regions(frame, source), arrays, {})

    def maps(self, explainer: str, pairs: Pairs) -> Found | None:
        """Return the ``maps`` (p, H, W) float32 of pairs, in the input's frame."""
        parts = self._maps(explainer, pairs)
        found = self._read("maps", parts) if parts else None
        if found and (which := found.arrays.get("which")) is not None:
            others = {name: array for name, array in found.arrays.items() if name not in ("maps", "which")}
            return replace(found, arrays={**others, "maps": found.arrays["maps"][which]})
        return found

    def begin_maps(self, explainer: str, pairs: Pairs) -> None:
        """Begin to read what `maps` will be asked for."""
        if parts := self._maps(explainer, pairs):
            self.kept.store.begin(key_of("maps", parts))

    def has_maps(self, explainer: str, pairs: Pairs) -> bool:
        parts = self._maps(explainer, pairs)
        return parts is not None and self.kept.store.has(key_of("maps", parts))

    def keep_maps(
        self,
        explainer: str,
        pairs: Pairs,
        maps: npt.NDArray[np.float32],
        about: Mapping[str, Any],
        native: npt.NDArray[np.float32] | None = None,
    ) -> None:
        """Keep maps (p, H, W) in the input's frame and, where the scores are in another, those at their own size."""
        if parts := self._maps(explainer, pairs):
            distinct, which = _distinct(maps)
            arrays: dict[str, npt.NDArray[Any]] = {"maps": maps}
            if len(distinct) < len(maps):  # a baseline's, which look at no image
                arrays = {"maps": maps[distinct], "which": which}
            if native is not None:
                arrays["native"] = native
            self._write("maps", parts, arrays, {**about, "explainer": explainer})

    def drop(self, explainer: str, pairs: Pairs, where: Mapping[str, Any]) -> None:
        """Take away the maps and scores of an explainer that can't be believed."""
        for kind, parts in (("maps", self._maps(explainer, pairs)), ("scores", self._scores(explainer, pairs, where))):
            if parts:
                self.kept.store.remove(key_of(kind, parts))

    def scores(self, explainer: str | None, pairs: Pairs, where: Mapping[str, Any]) -> Found | None:
        """Return scores (p, columns) by the names of `metric_key`; with no explainer, levels of chance.

        Args:
            where: the frame, the masks' hash and the task that decide a score.
        """
        parts = self._scores(explainer, pairs, where)
        return self._read("scores", parts) if parts else None

    def keep_scores(
        self,
        explainer: str | None,
        pairs: Pairs,
        where: Mapping[str, Any],
        arrays: Mapping[str, npt.NDArray[Any]],
        about: Mapping[str, Any],
    ) -> None:
        if parts := self._scores(explainer, pairs, where):
            self._write("scores", parts, arrays, {**about, "explainer": explainer})

    def shelf(self, pairs: Pairs, task: str) -> PerturbedShelf:
        """Return where scores of perturbed images are kept, whatever map asked for them."""
        return PerturbedShelf(self, pairs, task)

    def metric_key(self, metric: str) -> str | None:
        return self.kept.metrics.get(metric)

    def picture_key(self, place: int) -> str:
        """Return what decides the sample at a place in the batch, its regions too."""
        known = [self.split.fingerprint, self.split.ids[self.rows[place]], self.images[place], str(self.split.frame)]
        return key_of("picture", {"sample": known, "data": self.code})

    def _regions(self, frame: Frame, source: str) -> dict[str, Any]:
        place = [self.rows.start, self.rows.stop]
        return {
            "split": self.split.fingerprint,
            "data": self.code,
            "rows": place,
            "frame": str(frame),
            "source": source,
        }

    def _maps(self, explainer: str, pairs: Pairs) -> dict[str, Any] | None:
        identity = self.kept.explainers.get(explainer)
        if identity is None:
            return None
        frame = str(self.split.frame)
        return {**self._predicted, "explainer": identity, "targets": self._targets(pairs), "frame": frame}

    def _targets(self, pairs: Pairs) -> list[list[int]]:
        """Return place in the batch and class of pairs."""
        return [[row - self.rows.start, target] for row, target in pairs]

    def _scores(self, explainer: str | None, pairs: Pairs, where: Mapping[str, Any]) -> dict[str, Any] | None:
        if explainer is None:
            return {"chance": True, "images": self.images, **where}  # a mask may be of the image, not of its regions
        parts = self._maps(explainer, pairs)
        return None if parts is None else {**parts, **where}

    def _read(self, kind: str, parts: Mapping[str, Any]) -> Found | None:
        return self.kept.store.read(key_of(kind, parts))

    def _write(
        self, kind: str, parts: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]], about: Mapping[str, Any]
    ) -> None:
        known = {"kind": kind, "classifier": self.kept.classifier["name"], "images": len(self.images)}
        self.kept.store.write(key_of(kind, parts), arrays, {**known, **about})


@dataclass(frozen=True)
class PerturbedShelf:
    """Scores of perturbed images of a batch's pairs, by what was done to the images."""

    batch: KeptBatch
    pairs: Pairs
    task: str

    def load(self, name: str) -> Tensor | None:
        found = self.batch._read("perturbed", self._parts(name))
        return torch.from_numpy(found.arrays["scores"]) if found else None

    def save(self, name: str, tensor: Tensor) -> None:
        self.batch._write("perturbed", self._parts(name), {"scores": tensor.cpu().numpy()}, {})

    def _parts(self, name: str) -> dict[str, Any]:
        targets, code = self.batch._targets(self.pairs), code_of({Explained}, "scores")
        return {**self.batch._predicted, "targets": targets, "task": self.task, "what": name, "code": code}


def _distinct(maps: npt.NDArray[np.float32]) -> tuple[list[int], npt.NDArray[np.int64]]:
    """Return which maps (p, H, W) differ in a bit from all before, and which of those each one is, (p,).

    `numpy.unique` would sort them, which takes ten times as long.
    """
    bits = np.ascontiguousarray(maps).view(np.uint32).reshape(len(maps), -1)
    distinct: list[int] = []
    alike: dict[bytes, list[int]] = {}  # by a few pixels: most maps differ there already
    which = np.zeros(len(maps), dtype=np.int64)
    for row, own in enumerate(bits):
        near = alike.setdefault(own[:: max(1, own.size // 61)].tobytes(), [])
        same = next((at for at in near if np.array_equal(bits[distinct[at]], own)), None)
        if same is None:
            same = len(distinct)
            near.append(same)
            distinct.append(row)
        which[row] = same
    return distinct, which


def masks_hash(pairs: Pairs, masks: BoolArray) -> str:
    """Return the sha256 of masks (p, H, W) and what class each is of."""
    known = hashlib.sha256(f"{masks.shape} {[target for _, target in pairs]}".encode())
    known.update(np.packbits(masks).tobytes())
    return known.hexdigest()


def ignored_hash(masks: Sequence[BoolArray | None]) -> str:
    """Return the sha256 of the pixels that are left out, one mask or none for each pair."""
    known = hashlib.sha256()
    for mask in masks:
        known.update(b"-" if mask is None else f"{mask.shape}".encode() + np.packbits(mask).tobytes())
    return known.hexdigest()


def regions_hash(regions: Sequence[tuple[tuple[int, int], Region]], source: str) -> str:
    """Return the sha256 of regions at their images' sizes, "boxes" or "mask", and what class each is of."""
    known = hashlib.sha256(source.encode())
    for (_, target), region in regions:
        known.update(f"{target} {region.frame} {region.boxes.tolist()}".encode())
        if region.mask is not None:
            known.update(np.packbits(region.mask).tobytes())
    return known.hexdigest()
