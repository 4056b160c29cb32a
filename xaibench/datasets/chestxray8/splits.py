"""The split rules: which image is in which split, from the tables alone.

A draw orders ids by the hash of (purpose, seed, id), so it depends on no library's generator, and an image that is
missing on one machine does not move the others about.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from xaibench.datasets.chestxray8.options import Options
from xaibench.datasets.chestxray8.tables import FINDINGS, NO_FINDING, RELEASE_SIZE, Record, Tables, canonical
from xaibench.errors import DataError, UsageError, did_you_mean
from xaibench.findings import Note
from xaibench.published import load_published


def published_counts() -> Mapping[str, tuple[int, int]]:
    """Return class to training and test images of the paper's table 1."""
    cohort = load_published().cohort
    return {name: (cohort.train[name], cohort.test[name]) for name in cohort.train}


class Item(NamedTuple):
    """An image that may be drawn: class indices, and ``(class, x0, y0, x1, y1)`` in the release's 1024 x 1024.

    Of a multilabel task `labels` may be empty: the image has none of the classes.
    """

    id: str
    patient: str
    labels: tuple[int, ...]
    boxes: tuple[tuple[int, float, float, float, float], ...] = ()


@dataclass(frozen=True)
class Drawn:
    """The items of the three splits, each ordered by id, and what there is to say about them.

    Attributes:
        left_out: why images of Data_Entry are in none of the three, to how many.
    """

    train: Sequence[Item]
    val: Sequence[Item]
    test: Sequence[Item]
    notes: Sequence[str]
    left_out: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Candidates:
    """What can be drawn from: `pool` follows the task's rule, `boxed` has boxes of the classes (none is in `pool`).

    Attributes:
        left_out: why the other images of Data_Entry can't be drawn, to how many.
    """

    pool: Sequence[Item]
    boxed: Sequence[Item]
    notes: Sequence[str]
    left_out: Mapping[str, int]


def draw(tables: Tables, classes: Sequence[str], options: Options, found: Callable[[str], bool]) -> Drawn:
    """Split the images of the classes.

    Args:
        tables: the release's tables.
        classes: the benchmark's classes, in order; aliases are understood.
        options: the rules.
        found: tells of an image id whether its file is there; asked only with ``allow_missing``.

    Raises:
        UsageError: a class that the tables do not have, the same class twice, fewer than two classes for multiclass.
        DataError: a split without any image of a class, or official lists that are missing or overlap.
    """
    known = {label for record in tables.entries.records.values() for label in record.labels}
    names = [canonical(name) for name in classes]
    for name, given in zip(names, classes, strict=True):
        if name not in known:
            raise UsageError(f"chestxray8 has no class {given!r}. {did_you_mean(name, known)}")
        if names.count(name) > 1:
            raise UsageError(f"class {given!r} is listed twice: leave one out")
    if len(names) < (2 if options.task == "multiclass" else 1):
        raise UsageError(f'task = "{options.task}" needs more classes than {list(classes)}')

    candidates = find_candidates(tables, names, options, found)
    notes = list(candidates.notes)
    rule = {"paper": _paper, "official_split": _official, "patient_disjoint": _patient_disjoint}[options.split]
    side, test = rule(candidates, tables, names, options)
    left_out = Counter(candidates.left_out)
    left_out.update(_outside_lists(candidates, tables, {item.id for item in (*side, *test)}))
    test = _limit_no_finding(test, names, options, left_out)
    side = _cut(side, names, options, left_out)
    held = draw_patients(side, options.val_fraction, f"val:{options.split_seed}") if options.val_fraction else set()
    val = [item for item in side if item.patient in held]
    train = [item for item in side if item.patient not in held]
    train, val, test = (sorted(items) for items in (train, val, test))
    _require(train, test, names, options, tables)

    notes += [_count_note(*split, names) for split in (("train", train), ("val", val), ("test", test))]
    shared = {item.patient for item in side} & {item.patient for item in test}
    if shared:
        n = sum(item.patient in shared for item in side)
        text = f"{len(shared)} patients are on both sides: {n} training-side images share a patient with a test image"
        notes.append(Note(text, "warning"))
    else:
        notes.append("no patient is in two splits")
    if options.split == "paper" and set(names) <= set(published_counts()):
        notes.append(_published_note(side, test, names))
    if options.split == "official_split":
        records = tables.entries.records
        unknown = [name for name in (*(tables.train_val or ()), *(tables.test or ())) if name not in records]
        if unknown:
            notes.append(f"{len(unknown)} images of the official lists are not in Data_Entry: {_few(unknown)}")
    left_out = +left_out  # without zeros
    if left_out:
        notes.append("images left out: " + ", ".join(f"{number:,} {reason}" for reason, number in left_out.items()))
    return Drawn(train, val, test, notes, left_out)


def find_candidates(
    tables: Tables, classes: Sequence[str], options: Options, found: Callable[[str], bool] = lambda _: True
) -> Candidates:
    """Apply the task's rule and the boxes' checks; `classes` are canonical names."""
    index = {name: k for k, name in enumerate(classes)}
    records = tables.entries.records
    boxes: dict[str, list[tuple[int, float, float, float, float]]] = defaultdict(list)
    per_image = Counter(box.id for box in tables.boxes.boxes)
    unknown, unlabelled, empty, clipped, several = [], [], [], [], set()
    others: Counter[str] = Counter()
    for box in tables.boxes.boxes:
        if box.label not in index:
            others[box.label] += 1
            continue
        if box.id not in records:
            unknown.append(box.id)
            continue
        if box.label not in records[box.id].labels:
            unlabelled.append(f"{box.id} ({box.label})")
            if options.validate_boxes:
                continue
        if options.test_boxes == "single" and per_image[box.id] > 1:
            several.add(box.id)
            continue
        x0, x1 = max(box.x, 0.0), min(box.x + box.width, float(RELEASE_SIZE))
        y0, y1 = max(box.y, 0.0), min(box.y + box.height, float(RELEASE_SIZE))
        if x0 < x1 and y0 < y1:
            if (x0, y0, x1, y1) != (box.x, box.y, box.x + box.width, box.y + box.height):
                clipped.append(f"{box.id} ({box.label})")
            boxes[box.id].append((index[box.label], x0, y0, x1, y1))
        else:
            empty.append(f"{box.id} ({box.label})")

    pool, boxed = [], []
    left_out: Counter[str] = Counter()
    for record in records.values():
        labels = tuple(sorted(index[label] for label in record.labels if label in index))
        own = tuple(sorted(boxes.get(record.id, ())))
        if reason := _why_not(record, labels, bool(own), record.id in several, options):
            left_out[reason] += 1
        elif options.allow_missing and not found(record.id):
            left_out["whose file is missing"] += 1
        elif own:
            if options.test_labels == "boxes":
                labels = tuple(sorted({box[0] for box in own}))
            boxed.append(Item(record.id, record.patient, tuple(sorted({*labels, *(box[0] for box in own)})), own))
        else:
            pool.append(Item(record.id, record.patient, labels))
    notes = []
    ignored = "ignored" if options.validate_boxes else "used all the same"
    for what, ids in (
        ("boxes of images that Data_Entry does not list, ignored", unknown),
        (f"boxes whose finding is not among the image's labels, {ignored}", unlabelled),
        ("boxes without any area inside the image, ignored", empty),
        ("boxes that reach out of the image, clipped", clipped),
    ):
        if ids:
            notes.append(f"{len(ids)} {what}: {_few(ids)}")
    if others:
        names = ", ".join(f"{name} {number}" for name, number in sorted(others.items()))
        notes.append(f"{sum(others.values())} boxes of other classes left out ({names})")
    if several:
        notes.append(f'{len(several)} images with boxes of several findings left out (test_boxes = "single")')
    if options.task == "multiclass" and options.test_labels == "all":
        many = [item.id for item in boxed if len(item.labels) > 1]
        if many:
            notes.append(f"{len(many)} boxed images have several of the classes; all count as present: {_few(many)}")
    elif options.test_labels == "boxes":
        other = sum(len(item.labels) < sum(x in index for x in records[item.id].labels) for item in boxed)
        if other:
            notes.append(f"{other} boxed images have another of the classes too; only what is boxed counts as present")
    return Candidates(pool, boxed, notes, left_out)


def _why_not(record: Record, labels: Sequence[int], boxed: bool, several: bool, options: Options) -> str:
    """Return why an image can't be drawn by the task's rule, "" where it can."""
    if several:
        return 'with boxes of several findings (test_boxes = "single")'
    if boxed:
        return ""
    if not record.labels:
        return "without any label in Data_Entry"
    if options.task == "multilabel":
        return ""
    if not labels:
        return "of none of the classes"
    if len(labels) > 1:
        return "of several of the classes"
    if len(record.labels) > 1 and options.single_label == "only":
        return 'of another finding too (single_label = "only")'
    return ""


def draw_patients(items: Iterable[Item], fraction: float, purpose: str, forced: Iterable[str] = ()) -> set[str]:
    """Draw a share of the patients, stratified by the rarest class that a patient has among `items`.

    Patients with none of the classes are a stratum of their own. In each stratum of k patients ``fraction * k`` are
    drawn, rounded, but at least one and at most k - 1, with those of `forced` counted in and always drawn.
    """
    have: dict[str, set[int]] = defaultdict(set)
    for item in items:
        have[item.patient].update(item.labels)
    frequency = Counter(label for labels in have.values() for label in labels)
    strata: dict[int, list[str]] = defaultdict(list)
    for patient, labels in have.items():
        strata[min(labels, key=lambda label: (frequency[label], label), default=_NO_CLASS)].append(patient)
    drawn = set(forced)
    for patients in strata.values():
        wanted = min(max(round(fraction * len(patients)), 1), len(patients) - 1)
        free = shuffled((patient for patient in patients if patient not in drawn), purpose)
        drawn.update(free[: max(wanted - (len(patients) - len(free)), 0)])
    return drawn


def shuffled(ids: Iterable[str], purpose: str) -> list[str]:
    """Return ids in an order drawn by hash.

    >>> shuffled(["a", "b", "c"], "subset:0") == shuffled(["c", "b", "a"], "subset:0")
    True
    """
    return sorted(ids, key=lambda name: hashlib.sha256(f"{purpose}:{name}".encode()).digest())


_NO_CLASS = -1
"""Stands for the class of an image that has none of the classes, where images are drawn or cut by class."""
Side = tuple[list[Item], list[Item]]


def _paper(candidates: Candidates, tables: Tables, classes: Sequence[str], options: Options) -> Side:
    """Test: boxed images, and No Finding by a draw; the training side is the rest, whoever the patient is."""
    test = list(candidates.boxed)
    if NO_FINDING in classes:
        normal = [item for item in candidates.pool if item.labels == (classes.index(NO_FINDING),)]
        chosen = set(shuffled((item.id for item in normal), f"test:{options.split_seed}")[: options.test_no_finding])
        test += [item for item in normal if item.id in chosen]
    taken = {item.id for item in test}
    return [item for item in candidates.pool if item.id not in taken], test


def _official(candidates: Candidates, tables: Tables, classes: Sequence[str], options: Options) -> Side:
    """The release's own lists; they share no patient. A boxed image in the training list stays out of the training."""
    if tables.train_val is None or tables.test is None:
        raise DataError(
            'split = "official_split" needs train_val_list.txt and test_list.txt of the NIH release in the data root'
        )
    train_ids, test_ids = set(tables.train_val), set(tables.test)
    if both := sorted(train_ids & test_ids):
        raise DataError(f"{len(both)} images are in both official lists ({_few(both)}): use the release's own lists")
    test = [item for item in (*candidates.pool, *candidates.boxed) if item.id in test_ids]
    return [item for item in candidates.pool if item.id in train_ids], test


def _outside_lists(candidates: Candidates, tables: Tables, placed: set[str]) -> Iterator[str]:
    """Yield, of each candidate that the official lists put in no split, why."""
    listed = {*(tables.train_val or ()), *(tables.test or ())}
    for item in (*candidates.pool, *candidates.boxed):
        if item.id not in placed:
            yield "with a box, in the official training list" if item.id in listed else "in neither official list"


def _patient_disjoint(candidates: Candidates, tables: Tables, classes: Sequence[str], options: Options) -> Side:
    """Test: every boxed image, the other images of those patients, and more patients up to the share."""
    items = [*candidates.pool, *candidates.boxed]
    forced = {item.patient for item in candidates.boxed}
    chosen = draw_patients(items, options.test_fraction, f"test:{options.split_seed}", forced)
    test = [item for item in items if item.patient in chosen]
    return [item for item in candidates.pool if item.patient not in chosen], test


def _limit_no_finding(test: list[Item], classes: Sequence[str], options: Options, left_out: Counter[str]) -> list[Item]:
    if options.test_no_finding is None or NO_FINDING not in classes:
        return test
    normal = [item.id for item in test if item.labels == (classes.index(NO_FINDING),)]
    dropped = set(shuffled(normal, f"test:{options.split_seed}")[options.test_no_finding :])
    left_out[f"{NO_FINDING} beyond test_no_finding = {options.test_no_finding}"] += len(dropped)
    return [item for item in test if item.id not in dropped]


def _cut(side: list[Item], classes: Sequence[str], options: Options, left_out: Counter[str]) -> list[Item]:
    """Apply `balance` and `max_per_class`: an image stays while all its classes have room."""
    counts = Counter(label for item in side for label in item.labels or (_NO_CLASS,))
    limit = min((counts[k] for k in range(len(classes))), default=0) if options.balance == "smallest" else len(side)
    limit = min(limit, options.max_per_class or limit)
    if all(n <= limit for n in counts.values()):
        return side
    by_id = {item.id: item for item in side}
    kept, room = [], Counter(dict.fromkeys(counts, limit))
    for name in shuffled(by_id, f"subset:{options.subset_seed}"):
        labels = by_id[name].labels or (_NO_CLASS,)
        if all(room[label] > 0 for label in labels):
            room.subtract(labels)
            kept.append(by_id[name])
    rule = f"max_per_class = {options.max_per_class}" if limit == options.max_per_class else 'balance = "smallest"'
    left_out[f"of a class that {rule} cuts to {limit:,}"] += len(side) - len(kept)
    return kept


def _require(
    train: Sequence[Item], test: Sequence[Item], classes: Sequence[str], options: Options, tables: Tables
) -> None:
    for name, items in (("training", train), ("test", test)):
        present = {label for item in items for label in item.labels}
        for k, label in enumerate(classes):
            if k in present:
                continue
            remedy = "drop the class or change the split's options"
            boxed = {box.label for box in tables.boxes.boxes}
            if name == "test" and options.split == "paper" and label in FINDINGS and label not in boxed:
                remedy = 'it has no boxes: use split = "official_split" or "patient_disjoint"'
            elif options.allow_missing:
                remedy = "too few of its images are in the data root: add some or drop the class"
            raise DataError(f"no {name} image of class {label!r}: {remedy}")


def _count_note(name: str, items: Sequence[Item], classes: Sequence[str]) -> str:
    counts = Counter(label for item in items for label in item.labels)
    boxes = Counter(box[0] for item in items for box in item.boxes)
    text = f"{name}: {len(items)} images of {len({item.patient for item in items})} patients ("
    numbers = [f"{label} {counts[k]}" for k, label in enumerate(classes)]
    if without := sum(not item.labels for item in items):
        numbers.append(f"none of the classes {without}")
    text += ", ".join(numbers) + ")"
    if boxes:
        text += "; boxes: " + ", ".join(f"{label} {boxes[k]}" for k, label in enumerate(classes) if boxes[k])
    return text


def _published_note(side: Sequence[Item], test: Sequence[Item], classes: Sequence[str]) -> str:
    ours = [Counter(label for item in items for label in item.labels) for items in (side, test)]
    published = published_counts()
    rows = (
        f"{label} {ours[0][k]}/{ours[1][k]} (published {published[label][0]}/{published[label][1]})"
        for k, label in enumerate(classes)
    )
    return "train + val / test beside the paper's table 1, which is of the whole release: " + ", ".join(rows)


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def shared_patients(items: Iterable[Item], others: Iterable[Item]) -> Mapping[int, int]:
    """Return class index to how many of `items` are of a patient who is among `others`."""
    patients = {other.patient for other in others}
    return Counter(label for item in items if item.patient in patients for label in item.labels)


def contradicting(
    items: Sequence[Item], records: Mapping[str, Record], classes: Sequence[str]
) -> npt.NDArray[np.bool_]:
    """Return (N, K): where an image is no example of a class though Data_Entry labels it so.

    That is the paper's rule: a test image has the class of its box alone, whatever else is found in it.
    """
    found = [
        [label in records[item.id].labels and k not in item.labels for k, label in enumerate(classes)] for item in items
    ]
    return np.array(found, dtype=bool).reshape(len(items), len(classes))
