"""No image goes missing in silence."""

from __future__ import annotations

import inspect
import os
import tomllib
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from sklearn.metrics import roc_auc_score

from tests.cases.base import Pair, Refused, Says, case
from tests.cases.data import findings, load
from tests.cases.network import benchmark, run, value
from tests.classifiers import odd_networks as odd
from xaibench.benchmark import Benchmark
from xaibench.cli import main

SECTION = "No image goes missing in silence"
LEFT_OUT = "tests/datasets/test_folder_left_out.py"
NIH = "tests/datasets/test_chestxray8_left_out.py"
FINDINGS = ("Mass", "Nodule")


@case(
    SECTION,
    "multilabel, folder: 60 images, 25 with none of the findings: ROC-AUC of Mass",
    before="0.1375",
    source="scikit-learn's roc_auc_score on all 30 rows of the test",
    test=f"{LEFT_OUT}::test_the_auc_is_scikit_learns_on_every_row",
)
def auc_of_every_row(root: Path) -> Pair:
    protocol = findings(root, FINDINGS, "roc_auc")
    network = odd.Plain(2).eval()
    from PIL import Image

    labels, scores = [], []
    for line in (root / "labels.csv").read_text().splitlines()[1:]:
        name, split, mass, _ = line.split(",")
        if split == "test":
            pixels = torch.tensor(list(Image.open(root / name).tobytes()), dtype=torch.float32).view(1, 1, 32, 32)
            with torch.no_grad():
                scores.append(float(network((pixels / 255).expand(-1, 3, -1, -1))[0, 0]))
            labels.append(int(mass))
    found = value(run(network, ["gradcam"], protocol, data_root=root), "roc_auc", class_name="Mass")
    return Pair(found, float(roc_auc_score(labels, scores)))


@case(
    SECTION,
    "the same: images in train and test, and left out by reason",
    before="17, 18; left out: not said",
    right="30, 30; left out: none",
    source="the table",
    test=f"{LEFT_OUT}::test_images_of_none_of_the_classes_stay_in_a_multilabel_task",
)
def images_of_none(root: Path) -> str:
    findings(root, FINDINGS, "roc_auc")
    return counted(load(root, 32, FINDINGS, "multilabel"))


@case(
    SECTION,
    "the same as multiclass (images of both findings made Mass): images in train and test, and left out by reason",
    before="17, 18; left out: not said",
    right="17, 18; left out: of none of the classes 25",
    source="the table: 35 images have one of the classes",
    test=f"{LEFT_OUT}::test_a_multiclass_task_counts_what_it_leaves_out",
)
def multiclass_left_out(root: Path) -> str:
    findings(root, FINDINGS, "roc_auc")
    table = root / "labels.csv"
    table.write_text(table.read_text().replace(",1,1", ",1,0"))
    return counted(load(root, 32, FINDINGS))


def counted(splits: Any) -> str:
    left_out = getattr(splits, "left_out", None)
    said = "not said" if left_out is None else ", ".join(f"{k} {v}" for k, v in left_out.items()) or "none"
    return f"{len(splits.train)}, {len(splits.test)}; left out: {said}"


def drawn(split: str, task: str, classes: Sequence[str], **options: Any) -> Any:
    """Draw splits from the complete tables of the NIH release; no image is read."""
    from xaibench.datasets.chestxray8.options import parse_options
    from xaibench.datasets.chestxray8.splits import draw
    from xaibench.datasets.chestxray8.tables import read_tables

    tables = read_tables(Path(os.environ["NIH_SAMPLE"]))
    return draw(tables, classes, parse_options({"split": split, "task": task, **options}), lambda _: True)


@case(
    SECTION,
    "chestxray8-14class on the release's tables: images in train and validation, and in test",
    before="36,024 and 15,735",
    right="86,524 and 25,596",
    source="train_val_list.txt, test_list.txt",
    test=f"{NIH}::test_fourteen_findings_take_the_official_lists_whole",
)
def fourteen_classes(root: Path) -> str:
    from xaibench.builtin_benchmarks import FOLDER

    classes = tomllib.loads((FOLDER / "chestxray8-14class.toml").read_text())["classes"]
    splits = drawn("official_split", "multilabel", classes)
    return f"{len(splits.train) + len(splits.val):,} and {len(splits.test):,}"


@case(
    SECTION,
    "chestxray8-4class on the release's tables: images in the splits and left out by a reason, together",
    before="4,275",
    right="112,120",
    source="lines of Data_Entry_2017_v2020.csv",
    test=f"{NIH}::test_every_image_of_the_tables_is_in_a_split_or_counted",
)
def four_classes(root: Path) -> str:
    splits = drawn("paper", "multiclass", ("No Finding", "Cardiomegaly", "Pneumothorax", "Effusion"), max_per_class=963)
    kept = len(splits.train) + len(splits.val) + len(splits.test)
    return f"{kept + sum(getattr(splits, 'left_out', {}).values()):,}"


@case(
    SECTION,
    "a multilabel benchmark on chestxray8 that does not repeat the option task: images of the sample of 1,244",
    before="143",
    right=1244,
    source="the files of the sample",
    test=f"{NIH}::test_the_benchmarks_task_decides",
)
def task_of_the_benchmark(root: Path) -> int:
    from xaibench.datasets.chestxray8 import chestxray8

    more: Any = {"task": "multilabel"} if "task" in inspect.signature(chestxray8).parameters else {}
    sample, classes = Path(os.environ["NIH_SAMPLE"]), ("Cardiomegaly", "Pneumonia")
    splits = chestxray8(classes=classes, input_size=16, data_root=sample, options={"allow_missing": True}, **more)
    return len(splits.train) + len(splits.val) + len(splits.test)


@case(
    SECTION,
    "a class called macro, as tables call the mean over the classes",
    before="read, classes No Finding, macro",
    right=Refused("a class can't be called 'macro'"),
    source="two rows of one name",
    test="tests/test_benchmark.py::test_wrong_value_names_file_key_and_value",
)
def reserved(root: Path) -> str:
    protocol: Benchmark = benchmark("roc_auc", classes=["No Finding", "macro"])
    return f"read, classes {', '.join(protocol.classes)}"


@case(
    SECTION,
    "mprt with steps = 0, from the command line, of a classifier that must be trained: exit code, message",
    before="0, epoch 1: loss 0.7164, validation ROC-AUC 0.0000",
    right=[2, Says("^error: metric 'mprt' with steps = 0: .* at least 1", "what it may be")],
    source="wrong use is 2, and nothing was trained",
    test="tests/metrics/test_trial.py::test_a_run_ends_before_it_trains",
)
def out_of_range(root: Path) -> list[Any]:
    (root / "b.toml").write_text(
        'name = "b"\nclasses = ["No Finding", "Effusion"]\ninput_size = 32\n[dataset]\nname = "phantom"\n'
        "options = { train = 8, val = 4, test = 4 }\n[classifiers.default]\n"
        'options = { weights = "random" }\nrecipe = { optimizer = "adam", learning_rate = 0.001, epochs = 1 }\n'
        '[[metrics]]\nname = "mprt"\nparameters = { steps = 0 }\n'
    )
    command = ["run", "timm:test_resnet", "-e", "gradcam", "-b", f"{root}/b.toml", "--out", f"{root}/runs"]
    said = StringIO()
    with redirect_stdout(StringIO()), redirect_stderr(said):
        code = main([*command, "--device", "cpu", "--no-store"])
    return [code, (said.getvalue().strip().splitlines() or ["no message"])[-1]]
