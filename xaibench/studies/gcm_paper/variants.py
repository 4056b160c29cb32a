"""A benchmark made for one subset of a reproduction, and all in which it differs from the benchmark as written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from xaibench import registry
from xaibench.benchmark import Benchmark, ClassifierSpec, override
from xaibench.errors import UsageError
from xaibench.plugins import accepts

CLASSIFIERS = ("gcm", "densenet121")
"""The paper's two."""
EXPLAINERS: Mapping[str, tuple[str, ...]] = {"gcm": ("cwm", "ccm", "ccm_contrast"), "densenet121": ("gradcam", "cam")}
SUBSET_SEEDS = {"chestxray8": "subset_seed", "phantom": "seed"}
"""Each dataset's option that draws another subset."""
OFFLINE: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]] = {
    "gcm": ({"encoder": "tf_efficientnet_lite0", "weights": "package"}, {}),
    "densenet121": ({"weights": "random"}, {"learning_rate": 1e-3}),
}
"""Options and recipe fields that need no network. 1e-5 is a rate for fine-tuning: from random weights it learns nothing
in a hundred epochs."""


@dataclass(frozen=True)
class Settings:
    """What a user changes in a benchmark for a reproduction; every change is a deviation that the page lists.

    Attributes:
        subsets: how many seeded subsets.
        preset: the split rule (chestxray8), None for the benchmark's.
        limit_epochs: train no more epochs than that.
        limit_images: at most so many training images of a class, and as many No Finding test images.
        input_size: side of the images in pixels.
        precision: of training, as a recipe names it; None for the recipes'.
        offline: replace pretrained weights that need a network; see `OFFLINE`.
        dataset_options: further options of the dataset.
        options: of the classifiers, in place of the benchmark's: of each that has an option of that name, or of one, as
            ``gcm.skips``.
        recipe: fields of both recipes, or of one, as ``densenet121.learning_rate``.
    """

    subsets: int = 3
    preset: str | None = None
    limit_epochs: int | None = None
    limit_images: int | None = None
    input_size: int | None = None
    precision: str | None = None
    offline: bool = False
    dataset_options: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)


def subset_benchmark(base: Benchmark, settings: Settings, subset: int) -> Benchmark:
    """Return the benchmark of one subset: its seed in the dataset's options and added to the recipes' seeds.

    The recipes' seeds move along because a class that is not cut gives the same images in every subset.

    Raises:
        UsageError: a setting that the dataset does not have.
        BenchmarkError: the benchmark has no recipe for one of the two classifiers.
    """
    table = base.model_dump()
    options = dict(table["dataset"]["options"]) | dict(settings.dataset_options)
    table["dataset"]["options"] = _dataset_options(base, options, settings, subset)
    if settings.input_size is not None:
        table["input_size"] = settings.input_size
    table["classifiers"] = dict(table["classifiers"])
    options_of, fields_of = _per_classifier(settings.options, "option"), _per_classifier(settings.recipe, "recipe")
    for name in CLASSIFIERS:
        spec = base.classifier(name).model_dump()
        recipe, classifier_options = dict(spec["recipe"]), dict(spec["options"])
        if settings.offline and needs_network(classifier_options | options_of[name]):
            classifier_options |= OFFLINE[name][0]
            recipe |= OFFLINE[name][1]
        table_of = {"options": classifier_options, "recipe": recipe}
        changed = override(ClassifierSpec.model_validate(table_of), options_of[name], fields_of[name])
        recipe = changed.recipe.model_dump()
        if settings.limit_epochs is not None:
            recipe["epochs"] = min(recipe["epochs"], settings.limit_epochs)
        if settings.precision is not None:
            recipe["precision"] = settings.precision
        recipe["seed"] += subset
        table["classifiers"][name] = {"options": dict(changed.options), "recipe": recipe}
    return Benchmark.model_validate(table)


def _per_classifier(given: Mapping[str, Any], kind: str) -> dict[str, dict[str, Any]]:
    """Return classifier to what is changed of it.

    Raises:
        UsageError: neither classifier has an option of that name.
    """
    found: dict[str, dict[str, Any]] = {name: {} for name in CLASSIFIERS}
    for key, value in given.items():
        name, dot, rest = key.partition(".")
        if dot and name in CLASSIFIERS:
            found[name][rest] = value
            continue
        takers = [name for name in CLASSIFIERS if kind == "recipe" or accepts("classifiers", name, key, by_name=True)]
        if not takers:
            raise UsageError(f"--option {key}: neither {' nor '.join(CLASSIFIERS)} has an option of that name")
        for name in takers:
            found[name].setdefault(key, value)
    return found


def needs_network(options: Mapping[str, Any]) -> bool:
    """Tell whether a classifier's options ask for weights that no installed package carries."""
    packaged = options.get("encoder") == OFFLINE["gcm"][0]["encoder"]
    weights = options.get("weights", "auto")
    return weights == "timm" or (weights == "auto" and not packaged)


def _dataset_options(base: Benchmark, options: dict[str, Any], settings: Settings, subset: int) -> dict[str, Any]:
    name, limit = base.dataset.name, settings.limit_images
    if name not in SUBSET_SEEDS:
        raise UsageError(
            f"benchmark {base.name!r} is on dataset {name!r}: a reproduction needs {' or '.join(SUBSET_SEEDS)}"
        )
    if settings.preset is not None:
        if name != "chestxray8":
            raise UsageError(f"--preset {settings.preset}: dataset {name!r} has no split rules to choose from")
        options["split"] = settings.preset
    if subset:
        seed = SUBSET_SEEDS[name]
        options[seed] = options.get(seed, 0) + subset
    if limit is None:
        return options
    if name == "chestxray8":
        for key in ("max_per_class", "test_no_finding"):
            options[key] = min(limit, options.get(key) or limit)
    else:
        for key, default in (("train", 1600), ("val", 200), ("test", 320)):
            options[key] = min(limit * len(base.classes), options.get(key, default))
    return options


def with_metrics(benchmark: Benchmark, names: Sequence[str]) -> Benchmark:
    """Add metrics to a benchmark that lacks them, those of the names that are installed."""
    there = {spec.name for spec in benchmark.metrics}
    installed = set(registry.list_metrics())
    more = [{"name": name} for name in names if name in installed and name not in there]
    if not more:
        return benchmark
    table = benchmark.model_dump()
    return Benchmark.model_validate({**table, "metrics": [*table["metrics"], *more]})
