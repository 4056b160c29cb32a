"""Smallest detectable differences: published sample sizes, the design effect by hand, and power by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from xaibench.errors import UsageError
from xaibench.statistics import design_effect, detectable_difference, detectable_rate, permutation_test


def names(n: int) -> list[str]:
    return [str(i) for i in range(n)]


def standard(n: int) -> np.ndarray:
    """n differences of deviation 1."""
    values = np.arange(n, dtype=float)
    return values / values.std(ddof=1)


def test_the_published_sample_size_of_a_paired_t_test() -> None:
    # 34 pairs see an effect of half a deviation with power 80.8% at 5%, 33 don't with 80% (G*Power's manual; Cohen).
    assert detectable_difference(standard(34), names(34), power=0.807778).difference == pytest.approx(0.5, abs=1e-5)
    assert detectable_difference(standard(34), names(34)).difference < 0.5
    assert detectable_difference(standard(33), names(33)).difference > 0.5


def test_many_patients_give_the_normal_formula() -> None:
    values = standard(10_000)
    expected = (stats.norm.ppf(0.975) + stats.norm.ppf(0.8)) / 100
    assert detectable_difference(values, names(10_000)).difference == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(("n", "rate", "other"), [(85, 0.5, 0.65), (194, 0.5, 0.6), (137, 0.2, 0.3)])
def test_the_textbook_sample_size_of_a_rate(n: int, rate: float, other: float) -> None:
    level, power = stats.norm.ppf(0.975), stats.norm.ppf(0.8)
    needed = (level * math.sqrt(rate * (1 - rate)) + power * math.sqrt(other * (1 - other))) ** 2 / (other - rate) ** 2
    assert math.ceil(needed) == n
    assert detectable_rate(n, rate).difference <= other - rate < detectable_rate(n - 1, rate).difference


def test_design_effect_by_hand() -> None:
    # Patients of three equal hits: 4 means as patients, 12 as pairs, each with its own n / (n - 1).
    hits = np.repeat([0, 1, 0, 1], 3)
    patients = [str(n) for n in np.repeat(range(4), 3)]
    assert design_effect(hits, patients) == pytest.approx(3 * (4 / 3) / (12 / 11))
    assert design_effect(hits, names(12)) == 1
    assert design_effect([0, 1] * 6, [str(n) for n in np.repeat(range(6), 2)]) == pytest.approx(0, abs=1e-12)
    assert math.isnan(design_effect([1, 1, 1], list("abc")))
    assert math.isnan(design_effect([1, 0], list("aa")))


def test_design_effect_is_kishs_with_equal_correlated_patients() -> None:
    # 1 + (m - 1) rho with m = 4 pairs a patient and rho = 0.5; some 1% of noise with 20,000 patients.
    rng = np.random.default_rng(0)
    values = (rng.normal(size=(20_000, 1)) + rng.normal(size=(20_000, 4))).ravel()
    assert design_effect(values, [str(n) for n in np.repeat(range(20_000), 4)]) == pytest.approx(2.5, rel=0.03)


def test_a_detectable_rate_knows_the_design_effect() -> None:
    assert detectable_rate(200, 0.3, design_effect=2).difference == detectable_rate(100, 0.3).difference
    assert math.isnan(detectable_rate(3, 0.9).difference)
    found = detectable_rate(120, 0.3, patients=90, design_effect=1.3)
    assert (found.n, found.patients, found.design_effect) == (120, 90, 1.3)


def test_classes_weigh_the_same() -> None:
    # Class x in 4 patients, y in 16: the macro mean's variance is (s^2 / 4 + s^2 / 16) / 4 but for n / (n - 1).
    values, classes = np.tile([0.0, 1.0], 10), ["x"] * 4 + ["y"] * 16
    macro, plain = (detectable_difference(values, names(20), by).difference for by in (classes, None))
    assert macro / plain == pytest.approx(math.sqrt((1 / 4 + 1 / 16) / 4 / (1 / 20)))


@given(seed=st.integers(0, 10**6), shift=st.floats(-1, 1), scale=st.floats(0.01, 100))
def test_the_mean_does_not_matter_and_the_scale_does(seed: int, shift: float, scale: float) -> None:
    rng = np.random.default_rng(seed)
    values, patients = rng.normal(size=30), [str(n) for n in rng.integers(0, 12, 30)]
    found = detectable_difference(values, patients)
    moved = detectable_difference(scale * values + shift, patients)
    assert moved.difference == pytest.approx(scale * found.difference, rel=1e-9)
    assert moved.design_effect == pytest.approx(found.design_effect, rel=1e-9)


def test_nan_is_left_out_and_degenerate_studies_say_so() -> None:
    values = [*standard(10), math.nan]
    assert detectable_difference(values, names(11)) == detectable_difference(values[:10], names(10))
    for few in (detectable_difference([0.1], ["a"]), detectable_difference([0.1] * 5, names(5))):
        assert math.isnan(few.difference)
        assert "is unknown" in few.sentence
    assert math.isnan(detectable_difference([math.nan], ["a"]).difference)


@pytest.mark.parametrize("n", [2, 3, 4, 5, 8, 13, 34])
@pytest.mark.parametrize("alpha", [0.05, 0.05 / 28, 0.05 / 190])
def test_the_power_at_what_is_detectable_is_the_one_asked_for(n: int, alpha: float) -> None:
    # independent of the solver: t statistics of simulated studies, two-sided; 40,000 pin a power of 0.8 to 0.2%
    found = detectable_difference(standard(n), names(n), alpha=alpha).difference
    rng = np.random.default_rng(n)
    error = np.sqrt(rng.chisquare(n - 1, 40_000) / (n - 1))
    statistics = (rng.normal(size=40_000) + found * math.sqrt(n)) / error
    assert (np.abs(statistics) > stats.t.isf(alpha / 2, n - 1)).mean() == pytest.approx(0.8, abs=0.01)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.sampled_from([-1.0, 0.0, 0.25, 1.0, math.nan]), st.sampled_from("pqrs"), st.sampled_from("xy")),
        max_size=12,
    ),
    spread=st.integers(1, 12),
    alpha=st.sampled_from([0.05, 1e-3, 1e-6]),
    comparisons=st.sampled_from([1, 28]),
)
def test_any_study_has_an_answer(
    rows: list[tuple[float, str, str]], spread: int, alpha: float, comparisons: int
) -> None:
    values, patients = [row[0] for row in rows], [f"{row[1]}{k % spread}" for k, row in enumerate(rows)]
    for classes in (None, [row[2] for row in rows]):
        found = detectable_difference(values, patients, classes, alpha=alpha, comparisons=comparisons)
        assert math.isnan(found.difference) or found.difference > 0
        assert found.n == np.isfinite(values).sum()
        assert found.sentence.startswith(f"With {found.n} pair")
        defined = [(v, p, c) for v, p, c in zip(values, patients, classes or values, strict=True) if math.isfinite(v)]
        if len({p for _, p, _ in defined}) < 2 or len({v for v, _, _ in defined}) < 2:
            assert math.isnan(found.difference)


def test_a_class_of_one_patient_can_not_say() -> None:
    # Class x has one patient, so nobody knows how its mean varies: not "as if it did not".
    values, classes = [0.5, *standard(9)], ["x"] + ["y"] * 9
    assert math.isnan(detectable_difference(values, names(10), classes).difference)
    assert detectable_difference(values, names(10)).difference > 0


def test_holm_and_the_end_of_the_range() -> None:
    one, many = (detectable_difference(standard(20), names(20), comparisons=m) for m in (1, 28))
    assert many.difference == detectable_difference(standard(20), names(20), alpha=0.05 / 28).difference
    assert many.difference > one.difference
    assert "Holm over 28 comparisons" in many.sentence
    assert math.isnan(detectable_difference(standard(20), names(20), limit=0.9 * one.difference).difference)


def test_what_is_detectable_is_detected() -> None:
    # 500 studies of 40 patients, one to five pairs each, whose true difference is the detectable one of a pilot study
    # of 2,000 such patients, scaled: power 80%, noise 1.8%, three of them, and the permutation test is no t test.
    rng = np.random.default_rng(3)

    def pairs(patients: int) -> tuple[np.ndarray, list[str]]:
        owner = np.repeat(np.arange(patients), rng.integers(1, 6, patients))
        return rng.normal(size=patients)[owner] + rng.normal(size=len(owner)), [str(n) for n in owner]

    seen = detectable_difference(*pairs(2000)).difference * math.sqrt(2000 / 40)
    found = 0
    for study in range(500):
        values, patients = pairs(40)
        found += permutation_test(values + seen, patients, permutations=199, seed=study).p <= 0.05
    assert found / 500 == pytest.approx(0.8, abs=0.07)


@pytest.mark.parametrize(
    "call",
    [
        lambda: detectable_difference([0.1], ["a", "b"]),
        lambda: detectable_difference([0.1], ["a"], power=80),
        lambda: detectable_difference([0.1], ["a"], alpha=0.9),
        lambda: detectable_difference([0.1], ["a"], comparisons=0),
        lambda: detectable_rate(0, 0.5),
        lambda: detectable_rate(10, 1.0),
        lambda: detectable_rate(10, 0.5, design_effect=0),
    ],
)
def test_bad_input_is_one_line(call: object) -> None:
    with pytest.raises(UsageError) as caught:
        call()
    assert "\n" not in str(caught.value)
