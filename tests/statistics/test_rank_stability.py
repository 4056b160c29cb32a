"""Rank stability: all resamples counted by hand, ties, studies that can't say, and what must not matter."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata

from xaibench.errors import UsageError
from xaibench.statistics import RankStability, Resampling, rank_stability


def by_name(found: RankStability) -> dict[str, tuple[float, ...]]:
    rows = zip(found.ranks, found.low, found.high, found.first, *zip(*found.shares, strict=True), strict=True)
    return dict(zip(found.methods, rows, strict=True))


def test_shares_are_those_of_all_resamples() -> None:
    # Three patients: 27 equally likely draws, counted one by one.
    scores = {"a": [0.9, 0.1, 0.2], "b": [0.3, 0.4, 0.3], "c": [0.0, 0.5, 0.2]}
    table = np.array(list(scores.values()))
    draws = [-table[:, list(drawn)].mean(1).round(12) for drawn in itertools.product(range(3), repeat=3)]
    best, worst = (np.array([rankdata(row, method=how) for row in draws]) for how in ("min", "max"))
    expected = np.array(
        [
            [np.mean((best[:, i] <= r) * (r <= worst[:, i]) / (worst - best + 1)[:, i]) for r in (1, 2, 3)]
            for i in range(3)
        ]
    )
    found = rank_stability(scores, ["p", "q", "r"], resamples=20_000)
    assert found.methods == ("a", "b", "c")
    assert found.ranks == (1, 2, 3)
    for method, row in zip(found.methods, found.shares, strict=True):
        assert row == pytest.approx(expected["abc".index(method)], abs=0.014)  # four standard errors of 20,000
        assert row[0] == found.first[found.methods.index(method)]
    above = np.mean([(row[0] < row[1]) + (row[0] == row[1]) / 2 for row in draws])
    assert found.above[0][1] == pytest.approx(above, abs=0.014)
    assert (found.n, found.patients, found.resamples) == (3, 3, 20_000)


def test_methods_far_apart_keep_their_ranks() -> None:
    rng = np.random.default_rng(0)
    scores = {name: level + 0.01 * rng.random(30) for name, level in (("low", 0.1), ("high", 0.8), ("middle", 0.4))}
    found = rank_stability(scores, [str(n) for n in range(30)])
    assert found.methods == ("high", "middle", "low")
    assert found.low == found.high == found.ranks == (1, 2, 3)
    assert found.shares == ((1, 0, 0), (0, 1, 0), (0, 0, 1))
    assert found.above[0][1:] == (1, 1)
    turned = rank_stability(scores, [str(n) for n in range(30)], direction="lower")
    assert turned.methods == ("low", "middle", "high")


def test_equal_methods_share_everything() -> None:
    values = np.random.default_rng(1).random(20)
    found = rank_stability({"a": values, "b": values, "c": values - 5}, [str(n) for n in range(20)])
    assert by_name(found)["a"] == by_name(found)["b"] == (1.5, 1.5, 1.5, 0.5, 0.5, 0.5, 0)
    assert found.above[0][1] == 0.5
    assert math.isnan(found.above[0][0])


def test_images_of_a_patient_come_together() -> None:
    # b is better in one patient of ten with many images: the bootstrap of patients must not be sure of it.
    names = ["big"] * 40 + [f"p{n}" for n in range(9)]
    scores = {"a": [0.5] * 49, "b": [0.6] * 40 + [0.45] * 9}
    found = rank_stability(scores, names)
    assert found.methods == ("b", "a")
    assert found.first[1] == pytest.approx(0.9**10, abs=0.05)  # the patient isn't drawn at all
    by_image = rank_stability(scores, [str(n) for n in range(49)])
    assert by_image.first[0] == 1


def test_classes_weigh_the_same() -> None:
    classes, scores = ["x"] * 2 + ["y"] * 8, {"a": [1.0] * 2 + [0.4] * 8, "b": [0.0] * 2 + [0.7] * 8}
    names = [str(n) for n in range(10)]
    assert rank_stability(scores, names, classes).methods == ("a", "b")  # 0.7 and 0.35
    assert rank_stability(scores, names).methods == ("b", "a")  # 0.52 and 0.56


def test_resamples_without_a_class_are_dropped() -> None:
    names, classes = [str(n) for n in range(10)], ["x"] + ["y"] * 9
    found = rank_stability({"a": np.arange(10.0), "b": np.ones(10)}, names, classes, resamples=1000)
    assert 590 < found.resamples < 710  # 1 - 0.9^10 = 65%
    assert sum(found.first) == pytest.approx(1)


def test_undefined_pairs_and_methods() -> None:
    scores = {"a": [0.1, math.nan, 0.9, 0.5], "b": [0.2, 5.0, 0.1, 0.4], "none": [math.nan] * 4}
    found = rank_stability(scores, list("pqrs"))
    assert (found.unranked, found.n, found.patients) == (("none",), 3, 3)
    without = rank_stability({name: np.delete(scores[name], 1) for name in "ab"}, list("prs"))
    assert (found.methods, found.ranks) == (without.methods, without.ranks)
    apart = rank_stability({"a": [0.1, math.nan], "b": [math.nan, 0.2]}, list("pq"))
    assert (apart.n, apart.resamples, apart.low, apart.high) == (0, 0, (1, 1), (2, 2))
    assert np.isnan([*apart.first, *apart.ranks]).all()


def test_one_patient_can_not_say() -> None:
    found = rank_stability({"a": [0.1, 0.2], "b": [0.3, 0.5]}, ["p", "p"])
    assert (found.methods, found.ranks, found.low, found.high) == (("b", "a"), (1, 2), (1, 1), (2, 2))
    assert np.isnan(found.first).all()
    assert found.resamples == 0


@settings(max_examples=40, deadline=None)
@given(
    table=st.lists(st.tuples(*[st.sampled_from([0.0, 0.1, 0.3, 1.0, math.nan])] * 3), min_size=1, max_size=10),
    names=st.lists(st.sampled_from("pqrstu"), min_size=10, max_size=10),
    order=st.permutations(range(3)),
)
def test_invariants(table: list[tuple[float, ...]], names: list[str], order: list[int]) -> None:
    columns = np.array(table).T
    if np.isfinite(columns).any(1).sum() < 2:
        return
    clusters = names[: len(table)]
    found = rank_stability({str(k): columns[k] for k in range(3)}, clusters, resamples=50)
    moved = rank_stability({str(k): 2 * columns[k] + 1 for k in order}, clusters, resamples=50)
    k = len(found.methods)
    if found.n:
        assert sum(found.ranks) == pytest.approx(k * (k + 1) / 2)
        assert all(1 <= low <= high <= k for low, high in zip(found.low, found.high, strict=True))
        for name, row in by_name(found).items():
            assert by_name(moved)[name] == pytest.approx(row, nan_ok=True)
    if found.resamples:
        assert np.sum(found.shares, axis=0) == pytest.approx(1)
        assert np.sum(found.shares, axis=1) == pytest.approx(1)
        above = np.array(found.above)
        off = ~np.eye(k, dtype=bool)
        assert (above + above.T)[off] == pytest.approx(1)


@pytest.mark.parametrize(
    ("scores", "options"),
    [
        ({"a": [1]}, {}),
        ({"a": [1], "b": [math.nan]}, {}),
        ({"a": [1], "b": [1, 2]}, {}),
        ({"a": [1], "b": [math.inf]}, {}),
        ({"a": [1], "b": [2]}, {"direction": "up"}),
        ({"a": [1], "b": [2]}, {"confidence": 5}),
        ({"a": [1], "b": [2]}, {"resampling": Resampling(["p", "q"], resamples=3)}),
    ],
)
def test_bad_input_is_one_line(scores: dict, options: dict) -> None:
    with pytest.raises(UsageError) as caught:
        rank_stability(scores, ["p"], **options)
    assert "\n" not in str(caught.value)
