"""The leaderboard's page: results of each benchmark, best first, and those that were turned away."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import rankdata

from xaibench.errors import PluginError
from xaibench.reporting.page import Page, Section, Table, Text, write_page
from xaibench.reporting.tables.comparison import fixed
from xaibench.results.leaderboard import Result, Results
from xaibench.results.run import MACRO, Score
from xaibench.statistics import chance_corrected

if TYPE_CHECKING:
    from xaibench.metrics.base import Metric

Key = tuple[str, str | None, str]
"""Classifier, explainer, run id; a baseline has no classifier and no id."""


def leaderboard_page(results: Results, metrics: Mapping[str, Metric] | None = None) -> Page:
    """Lay results out: a section for each benchmark, with a table for each category of metrics.

    Args:
        results: of `xaibench.results.leaderboard.read_results`.
        metrics: declarations by registered name; None: from the registry.
    """
    sections = [_section(name, results.accepted[name], metrics) for name in sorted(results.accepted)]
    if not sections:
        sections.append(Section("Results", [Text("No result was accepted yet.")]))
    if results.turned_away:
        rows = [[file, reason] for file, reason in sorted(results.turned_away.items())]
        sections.append(Section("Turned away", [Table(["file", "reason"], rows)]))
    return Page("Leaderboard", sections)


def write_leaderboard(results: Results, out: Path, metrics: Mapping[str, Metric] | None = None) -> tuple[Path, Path]:
    """Write ``OUT.md`` and ``OUT.html``, whatever ending `out` has of the two, and return their paths."""
    name = out.stem if out.suffix in (".md", ".html") else out.name
    return write_page(leaderboard_page(results, metrics), out.parent, name)


def _section(name: str, results: Sequence[Result], metrics: Mapping[str, Metric] | None) -> Section:
    benchmark = results[0].benchmark
    known = _declared(results[0], metrics)
    counts = results[0].test
    title = f"{benchmark.title}. " if benchmark.title else ""
    level = f"{100 * benchmark.statistics.confidence:.4g}%"
    blocks: list[Text | Table] = [
        Text(
            f"{title}Protocol {benchmark.hash[:12]}, test data {results[0].data.get('test', '')[:12]}: "
            f"{counts.get('images', 0):,} images of {counts.get('patients', 0):,} patients. Means over the classes, "
            f"{level} intervals, ordered by the average rank over a table's metrics; in brackets the value corrected "
            "for chance, 0 at chance and 1 when perfect. Intervals that overlap decide nothing: xaibench compare tests "
            "runs image by image."
        )
    ]
    for category in dict.fromkeys(metric.category for metric in known):
        table = _table(category, [metric for metric in known if metric.category == category], results)
        blocks += [table] if table.rows else []
    blocks.append(_runs(results))
    return Section(name, blocks)


def _declared(result: Result, given: Mapping[str, Metric] | None) -> list[Metric]:
    from xaibench import registry

    found = []
    for spec in result.benchmark.metrics:
        try:
            metric = registry.get("metrics", spec.name).load() if given is None else given[spec.name]
        except (PluginError, KeyError):
            continue
        found += [metric] if metric.headline else []
    return found


def _table(category: str, metrics: Sequence[Metric], results: Sequence[Result]) -> Table:
    named = [(metric, name) for metric in metrics for name in metric.headline_scores]
    columns = [dict(_scores(name, results)) for _, name in named]
    metrics = [metric for metric, _ in named]
    keys = list(dict.fromkeys(key for column in columns for key in column))
    ranks = np.full((len(keys), len(metrics)), math.nan)
    for number, (metric, column) in enumerate(zip(metrics, columns, strict=True)):
        sign = -1.0 if metric.direction == "higher" else 1.0
        values = [one.value if (one := column.get(key)) else None for key in keys]
        there = [row for row, value in enumerate(values) if value is not None]
        ranks[there, number] = rankdata([sign * float(values[row] or 0.0) for row in there])
    with_rank = np.isfinite(ranks).any(1)
    means = np.where(with_rank, np.nansum(ranks, 1) / np.maximum(np.isfinite(ranks).sum(1), 1), math.inf)
    rows = []
    for row in np.argsort(means, kind="stable"):
        classifier, explainer, identity = keys[row]
        label = f"{classifier}:{explainer}" if classifier and explainer else explainer or classifier
        label += "" if classifier else " (baseline)"
        cells = [_cell(column.get(keys[row]), metric) for metric, column in zip(metrics, columns, strict=True)]
        rows.append([label, fixed(float(means[row]), 1) if with_rank[row] else "-", *cells, identity])
    chance = [_chance(column.values(), metric) for metric, column in zip(metrics, columns, strict=True)]
    if rows and any(chance):
        rows.append(["chance", "", *chance, ""])
    titles = [_title(metric, name) for metric, name in named]
    first = "classifier" if category == "classification" else "explainer"
    return Table([first, "average rank", *titles, "run"], rows, category.capitalize())


def _title(metric: Metric, name: str) -> str:
    at = name.partition("@")[2]
    return metric.title + (f" ({at})" if at else "") + (", lower is better" if metric.direction == "lower" else "")


def _scores(name: str, results: Sequence[Result]) -> list[tuple[Key, Score]]:
    found: list[tuple[Key, Score]] = []
    baselines: dict[Key, Score] = {}
    for result in results:
        for score in result.scores:
            if score.metric != name or score.class_name != MACRO:
                continue
            if score.explainer in result.baselines:  # the same for every classifier
                baselines.setdefault(("", score.explainer, ""), score)
            else:
                found.append(((result.classifier, score.explainer, result.id), score))
    return [*found, *baselines.items()]


def _cell(score: Score | None, metric: Metric) -> str:
    if score is None or score.value is None:
        return "-"
    low, high = (math.nan if end is None else end for end in (score.low, score.high))
    shown = f"{_number(score.value, metric)} [{_number(low, metric)}, {_number(high, metric)}]"
    level = math.nan if score.chance is None or not metric.corrected else score.chance
    corrected = chance_corrected(score.value, level, direction=metric.direction, bounds=metric.range)
    return f"{shown} ({fixed(corrected, 2)})" if math.isfinite(corrected) else shown


def _chance(scores: Iterable[Score], metric: Metric) -> str:
    levels = sorted(_number(score.chance, metric) for score in scores if score.chance is not None)
    return "" if not levels else levels[0] if levels[0] == levels[-1] else f"{levels[0]} to {levels[-1]}"


def _number(value: float, metric: Metric) -> str:
    if max(map(abs, metric.range)) <= 1:
        return fixed(value, 3 if metric.category == "classification" else 2)
    return f"{value:.3g}"


def _runs(results: Sequence[Result]) -> Table:
    rows = []
    for result in results:
        written = result.benchmark.classifiers.get(result.classifier) or result.benchmark.classifiers.get("default")
        before = written.recipe.model_dump(mode="json") if written else {}
        after = result.recipe.model_dump(mode="json")
        external = bool(result.weights.get("external"))
        changed = ["external weights, no recipe"] if external else []
        changed += [f"{key} {after[key]}" for key in after if not external and after[key] != before.get(key)]
        options = dict(written.options) if written else {}
        changed += [
            f"{key} {value}" for key, value in result.classifier_options.items() if options.get(key, ...) != value
        ]
        version = result.versions.get("xaibench", "")
        weights = str(result.weights.get("sha256", ""))[:12]
        rows.append([result.id, result.classifier, ", ".join(changed) or "none", weights, version])
    return Table(["run", "classifier", "changes to options and recipe", "weights", "xaibench"], rows, "Runs")
