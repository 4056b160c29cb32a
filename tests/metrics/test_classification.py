"""Metrics of predictions: by hand, their form under weights against repeated rows and scikit-learn, and thresholds."""

from __future__ import annotations

import doctest
import math
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, recall_score

from xaibench.errors import UsageError
from xaibench.metrics.base import Metric
from xaibench.metrics.classification import (
    average_precision,
    calibration_error,
    negatives_found,
    positives_found,
    roc_auc,
    sensitivity,
    specificity,
    weighted_average_precision,
    weighted_calibration_error,
    youden,
)

METRICS = [roc_auc, average_precision, sensitivity, specificity, calibration_error]
STUDY = st.lists(st.tuples(st.sampled_from([-3.0, -0.5, 0.0, 0.2, 4.0]), st.integers(0, 1)), min_size=2, max_size=20)


@pytest.mark.parametrize("metric", METRICS, ids=lambda m: m.name)
def test_its_example_runs(metric: Metric) -> None:
    names = dict(vars(sys.modules[metric.compute.__module__]))
    example = doctest.DocTestParser().get_doctest(metric.compute.__doc__ or "", names, metric.name, None, 0)
    assert example.examples
    assert doctest.DocTestRunner().run(example).failed == 0


@pytest.mark.parametrize("metric", METRICS, ids=lambda m: m.name)
def test_tensors_will_do_and_bad_input_is_one_line(metric: Metric) -> None:
    scores, labels = [0.1, 2.0, -0.4, 0.3], [0, 1, 0, 1]
    assert metric(torch.tensor(scores), torch.tensor(labels)) == pytest.approx(metric(scores, labels))
    for wrong in ([0, 1, 1], [0, 1, 2, 1]):
        with pytest.raises(UsageError) as caught:
            metric(scores, wrong)
        assert "\n" not in str(caught.value)
    assert math.isnan(metric([0.1, math.nan, 0.2], [0, 1, 1]))
    assert math.isnan(metric([0.1, 0.2], [0, 0])) != metric.one_class


def test_average_precision_by_hand() -> None:
    # tied: 0.5 twice (one positive), one step: precision 2/3 at recall 1; then 1 x 1/2 + 2/3 x 1/2
    assert average_precision([0.9, 0.5, 0.5, 0.1], [1, 1, 0, 0]) == pytest.approx(0.5 + 0.5 * 2 / 3)
    assert average_precision([0.3] * 4, [1, 0, 0, 0]) == 0.25
    assert average_precision.chance([1, 0, 0, 0]) == 0.25


@settings(max_examples=100, deadline=None)
@given(rows=STUDY, seed=st.integers(0, 10**6))
def test_average_precision_is_scikit_learns_under_any_weights(rows: list[tuple[float, int]], seed: int) -> None:
    scores, labels = (np.array(part) for part in zip(*rows, strict=True))
    weights = np.random.default_rng(seed).random((3, len(rows)))
    weights[1] = np.random.default_rng(seed).integers(0, 3, len(rows))
    found = weighted_average_precision(scores, labels)(weights)
    for value, weight in zip(found, weights, strict=True):
        if not (weight @ labels > 0 and weight @ (1 - labels) > 0):
            assert math.isnan(value)
            continue
        drawn = weight > 0  # theirs counts a score that no image has
        expected = average_precision_score(labels[drawn], scores[drawn], sample_weight=weight[drawn])
        assert value == pytest.approx(expected, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(rows=STUDY, seed=st.integers(0, 10**6))
def test_a_weight_is_a_repetition(rows: list[tuple[float, int]], seed: int) -> None:
    scores, labels = (np.array(part) for part in zip(*rows, strict=True))
    weight = np.random.default_rng(seed).integers(0, 3, len(rows))
    repeated = np.repeat(np.arange(len(rows)), weight)
    value = weighted_calibration_error(scores, labels)(weight[None].astype(float))[0]
    assert value == pytest.approx(calibration_error(scores[repeated], labels[repeated]), abs=1e-12, nan_ok=True)


def test_calibration_error_by_hand() -> None:
    # four bins: 0.1, 0.2 of which one is positive; 0.6 and 0.7 of which both are; a probability of 1 is in the last
    logit = np.log(np.array([0.1, 0.2, 0.6, 0.7]) / np.array([0.9, 0.8, 0.4, 0.3]))
    first, second = abs(0.15 - 0.5), abs(0.65 - 1)
    assert calibration_error(logit, [0, 1, 1, 1], bins=4) == pytest.approx((2 * first + 2 * second) / 4)
    assert calibration_error([np.inf, -np.inf], [1, 0]) == 0
    assert calibration_error([np.inf, -np.inf], [0, 1]) == 1
    with pytest.raises(UsageError, match="bins >= 1"):
        calibration_error(logit, [0, 1, 1, 1], bins=0)


def test_the_bias_that_the_documentation_names() -> None:
    rng, found = np.random.default_rng(0), []
    for _ in range(200):
        score = 1.5 * rng.normal(size=100)
        found.append(calibration_error(score, rng.random(100) < 1 / (1 + np.exp(-score))))
    assert np.mean(found) == pytest.approx(math.sqrt(15 / 100) / 3, rel=0.15)


@settings(max_examples=60, deadline=None)
@given(rows=STUDY, threshold=st.sampled_from([-1.0, 0.0, 0.1, 0.2, 9.0]))
def test_the_operating_point_is_two_recalls(rows: list[tuple[float, int]], threshold: float) -> None:
    scores, labels = (np.array(part) for part in zip(*rows, strict=True))
    found = sensitivity(scores, labels, threshold=threshold), specificity(scores, labels, threshold=threshold)
    if labels.min() == labels.max():
        assert np.isnan(found).all()
        return
    called = scores >= threshold
    assert found[0] == pytest.approx(recall_score(labels, called))
    assert found[1] == pytest.approx(recall_score(labels, called, pos_label=0))
    hits = positives_found(scores, labels, threshold), negatives_found(scores, labels, threshold)
    assert np.isnan(hits[0]).tolist() == (labels == 0).tolist()
    assert np.isnan(hits[1]).tolist() == (labels == 1).tolist()
    assert [np.nanmean(part) for part in hits] == pytest.approx(found)


@settings(max_examples=100, deadline=None)
@given(rows=STUDY)
def test_youdens_threshold_is_the_best_of_all(rows: list[tuple[float, int]]) -> None:
    scores, labels = (np.array(part) for part in zip(*rows, strict=True))
    if labels.min() == labels.max():
        assert math.isnan(youden(scores, labels))
        return
    cuts = [-10.0, *np.arange(-3, 5, 0.05), 10.0]
    best = max(sensitivity(scores, labels, threshold=cut) + specificity(scores, labels, threshold=cut) for cut in cuts)
    cut = youden(scores, labels)
    found = sensitivity(scores, labels, threshold=cut) + specificity(scores, labels, threshold=cut)
    assert found == pytest.approx(best, abs=1e-12)
    assert scores.min() <= cut <= scores.max()


def test_of_equal_thresholds_the_middle_one() -> None:
    # cuts between 0, 1, 2 and 3, 4: the first, third and last are equally good
    assert youden([0.0, 1.0, 2.0, 3.0, 4.0, 5.0], [0, 1, 0, 1, 0, 1]) == 2.5
    assert youden([-math.inf, math.inf], [0, 1]) == math.inf
    assert youden([1.0, 1.0], [0, 1]) == 1.0
    assert youden([2.0, 1.0], [0, 1]) == 1.0  # the wrong way round: all positive
