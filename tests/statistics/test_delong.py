"""DeLong's covariance of ROC-AUCs: worked cases, the definition spelled out, published numbers, and invariants."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score

from xaibench.errors import UsageError
from xaibench.statistics import delong
from xaibench.statistics.score import auc_limits


def study(seed: int, n: int = 60, k: int = 3) -> tuple[np.ndarray, np.ndarray, list[str]]:
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 3 == 0
    scores = np.round(rng.normal(size=(n, k)) + labels[:, None] * np.linspace(0, 1, k), 1)  # with ties
    return scores, labels, [f"p{i}" for i in rng.integers(0, n // 3, n)]


def psi(positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    return (positive[:, None] > negative) + 0.5 * (positive[:, None] == negative)


def by_definition(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The paper's S10 / m + S01 / n, from the kernel of every pair."""
    kernels = [psi(column[labels], column[~labels]) for column in scores.T]
    s10, s01 = np.cov([kernel.mean(1) for kernel in kernels]), np.cov([kernel.mean(0) for kernel in kernels])
    return s10 / labels.sum() + s01 / (~labels).sum()


def by_clusters(scores: np.ndarray, labels: np.ndarray, names: list[str]) -> np.ndarray:
    """Obuchowski's S10 / M + S01 / N + (S11 + S11') / (M N), patient by patient."""
    m, n, areas = labels.sum(), (~labels).sum(), []
    x, y = [], []
    for column in scores.T:
        kernel = psi(column[labels], column[~labels])
        above, below, area = np.zeros(len(column)), np.zeros(len(column)), kernel.mean()
        above[labels], below[~labels] = kernel.mean(1) - area, kernel.mean(0) - area
        x.append([above[[other == name for other in names]].sum() for name in sorted(set(names))])
        y.append([below[[other == name for other in names]].sum() for name in sorted(set(names))])
        areas.append(area)
    x, y = np.array(x), np.array(y)
    i10, i01, i = (
        len({name for name, label in zip(names, labels, strict=True) if label in kinds})
        for kinds in ((True,), (False,), (True, False))
    )
    s10, s01 = i10 / ((i10 - 1) * m) * x @ x.T, i01 / ((i01 - 1) * n) * y @ y.T
    s11 = i / (i - 1) * x @ y.T
    return s10 / m + s01 / n + (s11 + s11.T) / (m * n)


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6))
def test_equals_the_definitions_and_scikit_learn(seed: int) -> None:
    scores, labels, names = study(seed)
    plain, clustered = delong(scores, labels), delong(scores, labels, names)
    expected = [roc_auc_score(labels, column) for column in scores.T]
    # float64 sums of some thousand terms below 1
    np.testing.assert_allclose(plain.areas, expected, rtol=0, atol=1e-13)
    np.testing.assert_allclose(clustered.areas, expected, rtol=0, atol=1e-13)
    np.testing.assert_allclose(plain.covariance, by_definition(scores, labels), rtol=0, atol=1e-14)
    np.testing.assert_allclose(clustered.covariance, by_clusters(scores, labels, names), rtol=0, atol=1e-14)


def test_by_hand() -> None:
    # Positives 3 and 2, negatives 1 and 2: components 1 and .75 on both sides, variance 2 (.03125 / 2) = .03125.
    scores, labels = [3, 1, 2, 2], [1, 0, 1, 0]
    assert delong(scores, labels).areas.tolist() == [0.875]
    assert delong(scores, labels).covariance.tolist() == [[0.03125]]
    # Patients a (3, 1) and b (2, 2): S10 / M = S01 / N = .015625, S11 = 2 (2 * .125^2) = .0625, twice that over 4.
    assert delong(scores, labels, list("aabb")).covariance.tolist() == [[0.0625]]


# 43 patients with ovarian cancer: albumin, total protein, Krebs-Goplerud score, survival: the data of DeLong et al.
# that are complete, as printed in the SAS/STAT manual (the LOGISTIC procedure, Comparing ROC Curves).
OVARIAN = """
3.0 5.8 10 0  3.2 6.3 5 1  3.9 6.8 3 1  2.8 4.8 6 0  3.2 5.8 3 1  0.9 4.0 5 0  2.5 5.7 8 0  1.6 5.6 5 1  3.8 5.7 5 1
3.7 6.7 6 1  3.2 5.4 4 1  3.8 6.6 6 1  4.1 6.6 5 1  3.6 5.7 5 1  4.3 7.0 4 1  3.6 6.7 4 0  2.3 4.4 6 1  4.2 7.6 4 0
4.0 6.6 6 0  3.5 5.8 6 1  3.8 6.8 7 1  3.0 4.7 8 0  4.5 7.4 5 1  3.7 7.4 5 1  3.1 6.6 6 1  4.1 8.2 6 1  4.3 7.0 5 1
4.3 6.5 4 1  3.2 5.1 5 1  2.6 4.7 6 1  3.3 6.8 6 0  1.7 4.0 7 0  3.7 6.1 5 1  3.3 6.3 7 1  4.2 7.7 6 1  3.5 6.2 5 1
2.9 5.7 9 0  2.1 4.8 7 1  2.8 6.2 8 0  4.0 7.0 7 1  3.3 5.7 6 1  3.7 6.9 5 1  3.6 6.6 5 1
"""


def test_the_published_example() -> None:
    table = np.array(OVARIAN.split(), dtype=float).reshape(43, 4)
    result = delong(table[:, :3] * (1, 1, -1), table[:, 3])
    assert result.areas[1:] == pytest.approx([0.6478, 0.7258], abs=5e-5)  # printed to four places, as all below
    assert np.sqrt(np.diag(result.covariance)) == pytest.approx([0.0927, 0.1000, 0.1028], abs=5e-5)
    protein = result.test(1, 2)
    assert protein.difference == pytest.approx(-0.0780, abs=5e-5)
    assert (protein.interval.low, protein.interval.high) == pytest.approx((-0.2830, 0.1271), abs=5e-5)
    assert (protein.z**2, protein.p) == pytest.approx((0.5554, 0.4561), abs=5e-5)
    contrast = np.array([[1, 0, -1], [0, 1, -1]])
    apart = contrast @ result.areas
    chi_squared = apart @ np.linalg.solve(contrast @ result.covariance @ contrast.T, apart)
    assert (chi_squared, stats.chi2.sf(chi_squared, 2)) == pytest.approx((2.5340, 0.2817), abs=5e-5)


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), copies=st.integers(2, 4))
def test_invariants(seed: int, copies: int) -> None:
    scores, labels, names = study(seed)
    result = delong(scores, labels, names)
    order = np.random.default_rng(seed).permutation(len(labels))
    others = {
        "order": delong(scores[order], labels[order], [names[i] for i in order]),
        "monotone": delong(np.exp(scores), labels, names),
        "mirrored": delong(-scores, ~labels, names),
        "copied images": delong(np.tile(scores, (copies, 1)), np.tile(labels, copies), names * copies),
    }
    for why, other in others.items():
        np.testing.assert_allclose(other.areas, result.areas, rtol=0, atol=1e-13, err_msg=why)
        np.testing.assert_allclose(other.covariance, result.covariance, rtol=0, atol=1e-14, err_msg=why)
    alone = delong(scores, labels, [str(n) for n in range(len(labels))])
    np.testing.assert_allclose(alone.covariance, delong(scores, labels).covariance, rtol=0, atol=1e-15)
    assert np.linalg.eigvalsh(result.covariance).min() > -1e-14


def test_interval_is_the_score_interval_with_the_patients_as_sizes() -> None:
    scores, labels, names = study(1)
    result = delong(scores, labels, names)
    positive, negative = ({n for n, label in zip(names, labels, strict=True) if label == kind} for kind in (1, 0))
    assert result.sizes == (len(positive), len(negative), len(positive | negative))
    interval = result.interval(2, confidence=0.9)
    expected = auc_limits(result.areas[2], result.covariance[2, 2], *result.sizes, 0.9)[:2]
    assert (interval.low, interval.high, interval.method) == (*expected, "score")


def test_patients_add_up_to_the_variance() -> None:
    # with one image a patient the two classes' parts are apart, each with its own n / (n - 1)
    scores, labels, _ = study(2)
    result = delong(scores, labels)
    adds = result.adds
    expected = sum(part.sum() / (part.sum() - 1) * adds[part].T @ adds[part] for part in (labels, ~labels))
    order = [str(n) for n in range(len(labels))]
    np.testing.assert_allclose(result.covariance, expected, rtol=0, atol=1e-15)
    assert sorted(map(tuple, delong(scores, labels, order).adds.tolist())) == sorted(map(tuple, adds.tolist()))


def test_swapping_the_classifiers_changes_the_sign_alone() -> None:
    scores, labels, names = study(2)
    result = delong(scores, labels, names)
    one, other = result.test(0, 2), result.test(2, 0)
    assert (one.difference, one.z, one.p) == (-other.difference, -other.z, other.p)
    assert (one.interval.low, one.interval.high) == pytest.approx((-other.interval.high, -other.interval.low))


def test_without_variance() -> None:
    labels = np.array([1] * 6 + [0] * 8)
    scores = np.stack([labels, labels, -labels, np.zeros(14)], axis=1)
    result = delong(scores, labels)
    assert result.interval(0).high == 1 > result.interval(0).low > 0.6
    assert result.interval(3).low == pytest.approx(1 - result.interval(3).high)
    same = result.test(0, 1)
    assert (same.difference, same.z, same.p, same.interval.method) == (0, 0, 1, "wilson")
    assert same.interval.low == -same.interval.high < 0
    apart = result.test(0, 2)
    assert apart.difference == 1
    assert math.isnan(apart.p)


@pytest.mark.parametrize(
    ("labels", "area"), [([1, 1, 1, 1], math.nan), ([0, 0, 0, 0], math.nan), ([1, 0, 0, 0], 1 / 3)]
)
def test_too_few_patients_give_the_bounds(labels: list[int], area: float) -> None:
    result = delong(np.array([[2, 1], [1, 5], [3, 3], [4, 4]]), labels)
    assert result.areas[0] == pytest.approx(area, nan_ok=True)
    assert (result.interval().low, result.interval().high, result.interval().method) == (0, 1, "bounds")
    assert math.isnan(result.test().p)


def test_a_nan_score_is_one_classifiers_affair() -> None:
    scores, labels, names = study(3)
    expected = delong(scores[:, :2], labels, names).test(0, 1)
    scores[5, 2] = math.nan
    result = delong(scores, labels, names)
    assert result.interval(2).method == "bounds"
    assert math.isnan(result.test(0, 2).p)
    assert result.test(0, 1) == expected


@pytest.mark.parametrize(
    ("scores", "labels", "names"),
    [([0.1, 0.2], [0, 1, 1], None), ([0.1, 0.2], [0, 2], None), ([0.1, 0.2], [0, 1], ["a"])],
)
def test_bad_input_is_one_line(scores: list[float], labels: list[int], names: list[str] | None) -> None:
    with pytest.raises(UsageError) as caught:
        delong(scores, labels, names)
    assert "\n" not in str(caught.value)


def test_rejects_as_often_as_it_says() -> None:
    # 400 studies of 60 patients, one to six images each, two classifiers as good as each other. Both kinds of image of
    # a patient share its level. Noise of 400 studies at 5%: 1.1%, three of them, and some liberality of 60 patients.
    rng, rejected = np.random.default_rng(4), {"patient": 0, "image": 0}
    for _ in range(400):
        patients = np.repeat(np.arange(60), rng.integers(1, 7, 60))
        labels = (patients + (rng.random(len(patients)) < 0.1)) % 2
        scores = labels[:, None] + rng.normal(size=(60, 2))[patients] + 0.4 * rng.normal(size=(len(patients), 2))
        rejected["patient"] += delong(scores, labels, [str(p) for p in patients]).test().p < 0.05
        rejected["image"] += delong(scores, labels).test().p < 0.05
    assert 0.015 < rejected["patient"] / 400 < 0.09
    assert rejected["image"] / 400 > 0.15
