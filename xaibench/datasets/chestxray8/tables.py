"""The tables of the NIH release, read by content rather than by header, with what is odd in them counted.

Nothing here opens an image. The csv module reads the 112,120 rows in less time than importing pandas takes.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from xaibench.errors import DataError
from xaibench.io.limits import read_text

RELEASE_SIZE = 1024
"""Side in pixels of the release's images: the frame that the boxes are given in."""

NO_FINDING = "No Finding"
FINDINGS = (
    "Atelectasis",
    "Cardiomegaly",
    "Consolidation",
    "Edema",
    "Effusion",
    "Emphysema",
    "Fibrosis",
    "Hernia",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pleural_Thickening",
    "Pneumonia",
    "Pneumothorax",
)
EXPECTED = {"images": 112_120, "patients": 30_805, "boxes": 984, "boxed images": 880}
"""What the complete v2020 release holds."""

_KNOWN = {name.casefold().replace("_", " "): name for name in (*FINDINGS, NO_FINDING)} | {"infiltrate": "Infiltration"}
_AGE_UNITS = {"Y": 1.0, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25}
_IMAGE_NAME = re.compile(r"[^/\\:\x00-\x1f]+\.(?:png|jpe?g)", re.IGNORECASE)
_OLDEST = 120.0


class Record(NamedTuple):
    """One row of Data_Entry: `labels` under their canonical names, `age` in years, None where absent or impossible."""

    id: str
    labels: tuple[str, ...]
    patient: str
    age: float | None
    sex: str
    view: str


class Box(NamedTuple):
    """One row of BBox_List, in the frame of 1024 x 1024; `label` under its canonical name."""

    id: str
    label: str
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Entries:
    """Data_Entry, read.

    Attributes:
        records: image id to its row.
        duplicates: ids listed more than once with the same content (each is kept once).
        aliases: spelling in the file to how often it was replaced by the canonical name.
        odd_ages: ids whose age is above 120 years or can't be read, as ``id: text``.
        misnamed: ids that do not start with their patient's id.
        unlabelled: ids with an empty label cell.
    """

    records: Mapping[str, Record]
    duplicates: Sequence[str] = ()
    aliases: Mapping[str, int] = field(default_factory=dict)
    odd_ages: Sequence[str] = ()
    misnamed: Sequence[str] = ()
    unlabelled: Sequence[str] = ()


@dataclass(frozen=True)
class Boxes:
    """BBox_List, read: `boxes` in file order without exact repetitions, which are named in `duplicates`."""

    boxes: Sequence[Box]
    duplicates: Sequence[str] = ()
    aliases: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Tables:
    """Everything that the release's tables say; a list that is not there is None."""

    entries: Entries
    boxes: Boxes
    train_val: Sequence[str] | None
    test: Sequence[str] | None


def canonical(label: str) -> str:
    """Return the name that the label lists use for a finding; an unknown one comes back stripped.

    >>> canonical("Infiltrate"), canonical(" pleural thickening"), canonical("Cardiomegaly")
    ('Infiltration', 'Pleural_Thickening', 'Cardiomegaly')
    """
    return _KNOWN.get(label.strip().casefold().replace("_", " "), label.strip())


def parse_age(text: str) -> float | None:
    """Return an age in years, None when it can't be read or is above 120.

    >>> parse_age("58"), parse_age("058Y"), parse_age("006M"), parse_age("414")
    (58.0, 58.0, 0.5, None)
    """
    match = re.fullmatch(r"\s*(\d{1,6}(?:\.\d{1,6})?)\s*([YMWD]?)\s*", text, re.IGNORECASE | re.ASCII)
    if match is None:
        return None
    years = float(match[1]) * _AGE_UNITS[match[2].upper() or "Y"]
    return years if years <= _OLDEST else None


def parse_entries(text: str, source: str) -> Entries:
    """Read Data_Entry, any version: extra columns, a trailing ``Unnamed`` one and ages like ``058Y`` are all right.

    Args:
        text: the file's content.
        source: the file's name, for messages.

    Raises:
        DataError: no rows, a missing column, a row too short, a name that is no plain file name, an image listed twice
            with different content.
    """
    rows = _rows(text, source)
    header = [name.strip().casefold() for name in next(rows, (0, []))[1]]
    columns = {}
    for name in ("Image Index", "Finding Labels", "Patient ID"):
        if name.casefold() not in header:
            raise DataError(f"{source}: no column {name!r}: use the Data_Entry table of the NIH release unchanged")
        columns[name] = header.index(name.casefold())
    at_id, at_labels, at_patient = columns.values()
    at_age, at_sex, at_view = (
        header.index(name) if name in header else -1 for name in ("patient age", "patient gender", "view position")
    )
    needed = max(at_id, at_labels, at_patient, at_age, at_sex, at_view) + 1

    records: dict[str, Record] = {}
    split_labels: dict[str, tuple[str, ...]] = {}
    respelled: dict[str, list[str]] = {}
    ages: dict[str, float | None] = {}
    aliases: Counter[str] = Counter()
    duplicates, odd_ages, misnamed, unlabelled = [], [], [], []
    for line, row in rows:
        if len(row) < needed:
            raise DataError(f"{source}, line {line}: {len(row)} fields where {needed} are needed: the file is damaged")
        name = _image_name(row[at_id], source, line)
        cell = row[at_labels]
        labels = split_labels.get(cell)
        if labels is None:
            labels = split_labels[cell] = tuple(dict.fromkeys(canonical(x) for x in cell.split("|") if x.strip()))
            respelled[cell] = [x for x in cell.split("|") if x.strip() and canonical(x) != x]
        if respelled[cell]:
            aliases.update(respelled[cell])
        age_text = row[at_age] if at_age >= 0 else ""
        if age_text not in ages:
            ages[age_text] = parse_age(age_text)
        age = ages[age_text]
        patient = row[at_patient].strip()
        if not patient:
            raise DataError(f"{source}, line {line}: no patient id for {name}: patients can't be kept apart")
        patient = patient.zfill(8)
        record = Record(
            name, labels, patient, age, row[at_sex] if at_sex >= 0 else "", row[at_view] if at_view >= 0 else ""
        )
        earlier = records.get(name)
        if earlier is not None:
            if earlier != record:
                raise DataError(f"{source}, line {line}: {name} is listed twice with different content: keep one row")
            duplicates.append(name)
            continue
        records[name] = record
        if age is None and at_age >= 0:
            odd_ages.append(f"{name}: {age_text[:12]}")
        if not name.startswith(patient):
            misnamed.append(name)
        if not labels:
            unlabelled.append(name)
    if not records:
        raise DataError(f"{source}: no rows: use the Data_Entry table of the NIH release unchanged")
    return Entries(records, duplicates, aliases, odd_ages, misnamed, unlabelled)


def parse_boxes(text: str, source: str) -> Boxes:
    """Read BBox_List: with or without its header (9 names over 6 fields), full or rounded numbers.

    A row is an image name, a label and four numbers ``x, y, w, h``; trailing empty fields are ignored. Only the first
    line may be anything else.

    Raises:
        DataError: any other line that is no such row, a number that is not finite, no rows at all, or two different
            boxes for one image and class (the release has none).

    >>> parse_boxes("00000001_000.png,Infiltrate,1,2.5,3,4,,,", "BBox_List").boxes
    [Box(id='00000001_000.png', label='Infiltration', x=1.0, y=2.5, width=3.0, height=4.0)]
    """
    boxes: list[Box] = []
    seen: dict[tuple[str, str], Box] = {}
    aliases: Counter[str] = Counter()
    duplicates: list[str] = []
    for index, (line, row) in enumerate(_rows(text, source)):
        fields = [part.strip() for part in row]
        numbers = _four_numbers(fields[2:])
        if numbers is None or not fields[1]:
            if index == 0 and not _IMAGE_NAME.fullmatch(fields[0]):
                continue  # the header
            shown = ",".join(fields)[:60]
            raise DataError(f"{source}, line {line}: not 'image, label, x, y, w, h': {shown!r}: the file is damaged")
        name = _image_name(fields[0], source, line)
        box = Box(name, canonical(fields[1]), *numbers)
        if box.label != fields[1]:
            aliases[fields[1]] += 1
        earlier = seen.setdefault((name, box.label), box)
        if earlier is not box:
            if earlier != box:
                raise DataError(f"{source}, line {line}: a second {box.label} box for {name}: keep one")
            duplicates.append(name)
            continue
        boxes.append(box)
    if not boxes:
        raise DataError(f"{source}: no boxes: use BBox_List_2017.csv of the NIH release")
    return Boxes(boxes, duplicates, aliases)


def parse_list(text: str, source: str) -> list[str]:
    """Read an official list of image names, one a line; the last line needs no newline.

    Raises:
        DataError: a line that is no plain image name, or an empty list.
    """
    names = [
        _image_name(line, source, number) for number, line in enumerate(text.splitlines(), start=1) if line.strip()
    ]
    if not names:
        raise DataError(f"{source}: empty: use the list of the NIH release")
    return list(dict.fromkeys(names))


def find_table(root: Path, pattern: str) -> Path | None:
    """Return the table in `root` whose name fits, the v2020 one where there are several, None where there is none.

    Raises:
        DataError: `root` is no folder that can be read.
    """
    try:
        found = sorted(path for path in root.iterdir() if path.match(pattern) and path.is_file())
    except FileNotFoundError:
        raise DataError(f"data root {root} does not exist: give the folder of the NIH release") from None
    except OSError as error:
        raise DataError(f"data root {root}: {error.strerror}: give a folder that can be read") from None
    return max(found, key=lambda path: ("2020" in path.name, path.name)) if found else None


PATTERNS = {
    "entries": ("Data_Entry_2017*.csv", "Data_Entry_2017_v2020.csv"),
    "boxes": ("BBox_List_2017*.csv", "BBox_List_2017.csv"),
    "train_val": ("train_val_list*.txt", "train_val_list.txt"),
    "test": ("test_list*.txt", "test_list.txt"),
}
"""Each table's pattern and the name that the release gives it."""


def read_table(root: Path, kind: str) -> tuple[str, str] | None:
    """Return content and file name of a table (a key of `PATTERNS`), None where it is not there.

    Raises:
        DataError: it can't be read, or is not text.
    """
    path = find_table(root, PATTERNS[kind][0])
    if path is None:
        return None
    try:
        return read_text(path, encoding="utf-8-sig"), path.name
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: not UTF-8 text: use the table of the NIH release unchanged") from None
    except ValueError as error:
        raise DataError(f"{path}: {error}: use the table of the NIH release unchanged") from None


def read_tables(root: Path) -> Tables:
    """Read all tables of a release; the two official lists may be absent.

    Raises:
        DataError: `root`, Data_Entry or BBox_List is missing, or a table is damaged.
    """
    texts = {kind: read_table(root, kind) for kind in PATTERNS}
    for kind in ("entries", "boxes"):
        if texts[kind] is None:
            raise DataError(f"no {PATTERNS[kind][0]} in {root}: put {PATTERNS[kind][1]} of the NIH release there")
    entries, boxes, train_val, test = texts.values()
    assert entries is not None
    assert boxes is not None
    return Tables(
        parse_entries(*entries),
        parse_boxes(*boxes),
        parse_list(*train_val) if train_val else None,
        parse_list(*test) if test else None,
    )


def _rows(text: str, source: str) -> Iterator[tuple[int, list[str]]]:
    """Yield line number and fields of every row that is not blank."""
    reader = csv.reader(io.StringIO(text, newline=""))
    try:
        for row in reader:
            if row and (row[0].strip() or any(part.strip() for part in row)):
                yield reader.line_num, row
    except csv.Error as error:
        raise DataError(f"{source}, line {reader.line_num}: {error}: the file is damaged") from None


def _image_name(text: str, source: str, line: int) -> str:
    """Return a plain image file name; anything that could point elsewhere is refused."""
    name = text.strip()
    if len(name) > 255 or not _IMAGE_NAME.fullmatch(name) or name.startswith("."):
        raise DataError(f"{source}, line {line}: {name[:60]!r} is no plain .png or .jpg file name")
    return name


def _four_numbers(fields: Sequence[str]) -> tuple[float, float, float, float] | None:
    """Return x, y, w, h of the fields after the label, None where they are not exactly four finite numbers."""
    parts = [part.strip(" []()") for part in ",".join(fields).rstrip(", ").split(",")]
    if len(parts) != 4:
        return None
    try:
        x, y, width, height = (float(part) for part in parts)
    except ValueError:
        return None
    return (x, y, width, height) if all(map(math.isfinite, (x, y, width, height))) else None
