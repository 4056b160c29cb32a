"""Does an explanation give a cheating classifier away? Two classifiers, and the marker that the phantom can plant.

The cheating one is trained where the marker goes with a class, the honest one where there is none. Both then explain
that class on the same test images, which show its lesion and the marker. An explainer that tells what the classifier
looked at puts energy on the marker for the one and on the lesion for the other; how well the energy on the marker tells
the two apart is its ROC-AUC.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from xaibench.benchmark import Benchmark, ClassifierSpec, DatasetSpec, load_benchmark, override
from xaibench.classifiers.base import Classifier, hash_tensors
from xaibench.classifiers.state import Seen
from xaibench.datasets.base import Split, Splits
from xaibench.datasets.loader import batches
from xaibench.errors import PLUGIN_ERRORS, NotApplicableError, UsageError, XaibenchError, did_you_mean
from xaibench.evaluation.setup import choose_device, load_splits, make_classifier, make_explainers, obtain_weights
from xaibench.explainers.base import Explainer
from xaibench.explainers.calling import call
from xaibench.io.versions import versions
from xaibench.metrics.classification import class_scores, roc_auc
from xaibench.metrics.localization import energy
from xaibench.progress import Progress
from xaibench.registry import one_line
from xaibench.statistics.auc import auc_interval
from xaibench.statistics.bootstrap import Interval, mean_interval
from xaibench.types import Sample

BASELINE = "random"
"""An explainer that can't tell the two apart, shown beside the others."""
KINDS = ("cheating", "honest")
PLACES = ("marker", "lesion")
Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Figure:
    """A number with its interval; `value` is NaN where nothing is defined."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, value: float, interval: Interval) -> Figure:
        return cls(value, interval.low, interval.high)


@dataclass(frozen=True)
class Detection:
    """What one explainer shows of the two classifiers.

    Args:
        explainer: its name.
        is_baseline: looks at no evidence.
        shares: share of the map's positive part ("energy") by place and classifier: ``shares["marker"]["honest"]``.
        auc: ROC-AUC of the energy on the marker, cheating against honest.
        n: images where both have an energy.
        patients: of these images.
        undefined: images left out, as a map was constant or nowhere positive.
    """

    explainer: str
    is_baseline: bool
    shares: Mapping[str, Mapping[str, Figure]]
    auc: Figure
    n: int
    patients: int
    undefined: int


@dataclass(frozen=True)
class Shortcut:
    """The result of `shortcut`.

    Args:
        classifier: its name.
        benchmark: whose recipe trained both.
        class_name: that the marker goes with.
        correlation: of marker and class where the cheating one was trained.
        chance: "marker" and "lesion" to the mean share of the image that they cover.
        roc_auc: of that class by classifier and test images: ``roc_auc["cheating"]["no marker"]``.
        detections: one for each explainer.
        failed: explainer to the reason why it was given up.
        record: hashes and versions of what decides the numbers.
        notes: for the user.
    """

    classifier: str
    benchmark: str
    class_name: str
    correlation: float
    chance: Mapping[str, float]
    roc_auc: Mapping[str, Mapping[str, float]]
    detections: Sequence[Detection]
    failed: Mapping[str, str] = field(default_factory=dict)
    record: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()

    def to_json(self) -> dict[str, Any]:
        """Return a JSON value; null where a number is not defined."""
        return _plain(asdict(self))  # type: ignore[no-any-return]


def shortcut(
    classifier: str,
    explainers: Sequence[str],
    benchmark: str | Path | Benchmark = "phantom",
    *,
    class_name: str = "Pneumothorax",
    correlation: float = 1.0,
    images: int | None = None,
    cheating: Path | None = None,
    honest: Path | None = None,
    options: Mapping[str, Any] | None = None,
    recipe: Mapping[str, Any] | None = None,
    batch_size: int = 32,
    device: str = "auto",
    progress: Progress | None = None,
) -> Shortcut:
    """Train (or take) a cheating and an honest classifier, and measure how well explainers tell them apart.

    Args:
        classifier: its registered name.
        explainers: registered names, at least one; `BASELINE` comes beside them.
        benchmark: one of the phantom's; its recipe trains both.
        class_name: that the marker goes with.
        correlation: of marker and class in the cheating one's training images, above 0; every test image explained
            has the marker.
        images: how many images of the class are explained; all of the benchmark's test split when None.
        cheating, honest: trained weights to use; they must come from the same recipe on the same data.
        options, recipe: replace options of the classifier, or fields of its recipe.
        batch_size, device, progress: as for `xaibench.evaluation.evaluate.evaluate`.

    Raises:
        XaibenchError: anything that the user can mend; says what and how.
    """
    progress = progress or Progress()
    protocol = benchmark if isinstance(benchmark, Benchmark) else load_benchmark(benchmark)
    _check(protocol, explainers, class_name, correlation, images, batch_size)
    spec = override(protocol.classifier(classifier), options or {}, recipe or {})
    target = protocol.classes.index(class_name)
    plain = _planted(protocol, None, class_name, images)
    marked = _planted(protocol, 1.0, class_name, images)
    trained_on = {"cheating": _planted(protocol, correlation, class_name, images), "honest": plain}
    tests = {"with marker": load_splits(marked, None).test, "no marker": load_splits(plain, None).test}
    rows = np.flatnonzero(tests["with marker"].labels[:, target] == 1).tolist()
    found: dict[str, Array] = {}
    roc: dict[str, dict[str, float]] = {}
    failed: dict[str, str] = {}
    faults: dict[str, str] = {}
    weights: dict[str, str] = {}
    chance = np.empty((0, 2))
    baselines: set[str] = set()
    for kind, given in zip(KINDS, (cheating, honest), strict=True):
        progress.say(f"the {kind} classifier")
        splits = load_splits(trained_on[kind], None)
        model, weights[kind] = _obtain(classifier, spec, trained_on[kind], splits, given, device, progress)
        asked, beside, _ = make_explainers(explainers, (BASELINE,), model, splits)
        baselines |= {name for name, made in {**asked, **beside}.items() if made.is_baseline}
        roc[kind] = {name: _roc_auc(model, test, target, protocol.task, batch_size) for name, test in tests.items()}
        progress.stage(f"explaining the {kind} classifier", len(rows))
        shares, chance = energies(
            model,
            {name: made for name, made in {**asked, **beside}.items() if name not in failed},
            tests["with marker"],
            rows,
            target,
            batch_size=batch_size,
            failed=failed,
            faults=faults,
            advance=progress.advance,
        )
        found |= {f"{kind} {name}": values for name, values in shares.items()}
    patients = [tests["with marker"].patients[row] for row in rows]
    progress.stage("intervals", 1)
    detections = [
        detect(name, name in baselines, found[f"cheating {name}"], found[f"honest {name}"], patients, protocol)
        for name in dict.fromkeys([*explainers, BASELINE])
        if name not in failed
    ]
    progress.advance(1)
    return Shortcut(
        classifier=classifier,
        benchmark=protocol.name,
        class_name=class_name,
        correlation=correlation,
        chance=dict(zip(PLACES, chance.mean(axis=0).tolist(), strict=True)),
        roc_auc=roc,
        detections=detections,
        failed=failed,
        record={"benchmark": protocol.hash, "weights": weights, "versions": versions()}
        | {"data": {name: test.fingerprint for name, test in tests.items()}},
        notes=[*_notes(roc, class_name), *_fault_notes(faults)],
    )


def energies(
    classifier: Classifier,
    explainers: Mapping[str, Explainer],
    split: Split,
    rows: Sequence[int],
    target: int,
    *,
    batch_size: int,
    failed: dict[str, str],
    faults: dict[str, str] | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> tuple[dict[str, Array], Array]:
    """Explain one class of some images and measure the energy on marker and lesion.

    Args:
        rows: indices of N images of the split, each with a marker.
        target: the class explained.
        failed: an explainer that fails is given up and its reason put in here; the others go on.
        faults: explainer to what it left on the classifier, which is taken away before the next one explains.

    Returns:
        Explainer to energies (N, 2), on marker and lesion, NaN where undefined; and the shares of the image that these
        cover, (N, 2).
    """
    found: dict[str, list[Array]] = {name: [] for name in explainers}
    areas, before = [], Seen.of(classifier)
    for batch in batches(split, batch_size, rows):
        images = classifier.laid_out(batch.images.to(classifier.device))
        masks = [torch.from_numpy(mask).to(images.device) for mask in _masks(batch.samples, split, target)]
        areas.append(np.stack([mask.double().mean((1, 2)).cpu().numpy() for mask in masks], axis=1))
        targets = torch.full((len(images),), target, device=images.device)
        with torch.no_grad():
            prediction = classifier.predict(images, batch.ids)
            for name, explainer in explainers.items():
                if name in failed:
                    continue
                try:
                    maps = call(explainer, classifier, prediction, targets)
                    values = [energy(maps, mask).cpu().numpy() for mask in masks]
                except PLUGIN_ERRORS as error:  # one method's fault must not cost the others' work
                    failed[name] = one_line(error)
                    continue
                finally:
                    left = before.tidy(classifier)
                    if left is not None and faults is not None:
                        faults.setdefault(name, left)
                found[name].append(np.stack(values, axis=1))
        advance(len(images))
    return {name: np.concatenate(v) for name, v in found.items() if name not in failed}, np.concatenate(areas)


def detect(
    name: str, is_baseline: bool, cheating: Array, honest: Array, patients: Sequence[str], protocol: Benchmark
) -> Detection:
    """Compare the energies (N, 2), on marker and lesion, that an explainer finds in the two classifiers.

    Intervals draw patients; both maps of an image come along with its patient.
    """
    options: dict[str, Any] = {
        key: getattr(protocol.statistics, key) for key in ("method", "confidence", "resamples", "seed")
    }
    there = np.isfinite(cheating[:, 0]) & np.isfinite(honest[:, 0])
    who = [patient for patient, kept in zip(patients, there, strict=True) if kept]
    both = {"cheating": cheating[there], "honest": honest[there]}
    shares = {
        place: {kind: _mean(values[:, column], who, options) for kind, values in both.items()}
        for column, place in enumerate(PLACES)
    }
    if not who:
        return Detection(name, is_baseline, shares, Figure(math.nan, 0.0, 1.0), 0, 0, len(there))
    scores = np.concatenate([values[:, 0] for values in both.values()])
    labels = np.repeat([1, 0], len(who))
    auc = Figure.of(roc_auc(scores, labels), auc_interval(scores, labels, [*who, *who], **options))
    return Detection(name, is_baseline, shares, auc, len(who), len(set(who)), int((~there).sum()))


def _mean(values: Array, patients: Sequence[str], options: Mapping[str, Any]) -> Figure:
    if not np.isfinite(values).any():
        return Figure(math.nan, 0.0, 1.0)
    return Figure.of(float(np.nanmean(values)), mean_interval(values, patients, **options))


def _check(
    protocol: Benchmark,
    explainers: Sequence[str],
    class_name: str,
    correlation: float,
    images: int | None,
    batch_size: int,
) -> None:
    if isinstance(explainers, str) or not explainers:
        raise UsageError('explainers: give a list of at least one name, such as ["cwm"]')
    if protocol.dataset.name != "phantom":
        raise UsageError(
            f"benchmark {protocol.name!r} is of dataset {protocol.dataset.name!r}, and only the phantom can plant a "
            "marker: take --benchmark phantom"
        )
    if class_name not in protocol.classes:
        raise UsageError(f"the marker's class {class_name!r}: {did_you_mean(class_name, protocol.classes)}")
    if not 0 < correlation <= 1:
        raise UsageError(
            f"correlation = {correlation}; without one above 0 (and at most 1) there is nothing to cheat by"
        )
    if images is not None and images < 2:
        raise UsageError(f"images = {images}; two classifiers are told apart on at least 2")
    if batch_size < 1:
        raise UsageError(f"batch_size = {batch_size}; it is at least 1")


def _planted(protocol: Benchmark, correlation: float | None, class_name: str, images: int | None) -> Benchmark:
    """Return the benchmark with a marker that goes with a class (None: without), and so many test images of it."""
    options = {key: value for key, value in protocol.dataset.options.items() if not key.startswith("shortcut")}
    if correlation is not None:
        options |= {"shortcut": correlation, "shortcut_class": class_name}
    if images is not None:
        options["test"] = images * len(protocol.classes)  # findings take turns
    return protocol.model_copy(update={"dataset": DatasetSpec(name="phantom", options=options)})


def _obtain(
    name: str,
    spec: ClassifierSpec,
    protocol: Benchmark,
    splits: Splits,
    given: Path | None,
    device: str,
    progress: Progress,
) -> tuple[Classifier, str]:
    model = make_classifier(name, spec, protocol).to(choose_device(device))
    obtain_weights(name, model, spec, protocol, splits, given=given, progress=progress)
    model.optimized()
    return model, hash_tensors(model.trained_state().items())


def _roc_auc(classifier: Classifier, split: Split, target: int, task: str, batch_size: int) -> float:
    logits = []
    with torch.no_grad():
        for batch in batches(split, batch_size):
            images = classifier.laid_out(batch.images.to(classifier.device))
            logits.append(classifier(images).double().cpu().numpy())
    return float(roc_auc(class_scores(np.concatenate(logits), task)[:, target], split.labels[:, target]))


def _masks(samples: Sequence[Sample], split: Split, target: int) -> tuple[npt.NDArray[np.bool_], ...]:
    """Return the masks (B, H, W) of the markers and of the class's lesions, empty where there is none."""
    shape = (split.frame.height, split.frame.width)
    markers, lesions = [], []
    for sample in samples:
        if "marker" not in sample.meta:
            raise NotApplicableError(f"image {sample.id} has no marker: choose images that do")
        region = sample.regions.get(target)
        markers.append(sample.meta["marker"].rasterize(split.frame, source="mask"))
        lesions.append(np.zeros(shape, dtype=bool) if region is None else region.rasterize(split.frame, source="mask"))
    return np.stack(markers), np.stack(lesions)


def _notes(roc: Mapping[str, Mapping[str, float]], class_name: str) -> list[str]:
    """Say so where the cheating classifier does not cheat: what explainers can't show is then no fault of theirs."""
    with_marker, without = roc["cheating"]["with marker"], roc["cheating"]["no marker"]
    if with_marker - without < 0.05:
        return [
            f"the cheating classifier finds {class_name} without the marker too (ROC-AUC {without:.3f}, with it "
            f"{with_marker:.3f}): it may look at the lesion, and an explainer that says so is right"
        ]
    return []


def _fault_notes(faults: Mapping[str, str]) -> list[str]:
    return [
        f"explainer {name}: {left}: taken away for the others; put it back in a finally block"
        for name, left in faults.items()
    ]


def raise_if_failed(found: Shortcut, explainers: Sequence[str]) -> None:
    """Raise when an explainer that was asked for gave no maps.

    Raises:
        XaibenchError: names the first and its reason.
    """
    for name in explainers:
        if name in found.failed:
            raise XaibenchError(f"explainer {name} failed ({found.failed[name]}); the other figures stand")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
