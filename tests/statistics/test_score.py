"""Score intervals: the formulas by hand, their variance and freedom by matrices, and what no data may make them do."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from xaibench.statistics import (
    Resampling,
    auc_interval,
    auc_intervals,
    exact_interval,
    mean_interval,
    mean_intervals,
    statistic_intervals,
)
from xaibench.statistics.score import (
    KURTOSIS,
    Counts,
    auc_limits,
    mean_limits,
    mean_of_limits,
    mean_variance,
    t_quantile,
)


def names(n: int) -> list[str]:
    return [f"{i:04d}" for i in range(n)]


def test_hits_by_hand() -> None:
    # 3 of 10: variance p q / 9, so n is 9; q^2 / 2 hits and as many misses are added.
    quantile = stats.t.ppf(0.975, 1 / (1 / 9 + KURTOSIS / 20))
    total, hits = 9 + quantile**2, 2.7 + quantile**2 / 2
    share = hits / total
    half = quantile * math.sqrt(share * (1 - share) / total)
    found = mean_interval([1] * 3 + [0] * 7, names(10))
    assert (found.low, found.high) == pytest.approx((max(0, share - half), share + half), abs=1e-12)
    assert (found.method, found.resamples) == ("score", 0)


def test_one_open_end_is_the_limit_of_a_far_one() -> None:
    near = mean_limits(3.0, 0.25, 2.1, (0.0, math.inf))
    far = mean_limits(3.0, 0.25, 2.1, (0.0, 1e9))
    assert near == pytest.approx(far, rel=1e-6)
    turned = mean_limits(-3.0, 0.25, 2.1, (-math.inf, 0.0))
    assert turned == pytest.approx((-near[1], -near[0]))
    assert mean_limits(3.0, 0.25, 2.1, (-math.inf, math.inf)) == pytest.approx((3 - 1.05, 3 + 1.05))
    assert mean_limits(0.5, 1e-8, 2.0, (0.0, 1.0)) == pytest.approx((0.5 - 2e-4, 0.5 + 2e-4), abs=1e-9)


def test_without_kurtosis_the_interval_of_a_mean_would_be_students() -> None:
    values = np.random.default_rng(0).normal(size=12)
    found = mean_interval(values, names(12), bounds=(-math.inf, math.inf))
    half = t_quantile(11, 12, 0.95) * values.std(ddof=1) / math.sqrt(12)
    assert (found.low, found.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=1e-12)
    assert t_quantile(11, 12, 0.95) > stats.t.ppf(0.975, 11)
    assert t_quantile(1e9, 10**9, 0.9) == pytest.approx(stats.norm.ppf(0.95), abs=1e-6)


def matrices(counts: np.ndarray) -> tuple[float, float]:
    """Variance of the macro mean under independent images of variance 1, and CR2's degrees of freedom, in full."""
    rows = [(g, k) for g, k in np.ndindex(counts.shape) for _ in range(int(counts[g, k]))]
    x = np.eye(counts.shape[1])[[k for _, k in rows]]
    patient = np.array([g for g, _ in rows])
    bread = np.linalg.inv(x.T @ x)
    left = np.eye(len(rows)) - x @ bread @ x.T
    contrast = np.full(counts.shape[1], 1 / counts.shape[1])
    adds = []
    for g in np.unique(patient):
        own = patient == g
        values, vectors = np.linalg.eigh(left[np.ix_(own, own)])
        root = vectors @ np.diag(1 / np.sqrt(values)) @ vectors.T
        adds.append(contrast @ bread @ x[own].T @ root @ left[own])
    adds = np.array(adds)
    omega = adds @ adds.T
    return float(contrast @ bread @ contrast), np.trace(omega) ** 2 / (omega**2).sum()


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), patients=st.integers(3, 9), classes=st.integers(1, 3))
def test_freedom_and_variance_are_those_of_the_matrices(seed: int, patients: int, classes: int) -> None:
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 4, (patients, classes)).astype(float)
    counts[:2] += 1  # two patients in every class
    counts = counts[counts.sum(1) > 0]
    variance, freedom = matrices(counts)
    assert Counts(counts).freedom() == pytest.approx(freedom, rel=1e-9)
    # unbiased for independent images: the expectation of a quadratic form is its trace, summed over unit vectors
    total = 0.0
    for g, k in np.ndindex(counts.shape):
        for _ in range(int(counts[g, k])):
            sums = np.zeros(counts.shape)
            sums[g, k] = 1.0
            total += float((mean_variance(sums, counts).mean(1) ** 2).sum())
    assert total == pytest.approx(variance, rel=1e-9)


def test_one_image_a_patient_has_the_textbooks_freedom() -> None:
    assert Counts(np.ones((8, 1))).freedom() == pytest.approx(7)
    assert Counts(np.kron(np.eye(2), np.ones((8, 1)))).freedom() == pytest.approx(14)  # classes apart
    assert Counts(np.array([[6.0], *[[1.0]] * 6])).freedom() < 4  # half of the images are one patient's


def test_a_mean_among_others_is_the_mean_alone() -> None:
    rng = np.random.default_rng(1)
    table = rng.random((60, 3))
    table[rng.random((60, 3)) < 0.3] = math.nan
    patients = [f"p{n}" for n in rng.integers(0, 15, 60)]
    found = mean_intervals(table, patients)
    for k in range(3):
        assert mean_interval(table[:, k], patients) == found.columns[k]
    assert found.macro == mean_interval(table, patients)
    assert found.macro.high - found.macro.low < min(each.high - each.low for each in found.columns)


def test_a_bootstrap_of_a_mean_says_about_the_same() -> None:
    rng = np.random.default_rng(2)
    values, patients = rng.beta(2, 5, 400), names(400)
    drawn = Resampling(patients, resamples=4000, seed=1)

    def mean(weights: np.ndarray) -> np.ndarray:
        return (weights @ values / weights.sum(1))[:, None]

    resampled = statistic_intervals(mean, drawn, patients=[400]).macro
    closed = mean_interval(values, patients)
    width = closed.high - closed.low
    assert (resampled.low, resampled.high) == pytest.approx((closed.low, closed.high), abs=0.05 * width)
    assert (resampled.method, resampled.resamples) == ("score", 4000)


@pytest.mark.parametrize("value", [0.0, 1.0, 0.25])
def test_without_spread_the_patients_are_trials(value: float) -> None:
    found = mean_interval([value] * 6, ["a", "a", "b", "c", "d", "d"])
    expected = exact_interval(4 * value, 4)
    assert (found.low, found.high, found.method) == (expected.low, expected.high, "exact")
    reference = stats.binomtest(int(4 * value), 4).proportion_ci(method="exact")
    assert (expected.low, expected.high) == pytest.approx((reference.low, reference.high), abs=1e-12)


def test_a_macro_with_a_class_without_spread_does_not_take_it_for_certain() -> None:
    table = np.full((12, 2), math.nan)
    table[:6, 0], table[6:, 1] = 1.0, np.linspace(0.2, 0.8, 6)
    found = mean_intervals(table, names(12))
    assert [each.method for each in found.columns] == ["exact", "score"]
    assert found.macro.method == "mean of class intervals"
    assert found.macro.low == pytest.approx(np.mean([each.low for each in found.columns]))


ROWS = st.lists(
    st.tuples(st.sampled_from([-3.0, 0.0, 0.5, 1.0, math.nan]), st.integers(0, 5), st.integers(0, 2)),
    min_size=1,
    max_size=14,
)


@settings(max_examples=150, deadline=None)
@given(
    rows=ROWS,
    bounds=st.sampled_from([(-3.0, 1.0), (-math.inf, 1.0), (-3.0, math.inf), (-math.inf, math.inf), (0.0, 1.0)]),
)
def test_any_values_have_intervals_inside_the_range(
    rows: list[tuple[float, int, int]], bounds: tuple[float, float]
) -> None:
    table = np.full((len(rows), 3), math.nan)
    for row, (value, _, column) in enumerate(rows):
        table[row, column] = max(value, bounds[0]) if math.isfinite(value) else value
    found = mean_intervals(table, [str(patient) for _, patient, _ in rows], bounds=bounds)
    means = [column[np.isfinite(column)].mean() if np.isfinite(column).any() else math.nan for column in table.T]
    macro = np.mean([mean for mean in means if math.isfinite(mean)] or [math.nan])
    for interval, mean in zip((*found.columns, found.macro), (*means, macro), strict=True):
        assert bounds[0] <= interval.low < interval.high <= bounds[1]
        assert not math.isfinite(mean) or interval.low - 1e-9 <= mean <= interval.high + 1e-9


def ranked(order: tuple[int, ...]) -> tuple[float, float]:
    """Limits of the AUC of images in ascending order of score, each a patient of its own; 1 is positive."""
    found = auc_interval(np.arange(len(order)), order, names(len(order)))
    return found.low, found.high


@pytest.mark.parametrize(("positives", "negatives"), [(2, 2), (3, 3), (2, 5), (4, 4)])
def test_one_more_misranked_pair_raises_neither_end(positives: int, negatives: int) -> None:
    # every ranking, and every one that differs by one neighbouring pair
    size, found = positives + negatives, {}
    for places in itertools.combinations(range(size), positives):
        order = tuple(int(i in places) for i in range(size))
        found[order] = ranked(order)
    assert len(found) == math.comb(size, positives)
    for order, (low, high) in found.items():
        for i in range(size - 1):
            if order[i : i + 2] == (0, 1):
                worse = found[(*order[:i], 1, 0, *order[i + 2 :])]
                assert worse[0] <= low + 1e-12
                assert worse[1] <= high + 1e-12


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    shift=st.sampled_from([0.0, 1.0, 2.5, 4.0]),
    sizes=st.sampled_from([(3, 3), (15, 15), (5, 60), (60, 60), (100, 20)]),
    outliers=st.sampled_from([0.0, 0.1]),
)
def test_one_more_misranked_pair_raises_neither_end_of_larger_studies(
    seed: int, shift: float, sizes: tuple[int, int], outliers: float
) -> None:
    rng = np.random.default_rng(seed)
    labels = np.repeat([1, 0], sizes)
    score = rng.normal(size=len(labels)) + shift * labels * (rng.random(len(labels)) >= outliers)
    order = labels[np.argsort(score)].tolist()
    low, high = ranked(tuple(order))
    for i in rng.permutation(len(order) - 1)[:40]:
        if order[i : i + 2] == [0, 1]:
            worse = ranked((*order[:i], 1, 0, *order[i + 2 :]))
            assert worse[0] <= low + 1e-12
            assert worse[1] <= high + 1e-12


def test_misranking_from_classes_apart_to_classes_turned_round() -> None:
    # one positive walks down through all negatives, then the next: the limits fall all the way
    order, before = [0] * 8 + [1] * 8, (1.0, 1.0)
    for _ in range(64):
        limits = ranked(tuple(order))
        assert limits[0] <= before[0] + 1e-12
        assert limits[1] <= before[1] + 1e-12
        before = limits
        i = next(i for i in range(15) if order[i : i + 2] == [0, 1])
        order[i : i + 2] = [1, 0]
    assert ranked(tuple(order)) == pytest.approx((0, 1 - ranked((0,) * 8 + (1,) * 8)[0]), abs=1e-12)


def test_the_model_is_hanley_and_mcneils() -> None:
    # scores exponential with means 1 and s: A = s / (1 + s); the variance of the AUC over 20,000 studies, 1% of noise
    area, positives, negatives = 0.9, 12, 12
    rng = np.random.default_rng(3)
    scores = 9 * rng.exponential(size=(20_000, positives)), rng.exponential(size=(20_000, negatives))
    found = (scores[0][:, :, None] > scores[1][:, None, :]).mean((1, 2))
    assert found.mean() == pytest.approx(area, abs=2e-3)
    low, high, told = auc_limits(area, 0.0, positives, negatives, 10**9, 0.95)
    assert told == 0  # the model alone
    quantile = stats.norm.ppf(0.975)
    for end in (low, high):  # the score equation with the variance at the estimate over A (1 - A)
        variance = (area - end) ** 2 / quantile**2 / (end * (1 - end)) * area * (1 - area)
        assert variance == pytest.approx(found.var(), rel=0.04)


def test_many_misranked_patients_leave_the_placements_to_speak() -> None:
    low, high, told = auc_limits(0.7, 1e-6, 10**5, 10**5, 2 * 10**5, 0.95)
    assert told > 0.999
    assert (high - low) / (2 * 1.96) == pytest.approx(1e-3, rel=0.01)
    assert (high + low) / 2 == pytest.approx(0.7, abs=1e-4)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(4, 30))
def test_turned_labels_turn_the_interval(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    labels, scores = np.arange(n) % 2, np.round(rng.normal(size=n), 1)
    patients = [str(p) for p in rng.integers(0, n, n)]
    one, other = auc_interval(scores, labels, patients), auc_interval(-scores, labels, patients)
    assert (other.low, other.high) == pytest.approx((1 - one.high, 1 - one.low), abs=1e-12)
    assert 0 <= one.low < one.high <= 1


def test_mean_of_limits_by_hand() -> None:
    values, ends = np.array([0.5, 0.7]), np.array([[0.2, 0.6], [0.3, 0.8]])
    same = mean_of_limits(values, ends, np.array([[1.0, 2.0], [-3.0, -6.0]]))  # correlation 1: distances add
    assert same == pytest.approx((0.6 - 0.35, 0.6 + 0.1))
    against = mean_of_limits(values, ends, np.array([[1.0, -2.0]]))
    assert against == pytest.approx((0.6 - 0.05, 0.6))
    half = mean_of_limits(values, ends, np.array([[1.0, 2.0]]), np.array([0.25, 1.0]))  # correlation 0.5
    assert half[1] == pytest.approx(0.6 + math.sqrt(0.1**2 + 0.1**2 + 0.1**2) / 2)
    still = mean_of_limits(values, ends, np.array([[1.0, 0.0], [2.0, 0.0]]))  # no correlation without variation
    assert still == pytest.approx((0.6 - 0.25, 0.6 + math.hypot(0.1, 0.1) / 2))


def test_the_macro_of_areas_lies_inside_and_is_narrower() -> None:
    rng = np.random.default_rng(4)
    labels = np.eye(4)[rng.integers(0, 4, 200)]
    scores = rng.normal(size=(200, 4)) + 1.5 * labels
    found = auc_intervals(scores, labels, names(200))
    assert found.macro.method == "score"
    assert found.macro.high - found.macro.low < min(each.high - each.low for each in found.columns)
    one = auc_intervals(scores[:, :1], labels[:, :1], names(200))
    assert one.macro == one.columns[0]
    scores[3, 2] = math.nan
    partly = auc_intervals(scores, labels, names(200))
    assert partly.columns[2].method == "bounds"
    three = auc_intervals(scores[:, [0, 1, 3]], labels[:, [0, 1, 3]], names(200))
    assert (partly.macro.low, partly.macro.high) == pytest.approx((three.macro.low, three.macro.high), abs=1e-12)
