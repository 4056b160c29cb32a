"""Evaluate a classifier and its explainers by a benchmark: the one call that everything else serves."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic_core import to_jsonable_python
from torch import nn

from xaibench.benchmark import Benchmark, ClassifierSpec, digest, load_benchmark
from xaibench.classifiers.base import MEMORY_FORMATS, Classifier
from xaibench.datasets.base import Split, Splits
from xaibench.doctor import glance
from xaibench.doctor.layers import target_layer
from xaibench.errors import UsageError, XaibenchError
from xaibench.evaluation.batch import Work
from xaibench.evaluation.cache import Kept
from xaibench.evaluation.engine import Engine, check_engine, make_engine
from xaibench.evaluation.inference import Precision, find_batch_size
from xaibench.evaluation.records import Records
from xaibench.evaluation.selection import select_metrics
from xaibench.evaluation.setup import (
    check_logits,
    choose_device,
    load_splits,
    make_classifier,
    make_explainers,
    obtain_weights,
    spec_of,
    weights_hash,
)
from xaibench.evaluation.sheets import ContactSheets
from xaibench.evaluation.summary import summarize, tunes
from xaibench.evaluation.tables import image_tables, prediction_table
from xaibench.explainers.base import Explainer
from xaibench.findings import Note
from xaibench.io.store import Store
from xaibench.io.versions import versions
from xaibench.metrics.base import Metric
from xaibench.metrics.bound import load_metrics
from xaibench.metrics.classification import class_scores, youden
from xaibench.progress import Progress
from xaibench.results.run import Run, save_run
from xaibench.torch_settings import restored_settings
from xaibench.training.checkpoint import Checkpoint

MOST_ASKED_ABOUT = 8
"""Images in a batch where a metric asks the network, hundreds of times about each: forward passes are full all the
same, and larger batches would less often tell how long it takes or be safe in the store."""


@restored_settings()
def evaluate(
    classifier: str | nn.Module,
    explainers: Sequence[str],
    benchmark: str | Path | Benchmark = "phantom",
    *,
    data_root: Path | None = None,
    out: Path | None = None,
    options: Mapping[str, Any] | None = None,
    recipe: Mapping[str, Any] | None = None,
    checkpoint: Path | None = None,
    metrics: Sequence[str] | None = None,
    batch_size: int | Literal["auto"] = 32,
    device: str = "auto",
    devices: int = 1,
    store: Path | None = None,
    precision: Precision = "float32",
    compiled: bool = False,
    decode_workers: int = 0,
    engine: str | Engine = "local",
    progress: Progress | None = None,
) -> Run:
    """Evaluate a classifier and its explainers, training the classifier first where no checkpoint of its recipe exists.

    Args:
        classifier: its registered name, such as "gcm" or "timm:resnet50"; or a network of your own, any `nn.Module`
            from images (B, 3, H, W) to logits (B, K), whose weights stay as they are.
        explainers: registered names, at least one; the benchmark's baselines come beside them.
        benchmark: a registered name, a TOML file, or a `Benchmark`.
        data_root: the folder of the data, for datasets that need one.
        out: the folder of the run directories ("runs" from the command line); None keeps nothing on disk.
        options, recipe: replace options of the classifier, or fields of its recipe. A network of your own has the
            options of `xaibench.classifiers.module.ModuleClassifier` (normalize, layer, outputs and others).
        checkpoint: trained weights to use; they must come from the same recipe.
        metrics: replace the benchmark's, and with them its hash: names, wildcards, categories, or "all"; see
            `xaibench.evaluation.selection.select_metrics`.
        batch_size: images at once, or "auto" for what fits a GPU's memory; scores do not depend on it. At most
            `MOST_ASKED_ABOUT` where a metric asks the network.
        device: "auto", "cpu", "cuda", ...
        devices: how many share a training, should there be one; see `xaibench.training.train.train`.
        store: a folder where predictions, maps and scores are kept and found again, so that a repeated or interrupted
            evaluation computes only what is not there; see `xaibench.io.store`. None keeps nothing.
        precision, compiled: of the forward pass; see `xaibench.evaluation.inference.Forward`.
        decode_workers: processes that decode images; 0 for threads.
        engine: "local", "ray", or one of `xaibench.evaluation.engine.make_engine`, which serves several evaluations and
            is closed by who made it.
        progress: how to report; silent by default.

    Torch's global settings are at the end what they were before.

    Returns:
        The run; with `out`, also on disk: ``run.json``, ``scores.parquet``, ``predictions.parquet``, and a contact
        sheet for each explainer.

    Raises:
        XaibenchError: anything that the user can mend; says what and how.
    """
    if isinstance(engine, str):
        check_engine(engine)
    progress = progress or Progress()
    if isinstance(explainers, str) or not explainers:
        raise UsageError('explainers: give a list of at least one name, such as ["cwm"]')
    if batch_size != "auto" and batch_size < 1:
        raise UsageError(f'batch_size = {batch_size}; it is at least 1, or "auto"')
    if decode_workers < 0:
        raise UsageError(f"decode_workers = {decode_workers}; it is 0 for threads, or a number of processes")
    if isinstance(metrics, str) or (metrics is not None and not metrics):
        raise UsageError('metrics: give a list of at least one name, category or wildcard, such as ["localization"]')
    protocol = benchmark if isinstance(benchmark, Benchmark) else load_benchmark(benchmark)
    protocol, left_out = (protocol.pinned(), []) if metrics is None else select_metrics(protocol, metrics)
    with restored_settings() as changed:  # by plugins and users' files, when they are imported or make something
        spec = spec_of(classifier, protocol, options or {}, recipe or {})
        classification, localization = load_metrics(protocol)
        splits = load_splits(protocol, data_root)
        model = make_classifier(classifier, spec, protocol)
    left_out += [f"making the classifier, data and metrics changed {what}; put back" for what in changed]
    for note in splits.notes:
        progress.say(note)
    model = model.to(choose_device(device))
    remake = partial(make_classifier, classifier, spec, protocol) if isinstance(classifier, str) else None
    classifier = classifier if isinstance(classifier, str) else type(classifier).__name__
    asked, baselines, notes = make_explainers(explainers, protocol.localization.baselines, model, splits)
    weights = obtain_weights(
        classifier, model, spec, protocol, splits, given=checkpoint, devices=devices, progress=progress
    )
    model.eval()
    shelf = Store(store) if store else None
    methods = {**asked, **baselines}
    size = find_batch_size(model) if batch_size == "auto" else batch_size
    together = min(size, MOST_ASKED_ABOUT) if any(metric.asks_network for metric in localization) else size
    sheets = ContactSheets(protocol, list(asked)) if out else None
    work = Work(
        model,
        methods,
        splits.test,
        localization,
        frame=protocol.frame,
        regions=protocol.localization.regions,
        task=protocol.task,
        sheet=sheets,
        running=progress.metric,
        precision=precision,
        compiled=compiled,
        decode_workers=decode_workers,
        remake=remake,
    )
    if shelf:
        work.kept = Kept.of(shelf, classifier, spec.options, work, splits)
    examined = _examined(classifier, model, asked, splits, work.kept)
    began = time.perf_counter()
    progress.stage("explaining", len(splits.test))
    with shelf or nullcontext(), _opened(engine, device) as opened:
        records = opened.records(work, together, progress)
        validation, cuts, untuned = _validate(work, splits, classification, size, opened, progress)
        ran = {**work.forward.identity(), **opened.about()}
    progress.stage("intervals", 1)
    scores = summarize(classifier, protocol, splits.test, records, classification, localization, validation, cuts)
    progress.advance(1)
    notes = [*splits.notes, *notes, *left_out, *untuned, *_selection_note(spec), *_failure_notes(records)]
    notes += [
        *_frame_note(protocol, splits),
        *_logit_notes(records, splits),
        _layer_note(examined["layer"]),
        *(Note(text, "warning", "doctor") for text in examined["findings"]),
        *_store_notes(shelf),
    ]
    record = _record(model, spec, weights, splits, records, time.perf_counter() - began, together)
    record["metrics"] = _metric_record(protocol, [*classification, *(one.metric for one in localization)])
    record |= {"layer": examined["layer"], "memory_format": examined["memory_format"], **ran}
    name = f"{protocol.name}-{classifier.replace(':', '-').replace('/', '-')}"
    parts: list[Any] = [protocol.hash, record["weights"], list(asked), list(baselines), record["data"]]
    if model.comes_trained and spec.options:  # of one that is trained they are in the recipe's hash
        parts.append(dict(spec.options))
    identity = digest(parts)
    run = Run(
        benchmark=protocol,
        classifier=classifier,
        explainers=tuple(asked),
        baselines=tuple(baselines),
        scores=tuple(scores),
        record={"id": identity[:12], **record},
        notes=tuple(notes),
        directory=out / f"{name}-{identity[:8]}" if out else None,
    )
    if run.directory is not None:
        if sheets:
            sheets.write(run, shelf)
        save_run(run, image_tables(splits.test, records), prediction_table(splits.test, records))  # last: it is whole
    return run


def _metric_record(protocol: Benchmark, metrics: Sequence[Metric]) -> dict[str, Any]:
    """Return name to version and effective parameters, defaults among them."""
    given = {spec.name: spec.parameters for spec in protocol.metrics}
    found = {
        metric.name: {"version": metric.version, "parameters": {**metric.parameters, **given[metric.name]}}
        for metric in metrics
    }
    return dict(to_jsonable_python(found))


def _opened(engine: str | Engine, device: str) -> AbstractContextManager[Engine]:
    """Return an engine to enter; one that was given stays open."""
    return make_engine(engine, device=device) if isinstance(engine, str) else nullcontext(engine)


def _validate(
    work: Work, splits: Splits, classification: Sequence[Metric], batch_size: int, engine: Engine, progress: Progress
) -> tuple[Records | None, list[float] | None, list[str]]:
    """Run the validation split for what is tuned on it, and return what is found and the classifier's thresholds.

    Maps are made of it only for the metrics that tune a threshold of maps. Says so where it has no images or regions.
    """
    choosing = [metric for metric in work.metrics if metric.chooses]
    tuning, notes = [metric.name for metric in classification if tunes(metric)], []
    if choosing and not any(splits.val.regions(row) for row in range(len(splits.val))):
        names = ", ".join(metric.metric.name for metric in choosing)
        notes.append(f"no regions in validation: the threshold of {names} is not tuned, only the oracle's is shown")
        choosing = []
    if tuning and not len(splits.val):
        notes.append(f"no validation images: {', '.join(tuning)} have no threshold and are left out")
        tuning = []
    if not choosing and not tuning:
        return None, None, notes
    progress.stage("tuning thresholds", len(splits.val))
    explainers = work.explainers if choosing else {}
    records = engine.records(
        replace(work, explainers=explainers, split=splits.val, metrics=choosing, sheet=None, running=_unheard),
        batch_size,
        progress,
    )
    if not tuning:
        return records, None, notes
    scores, labels, classes = class_scores(records.logits, work.task), np.asarray(splits.val.labels), splits.val.classes
    cuts = [youden(scores[:, k], labels[:, k]) for k in range(len(classes))]
    if missing := [name for name, cut in zip(classes, cuts, strict=True) if not np.isfinite(cut)]:
        notes.append(f"no validation images with and without {', '.join(missing)}: no {', '.join(tuning)} there")
    return records, cuts, notes


def _unheard(*said: object) -> None:
    """Report no metric: the threshold's are quick."""


def _examined(
    name: str, classifier: Classifier, explainers: Mapping[str, Explainer], splits: Splits, kept: Kept | None
) -> Mapping[str, Any]:
    """Make a classifier ready, and return what is found of it: its layer, its memory format, the doctor's findings.

    The network is asked only where the store does not know it.

    Raises:
        UsageError: its logits are not its own; see `check_logits`.
    """
    if kept is not None and (known := kept.examination(splits.test)) is not None:
        classifier.memory_format = MEMORY_FORMATS[known["memory_format"]]
        classifier.optimized()
        return known
    classifier.optimized()
    check_logits(classifier, name)  # trained now: an untrained last layer of zeros may hide what differs
    found = {
        "layer": target_layer(classifier),
        "memory_format": next(key for key, known in MEMORY_FORMATS.items() if known == classifier.memory_format),
        "findings": glance(classifier, explainers, splits.test),
    }
    if kept is not None:
        kept.keep_examination(splits.test, found)
    return found


def _selection_note(spec: ClassifierSpec) -> list[str]:
    if spec.recipe.selection != "paper":
        return []
    return [Note('biased: the epoch was chosen on the test images (selection = "paper")', "warning")]


def _layer_note(layer: Mapping[str, Any]) -> str:
    if layer["name"] is None:
        return f"no layer is explained: {layer['reason']}"
    height, width = layer["grid"]
    where = f"{layer['channels']} channels on {height} x {width}, {layer['layout']}"
    return f"explained layer: {layer['name']}, {where}: {layer['reason']}"


def _frame_note(protocol: Benchmark, splits: Splits) -> list[str]:
    """Say where each image's own size was asked for and the dataset, a plugin's perhaps, knows none."""
    if protocol.frame is not None or type(splits.test).own_frame is not Split.own_frame:
        return []
    return [
        f"dataset {protocol.dataset.name} knows no size of its images but the input's, {splits.test.frame}, so that "
        'localization.frame = "image" is that'
    ]


def _logit_notes(records: Records, splits: Splits) -> list[str]:
    rows = np.flatnonzero(~np.isfinite(records.logits).all(axis=1))
    if not len(rows):
        return []
    first = ", ".join(splits.test.ids[row] for row in rows[:3])
    text = (
        f"the network's logits are NaN or infinite on {len(rows)} of {len(records.logits)} images ({first}), so that "
        "their scores are undefined, whatever the explainer: look at its weights, its normalisation and these images"
    )
    return [Note(text, "warning")]


def _store_notes(store: Store | None) -> list[str]:
    if store is None:
        return []
    notes = []
    if store.damaged:
        notes.append(f"{len(store.damaged)} damaged entries of the store {store.directory} were made again")
    if store.stopped:
        notes.append(
            f"the store took no more ({store.stopped}): the scores are whole, but a repeated run computes again what "
            "is not there; make room with xaibench store prune"
        )
    return notes


def _failure_notes(records: Records) -> list[Note]:
    notes = [f"explainer {name} was given up: {reason}" for name, reason in records.failed.items()]
    notes += [f"explainer {name}: {fault}" for name, faults in records.faults.items() for fault in faults]
    for metric, reasons in records.given_up.items():
        for reason in dict.fromkeys(reasons.values()):
            explainers = [name for name, why in reasons.items() if why == reason]
            everywhere = len(explainers) == len(records.values)
            where = "" if everywhere else f" on {', '.join(explainers)}"
            notes.append(f"metric {metric} was given up{where}: {reason}")
    for metric, reason in records.chance_failed.items():
        if set(records.given_up.get(metric, {})) < set(records.values):  # else its scores say it
            notes.append(f"metric {metric} has no chance level, and undefined maps are left out of it: {reason}")
    return [Note(text, "warning") for text in notes]


def _record(
    classifier: Classifier,
    spec: ClassifierSpec,
    checkpoint: Checkpoint,
    splits: Splits,
    records: Records,
    seconds: float,
    batch_size: int,
) -> dict[str, Any]:
    images, came, external = len(splits.test), classifier.weights.source, classifier.comes_trained
    recipe = "" if external else checkpoint.making.hash
    return {
        "weights": {
            "sha256": weights_hash(classifier),
            "source": f"external, not trained here: {came}" if external else f"recipe {recipe[:12]}, on {came}",
            "external": external,
            "recipe_hash": recipe,
            "pretrained": asdict(classifier.weights),
            "history": checkpoint.history,
        },
        "classifier_options": dict(spec.options),
        "recipe": {} if external else spec.recipe.model_dump(mode="json"),
        "data": {name: getattr(splits, name).fingerprint for name in ("train", "val", "test")},
        "test": {"images": images, "patients": len(set(splits.test.patients)), "pairs": len(records.pair_images)},
        "failed": records.failed,
        "given_up": records.given_up,
        "seconds": {"total": round(seconds, 2)} | {name: round(spent, 3) for name, spent in records.seconds.items()},
        "batch_size": batch_size,
        "device": str(classifier.device),
        "versions": versions(),
    }


def raise_if_failed(run: Run) -> None:
    """Raise when an explainer that was asked for gave no scores; the rest of the run is kept.

    Raises:
        XaibenchError: names the explainers and the reasons.
    """
    failed = {name: reason for name, reason in dict(run.record.get("failed", {})).items() if name in run.explainers}
    if failed:
        name, reason = next(iter(failed.items()))
        raise XaibenchError(f"explainer {name} failed ({reason}); the other scores are kept in {run.directory}")
