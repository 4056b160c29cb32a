"""The published numbers: equal to those of the project's specification, and to what follows from them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.conftest import ROOT
from xaibench.benchmark import load_benchmark
from xaibench.errors import BenchmarkError
from xaibench.published import Published, load_published, read_published
from xaibench.statistics import wilson_interval

CLASSES = ("No Finding", "Cardiomegaly", "Pneumothorax", "Effusion")
PUBLISHED = load_published()


@pytest.fixture(scope="module")
def spec() -> str:
    path = ROOT.parent / "shared" / "paper" / "SPEC.md"
    if not path.is_file():
        pytest.skip("the specification is not beside this checkout (../shared/paper/SPEC.md)")
    return path.read_text(encoding="utf-8")


def rows(text: str, heading: str) -> dict[str, list[str]]:
    """The table below a heading: first cell to the other cells."""
    section = text.partition(heading)[2].partition("\n## ")[0]
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]
    return {first: rest for first, *rest in lines}


def test_table_1_is_the_specification_s(spec: str) -> None:
    table = rows(spec, "## Data (table 1)")
    cohort = PUBLISHED.cohort
    assert {name: tuple(map(int, table[name])) for name in CLASSES} == {
        name: (cohort.train[name], cohort.test[name]) for name in cohort.train
    }


def test_table_2_is_the_specification_s(spec: str) -> None:
    text = " ".join(spec.partition("## Training (table 2)")[2].partition("\n## ")[0].split())
    training = PUBLISHED.training
    size, batch, epochs = training.input_size, training.batch_size, training.epochs
    assert f"Input {size}x{size}x3, {training.loss}, batch {batch}, {epochs} epochs." in text
    stated = re.findall(r"(SGD|Adam),(?: initial learning rate)? (1e-\d)", text)
    assert [(name.lower(), float(rate)) for name, rate in stated] == [
        (training.classifiers[name].optimizer, training.classifiers[name].learning_rate)
        for name in ("gcm", "densenet121")
    ]


def test_table_5_and_the_hits_are_the_specification_s(spec: str) -> None:
    table = rows(spec, "## Results to compare with")
    for name in CLASSES:
        gcm, densenet, hits = table[name]
        assert float(gcm) == PUBLISHED.roc_auc.classifiers["gcm"][name]
        assert float(densenet) == PUBLISHED.roc_auc.classifiers["densenet121"][name]
        if name == "No Finding":
            assert name not in PUBLISHED.visual_hits.counts
            continue
        counts = PUBLISHED.visual_hits.counts[name]
        interval = wilson_interval(counts.hits, counts.images)
        assert hits == (
            f"{counts.hits}/{counts.images} = {counts.rate:.3f} ({interval.low:.3f} to {interval.high:.3f})"
        )


def test_hits_are_counted_on_the_test_images_of_table_1() -> None:
    for name, counts in PUBLISHED.visual_hits.counts.items():
        assert counts.images == PUBLISHED.cohort.test[name]


def test_tables_3_and_4_are_the_specification_s(spec: str) -> None:
    text = " ".join(spec.split())
    architecture = PUBLISHED.architecture
    # 80 channels: the paper prints 32x32
    assert "Conv 128x128x32; MBConv1 128x128x16; MBConv6 x2 64x64x24; x2 32x32x40; x3 32x32x80" in text
    stages = [(128, 32), (128, 16), *[(64, 24)] * 2, *[(32, 40)] * 2, *[(32, 80)] * 3, *[(16, 112)] * 3]
    assert [(side, channels) for _, side, channels in architecture.encoder] == stages
    separable = [f"{channels} at {side}x{side}" for name, side, channels in architecture.decoder if name == "SepConv"]
    assert ", ".join(separable) in text
    first, last = architecture.decoder[0], architecture.decoder[-1]
    assert f"Conv {first[1]}x{first[1]}x{first[2]}; then four times" in text
    assert f"Conv {last[1]}x{last[1]}x{last[2]}." in text


@pytest.mark.parametrize(
    ("metric", "threshold", "values"),
    [("IoBB", 0.1, (0.993, 0.712, 0.459)), ("IoU", 0.1, (0.938, 0.660, 0.378))],
)
def test_wang_s_accuracies_rounded(metric: str, threshold: float, values: tuple[float, ...]) -> None:
    accuracy = PUBLISHED.boxes(metric).at(threshold)
    for name, value in zip(("Cardiomegaly", "Effusion", "Pneumothorax"), values, strict=True):
        assert accuracy[name] == pytest.approx(value, abs=0.00051)


def test_wang_s_accuracies_are_counts_of_the_boxes_and_fall_with_the_threshold() -> None:
    boxes = {"Atelectasis": 180, "Effusion": 153, "Cardiomegaly": 146, "Infiltration": 123}
    boxes |= {"Pneumonia": 120, "Pneumothorax": 98, "Mass": 85, "Nodule": 79}
    for table in PUBLISHED.box_accuracy:
        assert set(table.accuracy) == set(table.false_positives) == set(boxes)
        for name, row in table.accuracy.items():
            assert list(row) == sorted(row, reverse=True)
            assert list(table.false_positives[name]) == sorted(table.false_positives[name])
            for value in row:  # printed with four digits, cut rather than rounded
                assert abs(value * boxes[name] - round(value * boxes[name])) < 1.1e-4 * boxes[name], (name, value)


def test_the_benchmark_follows_tables_1_and_2() -> None:
    benchmark = load_benchmark("chestxray8-4class")
    training = PUBLISHED.training
    assert benchmark.input_size == training.input_size
    assert benchmark.classes == CLASSES == tuple(PUBLISHED.cohort.train)
    assert benchmark.dataset.options["max_per_class"] == PUBLISHED.cohort.train["Cardiomegaly"]
    for name, optimization in training.classifiers.items():
        recipe = benchmark.classifier(name).recipe
        assert (recipe.optimizer, recipe.learning_rate) == (optimization.optimizer, optimization.learning_rate)
        assert (recipe.batch_size, recipe.epochs) == (training.batch_size, training.epochs)


def test_a_damaged_file_is_one_line_with_the_key(tmp_path: Path) -> None:
    table = PUBLISHED.model_dump()
    table["roc_auc"]["source"] = "nobody"
    with pytest.raises(ValueError, match="no source 'nobody'"):
        Published.model_validate(table)
    path = tmp_path / "published.toml"
    path.write_text("[cohort]\nsubsets = 0\n")
    with pytest.raises(BenchmarkError) as caught:
        read_published(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(BenchmarkError, match="Did you mean 'chestxray8-4class'"):
        load_published("chestxray8-4clas")


def test_the_phantom_s_protocol_differs_in_its_data_alone() -> None:
    paper, phantom = (load_benchmark(name).model_dump() for name in ("chestxray8-4class", "phantom-4class"))
    different = {key for key in paper if paper[key] != phantom[key]}
    assert different == {"name", "title", "description", "dataset"}
    options = phantom["dataset"]["options"]
    assert options["train"] == sum(PUBLISHED.cohort.train.values())
    assert options["test"] >= sum(PUBLISHED.cohort.test.values())
