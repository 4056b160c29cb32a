"""Data in CheXlocalize's layout through `xaibench run`, beside a direct computation by its published code's definition.

Saporta et al. 2022: the pickled map is scaled bilinearly to the image's own size, segmented at Otsu's threshold of its
8 bits and filled within its outlines; IoU with the radiologist's mask, and whether the map's largest value is in it.
"""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from pycocotools import mask as coco

from xaibench.cli import main
from xaibench.results.run import Run

CLASSES = ("Airspace Opacity", "Cardiomegaly", "Edema")
SIZES = [(232, 282), (284, 233), (200, 200), (390, 320), (151, 307)]
"""Heights and widths: the sizes of CheXpert's images, a tenth of them."""

BENCHMARK = """
name = "chexlocalize"
task = "multilabel"
classes = ["Lung Opacity", "Cardiomegaly", "Edema"]
input_size = 64

[dataset]
name = "folder"

[dataset.options]
table = "test_labels.csv"
image_column = "Path"
split_column = "Split"
masks = "gt_segmentations_test.json"

[localization]
regions = "mask"
frame = "image"
baselines = []

[[metrics]]
name = "hit_rate"

[[metrics]]
name = "iou_otsu"

[statistics]
resamples = 100
"""

NETWORK = """
import torch
from torch import nn

torch.manual_seed(0)
network = nn.Sequential(nn.Conv2d(3, 8, 3, 4, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
"""


def lesion(random: np.random.Generator, height: int, width: int) -> npt.NDArray[np.uint8]:
    """Draw one or two ellipses, as radiologists do; as pycocotools wants masks."""
    image = Image.new("L", (width, height))
    for _ in range(random.integers(1, 3)):
        x, y = random.uniform(0, 0.7, 2) * (width, height)
        w, h = random.uniform(0.15, 0.6, 2) * (width, height)
        ImageDraw.Draw(image).ellipse([x, y, x + w, y + h], fill=1)
    return np.asfortranarray(image, dtype=np.uint8)


def heatmap(random: np.random.Generator, side: int, mask: npt.NDArray[np.uint8]) -> torch.Tensor:
    """Return a map as its pickles hold them, (1, 1, h, w): noise, a bump near a place of the mask, and one anywhere."""
    y, x = (np.mgrid[:side, :side] + 0.5) / side
    inside = np.argwhere(mask) / mask.shape if mask.any() else np.array([[0.5, 0.5]])
    centres = [random.choice(inside) + random.normal(0, 0.1, 2), random.uniform(0.1, 0.9, 2)]
    bumps = [np.exp(-((y - a) ** 2 + (x - b) ** 2) / 0.03) for a, b in centres]
    values = bumps[0] + 0.6 * bumps[1] + random.normal(0, 0.02, (side, side))
    return torch.from_numpy(values.astype(np.float32))[None, None]


class Layout:
    """A data root as CheXlocalize publishes it, and what is in it."""

    def __init__(self, root: Path) -> None:
        random = np.random.default_rng(0)
        self.root, self.maps = root, root / "gradcam_maps"
        self.pickled: dict[tuple[str, str], dict[str, Any]] = {}
        self.truth: dict[str, dict[str, Any]] = {}
        self.maps.mkdir()
        rows = ["Path,Split,Lung Opacity,Cardiomegaly,Edema"]
        for number, (height, width) in enumerate([(220, 260), *SIZES]):
            split = "test" if number else "train"
            path = f"CheXpert-v1.0/{split}/patient{64740 + number}/study1/view1_frontal.jpg"
            (root / path).parent.mkdir(parents=True)
            Image.fromarray(random.integers(0, 256, (height, width), dtype=np.uint8)).save(root / path)
            present = [True, number % 3 == 0, number % 2 == 1]
            rows.append(",".join([path, split, *(f"{float(one)}" for one in present)]))
            if number:
                self._add(f"patient{64740 + number}_study1_view1_frontal", present, (height, width), random)
        (root / "test_labels.csv").write_text("\n".join(rows) + "\n")
        (root / "gt_segmentations_test.json").write_text(json.dumps(self.truth))
        (root / "chexlocalize.toml").write_text(BENCHMARK)
        (root / "network.py").write_text(NETWORK)

    def _add(self, image: str, present: list[bool], size: tuple[int, int], random: np.random.Generator) -> None:
        self.truth[image] = {}
        for name, has in zip(CLASSES, present, strict=True):
            mask = lesion(random, *size) if has else np.zeros(size, dtype=np.uint8, order="F")
            code: Any = coco.encode(mask)
            self.truth[image][name] = {"size": list(size), "counts": code["counts"].decode()}
            info = {
                "map": heatmap(random, 10 if name != "Edema" else 14, mask),
                "prob": np.float32(0.4),
                "task": name,
                "gt": np.float64(has),
                "cxr_img": torch.zeros(3, 8, 8),
                "cxr_dims": (size[1], size[0]),
            }
            self.pickled[image, name] = info
            (self.maps / f"{image}_{name}_map.pkl").write_bytes(pickle.dumps(info))

    def pairs(self) -> list[tuple[str, str]]:
        return [pair for pair in self.pickled if self.pickled[pair]["gt"]]

    def scores(self, pair: tuple[str, str]) -> tuple[float, float, float]:
        """Return IoU, hit and hit of each of the largest values, by CheXlocalize's definition but for the last.

        A map that is largest at its border is scaled to several equal pixels there. CheXlocalize takes the first, we
        the mean over them.
        """
        image, name = pair
        mask = coco.decode(self.truth[image][name])
        width, height = self.pickled[pair]["cxr_dims"]
        scaled = F.interpolate(self.pickled[pair]["map"], (height, width), mode="bilinear", align_corners=False)[0, 0]
        segmented = segmentation(scaled.numpy())
        iou = (segmented & mask).sum() / (segmented | mask).sum()
        first = mask[np.unravel_index(int(scaled.argmax()), mask.shape)]
        return float(iou), float(first), float(mask[scaled.numpy() == scaled.numpy().max()].mean())


def segmentation(scaled: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Otsu by OpenCV on 8 bits, and the outlines filled by Pillow."""
    grey = (255 * (scaled - scaled.min()) / (scaled.max() - scaled.min())).astype(np.uint8)
    _, binary = cv2.threshold(grey, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    outlines, _ = cv2.findContours(binary, cv2.RETR_TREE, cv2.CHAIN_APPROX_NONE)
    filled = Image.new("1", (scaled.shape[1], scaled.shape[0]))
    for outline in outlines:
        if len(outline) > 1:
            ImageDraw.Draw(filled).polygon([tuple(map(int, point[0])) for point in outline], outline=1, fill=1)
    return np.asarray(filled, dtype=np.uint8)


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    return Layout(tmp_path_factory.mktemp("chexlocalize"))


@pytest.fixture(scope="module")
def run(layout: Layout) -> Run:
    command = f"run module:{layout.root}/network.py:network -e maps:{layout.maps} --device cpu"
    where = f"-b {layout.root}/chexlocalize.toml --data-root {layout.root} --out {layout.root}/runs"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XAIBENCH_CACHE", str(layout.root / "cache"))
        assert main([*command.split(), *where.split()]) == 0
    (directory,) = (layout.root / "runs").iterdir()
    return Run.load(directory)


def test_every_image_scores_as_in_chexlocalize(layout: Layout, run: Run) -> None:
    images = run.images()
    assert len(images) == 2 * len(layout.pairs()) > 2 * 8
    for pair in layout.pairs():
        rows = images[
            images["image"].str.contains(pair[0].replace("_study1_view1_frontal", "/"))
            & (images["class"] == pair[1].replace("Airspace", "Lung"))
        ]
        found = rows.set_index("metric")["value"]
        iou, _, hit = layout.scores(pair)
        assert found["iou_otsu"] == pytest.approx(iou, rel=0, abs=1e-12), pair
        assert found["hit_rate"] == pytest.approx(hit, rel=0, abs=1e-12), pair


def test_means_of_the_classes(layout: Layout, run: Run) -> None:
    for row, metric in ((0, "iou_otsu"), (2, "hit_rate")):
        for name in CLASSES:
            values = [layout.scores(pair)[row] for pair in layout.pairs() if pair[1] == name]
            (score,) = run.select(metric=metric, class_name=name.replace("Airspace", "Lung"))
            assert score.value == pytest.approx(np.mean(values), rel=0, abs=1e-12)
            assert score.n == len(values)


def test_the_case_tells_definitions_apart(layout: Layout) -> None:
    """Scored in a square frame, or with the map at its corners, the numbers would be others."""
    ious, hits, ties = zip(*map(layout.scores, layout.pairs()), strict=True)
    assert 0 < np.mean(hits) < 1
    assert np.equal(hits, ties).sum() == len(hits) - 1  # a single largest value but for one map
    assert min(ious) < 0.2 < 0.4 < max(ious)
    image, name = layout.pairs()[0]
    mask = coco.decode(layout.truth[image][name])
    square = F.interpolate(layout.pickled[image, name]["map"], (64, 64), mode="bilinear", align_corners=False)[0, 0]
    small = cv2.resize(mask, (64, 64), interpolation=cv2.INTER_NEAREST)
    segmented = segmentation(square.numpy())
    assert (segmented & small).sum() / (segmented | small).sum() != pytest.approx(ious[0], abs=1e-4)
