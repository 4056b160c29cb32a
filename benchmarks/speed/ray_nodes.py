"""One Ray worker against two on two nodes (two raylets) of this machine, one thread each: scores and throughput.

    python benchmarks/speed/ray_nodes.py

DenseNet-121 at 224 px with random weights and two methods on its head, `--images` phantoms. Each side is timed after a
pass that loads the model, in turn, `--rounds` times; the local engine with one thread says what the scores have to be.
Prints the best images a second of each side and the ratio. Needs two idle cores for the ratio to mean anything.
"""

from __future__ import annotations

import argparse
import os
import sys
import time

os.environ |= {"OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0", "RAY_memory_monitor_refresh_ms": "0"}

import numpy as np
import ray
from ray.cluster_utils import Cluster

from xaibench.benchmark import Benchmark, load_benchmark
from xaibench.classifiers.timm import densenet121
from xaibench.evaluation.batch import Work
from xaibench.evaluation.engine import Local
from xaibench.evaluation.ray_engine import RayEngine
from xaibench.evaluation.records import Records
from xaibench.evaluation.setup import load_splits
from xaibench.explainers import create
from xaibench.metrics.bound import load_metrics
from xaibench.progress import Progress

BATCH = 4
STORE = 100 * 2**20


def work_of(images: int) -> Work:
    """Everything but the workers: random weights (values do not matter to time), the phantom's metrics of maps."""
    table = load_benchmark("phantom").model_dump()
    table["input_size"] = 224
    table["dataset"]["options"] = {"seed": 0, "train": 8, "val": 8, "test": images}
    protocol = Benchmark.model_validate(table)
    splits = load_splits(protocol, None)
    classifier = densenet121(protocol.classes, protocol.input_size, weights="random").optimized()
    explainers = {name: create(name) for name in ("gradcam", "hirescam")}
    return Work(classifier, explainers, splits.test, load_metrics(protocol)[1], protocol.frame)


def same(one: Records, other: Records) -> bool:
    """Tell whether two passes left the same bits."""
    arrays = [(one.logits, other.logits), (one.chance, other.chance)]
    arrays += [(one.values[name], other.values[name]) for name in one.values]
    return one.values.keys() == other.values.keys() and all(
        np.array_equal(mine, theirs, equal_nan=True) for mine, theirs in arrays
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    work = work_of(options.images)
    expected = Local(threads=1).records(work, BATCH, Progress())
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": STORE, "include_dashboard": False}
    )
    cluster.add_node(num_cpus=1, object_store_memory=STORE)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    rates: dict[int, list[float]] = {1: [], 2: []}
    try:
        for _ in range(options.rounds):
            for workers in rates:
                with RayEngine(workers=workers, threads=1, batches=2) as engine:
                    while len(engine.pids()) < workers:  # all have started and loaded the model
                        found = engine.records(work, BATCH, Progress())
                    began = time.perf_counter()
                    found = engine.records(work, BATCH, Progress())
                    rates[workers].append(options.images / (time.perf_counter() - began))
                if not same(expected, found):
                    print("the scores differ", file=sys.stderr)
                    return 1
    finally:
        ray.shutdown()
        cluster.shutdown()
    best = {workers: max(found) for workers, found in rates.items()}
    print(f"identical scores; {best[1]:.2f} images/s with one worker, {best[2]:.2f} with two: {best[2] / best[1]:.2f}x")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
