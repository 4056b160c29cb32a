"""The patient bootstrap: its draw, its intervals, and what it says where it has nothing to resample."""

from __future__ import annotations

import math
import tracemalloc
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from xaibench.errors import UsageError
from xaibench.statistics import (
    Interval,
    Resampling,
    bootstrap_weights,
    mean_interval,
    mean_intervals,
    statistic_intervals,
    wilson_interval,
)
from xaibench.statistics import bootstrap as module
from xaibench.statistics.bootstrap import mean_intervals_of


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [(126, 130, 0.924, 0.988), (59, 83, 0.606, 0.797), (76, 98, 0.683, 0.847)],  # as published for the paper's counts
)
def test_wilson(hits: int, n: int, low: float, high: float) -> None:
    interval = wilson_interval(hits, n)
    assert (round(interval.low, 3), round(interval.high, 3)) == (low, high)
    expected = stats.binomtest(hits, n).proportion_ci(method="wilson")
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_at_the_ends() -> None:
    z2 = stats.norm.ppf(0.975) ** 2
    assert wilson_interval(10, 10) == Interval(pytest.approx(10 / (10 + z2)), 1.0, "wilson")
    assert wilson_interval(0, 10) == Interval(0.0, pytest.approx(z2 / (10 + z2)), "wilson")


@pytest.mark.parametrize(("hits", "n", "confidence"), [(1, 0, 0.95), (3, 2, 0.95), (-1, 2, 0.95), (1, 2, 95)])
def test_wilson_refuses(hits: int, n: int, confidence: float) -> None:
    with pytest.raises(UsageError):
        wilson_interval(hits, n, confidence=confidence)


PATIENTS = [f"p{n}" for n in (3, 3, 1, 7, 7, 7, 2, 9)]


def test_all_images_of_a_patient_are_drawn_together() -> None:
    weights = bootstrap_weights(PATIENTS, 500, 1)
    assert weights.shape == (500, 8)
    assert np.issubdtype(weights.dtype, np.integer)
    for name in set(PATIENTS):
        rows = weights[:, [i for i, other in enumerate(PATIENTS) if other == name]]
        assert (rows == rows[:, :1]).all()
    first = [PATIENTS.index(name) for name in dict.fromkeys(PATIENTS)]
    assert (weights[:, first].sum(1) == 5).all()  # five patients in every resample
    # each count is Binomial(5, 1/5): mean 1, variance 0.8; 500 draws pin the mean to 0.04
    assert weights[:, first].mean(0) == pytest.approx(np.ones(5), abs=0.16)
    assert weights[:, first].var(0) == pytest.approx(np.full(5, 0.8), abs=0.25)


@settings(max_examples=25, deadline=None)
@given(order=st.permutations(range(8)), seed=st.integers(0, 1000))
def test_the_order_of_the_rows_does_not_matter(order: list[int], seed: int) -> None:
    moved = bootstrap_weights([PATIENTS[i] for i in order], 20, seed)
    np.testing.assert_array_equal(moved, bootstrap_weights(PATIENTS, 20, seed)[:, order])


def test_seeds_differ_and_repeat() -> None:
    assert (bootstrap_weights(PATIENTS, 50, 1) == bootstrap_weights(PATIENTS, 50, 1)).all()
    assert (bootstrap_weights(PATIENTS, 50, 1) != bootstrap_weights(PATIENTS, 50, 2)).any()


def test_chunks_are_the_weights_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = Resampling(PATIENTS, resamples=50, seed=4)
    monkeypatch.setattr(module, "CHUNK_WEIGHTS", 60)
    pieces = list(drawn.chunks())
    assert len(pieces) == 8
    np.testing.assert_array_equal(np.concatenate(pieces), bootstrap_weights(PATIENTS, 50, 4))
    left = np.concatenate(list(drawn.leave_one_out()))
    assert left.shape == (5, 8)
    for row, name in zip(left, sorted(set(PATIENTS)), strict=True):
        np.testing.assert_array_equal(row, [other != name for other in PATIENTS])


def skewed(n: int = 60) -> np.ndarray:
    return np.random.default_rng(2).beta(0.6, 4, n)


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_limits_are_scipys_for_the_same_draws(method: str) -> None:
    values = skewed()
    theirs = stats.bootstrap((values,), np.mean, n_resamples=999, method=method, rng=np.random.default_rng(0))
    total, n = values.sum(), len(values)
    left = (total - values) / (n - 1) if method == "bca" else None
    ours = module._column(values.mean(), theirs.bootstrap_distribution, left, n, 0.95, (0.0, 1.0), method)
    expected = (theirs.confidence_interval.low, theirs.confidence_interval.high)
    assert (ours.low, ours.high) == pytest.approx(expected, abs=1e-12)
    assert ours.method == method


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_one_image_a_patient_is_the_plain_bootstrap(method: str) -> None:
    values = skewed()
    names = [f"{n:03d}" for n in range(len(values))]
    ours = mean_interval(values, names, resamples=20_000, method=method)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=20_000, method=method, rng=np.random.default_rng(0))
    expected = theirs.confidence_interval
    # Two draws: a 2.5% quantile of 20,000 is known to 0.02 standard errors; four times that, and twice, as both vary.
    tolerance = 4 * 0.02 * 2**0.5 * theirs.standard_error
    assert (ours.low, ours.high) == pytest.approx((expected.low, expected.high), abs=tolerance)
    assert ours.method == method


def test_bca_leans_with_the_skew() -> None:
    names = [str(n) for n in range(60)]
    plain, bca = (mean_interval(skewed(), names, method=method) for method in ("percentile", "bca"))
    assert bca.low > plain.low
    assert bca.high > plain.high


def test_nan_is_left_out_and_columns_are_averaged() -> None:
    rng = np.random.default_rng(3)
    values = rng.random((80, 3))
    values[rng.random((80, 3)) < 0.4] = np.nan
    names = [f"p{n}" for n in rng.integers(0, 30, 80)]
    weights = bootstrap_weights(names, 300, 5).astype(float)
    draws = np.empty((300, 3))
    for r, w in enumerate(weights):
        repeated = np.repeat(values, w.astype(int), axis=0)
        draws[r] = np.nanmean(repeated, axis=0)
    options = {"resamples": 300, "seed": 5, "method": "percentile"}
    result = mean_intervals(values, names, **options)
    for k in range(3):
        expected = np.quantile(draws[:, k], [0.025, 0.975])
        assert (result.columns[k].low, result.columns[k].high) == pytest.approx(tuple(expected), abs=1e-12)
    expected = np.quantile(draws.mean(1), [0.025, 0.975])
    assert (result.macro.low, result.macro.high) == pytest.approx(tuple(expected), abs=1e-12)
    assert mean_interval(values, names, **options) == result.macro
    shared = Resampling(names, resamples=300, seed=5)
    assert mean_intervals(values, names, resampling=shared, method="percentile") == result


def test_images_of_a_patient_widen_the_interval() -> None:
    values = np.repeat(np.random.default_rng(4).random(30), 5)  # five equal images each
    clustered = mean_interval(values, [str(n // 5) for n in range(150)])
    by_image = mean_interval(values, [str(n) for n in range(150)])
    ratio = (clustered.high - clustered.low) / (by_image.high - by_image.low)
    assert ratio == pytest.approx(5**0.5, rel=0.1)


@pytest.mark.parametrize("value", [0.0, 1.0, 0.3])
def test_equal_values_get_wilson_over_patients(value: float) -> None:
    names = ["a", "a", "b", "c", "d", "d"]
    interval = mean_interval([value] * 6, names, method="percentile")
    expected = wilson_interval(4 * value, 4)
    assert (interval.low, interval.high, interval.method) == (expected.low, expected.high, "wilson")


def test_patients_that_are_all_alike_get_wilson() -> None:
    # each patient one hit and one miss: values differ, resampled means do not
    interval = mean_interval([0, 1] * 4, [str(n // 2) for n in range(8)], method="percentile")
    assert interval.method == "wilson"
    assert (interval.low, interval.high) == pytest.approx((0.15, 0.85), abs=0.005)


def test_bounds_scale_the_replacement() -> None:
    names = [str(n) for n in range(10)]
    interval = mean_interval([1.0] * 10, names, bounds=(-1.0, 1.0), method="percentile")
    assert (interval.low, interval.high) == (pytest.approx(2 * wilson_interval(10, 10).low - 1), 1.0)
    unbounded = mean_interval([1.0] * 10, [str(n) for n in range(10)], bounds=(0.0, math.inf))
    assert (unbounded.low, unbounded.high, unbounded.method) == (0.0, math.inf, "bounds")


@pytest.mark.parametrize("values", [[0.2], [0.2, 0.3, 0.4], [math.nan, math.nan]])
def test_one_patient_or_no_value_gives_the_bounds(values: list[float]) -> None:
    interval = mean_interval(values, ["a"] * len(values), bounds=(-1.0, 1.0))
    assert (interval.low, interval.high, interval.method) == (-1.0, 1.0, "bounds")


def test_a_column_with_one_patient_gives_the_bounds_among_others() -> None:
    values = np.column_stack([np.linspace(0, 1, 20), [0.5, *[np.nan] * 19]])
    result = mean_intervals(values, [str(n) for n in range(20)])
    assert [interval.method for interval in result.columns] == ["score", "bounds"]
    assert result.macro.method == "mean of class intervals"
    assert result.macro.low == pytest.approx((result.columns[0].low + 0) / 2)
    assert result.macro.high == pytest.approx((result.columns[0].high + 1) / 2)


def test_an_empty_column_is_no_part_of_the_macro() -> None:
    values = np.column_stack([np.linspace(0, 1, 20), np.full(20, np.nan)])
    result = mean_intervals(values, [str(n) for n in range(20)])
    assert result.columns[1].method == "bounds"
    assert result.macro == result.columns[0]


def test_undefined_resamples_are_counted_and_noted() -> None:
    values = np.full(10, np.nan)
    values[:2] = 0.2, 0.9  # (8/10)^10 = 10.7% of the resamples draw neither patient
    interval = mean_interval(values, [str(n) for n in range(10)], resamples=1000, method="percentile")
    assert 70 < interval.undefined < 150
    assert interval.note == f"{interval.undefined} of 1000 resamples undefined and dropped"
    assert (interval.low, interval.high) == (0.2, 0.9)
    assert mean_interval([0.2, 0.9, 0.1], ["a", "b", "c"]).note == ""


def test_any_statistic_of_weights_will_do() -> None:
    values = skewed(40)
    order = np.argsort(values)

    def median(weights: np.ndarray) -> np.ndarray:
        below = weights[:, order].cumsum(1)
        return values[order][(below >= below[:, -1:] / 2).argmax(1)][:, None]

    drawn = Resampling([f"{n:02d}" for n in range(40)], resamples=400, seed=6)
    result = statistic_intervals(median, drawn, patients=[40], method="percentile").macro
    weights = bootstrap_weights([f"{n:02d}" for n in range(40)], 400, 6)
    medians = [np.sort(np.repeat(values, w))[19] for w in weights]
    assert (result.low, result.high) == pytest.approx(tuple(np.quantile(medians, [0.025, 0.975])))


@pytest.mark.parametrize(
    ("values", "clusters", "options"),
    [
        ([0.1, 0.2], ["a"], {}),
        ([math.inf, 0.2], ["a", "b"], {}),
        ([], [], {}),
        ([0.1, 0.2], ["a", "b"], {"resamples": 0}),
        ([0.1, 0.2], ["a", "b"], {"confidence": 95}),
        ([0.1, 0.2], ["a", "b"], {"method": "normal"}),
    ],
)
def test_bad_input_is_one_line(values: list[float], clusters: list[str], options: dict[str, object]) -> None:
    with pytest.raises(UsageError) as caught:
        mean_interval(values, clusters, **options)
    assert "\n" not in str(caught.value)


@settings(max_examples=40, deadline=None)
@given(
    values=st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=12),
    names=st.lists(st.sampled_from("abcd"), min_size=12, max_size=12),
    method=st.sampled_from(["score", "percentile", "bca"]),
)
def test_never_empty_never_outside_the_bounds(values: list[float], names: list[str], method: str) -> None:
    interval = mean_interval(values, names[: len(values)], resamples=60, method=method)
    assert 0 <= interval.low < interval.high <= 1


def test_coverage_needs_patients() -> None:
    # 300 studies of 40 patients with 1 to 8 images that share a patient's level; the mean over images is known.
    # A 95% interval from 40 patients should cover in some 93% (binomial noise of 300 studies: 1.5%, three of them).
    rng = np.random.default_rng(7)
    covered = {"patient": 0, "image": 0}
    for study in range(300):
        sizes = rng.integers(1, 9, 40)
        values = np.clip(np.repeat(rng.beta(2, 3, 40), sizes) + rng.uniform(-0.05, 0.05, sizes.sum()), -1, 2)
        patients = [str(n) for n in np.repeat(np.arange(40), sizes)]
        for unit, names in (("patient", patients), ("image", [str(n) for n in range(len(values))])):
            interval = mean_interval(values, names, resamples=400, seed=study, bounds=(-1, 2))
            covered[unit] += interval.low <= 0.4 <= interval.high
    assert 0.885 < covered["patient"] / 300 < 0.985
    assert covered["image"] / 300 < 0.75


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_many_means_at_once_are_those_of_the_weights(method: Literal["percentile", "bca"]) -> None:
    rng = np.random.default_rng(8)
    clusters = [f"p{n}" for n in rng.integers(0, 25, 60)]
    tables = [rng.random((60, 2)), rng.normal(size=(60, 3))]
    tables[1][rng.random((60, 3)) < 0.4] = np.nan
    limits, drawn = [(0.0, 1.0), (-math.inf, math.inf)], Resampling(clusters, resamples=300, seed=2)
    together = mean_intervals_of(tables, limits, drawn, method=method)
    for table, bounds, found in zip(tables, limits, together, strict=True):
        there, filled = np.isfinite(table).astype(float), np.nan_to_num(table)
        expected = statistic_intervals(
            lambda weights, filled=filled, there=there: (weights @ filled) / (weights @ there),
            drawn,
            patients=[drawn.patients(column > 0) for column in there.T],
            method=method,
            bounds=bounds,
        )
        pairs = zip([*found.columns, found.macro], [*expected.columns, expected.macro], strict=True)
        for one, other in pairs:  # sums in another order: to rounding
            assert (one.low, one.high) == pytest.approx((other.low, other.high), rel=1e-9, abs=1e-12)
            assert (one.method, one.undefined, one.resamples) == (other.method, other.undefined, other.resamples)


def test_sums_hold_the_weights_of_a_few_resamples_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK_WEIGHTS", 2**15)
    drawn = Resampling([f"p{number}" for number in range(2000)], resamples=1000, seed=0)  # 16 MB in float64
    assert drawn.counts.shape == (2000, 1000)  # drawn by now
    tracemalloc.start()
    try:
        sums = drawn.sums(np.ones((2000, 1)))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (sums == 2000).all()  # as many patients as there are
    assert peak < 2**21
