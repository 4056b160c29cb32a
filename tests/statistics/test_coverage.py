"""Coverage of 95% intervals over simulated studies: benchmarks/coverage.py."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "coverage.py"


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("coverage_study", SCRIPT)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_every_distribution_has_the_mean_that_it_says(script: ModuleType) -> None:
    z = np.random.default_rng(0).normal(size=400_000)
    for name, kind in script.means().items():
        scores = kind.quantile(z)
        error = scores.std() / len(z) ** 0.5
        assert scores.mean() == pytest.approx(kind.truth, abs=4 * error + 1e-3 * abs(kind.truth)), name
        assert kind.bounds[0] <= scores.min() <= scores.max() <= kind.bounds[1]


def test_every_area_is_the_one_that_it_says(script: ModuleType) -> None:
    rng = np.random.default_rng(1)
    for name, area in script.AREAS.items():
        scores = [area.scores(rng.normal(size=(2000, 1)), np.full((2000, 1), label))[:, 0] for label in (1, 0)]
        found = (scores[0][:, None] > scores[1]).mean()
        assert found == pytest.approx(area.truth, abs=0.03), name


def test_images_for_patients_are_narrower_and_a_study_is_repeatable(script: ModuleType) -> None:
    result, _ = script.coverage(studies=20, bootstrap_studies=4, sizes=(15, 60))
    for key, cells in result.items():
        assert set(cells) == {15, 60}
        for size, (share, width, studies) in cells.items():
            assert 0 <= share <= 1
            assert studies == (4 if key.method == "percentile" or "pooled" in key.statistic else 20)
            assert width > 0
            if key.unit == "image" and not key.statistic.startswith("AUC 0.9"):
                by_patient = script.Key(key.statistic, key.images, "patient", "score")
                assert width < result[by_patient][size][1], key
    again, _ = script.coverage(studies=20, bootstrap_studies=4, sizes=(15, 60))
    assert again == result


def test_too_narrow_intervals_are_found_out(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old rule in the new one's place: a bootstrap of six patients covers too seldom, and the exit code says so."""
    old = script.mean_intervals_of
    monkeypatch.setattr(script, "mean_intervals_of", lambda *a, method: old(*a, method="percentile"))
    _, failed = script.coverage(studies=60, bootstrap_studies=1, sizes=(6,))
    assert any("skewed" in line and "below 93%" in line for line in failed)


def test_a_misranked_pair_that_raised_an_end_would_be_seen(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    assert script.misranked(15, False, 5)[0] <= 1e-12
    old = script.auc_interval
    monkeypatch.setattr(script, "auc_interval", lambda *a: old(*a, method="percentile", resamples=100))
    assert script.misranked(6, False, 20)[0] > 0


@pytest.mark.slow
def test_coverage_of_1000_studies(script: ModuleType) -> None:
    _, failed = script.coverage(studies=1000, bootstrap_studies=200, seed=5)
    assert not failed
