"""A benchmark that trains and runs in seconds: 64 px, a few dozen phantoms."""

from __future__ import annotations

from typing import Any

from xaibench.benchmark import Benchmark, load_benchmark


def tiny_benchmark(**changes: Any) -> Benchmark:
    """The phantom benchmark at 64 px with 24 training, 12 validation and 28 test images, two epochs."""
    table = load_benchmark("phantom").model_dump()
    table["name"], table["input_size"] = "tiny", 64
    table["dataset"]["options"] = {"seed": 0, "train": 24, "val": 12, "test": 28}
    table["statistics"]["resamples"] = 200
    for spec in table["classifiers"].values():
        spec["recipe"] |= {
            "epochs": 2,
            "batch_size": 8,
            "momentum": 0.9 if spec["recipe"]["optimizer"] == "sgd" else 0.0,
        }
    table |= changes
    if table.get("primary") not in [dict(spec)["name"] for spec in table["metrics"]]:
        table.pop("primary", None)
    return Benchmark.model_validate(table)
