"""The kit on everything that an installed distribution brings."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from xaibench.errors import PluginError, XaibenchError, did_you_mean
from xaibench.findings import Finding
from xaibench.registry import Entry, Kind, claims, collision, one_line


@dataclass(frozen=True)
class Checked:
    """An entry point and what the kit found."""

    entry: Entry
    findings: Sequence[Finding]

    @property
    def conforms(self) -> bool:
        return not any(finding.severity == "error" for finding in self.findings)


def check_package(distribution: str) -> list[Checked]:
    """Put every entry point of an installed distribution through the kit.

    A plugin may carry an attribute ``example``: keyword arguments that make a small one for the kit. A dataset needs
    it (``{"classes": ..., "options": ...}``), unless a benchmark of the same package names the dataset.

    Raises:
        PluginError: no such distribution is installed, or it brings no plugin.
    """
    everything = [(entry, claimed) for kind in Kind for claimed in claims(kind).values() for entry in claimed]
    entries = [pair for pair in everything if _plain(pair[0].distribution) == _plain(distribution)]
    if not entries:
        known = sorted({entry.distribution for entry, _ in everything})
        raise PluginError(
            f"no plugin comes from a package {distribution!r}: install it (pip install -e DIR). "
            f"{did_you_mean(distribution, known)}"
        )
    benchmarks = [entry for entry, _ in entries if entry.kind is Kind.BENCHMARKS]
    classifiers = [entry for entry, _ in entries if entry.kind is Kind.CLASSIFIERS]
    found = []
    for entry, claimed in entries:
        if problem := collision(claimed):
            findings = [
                Finding("error", "name", problem, "Choose another name.", f"{entry.kind.singular} {entry.name}")
            ]
        else:
            findings = check_entry(entry, classifiers, benchmarks)
        found.append(Checked(entry, findings))
    return found


def check_entry(entry: Entry, classifiers: Sequence[Entry] = (), benchmarks: Sequence[Entry] = ()) -> list[Finding]:
    """Put one plugin through the kit of its kind.

    Args:
        entry: the plugin.
        classifiers: of the same package: an explainer is tried on them first.
        benchmarks: of the same package, where a dataset's classes may stand.
    """
    subject = f"{entry.kind.singular} {entry.full_name}"
    try:
        loaded = entry.load()
    except PluginError as error:
        reason = one_line(error.__cause__ or error)
        remedy = f"Mend {entry.target.partition(':')[0]}: python -c 'import {entry.target.partition(':')[0]}' shows it."
        return [Finding("error", "import", f"can't be imported: {reason}", remedy, subject)]
    example: Mapping[str, Any] = getattr(loaded, "example", None) or {}
    if entry.kind is Kind.EXPLAINERS:
        from xaibench.testing.explainers import check_explainer
        from xaibench.testing.small import small_classifiers

        def candidates() -> Iterator[Any]:
            for own in classifiers:
                yield from _small(own)
            yield from small_classifiers()

        return check_explainer(entry.name, candidates(), options=example)
    if entry.kind is Kind.CLASSIFIERS:
        from xaibench.testing.classifiers import check_classifier

        return check_classifier(entry.full_name, **_split(example))
    if entry.kind is Kind.METRICS:
        from xaibench.testing.metrics import check_metric

        return check_metric(entry.name, **example)
    from xaibench.testing.datasets import check_benchmark, check_dataset

    if entry.kind is Kind.BENCHMARKS:
        return check_benchmark(entry.name)
    for wanted in [example] if example else _from_benchmarks(entry, benchmarks):
        return check_dataset(entry.name, **wanted)
    what = "not checked: nothing says which classes it has"
    remedy = f'Set the attribute example = {{"classes": (...), "options": {{...}}}} on {entry.target}.'
    return [Finding("warning", "example", what, remedy, subject)]


def _small(entry: Entry) -> Iterator[Any]:
    """Yield a small classifier of a plugin, or none where it can't be made: its own check says why."""
    from xaibench.classifiers import create
    from xaibench.testing.small import CLASSES, SIZE

    try:
        loaded = entry.load()
        example = _split(getattr(loaded, "example", None) or {})
        options = {"weights": "random"} if "weights" in _parameters(loaded) else {}
        size: dict[str, Any] = {"classes": CLASSES, "input_size": SIZE} | {
            k: v for k, v in example.items() if k != "options"
        }
        yield create(entry.full_name, **size, **{**options, **example.get("options", {})}).eval()
    except (XaibenchError, RuntimeError, TypeError, ValueError):
        return


def _parameters(factory: Any) -> Mapping[str, Any]:
    import inspect

    return inspect.signature(factory).parameters


def _split(example: Mapping[str, Any]) -> dict[str, Any]:
    """Return a classifier's example as arguments of `check_classifier`."""
    own = {key: example[key] for key in ("classes", "input_size") if key in example}
    options = {key: value for key, value in example.items() if key not in own}
    return own | ({"options": options} if options else {})


def _from_benchmarks(dataset: Entry, benchmarks: Sequence[Entry]) -> Iterator[dict[str, Any]]:
    from xaibench.benchmark import load_benchmark

    for entry in benchmarks:
        try:
            benchmark = load_benchmark(entry.name)
        except XaibenchError:
            continue
        if benchmark.dataset.name == dataset.name:
            yield {
                "classes": benchmark.classes,
                "input_size": benchmark.input_size,
                "options": benchmark.dataset.options,
            }


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
