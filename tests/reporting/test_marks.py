"""Which scores are marked: against permutations tried one by one, and what can't be marked."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from tests.reporting.compared import CLASSES, metrics, pairs, protocol, random_values, write_run
from tests.reporting.test_tables import line_of, printed
from xaibench.results.marks import Marks, judged, marks, meaning
from xaibench.results.run import MACRO, Run

Array = npt.NDArray[np.float64]
KNOWN = metrics()
ENERGY = protocol(["energy"])
N = 80


def noisy(level: float, seed: int, n: int = N) -> dict[str, Array]:
    return {"energy": np.clip(level + np.random.default_rng(seed).normal(0, 0.05, n), 0, 1)}


def made(
    folder: Path, values: Mapping[str, Mapping[str, Array]], *, baselines: tuple[str, ...] = ("random", "prior_box")
) -> Run:
    explainers = tuple(name for name in values if name not in baselines)
    n = len(next(iter(next(iter(values.values())).values())))
    names = list(dict.fromkeys(name for own in values.values() for name in own))
    spec = protocol(names)
    return write_run(folder, values, explainers=explainers, baselines=baselines, spec=spec, images=n)


def marked(run: Run, name: str = "cwm") -> list[str]:
    return sorted(class_name for explainer, _, class_name in marks(run, KNOWN) if explainer == name)


EVERY = sorted([*CLASSES[1:], MACRO])


def test_a_score_below_the_prior_box_is_not_marked(tmp_path: Path) -> None:
    """0.62 lies far above chance and the noise, and below a baseline that looks at no image."""
    rest = {"random": noisy(0.1, 2), "prior_box": noisy(0.81, 3)}
    assert marked(made(tmp_path / "A", {"cwm": noisy(0.62, 1), **rest})) == []
    assert marked(made(tmp_path / "B", {"cwm": noisy(0.9, 1), **rest})) == EVERY
    low = {name: {"energy": own["energy"] * 0.1} for name, own in rest.items()}
    assert marked(made(tmp_path / "C", {"cwm": noisy(0.08, 1), **low})) == [], "chance is 0.1"


def test_p_values_are_those_of_all_permutations_and_holm(tmp_path: Path) -> None:
    values = random_values(3, ["cwm", "cam"], level=0.2) | random_values(4, ["random", "prior_box"])
    values = {name: {key: own[key] for key in ("energy", "hit_rate")} for name, own in values.items()}
    run = made(tmp_path / "A", values)
    _, patients, classes = (np.array(column) for column in pairs())
    expected: dict[tuple[str, str, str], float] = {}
    for explainer, metric, name in itertools.product(("cwm", "cam"), ("energy", "hit_rate"), EVERY):
        rows = np.ones(12, dtype=bool) if name == MACRO else classes == name
        own = values[explainer][metric][rows]
        largest = 0.0
        for other in (np.full(12, 0.1), values["random"][metric], values["prior_box"][metric]):
            gain = own - other[rows]
            people = np.unique(patients[rows])

            def mean(signs: Mapping[str, int], gain: Array = gain, rows: Array = rows) -> float:
                flipped = gain * np.array([signs[one] for one in patients[rows]])
                return float(np.mean([flipped[classes[rows] == c].mean() for c in np.unique(classes[rows])]))

            observed = mean(dict.fromkeys(people, 1))
            every = [
                mean(dict(zip(people, signs, strict=True))) for signs in itertools.product((1, -1), repeat=len(people))
            ]
            p = float(np.mean(np.abs(every) >= abs(observed) - 1e-12))
            largest = max(largest, p if observed > 0 else 1.0)
        expected[explainer, metric, name] = largest
    adjusted, largest = {}, 0.0
    for place, cell in enumerate(sorted(expected, key=lambda one: expected[one])):
        largest = adjusted[cell] = max(largest, min(1.0, (len(expected) - place) * expected[cell]))
    found = judged(run, KNOWN)
    assert found.tested == {"localization": 12}
    assert found.p == pytest.approx(adjusted)


def test_holm_runs_over_the_cells_of_a_table(tmp_path: Path) -> None:
    """Six patients: the best p-values are 2 / 2^6 for the mean and 2 / 2^3 for a class; three cells are too many."""
    values = {"cwm": {"energy": np.full(12, 0.9)}, "prior_box": {"energy": np.full(12, 0.2)}}
    run = made(tmp_path / "A", values, baselines=("prior_box",))
    assert judged(run, KNOWN).p["cwm", "energy", MACRO] == pytest.approx(3 * 2 / 2**6)
    assert marked(run) == []
    alone = replace(run, scores=tuple(score for score in run.scores if score.class_name == MACRO))
    assert judged(alone, KNOWN).p["cwm", "energy", MACRO] == pytest.approx(2 / 2**6)
    assert marked(alone) == [MACRO]


def test_many_cells_can_still_be_marked(tmp_path: Path) -> None:
    values = {f"e{k:03d}": noisy(0.8, k) for k in range(200)} | {"random": noisy(0.1, 999)}
    assert len(marks(made(tmp_path / "A", values, baselines=("random",)), KNOWN)) == 600


def test_an_undefined_map_counts_as_chance_and_wins_nothing(tmp_path: Path) -> None:
    base = {"random": noisy(0.1, 2), "prior_box": noisy(0.2, 3)}
    rare = noisy(0.9, 1)["energy"]
    rare[np.arange(N) % 20 > 0] = np.nan  # two maps of a class say something
    assert marked(made(tmp_path / "A", {"cwm": {"energy": rare}, **base})) == []
    some = noisy(0.9, 1)["energy"]
    some[np.arange(N) % 8 == 0] = np.nan
    assert marked(made(tmp_path / "B", {"cwm": {"energy": some}, **base})) == EVERY
    silent = {"prior_box": {"energy": np.full(N, np.nan)}, "random": base["random"]}
    run = made(tmp_path / "C", {"cwm": noisy(0.12, 1), **silent})
    level = {"prior_box": {"energy": np.full(N, 0.1)}, "random": base["random"]}
    same = made(tmp_path / "D", {"cwm": noisy(0.12, 1), **level})
    assert judged(run, KNOWN).p == judged(same, KNOWN).p, "a silent baseline is as good as chance"


def test_an_oracle_is_no_rival_and_gets_no_mark(tmp_path: Path) -> None:
    values = {"cwm": noisy(0.6, 1), "prior_box": noisy(0.2, 2), "oracle_prior_box": noisy(0.95, 3)}
    run = made(tmp_path / "A", values, baselines=("prior_box", "oracle_prior_box"))
    assert marked(run) == EVERY
    text = meaning([run])
    assert "sees no image (prior_box)" in text
    assert "oracle_prior_box sees the answers" in text
    asked = replace(run, explainers=("cwm", "oracle_prior_box"), baselines=("prior_box",))
    assert marked(asked, "oracle_prior_box") == []


def test_where_lower_is_better_it_must_be_lower(tmp_path: Path) -> None:
    lower = {"energy": replace(KNOWN["energy"], direction="lower")}
    values = {"low": noisy(0.02, 1), "high": noisy(0.9, 1), "prior_box": noisy(0.5, 3)}
    run = made(tmp_path / "A", values, baselines=("prior_box",))
    assert {name for name, *_ in marks(run, lower)} == {"low"}
    assert {name for name, *_ in marks(run, KNOWN)} == {"high"}


def test_what_can_not_be_tested_has_no_mark_and_says_why(tmp_path: Path) -> None:
    values = {"cwm": noisy(0.9, 1), "random": noisy(0.1, 2), "prior_box": noisy(0.2, 3)}
    run = made(tmp_path / "A", values)
    assert marked(run) == EVERY
    unsaved = replace(run, directory=None)
    assert judged(unsaved, KNOWN) == Marks(frozenset(), {}, {}, "the scores of the images were not saved")
    assert marks(run, {"energy": replace(KNOWN["energy"], corrected=False)}) == frozenset()
    assert marks(replace(run, scores=tuple(replace(s, chance=None) for s in run.scores)), KNOWN) == frozenset()
    for lost in ("cwm", "prior_box"):
        given_up = replace(run, record={**run.record, "given_up": {"energy": {lost: "an error"}}})
        assert marks(given_up, KNOWN) == frozenset()
    gone = replace(run, baselines=("random", "prior_box", "center"))
    assert marks(gone, KNOWN) == frozenset(), "nothing is known of the center, so it isn't beaten"
    lines = printed(unsaved, KNOWN, 160)
    assert "no ▲ here: the scores of the images were not saved" in lines
    assert not any("▲" in line for line in lines if line.strip().startswith("cwm"))


def test_the_table_shows_the_marks_and_what_they_mean(tmp_path: Path) -> None:
    values = {"cwm": noisy(0.9, 1), "cam": noisy(0.15, 4), "random": noisy(0.1, 2), "prior_box": noisy(0.2, 3)}
    values = {name: own | {"complexity": 5 * own["energy"]} for name, own in values.items()}
    lines = printed(made(tmp_path / "A", values), KNOWN, 160)
    assert "▲" in line_of(lines, "cwm", "macro")
    assert "▲" not in line_of(lines, "cam", "macro")
    assert any(
        line.startswith("▲ better than chance and than every baseline that sees no image (random, pr") for line in lines
    )
    assert "never ▲ (not judged against chance, or without scores of images): Complexity" in lines
    assert math.isclose(judged(made(tmp_path / "B", values), KNOWN).p["cam", "energy", MACRO], 1.0)


def test_images_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = made(tmp_path / "A", {"cwm": noisy(0.9, 1), "random": noisy(0.1, 2)}, baselines=("random",))
    first = marks(run, KNOWN)
    monkeypatch.setattr(Run, "images", lambda self: pytest.fail("read again"))
    assert marks(run, dict(KNOWN)) == first


def test_all_hits_of_a_few_pairs_are_no_better_than_a_high_chance(tmp_path: Path) -> None:
    """15 hits where chance is 0.9 happen one time in five; every difference from chance has one sign."""
    hits = {"energy": np.ones(45)}
    run = made(tmp_path / "A", {"cwm": hits}, baselines=())
    scores = [replace(one, low=0.78, high=1.0, chance=0.9) for one in run.scores if one.explainer == "cwm"]
    assert scores
    near = replace(run, scores=tuple(scores))
    assert all(p <= 0.05 for p in judged(near, KNOWN).p.values())
    assert marked(near) == []
    clear = replace(run, scores=tuple(replace(one, chance=0.7) for one in scores))
    assert marked(clear) == EVERY
