"""Comparisons: what is set beside what, with the numbers of the statistics; what is refused."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import xaibench
from tests.evaluation.saved_runs import RECORD
from tests.reporting.compared import CLASSES, metrics, pairs, protocol, random_values, write_run
from xaibench.errors import UsageError, XaibenchError
from xaibench.metrics.base import Pool
from xaibench.reporting.tables.files import pair_rows, score_rows
from xaibench.reporting.tables.latex import comparison_latex
from xaibench.reporting.tables.markdown import comparison_markdown
from xaibench.results.comparison.compare import ComparedRuns, compare, pair_comparison
from xaibench.results.run import MACRO, Run, save_run
from xaibench.statistics import (
    Resampling,
    delong,
    detectable_difference,
    holm,
    paired_comparisons,
    permutation_test,
    rank_stability,
    two_level_difference,
    two_level_interval,
)

KNOWN = metrics()
SHARED = random_values(5, ["prior_box"])


def compared(*runs: Run, **options: Any) -> ComparedRuns:
    return compare(runs, **{"metrics": KNOWN, **options})


@pytest.fixture
def two(tmp_path: Path) -> tuple[Run, Run]:
    first = write_run(tmp_path / "A", random_values(1, ["cwm"], level=0.3) | SHARED)
    other = write_run(tmp_path / "B", random_values(2, ["cam"]) | SHARED, classifier="densenet121", explainers=("cam",))
    return first, other


def test_it_is_in_the_api() -> None:
    assert xaibench.compare is compare


def test_a_case_worked_by_hand(tmp_path: Path) -> None:
    """a scores 0.5 more than b on every image of six patients: 2 of the 2^6 choices of sign are as extreme."""
    ones = np.ones(12)
    values = {"a": {"energy": 0.75 * ones}, "b": {"energy": 0.25 * ones}}
    run = write_run(tmp_path / "A", values, explainers=("a", "b"), baselines=(), spec=protocol(["energy"]), chance=0.5)
    (table,) = compared(run).tables
    best, worst = table.standings
    assert (best.entrant.label, best.value, best.rank, best.mean_rank) == ("gcm:a", 0.75, 1.0, 1.0)
    assert (worst.entrant.label, worst.value, worst.rank, worst.mean_rank) == ("gcm:b", 0.25, 2.0, 2.0)
    assert best.corrected == 0.5  # (0.75 - 0.5) / (1 - 0.5)
    assert worst.corrected == -0.5
    (pair,) = table.pairs
    assert (pair.difference, pair.p, pair.p_holm, pair.n, pair.patients) == (0.5, 2 / 2**6, 2 / 2**6, 12, 6)
    assert (best.better_than, worst.better_than) == (("gcm:b",), ())
    assert compared(run, alpha=0.03).tables[0].standings[0].better_than == ()


def test_a_metric_without_a_best_end_is_not_corrected_for_chance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {"a": {"energy": np.full(12, 0.25)}}
    run = write_run(tmp_path / "A", values, explainers=("a",), baselines=(), spec=protocol(["energy"]), chance=0.5)
    (table,) = compared(run).tables
    assert table.standings[0].corrected == -0.5
    declared = {name: replace(metric, corrected=False) for name, metric in metrics().items()}
    (table,) = compared(run, metrics=declared).tables
    assert (table.standings[0].value, table.standings[0].chance) == (0.25, 0.5)
    assert math.isnan(table.standings[0].corrected)
    assert math.isnan(table.standings[0].corrected_low)


def test_numbers_are_those_of_the_statistics(two: tuple[Run, Run]) -> None:
    found = compared(*two)
    assert [one.label for one in found.entrants] == ["gcm:cwm", "densenet121:cam", "prior_box"]
    _, patients, classes = pairs()
    values = {
        "gcm:cwm": random_values(1, ["cwm"], level=0.3)["cwm"],
        "densenet121:cam": random_values(2, ["cam"])["cam"],
        "prior_box": SHARED["prior_box"],
    }
    draw = Resampling(patients, resamples=300)
    for metric in ("energy", "complexity"):
        (table,) = found.select(metric=metric)
        direct = paired_comparisons(
            {name: own[metric] for name, own in values.items()},
            patients,
            classes,
            bounds=KNOWN[metric].range,
            resampling=draw,
        )
        assert repr(table.pairs) == repr(tuple(direct))  # NaN is not equal to itself
        by_class = {
            name: [float(own[metric][np.array(classes) == c].mean()) for c in CLASSES[1:]]
            for name, own in values.items()
        }
        ranks = {name: own[metric] for name, own in values.items()}
        direct_ranks = rank_stability(ranks, patients, classes, direction=KNOWN[metric].direction, resampling=draw)
        assert repr(table.stability) == repr(direct_ranks)
        best_first = [table.standings[k].rank_first for k in range(3)]
        assert best_first == list(direct_ranks.first)
        seen = {
            (p.first, p.second): detectable_difference(
                ranks[p.first] - ranks[p.second],
                patients,
                classes,
                comparisons=3,
                limit=float(np.diff(KNOWN[metric].range)[0]),
            ).difference
            for p in table.pairs
        }
        assert table.detectable == pytest.approx(seen, nan_ok=True)
        best = min if metric == "complexity" else max
        assert table.standings[0].value == best(float(np.mean(means)) for means in by_class.values())
        assert [one.rank for one in table.standings] == [1, 2, 3]


def test_hits_are_tested_by_the_same_permutations_as_every_score(tmp_path: Path, two: tuple[Run, Run]) -> None:
    """One comparison has one p-value: over the mean as in a class, and from whichever page it is asked."""
    ids, patients, classes = pairs()
    first = random_values(1, ["cwm"], level=0.3)["cwm"]["hit_rate"]
    other = random_values(2, ["cam"])["cam"]["hit_rate"]
    for name in (MACRO, "Mass"):
        rows = [True] * len(ids) if name == MACRO else [own == name for own in classes]
        chosen = [who for who, there in zip(patients, rows, strict=True) if there]
        kinds = [own for own, there in zip(classes, rows, strict=True) if there] if name == MACRO else None
        direct = permutation_test((first - other)[rows], chosen, kinds)
        (table,) = compared(*two, classes=[name]).select(metric="hit_rate")
        assert (table.pairs[0].p, table.pairs[0].method) == (direct.p, "exact permutation")
        assert [pair.p_holm for pair in table.pairs] == holm([pair.p for pair in table.pairs]).tolist()
        asked = pair_comparison(two, KNOWN["hit_rate"], "hit_rate", (0, "cwm"), (1, "cam"), name)
        assert repr(asked) == repr(table.pairs[0])
        turned = pair_comparison(two, KNOWN["hit_rate"], "hit_rate", (1, "cam"), (0, "cwm"), name)
        assert turned is not None
        assert (turned.first, turned.difference) == ("densenet121:cam", -table.pairs[0].difference)
        shared = pair_comparison(two, KNOWN["hit_rate"], "hit_rate", (1, "cam"), (1, "prior_box"), name)
        assert repr(shared) == repr(table.pairs[2])
    assert pair_comparison(two, KNOWN["hit_rate"], "hit_rate", (0, "cwm"), (1, "nobody")) is None


def test_the_primary_metrics_table_is_the_family_and_the_others_explore(tmp_path: Path) -> None:
    values = random_values(1, ["cwm"], level=0.3) | SHARED
    run = write_run(tmp_path / "A", values, spec=protocol(primary="energy"))
    found = compared(run, classes=["all"])
    assert [(t.metric, t.class_name) for t in found.tables if t.role == "primary"] == [("energy", MACRO)]
    assert {t.role for t in found.tables if t.metric != "energy"} == {"exploratory"}
    text = comparison_markdown(found)
    assert "primary: Energy, named in the benchmark" in text
    rows = {(row["metric"], row["class"]): row["role"] for row in pair_rows(found)}
    assert rows["energy", MACRO] == "primary"
    assert rows["energy", "Mass"] == rows["hit_rate", MACRO] == "exploratory"
    assert "whose mean over the classes is not shown here" in comparison_markdown(compared(run, classes=["Mass"]))
    unnamed = compared(write_run(tmp_path / "B", values))
    assert {table.role for table in unnamed.tables} == {"exploratory"}
    assert "the benchmark names no primary metric" in comparison_markdown(unnamed)


def seeded(folder: Path, level: float, seed: int, **changes: Any) -> Run:
    """A run of a training seed: its maps are better or worse as a whole."""
    rng = np.random.default_rng(seed)
    values = {
        "cwm": {"energy": np.clip(0.5 + level + rng.normal(0, 0.02, 12), 0, 1)},
        "cam": {"energy": np.clip(0.4 + level / 2 + rng.normal(0, 0.02, 12), 0, 1)},
        "prior_box": {"energy": SHARED["prior_box"]["energy"]},
    }
    recipe = {"epochs": 3, "seed": seed} | changes.pop("recipe", {})
    record = {**RECORD, "recipe": recipe, "weights": {**RECORD["weights"], "sha256": f"{seed}" * 64}}
    options = {"explainers": ("cwm", "cam"), "spec": protocol(["energy"]), "record": record} | changes
    return write_run(folder / f"{changes.get('classifier', '')}{level}{recipe}", values, **options)


def test_training_seeds_are_one_contender_with_two_levels(tmp_path: Path) -> None:
    levels = (-0.1, 0.0, 0.2)
    runs = [seeded(tmp_path, level, seed) for seed, level in enumerate(levels)]
    found = compared(*runs)
    assert [one.label for one in found.entrants] == ["gcm:cwm", "gcm:cam", "prior_box"]
    (table,) = found.tables
    _, patients, classes = pairs()
    own = {
        name: {str(k): run.images().query(f"explainer == '{name}'")["value"].to_numpy() for k, run in enumerate(runs)}
        for name in ("cwm", "cam")
    }
    standing = {one.entrant.label: one for one in table.standings}
    direct = two_level_interval(own["cwm"], patients, classes)
    ours = standing["gcm:cwm"]
    assert (ours.seeds, ours.interval, standing["prior_box"].seeds) == (3, "two levels", 1)
    assert [ours.value, ours.low, ours.high] == pytest.approx([direct.value, direct.interval.low, direct.interval.high])
    alone = compared(runs[1]).tables[0].standings[0]
    assert ours.high - ours.low > 2 * (alone.high - alone.low), "training moves the value more than patients do"
    by_name = {(pair.first, pair.second): pair for pair in table.pairs}
    test = two_level_difference(own["cwm"], own["cam"], patients, classes)
    assert by_name["gcm:cwm", "gcm:cam"].p == pytest.approx(test.p)
    assert by_name["gcm:cwm", "gcm:cam"].interval == test.interval
    assert by_name["gcm:cwm", "gcm:cam"].method == "two levels"
    still = dict.fromkeys(own["cwm"], SHARED["prior_box"]["energy"])
    test = two_level_difference(own["cwm"], still, patients, classes)
    assert by_name["gcm:cwm", "prior_box"].p == pytest.approx(test.p)
    text = comparison_markdown(found)
    assert "trainings that differ in the seed alone" in text
    assert "could have shown" not in text, "of patients alone, and of baselines alone, it would mislead"
    assert "seeds and patients as two levels" in text


def test_runs_that_differ_in_more_than_the_seed_stand_for_themselves(tmp_path: Path) -> None:
    first = seeded(tmp_path, 0.0, 0)
    longer = seeded(tmp_path, 0.1, 1, recipe={"epochs": 4})
    assert len(compared(first, longer).entrants) == 5
    same = seeded(tmp_path, 0.1, 0)
    assert len(compared(first, same).entrants) == 5, "the same seed twice"
    others = [seeded(tmp_path, level, seed, classifier="densenet121") for level, seed in ((0.0, 0), (0.1, 1))]
    ours = [first, *(seeded(tmp_path, 0.1 * seed, seed) for seed in (1, 2))]
    found = compared(*ours, *others)
    assert len(found.entrants) == 11
    assert any("training seeds are not the same (gcm 0, 1, 2; densenet121 0, 1)" in note for note in found.notes)
    assert len(compared(*ours[:2], *others).entrants) == 5


def test_a_mean_over_fewer_classes_is_marked(tmp_path: Path) -> None:
    run = write_run(tmp_path / "A", {"cwm": {"energy": np.full(12, 0.9)}, **SHARED}, spec=protocol(["energy"]))
    assert "†" not in comparison_markdown(compared(run))
    scores = [
        replace(score, classes=1) if (score.explainer, score.class_name) == ("cwm", MACRO) else score
        for score in run.scores
    ]
    found = compared(replace(run, scores=tuple(scores)))
    text = comparison_markdown(found)
    assert "0.90† [" in text
    assert "† mean over fewer classes than the others'" in text
    assert {row["name"]: row["classes"] for row in score_rows(found)} == {"gcm:cwm": 1, "prior_box": 2}
    assert r"$\dagger$" in comparison_latex(found)


def test_a_reference_stands_at_zero(two: tuple[Run, Run]) -> None:
    found = compared(*two, against="prior_box")
    assert found.against == "prior_box"
    _, _, classes = pairs()
    (table,) = found.select(metric="energy")
    assert {(pair.first, pair.second) for pair in table.pairs} == {
        ("gcm:cwm", "prior_box"),
        ("densenet121:cam", "prior_box"),
    }
    versus = {one.entrant.label: one.against for one in table.standings}
    assert versus["prior_box"] is None
    ours = versus["gcm:cwm"]
    assert ours is not None
    expected = random_values(1, ["cwm"], level=0.3)["cwm"]["energy"] - SHARED["prior_box"]["energy"]
    halves = [expected[np.array(classes) == name].mean() for name in CLASSES[1:]]
    assert ours.difference == pytest.approx(np.mean(halves), abs=1e-12)
    assert [p.p_holm for p in table.pairs] == holm([p.p for p in table.pairs]).tolist()
    assert compared(*two, against="gcm:cwm").against == compared(*two, against="cwm").against == "gcm:cwm"
    with pytest.raises(UsageError, match=r"--against prior_bax: no run has it. Did you mean 'prior_box'"):
        compared(*two, against="prior_bax")


def test_classifiers_are_compared_by_delong(two: tuple[Run, Run]) -> None:
    (table,) = compared(*two, classes=["Mass"]).select(metric="roc_auc")
    scores = [run.predictions()["logit:Mass"].to_numpy() for run in two]
    exponentials = [np.exp(run.predictions().filter(like="logit:").to_numpy()) for run in two]
    scores = [(e / e.sum(1, keepdims=True))[:, 2] for e in exponentials]
    labels = two[0].predictions()["label:Mass"].to_numpy()
    direct = delong(np.stack(scores, 1), labels, two[0].predictions()["patient"].tolist()).test()
    (pair,) = table.pairs
    assert (pair.first, pair.second, pair.method) == ("gcm", "densenet121", "DeLong")
    assert pair.difference == pytest.approx(direct.difference)
    assert pair.p == pytest.approx(direct.p, nan_ok=True)
    assert math.isnan(pair.effect)
    (table,) = compared(*two).select(metric="roc_auc")
    (pair,) = table.pairs
    assert pair.method == "bootstrap"
    assert pair.interval.low <= pair.difference <= pair.interval.high


def test_baselines_that_differ_and_explainers_that_repeat_are_told_apart(tmp_path: Path) -> None:
    one = write_run(tmp_path / "x" / "A", random_values(1, ["cwm"]) | SHARED)
    same = write_run(tmp_path / "x" / "B", random_values(2, ["cwm"]) | random_values(6, ["prior_box"]))
    labels = [entrant.label for entrant in compared(one, same).entrants]
    assert labels == ["gcm:cwm (A)", "gcm:cwm (B)", "gcm:prior_box (A)", "gcm:prior_box (B)"]
    far = write_run(tmp_path / "y" / "A", random_values(3, ["cwm"]) | SHARED)
    labels = [entrant.label for entrant in compared(one, far).entrants]
    assert labels == [f"gcm:cwm ({one.directory})", f"gcm:cwm ({far.directory})", "prior_box"]
    assert one.directory is not None
    assert len(compare([one.directory, str(one.directory), one], metrics=KNOWN).runs) == 1


def test_curves_show_their_headline_unless_all_is_asked(tmp_path: Path) -> None:
    points = {f"visible@{k / 4:.2f}": np.linspace(0, 1, 12) * k / 4 for k in (1, 2, 3)}
    run = write_run(tmp_path / "A", {"cwm": points, "prior_box": points}, spec=protocol(["visible"]))
    assert [table.metric for table in compared(run).tables] == ["visible@0.50"]
    every = [table.metric for table in compared(run, all_points=True).tables]
    assert every == ["visible@0.25", "visible@0.50", "visible@0.75"]
    every = [(table.metric, table.class_name) for table in compared(run, classes=["all"]).tables]
    assert every == [("visible@0.50", name) for name in (*CLASSES[1:], MACRO)]


def test_what_is_undefined_counts_as_chance_and_is_said(tmp_path: Path) -> None:
    gaps = {"energy": np.array([np.nan, *np.linspace(0.1, 0.9, 11)])}
    never = {"energy": np.full(12, np.nan)}
    base = {"energy": np.full(12, 0.1)}
    values = {"gaps": gaps, "never": never, "prior_box": base}
    run = write_run(tmp_path / "A", values, explainers=("gaps", "never"), spec=protocol(["energy"]))
    found = compared(run)
    (table,) = found.tables
    by_name = {(pair.first, pair.second): pair for pair in table.pairs}
    filled = np.where(np.isnan(gaps["energy"]), 0.1, gaps["energy"])
    ours = by_name["gcm:gaps", "prior_box"]
    assert (ours.n, ours.left_out) == (12, 0)
    assert ours.difference == pytest.approx((filled[:6].mean() + filled[6:].mean()) / 2 - 0.1)
    silent = by_name["gcm:never", "prior_box"]
    assert (silent.difference, silent.p) == (0, 1), "a map that says nothing is as good as chance"
    standing = {one.entrant.label: one for one in table.standings}
    assert (standing["gcm:gaps"].undefined, standing["gcm:never"].undefined) == (1, 12)
    assert standing["gcm:gaps"].value == pytest.approx((filled[:6].mean() + filled[6:].mean()) / 2)
    text = comparison_markdown(found)
    assert "0.50 without 1" in text  # the mean of 0.1 to 0.9
    assert "in the value such a pair" in text
    rows = {row["name"]: row for row in score_rows(found)}
    assert (rows["gcm:gaps"]["undefined"], rows["gcm:gaps"]["defined"]) == (1, pytest.approx(0.5))


def test_what_was_given_up_stays_out(tmp_path: Path) -> None:
    gaps = {"energy": np.array([np.nan, *np.linspace(0.1, 0.9, 11)])}
    record = {**RECORD, "given_up": {"energy": {"gaps": "an error"}}}
    values = {"gaps": gaps, "prior_box": {"energy": np.full(12, 0.1)}}
    run = write_run(tmp_path / "A", values, explainers=("gaps",), spec=protocol(["energy"]), record=record)
    (table,) = compared(run).tables
    assert (table.pairs[0].n, table.pairs[0].left_out) == (11, 1)
    old = replace(run, record=RECORD, benchmark=run.benchmark.model_copy(update={"scoring": 1}))
    assert compared(old).tables[0].pairs[0].n == 11, "as the values of that version"
    assert compared(replace(run, record=RECORD)).tables[0].pairs[0].n == 12


def test_other_protocols_are_refused_with_what_differs(tmp_path: Path, two: tuple[Run, Run]) -> None:
    other = write_run(
        tmp_path / "C", random_values(3, ["cwm"]) | SHARED, spec=protocol(input_size=128, localization={"frame": 32})
    )
    with pytest.raises(UsageError) as caught:
        compared(two[0], other)
    message = str(caught.value)
    assert "follow different protocols: input_size 64 and 128; localization.frame input and 32" in message
    assert "\n" not in message
    turned = write_run(
        tmp_path / "D",
        random_values(3, ["cwm"]) | SHARED,
        spec=protocol(["energy", "roc_auc", "hit_rate", "complexity"]),
    )
    with pytest.raises(UsageError, match="the order of metrics or classes"):
        compared(two[0], turned)


def test_other_images_are_refused(tmp_path: Path, two: tuple[Run, Run]) -> None:
    record = dict(two[0].record) | {"data": {**two[0].record["data"], "test": "9" * 64}}
    other = write_run(
        tmp_path / "C", random_values(3, ["cwm"], 14) | random_values(5, ["prior_box"], 14), images=14, record=record
    )
    with pytest.raises(
        UsageError, match=r"of other test images: data.test ffffffffffff and 999999999999 \(2 images in"
    ):
        compared(two[0], other)
    other = write_run(tmp_path / "C", random_values(3, ["cwm"], 14) | random_values(5, ["prior_box"], 14), images=14)
    with pytest.raises(UsageError, match=r"predictions.parquet is not \(2 images in one alone, such as i012\)"):
        compared(two[0], other)
    record["data"] = {**two[0].record["data"], "train": "8" * 64}
    record["versions"] = {**two[0].record["versions"], "torch": "1.9"}
    other = write_run(tmp_path / "C", random_values(3, ["cwm"]) | SHARED, record=record, notes=["a note"])
    notes = compared(two[0], other).notes
    assert any("had other train images" in note for note in notes)
    assert any("torch 2.0 and 1.9" in note for note in notes)
    assert f"{tmp_path / 'C'}: a note" in notes


def test_damaged_runs_and_bad_options_are_one_line(tmp_path: Path, two: tuple[Run, Run]) -> None:
    run = two[0]
    assert run.directory is not None
    with pytest.raises(UsageError, match="at least one run"):
        compare([], metrics=KNOWN)
    with pytest.raises(XaibenchError, match="is no run"):
        compare(tmp_path / "nothing", metrics=KNOWN)
    with pytest.raises(XaibenchError, match="was not saved"):
        compared(replace(run, directory=None))
    with pytest.raises(UsageError, match="alpha"):
        compared(run, alpha=1.5)
    with pytest.raises(UsageError, match=r"--class Masse: .*Did you mean 'Mass'"):
        compared(run, classes=["Masse"])
    table = run.images()
    doubled = [*table.to_dict("records"), table.iloc[0].to_dict()]
    save_run(run, [pd.DataFrame(doubled)], run.predictions())
    with pytest.raises(XaibenchError, match="i000, Effusion, cwm, hit_rate stands there twice"):
        compared(run)
    save_run(run, [table.iloc[1:]], run.predictions())
    with pytest.raises(UsageError, match=r"not scored on the same images: 1 .* such as i000 \(Effusion\)"):
        compared(run)


def test_a_metric_of_the_whole_dataset_is_ranked_and_not_tested(tmp_path: Path) -> None:
    pooled = replace(KNOWN["energy"], name="iou_best", pool=Pool(lambda: 2, float, "thresholds"))
    names = ("iou_best@tuned", "iou_best@oracle")
    spec = protocol(["iou_best"])
    run = write_run(tmp_path / "A", random_values(1, ["cwm"]) | SHARED, spec=spec)
    scores = [
        replace(score, metric=name, value=value)
        for name in names
        for score in run.scores
        if score.metric == "energy"
        for value in [0.4 if score.explainer == "cwm" else 0.2]
    ]
    save_run(replace(run, scores=tuple(scores)), [run.images()], run.predictions())
    found = compare(tmp_path / "A", metrics={"iou_best": pooled}, against="prior_box")
    assert [(table.metric, table.title) for table in found.tables] == [(n, f"Energy ({n[9:]})") for n in names]
    assert [one.entrant.label for one in found.tables[0].standings] == ["gcm:cwm", "prior_box"]
    assert found.tables[0].pairs == ()
    assert "not tested" in comparison_markdown(found)


def test_a_metric_without_its_plugin_is_named(two: tuple[Run, Run]) -> None:
    known = {name: metric for name, metric in KNOWN.items() if name != "energy"}
    found = compare(two, metrics=known)
    assert "not compared, for want of the plugin: energy" in found.notes
    assert not found.select(metric="energy")
