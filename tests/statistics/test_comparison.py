"""All pairs of explainers: worked case, agreement with the single tools, missing scores, invariants."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xaibench.errors import UsageError
from xaibench.statistics import (
    Resampling,
    bootstrap_weights,
    holm,
    mcnemar_test,
    mean_interval,
    mean_intervals,
    paired_comparisons,
    permutation_test,
)


def study(seed: int = 0, n: int = 80) -> tuple[dict[str, np.ndarray], list[str], list[str]]:
    """Three explainers' scores of n pairs: some 30 patients, three classes, some scores NaN."""
    rng = np.random.default_rng(seed)
    owner = rng.integers(0, 30, n)
    level = rng.normal(0.5, 0.1, 30)[owner]
    scores = {
        name: np.clip(level + rng.normal(shift, 0.1, n), 0, 1) for name, shift in (("a", 0.1), ("b", 0), ("c", 0))
    }
    scores["b"][rng.random(n) < 0.1] = math.nan
    scores["c"][rng.random(n) < 0.1] = math.nan
    return scores, [f"p{i}" for i in owner], [str(label) for label in rng.choice(["x", "y", "z"], n)]


def test_by_hand() -> None:
    # Differences 0.1, 0.3, 0.2: mean 0.2, deviation 0.1, effect 2; all of one sign in three patients: p = 2 / 8.
    found = paired_comparisons({"a": [0.5, 0.5, 0.5, 0.4], "b": [0.4, 0.2, 0.3, math.nan]}, list("pqrs"))[0]
    assert (found.first, found.second, found.n, found.patients, found.left_out) == ("a", "b", 3, 3, 1)
    assert (found.difference, found.effect) == pytest.approx((0.2, 2.0))
    assert (found.p, found.p_holm, found.method) == (0.25, 0.25, "exact permutation")


def test_classes_weigh_the_same() -> None:
    # Class x: 0.4; class y: 0.1, 0.2, 0.3. Macro mean 0.3; pooled variance within (0.01 + 0 + 0.01) / (4 - 2).
    scores = {"a": [0.4, 0.1, 0.2, 0.3], "b": np.zeros(4)}
    found = paired_comparisons(scores, list("pqrs"), list("xyyy"))[0]
    assert (found.difference, found.effect) == pytest.approx((0.3, 3.0))
    assert found.p == permutation_test(scores["a"], list("pqrs"), list("xyyy")).p


def test_every_pair_and_holm_over_them() -> None:
    scores, patients, classes = study()
    found = paired_comparisons(scores, patients, classes)
    assert [(each.first, each.second) for each in found] == [("a", "b"), ("a", "c"), ("b", "c")]
    for each in found:
        differences = scores[each.first] - scores[each.second]
        expected = permutation_test(differences, patients, classes)
        assert (each.p, each.method) == (expected.p, expected.method)
        assert each.difference == pytest.approx(expected.statistic, abs=1e-12)
        assert each.left_out == np.isnan(differences).sum() == len(patients) - each.n
        assert each.patients == len({p for p, d in zip(patients, differences, strict=True) if np.isfinite(d)})
    np.testing.assert_array_equal([each.p_holm for each in found], holm([each.p for each in found]))
    assert found[0].p_holm < 0.05 < found[2].p_holm


@pytest.mark.parametrize("method", ["score", "percentile", "bca"])
def test_intervals_are_those_of_the_differences(method: str) -> None:
    scores, patients, classes = study(1)
    differences = scores["a"] - scores["b"]
    options = {"resamples": 300, "seed": 4, "method": method}
    plain = paired_comparisons(scores, patients, **options)[0].interval
    expected = mean_interval(differences, patients, bounds=(-1, 1), **options)
    assert (plain.low, plain.high, plain.method) == (
        pytest.approx(expected.low, abs=1e-12),
        pytest.approx(expected.high, abs=1e-12),
        method,
    )
    table = np.where(np.array(classes)[:, None] == ["x", "y", "z"], differences[:, None], math.nan)
    macro = paired_comparisons(scores, patients, classes, **options)[0].interval
    expected = mean_intervals(table, patients, bounds=(-1, 1), **options).macro
    assert (macro.low, macro.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_effects_interval_is_that_of_repeated_rows() -> None:
    scores, patients, _ = study(2)
    differences = scores["a"] - scores["c"]
    there = np.isfinite(differences)
    effects = []
    for weights in bootstrap_weights(patients, 200, 7):
        drawn = np.repeat(differences[there], weights[there])
        effects.append(drawn.mean() / drawn.std(ddof=1))
    found = paired_comparisons({"a": scores["a"], "c": scores["c"]}, patients, resamples=200, seed=7)[0]
    expected = np.quantile(effects, [0.025, 0.975])
    assert (found.effect_interval.low, found.effect_interval.high) == pytest.approx(tuple(expected), abs=1e-10)
    alone = differences[there]
    assert found.effect == pytest.approx(alone.mean() / alone.std(ddof=1), abs=1e-12)


def test_against_a_baseline() -> None:
    scores, patients, classes = study(3)
    found = paired_comparisons(scores, patients, classes, against="b")
    assert [(each.first, each.second) for each in found] == [("a", "b"), ("c", "b")]
    among_all = {(each.first, each.second): each for each in paired_comparisons(scores, patients, classes)}
    assert found[0].p == among_all["a", "b"].p
    assert found[0].p_holm == min(1, 2 * found[0].p)  # two comparisons, and the smaller p
    assert found[1].difference == pytest.approx(-among_all["b", "c"].difference)


def test_hits_by_mcnemar() -> None:
    rng = np.random.default_rng(5)
    hits = {name: (rng.random(60) < share).astype(float) for name, share in (("a", 0.8), ("b", 0.4))}
    patients = [f"p{i}" for i in range(60)]
    found = paired_comparisons(hits, patients, test="mcnemar")[0]
    assert (found.p, found.method) == (mcnemar_test(hits["a"], hits["b"]).p, "exact McNemar")
    assert found.difference == pytest.approx(hits["a"].mean() - hits["b"].mean())
    assert paired_comparisons(hits, ["p"] * 30 + ["q"] * 30, test="mcnemar")[0].method == "Durkalski"


@settings(max_examples=10)
@given(seed=st.integers(0, 10**6), scale=st.floats(0.1, 0.9))
def test_invariants(seed: int, scale: float) -> None:
    scores, patients, classes = study(seed)
    options = {"resamples": 50, "permutations": 99}
    (found,) = paired_comparisons({"a": scores["a"], "b": scores["b"]}, patients, classes, **options)
    (turned,) = paired_comparisons({"b": scores["b"], "a": scores["a"]}, patients, classes, **options)
    assert (turned.p, turned.n, turned.left_out) == (found.p, found.n, found.left_out)
    assert (turned.difference, turned.effect) == pytest.approx((-found.difference, -found.effect))
    assert (turned.interval.low, turned.interval.high) == pytest.approx((-found.interval.high, -found.interval.low))
    order = np.random.default_rng(seed).permutation(len(patients))
    shuffled = {name: scores[name][order] for name in ("a", "b")}
    (moved,) = paired_comparisons(shuffled, [patients[i] for i in order], [classes[i] for i in order], **options)
    assert (moved.p, moved.difference) == pytest.approx((found.p, found.difference))
    assert (moved.effect_interval.low, moved.interval.high) == pytest.approx(
        (found.effect_interval.low, found.interval.high)
    )
    smaller = {name: scale * scores[name] for name in ("a", "b")}
    (scaled,) = paired_comparisons(smaller, patients, classes, **options)
    assert (scaled.p, scaled.effect) == pytest.approx((found.p, found.effect))


def test_equal_explainers() -> None:
    values = np.random.default_rng(6).random(12)
    (found,) = paired_comparisons({"a": values, "b": values}, [str(n) for n in range(12)])
    assert (found.difference, found.p, found.interval.method) == (0, 1, "exact")
    assert found.interval.low == -found.interval.high < 0
    assert math.isnan(found.effect)
    assert found.effect_interval.low == -math.inf


def test_no_common_pair_is_no_comparison() -> None:
    scores = {"a": [0.1, math.nan, 0.3], "b": [math.nan, 0.2, math.nan], "c": [0.2, 0.4, 0.5]}
    apart, *others = paired_comparisons(scores, list("pqr"))
    assert (apart.n, apart.patients, apart.left_out) == (0, 0, 3)
    assert math.isnan(apart.difference)
    assert math.isnan(apart.p)
    assert math.isnan(apart.p_holm)
    assert (apart.interval.low, apart.interval.high, apart.interval.method) == (-1, 1, "bounds")
    assert [each.p_holm for each in others] == holm([each.p for each in others]).tolist()


def test_an_unbounded_metric() -> None:
    scores, patients, _ = study(7)
    (found, *_) = paired_comparisons(scores, patients, bounds=(0.0, math.inf))
    assert math.isfinite(found.interval.low)
    assert (found.interval.method, found.effect_interval.method) == ("score", "percentile")


def test_a_draw_is_shared() -> None:
    scores, patients, classes = study(8)
    drawn = Resampling(patients, resamples=100, seed=3)
    shared = paired_comparisons(scores, patients, classes, resampling=drawn, seed=3)
    assert shared == paired_comparisons(scores, patients, classes, resamples=100, seed=3)


@pytest.mark.parametrize(
    ("scores", "options", "message"),
    [
        ({"a": [0.1, 0.2]}, {}, "two explainers"),
        ({"a": [0.1, 0.2], "b": [0.1]}, {}, "scores of b"),
        ({"a": [0.1, 0.2], "b": [0.1, math.inf]}, {}, "infinity"),
        ({"cam": [0.1, 0.2], "b": [0.1, 0.2]}, {"against": "can"}, "Did you mean 'cam'"),
        ({"a": [0.1, 0.2], "b": [0.1, 0.2]}, {"test": "t"}, "permutation"),
        ({"a": [0.1, 0.2], "b": [0.1, 0.2]}, {"test": "mcnemar"}, "needs hits"),
        ({"a": [0.1, 0.2], "b": [0.1, 0.2]}, {"resampling": Resampling(["p"])}, "does not fit"),
    ],
)
def test_bad_input_is_one_line(scores: dict, options: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        paired_comparisons(scores, ["p", "q"], **options)
    assert "\n" not in str(caught.value)
