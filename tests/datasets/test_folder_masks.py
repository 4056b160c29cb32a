"""CheXlocalize's masks, and run lengths and polygons beside pycocotools."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as reference

from xaibench.datasets.base import Split, Splits
from xaibench.datasets.folder.rle import bounds, decode, polygon, uncompress
from xaibench.errors import DataError

from .folder_data import load, noise, save, write_table

PATHS = (
    "CheXpert-v1.0/train/patient1/study1/view1_frontal.jpg",
    "CheXpert-v1.0/test/patient64741/study1/view1_frontal.jpg",
    "CheXpert-v1.0/test/patient64742/study1/view1_frontal.jpg",
)
CLASSES = ("Cardiomegaly", "Lung Opacity")
SIZES = ((20, 40), (24, 32), (30, 30))


def encode(mask: Any) -> dict[str, Any]:
    code = reference.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [*map(int, code["size"])], "counts": code["counts"].decode()}


def rectangle(height: int, width: int, x0: int, y0: int, x1: int, y1: int) -> Any:
    mask = np.zeros((height, width), dtype=bool)
    mask[y0:y1, x0:x1] = True
    return mask


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A training image and two test images of unequal size, as CheXpert and CheXlocalize publish theirs."""
    for seed, (path, size) in enumerate(zip(PATHS, SIZES, strict=True)):
        save(tmp_path / path, noise(seed, *size), quality=95)
    rows = [f"{PATHS[0]},train,1.0,1.0", f"{PATHS[1]},test,1.0,1.0", f"{PATHS[2]},test,0.0,1.0"]
    write_table(tmp_path, rows, header="Path,split,Cardiomegaly,Lung Opacity")
    return tmp_path


def masks(root: Path, table: Any, **options: Any) -> Splits:
    (root / "gt.json").write_text(json.dumps(table))
    given = {"image_column": "Path", "classes": CLASSES, "task": "multilabel", **options}
    return load(root, masks="gt.json", **given)


def ground_truth() -> dict[str, Any]:
    empty = np.zeros((24, 32), dtype=bool)
    return {
        "patient64741_study1_view1_frontal": {
            "Cardiomegaly": encode(rectangle(24, 32, 5, 6, 20, 21)),
            "Airspace Opacity": encode(rectangle(24, 32, 1, 1, 4, 9) | rectangle(24, 32, 28, 2, 30, 4)),
            "Edema": encode(empty),
            "Support Devices": encode(rectangle(24, 32, 0, 0, 3, 3)),
        },
        "patient64742_study1_view1_frontal": {"Cardiomegaly": encode(np.zeros((30, 30), dtype=bool))},
    }


def row_of(split: Split, path: str) -> int:
    return list(split.ids).index(path)


def test_chexlocalizes_masks_as_published(root: Path) -> None:
    splits = masks(root, ground_truth())
    row = row_of(splits.test, PATHS[1])
    found = splits.test.regions(row, frame=None)
    assert sorted(found) == [0, 1]  # Airspace Opacity is CheXpert's Lung Opacity
    assert np.array_equal(found[0].mask, rectangle(24, 32, 5, 6, 20, 21))
    assert found[0].boxes.tolist() == [[5, 6, 20, 21]]
    assert found[1].boxes.tolist() == [[1, 1, 30, 9]]
    assert found[1].mask is not None
    assert found[1].mask.sum() == 3 * 8 + 4
    assert splits.test.own_frame(row) == found[0].frame
    assert splits.test.regions(row_of(splits.test, PATHS[2])) == {}  # all zero: no region
    assert "1 masks of other classes left out (Support Devices 1)" in splits.notes


@pytest.mark.parametrize(
    "key",
    [
        PATHS[1],
        PATHS[1].removesuffix(".jpg"),
        PATHS[1].replace("/", "_"),
        "test/patient64741/study1/view1_frontal",
        "patient64741_study1_view1_frontal.jpg",
    ],
)
def test_names_of_images_that_are_understood(root: Path, key: str) -> None:
    splits = masks(root, {key: {"Cardiomegaly": encode(rectangle(24, 32, 5, 6, 20, 21))}})
    assert sorted(splits.test.regions(row_of(splits.test, PATHS[1]))) == [0]


GOOD = encode(rectangle(24, 32, 5, 6, 20, 21))


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ({"view1_frontal": {"Cardiomegaly": GOOD}}, "view1_frontal may be .*patient1/.* or .*patient64741.*whole path"),
        ({"patient9_study1_view1_frontal": {"Edema": GOOD}}, "patient9_study1_view1_frontal is no image of the table"),
        (
            {name: {"Cardiomegaly": GOOD} for name in (PATHS[1], PATHS[1].replace("/", "_"))},
            "both name .*patient64741.*: keep one",
        ),
        (
            {"patient64742_study1_view1_frontal": {"Cardiomegaly": encode(rectangle(30, 30, 1, 1, 5, 5))}},
            r"patient64742_.*, Cardiomegaly: Cardiomegaly is marked on .*, which does not have that class by .*:4",
        ),
        (
            {"patient64741_study1_view1_frontal": {"Cardiomegaly": encode(rectangle(32, 24, 1, 1, 5, 5))}},
            r"its annotations are for 24 x 32 pixels, but .* has 32 x 24",
        ),
        (
            {"patient64741_study1_view1_frontal": {"Edema": encode(np.zeros((9, 9)))}},
            r"its annotations are for 9 x 9 pixels, but .* has 32 x 24",
        ),
        (
            {"patient64741_study1_view1_frontal": {"Cardiomegaly": GOOD, "Edema": encode(np.zeros((48, 64)))}},
            r"Edema: its size \[48, 64\] is not that of .*Cardiomegaly: make them equal",
        ),
        ({PATHS[1]: {"Cardiomegaly": {"size": [24, 32], "counts": [5, 5]}}}, "the runs do not add up to 24 x 32"),
        ({PATHS[1]: {"Cardiomegaly": {"size": [24.5, 32], "counts": [5, 5]}}}, r"no mask of size \[height, width\]"),
        ({PATHS[1]: {"Cardiomegaly": {"size": [10**9, 10**9], "counts": [1]}}}, "over the limit of 89 megapixels"),
        ({PATHS[1]: {"Cardiomegaly": [[1, 1, 5, 1, 5, 5]]}}, r"no mask of size \[height, width\] and counts"),
        ([], "is no file of masks"),
        ({PATHS[1]: 7}, "is no file of masks"),
    ],
)
def test_wrong_masks_are_said_by_file_image_and_class(root: Path, table: Any, reason: str) -> None:
    with pytest.raises(DataError, match=rf"gt\.json.*{reason}") as caught:
        masks(root, table)
    assert "\n" not in str(caught.value)


def test_masks_of_resized_images_are_scaled(root: Path) -> None:
    big = encode(np.kron(rectangle(24, 32, 5, 6, 20, 21), np.ones((10, 10), dtype=bool)))
    splits = masks(root, {PATHS[1]: {"Cardiomegaly": big}})
    found = splits.test.regions(row_of(splits.test, PATHS[1]), frame=None)[0]
    assert found.boxes.tolist() == [[5, 6, 20, 21]]
    assert np.array_equal(found.mask, rectangle(24, 32, 5, 6, 20, 21))
    assert any("scaled to the image" in note for note in splits.notes)


def test_a_whole_name_goes_before_the_end_of_another(tmp_path: Path) -> None:
    for path in ("a.png", "b/a.png", "c.png"):
        save(tmp_path / path, noise(1))
    write_table(tmp_path, ["a.png,test,0,1", "b/a.png,test,0,1", "c.png,train,1,0"])
    (tmp_path / "gt.json").write_text(json.dumps({"a": {"Mass": encode(rectangle(20, 40, 1, 1, 5, 5))}}))
    test = load(tmp_path, masks="gt.json").test
    assert [len(test.regions(row_of(test, name))) for name in ("a.png", "b/a.png")] == [1, 0]


@st.composite
def any_mask(draw: st.DrawFn) -> Any:
    height, width = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    share = draw(st.sampled_from([0.0, 0.02, 0.5, 0.98, 1.0]))
    return np.random.default_rng(draw(st.integers(0, 999))).random((height, width)) < share


@given(any_mask())
def test_run_lengths_are_pycocotools_exactly(mask: Any) -> None:
    code = encode(mask)
    height, width = mask.shape
    assert np.array_equal(decode(code["counts"], height, width), mask)
    assert np.array_equal(decode(uncompress(code["counts"]), height, width), mask)
    x, y, w, h = reference.toBbox({"size": code["size"], "counts": code["counts"].encode()})
    assert bounds(code["counts"], height, width) == ((x, y, x + w, y + h) if mask.any() else None)


def distance(corners: Any, height: int, width: int) -> Any:
    """Return how far each pixel's centre is from the outline."""
    y, x = np.mgrid[0:height, 0:width] + 0.5
    nearest = np.full((height, width), np.inf)
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        dx, dy = x1 - x0, y1 - y0
        along = np.clip(((x - x0) * dx + (y - y0) * dy) / max(dx * dx + dy * dy, 1e-12), 0, 1)
        nearest = np.minimum(nearest, np.hypot(x - x0 - along * dx, y - y0 - along * dy))
    return nearest


@given(
    st.integers(2, 60),
    st.integers(2, 60),
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=3, max_size=12),
)
def test_polygons_differ_from_pycocotools_within_a_quarter_of_a_pixel_of_the_outline(
    height: int, width: int, shares: list[tuple[float, float]]
) -> None:
    corners = np.array(shares) * [width, height]
    ours = polygon(corners.ravel().tolist(), height, width)
    (code,) = reference.frPyObjects([corners.ravel().tolist()], height, width)
    differing = ours != reference.decode(code).astype(bool)
    assert (distance(corners, height, width)[differing] < 0.25).all()


@given(st.integers(0, 20), st.integers(0, 20), st.integers(1, 20), st.integers(1, 20))
def test_rectangles_on_pixel_edges_are_pycocotools_exactly(x: int, y: int, w: int, h: int) -> None:
    points = [x, y, x + w, y, x + w, y + h, x, y + h]
    (code,) = reference.frPyObjects([list(map(float, points))], 50, 50)
    assert np.array_equal(polygon(points, 50, 50), reference.decode(code).astype(bool))
