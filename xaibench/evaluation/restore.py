"""The maps of a run, made again: a run keeps scores and the record of what made them, not the maps."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from xaibench.benchmark import ClassifierSpec
from xaibench.classifiers.base import MEMORY_FORMATS, Classifier
from xaibench.datasets.base import Split, Splits, regions_of
from xaibench.datasets.loader import Decoder
from xaibench.errors import DataError, UsageError, WeightsError, XaibenchError, did_you_mean
from xaibench.evaluation.batch import BatchWork, Work
from xaibench.evaluation.cache import Kept
from xaibench.evaluation.records import Picture
from xaibench.evaluation.setup import (
    choose_device,
    load_splits,
    make_classifier,
    make_explainers,
    obtain_weights,
    weights_hash,
)
from xaibench.evaluation.stream import records_of
from xaibench.explainers.base import Explainer
from xaibench.io.store import Store, default_store
from xaibench.progress import Progress
from xaibench.results.run import Run
from xaibench.training.checkpoint import Making, find_checkpoint
from xaibench.types import Frame, Region, Sample

Pair = tuple[str, str]
"""An image's id and the name of the class explained."""
Place = tuple[int, int]
"""Its row in the test split, and the class's index."""
Show = Callable[[str, int, Sample, Tensor, float | None], None]
"""Called with explainer, class index, sample, map (H, W) in the input's frame, and None or NaN."""


@dataclass(frozen=True)
class Reopened:
    """A run with its data and its classifier, as they were.

    Attributes:
        run: what was reopened.
        classifier: with the weights that the run had.
        splits: the data that the run saw.
        store: where maps may lie that were made already.
    """

    run: Run
    classifier: Classifier
    splits: Splits
    store: Store | None = None

    def show(
        self,
        pairs: Collection[Pair],
        explainers: Sequence[str],
        sheet: Show,
        *,
        batch_size: int = 32,
        progress: Progress | None = None,
    ) -> None:
        """Show each map of pairs of the test split to `sheet`, from the store or made once more, in no fixed order.

        The hit that `sheet` is called with is always None or NaN: hits are in the run's tables.

        Raises:
            UsageError: an image or a class that the test split does not have.
            NotApplicableError: an explainer that does not apply to the classifier.
            XaibenchError: an explainer failed.
        """
        progress = progress or Progress()
        test = self.splits.test
        rows = {name: row for row, name in enumerate(test.ids)}
        for image, name in pairs:
            if image not in rows or name not in test.classes:
                raise UsageError(f"image {image!r} with class {name!r} is not in the run's test split")
        wanted = {(rows[image], test.classes.index(name)) for image, name in pairs}
        made = make_explainers(explainers, (), self.classifier, self.splits)[0]
        work = self._work(made)
        progress.stage("explaining", len({row for row, _ in wanted}))
        missing = wanted - _show_kept(work, wanted, sheet, int(self.run.record.get("batch_size", batch_size)), progress)
        if not missing:
            return
        chosen = _Chosen(test, sorted({row for row, _ in missing}))
        picked = _Picked({(test.ids[row], target) for row, target in missing}, sheet)
        records = records_of(replace(work, split=chosen, sheet=picked), batch_size, progress.advance)
        for name, reason in records.failed.items():
            raise XaibenchError(f"explainer {name} failed ({reason})")

    def _work(self, made: Mapping[str, Explainer]) -> Work:
        """Return what the run did, without its metrics: the same forward pass, hence the same maps."""
        protocol, record = self.run.benchmark, self.run.record
        work = Work(
            self.classifier,
            made,
            self.splits.test,
            (),
            protocol.frame,
            protocol.localization.regions,
            precision=record.get("precision", "float32"),
            compiled=record.get("compiled", False),
        )
        if self.store is not None:
            work.kept = Kept.of(self.store, self.run.classifier, record["classifier_options"], work, self.splits)
        return work


def _show_kept(work: Work, wanted: set[Place], sheet: Show, size: int, progress: Progress) -> set[Place]:
    """Show the maps that a run with batches of that size left in the store, of all explainers; return which pairs."""
    shown: set[Place] = set()
    if work.kept is None:
        return shown
    with Decoder(work.split) as decoder:
        for start in sorted({row // size * size for row, _ in wanted}):
            batch = BatchWork(work, range(start, min(start + size, len(work.split))), decoder, {}, {})
            here = [(at, pair) for at, pair in enumerate(batch.pairs) if pair in wanted]
            if not here or batch.at is None:
                continue
            found = {name: batch.at.maps(name, batch.pairs) for name in work.explainers}
            if None in found.values():
                continue
            samples = {row: work.split[row] for row in dict.fromkeys(row for _, (row, _) in here)}
            for name, entry in found.items():
                assert entry is not None
                for at, (row, target) in here:
                    sheet(name, target, samples[row], torch.from_numpy(entry.arrays["maps"][at]), float("nan"))
            progress.advance(len(samples))
            shown |= {pair for _, pair in here}
    return shown


class _Picked:
    """Shows the maps of some pairs, by image id and class index."""

    def __init__(self, pairs: set[tuple[str, int]], show: Show) -> None:
        self.pairs, self.show = pairs, show

    def wants(self, explainer: str, image: str, target: int, hit: float | None) -> bool:
        return (image, target) in self.pairs

    def offer(self, explainer: str, target: int, picture: Picture, heat: Tensor, hit: float | None) -> None:
        self.show(explainer, target, picture.sample, heat, hit)


def reopen(
    run: Run,
    *,
    data_root: Path | None = None,
    checkpoint: Path | None = None,
    device: str = "auto",
    store: Path | None = None,
) -> Reopened:
    """Load a run's data and its classifier with the very weights that the run had; nothing is trained.

    Args:
        data_root: the folder of the data, for datasets that need one.
        checkpoint: the trained weights, where they are not in the user's cache any more.
        device: "auto", "cpu", "cuda", ...
        store: where the run kept its maps, as a folder; the command line's by default.

    Raises:
        DataError: the data are not those of the run; says which split.
        WeightsError: the weights are not here, or are others.
        XaibenchError: the run's record is incomplete.
    """
    record = run.record
    try:
        spec = ClassifierSpec(options=record["classifier_options"], recipe=record["recipe"])
        weights, data = dict(record["weights"]), dict(record["data"])
    except (KeyError, TypeError, ValueError) as error:
        raise XaibenchError(f"the record of run {_name(run)} is incomplete ({error}): run it again") from error
    splits = load_splits(run.benchmark, data_root)
    _check_data(run, splits, data, data_root)
    classifier = make_classifier(run.classifier, spec, run.benchmark).to(choose_device(device))
    making = Making.of(run.classifier, spec, run.benchmark, splits)
    trains = not classifier.comes_trained
    if trains and checkpoint is None and find_checkpoint(run.benchmark.name, making) is None:
        raise WeightsError(
            f"the weights of run {_name(run)} (recipe {making.hash[:12]}) are not in the cache: "
            "give --checkpoint FILE, or train them again with xaibench train"
        )
    obtain_weights(run.classifier, classifier, spec, run.benchmark, splits, given=checkpoint)
    if (known := record.get("memory_format")) in MEMORY_FORMATS:
        classifier.memory_format = MEMORY_FORMATS[known]  # which needs no trial
    classifier.optimized()
    found = weights_hash(classifier)
    if found != weights.get("sha256"):
        raise WeightsError(
            f"the weights of this recipe are not those of run {_name(run)} (sha256 {found[:12]}, there "
            f"{str(weights.get('sha256'))[:12]}): give --checkpoint FILE, or make the run again with xaibench run"
        )
    return Reopened(run, classifier, splits, Store(store or default_store()))


def check_explainer(run: Run, name: str, table: Any) -> None:
    """Check that a run scored an explainer; `table` is the run's per-image scores.

    Raises:
        UsageError: it did not; names those it scored.
    """
    known = {str(known) for known in table["explainer"].unique()}
    if name not in known:
        raise UsageError(f"run {_name(run)} has no scores of explainer {name!r}. {did_you_mean(name, known)}")


def _name(run: Run) -> str:
    return str(run.directory or run.record.get("id", run.benchmark.name))


def _check_data(run: Run, splits: Splits, recorded: Mapping[str, str], data_root: Path | None) -> None:
    different = [name for name in ("train", "val", "test") if getattr(splits, name).fingerprint != recorded.get(name)]
    if different:
        where = f"{data_root}: these data" if data_root else "the data"
        raise DataError(
            f"{where} are not those of run {_name(run)} (other {', '.join(different)} images or labels): "
            "give the folder that the run had, or run it again"
        )


class _Chosen(Split):
    """Some images of a split, in its order."""

    def __init__(self, split: Split, rows: Sequence[int]) -> None:
        self._split, self._rows = split, list(rows)
        self.classes, self.frame, self.threads = split.classes, split.frame, split.threads
        self.ids = [split.ids[row] for row in rows]
        self.patients = [split.patients[row] for row in rows]
        self.labels = split.labels[self._rows]
        self.fingerprint = f"{split.fingerprint}:{self._rows}"

    def __getitem__(self, index: int) -> Sample:
        return self._split[self._rows[index]]

    def regions(self, index: int, frame: Frame | Literal["input"] | None = "input") -> Mapping[int, Region]:
        return regions_of(self._split, self._rows[index], frame)

    def own_frame(self, index: int) -> Frame:
        return self._split.own_frame(self._rows[index])

    def image_key(self, index: int) -> str:
        return self._split.image_key(self._rows[index])
