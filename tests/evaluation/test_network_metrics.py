"""Metrics that ask the network, through the harness: what they are given, what one's fault costs, which are chosen."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.tiny import tiny_benchmark
from xaibench import registry
from xaibench.benchmark import Benchmark
from xaibench.errors import NotApplicableError, PluginError, UsageError
from xaibench.evaluation.evaluate import evaluate
from xaibench.evaluation.selection import select_metrics
from xaibench.metrics.base import Metric, metric
from xaibench.metrics.explained import Explained
from xaibench.progress import Progress
from xaibench.results.run import Run

BENCHMARK = tiny_benchmark()
MADE: list[str] = []
"""What `mean_gap` made, in order."""
FUSSED: list[int] = []
"""Batches in which `fussy` met the random baseline."""


def declared(name: str, category: str) -> dict[str, object]:
    return {
        "name": name,
        "category": category,
        "direction": "higher",
        "range": (0.0, 1.0),
        "reference": "",
        "title": name,
    }


@metric(**declared("mean_gap", "faithfulness"), factor=1.0)
def mean_gap(explained: Explained, *, factor: float = 1.0) -> Tensor:
    """How much the class's probability changes on the half as bright image, and the map's mean beside it."""
    rows = torch.arange(len(explained))

    def dimmed() -> Tensor:
        MADE.append(" ".join(explained.prediction.ids))
        return explained.scores(explained.prediction.images / 2, rows)

    change = explained.own_scores() - explained.once("dimmed", dimmed)
    return factor * (change + explained.maps.double().mean((-2, -1)))


@metric(**declared("fussy", "axioms"))
def fussy(explained: Explained) -> Tensor:
    """Fails on the random baseline, in its second batch; no map of another explainer troubles it."""
    if type(explained.explainer).__name__ == "Random":
        FUSSED.append(len(explained))
        if len(FUSSED) > 1:
            raise RuntimeError("no such thing\nas chance")
    return torch.ones(len(explained))


@metric(**declared("nowhere", "randomization"))
def nowhere(explained: Explained) -> Tensor:
    """Applies to nothing."""
    raise NotApplicableError("there are no weights to randomize")


@metric(**declared("misshapen_scores", "complexity"))
def misshapen_scores(maps: Tensor, masks: Tensor) -> Tensor:
    """Gives one number for all maps."""
    return maps.mean()


METRICS: list[Metric] = [mean_gap, fussy, nowhere, misshapen_scores]
NAMES = [made.name for made in METRICS]


@pytest.fixture(scope="module", autouse=True)
def _plugins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    for made in METRICS:
        registry.register("metrics", made.name, made)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XAIBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
    for made in METRICS:
        registry.unregister("metrics", made.name)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, _plugins: None) -> Run:
    MADE.clear()
    FUSSED.clear()
    out = tmp_path_factory.mktemp("runs")
    return evaluate("gcm", ["cwm"], BENCHMARK, metrics=["energy", *NAMES], out=out, batch_size=8, device="cpu")


def test_scores_stand_beside_those_of_localization_on_the_same_pairs(run: Run) -> None:
    table = run.images()
    for explainer in ("cwm", "random", "center"):
        rows = table[table.explainer == explainer]
        assert len(rows[rows.metric == "mean_gap"]) == len(rows[rows.metric == "energy"]) == 21
        energy, gap = (rows[rows.metric == name].set_index(["image", "class"]) for name in ("energy", "mean_gap"))
        assert list(gap.index) == list(energy.index)
        assert gap.value.notna().all()
    scores = table[table.metric == "mean_gap"].pivot(index="image", columns="explainer", values="value")
    assert ((scores["center"] - scores["random"]).abs() > 1e-3).any()  # each explainer's own maps


def test_what_is_shared_is_made_once_a_batch(run: Run) -> None:
    images = [image for made in MADE for image in made.split()]
    assert len(MADE) <= 4  # 28 images, eight at once; three explainers and more
    assert len(images) == len(set(images)) == 21


def test_a_fault_costs_one_metric_on_one_explainer(run: Run) -> None:
    assert len(FUSSED) == 2
    (fussy_random,) = run.select(explainer="random", metric="fussy", class_name="macro")
    assert (fussy_random.value, fussy_random.nan) == (None, 21)  # the first batch's scores too
    for explainer in ("cwm", "center"):
        assert run.select(explainer=explainer, metric="fussy", class_name="macro")[0].value == 1
    assert run.select(explainer="random", metric="energy", class_name="macro")[0].nan == 0
    assert "metric fussy was given up on random: RuntimeError: no such thing as chance" in run.notes
    assert any(
        note.startswith("metric nowhere was given up: NotApplicableError: there are no weights") for note in run.notes
    )
    assert any(note.startswith("metric misshapen_scores was given up: ") for note in run.notes)
    assert set(run.record["given_up"]) == {"fussy", "nowhere", "misshapen_scores"}
    assert list(run.record["given_up"]["fussy"]) == ["random"]


def test_time_is_kept_for_each_metric(run: Run) -> None:
    seconds = run.record["seconds"]
    parts = [spent for name, spent in seconds.items() if name.startswith("metric:")]
    assert {f"metric:{name}" for name in ("energy", *NAMES)} <= set(seconds)
    assert seconds["metrics"] == pytest.approx(sum(parts), abs=0.01)


def test_batch_size_and_company_change_nothing(run: Run) -> None:
    metrics = ["mean_gap"]
    again = evaluate("gcm", ["cwm"], BENCHMARK, metrics=metrics, batch_size=5, device="cpu")
    for score in again.scores:
        (other,) = run.select(explainer=score.explainer, metric=score.metric, class_name=score.class_name)
        assert score.value == pytest.approx(other.value, abs=1e-5)


def test_progress_names_the_metric_and_counts_maps() -> None:
    seen: list[tuple[str, int, int]] = []
    progress = Progress(metric=lambda name, done, total, seconds: seen.append((name, done, total)))
    run = evaluate("gcm", ["cwm"], BENCHMARK, metrics=["energy,mean_gap"], device="cpu", progress=progress)
    explainers = len(run.explainers) + len(run.baselines)
    assert {(name, total) for name, _, total in seen} == {("mean_gap", 21 * explainers)}
    # 28 images by eights, whatever the batch size, so that the time left is known early
    assert run.record["batch_size"] == 8
    assert len(seen) == 4 * explainers
    done = [maps for _, maps, _ in seen]
    assert done[0] == 0
    assert done == sorted(set(done))
    assert 0 < 21 * explainers - done[-1] <= 8


class TestChoice:
    """Which metrics `-m` means."""

    def names(self, *asked: str, benchmark: Benchmark = BENCHMARK) -> list[str]:
        return [spec.name for spec in select_metrics(benchmark, asked)[0].metrics]

    def test_all_is_everything_registered(self) -> None:
        assert self.names("all") == registry.list_metrics()

    def test_category_name_wildcard_and_lists(self) -> None:
        loaded = {name: registry.get("metrics", name).load() for name in registry.list_metrics()}
        local = [name for name, made in loaded.items() if made.category == "localization"]
        assert self.names("localization") == local
        assert self.names("hit_rate, energy", "roc_auc") == ["hit_rate", "energy", "roc_auc"]
        assert self.names("t_io*") == ["t_iobb", "t_iobb_false_positives", "t_iou", "t_iou_false_positives"]
        assert self.names("energy", "localization") == ["energy", *(name for name in local if name != "energy")]
        assert self.names("complexity") == [n for n, made in loaded.items() if made.category == "complexity"]

    def test_the_benchmark_s_parameters_stay_and_its_hash_is_honest(self) -> None:
        chosen, notes = select_metrics(BENCHMARK, ["pointing_game,pixel_auc"])
        (own,) = (spec for spec in BENCHMARK.metrics if spec.name == "pointing_game")
        assert chosen.metrics[0] == own
        assert own.parameters
        assert notes == []
        assert chosen.hash != BENCHMARK.hash
        assert chosen.name == BENCHMARK.name
        same = select_metrics(BENCHMARK, [spec.name for spec in BENCHMARK.metrics])[0]
        assert same.hash == BENCHMARK.hash

    @pytest.mark.parametrize(
        ("asked", "says"),
        [
            ("hit_rat", "there is no metric 'hit_rat'. Did you mean 'hit_rate'?"),
            ("localisation", "Did you mean 'localization'?"),
            ("zzz*", "there is no metric 'zzz*'. See xaibench list metrics."),
            ("energy,", "there is no metric ''"),
        ],
    )
    def test_unknown_names_are_one_line(self, asked: str, says: str) -> None:
        with pytest.raises(UsageError) as caught:
            select_metrics(BENCHMARK, [asked])
        assert says in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_a_broken_one_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        get = registry.get

        def broken(kind: str, name: str) -> registry.Entry:
            if name == "energy":
                raise PluginError("metric 'energy' can't be imported")
            return get(kind, name)

        monkeypatch.setattr(registry, "get", broken)
        chosen, notes = select_metrics(BENCHMARK, ["all"])
        assert "energy" not in [spec.name for spec in chosen.metrics]
        assert notes == ["metric energy left out: metric 'energy' can't be imported"]
        with pytest.raises(PluginError, match="can't be imported"):
            select_metrics(BENCHMARK, ["energy"])

    @pytest.mark.parametrize("metrics", [[], "energy"])
    def test_a_list_is_wanted(self, metrics: list[str], tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="metrics: give a list"):
            evaluate("gcm", ["cwm"], BENCHMARK, metrics=metrics)
