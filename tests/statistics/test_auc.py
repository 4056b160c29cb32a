"""ROC-AUC under weights: scikit-learn's numbers, exactly, and intervals over patients."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from xaibench.errors import UsageError
from xaibench.statistics import (
    auc_interval,
    auc_intervals,
    bootstrap_weights,
    weighted_auc,
    wilson_interval,
)
from xaibench.statistics import bootstrap as module


def study(seed: int, n: int = 150, classes: int = 3, ties: bool = True) -> tuple[np.ndarray, np.ndarray, list[str]]:
    rng = np.random.default_rng(seed)
    labels = (rng.random((n, classes)) < 0.3).astype(np.float32)
    scores = rng.normal(size=(n, classes)) + labels
    return np.round(scores, 1) if ties else scores, labels, [f"p{i}" for i in rng.integers(0, n // 3, n)]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), ties=st.booleans())
def test_equals_scikit_learn(seed: int, ties: bool) -> None:
    scores, labels, names = study(seed, ties=ties)
    weights = bootstrap_weights(names, 5, seed).astype(float)
    weights[4] = np.random.default_rng(seed).random(len(names))  # any weights
    areas = weighted_auc(scores[:, 0], labels[:, 0], weights)
    expected = [roc_auc_score(labels[:, 0], scores[:, 0], sample_weight=w) for w in weights]
    np.testing.assert_allclose(areas, expected, rtol=0, atol=1e-12)  # both in float64, over 150 images


def test_a_weight_is_a_repetition() -> None:
    scores, labels, names = study(1)
    weights = bootstrap_weights(names, 20)
    for w, area in zip(weights, weighted_auc(scores[:, 0], labels[:, 0], weights), strict=True):
        rows = np.repeat(np.arange(len(names)), w)
        assert area == pytest.approx(roc_auc_score(labels[rows, 0], scores[rows, 0]), abs=1e-12)


def test_whole_weights_give_the_same_bits_in_any_order() -> None:
    scores, labels, names = study(2)
    weights = bootstrap_weights(names, 50)
    order = np.random.default_rng(0).permutation(len(names))
    moved = weighted_auc(scores[order, 0], labels[order, 0], weights[:, order])
    np.testing.assert_array_equal(moved, weighted_auc(scores[:, 0], labels[:, 0], weights))


def test_by_hand() -> None:
    scores, labels = [1.0, 2.0, 2.0, 3.0], [0, 0, 1, 1]
    weights = [[1, 1, 1, 1], [0, 1, 1, 0], [0, 3, 2, 1], [1, 1, 0, 0]]
    expected = [0.875, 0.5, (2 * 3 * 0.5 + 1 * 3) / 9, np.nan]  # the last has no positive
    np.testing.assert_array_equal(weighted_auc(scores, labels, weights), expected)


def test_a_nan_score_leaves_it_undefined() -> None:
    assert np.isnan(weighted_auc([0.1, np.nan, 0.3], [0, 1, 1], np.ones((2, 3)))).all()
    interval = auc_interval([0.1, np.nan, 0.3, 0.2], [0, 1, 1, 0], list("abcd"))
    assert (interval.low, interval.high, interval.method) == (0, 1, "bounds")


def test_infinite_scores_are_only_ranks() -> None:
    assert weighted_auc([-np.inf, 0.0, np.inf], [0, 0, 1], np.ones((1, 3))).tolist() == [1.0]


def test_intervals_of_classes_and_macro_share_resamples() -> None:
    scores, labels, names = study(3)
    weights = bootstrap_weights(names, 200, 9)
    draws = np.array([[roc_auc_score(labels[:, k], scores[:, k], sample_weight=w) for k in range(3)] for w in weights])
    options = {"resamples": 200, "seed": 9, "method": "percentile"}
    result = auc_intervals(scores, labels, names, **options)
    for k in range(3):
        expected = np.quantile(draws[:, k], [0.025, 0.975])
        assert (result.columns[k].low, result.columns[k].high) == pytest.approx(tuple(expected), abs=1e-12)
    expected = np.quantile(draws.mean(1), [0.025, 0.975])
    assert (result.macro.low, result.macro.high) == pytest.approx(tuple(expected), abs=1e-12)
    assert auc_interval(scores, labels, names, **options) == result.macro
    assert auc_interval(scores[:, 1], labels[:, 1], names, **options) == result.columns[1]


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, labels, names = study(4)
    whole = auc_intervals(scores, labels, names, resamples=100, method="bca")
    monkeypatch.setattr(module, "CHUNK_WEIGHTS", 7 * len(names))
    assert auc_intervals(scores, labels, names, resamples=100, method="bca") == whole
    assert {interval.method for interval in (*whole.columns, whole.macro)} == {"bca"}


def test_classes_apart_get_wilson_over_the_smaller_class() -> None:
    labels = np.array([1] * 6 + [0] * 20)
    names = ["a", "a", "b", "c", "d", "e"] + [f"n{i}" for i in range(20)]  # five patients with the class
    interval = auc_interval(labels * 1.0, labels, names, method="percentile")
    assert (interval.low, interval.high, interval.method) == (wilson_interval(5, 5).low, 1.0, "wilson")


def test_one_patient_in_a_class_gives_the_bounds() -> None:
    rng = np.random.default_rng(5)
    labels = np.array([1, 1] + [0] * 30)
    interval = auc_interval(rng.normal(size=32), labels, ["a", "a"] + [f"n{i}" for i in range(30)])
    assert (interval.low, interval.high, interval.method) == (0, 1, "bounds")


def test_resamples_without_a_class_are_dropped_and_noted() -> None:
    rng = np.random.default_rng(6)
    labels = np.array([1, 1] + [0] * 30)
    interval = auc_interval(
        rng.normal(size=32), labels, [f"n{i}" for i in range(32)], resamples=1000, method="percentile"
    )
    assert 70 < interval.undefined < 190  # (30/32)^32 = 12.7%
    assert "undefined" in interval.note


@pytest.mark.parametrize(
    ("scores", "labels", "names"),
    [([[0.1], [0.2]], [[0], [1]], ["a"]), ([0.1, 0.2], [0, 2], ["a", "b"]), ([0.1, 0.2], [0, 1, 1], ["a", "b"])],
)
def test_bad_input_is_one_line(scores: list, labels: list, names: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        auc_interval(scores, labels, names)
    assert "\n" not in str(caught.value)


def test_coverage_by_patient() -> None:
    # Normal scores, positives shifted by 1: the AUC is Phi(1 / sqrt 2) = 0.7602. Images of a patient share a label and
    # most of the score. Some 93% are expected from 60 patients; binomial noise of 300 studies is 1.5%, three of them.
    rng = np.random.default_rng(8)
    covered = {"patient": 0, "image": 0}
    for number in range(300):
        sizes = rng.integers(1, 7, 60)
        labels = np.repeat(np.arange(60) % 2, sizes)
        shared = np.repeat(rng.normal(size=60), sizes)
        scores = np.sqrt(0.9) * shared + np.sqrt(0.1) * rng.normal(size=len(labels)) + labels
        patients = [str(n) for n in np.repeat(np.arange(60), sizes)]
        for unit, names in (("patient", patients), ("image", [str(n) for n in range(len(labels))])):
            interval = auc_interval(scores, labels, names, resamples=300, seed=number)
            covered[unit] += interval.low <= 0.7602 <= interval.high
    assert 0.885 < covered["patient"] / 300 < 0.985
    assert covered["image"] / 300 < 0.8
