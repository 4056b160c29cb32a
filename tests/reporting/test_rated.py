from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
import pytest

from tests.reporting.rated_runs import CLASSES, HOSTILE, write_run
from xaibench.errors import DataError
from xaibench.results.run import Run
from xaibench.studies.gcm_paper.rated import rating_results, read_ratings

SPEC = {
    "Cardiomegaly": (126, 130, 0.924, 0.988),
    "Pneumothorax": (59, 83, 0.606, 0.797),
    "Effusion": (76, 98, 0.683, 0.847),
}
"""The paper's hits (sec. 5.2) with their Wilson intervals."""


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return write_run(tmp_path / "run", [(name, f"p{i}", CLASSES[1 + i % 2]) for i, name in enumerate(HOSTILE)])


def write(path: Path, run: Run, rate: Callable[[int], str] = lambda i: "hit", rater: str = "ann") -> pd.DataFrame:
    table = run.images()
    table = table[(table["explainer"] == "cwm") & (table["metric"] == "hit_rate")]
    rows = pd.DataFrame(
        {
            "image": table["image"].astype(str),
            "class": table["class"].astype(str),
            "explainer": "cwm",
            "rater": rater,
            "rating": [rate(i) for i in range(len(table))],
        }
    )
    rows.to_csv(path, index=False)
    return rows


def test_the_paper_s_hits_give_its_rates_and_wilson_s_intervals(tmp_path: Path) -> None:
    images = [(f"{name}-{i}", f"p{name}{i}", name) for name, (_, n, _, _) in SPEC.items() for i in range(n)]
    run = write_run(tmp_path / "run", images, classes=("No Finding", *SPEC))
    verdicts = ["hit" if i < hits else "miss" for hits, n, _, _ in SPEC.values() for i in range(n)]
    write(tmp_path / "a.csv", run, verdicts.__getitem__)
    rates = rating_results(run, read_ratings([tmp_path / "a.csv"], run))["rates"]
    assert [row["class"] for row in rates] == [*SPEC, "all"]
    for row in rates[:-1]:
        hits, n, low, high = SPEC[row["class"]]
        assert (row["hits"], row["n"], row["patients"]) == (hits, n, n)
        assert (round(row["low"], 3), round(row["high"], 3)) == (low, high)
    assert rates[-1]["value"] == pytest.approx((126 + 59 + 76) / 311)


def test_hostile_names_come_back(run: Run, tmp_path: Path) -> None:
    write(tmp_path / "a.csv", run, lambda i: "hit" if i % 2 else "miss", rater='</script> 山田, "Q"')
    ratings = read_ratings([tmp_path / "a.csv"], run)
    assert set(ratings.table["image"]) == set(HOSTILE)
    results = json.loads(json.dumps(rating_results(run, ratings), allow_nan=False))
    assert results["raters"] == ['</script> 山田, "Q"']
    assert {row["class"] for row in results["rates"]} == {*CLASSES[1:], "all"}


def test_content_counts_not_form(run: Run, tmp_path: Path) -> None:
    plain = write(tmp_path / "a.csv", run, lambda i: "hit" if i % 2 else "miss")
    other = plain[plain.columns[::-1]].assign(file="0001.png", note="x")
    other.columns = [f" {name.upper()} " for name in other.columns]
    other[" RATING "] = [f" {value.title()} " for value in other[" RATING "]]
    other.to_csv(tmp_path / "b.csv", index=False, sep=";", encoding="utf-8-sig")
    a, b = (read_ratings([tmp_path / name], run).table for name in ("a.csv", "b.csv"))
    pd.testing.assert_frame_equal(a, b)


def test_rows_left_empty_are_unrated_and_a_rater_without_a_name_is_called_as_the_file(run: Run, tmp_path: Path) -> None:
    write(tmp_path / "ben.csv", run, lambda i: "miss" if i == 2 else "", rater=" ")
    ratings = read_ratings([tmp_path / "ben.csv"], run)
    assert (len(ratings.table), ratings.unrated) == (1, len(HOSTILE) - 1)
    assert list(ratings.table["rater"]) == ["ben"]
    assert list(ratings.table["patient"]) == ["p2"]


def test_two_raters_agree_by_kappa(tmp_path: Path) -> None:
    images = [(f"i{i}", f"p{i}", CLASSES[1]) for i in range(50)]
    run = write_run(tmp_path / "run", images)
    write(tmp_path / "a.csv", run, lambda i: "hit" if i < 25 else "miss", "ann")
    write(tmp_path / "b.csv", run, lambda i: "hit" if i < 20 or 25 <= i < 35 else "miss", "ben")
    (row,) = rating_results(run, read_ratings([tmp_path / "a.csv", tmp_path / "b.csv"], run))["agreement"]
    assert (row["raters"], row["class"], row["n"]) == (["ann", "ben"], CLASSES[1], 50)
    assert row["value"] == pytest.approx(0.4, abs=1e-12)
    assert row["same"] == pytest.approx(0.7)
    assert row["low"] < 0.4 < row["high"]


def test_raters_are_compared_on_what_both_rated(run: Run, tmp_path: Path) -> None:
    write(tmp_path / "a.csv", run, lambda i: "hit" if i < 3 else "", "ann")
    write(tmp_path / "b.csv", run, lambda i: "miss" if i > 1 else "", "ben")
    rows = rating_results(run, read_ratings([tmp_path / "a.csv", tmp_path / "b.csv"], run))["agreement"]
    assert [(row["n"], row["same"], row["value"]) for row in rows] == [(1, 0.0, 0.0)]


def test_the_threshold_that_a_rater_used_is_found(tmp_path: Path) -> None:
    images = [(f"i{i}", f"p{i // 2}", CLASSES[1 + i % 2]) for i in range(80)]
    run = write_run(
        tmp_path / "run",
        images,
        curve=lambda i: {"0.25": 0.9, "0.50": 0.3 + 0.4 * (i % 3 == 0), "0.75": 0.1 * (i % 5 == 0)},
    )
    write(tmp_path / "a.csv", run, lambda i: "hit" if i % 3 == 0 else "miss")
    (rule,) = rating_results(run, read_ratings([tmp_path / "a.csv"], run))["rules"]
    assert (rule["threshold"], rule["share"]) == (0.5, 0.5)
    assert rule["held_out"]["same"] == 1.0
    assert rule["held_out"]["n"] + rule["fitted"]["n"] == 80
    assert rule["held_out"]["patients"] == 20
    assert rule["constant"]["answer"] == "miss"
    assert rule["constant"]["same"] == pytest.approx(2 / 3, abs=0.1)
    assert rule["gain"]["value"] == pytest.approx(1 - rule["constant"]["same"])


def test_what_can_t_be_computed_is_said(tmp_path: Path) -> None:
    nan = float("nan")
    one = write_run(tmp_path / "one", [("a", "p", CLASSES[1]), ("b", "p", CLASSES[1])], curve=lambda i: {"0.50": 0.1})
    write(tmp_path / "a.csv", one)
    found = rating_results(one, read_ratings([tmp_path / "a.csv"], one))
    assert found["rules"] == []
    assert "at least two" in found["notes"][0]

    none = write_run(tmp_path / "none", [("a", "p", CLASSES[1])], curve=lambda i: {})
    write(tmp_path / "b.csv", none)
    found = rating_results(none, read_ratings([tmp_path / "b.csv"], none))
    assert "does not measure visible_in_box" in found["notes"][0]

    images = [(f"i{i}", f"p{i}", CLASSES[1]) for i in range(9)]
    flat = write_run(tmp_path / "flat", images, curve=lambda i: {"0.50": nan if i == 0 else 0.3})
    write(tmp_path / "c.csv", flat)
    found = rating_results(flat, read_ratings([tmp_path / "c.csv"], flat))
    assert "1 ratings of constant maps" in found["notes"][0]
    assert found["rules"][0]["held_out"]["n"] + found["rules"][0]["fitted"]["n"] == 8


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda rows: rows.drop(columns="rating"), "no column 'rating'"),
        (lambda rows: rows.assign(image="unknown.png"), "no map of 'cwm' for image 'unknown.png'"),
        (lambda rows: rows.assign(explainer="gradcam"), "no map of 'gradcam'"),
        (lambda rows: rows.assign(rating="perhaps"), "row 1: rating 'perhaps' is neither hit nor miss"),
        (lambda rows: pd.concat([rows, rows.iloc[1:2]]), f"row {len(HOSTILE) + 1}: 'ann' rated image"),
        (lambda rows: rows.assign(rating=""), "no rating in"),
        (lambda rows: rows.iloc[:0], "no rating in"),
    ],
)
def test_a_wrong_file_is_one_line(
    run: Run, tmp_path: Path, change: Callable[[pd.DataFrame], pd.DataFrame], says: str
) -> None:
    path = tmp_path / "a.csv"
    change(write(path, run)).to_csv(path, index=False)
    with pytest.raises(DataError) as caught:
        read_ratings([path], run)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [(None, "no ratings file"), (b"", "can't be read"), (b"\xff\xfe\x00x", "can't be read"), (b"\x89PNG", "be read")],
)
def test_what_is_no_csv_is_one_line(run: Run, tmp_path: Path, content: bytes | None, says: str) -> None:
    path = tmp_path / "a.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=says) as caught:
        read_ratings([path], run)
    assert "\n" not in str(caught.value)


def test_the_same_file_twice_is_an_error(run: Run, tmp_path: Path) -> None:
    write(tmp_path / "a.csv", run)
    files: Sequence[Path] = [tmp_path / "a.csv"] * 2
    with pytest.raises(DataError, match=r"row 1: 'ann' rated image .* before"):
        read_ratings(files, run)
