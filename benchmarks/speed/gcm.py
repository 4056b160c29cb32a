"""GCM with all localization metrics beside its bare forward pass, and that beside the plain module.

    python benchmarks/speed/gcm.py [--images 256] [--size 256] [--threads 2]

GCM with EfficientNet-Lite0 and the shipped checkpoint's decoder, whose maps have as many components as maps have that
somebody would score; phantoms, decoded already. Five times, in a process each:

- forward: `Classifier.predict`, channels_last, batches of 32; then
- everything: forward, CWM and CCM, every registered localization metric on both, ROC-AUC with its intervals; then
  forward again, of which the mean counts: the pass waits for the memory, whose rate a machine's other users change;
- in another process, plain: the same module as it comes, contiguous float32, batches of 32, a quarter of the images,
  with the memory allocator and OpenMP as they come.

Prints the medians, those of the ratios, and the share of the machine's rate of matrix products (float32, 2048 x 2048,
the same threads) that the forward pass reaches by its counted multiply-accumulates.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from xaibench.benchmark import Benchmark, load_benchmark
from xaibench.classifiers.base import count_macs
from xaibench.classifiers.gcm import GCM
from xaibench.datasets.base import Split
from xaibench.evaluation.batch import Work
from xaibench.evaluation.selection import select_metrics
from xaibench.evaluation.setup import load_splits
from xaibench.evaluation.stream import records_of
from xaibench.evaluation.summary import summarize
from xaibench.explainers.gcm import CCM, CWM
from xaibench.io.memory import keep_freed_memory
from xaibench.metrics.bound import load_metrics
from xaibench.types import Region, Sample

ROUNDS, BATCH, PLAIN_SHARE = 5, 32, 4
CHECKPOINT = Path(__file__).parents[1] / "checkpoints" / "phantom-gcm.safetensors"
PARTS = ("ours", "plain")


class Decoded(Split):
    """A split whose images are in memory."""

    def __init__(self, split: Split) -> None:
        self.classes, self.frame, self.ids, self.patients = split.classes, split.frame, split.ids, split.patients
        self.labels, self.fingerprint, self.threads = split.labels, split.fingerprint, 1
        self.samples = [split[row] for row in range(len(split))]

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]

    def regions(self, index: int) -> Mapping[int, Region]:
        return self.samples[index].regions


def measure(part: str, images: int, size: int) -> list[float]:
    """Return milliseconds an image: of everything and of forward, or of plain."""
    table = load_benchmark("phantom").model_dump() | {"input_size": size, "name": "speed"}
    table["dataset"]["options"] = {"seed": 0, "train": 4, "val": 4, "test": images}
    protocol, _ = select_metrics(Benchmark.model_validate(table), ["roc_auc", "localization"])
    network = GCM(protocol.classes, size, encoder="tf_efficientnet_lite0", weights="package")
    network.load_trained_state(load_file(CHECKPOINT))
    network.eval()
    if part != "plain":
        keep_freed_memory()  # as every run does
        network = network.optimized()
    layout = torch.contiguous_format if part == "plain" else torch.channels_last
    batch = torch.rand(min(BATCH, images), 3, size, size).contiguous(memory_format=layout)
    with torch.no_grad():
        network.predict(batch[:4])

    def forward() -> float:
        began = time.perf_counter()
        with torch.no_grad():
            for start in range(0, images, BATCH):
                network.predict(batch[: min(BATCH, images - start)])
        return 1000 * (time.perf_counter() - began) / images

    if part == "plain":
        return [forward()]
    split = Decoded(load_splits(protocol, None).test)
    classification, localization = load_metrics(protocol)
    explainers: dict[str, Any] = {"cwm": CWM(), "ccm": CCM()}
    before = forward()
    began = time.perf_counter()
    records = records_of(Work(network, explainers, split, localization, protocol.frame), BATCH)
    summarize("gcm", protocol, split, records, classification, localization, None)
    everything = 1000 * (time.perf_counter() - began) / images
    return [everything, (before + forward()) / 2]


def matrix_rate() -> float:
    """Return multiply-accumulates a second of a float32 matrix product."""
    a, b = torch.rand(2048, 2048), torch.rand(2048, 2048)
    best = float("inf")
    for _ in range(5):
        began = time.perf_counter()
        torch.mm(a, b)
        best = min(best, time.perf_counter() - began)
    return 2048**3 / best


def main() -> None:
    """Measure the parts in turn, each in a process of its own, and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.part:
        print(json.dumps(measure(given.part, given.images, given.size)))
        return
    found: dict[str, list[list[float]]] = {part: [] for part in PARTS}
    for _ in range(ROUNDS):
        for part, times in found.items():
            images = given.images if part == "ours" else max(1, given.images // PLAIN_SHARE)
            options = ["--images", str(images), "--size", str(given.size), "--threads", str(given.threads)]
            command = [sys.executable, __file__, *options, "--part", part]
            environment = dict(os.environ)
            if part == "plain":
                environment.pop("GOMP_SPINCOUNT", None)  # which xaibench sets
            done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
            times.append(json.loads(done.stdout))
    rounds = [[*ours, *plain] for ours, plain in zip(found["ours"], found["plain"], strict=True)]
    ms = dict(zip(("everything", "forward", "plain"), map(statistics.median, zip(*rounds, strict=True)), strict=True))
    print(f"{given.images} images of {given.size} px, {given.threads} threads, ms an image")
    for part, spent in ms.items():
        print(f"{part:11} {spent:8.1f}")
    whole, gained = (statistics.median(one[at] / one[1] for one in rounds) for at in (0, 2))
    print(f"everything / forward {whole:.2f}   plain / forward {gained:.1f}")
    print("everything / forward of each round: " + "  ".join(f"{one[0] / one[1]:.2f}" for one in rounds))
    network = GCM(("a", "b", "c", "d"), given.size, encoder="tf_efficientnet_lite0", weights="random").optimized()
    macs = count_macs(network, torch.zeros(1, 3, given.size, given.size))
    rate, reached = matrix_rate(), macs / (ms["forward"] / 1000)
    print(
        f"{macs / 1e9:.2f} GMAC an image: {reached / 1e9:.0f} GMAC/s of the {rate / 1e9:.0f} of a matrix product "
        f"({100 * reached / rate:.0f}%)"
    )


if __name__ == "__main__":
    main()
