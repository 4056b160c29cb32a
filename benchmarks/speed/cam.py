"""Six class activation maps of DenseNet-121: on the head over one forward pass, and by stock calls, side by side.

    python benchmarks/speed/cam.py

CAM, Grad-CAM, Grad-CAM++, HiResCAM, XGrad-CAM and LayerCAM at 224 px, random weights (values do not matter to time).
"Ours" is the forward pass with all six maps, and with them the ROC-AUC of the logits. The stock calls are six of
pytorch-grad-cam on the whole network, an image each; for CAM, which it does not have, Grad-CAM again. Each side runs in
a process of its own, in turn, three times; prints the median milliseconds an image, the ratio to a plain forward pass
and to the stock calls, and how far the maps are apart.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytorch_grad_cam
import torch
from pytorch_grad_cam.utils.image import scale_cam_image
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor

from xaibench.classifiers.timm import densenet121
from xaibench.explainers import create
from xaibench.io.memory import keep_freed_memory
from xaibench.metrics.classification import roc_auc
from xaibench.types import Prediction

BATCH, SIZE, ROUNDS = 8, 224, 3
STOCK_IMAGES = 1
CLASSES = ("No Finding", "Cardiomegaly", "Pneumothorax", "Effusion")
METHODS = {
    "gradcam": pytorch_grad_cam.GradCAM,
    "gradcam_pp": pytorch_grad_cam.GradCAMPlusPlus,
    "hirescam": pytorch_grad_cam.HiResCAM,
    "xgradcam": pytorch_grad_cam.XGradCAM,
    "layercam": pytorch_grad_cam.LayerCAM,
}
OURS = ["cam", *METHODS]
STOCK = ["gradcam", *METHODS]  # the library has no CAM


def forward(classifier: Any, images: Tensor) -> Tensor:
    """A plain forward pass: logits (B, K)."""
    with torch.no_grad():
        return classifier(images)  # type: ignore[no-any-return]


def ours(classifier: Any, images: Tensor, targets: Tensor) -> tuple[Prediction, float]:
    """One forward pass, six maps of each image, and the ROC-AUC of the first class."""
    with torch.no_grad():
        prediction = classifier.predict(images)
        for name in OURS:
            create(name).explain(classifier, prediction, targets)
    return prediction, roc_auc(prediction.logits[:, 0], torch.arange(len(images)) % 2)


def stock(classifier: Any, images: Tensor, targets: Tensor) -> dict[str, np.ndarray]:
    """Six stock calls on the whole network for each image; the maps (B, H, W), scaled to [0, 1], by name."""
    normalized, found = classifier.normalize(images), {}
    for name in STOCK:
        with METHODS[name](model=classifier.model, target_layers=[classifier.model.features.norm5]) as cam:
            maps = [
                cam(normalized[row : row + 1], targets=[ClassifierOutputTarget(int(targets[row]))])[0]
                for row in range(len(images))
            ]
        found[name] = np.stack(maps)
    return found


def seconds(run: Callable[[], object]) -> float:
    """Return how long it takes."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def difference(classifier: Any, images: Tensor, targets: Tensor, wanted: dict[str, np.ndarray]) -> float:
    """Return the largest difference of our maps, clipped and scaled as the library does, from its own."""
    with torch.no_grad():
        prediction = classifier.predict(images)
    apart = []
    for name, maps in wanted.items():
        raw = create(name).signed(classifier, prediction, targets).numpy()  # type: ignore[attr-defined]
        shown = scale_cam_image(scale_cam_image(np.maximum(raw, 0), (SIZE, SIZE)))
        seen = raw.max(axis=(1, 2)) > 0  # a map that is nowhere positive shows nothing
        apart += [np.abs(shown[row] - maps[row]).max() for row in np.flatnonzero(seen)]
    return float(max(apart))


def inputs(count: int) -> tuple[Tensor, Tensor]:
    """Return images (N, 3, H, W) and targets (N,)."""
    images = torch.rand(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    return images, torch.arange(count) % len(CLASSES)


def measure(side: str) -> list[float]:
    """Return milliseconds an image: of a forward pass and of ours, or of the stock calls."""
    if side == "stock":
        images, targets = inputs(STOCK_IMAGES)
        plain = densenet121(CLASSES, SIZE, weights="random").eval()
        runs = [lambda: stock(plain, images, targets)]
    else:
        keep_freed_memory()  # as every run does
        images, targets = inputs(BATCH)
        images = images.contiguous(memory_format=torch.channels_last)
        fast = densenet121(CLASSES, SIZE, weights="random").optimized()
        runs = [lambda: forward(fast, images), lambda: ours(fast, images, targets)]
    for run in runs:  # the first pass allocates
        run()
    return [1000 * seconds(run) / len(images) for run in runs]


def main() -> None:
    """Measure both sides in turn, each in a process of its own, and print them."""
    found: dict[str, list[list[float]]] = {"ours": [], "stock": []}
    for _ in range(ROUNDS):
        for side, times in found.items():
            output = subprocess.run([sys.executable, __file__, side], capture_output=True, text=True, check=True).stdout
            times.append(json.loads(output.splitlines()[-1]))
    one, six = (statistics.median(values) for values in zip(*found["ours"], strict=True))
    (calls,) = (statistics.median(values) for values in zip(*found["stock"], strict=True))
    print(f"forward pass alone            {one:8.1f} ms an image")
    print(f"forward pass and six maps     {six:8.1f} ms an image, {six / one:.2f} forward passes")
    print(f"six stock calls               {calls:8.1f} ms an image, {calls / six:.1f} times ours")
    images, targets = inputs(2)
    plain = densenet121(CLASSES, SIZE, weights="random").eval()
    apart = difference(plain, images, targets, stock(plain, images, targets))
    print(f"largest difference of maps    {apart:8.1e} of a range of 1")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(measure(sys.argv[1])))
    else:
        main()
