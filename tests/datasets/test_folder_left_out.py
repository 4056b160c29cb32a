"""Which images of `folder` are in no split, and a multilabel benchmark from end to end on all of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from sklearn.metrics import roc_auc_score

from tests.tiny import tiny_benchmark
from xaibench.benchmark import Benchmark
from xaibench.datasets.base import Splits

from .folder_data import load, noise, save, write_table

FINDINGS = ("Mass", "Nodule")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """60 images, 20 of a mass, 20 of a nodule (5 of them of both), 25 of neither; a mass is bright."""
    rows, boxes = [], []
    for n in range(60):
        mass, nodule = n < 20, 15 <= n < 35
        pixels = noise(n, 32, 32, 120)
        if mass:
            pixels[8:20, 8:20] = 240
            boxes.append(f"{n}.png,Mass,8,8,12,12")
        save(tmp_path / f"{n}.png", pixels)
        rows.append(f"{n}.png,{'train' if n % 2 else 'test'},{int(mass)},{int(nodule)}")
    write_table(tmp_path, rows, header="image,split,Mass,Nodule", boxes=boxes)
    images = [{"id": n, "file_name": f"{n}.png", "split": "train" if n % 2 else "test"} for n in range(60)]
    marks = [(n, 1) for n in range(20)] + [(n, 2) for n in range(15, 35)] + [(n, 3) for n in range(50, 53)]
    annotations = [{"id": k, "image_id": image, "category_id": which} for k, (image, which) in enumerate(marks)]
    categories = [{"id": k, "name": name} for k, name in enumerate((*FINDINGS, "Clip"), start=1)]
    table = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "coco.json").write_text(json.dumps(table))
    return tmp_path


def total(splits: Splits) -> int:
    return sum(map(len, (splits.train, splits.val, splits.test))) + sum(splits.left_out.values())


@pytest.mark.parametrize("source", [{}, {"coco": "coco.json"}, {"split_column": ""}])
def test_images_of_none_of_the_classes_stay_in_a_multilabel_task(root: Path, source: dict[str, Any]) -> None:
    splits = load(root, classes=FINDINGS, task="multilabel", **source)
    assert splits.left_out == {}
    assert total(splits) == 60
    parts = (splits.train, splits.val, splits.test)
    assert sum(int((~part.labels.any(axis=1)).sum()) for part in parts) == 25
    if "split_column" not in source:
        assert [len(part) for part in parts] == [30, 0, 30]


@pytest.mark.parametrize("source", [{}, {"coco": "coco.json"}])
def test_a_multiclass_task_counts_what_it_leaves_out(root: Path, source: dict[str, Any]) -> None:
    if not source:
        labels = (root / "labels.csv").read_text().replace(",1,1", ",1,0")
        (root / "labels.csv").write_text(labels)
    else:
        table = json.loads((root / "coco.json").read_text())
        table["annotations"] = [x for x in table["annotations"] if x["image_id"] >= 20 or x["category_id"] == 1]
        (root / "coco.json").write_text(json.dumps(table))
    splits = load(root, classes=FINDINGS, **source)
    assert splits.left_out == {"of none of the classes": 25}
    assert "25 images of none of the classes left out" in splits.notes
    assert total(splits) == 60
    if source:
        with_normal = load(root, classes=("No Finding", *FINDINGS), **source)
        assert with_normal.left_out == {"of none of the classes": 3}  # a clip is a finding, and none of the classes
        assert total(with_normal) == 60


def test_the_auc_is_scikit_learns_on_every_row(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from xaibench.evaluation.evaluate import evaluate

    monkeypatch.setenv("XAIBENCH_CACHE", str(root / "cache"))
    table = tiny_benchmark(classes=FINDINGS, input_size=32).model_dump()
    options = {"table": "labels.csv", "boxes": "boxes.csv", "split_column": "split"}
    table |= {"task": "multilabel", "dataset": {"name": "folder", "options": options}}
    table["classifiers"]["default"]["options"] = {"weights": "random"}
    table["classifiers"]["default"]["recipe"]["selection"] = "last"
    made = Benchmark.model_validate(table)
    run = evaluate("timm:test_resnet", ["gradcam"], made, data_root=root, device="cpu", out=root / "run")
    rows = run.predictions()
    assert len(rows) == 30
    truth = [line.split(",") for line in (root / "labels.csv").read_text().splitlines()[1:]]
    for column, name in enumerate(FINDINGS, start=2):
        labels = {line[0]: int(line[column]) for line in truth}
        expected = roc_auc_score([labels[image] for image in rows["image"]], rows[f"logit:{name}"])
        (score,) = run.select(metric="roc_auc", class_name=name)
        assert score.value == pytest.approx(expected, abs=1e-12)
    some = rows[[f"label:{name}" for name in FINDINGS]].to_numpy().any(axis=1)
    assert (some.sum(), (~some).sum()) == (18, 12)
    (hits,) = run.select(explainer="gradcam", metric="hit_rate", class_name="Mass")
    assert hits.n == 10
