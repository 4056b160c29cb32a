"""The data check: what of the NIH release is there, what is missing, what is wrong."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xaibench.datasets.audit import Audit, spread, unused_upper_range
from xaibench.datasets.chestxray8.images import (
    ImageIndex,
    check_size,
    check_upright,
    index_images,
    read_grey,
)
from xaibench.datasets.chestxray8.tables import (
    EXPECTED,
    FINDINGS,
    NO_FINDING,
    PATTERNS,
    RELEASE_SIZE,
    Boxes,
    Entries,
    parse_boxes,
    parse_entries,
    parse_list,
    read_table,
)
from xaibench.datasets.raster import header_of, read_values, why_unreadable
from xaibench.errors import DataError
from xaibench.io.limits import UNREADABLE, open_image


@dataclass(frozen=True)
class ClassCount:
    """Counts of one class: in the tables (all, and as an image's only label), and among the images found."""

    name: str
    images: int
    single_label: int
    found: int
    found_single_label: int
    boxes: int
    found_boxes: int


@dataclass
class ReleaseAudit(Audit):
    """The outcome of `audit`; `counts` has images named and found, patients, boxes, boxed images."""

    @property
    def verdict(self) -> str:
        missing = self.counts["images named"] - self.counts["images found"]
        if self.usable and missing:
            return (
                f"usable in part: {missing} images are missing; set the dataset option allow_missing = true, or "
                "download the rest"
            )
        return super().verdict


def audit(
    root: Path, *, images: str = "auto", decode: bool = False, progress: Callable[[int, int], None] | None = None
) -> ReleaseAudit:
    """Check a release. Tables and files that are missing or damaged are findings, not exceptions.

    Args:
        root: the data root.
        images: as the dataset's option of that name.
        decode: decode every file; otherwise only its header is read, and its end.
        progress: called with files done and files in all.

    Raises:
        DataError: `root` is no folder that can be read.
        UsageError: `images` is no plain name of a folder.
    """
    result = ReleaseAudit(str(root))
    parsed: dict[str, Any] = {}
    readers: dict[str, Callable[[str, str], Any]] = {"entries": parse_entries, "boxes": parse_boxes}
    if not root.is_dir():
        raise DataError(f"data root {root} is no folder: give the folder of the NIH release")
    for kind, (_, name) in PATTERNS.items():
        try:
            table = read_table(root, kind)
            parsed[kind] = readers.get(kind, parse_list)(*table) if table else None
        except DataError as error:
            result.error(str(error), f"replace it by {name} of the NIH release")
            continue
        if table is None and kind in readers:
            result.error(f"no {PATTERNS[kind][0]}", f"put {name} of the NIH release into the data root")
        elif table is None:
            result.warn(f"no {name}", 'split = "official_split" needs it')
    try:
        index = index_images(root, images)
    except DataError as error:
        result.error(str(error), "download the images")
        index = ImageIndex({}, ())

    entries: Entries | None = parsed.get("entries")
    boxes: Boxes | None = parsed.get("boxes")
    result.counts |= {"images named": len(entries.records) if entries else 0, "images found": 0}
    if entries:
        _check_entries(result, entries, index)
        _check_lists(result, entries, parsed.get("train_val"), parsed.get("test"))
    if entries and boxes:
        _check_boxes(result, entries, boxes, index)
        _count_classes(result, entries, boxes, index)
    _check_files(result, index, decode, progress)
    result.sort()
    return result


def _check_entries(result: ReleaseAudit, entries: Entries, index: ImageIndex) -> None:
    records = entries.records
    missing = index.missing(records)
    patients = {record.patient for record in records.values()}
    result.counts |= {"images found": len(records) - len(missing), "patients": len(patients)}
    for what, got in (("images", len(records)), ("patients", len(patients))):
        if got != EXPECTED[what]:
            result.warn(f"Data_Entry names {got} {what}; the release has {EXPECTED[what]}", "an excerpt, or damaged?")
    if index.files and len(missing) == len(records):
        result.error("none of the images found is named by Data_Entry", "keep the release's file names", missing)
    elif missing:
        result.warn(f"{len(missing)} images are missing", "allow_missing = true goes on with the rest", missing)
    named = {name.rpartition(".")[0] for name in records}
    if extra := sorted(set(index.files) - named):
        result.info(f"{len(extra)} image files are not named by Data_Entry and never used", extra)
    if index.duplicates:
        result.warn(f"{len(index.duplicates)} image files lie in two folders", "the first is used", index.duplicates)
    if entries.duplicates:
        result.warn(f"{len(entries.duplicates)} images are listed twice", "one row is used", entries.duplicates)
    if entries.misnamed:
        text = f"{len(entries.misnamed)} image ids do not start with their patient's id"
        result.warn(text, "the column decides: is the table damaged?", entries.misnamed)
    if entries.unlabelled:
        result.warn(f"{len(entries.unlabelled)} images have no label", "they are never used", entries.unlabelled)
    if entries.odd_ages:
        text = f"{len(entries.odd_ages)} ages are above 120 years or unreadable (older tables have such), left empty"
        result.info(text, entries.odd_ages)
    if entries.aliases:
        result.info("labels read under another name: " + _aliases(entries.aliases))
    labels = Counter(label for record in records.values() for label in record.labels)
    if strange := sorted(set(labels) - {*FINDINGS, NO_FINDING}):
        result.warn(f"{len(strange)} labels that the release does not have", "misspelt?", strange)


def _check_lists(
    result: ReleaseAudit, entries: Entries, train_val: Sequence[str] | None, test: Sequence[str] | None
) -> None:
    records = entries.records
    for name, ids in (("train_val_list.txt", train_val), ("test_list.txt", test)):
        if ids is None:
            continue
        result.counts[f"in {name}"] = len(ids)
        if unknown := [x for x in ids if x not in records]:
            result.warn(f"{len(unknown)} images of {name} are not in Data_Entry", "they are never used", unknown)
    if train_val is None or test is None:
        return
    if both := sorted(set(train_val) & set(test)):
        result.error(f"{len(both)} images are in both official lists", "use the release's own lists", both)
    sides = [{records[x].patient for x in ids if x in records} for ids in (train_val, test)]
    shared = sorted(sides[0] & sides[1])
    result.counts["patients in both lists"] = len(shared)
    if shared and not both:
        result.warn(f"{len(shared)} patients are in both official lists", "the release's lists share none", shared)


def _check_boxes(result: ReleaseAudit, entries: Entries, boxes: Boxes, index: ImageIndex) -> None:
    boxed = {box.id for box in boxes.boxes}
    found = [name for name in boxed if name in entries.records and index.path(name)]
    result.counts |= {"boxes": len(boxes.boxes), "boxed images": len(boxed), "boxed images found": len(found)}
    for what in ("boxes", "boxed images"):
        if result.counts[what] != EXPECTED[what]:
            text = f"BBox_List has {result.counts[what]} {what}; the release has {EXPECTED[what]}"
            result.warn(text, "an excerpt, or damaged?")
    if boxes.aliases:
        result.info("box labels read under another name: " + _aliases(boxes.aliases))
    if boxes.duplicates:
        result.warn(f"{len(boxes.duplicates)} boxes are listed twice", "one is used", boxes.duplicates)
    if unknown := [name for name in sorted(boxed) if name not in entries.records]:
        result.warn(f"{len(unknown)} boxed images are not in Data_Entry", "their boxes are ignored", unknown)
    records = entries.records
    odd = [f"{x.id} ({x.label})" for x in boxes.boxes if x.id in records and x.label not in records[x.id].labels]
    if odd:
        text = f"{len(odd)} boxes whose finding is not among the image's labels"
        result.warn(text, "ignored unless validate_boxes = false", odd)
    outside, empty = [], []
    for x in boxes.boxes:
        if min(x.width, x.height) <= 0 or max(x.x, x.y) >= RELEASE_SIZE or x.x + x.width <= 0 or x.y + x.height <= 0:
            empty.append(f"{x.id} ({x.label})")
        elif min(x.x, x.y) < 0 or max(x.x + x.width, x.y + x.height) > RELEASE_SIZE:
            outside.append(f"{x.id} ({x.label})")
    if empty:
        result.warn(f"{len(empty)} boxes have no area inside the image", "they are ignored", empty)
    if outside:
        result.info(f"{len(outside)} boxes reach out of the image and are clipped", outside)


def _count_classes(result: ReleaseAudit, entries: Entries, boxes: Boxes, index: ImageIndex) -> None:
    counts = {name: [0] * 6 for name in (NO_FINDING, *FINDINGS)}
    for record in entries.records.values():
        there = index.path(record.id) is not None
        for label in record.labels:
            row = counts.setdefault(label, [0] * 6)
            single = len(record.labels) == 1
            for column, add in enumerate((True, single, there, single and there)):
                row[column] += add
    for box in boxes.boxes:
        row = counts.setdefault(box.label, [0] * 6)
        row[4] += 1
        row[5] += box.id in entries.records and index.path(box.id) is not None
    result.classes = [ClassCount(name, *row) for name, row in counts.items()]


def _check_files(
    result: ReleaseAudit, index: ImageIndex, decode: bool, progress: Callable[[int, int], None] | None
) -> None:
    paths = [*index.files.values(), *index.duplicates]
    kinds: Counter[str] = Counter()
    broken, stretched = [], []
    # zlib releases the interpreter's lock, and the rest waits for the disk: threads help in both modes
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for done, (path, outcome) in enumerate(
            zip(paths, pool.map(lambda path: inspect(path, decode), paths), strict=True), start=1
        ):
            if isinstance(outcome, str):
                broken.append(f"{os.path.relpath(path, result.root)}: {outcome.removeprefix(f'{path}: ')}")
            else:
                mode, width, height = outcome
                kinds[f"{mode}, {width} x {height}"] += 1
                if width != height:
                    stretched.append(os.path.relpath(path, result.root))
            if progress:
                progress(done, len(paths))
        _check_range(result, [paths[place] for place in spread(len(paths))], pool)
    result.files = dict(kinds.most_common())
    result.counts["files"], result.counts["files unreadable"] = len(paths), len(broken)
    if broken:
        text = f"{len(broken)} image files can't be read"
        result.error(text, "download them again, or remove them and set allow_missing = true", broken, shown=50)
    if stretched:
        text = f"{len(stretched)} images are not square, as all of the release are"
        result.warn(text, "if they were cropped or padded, boxes are wrong", stretched)
    many = sum(n for kind, n in kinds.items() if not kind.startswith("L,"))
    if many:
        result.info(f"{many} files are not 8-bit grey; their first channel is used")


def _check_range(result: ReleaseAudit, paths: Sequence[str], pool: ThreadPoolExecutor) -> None:
    """Decode a sample of the files: images of 12 bits in files of 16 are almost black, and nothing else says so."""
    found = [pair for pair in pool.map(_range, paths) if pair is not None]
    for full, high in unused_upper_range(found).items():
        result.error(
            f"no pixel of {sum(pair[0] == full for pair in found)} files decoded is above {high:g} of {full:g}, a "
            "quarter of the range, so that the images are almost black",
            "use the release's own images, or copies that keep their range of values",
        )


def _range(path: str) -> tuple[float, float] | None:
    try:
        values, full, _ = read_values(path)
    except DataError:  # named by `inspect`, or when all are decoded
        return None
    return None if full is None else (full, float(values.max()))


def inspect(path: str, decode: bool = False) -> tuple[str, int, int] | str:
    """Return mode, width and height of an image file, or in one line why it can't be read.

    Without `decode` only its header and its last bytes are read; a file without the end that its format asks for is
    then decoded all the same.
    """
    try:
        with open_image(path) as image:
            mode, (width, height), kind = image.mode, image.size, image.format
            check_size(path, width, height)
            check_upright(path, header_of(path, image))
        if decode or not _has_end(path, kind):
            read_grey(path)
    except DataError as error:
        return str(error)
    except UNREADABLE as error:
        return why_unreadable(error)
    return mode, width, height


def _has_end(path: str, kind: str | None) -> bool:
    end = {"PNG": b"IEND", "JPEG": b"\xff\xd9"}.get(kind or "")
    if end is None:
        return False
    with open(path, "rb") as file:
        file.seek(-min(os.fstat(file.fileno()).st_size, 12), os.SEEK_END)
        return end in file.read()


def _aliases(aliases: Mapping[str, int]) -> str:
    return ", ".join(f"{name} ({n})" for name, n in sorted(aliases.items()))
