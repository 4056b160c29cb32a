"""A grid: classifiers x explainers x seeds in one TOML file, evaluated cell by cell; a cell is a classifier and a seed.

benchmark = "phantom"                # a registered name, or a TOML file beside this one
data_root = "data"                   # optional, beside this file
explainers = ["gradcam", "cam"]
metrics = ["localization"]           # optional, in place of the benchmark's
seeds = [0, 1, 2]                    # optional: seeds of the recipe

[[classifiers]]
name = "gcm"
explainers = ["cwm"]                 # optional, in place of the grid's
options = { }                        # optional, as are fields of the recipe
recipe = { epochs = 20 }
"""

from __future__ import annotations

import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from xaibench import registry
from xaibench.benchmark import Benchmark, load_benchmark
from xaibench.datasets.base import Splits
from xaibench.errors import UsageError, XaibenchError, did_you_mean
from xaibench.evaluation.engine import Engine
from xaibench.evaluation.evaluate import evaluate
from xaibench.evaluation.pairs import finished_run
from xaibench.evaluation.selection import select_metrics
from xaibench.evaluation.setup import duration, load_splits, spec_of
from xaibench.progress import Progress
from xaibench.results.run import Run

Names = Annotated[tuple[str, ...], Field(min_length=1)]


class _Spec(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class GridClassifier(_Spec):
    """A classifier of a grid."""

    name: str
    options: Mapping[str, Any] = Field(default_factory=dict)
    recipe: Mapping[str, Any] = Field(default_factory=dict)
    explainers: Names | None = None
    """In place of the grid's."""


class Grid(_Spec):
    """What a grid file says; see this file's head."""

    benchmark: str = "phantom"
    data_root: Path | None = None
    explainers: Names | None = None
    metrics: Names | None = None
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] | None = None
    classifiers: Annotated[tuple[GridClassifier, ...], Field(min_length=1)]

    @field_validator("seeds")
    @classmethod
    def _different(cls, seeds: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if seeds is not None and len(set(seeds)) != len(seeds):
            raise ValueError("a seed is named twice")
        return seeds


@dataclass(frozen=True)
class Cell:
    """One evaluation of a grid; `seed` is None for a classifier that comes trained, or where the grid names none."""

    classifier: str
    seed: int | None
    explainers: tuple[str, ...]
    options: Mapping[str, Any]
    recipe: Mapping[str, Any]

    def __str__(self) -> str:
        return self.classifier if self.seed is None else f"{self.classifier} seed {self.seed}"


@dataclass(frozen=True)
class Finished:
    """A cell's outcome: a run, found or made, or what went wrong."""

    cell: Cell
    run: Run | None
    found: bool = False
    error: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the cell, its state, and the run's scores, as a JSON object."""
        run, cell = self.run, self.cell
        return {
            "classifier": cell.classifier,
            "seed": cell.seed,
            "explainers": list(cell.explainers),
            "options": dict(cell.options),
            "recipe": dict(cell.recipe),
            "found": self.found,
            "error": self.error,
            "directory": str(run.directory) if run else None,
            "scores": [score.to_json() for score in run.scores] if run else [],
        }


def read_grid(path: Path) -> Grid:
    """Read a grid file; what it names by a relative path lies beside it.

    Raises:
        UsageError: the file can't be read, or a key is unknown, missing or wrong; names file and key.
    """
    try:
        grid = Grid.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise UsageError(f"no grid file {path}") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"can't read {path}: {error}") from error
    except ValidationError as error:
        raise UsageError(f"{path}: {_fault(error)}") from error
    for known in grid.classifiers:
        if known.explainers is None and grid.explainers is None:
            raise UsageError(f"{path}: no explainers for {known.name}: give the grid explainers, or the classifier")
    changes: dict[str, Any] = {}
    if grid.benchmark.endswith(".toml"):
        changes["benchmark"] = str(path.parent / grid.benchmark)
    if grid.data_root is not None:
        changes["data_root"] = path.parent / grid.data_root.expanduser()
    return grid.model_copy(update=changes)


def cells(grid: Grid) -> list[Cell]:
    """Return the cells, classifier by classifier.

    Raises:
        PluginError: an unknown classifier.
        UsageError: a recipe's seed beside the grid's, or the same cell twice.
    """
    found: list[Cell] = []
    for known in grid.classifiers:
        comes_trained = getattr(registry.get("classifiers", known.name).load(), "comes_trained", False)
        explainers = known.explainers or grid.explainers or ()
        if grid.seeds is not None and "seed" in known.recipe:
            raise UsageError(f"{known.name} has a seed in its recipe, beside the grid's seeds: leave one out")
        for seed in (None,) if comes_trained or grid.seeds is None else grid.seeds:
            recipe = dict(known.recipe) if seed is None else {**known.recipe, "seed": seed}
            found.append(Cell(known.name, seed, tuple(dict.fromkeys(explainers)), dict(known.options), recipe))
    for number, cell in enumerate(found):
        if cell in found[:number]:
            raise UsageError(f"the grid names {cell} twice, with the same options and recipe")
    return found


def run_grid(
    grid: Grid,
    *,
    out: Path,
    engine: Engine,
    data_root: Path | None = None,
    device: str = "auto",
    progress: Progress | None = None,
    **how: Any,
) -> Iterator[Finished]:
    """Evaluate the cells one after the other, and yield each as it is finished.

    A run in `out` that is what would be made now serves; a cell that fails costs the others nothing.

    Args:
        out: the folder of the run directories.
        engine: runs the splits through; kept over all cells.
        data_root: in place of the grid's.
        device, progress: as for `evaluate`.
        how: any other options of `evaluate`, such as batch_size, store, precision.

    Raises:
        XaibenchError: the benchmark or its data can't be had.
    """
    progress = progress or Progress()
    protocol, root = load_benchmark(grid.benchmark), data_root or grid.data_root
    if grid.metrics is not None:
        protocol, _ = select_metrics(protocol, grid.metrics)
    everything = cells(grid)
    splits = load_splits(protocol, root)
    seconds: list[float] = []
    for number, cell in enumerate(everything, start=1):
        where = f"[{number}/{len(everything)}] {cell}"
        began = time.monotonic()
        try:
            run = _found(out, cell, protocol, splits)
            if run is not None:
                progress.say(f"{where}: found in {run.directory}")
                yield Finished(cell, run, found=True)
                continue
            run = evaluate(
                cell.classifier,
                cell.explainers,
                protocol,
                data_root=root,
                out=out,
                options=cell.options,
                recipe=cell.recipe,
                device=device,
                engine=engine,
                progress=_within(progress, where),
                **how,
            )
        except XaibenchError as error:
            progress.say(f"{where}: failed ({error})")
            yield Finished(cell, None, error=str(error))
            continue
        seconds.append(time.monotonic() - began)
        left = sum(seconds) / len(seconds) * (len(everything) - number)
        more = f"; about {duration(left)} for the other {len(everything) - number}" if number < len(everything) else ""
        progress.say(f"{where}: done in {seconds[-1]:.0f} s{more}")
        failed = {name: str(why) for name, why in run.record["failed"].items() if name in run.explainers}
        reasons = "; ".join(f"explainer {name} failed ({why})" for name, why in failed.items())
        yield Finished(cell, run, error=reasons or None)


def _found(out: Path, cell: Cell, protocol: Benchmark, splits: Splits) -> Run | None:
    """Return a finished run of the cell, of exactly its explainers."""
    spec = spec_of(cell.classifier, protocol, cell.options, cell.recipe)
    run = finished_run(out, cell.classifier, cell.explainers, protocol, spec, splits)
    if run is None or set(run.explainers) != set(cell.explainers):
        return None
    return run


def _within(progress: Progress, where: str) -> Progress:
    def stage(name: str, total: int) -> None:
        progress.stage(f"{where}: {name}", total)

    return replace(progress, stage=stage)


def summary(done: Sequence[Finished]) -> tuple[list[str], list[list[str]]]:
    """Return a header and one line for each cell: the mean ROC-AUC, and each explainer's first headline score.

    The score is the mean over the classes of the benchmark's first metric of maps; its name is in the header.
    """
    explainers = list(dict.fromkeys(name for finished in done for name in finished.cell.explainers))
    metric = next((m for f in done if f.run is not None for m in [_headline(f.run)] if m), None)
    header = ["cell", "ROC-AUC", *(f"{name} {metric or ''}".strip() for name in explainers), "state", "saved in"]
    rows = []
    for finished in done:
        run = finished.run
        values = [_value(run, None, "roc_auc"), *(_value(run, name, metric) for name in explainers)]
        state = "failed" if finished.error else "found" if finished.found else "done"
        rows.append([str(finished.cell), *values, state, str(run.directory) if run else finished.error or ""])
    return header, rows


def _headline(run: Run) -> str | None:
    return next((score.metric for score in run.scores if score.explainer is not None), None)


def _value(run: Run | None, explainer: str | None, metric: str | None) -> str:
    if run is None or metric is None:
        return "-"
    found = [score for score in run.scores if (score.explainer, score.metric) == (explainer, metric)]
    value = next((score.value for score in found if score.class_name == "macro"), None)
    return "-" if value is None else f"{value:.3f}"


def _fault(error: ValidationError) -> str:
    # A misspelt key is also a missing one: name the misspelling, which says both.
    fault = min(error.errors(include_url=False), key=lambda found: found["type"] != "extra_forbidden")
    key = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        known = GridClassifier if "classifiers" in fault["loc"][:-1] else Grid
        return f"unknown key {key!r}. {did_you_mean(str(fault['loc'][-1]), known.model_fields)}"
    if fault["type"] == "missing":
        return f"key {key!r} is missing"
    message = fault["msg"].removeprefix("Value error, ")
    return f"{key}: {message[:1].lower()}{message[1:]}"
