"""Results that were handed in: a run's small JSON, and whether it may stand beside the others.

A folder of results holds one JSON for each run and ``data.json``, which pins the version of each benchmark's data.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from xaibench import registry
from xaibench.benchmark import Benchmark, Recipe, deviations, digest, load_benchmark
from xaibench.datasets.base import Splits
from xaibench.errors import DataError, PluginError, UsageError, XaibenchError, first_line
from xaibench.io.files import write_atomically
from xaibench.io.limits import read_json
from xaibench.results.run import Run, Score
from xaibench.training.checkpoint import Making

FORMAT = 1
PINS = "data.json"
SPLITS = ("train", "val", "test")
SHOWN = 4
"""So many differences are named in a reason."""


class TurnedAwayError(XaibenchError):
    """A result that may not stand beside the others; the message is the reason."""


class Result(BaseModel):
    """What is kept of a run: enough to judge and to repeat it, nothing of an image.

    Attributes:
        id: the run's.
        benchmark_hash: as the run recorded it.
        scores: headline scores, class by class.
        data: fingerprints of the splits.
        boxed_in_training: images on which maps were scored that training or validation had too; None: not counted.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    format: int = FORMAT
    id: str
    benchmark: Benchmark
    benchmark_hash: str
    classifier: str
    classifier_options: Mapping[str, Any]
    recipe: Recipe
    explainers: tuple[str, ...]
    baselines: tuple[str, ...]
    weights: Mapping[str, Any]
    data: Mapping[str, str]
    test: Mapping[str, int]
    versions: Mapping[str, str]
    boxed_in_training: int | None = None
    scores: tuple[Score, ...] = Field(min_length=1)

    @field_validator("benchmark", mode="before")
    @classmethod
    def _scored(cls, table: Any) -> Any:
        """Earlier versions did not write by which rules they scored."""
        return {"scoring": 1, **table} if isinstance(table, Mapping) else table

    @field_validator("format")
    @classmethod
    def _known(cls, number: int) -> int:
        if number != FORMAT:
            raise ValueError(f"it is {FORMAT} in this version of xaibench")
        return number

    @field_validator("scores", mode="before")
    @classmethod
    def _read(cls, rows: Any) -> Any:
        if not isinstance(rows, list):
            return rows
        return [{("class_name" if key == "class" else key): row[key] for key in row} for row in rows]

    def to_json(self) -> dict[str, Any]:
        """Return the result as `read_result` reads it."""
        return {**self.model_dump(mode="json"), "scores": [score.to_json() for score in self.scores]}


@dataclass(frozen=True)
class Results:
    """A folder of results.

    Attributes:
        accepted: those that may stand side by side, by benchmark.
        turned_away: file name to the reason.
    """

    accepted: Mapping[str, list[Result]]
    turned_away: Mapping[str, str]


def result_of(run: Run, recorded_hash: str, boxed_in_training: int | None = None) -> Result:
    """Return what is kept of a run.

    Raises:
        TurnedAwayError: its record is incomplete.
    """
    record = run.record
    names = _headline_names(run)
    try:
        weights = dict(record["weights"])
        return Result(
            id=str(record["id"]),
            benchmark=run.benchmark,
            benchmark_hash=recorded_hash,
            classifier=run.classifier,
            classifier_options=record["classifier_options"],
            recipe={} if run.external else record["recipe"],
            explainers=run.explainers,
            baselines=run.baselines,
            weights={key: weights[key] for key in ("sha256", "source", "recipe_hash")} | {"external": run.external},
            data=record["data"],
            test=record["test"],
            versions=record["versions"],
            boxed_in_training=boxed_in_training,
            scores=tuple(score for score in run.scores if score.metric in names),
        )
    except KeyError as error:
        raise TurnedAwayError(f"its record has no {error}: run it again with this version of xaibench") from error
    except ValidationError as error:
        raise TurnedAwayError(f"its record is damaged: {_fault(error)}") from error


def _headline_names(run: Run) -> set[str]:
    """Return the names of the scores that are kept: of a curve one point."""
    found = set()
    for spec in run.benchmark.metrics:
        try:
            metric = registry.get("metrics", spec.name).load()
        except PluginError:
            found.add(spec.name)
            continue
        found.update(metric.headline_scores)
    return found


def check_result(result: Result, pins: Mapping[str, Mapping[str, str]]) -> None:
    """Check that a result may stand beside the others of its benchmark.

    Args:
        result: a run's.
        pins: benchmark name to the fingerprints of its data.

    Raises:
        TurnedAwayError: made by another protocol, on another version of the data, or with boxed images in training.
    """
    name = result.benchmark.name
    try:
        registered = load_benchmark(name)
    except PluginError as error:
        raise TurnedAwayError(f"no benchmark {name!r} is installed") from error
    if result.benchmark_hash != result.benchmark.hash:
        raise TurnedAwayError(
            f"its protocol was changed after the run: recorded hash {result.benchmark_hash[:12]}, its benchmark's "
            f"{result.benchmark.hash[:12]}"
        )
    if result.benchmark_hash != registered.hash:
        raise TurnedAwayError(
            f"made by another protocol than {name} (hash {result.benchmark_hash[:12]}, here {registered.hash[:12]}): "
            f"{_differences(registered, result.benchmark)}"
        )
    if name in pins and (other := [part for part in SPLITS if result.data.get(part) != pins[name].get(part)]):
        shown = ", ".join(
            f"{part} {result.data.get(part, 'not set')[:12]}, not {pins[name].get(part, 'not set')[:12]}"
            for part in other
        )
        raise TurnedAwayError(f"made on another version of the data of {name}: {shown}")
    if not result.weights.get("external") and result.weights.get("recipe_hash") != _making(result).hash:
        raise TurnedAwayError("its weights were trained on other images, or by another recipe, than its record says")
    if result.recipe.selection == "paper":
        raise TurnedAwayError('the epoch was chosen on the boxed test images (selection = "paper")')
    if result.boxed_in_training:
        raise TurnedAwayError(
            f"{result.boxed_in_training} images whose boxes are scored were in training or validation"
        )
    if result.boxed_in_training is None:
        raise TurnedAwayError("nobody counted the boxed images in its training: give --data-root DIR, with the data")


def _differences(registered: Benchmark, used: Benchmark) -> str:
    found = [
        f"{change.key} {change.used}, not {change.written}"
        for change in deviations(registered, used)
        if change.key not in ("title", "description")
    ]
    more = f" (and {len(found) - SHOWN} more)" if len(found) > SHOWN else ""
    return "; ".join(found[:SHOWN]) + more if found else "the order of its metrics or classes"


def _making(result: Result) -> Making:
    data = {part: result.data.get(part, "") for part in ("train", "val")}
    if result.recipe.selection == "paper":
        data["test"] = result.data.get("test", "")
    protocol = result.benchmark
    recipe = result.recipe.model_dump(mode="json")
    options = dict(result.classifier_options)
    return Making(result.classifier, protocol.classes, protocol.task, protocol.input_size, options, recipe, data)


def add_run(directory: Path, folder: Path, *, data_root: Path | None = None) -> Path:
    """Check a run and copy what is kept of it into a folder of results.

    The data are built anew, to compare their fingerprints and to count boxed images in training. Where they are not at
    hand, the fingerprints that the folder has pinned for the benchmark decide: data alike were counted before.

    Args:
        directory: the run's.
        folder: of the results; made where it is missing.
        data_root: the folder of the data, for datasets that need one.

    Returns:
        The file written.

    Raises:
        TurnedAwayError: the run may not stand beside the others; the message is the reason.
        XaibenchError: a run that can't be read.
    """
    run = Run.load(directory)
    recorded = read_json(directory / "run.json")["run"]["benchmark_hash"]
    result = result_of(run, str(recorded))
    pins = read_pins(folder)
    name = run.benchmark.name
    check_result(result.model_copy(update={"boxed_in_training": 0}), pins)
    splits = _splits(run.benchmark, data_root)
    if splits is None:
        if name not in pins:
            raise TurnedAwayError(
                f"the data of {name} are not at hand, and {folder / PINS} does not pin them yet: give --data-root DIR"
            )
        boxed = 0
    else:
        data = {part: getattr(splits, part).fingerprint for part in SPLITS}
        check_result(result.model_copy(update={"boxed_in_training": 0}), {name: data})
        boxed = boxed_in_training(run, splits)
    result = result.model_copy(update={"boxed_in_training": boxed})
    check_result(result, pins)
    folder.mkdir(parents=True, exist_ok=True)
    if name not in pins:
        _write(folder / PINS, {**pins, name: {part: result.data[part] for part in SPLITS}})
    path = folder / f"{_slug(name)}-{_slug(run.classifier)}-{_slug(result.id)}.json"
    _write(path, result.to_json())
    return path


def _splits(benchmark: Benchmark, data_root: Path | None) -> Splits | None:
    """Build the data, None where they are not given."""
    from xaibench.evaluation.setup import load_splits

    try:
        return load_splits(benchmark, data_root)
    except (DataError, UsageError):
        if data_root is not None:
            raise
        return None


def boxed_in_training(run: Run, splits: Splits) -> int:
    """Count the images on which a run's maps were scored that the training or validation split has too."""
    seen = {*map(str, splits.train.ids), *map(str, splits.val.ids)}
    return len(seen & set(run.images()["image"].astype(str)))


def read_results(folder: Path) -> Results:
    """Read a folder of results and check each of them.

    Raises:
        XaibenchError: no such folder, or the pins are damaged.
    """
    if not folder.is_dir():
        raise XaibenchError(f"no folder of results {folder}: make one with xaibench leaderboard add RUN --to {folder}")
    pins = read_pins(folder)
    accepted: dict[str, list[Result]] = {}
    turned_away: dict[str, str] = {}
    seen: dict[str, str] = {}
    for path in sorted(folder.glob("*.json")):
        if path.name == PINS:
            continue
        try:
            result = read_result(path)
            check_result(result, pins)
            if result.benchmark.name not in pins:
                raise TurnedAwayError(f"{PINS} does not pin the data of {result.benchmark.name}: add it again")
            key = digest([result.benchmark_hash, result.id])
            if key in seen:
                raise TurnedAwayError(f"the same run as {seen[key]}")
        except XaibenchError as error:
            turned_away[path.name] = first_line(error, 400)
            continue
        seen[key] = path.name
        accepted.setdefault(result.benchmark.name, []).append(result)
    return Results(accepted, turned_away)


def read_result(path: Path) -> Result:
    """Read one result.

    Raises:
        TurnedAwayError: it is damaged; says where.
    """
    try:
        return Result.model_validate(read_json(path))
    except ValidationError as error:
        raise TurnedAwayError(f"damaged: {_fault(error)}") from error
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise TurnedAwayError(f"damaged: {type(error).__name__} {first_line(error)}") from error


def read_pins(folder: Path) -> dict[str, dict[str, str]]:
    """Return benchmark name to the fingerprints of its data; empty where the folder has none.

    Raises:
        XaibenchError: the file is damaged.
    """
    path = folder / PINS
    try:
        table = read_json(path)
        return {str(name): {part: str(pinned[part]) for part in SPLITS} for name, pinned in table.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise XaibenchError(f"{path} is damaged ({type(error).__name__} {error}): restore it") from error


def _write(path: Path, value: Any) -> None:
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False, sort_keys=path.name == PINS) + "\n"
    write_atomically(path, lambda part: part.write_text(text, encoding="utf-8"))


def _slug(text: str) -> str:
    r"""Return a name for a file: ASCII letters, digits, points, hyphens and underscores.

    >>> _slug("timm:resnet50"), _slug("../<b>")
    ('timm-resnet50', 'b')
    """
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.")[:60] or "unnamed"


def _fault(error: ValidationError) -> str:
    fault = error.errors(include_url=False)[0]
    return f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}"
