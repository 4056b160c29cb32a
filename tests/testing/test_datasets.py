"""The datasets and benchmarks of ours pass the kit, and the kit sees each fault that one can have."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xaibench import registry
from xaibench.benchmark import load_benchmark
from xaibench.datasets.base import Splits
from xaibench.errors import UsageError
from xaibench.registry import entries
from xaibench.testing import check_benchmark, check_dataset
from xaibench.testing.small import CLASSES, BoxSplit
from xaibench.types import Region, Sample


def test_phantom_conforms() -> None:
    options = {"train": 8, "val": 4, "test": 8}
    assert check_dataset("phantom", classes=CLASSES, input_size=64, options=options) == []


def test_the_sample_conforms(nih_sample: Path) -> None:
    classes = ("No Finding", "Cardiomegaly", "Pneumothorax", "Effusion")
    options = load_benchmark("chestxray8-sample").dataset.options
    assert check_dataset("chestxray8", classes=classes, input_size=64, data_root=nih_sample, options=options) == []


@pytest.mark.parametrize("name", [entry.name for entry in entries("benchmarks") if entry.is_builtin])
def test_benchmarks_conform(name: str) -> None:
    assert check_benchmark(name) == []


class Mine(BoxSplit):
    """Changed by the tests."""

    def __init__(self, name: str, count: int) -> None:
        super().__init__(name, count, CLASSES, 64)
        self.change: Callable[[Sample], Sample] = lambda sample: sample

    def __getitem__(self, index: int) -> Sample:
        return self.change(super().__getitem__(index))


@pytest.fixture
def register() -> Iterator[Callable[[Callable[[Splits], Any]], None]]:
    def add(change: Callable[[Splits], Any], checks: bool = True) -> None:
        def mine(*, classes: Any, input_size: int, data_root: Any, options: Any) -> Any:
            """Noise."""
            if checks and (options or tuple(classes) != CLASSES):
                raise UsageError("mine takes no options and has four classes")
            splits = Splits(Mine("train", 8), Mine("val", 4), Mine("test", 6))
            return change(splits) or splits

        registry.register("datasets", "mine", mine)

    yield add
    registry.unregister("datasets", "mine")


def test_a_sound_one_passes(register: Any) -> None:
    register(lambda splits: None)
    assert check_dataset("mine", classes=CLASSES) == []


def _set(name: str, value: Any) -> Callable[[Splits], None]:
    return lambda splits: setattr(splits.test, name, value)


def _sample(change: Callable[[Sample], Sample]) -> Callable[[Splits], None]:
    return lambda splits: setattr(splits.test, "change", change)


def _regions(splits: Splits) -> None:
    moved = {1: Region(np.array([[50.0, 50, 90, 60]]), splits.test.frame)}
    splits.test.regions = lambda index: moved  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("change", "check", "says"),
    [
        (lambda splits: [splits], "type", "list"),
        (_set("ids", ["a"] * 6), "ids", "not unique"),
        (_set("patients", ["p"]), "patients", "1 patients of 6"),
        (_set("labels", np.zeros((6, 4))), "labels", "float64"),
        (_set("labels", np.full((6, 4), 2, np.float32)), "labels", "not 0 or 1"),
        (_set("fingerprint", ""), "fingerprint", "no fingerprint"),
        (_set("patients", [f"train{i}" for i in range(6)]), "patients", "in train and in test"),
        (_sample(lambda s: replace(s, image=s.image * 255)), "image", "not in [0, 1]"),
        (_sample(lambda s: replace(s, image=s.image[:, :32])), "frame", "64x64"),
        (
            _sample(lambda s: replace(s, image=np.random.default_rng().random((1, 64, 64), np.float32))),
            "determinism",
            "",
        ),
        (_sample(lambda s: replace(s, patient="x")), "patients", "another patient"),
        (_regions, "regions", "leaves the image"),
    ],
)
def test_each_fault_is_found(register: Any, change: Callable[[Splits], Any], check: str, says: str) -> None:
    register(change)
    found = [finding for finding in check_dataset("mine", classes=CLASSES) if finding.check == check]
    assert any(says in finding.what for finding in found)
    assert all(finding.remedy and "\n" not in str(finding) for finding in found)


def test_unclear_errors_are_found(register: Any) -> None:
    register(lambda splits: None, checks=False)
    assert {f.check for f in check_dataset("mine", classes=CLASSES)} >= {"clear errors"}


def test_a_benchmark_that_names_what_is_not_there(tmp_path: Path) -> None:
    text = 'name = "x"\nclasses = ["a", "b"]\ninput_size = 64\nmetrics = [{ name = "energy" }]\n'
    path = tmp_path / "x.toml"
    path.write_text(text + '[dataset]\nname = "phantm"\n')
    found = check_benchmark(path)
    assert any("Did you mean 'phantom'" in f.what for f in found)
    assert any(f.severity == "warning" and "title" in f.what for f in found)
    path.write_text("name = ")
    assert [f.check for f in check_benchmark(path)] == ["raises"]
