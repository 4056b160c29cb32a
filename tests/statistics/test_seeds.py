"""Seeds and patients as two levels: by hand, against the one level, coverage, and what can't be said."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from xaibench.errors import UsageError
from xaibench.statistics import TwoLevel, mean_interval, mean_intervals, two_level_difference, two_level_interval
from xaibench.statistics.score import KURTOSIS

UNBOUNDED = (-math.inf, math.inf)


def names(n: int) -> list[str]:
    return [str(i) for i in range(n)]


def crossed(rng: np.random.Generator, seeds: int, patients: int, spread: tuple[float, float, float]) -> np.ndarray:
    """(seeds, patients): effects of the seed, of the patient, and of both together, normal with these deviations."""
    parts = rng.normal(size=(seeds, 1)), rng.normal(size=patients), rng.normal(size=(seeds, patients))
    return spread[0] * parts[0] + spread[1] * parts[1] + spread[2] * parts[2]


def test_by_hand() -> None:
    # Means by seed 0.5, 0.7, 0.6, 0.6, 0.6: variance 0.005, over 5 seeds. Patients' means 0.4, 0.6, 0.8: 0.04 / 3.
    table = {"a": [0.4, 0.5, 0.6], "b": [0.4, 0.7, 1.0], **{seed: [0.4, 0.6, 0.8] for seed in "cde"}}
    found = two_level_interval(table, list("pqr"), bounds=UNBOUNDED)
    variance = 0.001 + 0.04 / 3
    inner = 1 / (1 / 2 + KURTOSIS / 6)
    freedom = variance**2 / ((0.04 / 3) ** 2 / inner + 0.001**2 / 4)
    half = stats.t.ppf(0.975, freedom) * math.sqrt(variance)
    assert found.value == pytest.approx(0.6)
    assert found.by_seed == pytest.approx({"a": 0.5, "b": 0.7, "c": 0.6, "d": 0.6, "e": 0.6})
    assert (found.interval.low, found.interval.high) == pytest.approx((0.6 - half, 0.6 + half))
    assert found.p == pytest.approx(2 * stats.t.sf(0.6 / math.sqrt(variance), freedom))
    assert found.seed_share == pytest.approx(0.001 / variance)
    assert (found.n, found.patients, found.interval.method) == (3, 3, "two levels")


def test_two_seeds_have_one_degree_of_freedom() -> None:
    table = {"a": [0.4, 0.5, 0.6], "b": [0.4, 0.7, 1.0]}  # 0.02 / 2 between seeds
    found = two_level_interval(table, list("pqr"), bounds=UNBOUNDED)
    inner = 1 / (1 / 2 + KURTOSIS / 6)
    half = math.hypot(stats.t.ppf(0.975, inner) * math.sqrt(0.04 / 3), stats.t.ppf(0.975, 1) * 0.1)
    assert (found.interval.low, found.interval.high) == pytest.approx((0.6 - half, 0.6 + half))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), seeds=st.integers(1, 6), shift=st.floats(-1, 1))
def test_p_is_where_the_interval_reaches_0(seed: int, seeds: int, shift: float) -> None:
    table = dict(enumerate(np.random.default_rng(seed).normal(size=(seeds, 8)) + shift))
    p = two_level_interval(table, names(8), bounds=UNBOUNDED).p
    interval = two_level_interval(table, names(8), bounds=UNBOUNDED, confidence=1 - p).interval
    assert min(abs(interval.low), abs(interval.high)) == pytest.approx(0, abs=1e-6)


def test_one_seed_is_the_interval_of_patients_and_says_so() -> None:
    rng = np.random.default_rng(0)
    values, patients = rng.random(40), [f"p{n}" for n in rng.integers(0, 12, 40)]
    found = two_level_interval({"0": values}, patients)
    expected = mean_interval(values, patients)
    assert (found.interval.low, found.interval.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert found.interval.method == "patients only"
    classes = rng.choice(["x", "y"], 40)
    table = np.where(classes[:, None] == ["x", "y"], values[:, None], math.nan)
    macro = two_level_interval({"0": values}, patients, classes.tolist()).interval
    expected = mean_intervals(table, patients).macro
    assert (macro.low, macro.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_seeds_that_agree_add_nothing_and_others_widen() -> None:
    values = np.random.default_rng(1).random(30)
    same = two_level_interval({"0": values, "1": values, "2": values}, names(30))
    one = mean_interval(values, names(30))
    assert (same.interval.low, same.interval.high) == pytest.approx((one.low, one.high), abs=1e-12)
    assert same.seed_share == 0
    apart = two_level_interval({"0": values, "1": np.clip(values + 0.2, 0, 1)}, names(30))
    assert apart.interval.high - apart.interval.low > 3 * (one.high - one.low)


@pytest.mark.parametrize("spread", [(0.3, 1.0, 0.5), (1.0, 1.0, 1.0), (0.05, 1.0, 0.0)])
@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_coverage_where_the_patients_alone_do_not_cover(seeds: int, spread: tuple[float, float, float]) -> None:
    # 600 studies: noise 0.9%, three of them
    rng, covered = np.random.default_rng(2), np.zeros(2)
    for _ in range(600):
        table = crossed(rng, seeds, 25, spread)
        found = two_level_interval(dict(enumerate(table)), names(25), bounds=UNBOUNDED).interval
        patients = mean_interval(table.mean(0), names(25), bounds=UNBOUNDED)
        covered += [each.low <= 0 <= each.high for each in (found, patients)]
    assert covered[0] / 600 > 0.95 - 3 * 0.009
    if spread[0] == 1.0:
        assert covered[1] / 600 < 0.8


def test_differences_seed_by_seed() -> None:
    rng = np.random.default_rng(3)
    first, second = ({str(s): rng.random(20) for s in range(3)} for _ in range(2))
    found = two_level_difference(first, second, names(20))
    turned = two_level_difference(second, dict(reversed(first.items())), names(20))
    assert found.value == pytest.approx(np.mean([first[s].mean() - second[s].mean() for s in first]))
    assert (turned.value, turned.p) == pytest.approx((-found.value, found.p))
    assert (turned.interval.low, turned.interval.high) == pytest.approx((-found.interval.high, -found.interval.low))
    assert -1 <= found.interval.low < found.value < found.interval.high <= 1
    with pytest.raises(UsageError, match="not the same"):
        two_level_difference(first, {"0": first["0"]}, names(20))


def test_what_can_not_be_said() -> None:
    lone = two_level_interval({"0": [0.1, 0.3], "1": [0.2, 0.5]}, ["p", "p"])
    assert (lone.interval.low, lone.interval.high, lone.interval.method) == (0, 1, "bounds")
    flat = two_level_interval({"0": [1.0, 1.0], "1": [1.0, 1.0]}, ["p", "q"])
    assert (flat.interval.method, flat.interval.high) == ("exact", 1)
    assert math.isnan(flat.p)
    nothing = two_level_interval({"0": [math.nan, 0.3], "1": [0.2, math.nan]}, ["p", "q"])
    assert math.isnan(nothing.value)
    assert (nothing.n, nothing.patients, nothing.interval.method) == (0, 0, "bounds")


@settings(max_examples=60, deadline=None)
@given(
    table=st.lists(
        st.lists(st.sampled_from([0.0, 0.25, 1.0, math.nan]), min_size=7, max_size=7), min_size=1, max_size=4
    ),
    patients=st.lists(st.sampled_from("pqrs"), min_size=7, max_size=7),
    classes=st.one_of(st.none(), st.lists(st.sampled_from("xy"), min_size=7, max_size=7)),
)
def test_any_study_has_an_interval_inside_the_range(
    table: list[list[float]], patients: list[str], classes: list[str] | None
) -> None:
    found = two_level_interval({str(s): row for s, row in enumerate(table)}, patients, classes)
    assert isinstance(found, TwoLevel)
    assert 0 <= found.interval.low < found.interval.high <= 1
    if found.n:
        assert found.interval.low - 1e-9 <= found.value <= found.interval.high + 1e-9


@pytest.mark.parametrize(
    ("values", "options"),
    [({}, {}), ({"0": [0.1]}, {}), ({"0": [0.1, math.inf]}, {}), ({"0": [0.1, 0.2]}, {"confidence": 95})],
)
def test_bad_input_is_one_line(values: dict, options: dict) -> None:
    with pytest.raises(UsageError) as caught:
        two_level_interval(values, ["p", "q"], **options)
    assert "\n" not in str(caught.value)
