"""The report page: runs of one protocol as one HTML file that needs no network, no server and no other file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from xaibench import __version__
from xaibench.errors import UsageError, XaibenchError
from xaibench.evaluation.restore import Reopened, reopen
from xaibench.io.files import write_atomically
from xaibench.progress import Progress
from xaibench.reporting.html import curves, words
from xaibench.reporting.html.data import Report, clean, embed_json, metric_table, run_name, run_names, score_rows
from xaibench.reporting.html.gallery import Gallery, choose_pairs
from xaibench.reporting.html.tolerance import TOLERANCES
from xaibench.reporting.templating import render
from xaibench.results.run import MACRO, Run

IMAGES = 200
"""Test images in the gallery, unless told otherwise."""


def write_report(
    runs: Sequence[Run],
    path: Path,
    *,
    images: int = IMAGES,
    seed: int = 0,
    data_root: Path | None = None,
    checkpoint: Path | None = None,
    device: str = "auto",
    progress: Progress | None = None,
    opened: Callable[[Run], Reopened] | None = None,
) -> dict[str, Any]:
    """Write one HTML file about runs of one protocol, and return counts: runs, methods, pairs, bytes.

    Args:
        path: the file; its folder is made.
        images: at most so many test images in the gallery, whose maps are made again; 0: no gallery.
        seed: of the draw of these images.
        data_root, checkpoint, device: see `reopen`.
        opened: how a run is reopened, should it not be from its record.

    Raises:
        UsageError: runs of different protocols or images, or one checkpoint for several runs.
        XaibenchError: the maps can't be made again, or the file can't be written; says why.
    """
    report = Report(runs)
    progress = progress or Progress()
    if checkpoint is not None and len(report.runs) > 1 and images:
        raise UsageError("--checkpoint is of one run: make a report of it alone, or put the weights into the cache")
    show = opened or (lambda run: reopen(run, data_root=data_root, checkpoint=checkpoint, device=device))
    gallery = None
    if images and report.methods:
        gallery = Gallery(report, choose_pairs(report, images, seed))
        for index, run in enumerate(report.runs):
            try:
                again = show(run)
            except UsageError:
                raise
            except XaibenchError as error:
                raise type(error)(f"{error}. --images 0 makes the report without a gallery") from error
            gallery.fill(index, again, progress)
    progress.stage("writing", 1)
    page = render_report(report, gallery)
    data = page.encode("utf-8")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda part: part.write_bytes(data))
    except OSError as error:
        raise XaibenchError(f"can't write {path}: {error.strerror or error}") from error
    progress.advance(1)
    return {
        "path": str(path),
        "runs": len(report.runs),
        "methods": len(report.methods),
        "pairs": len(gallery.places) if gallery else 0,
        "bytes": len(data),
    }


def render_report(report: Report, gallery: Gallery | None) -> str:
    """Return the page."""
    metrics = metric_table(report)
    costs, forward = curves.costs(report)
    title = report.benchmark.title or report.benchmark.name
    data = {
        "classes": [clean(name) for name in report.classes],
        "boxed": [report.classes.index(name) for name in report.boxed],
        "macro": MACRO,
        "confidence": report.benchmark.statistics.confidence,
        "runs": [{"name": name, "forward": forward[index]} for index, name in enumerate(run_names(report.runs))],
        "methods": [
            {"run": m.run, "name": clean(m.explainer), "label": m.label, "baseline": m.baseline, "ms": costs[k]}
            for k, m in enumerate(report.methods)
        ],
        "metrics": metrics,
        "marks": words.marks(report),
        "scores": score_rows(report, metrics),
        "roc": curves.roc_curves(report),
        "tolerance": {"x": TOLERANCES, "lines": gallery.tolerance_curves() if gallery else []},
        "distributions": curves.distributions(report),
        "rankings": curves.rankings(report),
    }
    return render(
        "report/page.html.j2",
        title=clean(title),
        benchmark=report.benchmark,
        version=__version__,
        summary=words.summary(report),
        warnings=words.warnings(report),
        doctor=words.doctor(report),
        audit=words.audit(report),
        runs=[_facts(run, name) for run, name in zip(report.runs, run_names(report.runs), strict=True)],
        protocol=_protocol(report),
        metrics=metrics,
        pairs=len(gallery.places) if gallery else 0,
        data=embed_json(data),
        gallery=embed_json(gallery.page()) if gallery else None,
    )


def _facts(run: Run, name: str) -> dict[str, Any]:
    """Return what is known of a run, as rows of a table: hashes, versions, times."""
    record = run.record
    weights, data = dict(record.get("weights") or {}), dict(record.get("data") or {})
    rows = {
        "Run": record.get("id", ""),
        "Classifier": run.classifier,
        "Classifier options": _pairs(record.get("classifier_options")),
        "Recipe": "" if run.external else _pairs(record.get("recipe")),
        "Explained layer": _layer(record.get("layer")),
        "Weights": weights.get("source", ""),
        "Weights sha256": weights.get("sha256", ""),
        "Recipe hash": "" if run.external else weights.get("recipe_hash", ""),
        "Protocol hash": run.benchmark.hash,
        **{f"Data, {part}": digest for part, digest in data.items()},
        "Test set": _pairs(record.get("test")),
        "Device": record.get("device", ""),
        "Seconds": _pairs(record.get("seconds")),
        "Versions": _pairs(record.get("versions")),
        "Folder": Path(run_name(run)).name,
    }
    return {"name": name, "rows": {clean(k): clean(str(v)) for k, v in rows.items() if v not in ("", None)}}


def _layer(layer: Any) -> str:
    known = dict(layer or {})
    if not known.get("name"):
        return str(known.get("reason", ""))
    height, width = known["grid"]
    return f"{known['name']}, {known['channels']} x {height} x {width}, {known['layout']}: {known['reason']}"


def _protocol(report: Report) -> dict[str, str]:
    spec = report.benchmark
    metrics = "; ".join(f"{m.name} ({_pairs(m.parameters)})" if m.parameters else m.name for m in spec.metrics)
    frame = {"input": "the input's", "image": "each image's own"}.get(
        str(spec.localization.frame), f"a {spec.frame} px"
    )
    rows = {
        "Name": spec.name,
        "Description": " ".join(spec.description.split()),
        "Hash": spec.hash,
        "Task": spec.task,
        "Classes": ", ".join(spec.classes),
        "Input": f"{spec.input_size} px",
        "Dataset": f"{spec.dataset.name} ({_pairs(spec.dataset.options)})",
        "Regions": f"{spec.localization.regions}, in {frame} frame",
        "Baselines": ", ".join(spec.localization.baselines),
        "Metrics": metrics,
        "Intervals": f"{spec.statistics.confidence:.0%}, {spec.statistics.method} bootstrap of patients, "
        f"{spec.statistics.resamples} resamples, seed {spec.statistics.seed}",
    }
    return {key: clean(value) for key, value in rows.items() if value}


def _pairs(values: Any) -> str:
    return ", ".join(f"{key} {value}" for key, value in dict(values or {}).items())
