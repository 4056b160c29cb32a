"""A second run with one more metric, from the store, beside the first: no forward pass.

    python benchmarks/speed/store.py [--images 3000] [--size 256] [--threads 2]

DenseNet-121 with random weights on phantoms, Grad-CAM and the phantom benchmark's three baselines. First run: four
metrics. Second: the same and energy. Third: the same again. Every run writes its directory, contact sheets and all.
Imports are not counted. Prints seconds, passes of the network, and the ratio.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from xaibench.benchmark import Benchmark, load_benchmark
from xaibench.classifiers.timm import densenet121
from xaibench.evaluation.evaluate import evaluate
from xaibench.io.memory import keep_freed_memory

METRICS = ["hit_rate", "pointing_game", "iou_otsu", "visible_in_box"]


def main() -> None:
    """Run three times and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=3000)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if not given.child:  # with the environment that importing xaibench makes, as every run has it
        sys.exit(subprocess.run([sys.executable, __file__, "--child", *sys.argv[1:]]).returncode)
    torch.set_num_threads(given.threads)
    keep_freed_memory()  # as every run does
    table = load_benchmark("phantom").model_dump() | {"input_size": given.size, "name": "speed"}
    table["dataset"]["options"] = {"seed": 0, "train": 40, "val": 8, "test": given.images}
    protocol = Benchmark.model_validate(table)
    network = densenet121(protocol.classes, given.size, weights="random")
    passes = 0
    evaluate(network, ["gradcam"], _few(table))  # imports
    original = type(network).features

    def features(self: object, images: torch.Tensor) -> torch.Tensor:
        nonlocal passes
        passes += 1
        made: torch.Tensor = original(self, images)
        return made

    type(network).features = features
    spent = []
    with tempfile.TemporaryDirectory() as folder:
        more = [*METRICS, "energy"]
        for name, metrics in (("first", METRICS), ("one more metric", more), ("again", more)):
            passes, began = 0, time.perf_counter()
            evaluate(network, ["gradcam"], protocol, metrics=metrics, store=Path(folder) / "s", out=Path(folder) / name)
            spent.append(time.perf_counter() - began)
            print(f"{name:16} {spent[-1]:8.2f} s, {passes} passes of the network", flush=True)
    print(f"first / one more {spent[0] / spent[1]:.0f}   first / again {spent[0] / spent[2]:.0f}")


def _few(table: dict[str, object]) -> Benchmark:
    few = Benchmark.model_validate(table).model_copy(deep=True)
    few.dataset.options["test"] = 8
    return few


if __name__ == "__main__":
    main()
