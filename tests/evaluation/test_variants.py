"""A subset's benchmark: what changes in it, and that every change is named."""

from __future__ import annotations

import pytest

from tests.tiny import tiny_benchmark
from xaibench.benchmark import deviations, flatten, load_benchmark
from xaibench.errors import BenchmarkError, UsageError
from xaibench.studies.gcm_paper.variants import Settings, needs_network, subset_benchmark, with_metrics

PAPER = load_benchmark("chestxray8-4class")
SAMPLE = load_benchmark("chestxray8-sample")


def test_the_benchmark_as_written_is_subset_0() -> None:
    for base in (PAPER, SAMPLE, load_benchmark("phantom")):
        made = subset_benchmark(base, Settings(), 0)
        assert made.hash == base.hash
        assert deviations(base, made) == []


def test_subsets_differ_in_their_seeds_alone() -> None:
    first, third = (subset_benchmark(PAPER, Settings(), subset) for subset in (0, 2))
    assert {(found.key, found.written, found.used) for found in deviations(first, third)} == {
        ("dataset.options.subset_seed", "0", "2"),
        ("classifiers.gcm.recipe.seed", "0", "2"),
        ("classifiers.densenet121.recipe.seed", "0", "2"),
    }
    phantom = subset_benchmark(tiny_benchmark(), Settings(), 1)
    assert phantom.dataset.options["seed"] == 1


def test_every_setting_is_a_deviation_that_is_named() -> None:
    settings = Settings(
        preset="patient_disjoint",
        limit_epochs=3,
        limit_images=40,
        input_size=64,
        precision="bf16-mixed",
        offline=True,
        dataset_options={"single_label": "within_classes"},
    )
    found = {d.key: (d.written, d.used) for d in deviations(PAPER, subset_benchmark(PAPER, settings, 0))}
    assert found == {
        "input_size": ("256", "64"),
        "dataset.options.split": ("paper", "patient_disjoint"),
        "dataset.options.max_per_class": ("963", "40"),
        "dataset.options.test_no_finding": ("not set", "40"),
        "dataset.options.single_label": ("not set", "within_classes"),
        "classifiers.gcm.options.encoder": ("efficientnet_b0", "tf_efficientnet_lite0"),
        "classifiers.gcm.options.weights": ("timm", "package"),
        "classifiers.gcm.recipe.epochs": ("100", "3"),
        "classifiers.gcm.recipe.precision": ("32-true", "bf16-mixed"),
        "classifiers.densenet121.options.weights": ("timm", "random"),
        "classifiers.densenet121.recipe.epochs": ("100", "3"),
        "classifiers.densenet121.recipe.precision": ("32-true", "bf16-mixed"),
        "classifiers.densenet121.recipe.learning_rate": ("1e-05", "0.001"),
    }


def test_options_and_recipe_fields_are_replaced_and_named() -> None:
    """An option goes to whoever has it, a field of the recipe to both; a name before a dot to that one alone."""
    settings = Settings(
        options={"decoders": "per_class", "weights": "random", "gcm.weights": "timm"},
        recipe={"epochs": 7, "densenet121.learning_rate": 2e-4, "schedule": "cosine"},
        limit_epochs=50,
    )
    found = {d.key: (d.written, d.used) for d in deviations(PAPER, subset_benchmark(PAPER, settings, 0))}
    assert found == {
        "classifiers.gcm.options.decoders": ("not set", "per_class"),
        "classifiers.densenet121.options.weights": ("timm", "random"),
        "classifiers.gcm.recipe.epochs": ("100", "7"),
        "classifiers.gcm.recipe.schedule": ("constant", "cosine"),
        "classifiers.densenet121.recipe.epochs": ("100", "7"),
        "classifiers.densenet121.recipe.schedule": ("constant", "cosine"),
        "classifiers.densenet121.recipe.learning_rate": ("1e-05", "0.0002"),
    }
    seeds = subset_benchmark(PAPER, Settings(recipe={"seed": 5}), 2)
    assert [seeds.classifier(name).recipe.seed for name in ("gcm", "densenet121")] == [7, 7]


def test_what_no_classifier_takes_is_one_line() -> None:
    with pytest.raises(UsageError, match="--option decodrs: neither gcm nor densenet121"):
        subset_benchmark(PAPER, Settings(options={"decodrs": "per_class"}), 0)
    with pytest.raises(BenchmarkError, match="Did you mean 'epochs'"):
        subset_benchmark(PAPER, Settings(recipe={"epoch": 3}), 0)


def test_a_user_s_weights_win_over_the_offline_ones() -> None:
    made = subset_benchmark(PAPER, Settings(offline=True, options={"densenet121.weights": "random"}), 0)
    assert made.classifier("densenet121").recipe.learning_rate == 1e-5  # nothing was replaced
    assert made.classifier("gcm").options["weights"] == "package"


def test_limits_only_lower() -> None:
    made = subset_benchmark(tiny_benchmark(), Settings(limit_epochs=50, limit_images=5), 0)
    assert made.classifier("gcm").recipe.epochs == 2
    assert {key: made.dataset.options[key] for key in ("train", "val", "test")} == {"train": 20, "val": 12, "test": 20}


def test_offline_leaves_what_needs_no_network() -> None:
    assert subset_benchmark(SAMPLE, Settings(offline=True), 0).hash == SAMPLE.hash
    assert needs_network({"weights": "timm"})
    assert needs_network({})
    assert not needs_network({"encoder": "tf_efficientnet_lite0"})
    assert not needs_network({"weights": "random"})


def test_a_classifier_served_by_the_default_is_compared_with_it() -> None:
    table = PAPER.model_dump()
    del table["classifiers"]["densenet121"]
    base = type(PAPER).model_validate(table)
    assert deviations(base, subset_benchmark(base, Settings(), 0)) == []
    (found,) = [d for d in deviations(base, subset_benchmark(base, Settings(limit_epochs=7), 0)) if "dense" in d.key]
    assert (found.key, found.written, found.used) == ("classifiers.densenet121.recipe.epochs", "100", "7")


def test_added_metrics_are_named_and_unknown_ones_are_left_out() -> None:
    base = tiny_benchmark(metrics=[{"name": "roc_auc"}])
    made = with_metrics(base, ["energy", "no_such_metric", "roc_auc"])
    assert [spec.name for spec in made.metrics] == ["roc_auc", "energy"]
    assert [(d.key, d.written, d.used) for d in deviations(base, made)] == [("metrics.energy", "not set", "defaults")]
    assert with_metrics(base, ["no_such_metric"]) is base


def test_bad_settings_are_one_line() -> None:
    with pytest.raises(UsageError, match="no split rules"):
        subset_benchmark(tiny_benchmark(), Settings(preset="paper"), 0)
    other = tiny_benchmark(dataset={"name": "folder", "options": {}})
    with pytest.raises(UsageError, match="needs chestxray8 or phantom"):
        subset_benchmark(other, Settings(), 0)


def test_flatten() -> None:
    assert flatten({"a": {"b": {"c": 1}}, "d": [1, 2], "e": {}}) == {"a.b.c": 1, "d": [1, 2]}
