"""What the toolkit promises, on real weights: ``pytest -n0 -m slow tests/test_acceptance.py``."""

from __future__ import annotations

from pathlib import Path

import pytest

from xaibench.benchmark import load_benchmark
from xaibench.evaluation.evaluate import evaluate
from xaibench.evaluation.setup import load_splits, make_classifier
from xaibench.results.run import Run
from xaibench.training.checkpoint import Making, find_checkpoint, load_weights

DISEASES = ("Cardiomegaly", "Pneumothorax", "Effusion")


def test_the_shipped_checkpoint_is_that_of_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XAIBENCH_CACHE", str(tmp_path))
    benchmark = load_benchmark("phantom")
    spec = benchmark.classifier("gcm")
    found = find_checkpoint("phantom", Making.of("gcm", spec, benchmark, load_splits(benchmark, None)))
    assert found is not None, "the phantom or the recipe has changed: train again by README's command"
    assert found.path.stat().st_size < 2_000_000
    load_weights(make_classifier("gcm", spec, benchmark), found)
    assert max(record["auc"] for record in found.history) >= 0.9


@pytest.fixture(scope="module")
def gcm() -> Run:
    return evaluate("gcm", ["cwm", "ccm"], "phantom")


def _macro_auc(run: Run) -> float:
    (score,) = run.select(metric="roc_auc", class_name="macro")
    assert score.value is not None
    return score.value


def _points_at_the_lesion(run: Run, explainer: str, name: str) -> bool:
    """Tell whether the interval of hit rate or of energy lies above chance, center and random."""
    for metric in ("hit_rate", "energy"):
        (score,) = run.select(explainer=explainer, metric=metric, class_name=name)
        rivals = [run.select(explainer=b, metric=metric, class_name=name)[0].value or 0.0 for b in ("center", "random")]
        assert score.low is not None
        assert score.chance is not None
        if score.low > max(score.chance, *rivals):
            return True
    return False


@pytest.mark.slow
def test_gcm_classifies_the_phantom_and_cwm_points_at_its_lesions(gcm: Run) -> None:
    assert _macro_auc(gcm) >= 0.95
    assert all(_points_at_the_lesion(gcm, "cwm", name) for name in DISEASES)


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 7])
def test_scores_of_the_shipped_weights_do_not_depend_on_the_batch_size(gcm: Run, batch_size: int) -> None:
    again = evaluate("gcm", ["cwm", "ccm"], "phantom", batch_size=batch_size)
    assert len(again.scores) == len(gcm.scores)
    for one, other in zip(gcm.scores, again.scores, strict=True):
        assert (one.explainer, one.metric, one.class_name) == (other.explainer, other.metric, other.class_name)
        tolerance = 0 if one.metric == "hit_rate" else 1e-4
        assert one.value == pytest.approx(other.value, abs=tolerance, rel=0)


@pytest.mark.slow
def test_densenet_classifies_the_phantom_and_gradcam_points_at_its_lesions() -> None:
    run = evaluate("densenet121", ["gradcam"], "phantom")
    assert _macro_auc(run) >= 0.95
    assert all(_points_at_the_lesion(run, "gradcam", name) for name in DISEASES)


@pytest.mark.slow
@pytest.mark.parametrize(("benchmark", "least"), [("chestxray8-sample", 0.85), ("chestxray8-sample-pneumonia", 0.75)])
def test_gcm_classifies_real_x_rays(nih_sample: Path, benchmark: str, least: float) -> None:
    assert _macro_auc(evaluate("gcm", ["cwm", "ccm"], benchmark, data_root=nih_sample)) >= least
