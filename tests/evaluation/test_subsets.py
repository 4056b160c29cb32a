"""Several subsets as one result: cases worked by hand, and agreement with scikit-learn and the bootstrap of one run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from tests.evaluation.saved_runs import saved_run
from tests.tiny import tiny_benchmark
from xaibench.errors import XaibenchError
from xaibench.evaluation.setup import load_splits
from xaibench.metrics.classification import class_scores
from xaibench.results.predictions import predicted
from xaibench.results.run import Run
from xaibench.statistics import auc_intervals, delong
from xaibench.studies.gcm_paper.subsets import best_subset, compare_aucs, doubts, equivalences, mean_aucs

BENCHMARK = tiny_benchmark()
LABELS = np.tile(np.eye(4, dtype=np.int64), (6, 1))


def logits(seed: int, noise: float = 1.0) -> np.ndarray:
    return LABELS + noise * np.random.default_rng(seed).normal(size=LABELS.shape)


def test_one_subset_is_that_run_s_own_result(tmp_path: Path) -> None:
    run = saved_run(tmp_path / "a", BENCHMARK, "gcm", logits(0), LABELS)
    found = mean_aucs([run])
    scores = class_scores(logits(0), "multiclass")
    spec = BENCHMARK.statistics
    patients = predicted(run).patients
    own = auc_intervals(scores, LABELS, patients, resamples=spec.resamples, seed=spec.seed)
    for k, (auc, interval) in enumerate(zip(found[:-1], own.columns, strict=True)):
        assert auc.value == pytest.approx(roc_auc_score(LABELS[:, k], scores[:, k]))
        assert (auc.low, auc.high) == pytest.approx((interval.low, interval.high))
    assert found[-1].class_name == "macro"
    assert (found[-1].low, found[-1].high) == pytest.approx((own.macro.low, own.macro.high))


def test_the_mean_is_that_of_the_subsets(tmp_path: Path) -> None:
    runs = [saved_run(tmp_path / str(seed), BENCHMARK, "gcm", logits(seed), LABELS) for seed in range(3)]
    for k, auc in enumerate(mean_aucs(runs)[:-1]):
        each = [roc_auc_score(LABELS[:, k], class_scores(logits(seed), "multiclass")[:, k]) for seed in range(3)]
        assert auc.subsets == pytest.approx(each)
        assert auc.value == pytest.approx(np.mean(each))
        assert auc.low < auc.value < auc.high


def test_shared_test_patients_vary_together_and_others_do_not(tmp_path: Path) -> None:
    """The same run three times has one run's interval; three runs of other patients have a narrower one."""
    same = [saved_run(tmp_path / f"s{k}", BENCHMARK, "gcm", logits(0), LABELS) for k in range(3)]
    others = [
        saved_run(
            tmp_path / f"o{k}",
            BENCHMARK,
            "gcm",
            logits(0),
            LABELS,
            patients=[f"{k}-{row}" for row in range(len(LABELS))],
        )
        for k in range(3)
    ]
    one, thrice, apart = (mean_aucs(runs)[-1] for runs in (same[:1], same, others))
    assert (thrice.low, thrice.high) == pytest.approx((one.low, one.high))
    # three independent samples: narrower by about the square root of three; 200 resamples are good to some 20%
    assert (apart.high - apart.low) / (one.high - one.low) == pytest.approx(3**-0.5, rel=0.3)


def test_the_best_subset_is_the_first_with_the_largest_mean(tmp_path: Path) -> None:
    runs = [
        saved_run(tmp_path / str(k), BENCHMARK, "gcm", logits(0), LABELS, auc=auc)
        for k, auc in enumerate((0.6, 0.8, 0.8))
    ]
    assert best_subset(runs) == 1
    bare = tiny_benchmark(metrics=[{"name": "energy"}])
    with pytest.raises(XaibenchError, match="no metric roc_auc"):
        best_subset([type(run)(**{**vars(run), "benchmark": bare, "scores": ()}) for run in runs])


def test_two_classifiers_on_the_same_images(tmp_path: Path) -> None:
    good, bad = logits(1, 0.5), logits(2, 6.0)
    first = [saved_run(tmp_path / "g", BENCHMARK, "gcm", good, LABELS)]
    second = [saved_run(tmp_path / "d", BENCHMARK, "densenet121", bad, LABELS)]
    found = compare_aucs(first, second)
    back = compare_aucs(second, first)
    assert [one.class_name for one in found] == list(BENCHMARK.classes)
    for k, (one, other) in enumerate(zip(found, back, strict=True)):
        assert one.first == pytest.approx(roc_auc_score(LABELS[:, k], class_scores(good, "multiclass")[:, k]))
        assert one.difference == pytest.approx(one.first - one.second)
        assert other.difference == pytest.approx(-one.difference)
        assert other.p == pytest.approx(one.p)
        assert one.p <= one.p_holm <= 1
    assert min(one.p_holm for one in found) == pytest.approx(min(1, 4 * min(one.p for one in found)))
    for same in compare_aucs(first, first):
        assert (same.difference, same.p) == (0, 1)


def test_runs_of_other_images_are_not_compared(tmp_path: Path) -> None:
    first = [saved_run(tmp_path / "a", BENCHMARK, "gcm", logits(0), LABELS)]
    second = [saved_run(tmp_path / "b", BENCHMARK, "densenet121", logits(0)[:8], LABELS[:8])]
    with pytest.raises(XaibenchError, match="not of the same images"):
        compare_aucs(first, second)


def test_images_that_do_not_count_for_a_class_are_left_out_of_it_alone(tmp_path: Path) -> None:
    """The ROC-AUC of a class is scikit-learn's of the images that count, on the very same predictions."""
    run = saved_run(tmp_path / "a", BENCHMARK, "gcm", logits(0), LABELS)
    usable = np.random.default_rng(3).random(LABELS.shape) < 0.7
    scores = class_scores(logits(0), "multiclass")
    found = mean_aucs([run], [usable])
    for k, auc in enumerate(found[:-1]):
        rows = usable[:, k]
        assert auc.value == pytest.approx(roc_auc_score(LABELS[rows, k], scores[rows, k]))
        assert (auc.positives, auc.negatives) == ((LABELS[rows, k].sum(),), ((1 - LABELS[rows, k]).sum(),))
    assert found[-1].value == pytest.approx(np.mean([auc.value for auc in found[:-1]]))
    everything = mean_aucs([run], [np.ones_like(usable)])
    assert [(a.value, a.low, a.high) for a in everything] == [(a.value, a.low, a.high) for a in mean_aucs([run])]


def test_a_class_without_any_image_left_has_no_value(tmp_path: Path) -> None:
    run = saved_run(tmp_path / "a", BENCHMARK, "gcm", logits(0), LABELS)
    usable = np.ones(LABELS.shape, dtype=bool)
    usable[LABELS[:, 1] == 1, 1] = False
    found = mean_aucs([run], [usable])
    assert np.isnan(found[1].value)
    assert found[1].positives == (0,)
    assert found[-1].value == pytest.approx(np.mean([found[k].value for k in (0, 2, 3)]))


def test_patients_of_the_training_and_contradicting_labels_are_found() -> None:
    splits = load_splits(BENCHMARK, None)
    test = splits.test
    test.patients = list(test.patients)
    test.patients[0], test.patients[1] = splits.train.patients[0], splits.val.patients[0]
    test.contradicting = np.zeros(test.labels.shape, dtype=bool)
    test.contradicting[2, 3] = True
    found = doubts(splits)
    alone = [row for row in range(len(test)) if list(test.patients).count(test.patients[row]) == 1]
    assert {0, 1, 2} <= set(alone)
    assert (np.flatnonzero(found.trained).tolist(), np.flatnonzero(found.validated).tolist()) == ([0], [1])
    assert np.argwhere(~found.usable).tolist() == [[0, k] for k in range(4)] + [[1, k] for k in range(4)] + [[2, 3]]


def test_comparable_on_the_mean_of_the_subsets(tmp_path: Path) -> None:
    """The same pair of runs three times tells no more than once; three of other patients do."""
    one, two = logits(0), logits(0) + 0.05 * np.random.default_rng(9).normal(size=LABELS.shape)

    def study(kind: str, patients: list[list[str] | None]) -> list[Run]:
        return [
            saved_run(tmp_path / f"{kind}{k}", BENCHMARK, kind, one if kind == "gcm" else two, LABELS, patients=names)
            for k, names in enumerate(patients)
        ]

    names = [[f"{k}-{row}" for row in range(len(LABELS))] for k in range(3)]
    first, again, apart = (
        equivalences(study("gcm", which), study("densenet121", which)) for which in ([None], [None] * 3, names)
    )
    assert [row.class_name for row in first] == [*BENCHMARK.classes, "macro"]
    for single, same, other in zip(first, again, apart, strict=True):
        assert same.difference == pytest.approx(single.difference)
        assert same.error == pytest.approx(single.error)
        assert other.error == pytest.approx(single.error / 3**0.5, rel=0.3)
        assert single.equivalent == (single.low > -0.03 and single.high < 0.03)
    scores = [class_scores(logit, "multiclass") for logit in (one, two)]
    for k, row in enumerate(first[:-1]):
        areas = [roc_auc_score(LABELS[:, k], score[:, k]) for score in scores]
        assert row.difference == pytest.approx(areas[0] - areas[1])
        test = delong(np.stack([score[:, k] for score in scores], 1), LABELS[:, k]).test()
        assert row.error == pytest.approx(abs(test.difference / test.z) if test.z else 0, rel=0.35, abs=0.005)
    same = equivalences(study("gcm", [None]), study("gcm", [None]))
    assert all((row.difference, row.p, row.equivalent) == (0, 0, True) for row in same)


def test_few_patients_are_not_called_comparable(tmp_path: Path) -> None:
    first = [saved_run(tmp_path / "a", BENCHMARK, "gcm", logits(0), LABELS)]
    second = [saved_run(tmp_path / "b", BENCHMARK, "densenet121", logits(5), LABELS)]
    found = equivalences(first, second)
    assert not any(row.equivalent for row in found)
    assert min(row.p for row in compare_aucs(first, second)) > 0.01  # nor is a difference found: both are possible
