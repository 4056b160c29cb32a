"""What an evaluation costs, from counted operations, checked against measured runs and drawn to the full release.

    python benchmarks/scaling.py measure [--images 100,500,2000,20000]   # writes results/scaling/measured.json
    python benchmarks/scaling.py draw                                     # reads it; writes docs/scaling.md and .png

`measure` runs `xaibench.evaluate` on phantoms of 64 px with timm's ResNet-18 (random weights), Grad-CAM, LayerCAM and
the three baselines, each number of images in a process of its own with one thread, and counts the floating-point
operations of every explainer on DenseNet-121 at 224 px. The model is fitted on the two smallest runs alone; the others
are predicted.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "results" / "scaling" / "measured.json"
EXPLAINERS = ["gradcam", "layercam"]
RELEASE = 112_120
CLASSES = ("No Finding", "Cardiomegaly", "Pneumothorax", "Effusion")
DEVICES = {
    # name: (operations a second that are used, images decoded a second)
    "2 CPU cores, as measured here": (None, None),
    "1 GPU at 10 TFLOP/s, 16 cores": (10e12, 16 * 80.0),
    "8 GPUs at 10 TFLOP/s each, 128 cores": (80e12, 128 * 80.0),
}
"""10 TFLOP/s is an assumption, not a measurement: some 15% of what a large GPU does in float32 matrix products."""


def run(images: int) -> dict[str, Any]:
    """Evaluate so many phantoms and return seconds, bytes and counts."""
    import torch

    torch.set_num_threads(1)
    from xaibench.benchmark import Benchmark, load_benchmark
    from xaibench.evaluation.evaluate import evaluate
    from xaibench.io.memory import keep_freed_memory

    keep_freed_memory()
    table = load_benchmark("phantom").model_dump() | {"input_size": 64, "name": "scaling"}
    table["dataset"]["options"] = {"seed": 0, "train": 40, "val": 8, "test": images}
    protocol = Benchmark.model_validate(table)
    network = _network("timm:resnet18", protocol.classes, 64)
    out = Path("/tmp") / f"xaibench-scaling-{images}"
    before, began = time.process_time(), time.perf_counter()
    made = evaluate(network, EXPLAINERS, protocol, out=out)
    spent = {"wall": time.perf_counter() - began, "cpu": time.process_time() - before}
    columns = len({score.metric for score in made.scores})
    return {
        "images": images,
        "pairs": made.record["test"]["pairs"],
        **spent,
        "peak_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        "seconds": made.record["seconds"],
        "columns": columns,
        "methods": len(EXPLAINERS) + 3,
    }


def _network(name: str, classes: Any, size: int) -> Any:
    from xaibench.classifiers.timm import TimmClassifier, densenet121

    if name == "densenet121":
        return densenet121(classes, size, weights="random")
    return TimmClassifier(classes, size, model=name.partition(":")[2], weights="random")


def count(names: list[str] | None = None) -> dict[str, Any]:
    """Count the floating-point operations of a forward pass and of explainers' maps, DenseNet-121 at 224 px.

    Args:
        names: which explainers; all that apply by default.
    """
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils.flop_counter import flop_registry

    from xaibench import registry
    from xaibench.explainers.base import Explainer
    from xaibench.plugins import build

    class Counter(TorchDispatchMode):  # torch's own FlopCounterMode can't follow torch.autograd.grad
        total = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            formula = flop_registry.get(func._overloadpacket)
            if formula is not None:
                self.total += int(formula(*args, **(kwargs or {}), out_val=result))
            return result

    network = _network("densenet121", CLASSES, 224).optimized()
    images = torch.rand(1, 3, 224, 224).contiguous(memory_format=torch.channels_last)
    found: dict[str, Any] = {}
    with Counter() as counter, torch.no_grad():
        prediction = network.predict(images, ["a"])
    forward = counter.total
    for name in names or registry.list_explainers():
        try:
            explainer = build("explainers", name)
            assert isinstance(explainer, Explainer)
            explainer.check(network)
            if type(explainer).prepare is not Explainer.prepare:
                continue  # needs data
            with Counter() as counter:
                explainer.explain(network, prediction, torch.tensor([1]))
            found[name] = counter.total
        except Exception as error:  # an argument is missing, or it is for other classifiers
            print(f"{name} left out: {str(error)[:80]}", file=sys.stderr)
    return {"forward": forward, "explainers": found, "metrics_seconds_a_map": metric_seconds()}


def metric_seconds() -> float:
    """Return the seconds that the phantom benchmark's metrics take for a map of 224 px, in a batch of 24."""
    import torch

    from xaibench.benchmark import load_benchmark
    from xaibench.metrics.bound import load_metrics

    maps = torch.nn.functional.interpolate(torch.rand(24, 1, 7, 7), (224, 224), mode="bilinear")[:, 0]
    masks = torch.zeros(24, 224, 224, dtype=torch.bool)
    masks[:, 60:120, 80:170] = True
    metrics = load_metrics(load_benchmark("phantom"))[1]
    times = []
    for _ in range(4):
        began = time.perf_counter()
        for metric in metrics:
            metric.scores(maps, masks, None)
        times.append((time.perf_counter() - began) / len(maps))
    return min(times)


def fit(runs: list[dict[str, Any]]) -> dict[str, float]:
    """Return fixed costs and costs an image, from the two smallest runs."""
    small, large = runs[0], runs[1]
    step = large["images"] - small["images"]
    seconds = (large["cpu"] - small["cpu"]) / step
    return {"fixed": small["cpu"] - seconds * small["images"], "each": seconds}


def bytes_an_image(one: dict[str, Any]) -> float:
    """Return the bytes that an image leaves in memory: logits, scores of its pairs, and their rows in a table."""
    share = one["pairs"] / one["images"]
    numbers = 8 * len(CLASSES) * 3 + share * (16 + 8 * one["columns"] * (one["methods"] + 1))
    table = share * one["columns"] * (8 + 8 + 8 + 4 * 4 + 8)  # of one explainer at a time
    return numbers + table


def measure(numbers: list[int]) -> None:
    """Run each size in a process of its own and write the result."""
    runs = []
    for images in numbers:
        output = subprocess.run(
            [sys.executable, __file__, "run", str(images)], capture_output=True, text=True, check=True
        )
        runs.append(json.loads(output.stdout.splitlines()[-1]))
        print(
            f"{images:7,} images: {runs[-1]['cpu']:8.1f} s CPU, peak {runs[-1]['peak_bytes'] / 1e6:,.0f} MB", flush=True
        )
    RESULT.write_text(json.dumps({"runs": runs, "operations": count()}, indent=1) + "\n")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["measure", "draw", "run", "count"])
    parser.add_argument("number", nargs="?", type=int)
    parser.add_argument("--images", default="100,500,2000,20000")
    given = parser.parse_args()
    if given.what == "run":
        print(json.dumps(run(given.number)))
    elif given.what == "count":
        print(json.dumps(count(), indent=1))
    elif given.what == "measure":
        measure([int(text) for text in given.images.split(",")])
    else:
        from scaling_page import draw  # beside this file

        draw(json.loads(RESULT.read_text()))


if __name__ == "__main__":
    main()
