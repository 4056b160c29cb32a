"""What undefined maps count as: no explainer gains by saying nothing, and chance is of the same pairs and classes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast
from zlib import crc32

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.tiny import tiny_benchmark
from xaibench import registry
from xaibench.classifiers.base import Classifier
from xaibench.datasets.base import Split
from xaibench.evaluation.evaluate import evaluate
from xaibench.evaluation.records import Records
from xaibench.evaluation.summary import summarize
from xaibench.explainers.base import Explainer
from xaibench.metrics.base import Metric, metric
from xaibench.metrics.bound import MapMetric
from xaibench.results.run import Score
from xaibench.types import Prediction

NAN = float("nan")
CLASSES = ("a", "b", "c")
BENCHMARK = tiny_benchmark(
    classes=CLASSES, metrics=[], primary=None, statistics={"resamples": 200}, dataset={"name": "phantom"}
)


class Images:
    """A split of six images of six patients; a pair each."""

    ids = patients = tuple(f"p{n}" for n in range(6))
    classes = CLASSES
    labels = np.zeros((6, 3), dtype=bool)

    def __len__(self) -> int:
        return 6


def declared(**options: Any) -> Metric:
    given = {"chance": 0.1, "direction": "higher", "range": (0.0, 1.0)} | options

    @metric("some", category="localization", title="Some", reference="none", **given)
    def some(maps: Tensor, masks: Tensor) -> Tensor:
        """Score."""
        return maps

    return some


def scores(values: list[float], chance: list[float], some: Metric, **record: Any) -> dict[str, Score]:
    """Return the scores by class: the pairs are two of each class."""
    records = Records(
        logits=np.zeros((6, 3)),
        pair_images=np.arange(6),
        pair_targets=np.array([0, 0, 1, 1, 2, 2]),
        columns=["some"],
        values={"cam": np.array(values)[:, None]},
        chance=np.array(chance)[:, None],
        constant={"cam": np.isnan(values)},
        **record,
    )
    found = summarize("gcm", BENCHMARK, cast(Split, Images()), records, [], [MapMetric(some, {})])
    return {score.class_name: score for score in found}


CHANCE = [0.1, 0.3, 0.2, 0.2, 0.0, 0.4]


def test_an_undefined_map_counts_as_its_pairs_chance_level() -> None:
    found = scores([0.5, NAN, NAN, NAN, 0.6, 1.0], CHANCE, declared())
    assert found["a"].value == pytest.approx((0.5 + 0.3) / 2)
    assert found["a"].defined == pytest.approx(0.5)
    assert (found["b"].value, found["b"].defined, found["b"].nan) == (pytest.approx(0.2), None, 2)
    assert found["macro"].value == pytest.approx((0.4 + 0.2 + 0.8) / 3)
    assert found["macro"].defined == pytest.approx((0.5 + 0.8) / 2)
    assert found["macro"].chance == pytest.approx(0.2)
    assert (found["macro"].classes, found["macro"].nan, found["macro"].constant) == (3, 3, 3)
    assert found["b"].corrected == pytest.approx(0)


def test_saying_nothing_where_it_is_hard_does_not_raise_a_score() -> None:
    """The hard class at half of chance, or undefined there: worse than chance can be hidden, no gain is made of it."""
    honest = scores([0.9, 0.9, 0.2, 0.2, 0.9, 0.9], [0.2] * 6, declared())["macro"]
    silent = scores([0.9, 0.9, NAN, NAN, 0.9, 0.9], [0.2] * 6, declared())["macro"]
    assert silent.value == honest.value == pytest.approx((0.9 + 0.2 + 0.9) / 3)


def test_the_interval_counts_them_too() -> None:
    found = scores([1.0, NAN, 1.0, NAN, 1.0, NAN], [0.0] * 6, declared())["macro"]
    assert found.value == pytest.approx(0.5)
    assert found.low is not None
    assert found.low < 0.5


@pytest.mark.parametrize("options", [{"corrected": False}, {"chance": None}])
def test_where_chance_cannot_stand_in_they_are_left_out_and_chance_is_of_the_same_classes(
    options: dict[str, Any],
) -> None:
    chance = CHANCE if options.get("chance", 0.1) is not None else [NAN] * 6
    found = scores([0.5, NAN, NAN, NAN, 0.6, 1.0], chance, declared(**options))
    macro = found["macro"]
    assert macro.value == macro.defined == pytest.approx((0.5 + 0.8) / 2)
    assert (macro.classes, macro.nan, found["b"].value) == (2, 3, None)
    if options.get("chance", 0.1) is not None:
        assert found["a"].chance == pytest.approx(0.1)  # of the pair that has a score
        assert macro.chance == pytest.approx((0.1 + 0.2) / 2)


def test_a_metric_may_say_what_they_count_as() -> None:
    found = scores([0.5, NAN, NAN, NAN, 0.6, 1.0], CHANCE, declared(counts_as=0.0, corrected=False))
    assert found["a"].value == pytest.approx(0.25)
    assert found["b"].value == 0


def test_a_metric_that_failed_stays_without_a_value() -> None:
    found = scores([NAN] * 6, CHANCE, declared(), given_up={"some": {"cam": "ValueError: no"}})
    assert all(score.value is None for score in found.values())


def test_pairs_without_a_chance_level_stay_undefined() -> None:
    found = scores([0.5, NAN, 0.1, 0.1, 0.2, 0.2], [0.1, NAN, *CHANCE[2:]], declared())
    assert found["a"].value == pytest.approx(0.5)


class Silent(Explainer):
    """Says something of every other image only: the others' maps are zero, or NaN."""

    nothing = 0.0

    def explain(self, classifier: Classifier, prediction: Prediction, targets: Tensor) -> Tensor:
        maps = torch.rand(len(prediction), 64, 64, generator=torch.Generator().manual_seed(0))
        speaks = [crc32(name.encode()) % 2 == 0 for name in prediction.ids]
        return torch.where(torch.tensor(speaks)[:, None, None], maps, self.nothing)


class Faulty(Silent):
    """Its maps of the other images are NaN."""

    nothing = NAN


@metric(
    "unlucky", category="localization", direction="higher", range=(0, 1), reference="none", title="Unlucky",
    chance=lambda masks: (_ for _ in ()).throw(ValueError("no noise here")),
)  # fmt: skip
def unlucky(maps: Tensor, masks: Tensor) -> Tensor:
    """One."""
    return torch.ones(len(maps))


@pytest.fixture
def plugins() -> Iterator[None]:
    registry.register("explainers", "silent", Silent)
    registry.register("explainers", "faulty", Faulty)
    registry.register("metrics", "unlucky", unlucky)
    yield
    for kind, name in (("explainers", "silent"), ("explainers", "faulty"), ("metrics", "unlucky")):
        registry.unregister(kind, name)


def test_through_the_whole_line(tmp_path_factory: pytest.TempPathFactory, plugins: None) -> None:
    out = tmp_path_factory.mktemp("runs")
    metrics = ["hit_rate", "energy", "iou_otsu", "unlucky"]
    run = evaluate("gcm", ["silent", "faulty"], tiny_benchmark(), out=out, metrics=metrics, device="cpu")
    table = run.images()
    for name in ("hit_rate", "energy", "iou_otsu"):
        for explainer in ("silent", "faulty"):
            rows = table[(table["explainer"] == explainer) & (table["metric"] == name)]
            assert 0 < rows["value"].isna().sum() < len(rows)  # the table keeps them
            filled = rows["value"].fillna(rows["chance"])
            (macro,) = run.select(explainer=explainer, metric=name, class_name="macro")
            assert macro.value == pytest.approx(filled.groupby(rows["class"], observed=True).mean().mean(), abs=1e-12)
            assert macro.nan == rows["value"].isna().sum()
    assert any(note.startswith("explainer faulty: ") and "count as chance" in note for note in run.notes)
    assert not any(note.startswith("explainer silent: ") for note in run.notes)
    reason = "metric unlucky has no chance level, and undefined maps are left out of it: ValueError: no noise here"
    assert [note for note in run.notes if "unlucky" in note] == [reason]
    assert run.select(explainer="silent", metric="unlucky", class_name="macro")[0].chance is None
    assert run.record["metrics"]["hit_rate"] == {"version": 1, "parameters": {}}
    assert run.record["metrics"]["iou_otsu"]["parameters"] == {"fill_holes": True}
