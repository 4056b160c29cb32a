"""The page and the figure of `scaling.py`: what was measured, what the model says of it, and of the full release."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scaling import CLASSES, DEVICES, RELEASE, bytes_an_image, fit

DOCS = Path(__file__).resolve().parent.parent / "docs"
EXPLAINERS = 30
PIXELS = 224 * 224
CHEAP, DEAR = 4.0, 100.0
"""Forward passes: a map that takes no more is cheap, one that takes more is dear."""


def draw(found: dict[str, Any]) -> None:
    """Write docs/scaling.md and docs/scaling.png."""
    runs, operations = found["runs"], found["operations"]
    model = fit(runs)
    lines = [_HEAD, *_measured(runs, model), "", *_operations(operations), "", *_release(runs, operations)]
    (DOCS / "scaling.md").write_text("\n".join(lines) + "\n")
    _figure(runs, model)


_HEAD = """# What an evaluation costs

Everything here is written by `python benchmarks/scaling.py draw` from what `python benchmarks/scaling.py measure` left
in `benchmarks/results/scaling/measured.json`.

## Model and measurement

seconds = fixed + images x (decode + forward + sum over explainers (operations / rate + overhead) + maps x metrics);
memory = program + images x numbers. Phantoms of 64 px, timm's ResNet-18 with random weights, Grad-CAM, LayerCAM and
three baselines, the phantom benchmark's metrics, one thread, nothing in the store. The model is fitted on the two
smallest runs; the others are predicted. CPU seconds, as the machine does other things too.

![CPU seconds and peak memory over the number of images, measured and by the model](scaling.png)
"""


def _measured(runs: list[dict[str, Any]], model: dict[str, float]) -> list[str]:
    lines = [
        "| images | CPU s | model | off by | peak MB | model | off by |",
        "|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for one in runs:
        seconds = model["fixed"] + model["each"] * one["images"]
        memory = runs[0]["peak_bytes"] + bytes_an_image(one) * (one["images"] - runs[0]["images"])
        off = [f"{100 * (a / b - 1):+.0f}%" for a, b in ((seconds, one["cpu"]), (memory, one["peak_bytes"]))]
        lines.append(
            f"| {one['images']:,} | {one['cpu']:.1f} | {seconds:.1f} | {off[0]} | {one['peak_bytes'] / 1e6:,.0f} | "
            f"{memory / 1e6:,.0f} | {off[1]} |"
        )
    by_size = {one["images"]: one["peak_bytes"] for one in runs}
    if {2000, 20000} <= set(by_size):
        ratio = by_size[20000] / by_size[2000]
        lines += ["", f"Peak memory of 20,000 images over that of 2,000: {ratio:.3f}."]
    return lines


def _multiples(operations: dict[str, Any]) -> dict[str, float]:
    return {name: count / operations["forward"] for name, count in operations["explainers"].items()}


def _operations(operations: dict[str, Any]) -> list[str]:
    many = _multiples(operations)
    lines = [
        "## Operations of a map",
        "",
        f"Counted by torch's formulas on DenseNet-121 at 224 px, one image; the forward pass that all share is "
        f"{operations['forward'] / 1e9:.2f} GFLOP (an addition and a multiplication are two). Methods that draw their "
        "references from the training images, and those for other classifiers, are not counted.",
        "",
        "| explainer | forward passes |",
        "|---|---:|",
    ]
    return lines + [f"| {name} | {times:,.2f} |" for name, times in sorted(many.items(), key=lambda item: item[1])]


def _release(runs: list[dict[str, Any]], operations: dict[str, Any]) -> list[str]:
    """Draw the model to all images of the release and 30 explainers."""
    many = sorted(_multiples(operations).values())
    chosen = (many + many[: max(0, EXPLAINERS - len(many))])[:EXPLAINERS]
    cheap = [times for times in chosen if times <= CHEAP]
    medium = [times for times in chosen if CHEAP < times <= DEAR]
    dear = [times for times in chosen if times > DEAR]
    last = runs[-1]
    a_map = operations["metrics_seconds_a_map"]
    here = operations["forward"] / _forward_seconds()
    lines = [
        f"## {RELEASE:,} images and {EXPLAINERS} explainers",
        "",
        f"DenseNet-121 at 224 px, one map an image and explainer: the {len(many)} explainers of the table, the "
        f"cheapest of them again to make {EXPLAINERS}. "
        f"The phantom benchmark's metrics take {1000 * a_map:.1f} ms a map on one core. The rates of the GPUs are "
        "assumptions, stated in the first column: none was at hand to measure.",
        "",
        "| machine | decode | forward | maps up to 4 passes | up to 100 | beyond | metrics on the CPU |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, (rate, decoded) in DEVICES.items():
        rate, cores = rate or here, 2 if decoded is None else decoded / 80.0
        hours = [
            RELEASE / (decoded or 160.0),
            RELEASE * operations["forward"] / rate,
            *(RELEASE * operations["forward"] * sum(group) / rate for group in (cheap, medium, dear)),
            RELEASE * EXPLAINERS * a_map / cores,
        ]
        cells = " | ".join(_duration(seconds) for seconds in hours)
        lines.append(f"| {name} | {cells} |")
    store = RELEASE * EXPLAINERS * PIXELS * 4
    columns = last["columns"]
    numbers = RELEASE * (8 * len(CLASSES) * 3 + 8 * columns * (EXPLAINERS + 1))
    lines += [
        "",
        f"({len(cheap)} explainers take up to {CHEAP:.0f} forward passes, {len(medium)} up to {DEAR:.0f}, {len(dear)} "
        "more.)",
        "",
        "What breaks first:",
        "",
        f"1. The disk: maps of all explainers are {store / 1e12:.1f} TB in the store (float32, 224 px). Prune it "
        "(`xaibench store prune --to 500G`), or run with `--no-store`.",
        f"2. Time of the explainers that ask the network hundreds of times; and, beside a GPU, metrics: {EXPLAINERS} "
        "maps an image on one core take longer than the forward pass. With `--device cuda` metrics run on the GPU; Ray "
        "spreads both (docs/ray.md).",
        f"3. Memory does not: scores of {columns} columns are {numbers / 1e9:.1f} GB in one process, and a worker of "
        "Ray holds its share.",
    ]
    return lines


def _forward_seconds() -> float:
    """Return the seconds of one image's forward pass here, DenseNet-121 at 224 px."""
    import time

    import torch

    from xaibench.classifiers.timm import densenet121
    from xaibench.io.memory import keep_freed_memory

    keep_freed_memory()
    network = densenet121(CLASSES, 224, weights="random").optimized()
    batch = torch.rand(16, 3, 224, 224).contiguous(memory_format=torch.channels_last)
    times = []
    with torch.no_grad():
        for _ in range(4):
            began = time.perf_counter()
            network(batch)
            times.append((time.perf_counter() - began) / len(batch))
    return min(times)


def _duration(seconds: float) -> str:
    for unit, size in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:.0f} s"


def _figure(runs: list[dict[str, Any]], model: dict[str, float]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import numpy as np

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    images = np.array([one["images"] for one in runs])
    line = np.geomspace(images.min(), RELEASE, 100)
    axes[0].loglog(line, model["fixed"] + model["each"] * line, color="#0072B2", label="model, fitted on two")
    axes[0].loglog(images, [one["cpu"] for one in runs], "o", color="#D55E00", label="measured")
    axes[0].set(xlabel="images", ylabel="CPU seconds")
    each = bytes_an_image(runs[-1])
    axes[1].semilogx(line, (runs[0]["peak_bytes"] + each * (line - images[0])) / 1e6, color="#0072B2")
    axes[1].semilogx(images, [one["peak_bytes"] / 1e6 for one in runs], "o", color="#D55E00")
    axes[1].set(xlabel="images", ylabel="peak memory, MB", ylim=(0, None))
    axes[0].legend(frameon=False)
    figure.savefig(DOCS / "scaling.png", dpi=110)
