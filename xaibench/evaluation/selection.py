"""Metrics by name, category or wildcard, in place of those of a benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import get_args

from xaibench import registry
from xaibench.benchmark import Benchmark, MetricSpec
from xaibench.errors import PluginError, did_you_mean
from xaibench.metrics.base import Category, Metric
from xaibench.registry import UnknownPluginError

ALL = "all"
CATEGORIES: tuple[str, ...] = get_args(Category)


def select_metrics(benchmark: Benchmark, asked: Sequence[str]) -> tuple[Benchmark, list[str]]:
    """Return the benchmark with other metrics, and notes on those that had to be left out.

    A metric that the benchmark has already keeps the parameters that it has there; the others stand at their defaults.
    The order is that of `asked`, inside a category or a wildcard the alphabet's.

    Args:
        benchmark: as written.
        asked: "all", categories ("localization"), names or wildcards ("box*"), also several in one text, with commas.
            What is both a category and a metric ("complexity") is the category.

    Raises:
        UnknownPluginError: nothing has that name or matches; the message says what is near.
        PluginError: a metric asked for by its name can't be imported.
    """
    loaded, broken = _registered()
    given = {spec.name: spec for spec in benchmark.metrics}
    chosen: dict[str, MetricSpec] = {}
    notes: list[str] = []
    for text in (part.strip() for each in asked for part in each.split(",")):
        if text in broken:
            raise broken[text]
        names = [name for name, metric in loaded.items() if _is_meant(text, name, metric)]
        if not names:
            raise UnknownPluginError(f"there is no metric {text!r}. {_remedy(text, [*loaded, *broken])}")
        chosen |= {name: given.get(name, MetricSpec(name=name)) for name in names}
        if text == ALL:
            notes = [f"metric {name} left out: {error}" for name, error in broken.items()]
    table = benchmark.model_dump() | {"metrics": [spec.model_dump() for spec in chosen.values()]}
    table["primary"] = benchmark.primary if benchmark.primary in chosen else None
    return Benchmark.model_validate(table).pinned(), notes


def _registered() -> tuple[dict[str, Metric], dict[str, PluginError]]:
    """Return every metric that is installed, and the fault of each that can't be had."""
    loaded: dict[str, Metric] = {}
    broken: dict[str, PluginError] = {}
    for name in registry.claims("metrics"):
        try:
            loaded[name] = registry.get("metrics", name).load()
        except PluginError as error:
            broken[name] = error
    return loaded, broken


def _is_meant(text: str, name: str, metric: Metric) -> bool:
    if text == ALL:
        return True
    if text in CATEGORIES:
        return metric.category == text
    return fnmatchcase(name, text)


def _remedy(text: str, names: Sequence[str]) -> str:
    if text in CATEGORIES or any(sign in text for sign in "*?["):
        return "See xaibench list metrics."
    return did_you_mean(text, [*names, *CATEGORIES, ALL])
