"""What the fault tests run: a tiny benchmark, two tiny classifiers, and what is compared and inspected afterwards."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import io
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from tests.tiny import tiny_benchmark
from xaibench import registry
from xaibench.benchmark import load_benchmark
from xaibench.classifiers.base import Classifier, seeded
from xaibench.cli import main
from xaibench.datasets.phantom import PhantomSplit
from xaibench.evaluation import cache_keys as identity
from xaibench.evaluation.setup import load_splits
from xaibench.explainers.base import Explainer, upsample
from xaibench.io.store import Store
from xaibench.results.run import Run
from xaibench.training.checkpoint import read_checkpoint
from xaibench.training.module import Training
from xaibench.types import Prediction

METRICS = ("roc_auc", "hit_rate", "energy", "deletion", "max_sensitivity", "iou_best")
"""A metric of logits, of maps, two that ask the network (one of them draws), one that tunes on the validation split."""


class Ready(Classifier):
    """Two classes by two convolutions with fixed weights: nothing trains."""

    comes_trained = True

    def __init__(self, classes: Any, input_size: int) -> None:
        super().__init__(classes, input_size)
        with seeded(0):
            self.body = torch.nn.Conv2d(3, 4, 5, stride=4)
            self.norm = torch.nn.BatchNorm1d(4)
            self.last = torch.nn.Linear(4, len(self.classes))
            self.drop = torch.nn.Dropout(0.25)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.body(images))

    def head(self, features: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.last(self.drop(self.norm(features.mean((2, 3)))))
        return logits


class Trained(Ready):
    """Its head trains, with batch norm and dropout, on features that are computed once."""

    comes_trained = False
    body_is_frozen = True

    def __init__(self, classes: Any, input_size: int) -> None:
        super().__init__(classes, input_size)
        self.body.requires_grad_(False)


class Brightness(Explainer):
    """The features' sum, times the class."""

    def explain(self, classifier: Classifier, prediction: Prediction, targets: torch.Tensor) -> torch.Tensor:
        return upsample(prediction.features.sum(1) * (1 + targets[:, None, None]), prediction.frame)


def install(folder: Path) -> Path:
    """Register the classifiers and the explainer, write the benchmark, and return its file."""
    registry.register("classifiers", "ready", Ready)
    registry.register("classifiers", "trained", Trained)
    registry.register("explainers", "brightness", Brightness)
    table = tiny_benchmark().model_dump(mode="json")
    table.pop("primary")
    table |= {"input_size": 32, "classes": ["No Finding", "Effusion"]}
    table["metrics"] = [{"name": name} for name in METRICS]
    table["dataset"]["options"] = {"seed": 0, "train": 13, "val": 6, "test": 12}
    table["statistics"]["resamples"] = 100
    table["localization"]["baselines"] = ["random", "prior_box"]
    recipe = {"optimizer": "adam", "learning_rate": 0.01, "epochs": 3, "batch_size": 4, "flip": True, "augment": 1}
    table["classifiers"] = {"trained": {"recipe": recipe | {"schedule": "cosine"}}}
    path = folder / "faults.toml"
    path.write_text("\n".join(f"{key} = {_toml(value)}" for key, value in table.items()))
    _remember(path)
    return path


def _remember(benchmark: Path) -> None:
    """Draw the phantoms and look up the versions once, here: neither is what is tested, and both take time."""
    for name in ("__getitem__", "regions"):
        original, known = getattr(PhantomSplit, name), {}

        def call(self: PhantomSplit, index: int, original: Any = original, known: Any = known) -> Any:
            key = (self.fingerprint, int(index))
            return known[key] if key in known else known.setdefault(key, original(self, index))

        setattr(PhantomSplit, name, call)
    splits = load_splits(load_benchmark(benchmark), None)
    for split in (splits.train, splits.val, splits.test):
        for row in range(len(split)):
            assert split[row].regions.keys() == split.regions(row).keys()
    importlib.metadata.version = functools.cache(importlib.metadata.version)
    for part in ("maps", "scores", "sheets", "doctor"):
        identity.code_of({Ready, Brightness}, part)  # kept in this process: the code that was imported is what runs


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(key)} = {_toml(inner)}" for key, inner in value.items()) + " }"
    return f"[{', '.join(map(_toml, value))}]" if isinstance(value, list | tuple) else json.dumps(value)


def command(work: Path, classifier: str, benchmark: Path, *, draw: bool = False) -> int:
    """Run ``xaibench run`` with cache, store and runs in `work`, in a child; return its exit code.

    Args:
        draw: draw the contact sheets as pictures; else keep the numbers that they would show, which is much quicker.
    """
    os.environ["XAIBENCH_CACHE"] = str(work / "cache")
    if not draw:
        import xaibench.reporting.figures.contact_sheet as figures

        figures.contact_sheet = _numbers
    original = Training.close_epoch

    def close_epoch(self: Training) -> None:
        original(self)
        with open(work.parent / "epochs.log", "a") as file:
            file.write(f"{self.current_epoch}\n")

    Training.close_epoch = close_epoch  # type: ignore[method-assign]
    folders = ["--out", str(work / "runs"), "--store", str(work / "store")]
    options = ["--benchmark", str(benchmark), "--batch-size", "4", "--device", "cpu", "-q", "--json"]
    return main(["run", classifier, "-e", "brightness", *options, *folders])


def _numbers(tiles: Any, **_: Any) -> bytes:
    found = io.BytesIO()
    for name, row in tiles.items():
        for tile in row:
            for value in vars(tile).values():
                if isinstance(value, np.ndarray):
                    np.save(found, value)
                else:
                    found.write(f"{name} {value!r}".encode())
    return found.getvalue()


def child(log: Path, call: Callable[[], int]) -> int:
    """Fork, call there with all it prints going to a file, and return the child's process number."""
    sys.stdout.flush()
    sys.stderr.flush()
    if number := os.fork():
        return number
    code = 70
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
        code = call()
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def wait(number: int) -> int:
    """Return a child's exit code; minus the signal where one ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])


def results(work: Path) -> dict[str, Any]:
    """Return what must be the same bit for bit: the scores, and a hash of each table, sheet and checkpoint."""
    (directory,) = (work / "runs").iterdir()
    table = json.loads((directory / "run.json").read_text())
    found: dict[str, Any] = {"scores": table["scores"], "weights": table["run"]["weights"]["sha256"]}
    found["history"] = table["run"]["weights"]["history"]
    kept = [*directory.glob("[a-z]*.parquet"), *directory.glob("[a-z]*.png")]
    for path in (*kept, *(work / "cache").glob("checkpoints/[a-z]*.safetensors")):
        found[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def entries(work: Path) -> dict[str, tuple[int, int]]:
    """Return the keys of the store to what tells whether one was written again."""
    stats = {entry.key: entry.path.stat() for entry in Store(work / "store").entries()}
    return {key: (stat.st_ino, stat.st_size) for key, stat in stats.items()}


def inspect(work: Path) -> int:
    """Check every file under a final name, in a child; print what is partial or unknown, and return how many are."""
    faults = []
    for path in sorted(path for path in work.rglob("*") if path.is_file()):
        place = path.relative_to(work).as_posix()
        try:
            if not _whole(path, place):
                faults.append(place)
        except Exception as error:
            faults.append(f"{place}: {type(error).__name__}: {error}")
    _, damaged = Store(work / "store").verify()
    faults += [f"store: {entry.key}" for entry in damaged]
    print("\n".join(faults))
    return min(len(faults), 60)


def _whole(path: Path, place: str) -> bool:
    """Tell whether a file is whole, or has the name of a part; the store's entries are verified by the store."""
    if place.startswith(("store/objects/", "store/parts/")):
        return True
    if ".part" in path.name and (path.name.startswith(".") or place.startswith("cache/training/")):
        return True
    if path.name == "run.json":
        Run.load(path.parent).images()
        Run.load(path.parent).predictions()
    elif path.suffix == ".parquet":
        pd.read_parquet(path)
    elif path.suffix == ".png":
        content = path.read_bytes()
        return content.startswith(b"\x93NUMPY") or content.endswith(b"IEND\xaeB`\x82")
    elif place.startswith("cache/checkpoints/"):
        from safetensors.torch import load_file

        if path.suffix == ".safetensors":
            load_file(path)
        else:
            checkpoint = read_checkpoint(path.with_suffix(".safetensors"))
            return hashlib.sha256(checkpoint.path.read_bytes()).hexdigest() == checkpoint.weights_sha256
    elif place.startswith("cache/mean-boxes/") or path.name == "plugins.json":
        json.loads(path.read_text())
    elif path.suffix == ".npy":
        np.load(path, mmap_mode="r")
    elif path.suffix == ".ckpt":
        # Not whether it is the last one: killed between naming a state and removing the one before, a training has two.
        return path.stem.rpartition("-")[2] == hashlib.sha256(path.read_bytes()).hexdigest()[:32]
    elif path.suffix == ".sha256":
        return len(path.read_text()) == 64
    else:
        return place.startswith("cache/locks/")
    return True
