"""Metrics of a whole dataset through the harness: the choice of a threshold, its interval, and what is recorded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from sklearn.metrics import average_precision_score

from tests.tiny import tiny_benchmark
from xaibench import registry
from xaibench.classifiers.base import Classifier
from xaibench.datasets.base import Split, Splits
from xaibench.evaluation.evaluate import evaluate
from xaibench.evaluation.pooling import Pooling, tuned_choices
from xaibench.evaluation.records import Records
from xaibench.explainers.base import Explainer
from xaibench.metrics import pixel_rows
from xaibench.metrics.bound import MapMetric
from xaibench.metrics.pooled import iou_best, pxap
from xaibench.reporting.tables.run import print_run
from xaibench.results.run import Run
from xaibench.statistics import Resampling
from xaibench.types import Prediction, Region, Sample

METRIC = MapMetric(iou_best, {"thresholds": (0.1, 0.5, 0.9)})
OPTIONS: dict[str, Any] = {"resampling": Resampling([f"p{n}" for n in range(6)], resamples=500, seed=0)}


def records(statistics: list[list[float]], targets: list[int] | None = None, metric: MapMetric = METRIC) -> Records:
    values = np.array(statistics, dtype=np.float64)
    number = len(values)
    return Records(
        logits=np.zeros((number, 2)),
        pair_images=np.arange(number),
        pair_targets=np.array(targets or [0] * number),
        columns=metric.names(),
        values={"cam": values},
        chance=np.full(values.shape, 0.1),
        constant={"cam": np.zeros(number, dtype=bool)},
    )


TEST = records([[0.2, 0.8, 0.1], [0.2, 0.6, 0.1], [0.4, 0.4, 0.1], [0.4, 0.2, 0.1], [0.3, 0.5, 0.1], [0.3, 0.5, 0.1]])
VALIDATION = records([[0.9, 0.1, 0.0], [0.5, 0.3, 0.0]])


def test_oracle_is_the_best_on_test_and_tuned_the_best_on_validation() -> None:
    choices = tuned_choices([METRIC], VALIDATION)["cam"]["iou_best"]
    tuned, oracle = Pooling(METRIC, TEST, "cam").columns(choices, **OPTIONS)
    assert (tuned.name, oracle.name) == ("iou_best@tuned", "iou_best@oracle")
    assert tuned.values == pytest.approx([0.3])
    assert oracle.values == pytest.approx([0.5])
    assert (tuned.thresholds, oracle.thresholds) == ([[0.1]], [[0.5]])
    assert tuned.chance == oracle.chance == pytest.approx([0.1])


def test_without_validation_only_the_oracle_is_there() -> None:
    assert tuned_choices([METRIC], None) == {}
    assert [column.name for column in Pooling(METRIC, TEST, "cam").columns(None, **OPTIONS)] == ["iou_best@oracle"]


def test_the_oracle_chooses_anew_in_every_resample() -> None:
    # Two thresholds, each right for one half of the patients: a resample with more of one half takes its threshold.
    both = records([[1.0, 0.0, 0.0]] * 3 + [[0.0, 1.0, 0.0]] * 3)
    (oracle,) = Pooling(METRIC, both, "cam").columns(None, method="percentile", **OPTIONS)
    assert oracle.values == [0.5]
    assert oracle.intervals.columns[0].low >= 0.5  # the better of the two is never below a half
    choices = {0: np.array([0])}
    tuned = next(Pooling(METRIC, both, "cam").columns(choices, method="percentile", **OPTIONS))
    assert tuned.intervals.columns[0].low < 0.5  # a threshold that stays is


def test_classes_choose_for_themselves_and_undefined_pairs_are_noise() -> None:
    nan = float("nan")
    found = records(
        [[1.0, 0.0, 0.0], [nan] * 3, [0.0, 0.0, 0.4], [0.0, 0.0, 0.2], [nan] * 3, [nan] * 3], [0, 0, 1, 1, 2, 2]
    )
    (oracle,) = Pooling(METRIC, found, "cam").columns(None, **OPTIONS)
    assert oracle.values == pytest.approx([(1.0 + 0.1) / 2, 0.3, 0.1])  # chance is 0.1 at each threshold
    assert oracle.defined_values == pytest.approx([1.0, 0.3, nan], nan_ok=True)
    assert oracle.thresholds == [[0.1], [0.9], [0.5]]
    assert oracle.chance == pytest.approx([0.1] * 3)
    found.given_up = {"iou_best": {"cam": "ValueError: no"}}  # what failed has no score
    (oracle,) = Pooling(METRIC, found, "cam").columns(None, **OPTIONS)
    assert oracle.values == pytest.approx([1.0, 0.3, nan], nan_ok=True)
    assert oracle.intervals.columns[2].method == "bounds"


def test_noise_moves_the_choice_of_a_threshold() -> None:
    nan = float("nan")
    found = records([[0.5, 0.6, 0.0], [nan] * 3])
    found.chance[:] = [0.4, 0.1, 0.0]
    assert Pooling(METRIC, found, "cam").choose()[0].tolist() == [0]  # 0.45 and 0.35; of the map alone 0.5 and 0.6
    assert tuned_choices([METRIC], found)["cam"]["iou_best"][0].tolist() == [0]


def test_of_equal_thresholds_the_middle_is_taken() -> None:
    assert Pooling(METRIC, records([[0.5, 0.5, 0.5]]), "cam").choose()[0].tolist() == [1]


def test_pxap_has_one_result_and_no_threshold() -> None:
    metric = MapMetric(pxap, {})
    one = records([[1.0], [1.0], [float("nan")]], metric=metric)
    masks = torch.zeros(3, 4, 4, dtype=torch.bool)
    masks[:, 0] = True
    maps = masks.float()  # all of the region above all of the rest
    maps[2] = 0
    one.pixels = {"pxap": {"cam": pixel_rows(maps, masks)}}
    one.chance[:] = 0.25
    drawn = Resampling(["a", "b", "c"], resamples=200, seed=0)
    pooling = Pooling(metric, one, "cam")
    (column,) = pooling.columns(None, resampling=drawn)
    noise = [(place + 0.5) / count for count in (4, 12) for place in range(count)]
    values = [*maps[:2].flatten().tolist(), *noise]
    wanted = average_precision_score([*masks[:2].flatten().tolist(), *[True] * 4, *[False] * 12], values)
    assert (column.name, column.thresholds) == ("pxap", None)
    assert column.values == pytest.approx([wanted], abs=1e-12)
    assert column.defined_values == [1.0]
    assert column.chance == [0.25]
    assert pooling.defined.tolist() == [True, True, False]
    assert 0 <= column.intervals.columns[0].low < wanted < column.intervals.columns[0].high <= 1


class Answer(Explainer):
    """Knows the region, in validation too."""

    source = "boxes"

    def prepare(self, splits: Splits) -> None:
        self.known = {
            image_id: (split, row) for split in (splits.val, splits.test) for row, image_id in enumerate(split.ids)
        }

    def explain(self, classifier: Classifier, prediction: Prediction, targets: torch.Tensor) -> torch.Tensor:
        maps = torch.zeros(len(prediction), 64, 64)
        for row, (image_id, target) in enumerate(zip(prediction.ids, targets.tolist(), strict=True)):
            split, index = self.known[image_id]
            region = split.regions(index).get(target)
            if region is not None:
                maps[row] = torch.from_numpy(region.rasterize(prediction.frame, source=self.source)).float()
        return maps


class AnswerMask(Answer):
    """Knows the exact lesion, where `Answer` knows its boxes."""

    source = "mask"


class NoRegions(Split):
    """A split whose regions are not known."""

    def __init__(self, inner: Split) -> None:
        self.__dict__.update(inner.__dict__)
        self.inner = inner

    def __len__(self) -> int:
        return len(self.inner)

    def __getitem__(self, index: int) -> Sample:
        return replace(self.inner[index], regions={})

    def regions(self, index: int) -> Mapping[int, Region]:
        return {}


def phantom_without_validation_regions(**arguments: Any) -> Splits:
    splits = registry.get("datasets", "phantom").load()(**arguments)
    return replace(splits, val=NoRegions(splits.val))


@pytest.fixture(scope="module", autouse=True)
def _plugins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    registry.register("explainers", "answer", Answer)
    registry.register("explainers", "answer-mask", AnswerMask)
    registry.register("datasets", "no-val", phantom_without_validation_regions)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XAIBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
    registry.unregister("explainers", "answer")
    registry.unregister("explainers", "answer-mask")
    registry.unregister("datasets", "no-val")


FEW = {"thresholds": [0.1, 0.3, 0.5, 0.7, 0.9]}  # of a hundred
METRICS = [{"name": name} for name in ("roc_auc", "hit_rate", "iou_fixed", "pxap")]
METRICS += [{"name": name, "parameters": FEW} for name in ("iou_best", "max_box_acc", "max_box_acc_v2")]


def test_a_run_shows_tuned_beside_oracle(tmp_path: Path) -> None:
    benchmark = tiny_benchmark(metrics=METRICS)
    run = evaluate("gcm", ["answer"], benchmark, out=tmp_path)
    shown = {score.metric for score in run.scores if score.explainer == "answer"}
    assert {"iou_best@tuned", "iou_best@oracle", "max_box_acc_v2@tuned", "max_box_acc_v2@oracle", "pxap"} <= shown
    for metric in shown:
        (perfect,) = run.select(explainer="answer", metric=metric, class_name="macro")
        assert perfect.value == pytest.approx(1), metric
        assert perfect.corrected == pytest.approx(1), metric
        (noise,) = run.select(explainer="random", metric=metric, class_name="macro")
        assert noise.chance is not None
        assert noise.value < 0.7
        assert noise.low <= noise.value <= noise.high
    for score in run.select(explainer="random", metric="iou_best@oracle"):
        (tuned,) = run.select(explainer="random", metric="iou_best@tuned", class_name=score.class_name)
        assert score.value >= tuned.value
    assert len(run.select(explainer="random", metric="max_box_acc_v2@oracle")[0].thresholds) == 3
    assert Run.load(run.directory).scores == run.scores
    assert set(run.images()["metric"]) == {"hit_rate", "iou_fixed"}  # the statistics are no scores of an image
    out = StringIO()
    print_run(run, Console(file=out, width=200))
    assert all(out.getvalue().count(f"({how})") == 3 for how in ("tuned", "oracle"))
    assert "thresholds" not in out.getvalue()


def test_against_masks_the_exact_lesion_is_perfect_and_its_boxes_are_not() -> None:
    table = tiny_benchmark().model_dump()["localization"] | {"regions": "mask"}
    metrics = [*METRICS, {"name": "map_area"}]
    run = evaluate("gcm", ["answer-mask", "answer"], tiny_benchmark(metrics=metrics, localization=table))
    boxed = evaluate("gcm", ["answer"], tiny_benchmark(metrics=metrics))
    pooled = ["pxap"] + [f"{name}@{how}" for name in ("iou_best", "max_box_acc") for how in ("tuned", "oracle")]
    pooled += ["max_box_acc_v2@tuned", "max_box_acc_v2@oracle"]
    for name in ("iou_fixed", *pooled):
        (exact,) = run.select(explainer="answer-mask", metric=name, class_name="macro")
        assert exact.value == pytest.approx(1), name
    for name in ("iou_fixed", "pxap", "iou_best@tuned", "iou_best@oracle"):
        (box,) = run.select(explainer="answer", metric=name, class_name="macro")
        assert box.value < 0.95, name  # a box holds more than its lesion
        (in_boxes,) = boxed.select(explainer="answer", metric=name, class_name="macro")
        assert in_boxes.value == pytest.approx(1), name
        assert box.chance < in_boxes.chance
    area = [score for score in run.scores if score.metric.startswith("map_area")]
    assert area
    assert all(score.chance is not None and score.corrected is None for score in area)


def test_without_regions_in_validation_only_the_oracle_is_shown_and_a_note_says_so() -> None:
    benchmark = tiny_benchmark(metrics=METRICS)
    benchmark = benchmark.model_copy(update={"dataset": benchmark.dataset.model_copy(update={"name": "no-val"})})
    run = evaluate("gcm", ["cwm"], benchmark)
    shown = {score.metric for score in run.scores if score.explainer == "cwm"}
    assert "iou_best@oracle" in shown
    assert not any(name.endswith("@tuned") for name in shown)
    assert sum("not tuned" in note for note in run.notes) == 1


class Leaving(Split):
    """A split that leaves the upper half of each image out."""

    def __init__(self, split: Split) -> None:
        self._split = split
        for name in ("classes", "frame", "ids", "patients", "labels", "fingerprint"):
            setattr(self, name, getattr(split, name))

    def __getitem__(self, index: int) -> Sample:
        return self._split[index]

    def regions(self, index: int, frame: Any = "input") -> Mapping[int, Region]:
        return self._split.regions(index, frame)

    def ignored(self, index: int) -> np.ndarray:
        mask = np.zeros((2, 2), dtype=bool)
        mask[0] = True
        return mask


def pxap_of(explainer: str = "gradcam", **options: Any) -> list[float]:
    changes = {key: options.pop(key) for key in ("localization", "dataset") if key in options}
    run = evaluate("gcm", [explainer], tiny_benchmark(metrics=[{"name": "pxap"}], **changes), device="cpu", **options)
    found = [score.value for score in run.select(explainer=explainer, metric="pxap")]
    assert len(found) == 4
    assert None not in found
    return found  # type: ignore[return-value]


def test_pxap_depends_on_no_batch_and_comes_back_from_the_store(tmp_path: Path) -> None:
    first = pxap_of(store=tmp_path / "store")
    assert pxap_of(store=tmp_path / "store") == first
    # the network's logits differ in the last bits with the batch's size, which swaps ranks of pixels almost alike
    assert pxap_of(batch_size=1) == pytest.approx(first, abs=1e-4)
    assert pxap_of(batch_size=28) == pytest.approx(first, abs=1e-4)


def test_pxap_in_each_image_s_own_frame_is_of_pixels_of_all_sizes() -> None:
    found = pxap_of(localization={"frame": "image", "baselines": []})
    assert all(0 < value < 1 for value in found)


IGNORING = ("pxap", "pixel_auc", "pixel_ap", "iou_fixed", "iou_best@oracle")


@pytest.mark.parametrize("frame", ["input", "image"])
def test_what_a_dataset_leaves_out_counts_nowhere(frame: str, tmp_path: Path) -> None:
    """In metrics that take `ignore`; by the others, and where there is nothing left out, scores are as before."""
    plain, leaving = phantom_splits(), phantom_splits(leaving=True)
    metrics = [{"name": name} for name in ("energy", "pxap", "pixel_auc", "pixel_ap", "iou_fixed")]
    metrics.append({"name": "iou_best", "parameters": FEW})
    registry.register("datasets", "plain", lambda **_: plain)
    registry.register("datasets", "half", lambda **_: leaving)
    runs = {}
    try:
        for name in ("plain", "half"):
            dataset = {"name": name, "options": {}}
            table = {"frame": frame, "baselines": []}
            benchmark = tiny_benchmark(metrics=metrics, dataset=dataset, localization=table)
            runs[name] = evaluate("gcm", ["random"], benchmark, out=tmp_path / name, store=tmp_path / "store")
    finally:
        registry.unregister("datasets", "plain")
        registry.unregister("datasets", "half")
    for metric in ("energy", *IGNORING):
        for whole, half in zip(
            *(runs[name].select(explainer="random", metric=metric) for name in ("plain", "half")), strict=True
        ):
            same = whole.value == half.value and whole.chance == half.chance
            assert same == (metric == "energy"), metric
    if frame == "image":
        return
    table = runs["half"].images()
    for row, image_id in enumerate(leaving.test.ids):
        for target, region in leaving.test.regions(row).items():
            mask = region.rasterize(leaving.test.frame)[32:]  # the lower half
            own = table[(table["image"] == image_id) & (table["class"] == leaving.test.classes[target])]
            chance = dict(zip(own["metric"], own["chance"], strict=True))
            assert np.isnan(chance["pixel_auc"]) == (not mask.any())
            if mask.any():
                pixels, inside = mask.size, int(mask.sum())
                mean = (1 / np.arange(1, pixels + 1)).mean()
                assert chance["pixel_ap"] == pytest.approx(mean + (1 - mean) * (inside - 1) / (pixels - 1))


def phantom_splits(*, leaving: bool = False) -> Splits:
    tiny = tiny_benchmark()
    made = registry.get("datasets", "phantom").load()(
        classes=tiny.classes, input_size=tiny.input_size, options=tiny.dataset.options
    )
    return replace(made, test=Leaving(made.test)) if leaving else made
