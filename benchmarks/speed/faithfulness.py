"""Insertion, deletion and ROAD of DenseNet-121 at 224 px: batched here, and image by image as peers do, side by side.

    python benchmarks/speed/faithfulness.py

Random weights (values do not matter to time), smooth random maps, the same steps on both sides: 28 of insertion and of
deletion, ROAD at 10, 30, 50, 70 and 90% in both orders. The peers: insertion and deletion as the authors' code goes
(Petsiuk 2018, `CausalMetric.single_run`: a forward pass for each step of each image, as TorchRay and others copied it),
but also all steps of an image in one batch, the fastest that a loop over images can be; ROAD by pytorch-grad-cam, whose
solver Quantus shares. The classifier of the peers is in the memory layout that it comes in. Ours twice: in float32, and
with ``--precision bf16``, which rounds. Each side runs in a process of its own, in turn, three times; prints the median
milliseconds an image, of the clock and of the processor (which says more where other programs run), the ratios and how
far the values are apart.
"""

from __future__ import annotations

import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from pytorch_grad_cam.metrics.road import NoisyLinearImputer, RemoveMostRelevantFirst
from torch import Tensor

from xaibench.classifiers.timm import densenet121
from xaibench.evaluation.inference import Forward, Precision
from xaibench.explainers.baselines import Center
from xaibench.explainers.reference import blurred
from xaibench.io.memory import keep_freed_memory
from xaibench.metrics.explained import Explained
from xaibench.metrics.faithfulness import deletion, insertion, road_lerf, road_morf

IMAGES, SIZE, STEPS, ROUNDS = 4, 224, 28, 3
PERCENTAGES = [10, 30, 50, 70, 90]
CLASSES = ("No Finding", "Cardiomegaly", "Pneumothorax", "Effusion")
PARTS = ("insertion", "deletion", "road")
OURS: dict[str, Precision] = {"ours": "float32", "bf16": "bf16"}


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    """Return images (N, 3, H, W), maps (N, H, W) as a CAM's, and targets (N,)."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(IMAGES, 3, SIZE, SIZE, generator=generator)
    coarse = torch.rand(IMAGES, 1, 7, 7, generator=generator)
    maps = F.interpolate(coarse, (SIZE, SIZE), mode="bilinear", align_corners=False)[:, 0]
    maps += 1e-4 * torch.rand(maps.shape, generator=generator)  # no ties: peers break them by position
    return images, maps, torch.arange(IMAGES) % len(CLASSES)


def ours(
    classifier: Any, images: Tensor, maps: Tensor, targets: Tensor, precision: Precision
) -> dict[str, Callable[[], Any]]:
    """Return what is timed, by part; each gives values (N,), ROAD (2, N)."""
    images = images.contiguous(memory_format=torch.channels_last)
    forward = Forward(classifier, precision)
    prediction = forward(images, [str(row) for row in range(len(images))])

    def explained() -> Explained:
        return Explained(classifier, Center(), prediction, targets, maps, forward=forward)

    def road() -> Tensor:
        given = explained()
        options: dict[str, Any] = {"percentages": PERCENTAGES, "noise": 0.0}
        return torch.stack([road_morf(given, **options), road_lerf(given, **options)])

    return {
        "insertion": lambda: insertion(explained(), steps=STEPS),
        "deletion": lambda: deletion(explained(), steps=STEPS),
        "road": road,
    }


def peers(
    classifier: Any, images: Tensor, maps: Tensor, targets: Tensor, *, batched: bool
) -> dict[str, Callable[[], Any]]:
    """Return what is timed, by part. `batched`: all steps of an image in one forward pass."""

    def ask(made: list[Tensor], target: int) -> np.ndarray:
        with torch.no_grad():
            parts = torch.stack(made).split(len(made) if batched else 1)
            return np.concatenate([classifier(part).softmax(1)[:, target].numpy() for part in parts])

    def causal(start: Tensor, finish: Tensor) -> np.ndarray:
        found = []
        for row, target in enumerate(targets.tolist()):
            order = np.flip(np.argsort(maps[row].numpy().ravel()))
            image, goal = start[row].clone().reshape(3, -1), finish[row].reshape(3, -1)
            counts = np.linspace(0, SIZE * SIZE, STEPS + 1).round().astype(int)
            made = [image.reshape(3, SIZE, SIZE).clone()]
            for low, high in itertools.pairwise(counts):
                changed = order[low:high].copy()
                image[:, changed] = goal[:, changed]
                made.append(image.reshape(3, SIZE, SIZE).clone())
            curve = ask(made, target)
            found.append((curve.sum() - curve[0] / 2 - curve[-1] / 2) / STEPS)
        return np.array(found)

    def road() -> np.ndarray:
        found = []
        for sign in (1, -1):
            for row, target in enumerate(targets.tolist()):
                removals = [RemoveMostRelevantFirst(100 - p, NoisyLinearImputer(noise=0.0)) for p in PERCENTAGES]
                found.append(ask([remove(images[row], sign * maps[row]) for remove in removals], target).mean())
        return np.array(found).reshape(2, -1)

    mean = images.mean((-2, -1), keepdim=True).expand_as(images)
    return {
        "insertion": lambda: causal(blurred(images), images),
        "deletion": lambda: causal(images, mean),
        "road": road,
    }


def measure(side: str) -> dict[str, Any]:
    """Return milliseconds an image and the values, by part."""
    images, maps, targets = inputs()
    classifier = densenet121(CLASSES, SIZE, weights="random").eval()
    if side in OURS:
        keep_freed_memory()  # as every run does
        classifier = classifier.optimized()
        runs = ours(classifier, images, maps, targets, OURS[side])
    else:
        runs = peers(classifier, images, maps, targets, batched=side == "batched")
    with torch.no_grad():
        classifier(images)  # the first pass allocates
    found = {}
    for name, run in runs.items():
        began = np.array([time.perf_counter(), time.process_time()])
        values = run()
        spent = np.array([time.perf_counter(), time.process_time()]) - began
        found[name] = [*(1000 * spent / IMAGES), np.asarray(values).tolist()]
    return found


def main() -> None:
    """Measure the sides in turn, each in a process of its own, and print them."""
    found: dict[str, list[dict[str, Any]]] = {"ours": [], "bf16": [], "batched": [], "single": []}
    for _ in range(ROUNDS):
        for side, results in found.items():
            environment = dict(os.environ)
            if side not in OURS:
                environment.pop("GOMP_SPINCOUNT", None)  # which xaibench sets
            command = [sys.executable, __file__, side]
            output = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
            results.append(json.loads(output.splitlines()[-1]))
    for index, clock in enumerate(("clock", "processor")):
        sides = f"{'ours':>9} {'ours, bf16':>11} {'steps batched':>15} {'step by step':>15}"
        print(f"ms an image, {clock:9} {sides}   ratios of ours, and of bf16   largest differences")
        sums = dict.fromkeys(found, 0.0)
        for part in PARTS:
            times = {side: statistics.median(run[part][index] for run in runs) for side, runs in found.items()}
            own, rounded, *others = (np.array(found[side][0][part][-1]) for side in found)
            apart = max(np.abs(own - other).max() for other in others), np.abs(own - rounded).max()
            sums = {side: sums[side] + times[side] for side in sums}
            print(f"{part:22} {_row(times)}   {apart[0]:.1e}, bf16 {apart[1]:.1e}")
        print(f"{'all':22} {_row(sums)}")


def _row(times: dict[str, float]) -> str:
    peers = ("batched", "single")
    ratios = ", ".join(" ".join(f"{times[peer] / times[side]:.1f}x" for peer in peers) for side in OURS)
    return f"{times['ours']:9.0f} {times['bf16']:11.0f} {times['batched']:15.0f} {times['single']:15.0f}   {ratios}"


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(measure(sys.argv[1])))
    else:
        main()
