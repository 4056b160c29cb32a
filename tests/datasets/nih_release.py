"""Write a tiny release in the NIH layout."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)
BOX_HEADER = "Image Index,Finding Label,Bbox [x,y,w,h],,,"
CLASSES = ("No Finding", "Cardiomegaly", "Effusion")


def name(patient: int, visit: int = 0) -> str:
    return f"{patient:08d}_{visit:03d}.png"


def entry(patient: int, labels: str, visit: int = 0, *, age: str = "58", end: str = "") -> str:
    return f"{name(patient, visit)},{labels},{visit},{patient},{age},M,PA,2682,2749,0.143,0.143{end}"


def write_png(path: Path, seed: int = 0, *, size: int = 32) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size), dtype=np.uint8)).save(path)


def write_release(
    root: Path,
    rows: Sequence[str],
    boxes: Sequence[str],
    *,
    header: str = HEADER,
    box_header: str | None = BOX_HEADER,
    table: str = "Data_Entry_2017_v2020.csv",
    layout: str = "images/{name}",
    lists: Mapping[str, Iterable[str]] | None = None,
    skip: Iterable[str] = (),
    size: int = 32,
) -> Path:
    """Write tables and an image for each row that is not in `skip`; lists end without a newline, as the release's."""
    root.mkdir(parents=True, exist_ok=True)
    (root / table).write_text("\n".join([header, *rows]) + "\n")
    (root / "BBox_List_2017.csv").write_text("\n".join([*([box_header] if box_header else []), *boxes]) + "\n")
    for file, names in (lists or {}).items():
        (root / file).write_text("\n".join(names))
    names = list(dict.fromkeys(row.split(",")[0] for row in rows))
    for index, image in enumerate(names):
        if image not in set(skip):
            part = 1 + index * 12 // len(names)
            write_png(root / layout.format(part=f"{part:03d}", name=image), index, size=size)
    return root


def standard_rows() -> list[str]:
    """60 patients of one image each, 20 a class in turn, and a second visit for every sixth."""
    rows = [entry(patient, CLASSES[patient % 3]) for patient in range(1, 61)]
    return rows + [entry(patient, CLASSES[patient % 3], 1) for patient in range(6, 61, 6)]


def standard_boxes() -> list[str]:
    """Boxes of three Cardiomegaly and three Effusion patients; a row has six fields."""
    chosen = {1: "Cardiomegaly", 4: "Cardiomegaly", 7: "Cardiomegaly", 2: "Effusion", 5: "Effusion", 8: "Effusion"}
    return [f"{name(patient)},{label},256.5,512,128,64.25" for patient, label in chosen.items()]
