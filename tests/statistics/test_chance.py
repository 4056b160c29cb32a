"""Chance-corrected scores: 0 at chance, 1 when perfect, in either direction, and the intervals with them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xaibench.errors import UsageError
from xaibench.statistics import Interval, chance_corrected, chance_corrected_interval, mean_interval


def test_by_hand() -> None:
    assert chance_corrected(0.25, 0.25) == 0
    assert chance_corrected(1.0, 0.25) == 1
    assert chance_corrected(0.0, 0.5) == -1
    result = chance_corrected([0.5, 0.5, math.nan], [0.0, 1.0, 0.2])
    np.testing.assert_array_equal(result, [0.5, math.nan, math.nan])


def test_less_may_be_better() -> None:
    assert chance_corrected(0.25, 0.25, direction="lower") == 0
    assert chance_corrected(0.0, 0.25, direction="lower") == 1
    assert chance_corrected(1.0, 0.5, direction="lower") == -1
    assert math.isnan(chance_corrected(0.5, 0.0, direction="lower"))  # chance is perfect already


def test_the_range_says_what_perfect_is() -> None:
    assert chance_corrected(0.5, 0.0, bounds=(-1.0, 1.0)) == 0.5
    assert chance_corrected(-0.5, 0.0, direction="lower", bounds=(-1.0, 1.0)) == 0.5
    assert math.isnan(chance_corrected(0.5, 0.2, bounds=(0.0, math.inf)))
    assert chance_corrected(0.5, 2.0, direction="lower", bounds=(0.0, math.inf)) == 0.75


unit = st.floats(0, 1, allow_subnormal=False)


@given(value=unit, chance=st.floats(0.01, 0.99))
def test_a_score_and_its_mirror_image_are_as_good(value: float, chance: float) -> None:
    mirrored = chance_corrected(1 - value, 1 - chance, direction="lower")
    assert mirrored == pytest.approx(chance_corrected(value, chance), abs=1e-12)  # 1 - x rounds


@pytest.mark.parametrize("direction", ["higher", "lower"])
def test_the_interval_is_that_of_the_corrected_scores(direction: str) -> None:
    values = np.random.default_rng(0).random(50)
    names = [str(n) for n in range(50)]
    corrected = chance_corrected_interval(mean_interval(values, names, method="percentile"), 0.3, direction=direction)
    scores = chance_corrected(values, 0.3, direction=direction)
    direct = mean_interval(scores, names, bounds=(-3, 1), method="percentile")
    assert (corrected.low, corrected.high) == pytest.approx((direct.low, direct.high), abs=1e-12)  # linear
    assert corrected.low < corrected.high
    assert (corrected.method, corrected.resamples) == ("percentile", 2000)


def test_an_interval_without_room_is_undefined() -> None:
    corrected = chance_corrected_interval(Interval(0.2, 0.4, "bca"), 1.0)
    assert math.isnan(corrected.low)
    assert math.isnan(corrected.high)


def test_bad_direction_is_one_line() -> None:
    with pytest.raises(UsageError, match=r'^direction \'up\': use "higher" or "lower"$'):
        chance_corrected(0.5, 0.2, direction="up")
