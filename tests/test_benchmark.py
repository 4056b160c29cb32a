"""A benchmark's file is read strictly, and its hash changes with every number and with nothing else."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from xaibench import registry
from xaibench.benchmark import (
    SCORING,
    Benchmark,
    ClassifierSpec,
    LocalizationSpec,
    Recipe,
    StatisticsSpec,
    digest,
    load_benchmark,
    override,
    read_benchmark,
)
from xaibench.errors import BenchmarkError
from xaibench.metrics import metric
from xaibench.types import Frame

FILES = sorted((Path(__file__).parent.parent / "benchmarks").glob("*.toml"))
PHANTOM = next(path for path in FILES if path.name == "phantom.toml")

TEXT = """
name = "tiny"
title = "A title"
classes = ["No Finding", "Effusion"]
input_size = 64

[dataset]
name = "phantom"
options = { seed = 0, marker = { size = 3 } }

[classifiers.gcm]
options = { encoder = "tf_efficientnet_lite0" }
recipe = { optimizer = "sgd", learning_rate = 0.1, epochs = 20 }

[classifiers.default]
recipe = { optimizer = "adam", learning_rate = 1e-4 }

[localization]
frame = "input"

[[metrics]]
name = "roc_auc"

[[metrics]]
name = "pointing_game"
parameters = { tolerance = 15.0 }

[statistics]
confidence = 0.95
"""


def write(folder: Path, old: str = "", new: str = "") -> Path:
    assert old in TEXT
    path = folder / "tiny.toml"
    path.write_text(TEXT.replace(old, new, 1) if old else TEXT, encoding="utf-8")
    return path


def fault(path: Path) -> str:
    with pytest.raises(BenchmarkError) as caught:
        read_benchmark(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_shipped_files_are_read(path: Path) -> None:
    benchmark = read_benchmark(path)
    assert benchmark.name == path.stem
    assert benchmark.title
    assert benchmark.description
    assert load_benchmark(str(path)).hash == benchmark.hash
    assert benchmark.classifier("gcm").recipe.epochs > 0
    assert {"random", "center"} <= set(benchmark.localization.baselines)
    assert {"roc_auc", "hit_rate", "energy", "iou_otsu"} <= {spec.name for spec in benchmark.metrics}


def test_shipped_files_differ() -> None:
    assert len({read_benchmark(path).hash for path in FILES}) == len(FILES)


def test_defaults_are_filled_in(tmp_path: Path) -> None:
    benchmark = read_benchmark(write(tmp_path))
    assert benchmark.task == "multiclass"
    assert benchmark.frame == Frame.square(64)
    assert read_benchmark(write(tmp_path, 'frame = "input"', "frame = 224")).frame == Frame.square(224)
    assert benchmark.classifier("gcm").recipe.epochs == 20
    assert benchmark.classifier("resnet50") == benchmark.classifiers["default"]
    assert benchmark.statistics.resamples == 2000
    with pytest.raises(ValidationError, match="frozen"):
        benchmark.input_size = 128  # type: ignore[misc]


def test_written_out_defaults_give_the_same_hash(tmp_path: Path) -> None:
    short = read_benchmark(write(tmp_path)).hash
    assert read_benchmark(write(tmp_path, 'frame = "input"', 'frame = "input"\nregions = "boxes"')).hash == short
    assert read_benchmark(write(tmp_path, "epochs = 20", "epochs = 20, batch_size = 32")).hash == short


def reversed_keys(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: reversed_keys(value[key]) for key in reversed(value)}
    return [reversed_keys(item) for item in value] if isinstance(value, list) else value


def test_hash_does_not_see_key_order_title_or_description() -> None:
    table = tomllib.loads(PHANTOM.read_text(encoding="utf-8"))
    wanted = Benchmark.model_validate(table).hash
    turned = reversed_keys(table)
    assert list(turned) != list(table)
    assert Benchmark.model_validate(turned).hash == wanted
    assert Benchmark.model_validate({**table, "title": "x", "description": "y"}).hash == wanted
    assert Benchmark.model_validate({**table, "name": "other"}).hash != wanted


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from leaves(item, (*path, index))
    else:
        yield path, value


def numbers() -> list[tuple[Any, ...]]:
    full = json.loads(read_benchmark(PHANTOM).model_dump_json(exclude={"scoring"}))
    return [path for path, value in leaves(full) if isinstance(value, int | float) and not isinstance(value, bool)]


@pytest.mark.parametrize("path", numbers(), ids=lambda path: ".".join(map(str, path)))
def test_hash_sees_every_number(path: tuple[Any, ...]) -> None:
    """Also those that the file leaves to their defaults."""
    benchmark = read_benchmark(PHANTOM)
    table = json.loads(benchmark.model_dump_json())
    place = table
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] += 0.001 if isinstance(place[path[-1]], float) else 1
    assert Benchmark.model_validate(table).hash != benchmark.hash


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"No Finding", "Effusion"', '"Effusion", "No Finding"'),
        ('optimizer = "sgd"', 'optimizer = "adamw"'),
        ("epochs = 20", "epochs = 20, flip = true"),
        ('frame = "input"', 'frame = "input"\nbaselines = ["random"]'),
        ('frame = "input"', 'regions = "mask"'),
        ('encoder = "tf_efficientnet_lite0"', 'encoder = "resnet18"'),
        ("size = 3", "size = 4"),
        ("tolerance = 15.0", "tolerance = 14.0"),
        ('name = "roc_auc"', 'name = "energy"'),
        ("input_size = 64", 'input_size = 64\ntask = "multilabel"'),
    ],
)
def test_hash_sees_what_decides(tmp_path: Path, old: str, new: str) -> None:
    assert read_benchmark(write(tmp_path, old, new)).hash != read_benchmark(write(tmp_path)).hash


def test_hash_is_the_same_in_every_process() -> None:
    assert digest({"b": [1, 2.5], "a": "ü"}) == "75151e181452ee19f62c437a12e96bbbe4453c199f041abfe6b18ab3cb8f3c4f"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("epochs = 20", "epocs = 20", "unknown key 'classifiers.gcm.recipe.epocs'. Did you mean 'epochs'?"),
        ("input_size = 64", "input_sise = 64", "unknown key 'input_sise'. Did you mean 'input_size'? (and 1 more)"),
        ("[dataset]", "[datset]", "unknown key 'datset'. Did you mean 'dataset'? (and 1 more)"),
        ("confidence = 0.95", "confidense = 0.95", "unknown key 'statistics.confidense'. Did you mean 'confidence'?"),
        ('frame = "input"', 'farme = "input"', "unknown key 'localization.farme'. Did you mean 'frame'?"),
        ("parameters = {", "parameter = {", "unknown key 'metrics.1.parameter'. Did you mean 'parameters'?"),
        ("options = { seed", "option = { seed", "unknown key 'dataset.option'. Did you mean 'options'?"),
        ('recipe = { optimizer = "adam"', 'recpie = { optimizer = "adam"', "Did you mean 'recipe'?"),
        ("title =", "zzz =", "unknown key 'zzz'. Known: classes, classifiers, dataset"),
    ],
)
def test_unknown_key_names_file_key_and_what_was_meant(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert said in fault(write(tmp_path, old, new))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("epochs = 20", "epochs = 0", "classifiers.gcm.recipe.epochs = 0: input should be greater than or equal to 1"),
        ("epochs = 20", "batch_size = 1", "classifiers.gcm.recipe.batch_size = 1"),
        ("learning_rate = 0.1", "learning_rate = -0.1", "classifiers.gcm.recipe.learning_rate = -0.1"),
        ("learning_rate = 0.1", "learning_rate = inf", "classifiers.gcm.recipe.learning_rate = inf"),
        ("learning_rate = 0.1", "learning_rate = nan", "classifiers.gcm.recipe.learning_rate = nan"),
        ('optimizer = "sgd"', 'optimizer = "sdg"', "optimizer = 'sdg': input should be 'sgd', 'adam' or 'adamw'"),
        ("input_size = 64", "input_size = 64.5", "input_size = 64.5"),
        ("input_size = 64", "input_size = 16", "input_size = 16: input should be greater than or equal to 32"),
        ("input_size = 64", 'input_size = "large"', "input_size = 'large'"),
        ("input_size = 64\n", "", "key 'input_size' is missing"),
        ('[dataset]\nname = "phantom"', "[dataset]", "key 'dataset.name' is missing"),
        ('frame = "input"', 'frame = "inptu"', "localization.frame = 'inptu': it is \"input\" or a side"),
        ('frame = "input"', "frame = 4", "localization.frame = 4: it is"),
        ('frame = "input"', "frame = 99.5", "localization.frame = 99.5: it is"),
        ('frame = "input"', "frame = true", "localization.frame = True: it is"),
        ("confidence = 0.95", "confidence = 95", "statistics.confidence = 95"),
        ('classes = ["No Finding", "Effusion"]', 'classes = "Effusion"', "classes = 'Effusion': it is a list"),
        ('classes = ["No Finding", "Effusion"]', 'classes = ["Effusion"]', "classes = ['Effusion']"),
        ('classes = ["No Finding", "Effusion"]', 'classes = ["Macro", "Effusion"]', "a class can't be called 'Macro'"),
        ('"No Finding", "Effusion"', '"Effusion", "macro "', "a class can't be called 'macro '"),
        ('"No Finding", "Effusion"', '"Effusion", "a\\nb"', "a class needs a name without control characters"),
        ('"No Finding", "Effusion"', '"Effusion", "Effusion"', "a class is named twice in ['Effusion', 'Effusion']"),
        ('name = "roc_auc"', 'name = "pointing_game"', "metrics named twice: pointing_game"),
        ("[classifiers.default]", "[statistics.x]", "unknown key 'statistics.x'"),
        ("[statistics]\nconfidence", "[statistics]\nmethod", "statistics.method = 0.95"),
        ('name = "tiny"', "name = 3", "name = 3: input should be a valid string"),
    ],
)
def test_wrong_value_names_file_key_and_value(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert said in fault(write(tmp_path, old, new))


def test_table_where_a_value_stands(tmp_path: Path) -> None:
    old = '[dataset]\nname = "phantom"\noptions = { seed = 0, marker = { size = 3 } }'
    path = write(tmp_path, old, "")
    path.write_text('dataset = "phantom"\n' + path.read_text())
    assert "dataset = 'phantom': it is a table" in fault(path)


def test_no_file_no_toml_no_text(tmp_path: Path) -> None:
    assert "no benchmark file" in fault(tmp_path / "none.toml")
    path = write(tmp_path, 'name = "tiny"', 'name = "tiny')
    assert "line 2" in fault(path)
    path.write_bytes(b'name = "\xff\xfe"')
    assert "can't read" in fault(path)
    (tmp_path / "folder.toml").mkdir()
    assert "can't read" in fault(tmp_path / "folder.toml")
    path.write_text("")
    assert "is missing (and 4 more)" in fault(path)
    with pytest.raises(BenchmarkError, match="no benchmark file"):
        load_benchmark(str(tmp_path / "none.toml"))


def test_key_twice_is_no_toml(tmp_path: Path) -> None:
    assert "can't read" in fault(write(tmp_path, "input_size = 64", "input_size = 64\ninput_size = 128"))


def test_classifier_without_recipe(tmp_path: Path) -> None:
    benchmark = read_benchmark(write(tmp_path, "[classifiers.default]", "[classifiers.densenet121]"))
    with pytest.raises(
        BenchmarkError, match=r"'tiny' has no recipe for 'nin', only for densenet121, gcm: add"
    ) as caught:
        benchmark.classifier("nin")
    assert "[classifiers.nin]" in str(caught.value)


def test_override_replaces_and_validates(tmp_path: Path) -> None:
    spec = read_benchmark(write(tmp_path)).classifier("gcm")
    changed = override(spec, {"head": "relu"}, {"epochs": 3})
    assert changed.options == {"encoder": "tf_efficientnet_lite0", "head": "relu"}
    assert (changed.recipe.epochs, changed.recipe.learning_rate) == (3, 0.1)
    assert spec.recipe.epochs == 20
    assert spec.options == {"encoder": "tf_efficientnet_lite0"}
    assert override(spec, {}, {}) == spec
    assert override(spec, {"encoder": "resnet18"}, {}).options == {"encoder": "resnet18"}
    assert override(ClassifierSpec(), {}, {"flip": True}).recipe.flip
    with pytest.raises(BenchmarkError, match=r"^unknown key 'recipe.epocs'. Did you mean 'epochs'\?$"):
        override(spec, {}, {"epocs": 3})
    with pytest.raises(BenchmarkError, match=r"recipe\.epochs = 0: "):
        override(spec, {}, {"epochs": 0})


def test_defaults_are_part_of_every_hash() -> None:
    """Hashes leave defaults out: a default may never change, only a key be added whose default does nothing."""
    assert Recipe().model_dump(mode="json") == {
        "optimizer": "sgd",
        "learning_rate": 0.1,
        "momentum": 0.0,
        "weight_decay": 0.0,
        "schedule": "constant",
        "epochs": 100,
        "batch_size": 32,
        "sparsity": 0.0,
        "concentration": 0.0,
        "sparsity_warmup": 0,
        "sampling": "natural",
        "precision": "32-true",
        "augment": 0,
        "flip": False,
        "selection": "validation",
        "seed": 0,
    }
    assert LocalizationSpec().model_dump(mode="json") == {
        "regions": "boxes",
        "frame": "input",
        "baselines": ["random", "center", "prior_box"],
    }
    assert StatisticsSpec().model_dump(mode="json") == {
        "method": "score",
        "confidence": 0.95,
        "resamples": 2000,
        "seed": 0,
    }


def test_hash_sees_by_which_rules_and_definitions_scores_are_made(tmp_path: Path) -> None:
    benchmark = read_benchmark(PHANTOM)
    table = json.loads(benchmark.model_dump_json())
    assert table["scoring"] == SCORING
    old = Benchmark.model_validate(table | {"scoring": 1})
    assert old.hash != benchmark.hash
    metrics = [spec | {"version": None} for spec in table["metrics"]]
    kept = ("roc_auc", "hit_rate", "pointing_game", "energy", "iou_otsu", "visible_in_box")
    before = [spec for spec in metrics if spec["name"] in kept]
    changed = {"metrics": before, "scoring": 1, "primary": None, "statistics": {"method": "percentile"}}
    assert Benchmark.model_validate(table | changed).hash.startswith("5e73122cbf0c4414")  # recorded by version 0.1.0
    with pytest.raises(BenchmarkError, match="scoring = 1: this version of xaibench scores by 2"):
        old.pinned()


def test_the_version_of_a_metric_is_pinned_and_enters_the_hash(tmp_path: Path) -> None:
    @metric(
        "shifting", category="localization", direction="higher", range=(0, 1), reference="none", title="t", version=3
    )
    def shifting(maps: Any, masks: Any) -> Any:
        """Nothing."""

    text = 'name = "roc_auc"'
    registry.register("metrics", "shifting", shifting)
    try:
        read = read_benchmark(write(tmp_path, text, 'name = "shifting"'))
        assert [spec.version for spec in read.metrics if spec.name == "shifting"] == [3]
        assert read_benchmark(write(tmp_path, text, 'name = "shifting"\nversion = 3')).hash == read.hash
        with pytest.raises(
            BenchmarkError, match=r"metrics.shifting.version = 2, installed is version 3: leave the key"
        ):
            read_benchmark(write(tmp_path, text, 'name = "shifting"\nversion = 2'))
        registry.unregister("metrics", "shifting")
        registry.register("metrics", "shifting", replace(shifting, version=1))
        assert read_benchmark(write(tmp_path, text, 'name = "shifting"')).hash != read.hash
    finally:
        registry.unregister("metrics", "shifting")
    unknown = read_benchmark(write(tmp_path, text, 'name = "not_installed"'))
    assert [spec.version for spec in unknown.metrics if spec.name == "not_installed"] == [None]


def test_the_primary_metric_is_one_of_the_benchmarks(tmp_path: Path) -> None:
    assert (
        read_benchmark(write(tmp_path, "input_size = 64", 'input_size = 64\nprimary = "pointing_game"')).primary
        == "pointing_game"
    )
    with pytest.raises(BenchmarkError, match=r"primary = 'pointing_gam' is not among its metrics. Did you mean"):
        read_benchmark(write(tmp_path, "input_size = 64", 'input_size = 64\nprimary = "pointing_gam"'))
