"""Whose pixels coordinates are: declared sizes, EXIF orientations, and both together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xaibench.datasets.folder.placing import same_shape
from xaibench.datasets.raster import turn
from xaibench.errors import DataError
from xaibench.metrics.localization import energy, hit_rate, iou_otsu
from xaibench.types import Frame

from .folder_data import coco, load, noise, region, save, two, write_table

WIDE = noise(1, 20, 40)


def lesion(height: int = 20, width: int = 40) -> Any:
    """Dark, but for the pixels from x 4 to 8, y 2 to 6 of 40 x 20."""
    pixels = np.full((20, 40), 10, dtype=np.uint8)
    pixels[2:6, 4:8] = 250
    return np.kron(pixels, np.ones((height // 20, width // 40), dtype=np.uint8))


def bright(splits: Any) -> np.ndarray:
    """Return the box (x0, y0, x1, y1) of the bright pixels of the test image at its own size, decoded to a square."""
    image = splits.test[0].image[0]
    y, x = np.nonzero(image > 0.5)
    own = splits.test.own_frame(0)
    scale = np.array([own.width, own.height] * 2) / image.shape[0]
    return np.array([x.min(), y.min(), x.max() + 1, y.max() + 1]) * scale


@pytest.mark.parametrize(("width", "height"), [(40, 20), (80, 40), (20, 10), (160, 80)])
def test_a_declared_size_scales_boxes_and_masks(tmp_path: Path, width: int, height: int) -> None:
    two(tmp_path, lesion(40, 80))
    f = width / 40
    box, square = [4 * f, 2 * f, 4 * f, 4 * f], [c * f for c in (4, 2, 8, 2, 8, 6, 4, 6)]
    splits = coco(tmp_path, {"bbox": box, "segmentation": [square]}, image={"width": width, "height": height}, size=80)
    assert splits.test.own_frame(0) == Frame(40, 80)
    found = region(splits)
    assert found.boxes.tolist() == [[8, 4, 16, 12]]
    assert found.frame == Frame(40, 80)
    assert found.mask is not None
    assert found.mask.sum() == 64
    assert found.mask[4:12, 8:16].all()
    assert np.allclose(bright(splits), [8, 4, 16, 12])
    noted = [note for note in splits.notes if "scaled to the image" in note]
    assert len(noted) == (width != 80)


def test_a_perfect_map_of_a_resized_image_scores_one(tmp_path: Path) -> None:
    """The file is half the size of what was annotated: unscaled the box would lie beside the lesion."""
    import torch

    two(tmp_path, lesion())
    splits = coco(tmp_path, {"bbox": [8, 4, 8, 8]}, image={"width": 80, "height": 40}, size=40)
    sample = splits.test[0]
    mask = torch.from_numpy(sample.regions[1].rasterize(splits.test.frame))[None]
    perfect = torch.from_numpy(sample.image) * (torch.from_numpy(sample.image) > 0.5)
    assert [metric(perfect, mask).item() for metric in (hit_rate, energy, iou_otsu)] == [1, 1, 1]


@pytest.mark.parametrize(("width", "height"), [(20, 40), (40, 22), (41, 19), (80, 45), (400, 400), (39, 22)])
def test_a_size_of_another_shape_is_refused(tmp_path: Path, width: int, height: int) -> None:
    reason = (
        rf"coco\.json: image 2: its annotations are for {width} x {height} pixels, but m\.png has 40 x 20: "
        "give the images that were annotated, or the width and height"
    )
    with pytest.raises(DataError, match=reason):
        coco(tmp_path, {"bbox": [1, 1, 4, 4]}, image={"width": width, "height": height})


@pytest.mark.parametrize("image", [{}, {"width": 0, "height": 0}, {"width": None, "height": None}, {"width": 99}])
def test_without_a_size_the_files_counts(tmp_path: Path, image: Any) -> None:
    assert region(coco(tmp_path, {"bbox": [1, 1, 4, 4]}, image=image)).boxes.tolist() == [[1, 1, 5, 5]]


def test_runs_of_a_resized_image(tmp_path: Path) -> None:
    runs = {"size": [10, 20], "counts": [21, 3, 7, 3, 166]}  # columns 2 and 3, rows 1 to 3 of 20 x 10
    found = region(coco(tmp_path, {"segmentation": runs}, image={"width": 20, "height": 10}))
    assert found.boxes.tolist() == [[4, 2, 8, 8]]
    assert found.mask is not None
    assert found.mask[2:8, 4:8].all()
    assert found.mask.sum() == 24


@given(st.integers(8, 3000), st.integers(8, 3000), st.floats(0.05, 1))
def test_a_resized_copy_has_the_same_shape(width: int, height: int, factor: float) -> None:
    small = Frame(max(round(height * factor), 1), max(round(width * factor), 1))
    assert same_shape(Frame(height, width), small)
    assert same_shape(small, Frame(height, width))
    long, short = max(width, height) + 2, min(width, height)
    assert not same_shape(Frame(short, long), Frame(short + 2, long))  # padded by two pixels
    assert not same_shape(Frame(short + 2, long), Frame(short, long))


@pytest.mark.parametrize("kind", ["png", "jpg", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_scored_as_viewers_show_it(tmp_path: Path, orientation: int, kind: str) -> None:
    stored = lesion(60, 120)
    save(tmp_path / "n.png", noise())
    options = {"tiffinfo": {274: orientation}} if kind == "tif" else {"quality": 100} if kind == "jpg" else {}
    save(tmp_path / f"m.{kind}", stored, 1 if kind == "tif" else orientation, **options)
    shown = turn(stored, orientation)
    y, x = np.nonzero(shown > 99)
    box = [x.min(), y.min(), x.max() + 1, y.max() + 1]
    line = f"m.{kind},Mass,{','.join(map(str, box))}"
    write_table(tmp_path, ["n.png,train,1,0", f"m.{kind},test,0,1"], boxes=[line], columns="image,class,x0,y0,x1,y1")
    splits = load(tmp_path, 120, boxes="boxes.csv")
    assert splits.test.own_frame(0) == Frame(*shown.shape)
    assert region(splits).boxes.tolist() == [box]
    assert np.allclose(bright(splits), box, atol=1)
    assert ("1 images turned by their EXIF orientation" in splits.notes) == (orientation != 1)
    assert f"orientation {orientation}" in splits.test.image_key(0)
    if orientation == 1:
        return
    as_stored = load(tmp_path, 120, orientation="stored")
    assert as_stored.test.own_frame(0) == Frame(60, 120)
    assert np.allclose(bright(as_stored), [12, 6, 24, 18], atol=1)
    assert as_stored.test.fingerprint != splits.test.fingerprint
    assert not any("EXIF" in note for note in as_stored.notes)


def tagged(root: Path, declared: tuple[int, int] | None, **options: Any) -> Any:
    """Return the splits of an image stored as 40 x 20 that viewers turn to 20 x 40."""
    two(root, lesion(), orientation=6)
    image = {} if declared is None else {"width": declared[0], "height": declared[1]}
    return coco(root, {"bbox": [4, 2, 4, 4]}, image=image, size=40, **options)


def test_the_declared_size_says_which_of_the_two_was_annotated(tmp_path: Path) -> None:
    turned = tagged(tmp_path, (20, 40))
    assert turned.test.own_frame(0) == Frame(40, 20)
    assert np.allclose(bright(turned), [14, 4, 18, 8])  # row 2 to 6 from the top is now column 2 to 6 from the right
    assert "1 images turned by their EXIF orientation" in turned.notes
    stored = tagged(tmp_path, (40, 20))
    assert stored.test.own_frame(0) == Frame(20, 40)
    assert np.allclose(bright(stored), [4, 2, 8, 6])
    assert any("left as they are stored in spite of an EXIF orientation" in note for note in stored.notes)
    assert tagged(tmp_path, None).test.own_frame(0) == Frame(40, 20)
    assert tagged(tmp_path, (10, 20)).test.own_frame(0) == Frame(40, 20)  # half the size, and turned
    assert tagged(tmp_path, (80, 40)).test.own_frame(0) == Frame(20, 40)
    assert tagged(tmp_path, None, orientation="stored").test.own_frame(0) == Frame(20, 40)
    assert tagged(tmp_path, (20, 40), orientation="exif").test.own_frame(0) == Frame(40, 20)


@pytest.mark.parametrize(
    ("declared", "orientation", "found"),
    [((40, 20), "exif", "20 x 40 turned by its EXIF orientation"), ((20, 40), "stored", "40 x 20 as stored")],
)
def test_an_option_that_the_size_contradicts_is_refused(
    tmp_path: Path, declared: tuple[int, int], orientation: str, found: str
) -> None:
    with pytest.raises(DataError, match=rf"m\.png has {found}: leave the option orientation out"):
        tagged(tmp_path, declared, orientation=orientation)
    tagged(tmp_path, declared)  # the remedy works


def test_orientations_that_keep_the_size_follow_the_option(tmp_path: Path) -> None:
    two(tmp_path, lesion(), orientation=3)
    splits = coco(tmp_path, {"bbox": [32, 14, 4, 4]}, image={"width": 40, "height": 20}, size=40)
    assert np.allclose(bright(splits), [32, 14, 36, 18])
    assert region(splits).boxes.tolist() == [[32, 14, 36, 18]]


def test_the_mask_of_a_turned_image_lies_on_its_lesion(tmp_path: Path) -> None:
    two(tmp_path, lesion(), orientation=8)
    square = [2, 32, 6, 32, 6, 36, 2, 36]
    splits = coco(tmp_path, {"segmentation": [square]}, image={"width": 20, "height": 40}, size=40)
    assert np.allclose(bright(splits), [2, 32, 6, 36])
    mask = region(splits).mask
    assert mask is not None
    assert mask.shape == (40, 20)
    assert mask[32:36, 2:6].all()
