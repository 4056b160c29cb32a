"""The paper's study on one dataset: two classifiers, seeded subsets, everything found again where it was left."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import xaibench
from xaibench.benchmark import Benchmark, Deviation, deviations, load_benchmark
from xaibench.classifiers.base import Classifier
from xaibench.datasets.base import Splits
from xaibench.datasets.chestxray8.cohort import CohortAudit, Overlap, audit_cohort
from xaibench.errors import DataError, UsageError, WeightsError, XaibenchError, first_line
from xaibench.evaluation.evaluate import evaluate
from xaibench.evaluation.setup import choose_device, duration, expected_seconds, load_splits, make_classifier
from xaibench.io.store import default_store
from xaibench.progress import Progress
from xaibench.results.run import Run
from xaibench.studies.gcm_paper.map_pairs import MapDifference, compare_maps
from xaibench.studies.gcm_paper.normal_maps import NORMAL, MapArea, map_areas
from xaibench.studies.gcm_paper.subsets import (
    AUCDifference,
    AUCEquivalence,
    MeanAUC,
    best_subset,
    compare_aucs,
    doubts,
    equivalences,
    mean_aucs,
)
from xaibench.studies.gcm_paper.variants import (
    CLASSIFIERS,
    EXPLAINERS,
    Settings,
    needs_network,
    subset_benchmark,
    with_metrics,
)
from xaibench.training.checkpoint import Making, find_checkpoint

MAPS = ("cwm", "gradcam")
"""The two explainers whose maps are compared, of `CLASSIFIERS`."""
COMPARED = ("energy", "hit_rate", "pointing_game", "iou_otsu")
"""The metrics that they are compared by."""
BESIDE = "patient_disjoint"
"""The split rule that is carried out beside "paper", whose test has patients of the training."""
BOX_METRICS = ("t_iou", "t_iobb", "t_iou_false_positives", "t_iobb_false_positives")
"""Added to a benchmark that lacks them where they are installed: Wang et al.'s accuracies and false positives."""


@dataclass(frozen=True)
class Counts:
    """Images of each class, and patients, in the splits of one subset.

    Attributes:
        leaking: test images of a patient who is in the training; `leaking_any`: in training or validation.
        negatives: test images that count as no example of the class.
        contradicting: those of them that the data label with it.
    """

    train: Mapping[str, int]
    val: Mapping[str, int]
    test: Mapping[str, int]
    patients: tuple[int, int, int]
    leaking: Mapping[str, int] = field(default_factory=dict)
    leaking_any: Mapping[str, int] = field(default_factory=dict)
    negatives: Mapping[str, int] = field(default_factory=dict)
    contradicting: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Size:
    """Parameters of a classifier: all, and those that are trained."""

    parameters: int
    trained: int


@dataclass
class Reproduction:
    """What a reproduction found; a part that could not be computed is empty and has its reason in `missing`.

    Attributes:
        base: the benchmark as written.
        benchmarks: that of each subset.
        audit: the cohort audit, for chestxray8.
        counts: of each subset.
        same_training: the subsets train on the same images, so that only the seed tells them apart.
        runs: classifier to its runs, one a subset.
        training_seconds: classifier to the seconds of each subset's training, None where they are not known.
        strict: as `aucs`, from the same predictions without the test images of training or validation patients and
            without negatives that the data label with the class.
        equivalence: whether the classifiers' ROC-AUCs are comparable, on all images and on those of `strict`.
        maps: `MAPS` compared on the same images.
        overlaps: training-side images that the subsets share, of the images used.
        beside: the same study by the split rule `BESIDE`, where it was asked for.
        best: classifier to the subset that its maps are judged on.
        areas: classifier to what the maps of its best run cover on normal images.
        missing: part ("audit", "runs", "areas", ...) to the reason why it is not there.
        notes: what the user should know.
        seconds: of this call.
    """

    base: Benchmark
    settings: Settings
    benchmarks: Sequence[Benchmark]
    data_root: Path | None
    device: str
    deviations: Sequence[Deviation] = ()
    audit: CohortAudit | None = None
    counts: Sequence[Counts] = ()
    same_training: bool = False
    sizes: dict[str, Size] = field(default_factory=dict)
    runs: dict[str, list[Run]] = field(default_factory=dict)
    training_seconds: dict[str, list[float | None]] = field(default_factory=dict)
    aucs: dict[str, list[MeanAUC]] = field(default_factory=dict)
    strict: dict[str, list[MeanAUC]] = field(default_factory=dict)
    differences: list[AUCDifference] = field(default_factory=list)
    equivalence: list[AUCEquivalence] = field(default_factory=list)
    maps: list[MapDifference] = field(default_factory=list)
    overlaps: Sequence[Overlap] = ()
    beside: Reproduction | None = None
    best: dict[str, int] = field(default_factory=dict)
    areas: dict[str, list[MapArea]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def best_runs(self) -> dict[str, Run]:
        """Each classifier's run of its best subset."""
        return {name: self.runs[name][subset] for name, subset in self.best.items()}

    @property
    def preset(self) -> str:
        """The split rule; "" for data without a choice of one."""
        return str(self.benchmarks[0].dataset.options.get("split", ""))

    @property
    def measured_on(self) -> str:
        """What the numbers here were measured on, in a few words."""
        name = self.base.dataset.name
        if self.audit is None:
            return "drawn images" if name == "phantom" else f"data of {name}"
        whole = self.audit.found == self.audit.images
        return "the NIH release" if whole else f"{self.audit.found:,} of the NIH release's {self.audit.images:,} images"

    @property
    def like_for_like(self) -> bool:
        """Whether a published value and one measured here are of the same data by the same protocol.

        Metrics that were added change no other number.
        """
        complete = self.audit is not None and 0 < self.audit.found == self.audit.images
        changed = any(not deviation.key.startswith("metrics.") for deviation in self.deviations)
        return complete and not changed and bool(self.runs)

    @property
    def claim(self) -> str:
        """What the numbers here say, or do not say, of the published ones."""
        if self.like_for_like:
            return "Measured on the NIH release by the benchmark as written, beside the published values."
        nothing = "No table of the paper has been measured here on the NIH release"
        if not self.runs:
            return f"{nothing}: {self.missing.get('runs', 'nothing was run')}."
        why = f"it was measured on {self.measured_on}"
        if self.audit is not None and self.audit.found == self.audit.images:
            why = "the benchmark was not carried out as written (see Deviations)"
        return (
            f"{nothing}. Published values are those of the paper, on that release; what stands beside them here is no "
            f"reproduction of them: {why}."
        )

    def to_json(self) -> dict[str, Any]:
        """Return every number as plain values; what is undefined is None."""
        parts = ["deviations", "audit", "counts", "sizes", "aucs", "strict", "differences", "equivalence", "maps"]
        parts += ["overlaps", "best", "areas", "missing", "notes", "claim", "measured_on", "preset"]
        table = {name: _plain(getattr(self, name)) for name in parts}
        table["beside"] = None if self.beside is None else self.beside.to_json()
        table["benchmarks"] = [{"hash": used.hash, **used.model_dump(mode="json")} for used in self.benchmarks]
        table["runs"] = {name: [run.to_json() for run in runs] for name, runs in self.runs.items()}
        return table | {"training_seconds": self.training_seconds, "seconds": self.seconds, "device": self.device}


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {item.name: _plain(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def reproduce(
    benchmark: str | Path | Benchmark,
    *,
    data_root: Path | None = None,
    out: Path,
    settings: Settings | None = None,
    older_entries: Path | None = None,
    batch_size: int = 32,
    device: str = "auto",
    devices: int = 1,
    progress: Progress | None = None,
) -> Reproduction:
    """Carry out the study, going on where an interrupted one stopped.

    Finished runs are found in ``out/runs``, finished and interrupted trainings in the cache. Where the data root has
    the tables but no image, the cohort audit is all there is.

    Where the benchmark's split rule is "paper" and the settings name none, the study is carried out by `BESIDE` too, in
    a folder of that name; a rule that can't be drawn from these images is then no error, but `missing`.

    Args:
        benchmark: a registered name, a TOML file, or a `Benchmark`, on chestxray8 or phantom.
        out: the folder of the reproduction.
        settings: what differs from the benchmark.
        older_entries: an older Data_Entry table, to compare labels with.
        batch_size: images at once in the evaluation.
        devices: how many share each training.

    Raises:
        XaibenchError: anything that the user can mend; says what and how.
    """
    began = time.monotonic()
    progress, settings = progress or Progress(), settings or Settings()
    if settings.subsets < 1:
        raise UsageError(f"subsets = {settings.subsets}; it is at least 1")
    base = benchmark if isinstance(benchmark, Benchmark) else load_benchmark(benchmark)
    how: dict[str, Any] = {"batch_size": batch_size, "device": device, "devices": devices, "progress": progress}
    both = settings.preset is None and subset_benchmark(base, settings, 0).dataset.options.get("split") == "paper"
    found = _prepared(base, data_root, settings, older_entries, device, progress)
    problems = [_measure(found, out, **how)]
    if both:
        progress.say(f"beside it: the split rule {BESIDE}, no patient on two sides")
        other = replace(settings, preset=BESIDE)
        found.beside = _prepared(base, data_root, other, None, device, progress, found.audit)
        problems.append(_measure(found.beside, out / BESIDE, **how))
        found.beside.seconds = round(time.monotonic() - began, 1)
    if all(problems) and problems[0] is not None:
        raise problems[0]
    found.seconds = round(time.monotonic() - began, 1)
    return found


def _prepared(
    base: Benchmark,
    data_root: Path | None,
    settings: Settings,
    older_entries: Path | None,
    device: str,
    progress: Progress,
    audit: CohortAudit | None = None,
) -> Reproduction:
    """Return a reproduction of which nothing is measured yet: benchmarks, deviations and the cohort audit.

    Args:
        audit: that of the same data, where it was made already.
    """
    made = [subset_benchmark(base, settings, subset) for subset in range(settings.subsets)]
    found = Reproduction(base, settings, made, data_root, str(choose_device(device)))
    if base.dataset.name == "chestxray8":
        if data_root is None:
            raise UsageError("chestxray8 needs --data-root: the folder of the NIH release")
        found.audit = audit or _audited(base, data_root, made[0], settings, older_entries, progress)
        if found.audit.found < found.audit.images:
            made = [_allow_missing(subset) for subset in made]
    else:
        found.missing["audit"] = f"dataset {base.dataset.name} draws its images: it has no NIH tables"
        if older_entries is not None:
            raise UsageError(f"--older-entries: dataset {base.dataset.name!r} has no Data_Entry table")
    found.benchmarks = [with_metrics(subset, BOX_METRICS) for subset in made]
    found.deviations = deviations(base, found.benchmarks[0])
    return found


def _audited(
    base: Benchmark, root: Path, made: Benchmark, settings: Settings, older: Path | None, progress: Progress
) -> CohortAudit:
    """Audit the protocol as written: a reduced size says nothing about table 1."""
    progress.say("cohort audit: counting what each split rule draws")
    options = {"task": base.task, **base.dataset.options, "images": made.dataset.options.get("images", "auto")}
    return audit_cohort(root, base.classes, options=options, older=older, subsets=settings.subsets)


def _measure(
    found: Reproduction, out: Path, *, batch_size: int, device: str, devices: int, progress: Progress
) -> DataError | None:
    """Train, evaluate and compare; return why these images can't be drawn by the split rule, None where they can."""
    if found.audit is not None and not found.audit.found:
        found.missing["runs"] = (
            f"no image of the release is in {found.data_root}: the tables alone allow the audit only"
        )
        return None
    try:
        splits = [load_splits(benchmark, found.data_root) for benchmark in found.benchmarks]
    except DataError as error:
        found.missing["runs"] = (
            f"the split rule {found.preset or 'of the data'} can't be drawn: {first_line(error, 300)}"
        )
        return error
    _run_all(found, splits, out, batch_size, device, devices, progress)
    _summarize(found, splits, device, progress)
    return None


def _allow_missing(benchmark: Benchmark) -> Benchmark:
    table = benchmark.model_dump()
    table["dataset"]["options"] = {**table["dataset"]["options"], "allow_missing": True}
    return Benchmark.model_validate(table)


def _run_all(
    found: Reproduction,
    splits: Sequence[Splits],
    out: Path,
    batch_size: int,
    device: str,
    devices: int,
    progress: Progress,
) -> None:
    folder = out / "runs"
    found.counts = [_counts(part) for part in splits]
    found.overlaps = _overlaps(found.preset, splits)
    found.same_training = len(splits) > 1 and all(
        sorted(part.train.ids) == sorted(splits[0].train.ids) for part in splits
    )
    done = finished_runs(folder, found.benchmarks, splits)
    _announce(found, splits, done, device, progress)
    jobs = [(subset, name) for subset in range(len(splits)) for name in CLASSIFIERS]
    for number, (subset, name) in enumerate(jobs, start=1):
        run = done.get((name, subset))
        what = f"run {number} of {len(jobs)}: {name}, subset {subset}"
        if run is None:
            progress.say(what)
            run = evaluate(
                name,
                EXPLAINERS[name],
                found.benchmarks[subset],
                data_root=found.data_root,
                out=folder,
                batch_size=batch_size,
                device=device,
                devices=devices,
                store=default_store(),
                progress=progress,
            )
        else:
            progress.say(f"{what}: found in {run.directory}")
        found.runs.setdefault(name, []).append(run)
        found.training_seconds.setdefault(name, []).append(_training_seconds(run, splits[subset]))


def finished_runs(
    folder: Path, benchmarks: Sequence[Benchmark], splits: Sequence[Splits]
) -> dict[tuple[str, int], Run]:
    """Return the runs in a folder that are those of (classifier, subset): same protocol, explainers, data, version.

    A directory that is no whole run is passed over: it is made again.
    """
    runs = []
    for path in sorted(folder.glob("*/run.json")):
        try:
            runs.append(Run.load(path.parent))
        except XaibenchError:
            continue
    found = {}
    for subset, (benchmark, part) in enumerate(zip(benchmarks, splits, strict=True)):
        data = {name: getattr(part, name).fingerprint for name in ("train", "val", "test")}
        for run in runs:
            version = run.record.get("versions", {}).get("xaibench")
            wanted = EXPLAINERS.get(run.classifier)
            if (run.benchmark.hash, run.explainers, run.record.get("data"), version) == (
                benchmark.hash,
                wanted,
                data,
                xaibench.__version__,
            ) and not run.record.get("failed"):
                found[run.classifier, subset] = run
    return found


def _announce(
    found: Reproduction,
    splits: Sequence[Splits],
    done: Mapping[tuple[str, int], Run],
    device: str,
    progress: Progress,
) -> None:
    """Say how long the trainings that are left take, and note how large the classifiers are."""
    left, seconds = 0, 0.0
    for name in CLASSIFIERS:
        model = _make(found, name).to(choose_device(device)).optimized()
        numbers = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
        found.sizes[name] = Size(sum(n for n, _ in numbers), sum(n for n, trained in numbers if trained))
        for subset, (benchmark, part) in enumerate(zip(found.benchmarks, splits, strict=True)):
            spec = benchmark.classifier(name)
            making = Making.of(name, spec, benchmark, part)
            if (name, subset) not in done and find_checkpoint(benchmark.name, making) is None:
                left += 1
                seconds += expected_seconds(model, spec.recipe, part)
    jobs = len(CLASSIFIERS) * len(splits)
    if left:
        progress.say(
            f"{left} of {jobs} trainings to do: about {duration(seconds)} on {found.device}, less what an interrupted "
            "one has done already. Interrupted at any time, the same command goes on"
        )
    elif len(done) < jobs:
        progress.say(f"all {jobs} trainings are done; {jobs - len(done)} runs to evaluate")


def _make(found: Reproduction, name: str) -> Classifier:
    spec = found.benchmarks[0].classifier(name)
    try:
        return make_classifier(name, spec, found.benchmarks[0])
    except WeightsError as error:
        if not needs_network(spec.options):
            raise
        raise WeightsError(
            f"{first_line(error, 200)}: connect to the network once, or add --offline, which replaces pretrained "
            "weights by those that need no network (a deviation, listed in the page)"
        ) from error


def _counts(splits: Splits) -> Counts:
    parts = (splits.train, splits.val, splits.test)
    train, val, test = (
        dict(zip(part.classes, part.labels.sum(axis=0).astype(int).tolist(), strict=True)) for part in parts
    )
    patients = tuple(len(set(part.patients)) for part in parts)
    against = doubts(splits)
    leaking, leaking_any = (
        dict(zip(splits.test.classes, splits.test.labels[rows].sum(axis=0).astype(int).tolist(), strict=True))
        for rows in (against.trained, against.trained | against.validated)
    )
    contradicting = dict(zip(splits.test.classes, against.contradicting.sum(axis=0).tolist(), strict=True))
    negatives = {name: len(splits.test) - n for name, n in test.items()}
    sizes = (patients[0], patients[1], patients[2])
    return Counts(train, val, test, sizes, leaking, leaking_any, negatives, contradicting)


def _overlaps(preset: str, splits: Sequence[Splits]) -> list[Overlap]:
    """Count the training-side images that every two subsets share."""
    sides = []
    for part in splits:
        ids, labels = [*part.train.ids, *part.val.ids], np.concatenate([part.train.labels, part.val.labels])
        columns = enumerate(part.train.classes)
        sides.append({name: {ids[row] for row in np.flatnonzero(labels[:, k])} for k, name in columns})
    return [
        Overlap(
            preset,
            (one, other),
            {name: len(images & sides[other][name]) for name, images in sides[one].items()},
            {name: len(images) for name, images in sides[one].items()},
        )
        for one, other in itertools.combinations(range(len(sides)), 2)
    ]


def _training_seconds(run: Run, splits: Splits) -> float | None:
    spec = run.benchmark.classifier(run.classifier)
    checkpoint = find_checkpoint(run.benchmark.name, Making.of(run.classifier, spec, run.benchmark, splits))
    return None if checkpoint is None else checkpoint.seconds


def _summarize(found: Reproduction, splits: Sequence[Splits], device: str, progress: Progress) -> None:
    progress.stage("comparing", 1)
    usable = [doubts(part).usable for part in splits]
    for name, runs in found.runs.items():
        found.aucs[name] = mean_aucs(runs)
        found.strict[name] = mean_aucs(runs, usable)
        found.best[name] = best_subset(runs)
    first, second = (found.runs[name] for name in CLASSIFIERS)
    found.differences = compare_aucs(first, second)
    found.equivalence = [*equivalences(first, second), *equivalences(first, second, usable)]
    declared = {spec.name for spec in found.benchmarks[0].metrics}
    found.maps = compare_maps(first, second, MAPS, [name for name in COMPARED if name in declared])
    if not found.maps:
        found.missing["maps"] = "no test image has a box of one of the classes"
    progress.advance(1)
    if NORMAL not in found.base.classes:
        found.missing["areas"] = f"the benchmark has no class {NORMAL!r}"
        return
    for name, run in found.best_runs.items():
        try:
            found.areas[name] = map_areas(run, data_root=found.data_root, device=device, progress=progress)
        except XaibenchError as error:
            found.missing["areas"] = f"the maps of {name} could not be made again: {first_line(error, 300)}"
            found.notes.append(f"map areas of {name}: {first_line(error, 300)}")
