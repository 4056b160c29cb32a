"""The cohort audit: which images each split rule draws, beside the counts that the paper's table 1 prints.

It needs the tables alone. Where images are there, it also says what can be drawn from them.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from xaibench.datasets.chestxray8.images import ImageIndex, index_images
from xaibench.datasets.chestxray8.options import Options, parse_options
from xaibench.datasets.chestxray8.splits import Drawn, contradicting, draw, find_candidates, shared_patients
from xaibench.datasets.chestxray8.tables import Record, Tables, canonical, parse_entries, read_tables
from xaibench.errors import DataError
from xaibench.io.limits import read_text
from xaibench.published import Cohort

PRESETS = ("paper", "official_split", "patient_disjoint")


@dataclass(frozen=True)
class ClassFacts:
    """One class in the tables, whatever the split.

    Attributes:
        single_label: images whose only label it is.
        single_label_train_val: those of them in the official train_val list; None without that list.
        boxes: its boxes, one an image.
        single_box: images whose only box is one of this class.
        shared: single-label images without a box whose patient has a boxed image of one of the classes.
    """

    name: str
    single_label: int
    single_label_train_val: int | None
    boxes: int
    single_box: int
    shared: int


@dataclass(frozen=True)
class PresetCounts:
    """What one preset draws.

    Attributes:
        train: class to images on the training side (training and validation).
        test: class to images.
        patients: on the training side and in the test.
        shared_patients: patients on both sides.
        shared_images: training-side images of those patients.
        boxed_in_train: training-side images that have a box of any finding.
        validation: class to images of the training side that validate.
        leaking: class to test images of a patient who is in the training; `leaking_any`: in training or validation.
        negatives: class to test images that count as no example of it.
        contradicting: class to those of them that Data_Entry labels with it.
        problem: why nothing could be drawn; the rest is empty then.
    """

    preset: str
    train: Mapping[str, int]
    test: Mapping[str, int]
    patients: tuple[int, int] = (0, 0)
    shared_patients: int = 0
    shared_images: int = 0
    boxed_in_train: int = 0
    validation: Mapping[str, int] = field(default_factory=dict)
    leaking: Mapping[str, int] = field(default_factory=dict)
    leaking_any: Mapping[str, int] = field(default_factory=dict)
    negatives: Mapping[str, int] = field(default_factory=dict)
    contradicting: Mapping[str, int] = field(default_factory=dict)
    problem: str = ""


@dataclass(frozen=True)
class Overlap:
    """Training-side images that two subsets share.

    Attributes:
        preset: the split rule.
        subsets: the two.
        shared: class to images that are in both.
        images: class to images of the first.
    """

    preset: str
    subsets: tuple[int, int]
    shared: Mapping[str, int]
    images: Mapping[str, int]


@dataclass(frozen=True)
class LabelChanges:
    """How an older Data_Entry table differs.

    Attributes:
        compared: images in both tables.
        changed: images whose labels differ.
        examples: the first few, as ``id: old -> new``.
        lost, gained: class to images that had the label only in the older table, only in the newer.
        single_label: class to images with it as the only label in the older table.
        only_older, only_newer: images that one table alone lists.
    """

    source: str
    compared: int
    changed: int
    examples: Sequence[str]
    lost: Mapping[str, int]
    gained: Mapping[str, int]
    single_label: Mapping[str, int]
    only_older: int
    only_newer: int


@dataclass(frozen=True)
class CohortAudit:
    """The outcome of `audit_cohort`.

    Attributes:
        images: named by the tables.
        found: of those, in the data root.
        tables: one row a preset, from all images that the tables name.
        present: the same from the images found; empty where all or none are.
        overlaps: of every two subsets of a preset, from all images that the tables name.
    """

    images: int
    patients: int
    found: int
    classes: Sequence[ClassFacts]
    tables: Sequence[PresetCounts]
    present: Sequence[PresetCounts]
    changes: LabelChanges | None = None
    overlaps: Sequence[Overlap] = ()

    def preset(self, name: str) -> PresetCounts | None:
        """Return what a preset draws from all images that the tables name; None where it can't be drawn."""
        return next((counts for counts in self.tables if counts.preset == name and not counts.problem), None)


def audit_cohort(
    root: Path,
    classes: Sequence[str],
    *,
    options: Mapping[str, object] | None = None,
    older: Path | None = None,
    presets: Sequence[str] = PRESETS,
    subsets: int = 1,
) -> CohortAudit:
    """Count what each preset draws.

    Args:
        root: the data root; its images may be absent.
        classes: the benchmark's classes.
        options: dataset options that hold for every preset (``max_per_class``, seeds); `split` is ignored.
        older: an older Data_Entry table to compare the labels with.
        subsets: so many are drawn, by seeds that follow the options', to count what they share.

    Raises:
        DataError: a table is missing or damaged.
        UsageError: a class that the tables do not have.
    """
    tables = read_tables(root)
    names = [canonical(name) for name in classes]
    index = _find_images(root, str((options or {}).get("images", "auto")))
    records = tables.entries.records
    found = len(records) - len(index.missing(records))
    given = {key: value for key, value in (options or {}).items() if key not in ("split", "allow_missing")}

    def counts(allow_missing: bool) -> list[PresetCounts]:
        return [
            _count(tables, names, _options(preset, given, allow_missing), lambda name: index.path(name) is not None)
            for preset in presets
        ]

    return CohortAudit(
        images=len(records),
        patients=len({record.patient for record in records.values()}),
        found=found,
        classes=class_facts(tables, names),
        tables=counts(allow_missing=False),
        present=counts(allow_missing=True) if 0 < found < len(records) else (),
        changes=None if older is None else compare_labels(older, records, names),
        overlaps=[
            overlap
            for preset in presets
            for overlap in _overlaps(tables, names, _options(preset, given, allow_missing=False), subsets)
        ],
    )


def _find_images(root: Path, images: str) -> ImageIndex:
    try:
        return index_images(root, images)
    except DataError:  # tables alone
        return ImageIndex({}, ())


def _options(preset: str, given: Mapping[str, object], allow_missing: bool) -> Options:
    fitting = {key: value for key, value in given.items() if key != "test_fraction" or preset == "patient_disjoint"}
    return replace(parse_options({**fitting, "split": preset}), allow_missing=allow_missing)


def class_facts(tables: Tables, classes: Sequence[str]) -> list[ClassFacts]:
    """Return what the tables say of each class."""
    boxes = tables.boxes.boxes
    per_image = Counter(box.id for box in boxes)
    findings = [name for name in classes if any(box.label == name for box in boxes)]
    candidates = find_candidates(tables, findings, parse_options({}))
    shared = shared_patients(candidates.pool, candidates.boxed)
    train_val = None if tables.train_val is None else set(tables.train_val)
    facts = []
    for name in classes:
        single = [record.id for record in tables.entries.records.values() if record.labels == (name,)]
        facts.append(
            ClassFacts(
                name=name,
                single_label=len(single),
                single_label_train_val=None if train_val is None else sum(image in train_val for image in single),
                boxes=sum(box.label == name for box in boxes),
                single_box=sum(box.label == name and per_image[box.id] == 1 for box in boxes),
                shared=shared[findings.index(name)] if name in findings else 0,
            )
        )
    return facts


def _count(tables: Tables, classes: Sequence[str], options: Options, found: Callable[[str], bool]) -> PresetCounts:
    try:
        drawn = draw(tables, classes, options, found)
    except DataError as error:
        return PresetCounts(options.split, {}, {}, problem=str(error))
    return preset_counts(options.split, drawn, classes, tables)


def _overlaps(tables: Tables, classes: Sequence[str], options: Options, subsets: int) -> list[Overlap]:
    sides: list[list[set[str]]] = []
    for subset in range(subsets if subsets > 1 else 0):
        try:
            drawn = draw(tables, classes, replace(options, subset_seed=options.subset_seed + subset), lambda _: True)
        except DataError:
            return []
        side = [*drawn.train, *drawn.val]
        sides.append([{item.id for item in side if k in item.labels} for k in range(len(classes))])
    return [
        Overlap(
            options.split,
            (one, other),
            {name: len(sides[one][k] & sides[other][k]) for k, name in enumerate(classes)},
            {name: len(sides[one][k]) for k, name in enumerate(classes)},
        )
        for one, other in itertools.combinations(range(len(sides)), 2)
    ]


def preset_counts(preset: str, drawn: Drawn, classes: Sequence[str], tables: Tables) -> PresetCounts:
    """Count a draw from tables."""
    boxed = {box.id for box in tables.boxes.boxes}
    side = [*drawn.train, *drawn.val]
    patients = [{item.patient for item in items} for items in (side, drawn.test)]
    shared = patients[0] & patients[1]

    def by_class(counts: Mapping[int, int] | npt.NDArray[np.int64]) -> dict[str, int]:
        return {name: int(counts[k]) for k, name in enumerate(classes)}

    train, val, test = (Counter(x for item in items for x in item.labels) for items in (side, drawn.val, drawn.test))
    against = contradicting(drawn.test, tables.entries.records, classes)
    return PresetCounts(
        preset=preset,
        train=by_class(train),
        test=by_class(test),
        validation=by_class(val),
        leaking=by_class(Counter(shared_patients(drawn.test, drawn.train))),
        leaking_any=by_class(Counter(shared_patients(drawn.test, side))),
        negatives={name: len(drawn.test) - test[k] for k, name in enumerate(classes)},
        contradicting=by_class(against.sum(axis=0)),
        patients=(len(patients[0]), len(patients[1])),
        shared_patients=len(shared),
        shared_images=sum(item.patient in shared for item in side),
        boxed_in_train=sum(item.id in boxed for item in side),
    )


def compare_labels(older: Path, newer: Mapping[str, Record], classes: Sequence[str]) -> LabelChanges:
    """Compare an older Data_Entry table with the one in use.

    Raises:
        DataError: the table can't be read or is damaged.
    """
    try:
        text = read_text(older, encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        reason = "not UTF-8 text" if isinstance(error, UnicodeDecodeError) else reason
        raise DataError(f"{older}: {reason}: give an older Data_Entry table of the NIH release") from None
    before = parse_entries(text, older.name).records
    both = [image for image in before if image in newer]
    changed = [image for image in both if set(before[image].labels) != set(newer[image].labels)]
    lost = Counter(label for x in changed for label in set(before[x].labels) - set(newer[x].labels))
    gained = Counter(label for x in changed for label in set(newer[x].labels) - set(before[x].labels))
    single = Counter(record.labels[0] for record in before.values() if len(record.labels) == 1)
    shown = [f"{x}: {'|'.join(before[x].labels)} -> {'|'.join(newer[x].labels)}" for x in changed[:3]]
    return LabelChanges(
        source=older.name,
        compared=len(both),
        changed=len(changed),
        examples=shown,
        lost={name: lost[name] for name in classes},
        gained={name: gained[name] for name in classes},
        single_label={name: single[name] for name in classes},
        only_older=len(before) - len(both),
        only_newer=len(newer) - len(both),
    )


def departures(counts: PresetCounts, published: Cohort) -> list[str]:
    """Name the classes whose counts are not those of table 1, as ``CLASS train 960, not 963``."""
    found = []
    for side, ours, theirs in (("train", counts.train, published.train), ("test", counts.test, published.test)):
        found += [
            f"{name} {side} {n}, not {theirs[name]}" for name, n in ours.items() if name in theirs and n != theirs[name]
        ]
    return found
