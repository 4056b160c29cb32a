"""The verdict "sharper": paired on the same images, with IoU among the criteria; energy alone does not do."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from tests.evaluation.saved_runs import saved_run
from tests.tiny import tiny_benchmark
from xaibench.results.run import Run

ROOT = Path(__file__).resolve().parent.parent
BENCHMARK = tiny_benchmark()
LABELS = np.tile(np.eye(4, dtype=np.int64), (12, 1))
BOXED = ("Cardiomegaly", "Effusion")


@pytest.fixture(scope="module")
def study() -> ModuleType:
    specification = importlib.util.spec_from_file_location("gcm_variants", ROOT / "benchmarks" / "gcm_variants.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    import sys

    sys.modules["gcm_variants"] = module
    specification.loader.exec_module(module)
    return module


def runs(folder: Path, noise: float = 0.05, **means: float) -> list[Run]:
    """Two seeds of a run whose scores of CWM and CCM lie around these means."""
    draw = np.random.default_rng(len(folder.name) + int(100 * sum(means.values())))
    made = []
    for seed in range(2):
        values = {
            (explainer, metric, row): float(np.clip(mean + noise * draw.normal(), 0, 1))
            for explainer in ("cwm", "ccm")
            for metric, mean in means.items()
            for row in range(len(LABELS))
        }
        logits = LABELS + 0.3 * np.random.default_rng(seed).normal(size=LABELS.shape)
        made.append(saved_run(folder / f"{seed}", BENCHMARK, "gcm", logits, LABELS, boxed=BOXED, values=values))
    return made


OLD = {"energy": 0.4, "hit_rate": 0.5, "iou_otsu": 0.4}


@pytest.mark.parametrize(
    ("new", "sharper", "because"),
    [
        ({"energy": 0.6, "hit_rate": 0.6, "iou_otsu": 0.45}, True, ""),
        ({"energy": 0.6, "hit_rate": 0.6, "iou_otsu": 0.3}, False, "iou_otsu"),
        ({"energy": 0.6, "hit_rate": 0.4, "iou_otsu": 0.45}, False, "hit_rate"),
        ({"energy": 0.4, "hit_rate": 0.6, "iou_otsu": 0.45}, False, "energy"),
    ],
)
def test_more_energy_is_sharper_only_if_nothing_is_lost(
    study: ModuleType, tmp_path: Path, new: dict[str, float], sharper: bool, because: str
) -> None:
    paired = study.judge(runs(tmp_path / "new", **new), runs(tmp_path / "old", **OLD))
    found, against = study.verdict(paired, "cwm")
    assert found is sharper
    assert bool(against) is not sharper
    assert because in "".join(against)
    text = "\n".join(study.paired_lines(paired, 2))
    assert ("- cwm: sharper" in text) is sharper
    energy = next(row for row in paired["maps"]["cwm"] if (row["metric"], row["class_name"]) == ("energy", "macro"))
    assert energy["difference"] == pytest.approx(new["energy"] - OLD["energy"], abs=0.03)
    assert energy["difference"] == pytest.approx(np.mean(energy["seeds"]))


def test_a_gain_that_may_be_chance_is_none(study: ModuleType, tmp_path: Path) -> None:
    better = {name: mean + 0.02 for name, mean in OLD.items()}
    paired = study.judge(runs(tmp_path / "new", noise=0.4, **better), runs(tmp_path / "old", noise=0.05, **OLD))
    assert not study.verdict(paired, "cwm")[0]
    assert study.FRESH["seed"] != BENCHMARK.dataset.options["seed"]
