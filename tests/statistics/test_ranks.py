"""Ranks, Friedman's test and Nemenyi's critical difference: Demsar's tables, SciPy's numbers, groups by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from xaibench.errors import UsageError
from xaibench.statistics import Ranking, critical_difference, rank_methods
from xaibench.statistics.ranks import _groups

# Table 6 of Demsar (2006): AUC of C4.5 with and without tuned m and cf on 14 UCI data sets.
DEMSAR = {
    "C4.5": [0.763, 0.599, 0.954, 0.628, 0.882, 0.936, 0.661, 0.583, 0.775, 1.0, 0.940, 0.619, 0.972, 0.957],
    "C4.5+m": [0.768, 0.591, 0.971, 0.661, 0.888, 0.931, 0.668, 0.583, 0.838, 1.0, 0.962, 0.666, 0.981, 0.978],
    "C4.5+cf": [0.771, 0.590, 0.968, 0.654, 0.886, 0.916, 0.609, 0.563, 0.866, 1.0, 0.965, 0.614, 0.9751, 0.946],
    "C4.5+m+cf": [0.798, 0.569, 0.967, 0.657, 0.898, 0.931, 0.685, 0.625, 0.875, 1.0, 0.962, 0.669, 0.975, 0.970],
}  # 0.9751: the paper ranks the two 0.975 of voting apart, so they differ behind the third place


def test_demsars_example() -> None:
    ranking = rank_methods(DEMSAR)
    assert ranking.methods == ("C4.5+m+cf", "C4.5+m", "C4.5+cf", "C4.5")
    assert ranking.ranks == pytest.approx((1.964, 2.000, 2.893, 3.143), abs=5e-4)
    assert ranking.critical_difference == pytest.approx(1.25, abs=5e-3)
    assert ranking.groups == (ranking.methods,)  # "the post-hoc test is not powerful enough" at 5%
    # The paper's 9.28 leaves ties alone; SciPy divides by 1 - sum(t^3 - t) / (n k (k^2 - 1)): ties of 4, 2, 2 and 2.
    ties = 1 - (60 + 3 * 6) / (14 * 4 * 15)
    assert ranking.chi_squared * ties == pytest.approx(9.28, abs=5e-3)
    assert ranking.chi_squared == pytest.approx(stats.friedmanchisquare(*DEMSAR.values()).statistic)
    untied = ranking.chi_squared * ties
    assert 13 * untied / (14 * 3 - untied) == pytest.approx(3.69, abs=5e-3)  # the paper's F
    assert ranking.f == pytest.approx(13 * ranking.chi_squared / (14 * 3 - ranking.chi_squared))
    assert ranking.p_f == pytest.approx(stats.f.sf(ranking.f, 3, 39))


def test_demsars_example_at_ten_percent() -> None:
    ranking = rank_methods(DEMSAR, alpha=0.1)
    assert ranking.critical_difference == pytest.approx(1.12, abs=5e-3)
    # "C4.5 performs significantly worse than C4.5+m and C4.5+m+cf"
    assert ranking.groups == (("C4.5+m+cf", "C4.5+m", "C4.5+cf"), ("C4.5+cf", "C4.5"))


@pytest.mark.parametrize(
    ("methods", "alpha", "q"),  # table 5(a) of the paper, cut (not rounded) to three places
    [(2, 0.05, 1.960), (3, 0.05, 2.343), (4, 0.05, 2.569), (10, 0.05, 3.164), (2, 0.1, 1.645), (10, 0.1, 2.920)],
)
def test_demsars_table_of_critical_values(methods: int, alpha: float, q: float) -> None:
    difference = critical_difference(methods, 6, alpha=alpha)
    assert difference / math.sqrt(methods * (methods + 1) / 36) == pytest.approx(q, abs=1e-3)


def test_groups_by_hand() -> None:
    assert _groups("abcd", np.array([1.0, 1.5, 2.4, 4.0]), 1.0) == (("a", "b"), ("b", "c"))
    assert _groups("abc", np.array([1.0, 2.0, 3.0]), 1.0) == ()  # a difference of CD is significant
    assert _groups("abc", np.array([1.0, 1.2, 1.4]), 1.0) == (("a", "b", "c"),)  # no smaller group beside it


def by_name(ranking: Ranking) -> dict[str, float]:
    return dict(zip(ranking.methods, ranking.ranks, strict=True))


def test_less_may_be_better_and_ties_share() -> None:
    scores = {"a": [3, 1], "b": [1, 1], "c": [2, 2]}
    assert by_name(rank_methods(scores)) == {"a": 1.75, "b": 2.75, "c": 1.5}
    assert by_name(rank_methods(scores, direction="lower")) == {"a": 2.25, "b": 1.25, "c": 2.5}


def test_cases_without_a_score_are_left_out() -> None:
    ranking = rank_methods({"a": [3, math.nan, 1], "b": [1, 2, 2], "c": [2, 3, 3]})
    assert (ranking.cases, ranking.left_out) == (2, 1)
    assert ranking.critical_difference == critical_difference(3, 2)
    nothing = rank_methods({"a": [math.nan], "b": [1], "c": [2]})
    assert (nothing.cases, nothing.groups) == (0, ())
    assert np.isnan([nothing.critical_difference, nothing.p, *nothing.ranks]).all()


def test_ends() -> None:
    agreed = rank_methods({"a": [3, 3, 3], "b": [2, 2, 2], "c": [1, 1, 1]})
    assert (agreed.chi_squared, agreed.f, agreed.p_f) == (pytest.approx(6), math.inf, 0)
    tied = rank_methods({"a": [1, 2], "b": [1, 2], "c": [1, 2]})
    assert (tied.chi_squared, tied.p, tied.p_f, tied.ranks) == (0, 1, 1, (2, 2, 2))
    one = rank_methods({"a": [3], "b": [2], "c": [1]})
    assert one.p == pytest.approx(stats.chi2.sf(2, 2))
    assert math.isnan(one.p_f)
    assert math.isnan(rank_methods({"a": [3, 2], "b": [2, 1]}).p)  # Friedman's test needs three


@given(
    table=st.lists(st.tuples(*[st.integers(0, 4)] * 4), min_size=1, max_size=8),
    order=st.permutations(range(4)),
)
def test_invariants(table: list[tuple[int, ...]], order: list[int]) -> None:
    columns = np.array(table, dtype=float).T
    ranking = rank_methods({str(k): columns[k] for k in range(4)})
    assert sum(ranking.ranks) == pytest.approx(10)
    assert list(ranking.ranks) == sorted(ranking.ranks)
    moved = rank_methods({str(k): np.exp(columns[k]) for k in order})
    assert by_name(moved) == pytest.approx(by_name(ranking))
    for (one, rank), (other, beside) in itertools.combinations(by_name(ranking).items(), 2):
        together = any({one, other} <= set(group) for group in ranking.groups)
        assert together == (abs(rank - beside) < ranking.critical_difference)


@pytest.mark.parametrize(
    ("scores", "options"),
    [
        ({"a": [1]}, {}),
        ({"a": [1], "b": [1, 2]}, {}),
        ({"a": [1], "b": [2]}, {"direction": "up"}),
        ({"a": [1], "b": [2]}, {"alpha": 5}),
    ],
)
def test_bad_input_is_one_line(scores: dict, options: dict) -> None:
    with pytest.raises(UsageError) as caught:
        rank_methods(scores, **options)
    assert "\n" not in str(caught.value)
