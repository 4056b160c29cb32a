"""Equivalence within a margin: p-values by hand, the rule by the interval, and its level by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import norm

from xaibench.errors import UsageError
from xaibench.statistics import tost


@pytest.mark.parametrize(
    ("difference", "error", "p"),
    [
        (0.0, 0.01, 0.00135),  # three errors from either end: 1 - Phi(3)
        (0.02, 0.01, 0.15866),  # one error from the nearer: 1 - Phi(1)
        (-0.02, 0.01, 0.15866),
        (0.03, 0.01, 0.5),  # on the margin
        (0.05, 0.01, 0.97725),  # two beyond it: Phi(2)
    ],
)
def test_p_values_by_hand(difference: float, error: float, p: float) -> None:
    assert tost(difference, error, margin=0.03).p == pytest.approx(p, abs=1e-5)


def test_the_larger_of_two_one_sided_tests() -> None:
    rng = np.random.default_rng(0)
    for difference, error in zip(rng.normal(0, 0.03, 50), rng.uniform(0.001, 0.03, 50), strict=True):
        found = tost(difference, error, margin=0.03)
        above, below = norm.sf((difference + 0.03) / error), norm.cdf((difference - 0.03) / error)
        assert found.p == pytest.approx(max(above, below))
        assert found.equivalent == (found.low > -0.03 and found.high < 0.03)  # the 90% interval lies inside


def test_at_most_five_in_a_hundred_that_differ_by_the_margin_pass() -> None:
    draws = np.random.default_rng(1).normal(0.03, 0.008, 4000)
    share = np.mean([tost(draw, 0.008, margin=0.03).equivalent for draw in draws])
    assert share == pytest.approx(0.05, abs=0.01)


def test_no_difference_found_is_not_equivalence() -> None:
    assert not tost(0.0, 0.05, margin=0.03).equivalent  # too few patients to say so


def test_without_an_error_only_equality_is_certain() -> None:
    assert tost(0.0, 0.0, margin=0.03).equivalent
    found = tost(0.01, 0.0, margin=0.03)
    assert math.isnan(found.p)
    assert not found.equivalent
    assert not tost(math.nan, 0.01, margin=0.03).equivalent


@pytest.mark.parametrize("how", [{"margin": 0.0}, {"margin": 0.03, "alpha": 0.5}, {"margin": math.nan}])
def test_bad_options_are_refused(how: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="margin"):
        tost(0.0, 0.01, **how)
    with pytest.raises(UsageError, match="error"):
        tost(0.0, -1.0, margin=0.03)
