"""The whole line, image to score: known answers through it, and scores that depend on nothing they should not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from tests.tiny import tiny_benchmark
from xaibench import registry
from xaibench.classifiers.base import Classifier
from xaibench.datasets.base import Splits
from xaibench.errors import BenchmarkError, NotApplicableError, PluginError, UsageError, XaibenchError
from xaibench.evaluation.evaluate import evaluate, raise_if_failed
from xaibench.explainers.base import Explainer
from xaibench.metrics.classification import class_scores
from xaibench.results.run import Run, Score
from xaibench.types import Frame, Prediction

BENCHMARK = tiny_benchmark()
FRAME = Frame.square(64)


class Answer(Explainer):
    """Knows the region: the mask itself, highest in its first pixel."""

    def prepare(self, splits: Splits) -> None:
        self.test = splits.test
        self.rows = {image_id: row for row, image_id in enumerate(splits.test.ids)}

    def explain(self, classifier: Classifier, prediction: Prediction, targets: torch.Tensor) -> torch.Tensor:
        maps = torch.zeros(len(prediction), 64, 64)
        for row, (image_id, target) in enumerate(zip(prediction.ids, targets.tolist(), strict=True)):
            region = self.test.regions(self.rows[image_id]).get(target)
            if region is not None:
                maps[row] = torch.from_numpy(region.rasterize(FRAME)).float()
        return maps


class Outside(Answer):
    """Points everywhere but at the region."""

    def explain(self, classifier: Classifier, prediction: Prediction, targets: torch.Tensor) -> torch.Tensor:
        return 1 - super().explain(classifier, prediction, targets)


class Flat(Explainer):
    """The same everywhere."""

    def explain(self, classifier: Classifier, prediction: Prediction, targets: torch.Tensor) -> torch.Tensor:
        return torch.full((len(prediction), 64, 64), 0.5)


class Raises(Explainer):
    def explain(self, classifier: Classifier, prediction: Prediction, targets: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no such layer\nat all")


class Misshapen(Explainer):
    def explain(self, classifier: Classifier, prediction: Prediction, targets: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(prediction), 8, 8)


@pytest.fixture(scope="module", autouse=True)
def _plugins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    made = {"answer": Answer, "outside": Outside, "flat": Flat, "raises": Raises, "misshapen": Misshapen}
    for name, plugin in made.items():
        registry.register("explainers", name, plugin)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XAIBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
    for name in made:
        registry.unregister("explainers", name)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, _plugins: None) -> Run:
    out = tmp_path_factory.mktemp("runs")
    return evaluate("gcm", ["cwm", "ccm", "gradcam", "answer", "outside", "flat"], BENCHMARK, out=out, device="cpu")


DISEASES = ("Cardiomegaly", "Pneumothorax", "Effusion")


def one(run: Run, explainer: str, metric: str, name: str) -> Any:
    (score,) = run.select(explainer=explainer, metric=metric, class_name=name)
    return score


@pytest.mark.parametrize("name", [*DISEASES, "macro"])
def test_a_map_that_knows_the_answer_is_perfect_and_its_opposite_scores_nothing(run: Run, name: str) -> None:
    for metric in ("hit_rate", "pointing_game", "energy", "iou_otsu", "visible_in_box@0.50"):
        assert one(run, "answer", metric, name).value == pytest.approx(1)
    for metric in ("hit_rate", "energy", "visible_in_box@0.50"):
        assert one(run, "outside", metric, name).value == 0
    assert one(run, "answer", "hit_rate", name).low < 1  # all hits: Wilson, never a width of zero


def test_a_constant_map_is_counted_and_scores_chance(run: Run) -> None:
    score = one(run, "flat", "hit_rate", "macro")
    assert (score.defined, score.nan, score.constant, score.n) == (None, 21, 21, 21)
    assert score.value == pytest.approx(score.chance, abs=1e-12)
    assert score.corrected == pytest.approx(0, abs=1e-12)


def test_chance_of_a_hit_is_the_mean_area(run: Run) -> None:
    from xaibench.evaluation.setup import load_splits

    test = load_splits(BENCHMARK, None).test
    for target, name in enumerate(BENCHMARK.classes):
        areas = [
            test.regions(row)[target].rasterize(FRAME).mean() for row in range(len(test)) if target in test.regions(row)
        ]
        if name in DISEASES:
            score = one(run, "random", "hit_rate", name)
            assert score.chance == pytest.approx(np.mean(areas), abs=1e-12)
            assert score.n == len(areas) == 7
    macro = one(run, "random", "hit_rate", "macro")
    assert macro.chance == pytest.approx(np.mean([one(run, "random", "hit_rate", n).chance for n in DISEASES]))
    energy = one(run, "random", "energy", "macro")
    assert energy.value == pytest.approx(energy.chance, abs=0.01)  # noise over 4,096 pixels


def test_auc_agrees_with_scikit_learn_on_softmax(run: Run) -> None:
    table = run.predictions()
    logits = table[[f"logit:{name}" for name in BENCHMARK.classes]].to_numpy()
    labels = table[[f"label:{name}" for name in BENCHMARK.classes]].to_numpy()
    softmax = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    values = []
    for k, name in enumerate(BENCHMARK.classes):
        (score,) = run.select(metric="roc_auc", class_name=name)
        assert score.explainer is None
        assert score.value == pytest.approx(roc_auc_score(labels[:, k], softmax[:, k]), abs=1e-12)
        assert score.low <= score.value <= score.high
        values.append(score.value)
    assert run.select(metric="roc_auc", class_name="macro")[0].value == pytest.approx(np.mean(values))


def test_class_scores_do_not_saturate() -> None:
    scores = class_scores(np.array([[800.0, 0.0], [900.0, 0.0]]), "multiclass")
    assert scores[1, 0] > scores[0, 0]  # the softmax is 1 for both
    np.testing.assert_array_equal(class_scores(np.array([[3.0, 0.0]]), "multilabel"), [[3, 0]])


def test_per_image_scores_make_the_means(run: Run) -> None:
    table = run.images()
    assert set(table["explainer"]) == {*run.explainers, *run.baselines}
    for explainer in ("cwm", "gradcam", "random"):
        for name in DISEASES:
            rows = table[(table.explainer == explainer) & (table["class"] == name) & (table.metric == "energy")]
            score = one(run, explainer, "energy", name)
            assert (len(rows), int(rows.value.isna().sum())) == (score.n, score.nan) == (7, score.nan)
            assert score.value == pytest.approx(rows.value.fillna(rows.chance).mean())
            if score.nan < score.n:
                assert score.defined == pytest.approx(rows.value.mean())


def _key(score: Score) -> tuple[str | None, str, str]:
    return score.explainer, score.metric, score.class_name


@pytest.mark.parametrize("batch_size", [1, 7])
def test_scores_do_not_depend_on_the_batch_size(run: Run, batch_size: int) -> None:
    again = evaluate("gcm", ["cwm", "ccm", "gradcam"], BENCHMARK, batch_size=batch_size, device="cpu")
    compared = 0
    for again_score in again.scores:
        (other,) = [score for score in run.scores if _key(score) == _key(again_score)]
        if again_score.metric == "hit_rate" or other.value is None:
            assert again_score.value == other.value
        else:
            # 1e-4: convolutions add in another order for another batch size. What counts pixels above a threshold may
            # gain or lose one, of some 70 in a box, in one of 7 images.
            counts = again_score.metric.startswith(("iou_otsu", "visible_in_box"))
            assert again_score.value == pytest.approx(other.value, abs=1 / 70 / 7 if counts else 1e-4)
        compared += 1
    assert compared > 100


def test_json_has_the_documented_form(run: Run) -> None:
    table = json.loads(json.dumps(run.to_json(), allow_nan=False))
    assert set(table) == {"run", "scores"}
    documented = {
        "classifier",
        "explainer",
        "metric",
        "class",
        "value",
        "low",
        "high",
        "chance",
        "n",
        "patients",
        "nan",
    }
    assert all(documented <= set(score) for score in table["scores"])
    assert table["run"]["benchmark_hash"] == BENCHMARK.hash
    assert len(table["run"]["weights"]["sha256"]) == 64
    assert {"torch", "timm", "numpy", "xaibench"} <= set(table["run"]["versions"])


def test_a_run_comes_back_from_disk(run: Run) -> None:
    assert run.directory is not None
    assert Run.load(run.directory) == run
    assert {path.name for path in run.directory.iterdir()} == {
        "run.json",
        "scores.parquet",
        "predictions.parquet",
        *(f"contact-sheet-{name}.png" for name in run.explainers),
    }
    with pytest.raises(XaibenchError, match="is no run"):
        Run.load(run.directory.parent)


def test_a_damaged_run_is_one_line(run: Run, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"run": {}}')
    with pytest.raises(XaibenchError, match=r"run\.json is damaged"):
        Run.load(tmp_path)


def test_one_explainer_that_fails_costs_the_others_nothing(run: Run, tmp_path: Path) -> None:
    again = evaluate("gcm", ["raises", "cwm", "misshapen"], BENCHMARK, out=tmp_path, device="cpu")
    assert one(again, "cwm", "energy", "macro") == one(run, "cwm", "energy", "macro")
    assert not again.select(explainer="raises")
    assert any("raises was given up: RuntimeError: no such layer at all" in note for note in again.notes)
    assert any("misshapen was given up" in note and "8, 8)" in note for note in again.notes)
    with pytest.raises(XaibenchError, match="explainer raises failed"):
        raise_if_failed(again)
    raise_if_failed(run)


def test_gcm_s_contributions_average_to_its_logits_on_the_data() -> None:
    from xaibench.datasets.loader import batches
    from xaibench.evaluation.setup import load_splits, make_classifier

    classifier = make_classifier("gcm", BENCHMARK.classifier("gcm"), BENCHMARK).optimized()
    for batch in batches(load_splits(BENCHMARK, None).test, 10):
        with torch.no_grad():
            prediction = classifier.predict(batch.images, batch.ids)
        mean = prediction.maps["ccm"].double().mean(dim=(-2, -1))
        torch.testing.assert_close(mean, prediction.logits.double(), atol=1e-5, rtol=0)


def test_masks_and_another_frame_are_scored_too() -> None:
    table = BENCHMARK.model_dump()
    table["localization"] |= {"regions": "mask", "frame": 96}
    masked = evaluate("gcm", ["cwm"], tiny_benchmark(localization=table["localization"]), device="cpu")
    boxed = evaluate("gcm", ["cwm"], BENCHMARK, device="cpu")
    for name in DISEASES:
        assert one(masked, "cwm", "hit_rate", name).chance < one(boxed, "cwm", "hit_rate", name).chance
    assert masked.benchmark.frame == Frame.square(96)


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"explainers": []}, UsageError, "at least one name"),
        ({"explainers": "cwm"}, UsageError, "give a list"),
        ({"explainers": ["cvm"]}, PluginError, "Did you mean 'cwm'"),
        ({"classifier": "gmc"}, (PluginError, BenchmarkError), "gcm"),
        ({"explainers": ["cam"]}, NotApplicableError, "use gradcam"),
        ({"options": {"encodre": "x"}}, UsageError, "Did you mean 'encoder'"),
        ({"recipe": {"epoch": 1}}, BenchmarkError, "Did you mean 'epochs'"),
        ({"recipe": {"epochs": 0}}, BenchmarkError, "epochs = 0"),
        ({"batch_size": 0}, UsageError, "batch_size = 0"),
        ({"device": "cuda:99"}, UsageError, "--device cpu"),
        ({"benchmark": tiny_benchmark(metrics=[{"name": "hit_rat"}])}, PluginError, "hit_rate"),
        (
            {"benchmark": tiny_benchmark(metrics=[{"name": "energy", "parameters": {"x": 1}}])},
            UsageError,
            "no parameter 'x'",
        ),
        ({"benchmark": tiny_benchmark(classes=["No Finding", "Fracture"])}, UsageError, "Fracture"),
    ],
)
def test_bad_input_is_one_line_with_a_remedy(arguments: dict[str, Any], error: Any, says: str) -> None:
    call = {"classifier": "gcm", "explainers": ["cwm"], "benchmark": BENCHMARK, "device": "cpu", **arguments}
    with pytest.raises(error) as caught:
        evaluate(**call)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
