"""COCO's annotations of one class joined into a region, and files that contradict themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xaibench.errors import DataError

from .folder_data import CLASSES, coco, load, noise, region, save, two, write_coco, write_table

SQUARE = [[2, 2, 6, 2, 6, 6, 2, 6]]


def filled(*rectangles: tuple[int, int, int, int], height: int = 20, width: int = 40) -> Any:
    mask = np.zeros((height, width), dtype=bool)
    for x0, y0, x1, y1 in rectangles:
        mask[y0:y1, x0:x1] = True
    return mask


def test_a_lesion_of_a_polygon_and_one_of_a_box_are_both_there(tmp_path: Path) -> None:
    found = region(coco(tmp_path, {"segmentation": SQUARE}, {"bbox": [20, 10, 8, 4]}))
    assert found.boxes.tolist() == [[2, 2, 6, 6], [20, 10, 28, 14]]
    assert np.array_equal(found.mask, filled((2, 2, 6, 6), (20, 10, 28, 14)))


def test_each_polygon_without_a_box_brings_its_own(tmp_path: Path) -> None:
    far = [[30, 10, 38, 10, 38, 18, 30, 18]]
    found = region(coco(tmp_path, {"segmentation": SQUARE}, {"segmentation": far}))
    assert found.boxes.tolist() == [[2, 2, 6, 6], [30, 10, 38, 18]]
    assert np.array_equal(found.mask, filled((2, 2, 6, 6), (30, 10, 38, 18)))
    one = region(coco(tmp_path, {"segmentation": [*SQUARE, *far]}))  # two parts of one lesion
    assert one.boxes.tolist() == [[2, 2, 38, 18]]
    assert np.array_equal(one.mask, found.mask)


def test_boxes_alone_make_no_mask_and_a_box_is_kept_beside_its_polygon(tmp_path: Path) -> None:
    boxes = region(coco(tmp_path, {"bbox": [1, 2, 3, 4]}, {"bbox": [10, 2, 3, 4.5]}))
    assert boxes.mask is None
    assert boxes.boxes.tolist() == [[1, 2, 4, 6], [10, 2, 13, 6.5]]
    both = region(coco(tmp_path, {"bbox": [1.5, 2, 4.5, 4.25], "segmentation": SQUARE}))
    assert both.boxes.tolist() == [[1.5, 2, 6, 6.25]]
    assert np.array_equal(both.mask, filled((2, 2, 6, 6)))
    label = coco(tmp_path, {"segmentation": []})
    assert label.test.labels.tolist() == [[0, 1]]
    assert label.test.regions(0) == {}


@pytest.mark.parametrize(
    ("annotation", "reason"),
    [
        (
            {"bbox": [10, 4, 20, 12], "segmentation": [[10, 4, 20, 4, 20, 12, 10, 12]]},
            "looks like x0, y0, x1, y1; COCO",
        ),
        ({"bbox": [10, 4, 14, 8], "segmentation": [[10, 4, 20, 4, 20, 12, 10, 12]]}, "more than 3 pixels apart"),
        ({"bbox": [0, 0, 4, 20], "segmentation": {"size": [20, 40], "counts": [0, 160, 640]}}, "more than 3 pixels"),
        (
            {"segmentation": {"size": [40, 20], "counts": [0, 160, 640]}},
            r"a mask of \[40, 20\] on an image of \[20, 40\]",
        ),
        ({"segmentation": {"size": [20, 40], "counts": [0, 160, 639]}}, "the runs do not add up to 20 x 40"),
        ({"segmentation": {"size": [20, 40], "counts": [800]}}, "it covers no pixel: take the annotation out"),
        ({"segmentation": [[2, 2, 60, 2, 60, 6]]}, "a polygon from 2, 2 to 60, 6 leaves the image of 40 x 20 pixels"),
        ({"segmentation": [[-9, 2, 6, 2, 6, 6]]}, "a polygon from -9, 2 to 6, 6 leaves the image"),
        (
            {"segmentation": [[0.1, 0.2, 0.8, 0.2, 0.8, 0.9]]},
            r"lies in \[0, 1\], as normalised ones do: .*x times 40, y",
        ),
        ({"segmentation": [2, 2, 6, 2, 6, 6]}, "a polygon is a list of x0, y0, x1, y1"),
        ({"bbox": [0.1, 0.2, 0.5, 0.3]}, r"the box .* on m\.png lies in \[0, 1\], as normalised ones do"),
        ({"bbox": [3, 3, 0.7, 8]}, "less than one pixel wide or high"),
        ({"bbox": [39.5, 3, 8, 8]}, "less than one pixel wide or high inside its 40 x 20 pixels"),
        ({"bbox": [41, 3, 8, 8]}, r"a box of m\.png is outside its 40 x 20 pixels"),
        ({"bbox": [3, 3, 8]}, "bbox is x, y, width, height"),
        ({"bbox": [3, 3, -8, 8]}, "has no area"),
    ],
)
def test_an_annotation_that_contradicts_itself_or_its_image(tmp_path: Path, annotation: Any, reason: str) -> None:
    with pytest.raises(DataError, match=rf"coco\.json: annotation 100: .*{reason}") as caught:
        coco(tmp_path, annotation)
    assert "\n" not in str(caught.value)


def test_what_is_within_the_tolerance_stays(tmp_path: Path) -> None:
    """Three pixels on a side: rounding, and tools that count the last pixel in or out."""
    found = region(coco(tmp_path, {"bbox": [0, 0, 9, 9], "segmentation": SQUARE}))
    assert found.boxes.tolist() == [[0, 0, 9, 9]]
    with pytest.raises(DataError, match="more than 3 pixels apart"):
        coco(tmp_path, {"bbox": [0, 0, 9.01, 9], "segmentation": SQUARE})
    edge = region(coco(tmp_path, {"segmentation": [[-2, -2, 5, -2, 5, 5, -2, 5]]}))
    assert np.array_equal(edge.mask, filled((0, 0, 5, 5)))


def test_a_sliver_that_covers_no_centre_is_said_when_it_is_drawn(tmp_path: Path) -> None:
    splits = coco(tmp_path, {"segmentation": [[2, 2.6, 9, 2.6, 9, 2.9, 2, 2.9]]})
    with pytest.raises(DataError, match=r"annotation 100: m\.png: segmentation: it covers no pixel's centre"):
        splits.test.regions(0)


def test_boxes_that_reach_out_are_clipped_and_counted(tmp_path: Path) -> None:
    splits = coco(tmp_path, {"bbox": [30, 15, 20, 10]}, {"bbox": [-5, 2, 10, 3]}, {"bbox": [1, 1, 5, 5]})
    assert region(splits).boxes.tolist() == [[30, 15, 40, 20], [0, 2, 5, 5], [1, 1, 6, 6]]
    assert "2 boxes that reach out of their image clipped to it" in splits.notes


def test_boxes_of_corners_in_place_of_sizes(tmp_path: Path) -> None:
    """All would be inside as x0, y0, x1, y1; as x, y, width, height some are not, and clipped they would be wrong."""
    corners = [[1, 2, 10, 12], [25, 8, 38, 18], [3, 3, 9, 9], [5, 1, 30, 19]]
    with pytest.raises(DataError, match=r"annotation 101: .* would be inside as x0, y0, x1, y1"):
        coco(tmp_path, *({"bbox": box} for box in corners))
    few = coco(tmp_path, *({"bbox": box} for box in corners[:2]))  # two say too little: clipped, and counted
    assert region(few).boxes.tolist() == [[1, 2, 11, 14], [25, 8, 40, 20]]
    assert "1 boxes that reach out of their image clipped to it" in few.notes
    assert region(coco(tmp_path, *({"bbox": box} for box in [*corners[:3], [20, 2, 9, 30]]))).boxes[3, 3] == 20
    rows, lines = ["n.png,train,1,0", "m.png,test,0,1"], [f"m.png,Mass,{','.join(map(str, box))}" for box in corners]
    write_table(tmp_path, rows, boxes=lines)
    with pytest.raises(DataError, match=r"boxes\.csv:3: .* name the columns for what they are"):
        load(tmp_path, boxes="boxes.csv")
    write_table(tmp_path, rows, boxes=lines, columns="image,class,x0,y0,x1,y1")
    assert region(load(tmp_path, boxes="boxes.csv")).boxes.tolist() == corners


IMAGES = [{"id": 1, "file_name": "n.png", "split": "train"}, {"id": 2, "file_name": "m.png", "split": "test"}]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"images": [*IMAGES, {**IMAGES[1], "file_name": "n2.png"}]}, r"image 2: this id came already \('m\.png', 'n2"),
        ({"images": [*IMAGES, {**IMAGES[1], "id": 3}]}, r"image 3: image 'm\.png' came already \(.*image 2\)"),
        (
            {"images": [*IMAGES, {"id": 3, "file_name": "./m.png"}]},
            r"image '\./m\.png' came already \(.*written 'm\.png'",
        ),
        ({"categories": [{"id": 7, "name": "Mass"}, {"id": 7, "name": "Clip"}]}, r"category 7: this id came already"),
        ({"categories": [{"id": 7, "name": "Clip"}]}, r"coco\.json: no category 'Mass'"),
        (
            {"categories": [{"id": 7, "name": "mass"}]},
            "category 7: the class 'mass' is none of the benchmark's, which has",
        ),
        ({"annotations": [{"id": 5, "image_id": 2, "category_id": 7}] * 2}, "annotation 5: this id came already"),
        ({"annotations": [{"id": 5, "image_id": 9, "category_id": 7}]}, "annotation 5: its image_id or category_id is"),
        (
            {"annotations": [{"image_id": 2, "category_id": 9}]},
            "annotation number 0: its image_id or category_id is not",
        ),
    ],
)
def test_a_file_that_contradicts_itself(tmp_path: Path, changes: Any, reason: str) -> None:
    two(tmp_path)
    write_coco(tmp_path, [], **changes)
    with pytest.raises(DataError, match=reason):
        load(tmp_path, coco="coco.json")


def test_a_finding_beside_the_negative_class(tmp_path: Path) -> None:
    two(tmp_path)
    categories = [{"id": n, "name": name} for n, name in enumerate([*CLASSES, "Clip"])]

    def written(*found: int, **options: Any) -> Any:
        marks = [{"id": n, "image_id": 2, "category_id": category} for n, category in enumerate(found)]
        write_coco(tmp_path, [], annotations=marks, categories=categories)
        return load(tmp_path, coco="coco.json", **options).test

    with pytest.raises(
        DataError, match=r"annotation 1: Mass on m\.png, which is No Finding by .*annotation 0: take one"
    ):
        written(0, 1)
    with pytest.raises(DataError, match=r"annotation 1: No Finding on m\.png, which is Clip"):
        written(2, 0)
    assert written(0, 0).labels.tolist() == [[1, 0]]
    assert written(0, 1, task="multilabel").labels.tolist() == [[1, 1]]


def test_patients_and_splits_are_read_as_text(tmp_path: Path) -> None:
    two(tmp_path)
    for value, said in ((3, "3"), (3.0, "3"), (" p3 ", "p3")):
        images = [{**IMAGES[0], "who": "other"}, {**IMAGES[1], "who": value}]
        write_coco(tmp_path, [{"bbox": [1, 1, 5, 5]}], images=images)
        assert load(tmp_path, coco="coco.json", patient_column="who").test.patients == [said]
    for value in (None, "", True, [1]):
        write_coco(tmp_path, [], images=[{**IMAGES[0], "who": "other"}, {**IMAGES[1], "who": value}])
        with pytest.raises(DataError, match=r"image 2: who = .*: no patient"):
            load(tmp_path, coco="coco.json", patient_column="who")


def test_both_of_two_images_are_kept(tmp_path: Path) -> None:
    """The annotations of one image do not reach another."""
    save(tmp_path / "n.png", noise())
    save(tmp_path / "m.png", noise(1))
    save(tmp_path / "o.png", noise(2))
    images = [*IMAGES, {"id": 3, "file_name": "o.png", "split": "test"}]
    marks = [{"id": 1, "image_id": 3, "category_id": 7, "bbox": [1, 1, 5, 5]}]
    write_coco(tmp_path, [], images=images, annotations=marks)
    splits = load(tmp_path, coco="coco.json")
    assert [splits.test.labels[row].tolist() for row in (0, 1)] == [[1, 0], [0, 1]]
    assert splits.test.regions(0) == {}
