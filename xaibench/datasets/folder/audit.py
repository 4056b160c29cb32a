"""The data check of `folder`: what a benchmark's tables and images hold, what is missing, what contradicts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from xaibench.datasets.audit import Audit, spread, unused_upper_range
from xaibench.datasets.content import sha256_of
from xaibench.datasets.folder.describe import MISSING, Selection, check_files, describe, draw
from xaibench.datasets.folder.items import Item
from xaibench.datasets.folder.marks import check_marks, region_of
from xaibench.datasets.folder.options import Options, parse_options
from xaibench.datasets.folder.pixels import Extremes, extremes_of_one, header_of_one
from xaibench.datasets.folder.placing import place
from xaibench.datasets.raster import Header
from xaibench.errors import DataError

_NAMED = 50


@dataclass(frozen=True)
class ClassCount:
    """Counts of one class among the images that are used, and of its boxes and masks."""

    name: str
    images: int
    train: int
    val: int
    test: int
    boxes: int
    masks: int


@dataclass
class FolderAudit(Audit):
    """The outcome of `audit`.

    Attributes:
        left_out: why images that the tables name are in no split, to how many.
        values: type of values to what was found in the files that were decoded.
    """

    left_out: dict[str, int] = field(default_factory=dict)
    values: dict[str, str] = field(default_factory=dict)


def audit(
    root: Path,
    classes: Sequence[str],
    options: Mapping[str, Any],
    task: str,
    *,
    decode: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> FolderAudit:
    """Check what a benchmark of `folder` would read. Contradictions and damaged files are findings, not exceptions.

    Args:
        root: the data root.
        classes, options, task: the benchmark's.
        decode: decode every file, and look for copies; otherwise a sample, and of the others the headers.
        progress: called with files done and files in all.

    Raises:
        DataError: `root` is no folder.
        UsageError: a wrong option.
    """
    chosen, result = parse_options(options), FolderAudit(str(root))
    if not root.is_dir():
        raise DataError(f"data root {root} is no folder: give the folder that the table stands in")
    problems: list[str] = []
    missing: list[str] = []
    try:
        selection = describe(root, classes, chosen, task, problems.append)
    except DataError as error:
        result.error(str(error), "correct the table, then check again")
        return result
    images = root / chosen.images
    check_files(selection, images, missing.append)
    _check_images(result, selection, images, chosen, decode, problems, progress)
    draw(selection, chosen, problems.append)
    _count(result, selection, classes)
    for text in selection.notes:
        result.info(text)
    if missing:
        result.error(
            f"{len(missing)} image files are missing", "put them there, or take them out of the table", missing, _NAMED
        )
    if problems:
        text = problems[0] if len(problems) == 1 else f"{len(problems)} contradictions"
        result.error(text, "a run stops at the first: correct them, then check again", problems, _NAMED)
    result.sort()
    return result


def _check_images(
    result: FolderAudit,
    selection: Selection,
    images: Path,
    options: Options,
    decode: bool,
    problems: list[str],
    progress: Callable[[int, int], None] | None,
) -> None:
    """Read the files; those that can't be read are named, and their images left out of what follows."""
    items, headers, found, broken = [], [], [], []
    sample = {*range(len(selection.used))} if decode else {*spread(len(selection.used))}
    looks = [partial(_look, images / item.id, images, place in sample) for place, item in enumerate(selection.used)]
    with ThreadPoolExecutor() as pool:
        for done, (item, seen) in enumerate(zip(selection.used, pool.map(lambda look: look(), looks), strict=True), 1):
            if progress:
                progress(done, len(looks))
            if isinstance(seen, str):
                broken.append(seen)
                continue
            items.append(item)
            headers.append(seen[0])
            found += [seen[1]] if seen[1] else []
    if broken:
        text = f"{len(broken)} image files can't be read"
        result.error(text, "replace them, or take them out of the table", broken, _NAMED)
    selection.leave_out("whose file can't be read", len(broken))
    selection.used = items
    result.files = dict(Counter(f"{head.mode}, {head.width} x {head.height}" for head in headers).most_common())
    result.counts["files with an EXIF orientation"] = sum(head.orientation != 1 for head in headers)
    selection.notes += [*place(items, headers, options, problems.append), *check_marks(items, problems.append)]
    for item in items:
        for target in [*item.marks]:
            try:
                region_of(item, target)
            except DataError as error:
                problems.append(str(error))
    _check_values(result, found, options)
    if decode:
        _check_copies(result, items, images)


def _look(path: Path, root: Path, decode: bool) -> tuple[Header, Extremes | None] | str:
    """Return a file's header and, where it is decoded, its range of values; or why it can't be read."""
    try:
        return header_of_one(path, root), extremes_of_one(path, root) if decode else None
    except DataError as error:
        return str(error)


def _check_values(result: FolderAudit, found: Sequence[Extremes], options: Options) -> None:
    """Say which values the decoded files hold; an unknown range and an unused upper part are errors."""
    for full in sorted({seen.full or 0 for seen in found}):
        some = [seen for seen in found if (seen.full or 0) == full]
        low, high = min(seen.low for seen in some), max(seen.high for seen in some)
        name = {255: "8 bits", 65535: "16 bits"}.get(full, "floats, signed or 32 bits")
        bits = f" ({int(high).bit_length()} bits in use)" if full else ""
        result.values[name] = f"{low:g} to {high:g}{bits} in {len(some)} files decoded"
        result.info(f"values of {name}: {result.values[name]}")
        if not full and options.range != "percentile" and (low < 0 or high > 1):
            result.error(
                f"values of {name} from {low:g} to {high:g} have no known range", 'set the option range = "percentile"'
            )
        elif options.range == "full" and unused_upper_range([(full or 1, high)]):
            other = 'range = "stored" or ' if full == 65535 else ""
            result.error(
                f"no pixel of {len(some)} files decoded is above {high:g} of {full or 1:g}, a quarter of the range, so "
                "that the images are almost black",
                f'set the option {other}range = "percentile"',
            )


def _check_copies(result: FolderAudit, items: Sequence[Item], images: Path) -> None:
    """Name images that are one and the same file under two names: a test image may be in the training."""
    same: dict[str, list[str]] = {}
    for item, content in zip(items, sha256_of([images / item.id for item in items], images), strict=True):
        same.setdefault(content, []).append(item.id)
    copies = [" = ".join(names) for names in same.values() if len(names) > 1]
    if copies:
        result.warn(f"{len(copies)} images are there under several names", "keep one of each", copies)


def _count(result: FolderAudit, selection: Selection, classes: Sequence[str]) -> None:
    items, result.left_out = selection.used, selection.left_out
    marks = [mark for item in items for found in item.marks.values() for mark in found]
    result.counts = {
        "images named": selection.named,
        "images found": selection.named - selection.left_out.get(MISSING, 0),
        **{f"images in {name}": sum(item.split == name for item in items) for name in ("train", "val", "test")},
        **{f"left out: {reason}": number for reason, number in selection.left_out.items()},
        "patients": len({item.patient for item in items}),
        "images with a region": sum(bool(item.marks) for item in items),
        "boxes": sum(mark.box is not None for mark in marks),
        "masks": sum(mark.shape is not None for mark in marks),
        **result.counts,
    }
    for target, name in enumerate(classes):
        having = [item for item in items if target in item.labels]
        own = [mark for item in items for mark in item.marks.get(target, ())]
        by_split = Counter(item.split for item in having)
        boxes, masks = sum(mark.box is not None for mark in own), sum(mark.shape is not None for mark in own)
        splits = by_split["train"], by_split["val"], by_split["test"]
        result.classes.append(ClassCount(name, len(having), *splits, boxes, masks))
    for name in ("train", "test"):
        if not result.counts[f"images in {name}"]:
            result.error(
                f"no {name} image of the classes {', '.join(classes)}", "a run needs some: see what is left out"
            )
