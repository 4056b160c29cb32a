"""The split that decodes NIH images as they are asked for, and the factory that builds three of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np

from xaibench.datasets.base import Split, Splits
from xaibench.datasets.chestxray8.images import DECODE_VERSION, decode, frame_of, index_images
from xaibench.datasets.chestxray8.options import Options, parse_options
from xaibench.datasets.chestxray8.splits import Item, contradicting, draw
from xaibench.datasets.chestxray8.tables import RELEASE_SIZE, Record, Tables, canonical, read_tables
from xaibench.datasets.content import sha256_of, sha256_of_one
from xaibench.errors import DataError, UsageError
from xaibench.types import Frame, Region, Sample


class ChestXray8Split(Split):
    """Images of one split: grey, (1, size, size) float32 in [0, 1], decoded when asked for.

    Boxes are given in the release's frame of 1024 x 1024 and scaled to the input frame, each axis by itself. A
    pre-resized copy must show the whole field of view, stretched if it is not square; a cropped or padded one can't be
    told from it, and its boxes would be wrong.
    """

    def __init__(
        self,
        items: Sequence[Item],
        *,
        classes: Sequence[str],
        size: int,
        root: Path,
        paths: Sequence[str],
        records: Mapping[str, Record],
        options: Options,
    ) -> None:
        self.classes = tuple(classes)
        self.frame = Frame.square(size)
        self.ids = [item.id for item in items]
        self.patients = [item.patient for item in items]
        self.labels = np.zeros((len(items), len(classes)), dtype=np.float32)
        for row, item in enumerate(items):
            self.labels[row, list(item.labels)] = 1
        self.contradicting = contradicting(items, records, [canonical(name) for name in classes])
        self.root, self.paths = root, paths
        self._boxes = [item.boxes for item in items]
        self._meta = [
            {"age": record.age, "sex": record.sex, "view": record.view, "findings": record.labels}
            for record in (records[item.id] for item in items)
        ]
        self.fingerprint = _fingerprint(items, self.classes, size, sha256_of(paths, root), options)

    def __getitem__(self, index: int) -> Sample:
        return Sample(
            id=self.ids[index],
            image=decode(self.paths[index], self.frame.height),
            labels=self.labels[index],
            patient=self.patients[index],
            regions=self.regions(index),
            meta=self._meta[index],
        )

    def regions(self, index: int, frame: Frame | Literal["input"] | None = "input") -> Mapping[int, Region]:
        release = Frame.square(RELEASE_SIZE)
        boxes: dict[int, list[tuple[float, ...]]] = {}
        for label, *box in self._boxes[index]:
            boxes.setdefault(label, []).append(tuple(box))
        wanted = self.frame if frame == "input" else frame or self.own_frame(index)
        return {label: Region(np.array(rows), release).to(wanted) for label, rows in boxes.items()}

    def own_frame(self, index: int) -> Frame:
        return frame_of(self.paths[index])

    def image_key(self, index: int) -> str:
        return f"{sha256_of_one(self.paths[index], self.root)} {self.frame.height} px, {DECODE_VERSION}"


def chestxray8(
    *,
    classes: Sequence[str],
    input_size: int,
    data_root: Path | None,
    options: Mapping[str, Any],
    task: str | None = None,
) -> Splits:
    """Load ChestX-ray8 / ChestX-ray14 of the NIH Clinical Center, as downloaded or pre-resized.

    Args:
        classes: findings, or ``No Finding``, as in Data_Entry; ``Infiltrate`` is understood as ``Infiltration``.
        input_size: side of the square images, in pixels, 16 to 8192.
        data_root: the folder with ``Data_Entry_2017*.csv``, ``BBox_List_2017.csv``, the two official lists, and
            ``images/`` or ``images_001/`` to ``images_012/``.
        options: see `xaibench.datasets.chestxray8.options.Options`.
        task: the benchmark's, which the option of that name must not contradict.

    Returns:
        Splits whose `notes` give the counts of images, patients and boxes, and all that was left out or disagrees.

    Raises:
        DataError: the data root, a table or an image is missing or damaged, or a split has no image of a class.
        UsageError: no data root, an unknown option, a value out of range, or a class that the tables do not have.

    Source: Wang et al., "ChestX-ray8", CVPR 2017, pp. 3462-3471; https://nihcc.app.box.com/v/ChestXray-NIHCC.
    """
    parsed = parse_options({"task": task} | dict(options) if task else options)
    if task and parsed.task != task:
        raise UsageError(f'chestxray8 option task = "{parsed.task}", but the benchmark\'s is "{task}": leave it out')
    if not 16 <= input_size <= 8192:
        raise UsageError(f"input size {input_size}: chestxray8 needs 16 to 8192 pixels")
    if data_root is None:
        raise UsageError("chestxray8 needs --data-root: the folder of the NIH release")
    root = Path(data_root)
    tables = read_tables(root)
    images = index_images(root, parsed.images)
    drawn = draw(tables, classes, parsed, lambda name: images.path(name) is not None)
    notes = _file_notes(tables, images.missing(tables.entries.records), len(images.duplicates))
    used = [item.id for items in (drawn.train, drawn.val, drawn.test) for item in items]
    if lost := images.missing(used):
        raise DataError(
            f"{len(lost)} of the {len(used)} images drawn are missing in {root} ({', '.join(lost[:3])}, ...): "
            "download them, or set the dataset option allow_missing = true to draw from those found"
        )

    def build(items: Sequence[Item]) -> ChestXray8Split:
        return ChestXray8Split(
            items,
            classes=classes,
            size=input_size,
            root=root,
            paths=[path for item in items if (path := images.path(item.id))],
            records=tables.entries.records,
            options=parsed,
        )

    return Splits(build(drawn.train), build(drawn.val), build(drawn.test), (*notes, *drawn.notes), drawn.left_out)


def _file_notes(tables: Tables, missing: Sequence[str], duplicates: int) -> list[str]:
    entries = tables.entries
    named = len(entries.records)
    notes = [f"{named - len(missing)} of {named} images named by the tables found"]
    if missing:
        notes[0] += f"; {len(missing)} missing, first {', '.join(missing[:3])}"
    for what, names in (
        ("images listed twice, kept once", entries.duplicates),
        ("boxes listed twice, kept once", tables.boxes.duplicates),
        ("ids that do not start with their patient's id (the column decides)", entries.misnamed),
        ("ages impossible or unreadable, left empty", entries.odd_ages),
        ("images without any label", entries.unlabelled),
    ):
        if names:
            notes.append(f"{len(names)} {what}: {', '.join(names[:3])}")
    if duplicates:
        notes.append(f"{duplicates} image files lie in two folders; the first was taken")
    return notes


def _fingerprint(
    items: Sequence[Item], classes: Sequence[str], size: int, contents: Sequence[str], options: Options
) -> str:
    """Hash what decides the samples; `contents` are the sha256 of the files."""
    rules = {name: value for name, value in asdict(options).items() if name not in {"allow_missing", "images"}}
    content = [DECODE_VERSION, size, list(classes), rules, items, contents]
    return hashlib.sha256(json.dumps(content, separators=(",", ":")).encode()).hexdigest()
