"""The image and the region are those of the annotator."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any
from unicodedata import normalize

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from pycocotools import mask as coco_masks

from tests.cases.base import Pair, Refused, Says, case
from tests.cases.data import CLASSES, boxes, coco, folder_benchmark, lesion, load, region, two
from tests.cases.network import run, value
from tests.classifiers import odd_networks as odd
from tests.datasets.folder_data import noise, save, write_table
from xaibench.classifiers.base import Classifier
from xaibench.cli import main
from xaibench.datasets.base import Splits
from xaibench.doctor import diagnose
from xaibench.explainers.base import upsample
from xaibench.findings import errors
from xaibench.metrics.localization import energy, hit_rate
from xaibench.testing.small import Small
from xaibench.types import Frame

SECTION = "The image and the region are those of the annotator"
DATA = "tests/datasets"
FRAMES = "tests/evaluation/test_frames.py"
CONTRADICTS = f"{DATA}/test_folder_marks.py::test_an_annotation_that_contradicts_itself_or_its_image"
FILE = f"{DATA}/test_folder_marks.py::test_a_file_that_contradicts_itself"
LABELS = f"{DATA}/test_folder_labels.py::test_contradictions_name_file_and_line"
HAND = "by hand"
SQUARE, FAR = [[2, 2, 6, 2, 6, 6, 2, 6]], [[30, 10, 38, 10, 38, 18, 30, 18]]


@case(
    SECTION,
    "COCO declares 80 x 40 for a file of 40 x 20: energy of a perfect map",
    before="0",
    right=1.0,
    source="the map is the lesion",
    test=f"{DATA}/test_folder_frames.py::test_a_perfect_map_of_a_resized_image_scores_one",
)
def coco_half_size(root: Path) -> float:
    two(root, lesion())
    splits = coco(root, {"bbox": [8, 4, 8, 8]}, image={"width": 80, "height": 40})
    sample = splits.test[0]
    heat = torch.from_numpy(sample.image)
    mask = torch.from_numpy(sample.regions[1].rasterize(Frame.square(40)))[None]
    return float(energy(heat * (heat > 0.5), mask))


def _coco(
    given: str,
    marks: Sequence[dict[str, Any]],
    right: Any,
    source: str,
    test: str,
    before: str,
    shows: Callable[[Splits], Any] = boxes,
    **changes: Any,
) -> None:
    """Add a case of a COCO file of annotations of m.png."""

    @case(SECTION, f"COCO: {given}", before=before, right=right, source=source, test=test)
    def of_coco(root: Path) -> Any:
        return shows(coco(root, *marks, **changes))

    of_coco.__name__ = "coco_" + "_".join(given.replace(",", "").replace(":", "").split()[:5])


def labels(splits: Splits) -> list[list[float]]:
    return splits.test.labels.tolist()


def boxes_and_mask(splits: Splits) -> list[Any]:
    found = region(splits)
    return [found.boxes.tolist(), 0 if found.mask is None else int(found.mask.sum())]


def iou_of_boxes(splits: Splits) -> float:
    """Return the IoU of the boxes with the polygons, drawn by pycocotools."""
    found = region(splits)
    codes = coco_masks.frPyObjects([[float(at) for at in one] for one in SQUARE + FAR], 20, 40)
    drawn = coco_masks.decode(codes).any(2)
    filled = np.zeros((20, 40), bool)
    for x0, y0, x1, y1 in found.boxes.astype(int):
        filled[y0:y1, x0:x1] = True
    return float((filled & drawn).sum() / (filled | drawn).sum())


_coco(
    "declares 60 x 50 for a file of 40 x 20: boxes",
    [{"bbox": [8, 4, 8, 8]}],
    Refused("its annotations are for 60 x 50 pixels, but m.png has 40 x 20"),
    "no scaling maps one on the other",
    f"{DATA}/test_folder_frames.py::test_a_size_of_another_shape_is_refused",
    "[8, 4, 16, 12]",
    image={"width": 60, "height": 50},
)
_coco(
    "a lesion with a polygon only and one with a box only, one class: boxes, pixels of the mask",
    [{"segmentation": SQUARE}, {"bbox": [20, 10, 8, 4]}],
    [[[2.0, 2.0, 6.0, 6.0], [20.0, 10.0, 28.0, 14.0]], 48],
    "4 x 4 + 8 x 4 pixels",
    f"{DATA}/test_folder_marks.py::test_a_lesion_of_a_polygon_and_one_of_a_box_are_both_there",
    "[[20, 10, 28, 14]], 16",
    boxes_and_mask,
)
_coco(
    "two polygons without a box: IoU of the boxes with both",
    [{"segmentation": SQUARE}, {"segmentation": FAR}],
    1.0,
    "rectangles, drawn by pycocotools",
    f"{DATA}/test_folder_marks.py::test_each_polygon_without_a_box_brings_its_own",
    "0.138889",
    iou_of_boxes,
)
_coco(
    "bbox [10, 4, 20, 12] (x0, y0, x1, y1) beside a polygon from 10, 4 to 20, 12: boxes",
    [{"bbox": [10, 4, 20, 12], "segmentation": [[10, 4, 20, 4, 20, 12, 10, 12]]}],
    Refused("it looks like x0, y0, x1, y1"),
    "COCO's format: x, y, width, height",
    CONTRADICTS,
    "[10, 4, 30, 16]",
)
_coco(
    "four bboxes x0, y0, x1, y1, no segmentation: boxes",
    [{"bbox": b} for b in ([1, 2, 10, 12], [25, 8, 38, 18], [3, 3, 9, 9], [5, 1, 30, 19])],
    Refused("would be inside as x0, y0, x1, y1"),
    "as corners all are inside, as sizes one leaves the image",
    f"{DATA}/test_folder_marks.py::test_boxes_of_corners_in_place_of_sizes",
    "[1, 2, 11, 14], [25, 8, 40, 20], [3, 3, 12, 12], [5, 1, 35, 20]",
)
_coco(
    "one category id twice: labels",
    [{"bbox": [1, 1, 5, 5]}],
    Refused("category 7: this id came already"),
    "the file contradicts itself",
    FILE,
    "refused: folder: no test image of the classes No Finding, Mass in DIR",
    labels,
    categories=[{"id": 7, "name": "Mass"}, {"id": 7, "name": "Clip"}],
)
_coco(
    "one annotation id twice: boxes",
    [{"id": 5, "bbox": [1, 1, 5, 5]}, {"id": 5, "bbox": [9, 9, 5, 5]}],
    Refused("annotation 5: this id came already"),
    "the file contradicts itself",
    FILE,
    "[1, 1, 6, 6], [9, 9, 14, 14]",
)
_coco(
    "a polygon to x = 60 on 40 x 20: boxes",
    [{"segmentation": [[2, 2, 60, 2, 60, 6, 2, 6]]}],
    Refused("leaves the image of 40 x 20 pixels"),
    "the file contradicts itself",
    CONTRADICTS,
    "[2, 2, 40, 6]",
)
_coco(
    "run lengths without a pixel: boxes, pixels of the mask",
    [{"segmentation": {"size": [20, 40], "counts": [800]}}],
    Refused("it covers no pixel"),
    "nothing is marked",
    CONTRADICTS,
    "[], 0",
    boxes_and_mask,
)
_coco(
    "category mass where the benchmark's class is Mass: labels",
    [],
    Refused("the class 'mass' is none of the benchmark's, which has 'Mass'"),
    "all images would be No Finding",
    FILE,
    "[1, 0]",
    labels,
    categories=[{"id": 7, "name": "mass"}],
)
_coco(
    "No Finding and Mass on one image, multiclass: labels",
    [{"category_id": 0}, {"category_id": 7}],
    Refused("Mass on m.png, which is No Finding by"),
    "the file contradicts itself",
    f"{DATA}/test_folder_marks.py::test_a_finding_beside_the_negative_class",
    "[1, 1]",
    labels,
    categories=[{"id": 0, "name": "No Finding"}, {"id": 7, "name": "Mass"}],
)


@case(
    SECTION,
    "COCO: polygons of 3 to 12 corners, 300 drawn at random: farthest differing pixel from the outline, beside "
    "pycocotools",
    before="0.16 px",
    right=Says("^(0|0.[01][0-9]*|0.2[0-4][0-9]*) px$", "below 0.25 px"),
    source="pycocotools; documented in docs/folder.md",
    test=f"{DATA}/test_folder_masks.py::"
    "test_polygons_differ_from_pycocotools_within_a_quarter_of_a_pixel_of_the_outline",
)
def polygons(root: Path) -> str:
    from xaibench.datasets.folder.rle import polygon

    rng, farthest = np.random.default_rng(0), 0.0
    for _ in range(300):
        height, width = (int(side) for side in rng.integers(4, 60, 2))
        corners = rng.random((rng.integers(3, 13), 2)) * [width, height]
        (code,) = coco_masks.frPyObjects([corners.ravel().tolist()], height, width)
        differs = polygon(corners.ravel().tolist(), height, width) != coco_masks.decode(code).astype(bool)
        for y, x in np.argwhere(differs) + 0.5:
            farthest = max(farthest, min(map(float, _distances(corners, x, y))))
    return f"{farthest:.2f} px"


def _distances(corners: Any, x: float, y: float) -> Any:
    start, along = corners, np.roll(corners, -1, axis=0) - corners
    share = ((np.array([x, y]) - start) * along).sum(1) / np.maximum((along**2).sum(1), 1e-12)
    return np.hypot(*(start + np.clip(share, 0, 1)[:, None] * along - [x, y]).T)


@case(
    SECTION,
    "CheXlocalize's layout (pickled maps, run lengths, unequal sizes) through xaibench run: largest difference of IoU "
    "at Otsu's threshold and of hits from its published definition",
    before="refused: chexlocalize.toml: localization.frame = 'image': it is \"input\" or a side of 8 to 4096 ...",
    right=0.0,
    source="OpenCV, Pillow and pycocotools, by CheXlocalize's definition",
    test="tests/test_chexlocalize.py::test_every_image_scores_as_in_chexlocalize",
    tolerance=1e-12,
)
def chexlocalize(root: Path) -> float:
    from tests.test_chexlocalize import Layout
    from xaibench.results.run import Run

    layout = Layout(root)
    command = f"run module:{root}/network.py:network -e maps:{layout.maps} --device cpu -b {root}/chexlocalize.toml"
    error = StringIO()
    with redirect_stdout(StringIO()):
        code = main([*command.split(), "--data-root", str(root), "--out", f"{root}/runs"])
    if code:
        from xaibench.benchmark import load_benchmark

        load_benchmark(root / "chexlocalize.toml")  # says why
        raise RuntimeError(f"exit code {code} {error.getvalue()}")
    (directory,) = (root / "runs").iterdir()
    images, worst = Run.load(directory).images(), 0.0
    for pair in layout.pairs():
        own = images["image"].str.contains(pair[0].replace("_study1_view1_frontal", "/"))
        rows = images[own & (images["class"] == pair[1].replace("Airspace", "Lung"))].set_index("metric")["value"]
        iou, _, hit = layout.scores(pair)
        worst = max(worst, abs(rows["iou_otsu"] - iou), abs(rows["hit_rate"] - hit))
    return worst


def inside_box(splits: Splits, side: int) -> float:
    sample = splits.test[0]
    return float(sample.image[0][sample.regions[1].rasterize(Frame.square(side))].mean())


TURNED = "by hand, and Pillow's exif_transpose: the lesion is 0.98, the rest 0.04; resizing blurs its edge, within 0.1"


@case(
    SECTION,
    "JPEG with EXIF orientation 6, box drawn as viewers show it: mean value inside the box",
    before="0.0392157",
    right=0.98,
    source=TURNED,
    test=f"{DATA}/test_folder_frames.py::test_an_image_is_scored_as_viewers_show_it",
    tolerance=0.1,
)
def exif_jpeg(root: Path) -> float:
    two(root, lesion(3), name="m.jpg", orientation=6, quality=100)
    write_table(
        root,
        ["n.png,train,1,0", "m.jpg,test,0,1"],
        boxes=["m.jpg,Mass,42,12,54,24"],
        columns="image,class,x0,y0,x1,y1",
    )
    return inside_box(load(root, 120, boxes="boxes.csv"), 120)


@case(
    SECTION,
    "COCO declares the turned size 20 x 40 of a file of 40 x 20 with orientation 6: mean value inside the box",
    before="0.0392157",
    right=0.98,
    source=TURNED,
    test=f"{DATA}/test_folder_frames.py::test_the_declared_size_says_which_of_the_two_was_annotated",
    tolerance=0.1,
)
def exif_declared(root: Path) -> float:
    two(root, lesion(), orientation=6)
    return inside_box(coco(root, {"bbox": [14, 4, 4, 4]}, image={"width": 20, "height": 40}), 40)


@case(
    SECTION,
    "an NIH PNG with orientation 6",
    before="read as (32, 40)",
    right=Refused("EXIF orientation, as no image of the release"),
    source="the release has none",
    test=f"{DATA}/test_chestxray8_images.py::test_a_file_that_viewers_turn_is_refused",
)
def exif_nih(root: Path) -> str:
    from xaibench.datasets.chestxray8.images import read_grey

    save(root / "a.png", noise(0, 32, 40), 6)
    return f"read as {read_grey(root / 'a.png').shape}"


RANGE = f"{DATA}/test_folder_range.py"
DEEP = np.linspace(0, 4095, 1024).round().astype(np.uint16).reshape(32, 32)


def float_image(root: Path, low: float, high: float) -> None:
    save(root / "n.png", noise())
    pixels = np.linspace(low, high, 1024, dtype=np.float32).reshape(32, 32)
    two(root, pixels, name="m.tif")


def _values(
    given: str,
    write: Callable[[Path], None],
    shows: Callable[[Any], Any],
    right: Any,
    source: str,
    test: str,
    before: str,
    **options: Any,
) -> None:
    """Add a case of an image's values as the network gets them."""

    @case(SECTION, given, before=before, right=right, source=source, test=test, tolerance=1e-4)
    def of_values(root: Path) -> Any:
        write(root)
        return shows(load(root, 32, **options).test[0].image)

    of_values.__name__ = "values_" + "_".join(given.replace(",", "").replace(":", "").split()[:6])


def mean(image: Any) -> float:
    return float(image.mean())


def largest(image: Any) -> float:
    return float(image.max())


def ramp16(root: Path) -> None:
    two(root, np.linspace(0, 65535, 1024).astype(np.uint16).reshape(32, 32))


def green(root: Path) -> None:
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[..., 1] = 255
    two(root, pixels)


def rgb16(root: Path) -> None:
    """Write a PNG of three channels of 16 bits, which Pillow does not."""
    two(root)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + row.tobytes() for row in np.full((32, 32, 3), 4095, ">u2"))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 32, 32, 16, 2, 0, 0, 0))
    (root / "m.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )


def two_frames(root: Path) -> None:
    two(root, name="m.tif", save_all=True, append_images=[Image.fromarray(noise(2))])


COLOUR = f"{RANGE}::test_colour_of_a_deep_grey_image_repeats_it"
_values("color = true, 16-bit ramp from 0 to 65,535: mean", ramp16, mean, 0.5, HAND, COLOUR, "0.997564", color=True)
_values(
    "color = true, float ramp from 0 to 1: mean",
    lambda root: float_image(root, 0, 1),
    mean,
    0.5,
    HAND,
    COLOUR,
    "3.82966e-06",
    color=True,
)
_values(
    'range = "stored", 12 bits in a 16-bit file: largest value',
    lambda root: two(root, DEEP),
    largest,
    1.0,
    "4095 / 4095",
    f"{RANGE}::test_twelve_bits_in_sixteen",
    "refused: folder has no option 'range'. Known: boxes, class_column, coco, color, image_column, ...",
    range="stored",
)
_values(
    'range = "percentile", floats from -1000 to 3000: smallest and largest value',
    lambda root: float_image(root, -1000, 3000),
    lambda image: [float(image.min()), float(image.max())],
    [0.0, 1.0],
    "numpy.percentile",
    f"{RANGE}::test_percentiles",
    "refused: folder has no option 'range'. Known: boxes, class_column, coco, color, image_column, ...",
    range="percentile",
)
_values(
    "pure green in grey mode: mean",
    green,
    mean,
    0.587,
    "luminance, ITU-R BT.601",
    f"{RANGE}::test_colours_become_their_luminance",
    "0",
)
_values(
    "RGB PNG of 16 bits each, 4095 everywhere: largest value",
    rgb16,
    largest,
    Refused("16 bits for each of several channels"),
    "8 of 16 bits would be read",
    f"{DATA}/test_raster.py::test_sixteen_bits_of_several_channels_are_refused",
    "0.0588235",
)
_values(
    "TIFF of two frames: shape",
    two_frames,
    lambda image: str(image.shape),
    Refused("holds 2 frames"),
    "nothing says which is meant",
    f"{DATA}/test_raster.py::test_values_that_pillow_reads_as_others_are_refused",
    "(1, 32, 32)",
)


@case(
    SECTION,
    "chestxray8, an image in colour (red channel 1, others 0): mean",
    before="1",
    right=1.0,
    source="the release's images in colour repeat one channel: the first is kept, and docs say so",
    test=f"{DATA}/test_chestxray8_images.py::test_the_first_channel_is_taken_and_alpha_never_blended",
)
def first_channel(root: Path) -> float:
    from xaibench.datasets.chestxray8.images import read_grey

    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[..., 0] = 255
    save(root / "a.png", pixels)
    return float(read_grey(root / "a.png").mean())


@case(
    SECTION,
    "12 bits in 16-bit files, full range: errors of the doctor",
    before="none",
    right=Says("almost black", "an error"),
    source="4095 / 65535 = 0.06 is the brightest",
    test="tests/doctor/test_planted.py::test_images_that_use_the_lower_part_of_their_range",
)
def doctor_of_dark_images(root: Path) -> str:
    images = F.interpolate(torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)), 64, mode="bilinear")
    classifier: Classifier = Small()
    found = errors(diagnose(classifier, {}, images / images.max() * (4095 / 65535)))
    return "; ".join(one.what for one in found) or "none"


@case(
    SECTION,
    "the same, xaibench data check folder: exit code, last line",
    before="2, error: No such option '-b'. See xaibench data check --help.",
    right=[1, Says('range = "stored"', "the remedy")],
    source="as above",
    test=f"{DATA}/test_folder_check.py::test_an_unused_upper_range_is_an_error_with_a_remedy_that_works",
)
def data_check(root: Path) -> list[Any]:
    two(root, DEEP)
    (root / "b.toml").write_text(
        'name = "b"\nclasses = ["No Finding", "Mass"]\ninput_size = 32\n[dataset]\nname = "folder"\n'
        'options = { table = "labels.csv", split_column = "split" }\n[[metrics]]\nname = "roc_auc"\n'
    )
    said = StringIO()
    from contextlib import redirect_stderr

    with redirect_stdout(said), redirect_stderr(said):
        code = main(["data", "check", "folder", "--data-root", str(root), "-b", str(root / "b.toml")])
    return [code, said.getvalue().strip().splitlines()[-1]]


def _tables(
    given: str, marks: Sequence[str], right: Any, source: str, before: str, test: str = LABELS, **more: Any
) -> None:
    """Add a case of tables that contradict each other; the value is the regions' boxes, or the labels."""

    @case(SECTION, given, before=before, right=right, source=source, test=test)
    def of_tables(root: Path) -> Any:
        two(root)
        for name in more.get("images", []):
            save(root / name, noise())
        rows = more.get("rows", ["n.png,train,1,0", "m.png,test,0,1"])
        write_table(root, rows, boxes=marks)
        splits = load(root, **({"boxes": "boxes.csv"} if marks else {}))
        if not marks:
            return [*splits.train.labels.tolist(), *splits.test.ids]
        return [found.boxes.round(2).tolist() for found in splits.test.regions(0).values()] or "no boxes"

    of_tables.__name__ = "tables_" + "_".join(given.replace(",", "").replace(":", "").split()[:6])


ROWS = ["n.png,train,1,0", "m.png,test,0,1"]
COMPOSED, DECOMPOSED = normalize("NFC", "Röntgen.png"), normalize("NFD", "Röntgen.png")
_tables(
    "a box of Mass on an image labelled without it: boxes of the test image",
    ["n.png,Mass,1,1,5,5", "m.png,Mass,1,1,5,5"],
    Refused(r"boxes.csv:2: Mass is marked on n.png, which does not have that class by labels.csv:2"),
    "one of the two is wrong",
    "[[1, 2, 6, 12]]",
)
_tables(
    "two classes in a row, multiclass: labels",
    [],
    Refused('labels.csv:2: n.png has 2 of the classes .*task = "multilabel"'),
    "one class an image",
    "[1, 1], m.png",
    rows=["n.png,train,1,1", "m.png,test,0,1"],
)
_tables(
    "a box of 0.1, 0.2, 0.5, 0.3 on 40 x 20: boxes, in 40 x 40",
    ["m.png,Mass,0.1,0.2,0.5,0.3"],
    Refused("lies in .0, 1., as normalised ones do"),
    "pixels are asked for",
    "[[0.1, 0.4, 0.6, 1]]",
)
_tables(
    "a box 0.3 pixels wide: boxes, in 40 x 40",
    ["m.png,Mass,5.6,5,0.3,9"],
    Refused("less than one pixel wide"),
    "it covers no pixel's centre",
    "[[5.6, 10, 5.9, 28]]",
)
_tables(
    "a box outside its image: the file and line that the message names",
    ["m.png,Mass,50,4,10,8"],
    Refused("boxes.csv:2: a box of m.png is outside"),
    "boxes.csv has the box",
    "refused: labels.csv:3: a box of m.png is outside its 40 x 20 pixels",
    f"{DATA}/test_folder.py::test_a_box_outside_its_image_says_so",
)
_tables(
    "a file name in another Unicode form in the table than on disk",
    [],
    Refused("the same name in another Unicode form"),
    "the letters look the same",
    "refused: labels.csv:4: no image Röntgen.png",
    f"{DATA}/test_folder_labels.py::test_a_file_under_another_form_of_its_name",
    images=[COMPOSED],
    rows=[*ROWS, f"{DECOMPOSED},test,1,0"],
)
_tables(
    "a file name in two Unicode forms in two tables",
    [f"{DECOMPOSED},Mass,1,1,5,5"],
    Refused("another Unicode form .* than in labels.csv:4"),
    "the letters look the same",
    "refused: boxes.csv:2: image 'Röntgen.png' is not in the table of images",
    f"{DATA}/test_folder_labels.py::test_names_of_the_two_tables_in_other_forms",
    images=[COMPOSED],
    rows=[*ROWS, f"{COMPOSED},test,0,1"],
)
_tables(
    "boxes of class mass where the benchmark's is Mass: boxes of the test image",
    ["m.png,mass,1,1,5,5"],
    Refused("the class 'mass' is none of the benchmark's, which has 'Mass'"),
    "the box would be dropped",
    "no boxes",
)
_tables(
    "one file twice, as m.png and ./m.png: labels and test images",
    [],
    Refused("image './m.png' came already .labels.csv:3"),
    "one image counts once",
    "[1, 0], m.png, ./m.png",
    f"{DATA}/test_folder_labels.py::test_one_image_twice_by_another_spelling_of_its_path",
    rows=[*ROWS, "./m.png,test,0,1"],
)


@case(
    SECTION,
    "maps 16 times as large as the input, half of their sum in the region, their peak too: hit rate, energy",
    before="0, 0",
    right=[1.0, 0.5],
    source="sums over the large map",
    test=f"{FRAMES}::test_a_map_sixteen_times_as_large_hits_and_keeps_its_energy",
)
def large_maps(root: Path) -> list[float]:
    mask = torch.zeros(1, 8, 8, dtype=torch.bool)
    mask[0, 2:4, 2:6] = True
    large = mask.repeat_interleave(16, 1).repeat_interleave(16, 2)
    heat = (torch.rand(large.shape, generator=torch.Generator().manual_seed(0)) < 0.02).double()
    for part in (large, ~large):
        heat[part] *= 0.5 / heat[part].sum()
    found = upsample(heat.float(), Frame(8, 8))
    return [float(hit_rate(found, mask)), float(energy(found, mask))]


BOX = (10, 30, 40, 80)  # x0, y0, x1, y1 in an image of 60 x 100 (width x height)


def one_image(root: Path, frame: Any, *metrics: str) -> Any:
    """Write one test image of 60 x 100 with a box, and a benchmark in the folder's images' own or another frame."""
    save(root / "n.png", noise())
    save(root / "m.png", noise(1, 100, 60))
    x0, y0, x1, y1 = BOX
    write_table(root, ["n.png,train,1,0", "m.png,test,0,1"], boxes=[f"m.png,Mass,{x0},{y0},{x1 - x0},{y1 - y0}"])
    options = {"table": "labels.csv", "boxes": "boxes.csv", "split_column": "split"}
    return folder_benchmark(options, CLASSES, *metrics, localization={"frame": frame})


def scored_map(root: Path, frame: Any, heat: Any) -> float:
    """Return the energy of a map from a file."""
    protocol = one_image(root, frame, "energy")
    (root / "maps").mkdir()
    np.save(root / "maps" / "m_Mass.npy", heat.astype(np.float32))
    explainer = f"maps:{root / 'maps'}"
    found = run(odd.Plain(2), [explainer], protocol, data_root=root)
    if found.record["failed"]:
        raise_failed(found.record["failed"][explainer])
    return value(found, "energy", explainer, "Mass")


def raise_failed(reason: str) -> None:
    from xaibench.errors import DataError

    raise DataError(reason)


@case(
    SECTION,
    "a transposed map (60 x 100 for an image of 100 x 60, height x width) from a file: energy",
    before="0.252053",
    right=Refused("is a map of 60x100 .* for image m.png of 100x60: other proportions"),
    source="its places are not the image's",
    test=f"{FRAMES}::test_maps_of_other_proportions_are_refused",
)
def transposed(root: Path) -> float:
    return scored_map(root, "input", np.random.default_rng(0).random((60, 100)))


@case(
    SECTION,
    'frame = "image", an image of 100 x 60 and a map of that size: energy',
    before='refused: it is "input" or a side of 8 to 4096 pixels',
    source="sums over the map by numpy",
    test=f"{FRAMES}::test_scores_in_a_frame_are_those_made_by_hand_there",
)
def own_size(root: Path) -> Pair:
    heat = np.random.default_rng(0).random((100, 60)).astype(np.float32)
    x0, y0, x1, y1 = BOX
    return Pair(scored_map(root, "image", heat), float(heat[y0:y1, x0:x1].sum() / heat.sum()))


@case(
    SECTION,
    "frame = [50, 30] (height, width), the same image: energy",
    before='refused: it is "input" or a side of 8 to 4096 pixels',
    source="means of 2 x 2 pixels by numpy",
    test=f"{FRAMES}::test_scores_in_a_frame_are_those_made_by_hand_there",
)
def no_square(root: Path) -> Pair:
    heat = np.random.default_rng(0).random((100, 60)).astype(np.float32)
    small = heat.reshape(50, 2, 30, 2).mean((1, 3))
    x0, y0, x1, y1 = (edge // 2 for edge in BOX)
    return Pair(scored_map(root, [50, 30], heat), float(small[y0:y1, x0:x1].sum() / small.sum()))


@case(
    SECTION,
    "Split.regions(index, frame=None) of that image: boxes, size",
    before="TypeError: FolderSplit.regions() got an unexpected keyword argument 'frame'",
    right=[[float(edge) for edge in BOX], 100, 60],
    source="the table",
    test=f"{DATA}/test_folder_frames.py::test_a_declared_size_scales_boxes_and_masks",
)
def regions_at_their_own_size(root: Path) -> list[Any]:
    one_image(root, "input", "energy")
    found = load(root, boxes="boxes.csv").test.regions(0, frame=None)[1]
    return [found.boxes[0].tolist(), found.frame.height, found.frame.width]


@case(
    SECTION,
    'chance of iou_otsu under frame = "image", an image of 900 x 512, beside noise of a fixed frame\'s pixels there',
    before='refused: it is "input" or a side of 8 to 4096 pixels',
    source="96 maps of noise, scaled to the image, scored there; within 0.005",
    test=f"{FRAMES}::test_levels_of_fixed_frames_are_those_of_their_noise_at_the_images_size",
    tolerance=0.005,
)
def chance_in_own_frames(root: Path) -> Pair:
    from xaibench.metrics.localization import iou_otsu

    protocol = one_image(root, "image", "iou_otsu")
    save(root / "m.png", noise(1, 900, 512))
    write_table(root, ROWS, boxes=["m.png,Mass,150,200,200,400"])
    (score,) = run(odd.Plain(2), ["gradcam"], protocol, data_root=root).select(metric="iou_otsu", class_name="Mass")
    heat = torch.rand(96, 256, 146, generator=torch.Generator().manual_seed(5))
    large = F.interpolate(heat[:, None], (900, 512), mode="nearest")[:, 0]
    mask = torch.zeros(900, 512, dtype=torch.bool)
    mask[200:600, 150:350] = True
    return Pair(score.chance, float(iou_otsu(large, mask.expand(96, -1, -1)).mean()))


@case(
    SECTION,
    "an image replaced by another of the same size in bytes: fingerprint of the data",
    before="the same",
    right="another",
    source="sha256 of the content",
    test=f"{DATA}/test_folder_content.py::test_other_content_of_the_same_size",
)
def replaced_image(root: Path) -> str:
    two(root)
    first = load(root).test.fingerprint
    content = bytearray((root / "m.png").read_bytes())
    content[-20] ^= 1
    (root / "m.png").write_bytes(content)
    return "the same" if load(root).test.fingerprint == first else "another"
