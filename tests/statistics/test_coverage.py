"""Coverage of 95% intervals over simulated studies with several images a patient: benchmarks/coverage.py."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "coverage.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("coverage_study", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_intervals_of_images_are_narrower_in_every_study(script: ModuleType) -> None:
    result = script.coverage(studies=5, image_studies=3)
    assert len(result) == 11  # three statistics by two bootstraps and one of images, DeLong's with and without names
    for (statistic, unit, method), (_, width, studies) in result.items():
        assert studies == (5 if unit == "patient" else 3)
        assert width < result[statistic, "patient", method][1] or unit == "patient"
    assert script.coverage(studies=5, image_studies=3) == result


@pytest.mark.slow
def test_coverage_over_2000_studies(script: ModuleType) -> None:
    for (_, unit, _), (share, _, _) in script.coverage(studies=2000, image_studies=500).items():
        if unit == "patient":
            assert share == pytest.approx(0.95, abs=0.015)  # three standard errors of 2,000 studies
        else:
            assert share < 0.92  # three of 500
