"""The page of a reproduction: every published number beside the measured one, or the reason why there is none."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from xaibench.benchmark import Benchmark
from xaibench.errors import XaibenchError, first_line
from xaibench.evaluation.setup import duration
from xaibench.io.files import write_atomically
from xaibench.progress import Progress
from xaibench.published import Published, load_published
from xaibench.reporting.page import Block, Missing, Page, Picture, Section, Table, Text, write_page
from xaibench.studies.gcm_paper.page_aucs import auc_section, difference_section
from xaibench.studies.gcm_paper.page_claims import NIH, open_doubts, paper_departures
from xaibench.studies.gcm_paper.page_cohort import cohort_section
from xaibench.studies.gcm_paper.page_ratings import ratings_section
from xaibench.studies.gcm_paper.page_scores import localization_section, normal_section
from xaibench.studies.gcm_paper.reproduce import BESIDE, Reproduction
from xaibench.studies.gcm_paper.variants import CLASSIFIERS

TITLES = {"gcm": "GCM", "densenet121": "DenseNet-121"}


def write_reproduction(
    found: Reproduction,
    folder: Path,
    *,
    command: str = "",
    ratings: Sequence[Path] = (),
    progress: Progress | None = None,
) -> tuple[Path, ...]:
    """Write ``reproduction.md`` and ``reproduction.html`` into a folder and return their paths.

    Beside them: figures, and every number in ``reproduction.json``. The study by another split rule that stands beside
    this one has its page in a folder of the rule's name.

    Args:
        command: the command line that led here.
        ratings: ratings files of the GCM run whose maps are judged.

    Raises:
        DataError: a file that is no ratings file of that run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    published = load_published()
    rated = ratings_section(found, published, ratings)
    numbers = json.dumps(found.to_json(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomically(folder / "reproduction.json", lambda part: part.write_text(numbers, encoding="utf-8"))
    curves, maps = _draw(found, published, folder, ratings, progress)
    pages = write_page(make_page(found, published, folder, command, rated, curves, maps), folder, "reproduction")
    if found.beside is None:
        return pages
    return *pages, *write_reproduction(found.beside, folder / BESIDE, command=command, progress=progress)


def _draw(
    found: Reproduction, published: Published, folder: Path, ratings: Sequence[Path], progress: Progress | None
) -> tuple[list[Picture], list[Block]]:
    """Draw the visible-in-box curves and figures 5 to 9 of the GCM run whose maps are judged."""
    run = found.best_runs.get("gcm")
    if run is None:
        return [], []
    from xaibench.studies.gcm_paper.page_figures import draw_curves
    from xaibench.studies.gcm_paper.paper_figures import paper_figures

    curves: list[Picture] = []
    if (data := draw_curves(run, published)) is not None:
        path = folder / "visible-in-box.png"
        write_atomically(path, lambda part: part.write_bytes(data))
        curves.append(
            Picture(path.name, "Share of the box that is visible, over the threshold; published on NIH images, by eye")
        )
    try:
        paths = paper_figures(
            run, folder / "figures", ratings=ratings, data_root=found.data_root, device=found.device, progress=progress
        )
    except XaibenchError as error:
        return curves, [Missing(first_line(error, 300), "Figures 5 to 9")]
    captions = {path: f"{path.stem.replace('-', ' ')} (for print: {path.with_suffix('.pdf').name})" for path in paths}
    return curves, [Picture(_relative(path, folder), captions[path]) for path in paths if path.suffix == ".png"]


def make_page(
    found: Reproduction,
    published: Published,
    folder: Path,
    command: str,
    rated: Section,
    curves: Sequence[Picture] = (),
    maps: Sequence[Block] = (),
) -> Page:
    """Lay the reproduction out; `folder` is where the page will stand."""
    base = found.base
    return Page(
        f"Reproduction of the GCM study on {base.title or base.name}",
        [
            _setup_section(found, published, command),
            _deviation_section(found, published),
            cohort_section(found, published),
            _training_section(found, published),
            auc_section(found, published),
            difference_section(found),
            localization_section(found, published, curves),
            normal_section(found, published),
            rated,
            _figure_section(found, folder, maps),
            _provenance_section(found, folder),
        ],
    )


def _setup_section(found: Reproduction, published: Published, command: str) -> Section:
    used = found.benchmarks[0]
    rows = [
        ["benchmark", f"{found.base.name} ({found.base.title})"],
        ["data", f"{used.dataset.name}" + (f" in {found.data_root}" if found.data_root else "")],
        ["measured on", found.measured_on],
        *([["split rule", found.preset]] if found.preset else []),
        *([["beside it", f"the split rule {BESIDE}: {BESIDE}/reproduction.html"]] if found.beside else []),
        ["classes", ", ".join(used.classes)],
        ["input size", f"{used.input_size} px"],
        ["subsets", str(len(found.benchmarks))],
        ["device", found.device],
    ]
    if command:
        rows.insert(0, ["command", command])
    sources = [source.citation + (f", {source.url}" if source.url else "") for source in published.sources.values()]
    rows += [["published numbers", source] for source in sources]
    blocks: list[Block] = [Text(found.claim), Table(["what", "value"], rows)]
    if reason := found.missing.get("runs"):
        blocks.append(Missing(reason, "Everything but the cohort audit"))
    return Section("What was run", blocks)


def _deviation_section(found: Reproduction, published: Published) -> Section:
    blocks: list[Block] = []
    if found.deviations:
        rows = [[deviation.key, deviation.written, deviation.used] for deviation in found.deviations]
        blocks.append(Table(["value", "benchmark as written", "here"], rows, "What was changed in the benchmark"))
    else:
        blocks.append(Text("None: the benchmark was carried out as written."))
    if found.audit is not None and 0 < found.audit.found < found.audit.images:
        n, total = found.audit.found, found.audit.images
        blocks.append(Text(f"Only {n:,} of the {total:,} images of the release are in the data root."))
    seeds = "Subset k adds k to the dataset's subset seed and to the recipe's seed."
    if found.same_training:
        seeds += " Here no class was cut, so all subsets train on the same images and differ by the recipe's seed only."
    blocks.append(Text(seeds))
    blocks.append(
        Text(
            "The subset whose maps are judged is the one with the largest mean ROC-AUC on the test images, as in the "
            "paper: that choice is made on the test and favours it."
        )
    )
    if not set(published.cohort.train).isdisjoint(found.base.classes):
        blocks.append(paper_departures(found, published))
    points = _open_points(found.benchmarks[0]) + open_doubts(found)
    blocks.append(Table(["the paper leaves open", "here"], points, "Points left open"))
    return Section("Deviations", blocks)


def _open_points(benchmark: Benchmark) -> list[list[str]]:
    gcm = benchmark.classifier("gcm")
    options: Mapping[str, Any] = {"decoders": "shared", "head": "linear", "multiply": "raw", **gcm.options}
    selection = {
        "validation": "the best mean ROC-AUC on validation patients that are not in the training",
        "last": "the last epoch",
        "paper": "the best on the test images (biased)",
    }
    return [
        ["which epoch's weights", selection[gcm.recipe.selection]],
        ["one decoder, or one a class", f"decoders = {options['decoders']}"],
        ["batch norm and ReLU after the last convolution", f"head = {options['head']}"],
        ["the image that multiplies the class weight map", f"multiply = {options['multiply']}"],
        ["encoder", f"{options.get('encoder', 'the default')}, weights = {options.get('weights', 'auto')}, frozen"],
        ["which map is judged", "CWM (shown in the paper), CCM (adds up to the score), and CCM against other classes"],
        ["visual hit", "the share of the box where the map exceeds a share of its maximum, as a curve"],
        ["split rule", str(benchmark.dataset.options.get("split", "that of the dataset"))],
    ]


def _training_section(found: Reproduction, published: Published) -> Section:
    printed, used = published.training, found.benchmarks[0]
    columns = []
    for name in CLASSIFIERS:
        recipe, paper = used.classifier(name).recipe, printed.classifiers[name]
        loss = "cross entropy" if used.task == "multiclass" else "binary cross entropy"
        size = found.sizes.get(name)
        columns.append([f"{printed.input_size} px", paper.optimizer, f"{paper.learning_rate:g}"])
        columns[-1] += [str(printed.batch_size), str(printed.epochs), printed.loss, "-", "-", "-", "-", "-", "-"]
        columns.append([f"{used.input_size} px", recipe.optimizer, f"{recipe.learning_rate:g}"])
        columns[-1] += [str(recipe.batch_size), str(recipe.epochs), loss, recipe.schedule, recipe.sampling]
        columns[-1] += ["yes" if recipe.flip else "no", recipe.selection]
        columns[-1] += [f"{size.parameters:,}", f"{size.trained:,}"] if size else ["-", "-"]
    what = ["input size", "optimizer", "learning rate", "batch size", "epochs", "loss", "schedule", "sampling"]
    what += ["mirrored images", "epoch selected by", "parameters", "of those trained"]
    headers = ["", *(f"{TITLES[name]}, {side}" for name in CLASSIFIERS for side in (NIH, "here"))]
    rows = [[name, *cells] for name, *cells in zip(what, *columns, strict=True)]
    blocks: list[Block] = [Table(headers, rows)]
    if not found.runs:
        return Section("Training (table 2)", [*blocks, Missing(found.missing.get("runs", ""), "Training")])
    lines = []
    for name in CLASSIFIERS:
        for subset, run in enumerate(found.runs[name]):
            history = run.record["weights"]["history"]
            known = [(row["auc"], row["epoch"]) for row in history if row["auc"] is not None]
            auc, epoch = max(known, key=lambda pair: (pair[0], -pair[1])) if known else (None, None)
            seconds = found.training_seconds[name][subset]
            lines.append(
                [
                    f"{TITLES[name]}, subset {subset}",
                    str(len(history)),
                    "-" if epoch is None else f"{epoch:.0f}",
                    "-" if auc is None else f"{auc:.3f}",
                    "-" if not history else f"{history[-1]['loss']:.4f}",
                    "not known" if seconds is None else f"{seconds:,.0f}",
                ]
            )
    headers = ["training", "epochs", "best epoch", "its mean ROC-AUC, held out", "last loss", "seconds"]
    blocks.append(Table(headers, lines, "Seconds count from the last interruption, where there was one"))
    return Section("Training (table 2)", blocks)


def _figure_section(found: Reproduction, folder: Path, maps: Sequence[Block]) -> Section:
    blocks = list(maps)
    for run in found.best_runs.values():
        assert run.directory is not None
        for path in sorted(run.directory.glob("contact-sheet-*.png")):
            explainer = path.stem.removeprefix("contact-sheet-")
            caption = f"{explainer} of {TITLES[run.classifier]}: per class up to three hits and a miss, boxes in blue"
            blocks.append(Picture(_relative(path, folder), caption))
    if not blocks:
        blocks.append(Missing(found.missing.get("runs", "no map was kept"), "Figures 5 to 9"))
    return Section("Maps (figures 5 to 9)", blocks)


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path, folder)).as_posix()


def _provenance_section(found: Reproduction, folder: Path) -> Section:
    blocks: list[Block] = [Text(f"This call took {duration(found.seconds)} on {found.device}.")]
    if not found.runs:
        blocks.append(Missing(found.missing.get("runs", ""), "Hashes of weights and data"))
        return Section("Versions, hashes, time taken", blocks)
    rows = []
    for name in CLASSIFIERS:
        for subset, (run, benchmark) in enumerate(zip(found.runs[name], found.benchmarks, strict=True)):
            weights, data = run.record["weights"], run.record["data"]
            rows.append(
                [
                    f"{TITLES[name]}, subset {subset}",
                    benchmark.hash[:12],
                    weights["sha256"][:12],
                    weights["pretrained"]["source"],
                    f"{data['train'][:8]} {data['val'][:8]} {data['test'][:8]}",
                    f"{run.record['seconds']['total']:.0f}",
                    "" if run.directory is None else _relative(run.directory, folder),
                ]
            )
    headers = ["run", "benchmark", "weights", "pretrained from", "data: train, val, test", "seconds", "kept in"]
    blocks.append(Table(headers, rows, "First digits of sha256; seconds of explaining and scoring"))
    versions = {package: version for run in found.runs["gcm"] for package, version in run.record["versions"].items()}
    blocks.append(Table(["package", "version"], [[package, version] for package, version in versions.items()]))
    notes = dict.fromkeys(
        f"{TITLES[name]}: {note}" for name, runs in found.runs.items() for run in runs for note in run.notes
    )
    blocks += [Text(note) for note in (*found.notes, *notes)]
    return Section("Versions, hashes, time taken", blocks)
