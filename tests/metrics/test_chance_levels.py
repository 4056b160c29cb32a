"""Declared chance levels against simulated noise: benchmarks/chance.py, on fewer maps, and in full."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "chance.py"


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("chance_levels", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["chance_levels"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


script = load()
CHECKED = list(script.metrics())
QUICK = [each for each in CHECKED if each[0].name == "iou_otsu" or script.rests_on(*each) is None]
"""Not those of boxes: test_boxes and test_pooled simulate them in a smaller frame."""


def noise(number: int) -> torch.Tensor:
    return torch.rand(number, script.SIDE, script.SIDE, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("metric", "options"), QUICK, ids=[metric.name for metric, _ in QUICK])
def test_levels_are_what_300_maps_of_noise_score(metric: object, options: dict[str, object]) -> None:
    assert all(level.inside for level in script.check(metric, options, noise(300)))


def test_a_wrong_level_is_found() -> None:
    from dataclasses import replace

    from xaibench.metrics.localization import hit_rate

    wrong = replace(hit_rate, chance=lambda masks: hit_rate.chance(masks) + 0.1)
    assert not any(level.inside for level in script.check(wrong, {}, noise(2000)))


@pytest.mark.slow
@pytest.mark.parametrize(("metric", "options"), CHECKED, ids=[metric.name for metric, _ in CHECKED])
def test_levels_are_what_10000_maps_of_noise_score(metric: object, options: dict[str, object]) -> None:
    assert all(level.inside for level in script.check(metric, options, noise(10_000)))
