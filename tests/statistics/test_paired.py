"""Paired tests: exact small cases, SciPy's numbers, McNemar's, and how often they reject when nothing is there."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from xaibench.errors import UsageError
from xaibench.statistics import holm, mcnemar_test, permutation_test
from xaibench.statistics import paired as module


def names(n: int) -> list[str]:
    return [f"p{i}" for i in range(n)]


def test_permutation_by_hand() -> None:
    # |+-1 +-2 +-3 +-4| >= 8 for the four sums 10, 8 (1 turned), -8, -10 of sixteen.
    result = permutation_test([-1, 2, 3, 4], names(4))
    assert (result.statistic, result.p, result.method) == (2.0, 4 / 16, "exact permutation")


def test_patients_change_sign_as_one() -> None:
    # Patient a adds 3 to the sum, b 1, c -1: |+-3 +-1 +-1| >= 3 but for 3 - 1 - 1 and its mirror image.
    result = permutation_test([1, 2, 1, -1], list("aabc"))
    assert (result.statistic, result.p) == (0.75, 6 / 8)


def test_classes_weigh_the_same() -> None:
    # Means of the classes: 1 (one pair) and -1/3 (three pairs), so that a adds 1/2, b -1/3 and c +1/6 to 1/3.
    result = permutation_test([1, -1, -1, 1], ["a", "b", "b", "c"], ["x", "y", "y", "y"])
    totals = [abs(a / 2 - b / 3 + c / 6) for a, b, c in itertools.product((-1, 1), repeat=3)]
    assert result.statistic == pytest.approx(1 / 3)
    assert result.p == sum(total > 1 / 3 - 1e-9 for total in totals) / 8


@settings(max_examples=30)
@given(values=st.lists(st.integers(-3, 3).filter(bool), min_size=2, max_size=9))
def test_permutation_equals_scipys(values: list[int]) -> None:
    def mean(x: np.ndarray, y: np.ndarray, axis: int) -> np.ndarray:
        return (x - y).mean(axis=axis)

    theirs = stats.permutation_test((values, np.zeros(len(values))), mean, permutation_type="samples", vectorized=True)
    assert permutation_test(values, names(len(values))).p == pytest.approx(theirs.pvalue, abs=1e-12)


def test_random_signs_agree_with_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    differences = np.random.default_rng(1).normal(0.4, 1, 16)
    exact = permutation_test(differences, names(16)).p
    monkeypatch.setattr(module, "EXACT_PATIENTS", 0)
    sampled = permutation_test(differences, names(16), permutations=20_000)
    assert sampled.method == "permutation"
    assert sampled.p == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 20_000))  # four deviations


def test_a_random_p_is_never_zero_and_repeats() -> None:
    result = permutation_test(np.ones(60), names(60), permutations=199)
    assert result.p == 1 / 200
    differences = np.random.default_rng(2).normal(0.2, 1, 60)
    assert permutation_test(differences, names(60)) == permutation_test(differences, names(60))
    assert permutation_test(differences, names(60)) != permutation_test(differences, names(60), seed=1)


@settings(max_examples=20)
@given(seed=st.integers(0, 10**6), scale=st.floats(1e-3, 1e3), n=st.sampled_from([12, 40]))
def test_permutation_invariants(seed: int, scale: float, n: int) -> None:
    rng = np.random.default_rng(seed)
    differences = np.append(np.round(rng.normal(0.2, 1, n), 1), math.nan)
    patients = [f"p{i}" for i in rng.integers(0, n, n + 1)]
    result = permutation_test(differences, patients, permutations=199)
    order = rng.permutation(n + 1)
    moved = permutation_test(differences[order], [patients[i] for i in order], permutations=199)
    assert moved.p == result.p
    assert permutation_test(scale * differences, patients, permutations=199).p == result.p
    turned = permutation_test(-differences, patients, permutations=199)
    assert (turned.p, turned.statistic) == (result.p, -result.statistic)


def test_nothing_to_test() -> None:
    assert permutation_test([0.0, 0.0], names(2)).p == 1
    assert permutation_test([0.5], names(1)).p == 1
    assert math.isnan(permutation_test([math.nan], names(1)).p)
    assert mcnemar_test([1, 0], [1, 0]).p == 1
    assert mcnemar_test([1, 0, 1, 0], [1, 0, 1, 0], list("aabb")).p == 1
    assert math.isnan(mcnemar_test([math.nan], [1]).p)


def test_mcnemar_by_hand() -> None:
    # Armitage and Berry's sputum specimens: 12 grew on the first medium alone, 2 on the second: p = 0.0129 (Liddell).
    first, second = [1] * 20 + [1] * 12 + [0] * 2 + [0] * 16, [1] * 20 + [0] * 12 + [1] * 2 + [0] * 16
    result = mcnemar_test(first, second)
    assert (result.statistic, round(result.p, 4), result.method) == (10, 0.0129, "exact McNemar")
    assert result.p == pytest.approx(2 * (1 + 14 + 91) / 2**14)  # two, one or none of 14 coins


@settings(max_examples=40)
@given(hits=st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=20))
def test_mcnemar_is_the_permutation_of_hits(hits: list[tuple[bool, bool]]) -> None:
    first, second = np.array(hits, dtype=float).T
    expected = permutation_test(first - second, names(len(hits)))
    assert expected.method == "exact permutation"
    assert mcnemar_test(first, second, names(len(hits))).p == pytest.approx(expected.p, abs=1e-12)


def test_durkalski_by_hand() -> None:
    # Differences over pairs: a 2 / 2, b 1 / 4, c -1 / 1: (1/4)^2 / (1 + 1/16 + 1) = 1 / 33.
    first, second = [1, 1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 0, 0, 1]
    result = mcnemar_test(first, second, list("aabbbbc"))
    assert result.statistic == pytest.approx(1 / 33)
    assert result.p == pytest.approx(stats.chi2.sf(1 / 33, 1))
    assert result.method == "Durkalski"


def test_durkalski_of_copied_pairs_is_mcnemars_chi_squared() -> None:
    rng = np.random.default_rng(3)
    first, second = (rng.random((2, 50)) < 0.5).astype(float)
    only = ((first > second).sum(), (first < second).sum())
    result = mcnemar_test(np.tile(first, 3), np.tile(second, 3), names(50) * 3)
    assert result.statistic == pytest.approx((only[0] - only[1]) ** 2 / sum(only))


def test_mcnemar_leaves_nan_out_of_both() -> None:
    first, second = [1, 1, 1, 0, math.nan, 1], [0, 0, 0, 1, 1, math.nan]
    assert mcnemar_test(first, second, list("abcdaa")) == mcnemar_test(first[:4], second[:4])


def test_holm_by_hand() -> None:
    # In order of size times 4, 3, 2, 1: 0.02, 0.03, 0.06 and 0.04, which may not fall below 0.06.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]).tolist() == [1.0, 1.0]
    np.testing.assert_allclose(holm([0.01, math.nan, 0.03]), [0.02, math.nan, 0.03])
    assert holm([]).tolist() == []


@given(p=st.lists(st.floats(0, 1), min_size=1, max_size=12), alpha=st.floats(0.001, 0.5))
def test_holm_rejects_step_by_step(p: list[float], alpha: float) -> None:
    ordered, rejected = sorted(p), 0
    while rejected < len(p) and ordered[rejected] * (len(p) - rejected) <= alpha:
        rejected += 1
    adjusted = holm(p)
    assert (adjusted <= alpha).sum() == rejected
    assert (adjusted >= np.asarray(p)).all()


@pytest.mark.parametrize(
    ("test", "arguments"),
    [
        (permutation_test, ([0.1, 0.2], ["a"])),
        (permutation_test, ([0.1, math.inf], ["a", "b"])),
        (permutation_test, ([0.1, 0.2], ["a", "b"], ["x"])),
        (mcnemar_test, ([1, 0], [1])),
        (mcnemar_test, ([0.5, 0], [1, 0])),
    ],
)
def test_bad_input_is_one_line(test: object, arguments: tuple) -> None:
    with pytest.raises(UsageError) as caught:
        test(*arguments)
    assert "\n" not in str(caught.value)


def test_no_permutations_is_an_error() -> None:
    with pytest.raises(UsageError):
        permutation_test([0.1], ["a"], permutations=0)


STUDIES = 500
NOISE = 3 * math.sqrt(0.05 * 0.95 / STUDIES)
"""Three deviations of a share of 5%: 2.9%."""


def rejections(patients: int, hits: bool) -> dict[str, float]:
    """The shares of studies without a difference in which tests at 5% reject; patients have one to six pairs."""
    rng, rejected = np.random.default_rng(patients), Counter[str]()
    for study in range(STUDIES):
        owner = np.repeat(np.arange(patients), rng.integers(1, 7, patients))
        # what a patient's pairs share favours either explainer, as often the one as the other
        first, second = rng.normal(size=(2, patients))[:, owner] + 0.5 * rng.normal(size=(2, len(owner)))
        who, alone, options = [str(n) for n in owner], names(len(owner)), {"permutations": 199, "seed": study}
        if hits:
            first, second = (first > 0).astype(float), (second > 0).astype(float)
            rejected["Durkalski"] += mcnemar_test(first, second, who).p <= 0.05
            rejected["McNemar"] += mcnemar_test(first, second).p <= 0.05
        rejected["permutation"] += permutation_test(first - second, who, **options).p <= 0.05
        rejected["by pair"] += permutation_test(first - second, alone, **options).p <= 0.05
    return {test: count / STUDIES for test, count in rejected.items()}


@pytest.mark.parametrize("patients", [10, 40])  # all signs, and random ones
def test_type_one_error_of_the_permutation_test(patients: int) -> None:
    found = rejections(patients, hits=False)
    assert 0.05 - NOISE - 0.01 < found["permutation"] < 0.05 + NOISE  # p comes in steps, which only lowers it
    assert found["by pair"] > 0.15


def test_type_one_error_of_mcnemar() -> None:
    found = rejections(40, hits=True)
    assert found["permutation"] < 0.05 + NOISE
    assert found["Durkalski"] < 0.05 + NOISE
    assert found["McNemar"] > 0.15  # pairs taken for patients
    rng, rejected = np.random.default_rng(9), 0
    for _ in range(STUDIES):  # one pair a patient: exact, so never more than 5%
        first, second = rng.random((2, 30)) < 0.4
        rejected += mcnemar_test(first, second).p <= 0.05
    assert rejected / STUDIES < 0.05 + NOISE
