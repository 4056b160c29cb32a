from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from xaibench.errors import UsageError
from xaibench.statistics.agreement import first_half, fit_rule, rater_agreement, weighted_kappa

FIRST = np.array([True] * 25 + [False] * 25)
SECOND = np.array([True] * 20 + [False] * 5 + [True] * 10 + [False] * 15)
"""20 both yes, 5 and 10 differ, 15 both no: 0.7 agree, 0.5 by chance, kappa 0.4."""
NAMES = [f"p{i}" for i in range(50)]


def test_kappa_by_hand() -> None:
    found = rater_agreement(FIRST, SECOND, NAMES)
    assert found.kappa == pytest.approx(0.4, abs=1e-12)
    assert found.same == pytest.approx(0.7)
    assert (found.n, found.patients) == (50, 50)
    # the textbook's standard error sqrt(p (1 - p) / (n (1 - e)^2)) is 0.130: the bootstrap's is about that
    assert found.interval.method == "score"
    assert (found.interval.high - found.interval.low) / (2 * 1.96) == pytest.approx(0.130, rel=0.1)
    assert found.interval.low < 0.4 < found.interval.high


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 5)), min_size=2, max_size=30).filter(
        lambda rows: len({(a, b) for a, b, w in rows if w}) > 1
    )
)
def test_weighted_kappa_is_scikit_learns(rows: list[tuple[bool, bool, int]]) -> None:
    a, b, weights = (np.array(column) for column in zip(*rows, strict=True))
    ours = float(weighted_kappa(a, b, weights[None].astype(float))[0])
    assert ours == pytest.approx(float(cohen_kappa_score(a, b, sample_weight=weights)), abs=1e-9, nan_ok=True)
    assert ours == pytest.approx(float(weighted_kappa(b, a, weights[None].astype(float))[0]), abs=1e-12, nan_ok=True)
    assert ours == pytest.approx(float(weighted_kappa(~a, ~b, weights[None].astype(float))[0]), abs=1e-12, nan_ok=True)


def test_the_order_of_images_decides_nothing() -> None:
    order = np.random.default_rng(1).permutation(50)
    again = rater_agreement(FIRST[order], SECOND[order], [NAMES[i] for i in order])
    there = rater_agreement(FIRST, SECOND, NAMES)
    assert again.interval.low == pytest.approx(there.interval.low, abs=1e-12)
    assert again.interval.high == pytest.approx(there.interval.high, abs=1e-12)


def test_patients_are_resampled_not_images() -> None:
    wide = rater_agreement(np.repeat(FIRST, 4), np.repeat(SECOND, 4), list(np.repeat(NAMES, 4)))
    narrow = rater_agreement(np.repeat(FIRST, 4), np.repeat(SECOND, 4), [f"q{i}" for i in range(200)])
    once = rater_agreement(FIRST, SECOND, NAMES)
    assert wide.interval.low == pytest.approx(once.interval.low, abs=1e-12)
    # four times the images as if they were independent: half the width
    width = narrow.interval.high - narrow.interval.low
    assert width == pytest.approx((once.interval.high - once.interval.low) / 2, rel=0.1)


def test_one_answer_throughout_has_no_kappa() -> None:
    found = rater_agreement([True] * 4, [True] * 4, list("abcd"))
    assert math.isnan(found.kappa)
    assert (found.same, found.interval.method) == (1.0, "bounds")
    assert (found.interval.low, found.interval.high) == (-1.0, 1.0)


@pytest.mark.parametrize("second", [[True], [], [[True, False]]])
def test_ratings_that_do_not_match(second: list[bool]) -> None:
    with pytest.raises(UsageError, match="need one for each"):
        rater_agreement([True, False], second, ["a", "b"])


def _planted(n: int = 120, patients: int = 60) -> tuple[np.ndarray, list[float], list[str]]:
    """Curves that fall at random steps, as `visible_in_box` does."""
    draw = np.random.default_rng(0)
    thresholds = [round(0.05 * step, 2) for step in range(1, 20)]
    curves = np.sort(draw.random((n, len(thresholds))), axis=1)[:, ::-1]
    return curves, thresholds, [f"p{i % patients}" for i in range(n)]


@pytest.mark.parametrize(("row", "share"), [(9, 0.5), (14, 0.25), (4, 0.75)])
def test_a_planted_rule_is_found_and_holds_on_the_other_half(row: int, share: float) -> None:
    curves, thresholds, patients = _planted()
    ratings = curves[:, row] > share
    rule = fit_rule(ratings, curves, thresholds, patients)
    assert (rule.threshold, rule.share) == (thresholds[row], share)
    assert rule.fitted_same == rule.same == 1.0
    assert rule.gain == pytest.approx(1 - rule.constant_same)
    assert rule.gain_interval.low > 0
    assert rule.n + rule.fitted_n == 120
    assert rule.patients == 30


def test_ratings_that_the_map_does_not_decide_are_not_better_met_than_by_a_constant() -> None:
    curves, thresholds, patients = _planted(400, 200)
    ratings = np.random.default_rng(3).random(400) < 0.7
    rule = fit_rule(ratings, curves, thresholds, patients)
    assert rule.constant is True
    assert rule.gain_interval.low <= 0 <= rule.gain_interval.high
    assert rule.constant_same == pytest.approx(0.7, abs=0.1)


def test_a_rule_by_hand() -> None:
    # Each of four patients has a hit and a miss, so both halves hold two of each. "Any of the box above 0.5" meets all
    # ratings, "any of it above 0.1" half of them; so does "more than 5% above 0.5", but a smaller share goes first.
    curves = np.array([[1.0, 0.3], [1.0, 0.0]] * 4)
    rule = fit_rule([True, False] * 4, curves, [0.1, 0.5], list("aabbccdd"))
    assert (rule.threshold, rule.share, rule.fitted_same, rule.same) == (0.5, 0.0, 1.0, 1.0)
    assert (rule.fitted_n, rule.n, rule.patients) == (4, 4, 2)
    assert (rule.constant, rule.constant_same, rule.gain) == (True, 0.5, 0.5)


def test_halves_share_no_patient_and_do_not_depend_on_the_order() -> None:
    patients = [f"p{i % 31}" for i in range(200)]
    half = first_half(patients, seed=4)
    inside = {patient for patient, there in zip(patients, half, strict=True) if there}
    outside = set(patients) - inside
    assert len(inside) == 16
    assert not {patient for patient, there in zip(patients, half, strict=True) if not there} & inside
    assert len(outside) == 15
    order = np.random.default_rng(0).permutation(200)
    np.testing.assert_array_equal(first_half([patients[i] for i in order], seed=4), half[order])
    assert (first_half(patients, seed=5) != half).any()


@pytest.mark.parametrize(
    ("curves", "patients", "says"),
    [
        ([[0.5], [0.5]], ["a", "a"], "at least two"),
        ([[0.5], [np.nan]], ["a", "b"], "not finite"),
        ([[0.5, 0.4], [0.3, 0.2]], ["a", "b"], "need"),
        ([[0.5], [0.5]], ["a"], "need"),
    ],
)
def test_bad_input_is_one_line(curves: list[list[float]], patients: list[str], says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        fit_rule([True, False], curves, [0.5], patients)
    assert "\n" not in str(caught.value)
