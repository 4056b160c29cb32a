"""The classification table of a run: thresholds from validation, each metric its own interval, what is left out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, recall_score

from tests.tiny import tiny_benchmark
from xaibench import registry
from xaibench.benchmark import Benchmark
from xaibench.datasets.base import Split, Splits
from xaibench.evaluation.evaluate import evaluate
from xaibench.evaluation.setup import load_splits
from xaibench.metrics import metric
from xaibench.metrics.classification import calibration_error
from xaibench.results.predictions import predicted
from xaibench.results.run import Run
from xaibench.statistics import mean_intervals

NAMES = ("roc_auc", "average_precision", "sensitivity", "specificity", "calibration_error")


@metric(
    "share_positive",
    category="classification",
    direction="higher",
    range=(0.0, 1.0),
    title="Share",
    reference="by hand",
    one_class=True,
)
def share_positive(scores: Any, labels: Any) -> float:
    """A plugin's metric without a form under weights: the share of positive labels."""
    return float(np.mean(labels))


class NoImages(Split):
    """A split without images."""

    def __init__(self, inner: Split) -> None:
        self.__dict__.update(inner.__dict__)
        self.ids, self.patients, self.labels = [], [], inner.labels[:0]

    def __len__(self) -> int:
        return 0

    def __getitem__(self, index: int) -> Any:
        raise IndexError(index)

    def regions(self, index: int) -> Any:
        raise IndexError(index)


class OneClass(Split):
    """A split whose images are all of no class but the first."""

    def __init__(self, inner: Split) -> None:
        self.__dict__.update(inner.__dict__)
        self.inner = inner
        self.labels = np.zeros_like(inner.labels)
        self.labels[::2, 0] = 1

    def __len__(self) -> int:
        return len(self.inner)

    def __getitem__(self, index: int) -> Any:
        return self.inner[index]

    def regions(self, index: int) -> Any:
        return self.inner.regions(index)


def phantom_without_validation(**arguments: Any) -> Splits:
    splits = registry.get("datasets", "phantom").load()(**arguments)
    return replace(splits, val=NoImages(splits.val))


def phantom_with_one_class(**arguments: Any) -> Splits:
    splits = registry.get("datasets", "phantom").load()(**arguments)
    return replace(splits, val=OneClass(splits.val))


@pytest.fixture(scope="module", autouse=True)
def _plugins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    registry.register("metrics", "share_positive", share_positive)
    registry.register("datasets", "no-images", phantom_without_validation)
    registry.register("datasets", "one-class", phantom_with_one_class)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XAIBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
    registry.unregister("metrics", "share_positive")
    for name in ("no-images", "one-class"):
        registry.unregister("datasets", name)


def benchmark(*metrics: dict[str, Any], dataset: str = "phantom", **changes: Any) -> Benchmark:
    given = tiny_benchmark(metrics=[*({"name": name} for name in NAMES), {"name": "energy"}, *metrics], **changes)
    return given.model_copy(update={"dataset": given.dataset.model_copy(update={"name": dataset})})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    shown = benchmark({"name": "share_positive"})
    return evaluate("gcm", ["cwm"], shown, out=tmp_path_factory.mktemp("runs"), device="cpu")


def test_values_are_those_of_scikit_learn_at_the_validations_threshold(run: Run) -> None:
    made = predicted(run)
    for k, name in enumerate(run.benchmark.classes):
        found = {metric: run.select(metric=metric, class_name=name)[0] for metric in NAMES}
        labels, scores = made.labels[:, k], made.scores[:, k]
        assert found["average_precision"].value == pytest.approx(average_precision_score(labels, scores), abs=1e-12)
        assert found["average_precision"].chance == pytest.approx(labels.mean())
        assert found["calibration_error"].value == pytest.approx(calibration_error(scores, labels))
        (cut,) = found["sensitivity"].thresholds
        assert found["specificity"].thresholds == (cut,)
        called = 1 / (1 + np.exp(-scores)) >= cut
        assert found["sensitivity"].value == pytest.approx(recall_score(labels, called))
        assert found["specificity"].value == pytest.approx(recall_score(labels, called, pos_label=0))
        for score in found.values():
            assert score.low <= score.value <= score.high
        assert found["sensitivity"].chance is None
        assert found["calibration_error"].corrected is None
    for shown in NAMES:
        values = [score.value for score in run.select(metric=shown) if score.class_name != "macro"]
        assert run.select(metric=shown, class_name="macro")[0].value == pytest.approx(np.mean(values))


def test_the_threshold_is_of_validation_and_not_of_test(run: Run) -> None:
    """The forward pass of validation alone decides it: the best threshold of the test images is another."""
    splits = load_splits(run.benchmark, None)
    assert len(splits.val)
    made = predicted(run)
    better = 0
    for k, name in enumerate(run.benchmark.classes):
        point = [run.select(metric=m, class_name=name)[0].value for m in ("sensitivity", "specificity")]
        on_test = [
            recall_score(made.labels[:, k], made.scores[:, k] >= cut, pos_label=1)
            + recall_score(made.labels[:, k], made.scores[:, k] >= cut, pos_label=0)
            for cut in made.scores[:, k]
        ]
        assert sum(point) <= max(on_test) + 1e-12
        better += sum(point) < max(on_test) - 1e-12
    assert better


def test_each_metric_has_its_own_interval(run: Run) -> None:
    """Once every classification metric, a plugin's too, got the interval of the ROC-AUC."""
    made = predicted(run)
    hits = np.array(run.select(metric="share_positive", class_name=run.benchmark.classes[0])[0].value)
    assert hits == pytest.approx(made.labels[:, 0].mean())
    closed = mean_intervals(made.labels.astype(float), made.patients)
    for k, name in enumerate(run.benchmark.classes):
        (share,) = run.select(metric="share_positive", class_name=name)
        width = closed.columns[k].high - closed.columns[k].low
        # 200 resamples know a standard error to 5%
        assert (share.low, share.high) == pytest.approx((closed.columns[k].low, closed.columns[k].high), abs=width / 5)
    assert len({(run.select(metric=m, class_name="macro")[0].low) for m in NAMES}) == len(NAMES)


def test_a_threshold_of_the_benchmark_is_not_tuned() -> None:
    table = [{"name": "energy"}, {"name": "sensitivity", "parameters": {"threshold": 100.0}}]
    found = evaluate("gcm", ["cwm"], tiny_benchmark(metrics=table), device="cpu")
    assert all(score.value == 0 for score in found.select(metric="sensitivity"))
    assert all(score.thresholds == () for score in found.select(metric="sensitivity"))


def test_without_validation_images_the_metrics_are_left_out_with_a_note() -> None:
    found = evaluate("gcm", ["cwm"], benchmark(dataset="no-images"), device="cpu")
    assert not found.select(metric="sensitivity")
    assert found.select(metric="calibration_error")
    assert any("sensitivity, specificity have no threshold" in note for note in found.notes)


def test_a_class_that_validation_lacks_has_no_operating_point() -> None:
    found = evaluate("gcm", ["cwm"], benchmark(dataset="one-class"), device="cpu")
    first, *others = found.benchmark.classes
    assert found.select(metric="sensitivity", class_name=first)[0].value is not None
    for name in others:
        (score,) = found.select(metric="sensitivity", class_name=name)
        assert (score.value, score.thresholds, score.interval) == (None, (), "bounds")
    assert any(f"with and without {', '.join(others)}" in note for note in found.notes)
