"""The doctor's visit: from names to findings, on a few test images of a benchmark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from xaibench.benchmark import Benchmark, load_benchmark
from xaibench.doctor.diagnose import diagnose, draw
from xaibench.errors import DataError, NotApplicableError, UsageError, WeightsError
from xaibench.evaluation.setup import Broken, choose_device, load_splits, make_classifier, ready_or_broken, spec_of
from xaibench.findings import Finding
from xaibench.training.checkpoint import Making, find_checkpoint, load_weights, read_checkpoint


def examine(
    classifier: str,
    explainers: Sequence[str] = (),
    benchmark: str | Path | Benchmark = "phantom",
    *,
    data_root: Path | None = None,
    options: Mapping[str, Any] | None = None,
    recipe: Mapping[str, Any] | None = None,
    checkpoint: Path | None = None,
    device: str = "auto",
) -> list[Finding]:
    """Examine a classifier and its explainers on four test images of a benchmark; nothing is trained.

    Args:
        classifier, explainers, benchmark, data_root, options, recipe, device: as for `xaibench.evaluate`.
        checkpoint: trained weights; that of the recipe where it is in the cache, else the untrained ones serve.

    Returns:
        Errors, warnings and notes.

    Raises:
        XaibenchError: a name, an option or the data is wrong.
    """
    protocol = benchmark if isinstance(benchmark, Benchmark) else load_benchmark(benchmark)
    spec = spec_of(classifier, protocol, options or {}, recipe or {})
    splits = load_splits(protocol, data_root)
    if not len(splits.test):
        raise DataError(f"benchmark {protocol.name!r} has no test images here: look with xaibench data check")
    model = make_classifier(classifier, spec, protocol).to(choose_device(device))
    found: list[Finding] = []
    making = Making.of(classifier, spec, protocol, splits)
    if model.comes_trained and checkpoint:
        raise UsageError(f"{classifier} comes with its weights: it takes no checkpoint")
    known = read_checkpoint(checkpoint) if checkpoint else find_checkpoint(protocol.name, making)
    if model.comes_trained:
        found.append(Finding("note", "weights", f"as they came: {model.weights.source}", "", "classifier"))
    elif known is not None:
        try:
            load_weights(model, known)
        except WeightsError as error:
            found.append(Finding("error", "weights", str(error), "Give the checkpoint's own options.", "classifier"))
    else:
        what = "no checkpoint of the recipe here: examined with the weights it starts training from"
        found.append(Finding("note", "weights", what, "", "classifier"))
    model.optimized()
    ready = {}
    for name in dict.fromkeys(explainers):
        try:
            explainer = ready_or_broken(name, model, splits)
        except NotApplicableError as error:
            found.append(Finding("error", "applies", str(error), "Take the one named.", f"explainer {name}"))
            continue
        if isinstance(explainer, Broken):
            found.append(Finding("error", "plugin", str(explainer.error), "", f"explainer {name}"))
        else:
            ready[name] = explainer
    return found + diagnose(model, ready, *draw(splits.test))
