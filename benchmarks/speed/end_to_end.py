"""`run densenet121 -e gradcam` from images on disk to scores, beside stock pytorch-grad-cam and Quantus, side by side.

    python benchmarks/speed/end_to_end.py [--images 512] [--threads 2]

Images: drawn radiographs as 8-bit grey PNG files of 1024 x 1024, as the NIH release has them, three of four with a box;
DenseNet-121 at 256 px, the paper's size, with random weights (values do not matter to time). The sides:

- ours: `xaibench.evaluate`, as the command does: decode, forward, Grad-CAM and three baselines, the doctor's glance,
  metrics, intervals, tables, contact sheet; nothing in the store. With the phantom benchmark's metrics, and with six
  that Quantus has too, in float32 and with ``--precision bf16``;
- stock: image by image, as the libraries' examples go: Pillow, a forward pass for the scores, `GradCAM(...)` of
  pytorch-grad-cam for the class, then Quantus' metrics of the map and of three baselines; no intervals, no files. With
  the two of the benchmark's metrics that Quantus has, and with all six: there both sides do the same work. A sixteenth
  of the images, as each takes as long as the other;
- forward: timm's network as it is, channels_last, batches of 32, on images that are decoded already, with the memory
  allocator as we set it; and the same network as xaibench runs it.

Each side runs in a process of its own, in turn, three times, ours with the environment that importing xaibench makes,
as the command does (``GOMP_SPINCOUNT``), the others with the user's; imports and the first call are not counted. Prints
the median milliseconds an image and the ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

SIZE, ROUNDS = 256, 3
CLASSES = ("No Finding", "Cardiomegaly", "Pneumothorax", "Effusion")
SIX = {
    "hit_rate": "PointingGame",
    "energy": "RelevanceMassAccuracy",
    "relevance_rank_accuracy": "RelevanceRankAccuracy",
    "top_k_intersection": "TopKIntersection",
    "pixel_auc": "AUC",
    "attribution_localisation": "AttributionLocalisation",
}
SIDES = ("forward", "forward ours", "ours", "stock", "ours six", "stock six", "ours six bf16")
STOCK_SHARE = 16
PLAIN = dict(os.environ)  # before xaibench is imported


def draw(folder: Path, images: int, *, like: Path | None = None) -> None:
    """Write the data: images (or links to those of another folder), a table and boxes."""
    from xaibench.datasets.phantom import phantom

    split = phantom(classes=CLASSES, input_size=1024, options={"train": 4, "val": 4, "test": images}).test
    table, boxes = ["image,class,split"], ["image,class,x0,y0,x1,y1"]
    for row in range(images):
        sample = split[row]
        if like is None:
            Image.fromarray((sample.image[0] * 255).round().astype(np.uint8)).save(folder / f"{row}.png")
        else:
            shutil.copy(like / f"{row}.png", folder)
        name = CLASSES[int(sample.labels.argmax())]
        table.append(f"{row}.png,{name},test")
        for target, region in sample.regions.items():
            boxes += [f"{row}.png,{CLASSES[target]}," + ",".join(map(str, box)) for box in region.boxes.tolist()]
    for row, name in enumerate(CLASSES):  # a training image of each class, with its box, for the prior box
        table.append(f"train{row}.png,{name},train")
        (folder / f"train{row}.png").write_bytes((folder / f"{row}.png").read_bytes())
        if row:
            boxes.append(f"train{row}.png,{name},200,200,600,700")
    (folder / "table.csv").write_text("\n".join(table) + "\n")
    (folder / "boxes.csv").write_text("\n".join(boxes) + "\n")


def protocol() -> Any:
    """Return the phantom benchmark on files."""
    from xaibench.benchmark import Benchmark, load_benchmark

    options = {"table": "table.csv", "boxes": "boxes.csv", "label_column": "class", "split_column": "split"}
    table = load_benchmark("phantom").model_dump() | {"input_size": SIZE, "name": "speed"}
    return Benchmark.model_validate(table | {"dataset": {"name": "folder", "options": options}})


def ours(folder: Path, out: Path, side: str) -> float:
    """Return the seconds of a whole evaluation."""
    from xaibench.classifiers.timm import densenet121
    from xaibench.evaluation.evaluate import evaluate
    from xaibench.io.memory import keep_freed_memory

    keep_freed_memory()  # as every run does
    classifier = densenet121(CLASSES, SIZE, weights="random")
    few = folder / "few"  # imports, and the first call of everything
    few.mkdir(exist_ok=True)
    draw(few, 8, like=folder)
    how: dict[str, Any] = {
        "metrics": ["roc_auc", *SIX] if "six" in side else None,
        "precision": "bf16" if "bf16" in side else "float32",
    }
    evaluate(classifier, ["gradcam"], protocol(), data_root=few, out=out / "few", batch_size=32, **how)
    began = time.perf_counter()
    evaluate(classifier, ["gradcam"], protocol(), data_root=folder, out=out, batch_size=32, **how)
    return time.perf_counter() - began


def stock(folder: Path, images: int, side: str) -> float:
    """Return the seconds of the loop over images."""
    import pandas as pd
    import quantus
    import timm
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    network = timm.create_model("densenet121", pretrained=False, num_classes=len(CLASSES)).eval()
    table = pd.read_csv(folder / "table.csv").set_index("image")["class"]
    boxes = pd.read_csv(folder / "boxes.csv").groupby("image")
    options = {"disable_warnings": True, "display_progressbar": False}
    names = SIX.values() if "six" in side else ("PointingGame", "AttributionLocalisation")
    metrics = [getattr(quantus, name)(**options) for name in names]
    cam = GradCAM(model=network, target_layers=[network.features])
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    cam(torch.zeros(1, 3, SIZE, SIZE), [ClassifierOutputTarget(0)])
    rng = np.random.default_rng(0)
    began = time.perf_counter()
    for row in range(images):
        name = f"{row}.png"
        picture = Image.open(folder / name).convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR)
        image = (torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1) / 255 - mean) / std
        target = CLASSES.index(table[name])
        with torch.no_grad():
            network(image[None])  # the scores of the ROC curve
        if target == 0:
            continue
        heat = cam(image[None], [ClassifierOutputTarget(target)])
        heat = heat + rng.uniform(0, 1e-6, heat.shape)  # Quantus refuses a map of zeros, as random weights may give
        mask = np.zeros((1, 1, SIZE, SIZE), dtype=bool)
        for x0, y0, x1, y1 in boxes.get_group(name)[["x0", "y0", "x1", "y1"]].to_numpy() * SIZE / 1024:
            mask[..., round(y0) : round(y1), round(x0) : round(x1)] = True
        y, x = np.mgrid[:SIZE, :SIZE]
        center = np.exp(-((y - SIZE / 2) ** 2 + (x - SIZE / 2) ** 2) / (0.4 * SIZE) ** 2)
        for shown in (heat, rng.random((1, SIZE, SIZE)), center[None], np.flip(center)[None]):
            for metric in metrics:
                metric(
                    model=network,
                    x_batch=image[None].numpy(),
                    y_batch=np.array([target]),
                    a_batch=shown[:, None],
                    s_batch=mask,
                    device="cpu",
                )
    return time.perf_counter() - began


def forward(images: int, side: str) -> float:
    """Return the seconds of the bare forward passes."""
    from xaibench.classifiers.timm import densenet121
    from xaibench.io.memory import keep_freed_memory

    keep_freed_memory()
    classifier = densenet121(CLASSES, SIZE, weights="random").optimized()
    run = classifier if "ours" in side else classifier.model
    batch = torch.rand(32, 3, SIZE, SIZE).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        run(batch)
        began = time.perf_counter()
        for start in range(0, images, 32):
            run(batch[: min(32, images - start)])
        return time.perf_counter() - began


def environment(side: str) -> dict[str, str]:
    """Return the environment of a side: importing xaibench first leaves a setting in ours."""
    if not side.startswith("ours"):
        return PLAIN
    import xaibench  # noqa: F401

    return dict(os.environ)


def main() -> None:
    """Run the sides in turn, each in a process of its own, and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--side", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.side:
        side, folder = given.side[0], Path(given.side[1])
        if side.startswith("forward"):
            print(json.dumps(forward(given.images, side)))
        elif side.startswith("stock"):
            print(json.dumps(stock(folder, given.images, side)))
        else:
            with tempfile.TemporaryDirectory() as out:
                print(json.dumps(ours(folder, Path(out), side)))
        return
    with tempfile.TemporaryDirectory() as name:
        draw(Path(name), given.images)
        found: dict[str, list[float]] = {side: [] for side in SIDES}
        for _ in range(ROUNDS):
            for side, each in found.items():
                images = given.images // STOCK_SHARE if side.startswith("stock") else given.images
                command = [sys.executable, __file__, "--images", str(images), "--threads", str(given.threads)]
                options: dict[str, Any] = {
                    "capture_output": True,
                    "text": True,
                    "check": True,
                    "env": environment(side),
                }
                output = subprocess.run([*command, "--side", side, name], **options)
                each.append(1000 * json.loads(output.stdout.splitlines()[-1]) / images)
    ms = {side: statistics.median(each) for side, each in found.items()}
    print(f"{given.images} images, {given.threads} threads, ms an image")
    for side, spent in ms.items():
        print(f"{side:14} {spent:8.1f}")
    for six in ("", " six"):
        mine = ms[f"ours{six}"]
        print(f"stock{six} / ours{six} {ms[f'stock{six}'] / mine:.1f}   ours{six} / forward {mine / ms['forward']:.2f}")
    print(f"stock six / ours six bf16 {ms['stock six'] / ms['ours six bf16']:.1f}")


if __name__ == "__main__":
    main()
