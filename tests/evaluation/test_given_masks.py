"""Metrics that are scored against a mask which the dataset gives, in place of the region: the lungs of the phantom."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.tiny import tiny_benchmark
from xaibench import registry
from xaibench.benchmark import Benchmark
from xaibench.classifiers.base import Classifier
from xaibench.classifiers.timm import densenet121
from xaibench.datasets.base import Splits
from xaibench.evaluation.evaluate import evaluate
from xaibench.explainers.base import Explainer
from xaibench.results.run import Run
from xaibench.types import Prediction

METRICS = [{"name": "lung_coverage"}, {"name": "visible_in_box"}, {"name": "map_area"}]


class Lungs(Explainer):
    """Knows the lungs: 1 in the left half of the image's lungs, 0.3 in the rest of them, 0 elsewhere."""

    def prepare(self, splits: Splits) -> None:
        self.lungs = {sample.id: sample.meta["lungs"] for sample in (splits.test[n] for n in range(len(splits.test)))}

    def explain(self, classifier: Classifier, prediction: Prediction, targets: torch.Tensor) -> torch.Tensor:
        masks = torch.from_numpy(np.stack([self.lungs[name] for name in prediction.ids])).float()
        masks[:, :, masks.shape[2] // 2 :] *= 0.3
        return masks


@pytest.fixture(autouse=True)
def _plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("XAIBENCH_CACHE", str(tmp_path / "cache"))
    registry.register("explainers", "lungs", Lungs)
    yield
    registry.unregister("explainers", "lungs")


def run(benchmark: Benchmark, explainer: str, **options: Any) -> Run:
    network = densenet121(benchmark.classes, benchmark.input_size, weights="random")
    return evaluate(network, [explainer], benchmark, batch_size=8, **options)


def test_a_map_of_the_lungs_covers_them(tmp_path: Path) -> None:
    benchmark = tiny_benchmark(metrics=METRICS)
    made = run(benchmark, "lungs", out=tmp_path, store=tmp_path / "store")
    table = made.images()
    own = table[table["explainer"] == "lungs"]
    by_threshold = own[own["metric"].str.startswith("lung_coverage")].groupby("metric", observed=True)["value"]
    assert by_threshold.min()["lung_coverage@0.25"] == by_threshold.max()["lung_coverage@0.25"] == 1.0
    assert 0.3 < by_threshold.mean()["lung_coverage@0.50"] < 0.7  # the left half alone
    chance = own[own["metric"] == "lung_coverage@0.50"]["chance"]
    assert chance.to_numpy() == pytest.approx(0.5, abs=1e-3)
    assert not [
        score for score in made.scores if score.metric.startswith("lung_coverage") and score.corrected is not None
    ]
    again = run(benchmark, "lungs", out=tmp_path / "again", store=tmp_path / "store")
    assert [score.to_json() for score in again.scores] == [score.to_json() for score in made.scores]


def test_images_without_lungs_give_the_metric_up_and_nothing_else(tmp_path: Path) -> None:
    lines, boxes = ["image,class,split"], ["image,class,x0,y0,x1,y1"]
    for n in range(8):
        Image.fromarray(np.random.default_rng(n).integers(0, 255, (64, 64), dtype=np.uint8)).save(tmp_path / f"{n}.png")
        lines.append(f"{n}.png,{'Effusion' if n % 2 else 'No Finding'},{'test' if n > 3 else 'train'}")
        boxes += [f"{n}.png,Effusion,4,4,30,40"] if n % 2 else []
    (tmp_path / "table.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "boxes.csv").write_text("\n".join(boxes) + "\n")
    options = {"table": "table.csv", "boxes": "boxes.csv", "label_column": "class", "split_column": "split"}
    table = tiny_benchmark(metrics=METRICS).model_dump()
    table |= {"classes": ["No Finding", "Effusion"], "dataset": {"name": "folder", "options": options}}
    made = run(Benchmark.model_validate(table), "gradcam", data_root=tmp_path)
    (note,) = [note for note in made.notes if note.startswith("metric lung_coverage was given up: ")]
    assert note.endswith("image 5.png comes without a mask of its lungs")
    assert next(score.value for score in made.scores if score.metric == "visible_in_box@0.50") is not None
