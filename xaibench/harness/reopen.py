"""The maps of a run, made again: a run keeps scores and the record of what made them, not the maps."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from xaibench.benchmark import ClassifierSpec
from xaibench.classifiers.base import Classifier
from xaibench.datasets.base import Split, Splits
from xaibench.errors import DataError, UsageError, WeightsError, XaibenchError, did_you_mean
from xaibench.harness.run import Run
from xaibench.harness.setup import (
    choose_device,
    load_splits,
    make_classifier,
    make_explainers,
    obtain_weights,
    weights_hash,
)
from xaibench.harness.stream import Sheet, stream
from xaibench.progress import Progress
from xaibench.training.checkpoint import Making, find_checkpoint
from xaibench.types import Region, Sample

Pair = tuple[str, str]
"""An image's id and the name of the class explained."""


@dataclass(frozen=True)
class Reopened:
    """A run with its data and its classifier, as they were.

    Attributes:
        run: what was reopened.
        classifier: with the weights that the run had.
        splits: the data that the run saw.
    """

    run: Run
    classifier: Classifier
    splits: Splits

    def show(
        self,
        pairs: Collection[Pair],
        explainers: Sequence[str],
        sheet: Sheet,
        *,
        batch_size: int = 32,
        progress: Progress | None = None,
    ) -> None:
        """Explain pairs of the test split once more, image after image in its order, and show each map to `sheet`.

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
        wanted = {(image, test.classes.index(name)) for image, name in pairs}
        made = make_explainers(explainers, (), self.classifier, self.splits)[0]

        def pick(explainer: str, target: int, sample: Sample, heat: Tensor, hit: float | None) -> None:
            if (sample.id, target) in wanted:
                sheet(explainer, target, sample, heat, hit)

        chosen = _Chosen(test, sorted({rows[image] for image, _ in pairs}))
        progress.stage("explaining", len(chosen))
        if not len(chosen):
            return
        protocol = self.run.benchmark
        records = stream(
            self.classifier,
            made,
            chosen,
            (),
            frame=protocol.frame,
            regions=protocol.localization.regions,
            batch_size=batch_size,
            sheet=pick,
            advance=progress.advance,
        )
        for name, reason in records.failed.items():
            raise XaibenchError(f"explainer {name} failed ({reason})")


def reopen(
    run: Run,
    *,
    data_root: Path | None = None,
    checkpoint: Path | None = None,
    device: str = "auto",
) -> Reopened:
    """Load a run's data and its classifier with the very weights that the run had; nothing is trained.

    Args:
        data_root: the folder of the data, for datasets that need one.
        checkpoint: the trained weights, where they are not in the user's cache any more.
        device: "auto", "cpu", "cuda", ...

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
    classifier.optimized()
    found = weights_hash(classifier)
    if found != weights.get("sha256"):
        raise WeightsError(
            f"the weights of this recipe are not those of run {_name(run)} (sha256 {found[:12]}, there "
            f"{str(weights.get('sha256'))[:12]}): give --checkpoint FILE, or make the run again with xaibench run"
        )
    return Reopened(run, classifier, splits)


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
        self.classes, self.frame = split.classes, split.frame
        self.ids = [split.ids[row] for row in rows]
        self.patients = [split.patients[row] for row in rows]
        self.labels = split.labels[self._rows]
        self.fingerprint = f"{split.fingerprint}:{self._rows}"

    def __getitem__(self, index: int) -> Sample:
        return self._split[self._rows[index]]

    def regions(self, index: int) -> Mapping[int, Region]:
        return self._split.regions(self._rows[index])
