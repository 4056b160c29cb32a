"""Runs of ``classifier:explainer`` pairs: found where they are finished, made where they are not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import xaibench
from xaibench.benchmark import Benchmark, ClassifierSpec, load_benchmark, override
from xaibench.datasets.base import Splits
from xaibench.errors import UsageError, XaibenchError
from xaibench.evaluation.evaluate import evaluate
from xaibench.evaluation.setup import load_splits, make_classifier, weights_hash
from xaibench.io.store import default_store
from xaibench.progress import Progress
from xaibench.results.run import Run
from xaibench.training.checkpoint import Making


def parse_pair(text: str) -> tuple[str, str]:
    """Split ``classifier:explainer`` at the last colon; a classifier's name may have one.

    Raises:
        UsageError: no colon, or nothing on one side of it.

    >>> parse_pair("timm:resnet50:gradcam")
    ('timm:resnet50', 'gradcam')
    """
    classifier, _, explainer = text.rpartition(":")
    if not classifier.strip() or not explainer.strip():
        raise UsageError(f"{text!r} is no pair: write CLASSIFIER:EXPLAINER, such as gcm:cwm")
    return classifier, explainer


def runs_of_pairs(
    pairs: Sequence[tuple[str, str]],
    benchmark: str | Path | Benchmark = "phantom",
    *,
    out: Path,
    data_root: Path | None = None,
    options: Mapping[str, Any] | None = None,
    recipe: Mapping[str, Any] | None = None,
    batch_size: int = 32,
    device: str = "auto",
    progress: Progress | None = None,
) -> list[Run]:
    """Return a run for each classifier, of its explainers that are asked for.

    A finished run in `out` serves where it is what would be made now: same protocol, classifier with the same options
    and recipe, data, weights' recipe, version of xaibench, and all the explainers. The others are evaluated into `out`.

    Args:
        pairs: classifier and explainer names.
        benchmark, data_root, options, recipe, batch_size, device, progress: as for `evaluate`.

    Raises:
        XaibenchError: as `evaluate`.
    """
    progress = progress or Progress()
    protocol = benchmark if isinstance(benchmark, Benchmark) else load_benchmark(benchmark)
    asked: dict[str, list[str]] = {}
    for classifier, explainer in pairs:
        asked.setdefault(classifier, []).append(explainer)
    splits = load_splits(protocol, data_root)
    runs = []
    for classifier, names in asked.items():
        spec = override(protocol.classifier(classifier), options or {}, recipe or {})
        explainers = tuple(dict.fromkeys(names))
        run = finished_run(out, classifier, explainers, protocol, spec, splits)
        if run is None:
            run = evaluate(
                classifier,
                explainers,
                protocol,
                data_root=data_root,
                out=out,
                options=options,
                recipe=recipe,
                batch_size=batch_size,
                device=device,
                store=default_store(),
                progress=progress,
            )
        else:
            progress.say(f"{classifier}: {', '.join(explainers)} found in {run.directory}")
        failed = {name: reason for name, reason in run.record.get("failed", {}).items() if name in explainers}
        if failed:
            name, reason = next(iter(failed.items()))
            raise XaibenchError(f"explainer {name} of {classifier} failed ({reason}): leave {classifier}:{name} out")
        runs.append(replace(run, explainers=explainers, baselines=_beside(run, explainers)))
    return runs


def _beside(run: Run, explainers: Sequence[str]) -> tuple[str, ...]:
    return tuple(name for name in run.baselines if name not in explainers)


def finished_run(
    folder: Path, classifier: str, explainers: Sequence[str], benchmark: Benchmark, spec: ClassifierSpec, splits: Splits
) -> Run | None:
    """Return a run in a folder that is what `evaluate` would make now, the one with the fewest explainers; else None.

    A directory that is no whole run is passed over.
    """
    weights = _Weights(classifier, spec, benchmark, splits)
    data = {name: getattr(splits, name).fingerprint for name in ("train", "val", "test")}
    found = []
    for path in sorted(folder.glob("*/run.json")):
        try:
            run = Run.load(path.parent)
        except XaibenchError:
            continue
        record = run.record
        same = (
            run.benchmark.hash == benchmark.hash
            and run.classifier == classifier
            and set(explainers) <= {*run.explainers, *run.baselines}
            and not set(explainers) & set(record.get("failed", {}))
            and record.get("data") == data
            and weights.made(run)
            and dict(record.get("versions", {})).get("xaibench") == xaibench.__version__
            and all((path.parent / table).is_file() for table in ("scores.parquet", "predictions.parquet"))
        )
        if same:
            found.append(run)
    return min(found, key=lambda run: len(run.explainers), default=None)


class _Weights:
    """What weights a run would have now."""

    def __init__(self, classifier: str, spec: ClassifierSpec, benchmark: Benchmark, splits: Splits) -> None:
        self._given, self._splits = (classifier, spec, benchmark), splits

    @cached_property
    def _recipe(self) -> str:
        return Making.of(*self._given, self._splits).hash

    @cached_property
    def _sha256(self) -> str:
        return weights_hash(make_classifier(*self._given))

    def made(self, run: Run) -> bool:
        """Tell whether they are the run's: of the same recipe, or, of what is not trained here, the same tensors."""
        known = dict(run.record.get("weights", {}))
        if not run.external:
            return known.get("recipe_hash") == self._recipe
        spec = self._given[1]
        return run.record.get("classifier_options") == dict(spec.options) and known.get("sha256") == self._sha256
