"""A benchmark: a pinned protocol, read from TOML. Everything that decides a number is in it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from xaibench.errors import BenchmarkError, PluginError, did_you_mean, first_line
from xaibench.io.limits import read_toml
from xaibench.types import Frame

SCORING = 2
"""How scores are made of maps, for all metrics at once. 1: undefined maps were left out of headline values."""
RESERVED = frozenset({"macro"})
"""Names that a class can't have."""


class _Spec(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Recipe(_Spec):
    """How a classifier is trained."""

    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    learning_rate: Annotated[float, Field(gt=0)] = 0.1
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    schedule: Literal["constant", "cosine"] = "constant"
    epochs: Annotated[int, Field(ge=1)] = 100
    batch_size: Annotated[int, Field(ge=2)] = 32
    sparsity: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the mean absolute class contribution map in the loss: less evidence, better placed (GCM only)."""
    concentration: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the contribution maps' ratio of L1 to L2 norm, 1 where even, near 0 in one place: the same evidence on
    fewer pixels, however large the scores (GCM only; Hoyer 2004)."""
    sparsity_warmup: Annotated[int, Field(ge=0)] = 0
    """So many epochs without these terms first: what is hard to see must be found before evidence is made scarce."""
    sampling: Literal["natural", "balanced"] = "natural"
    """"balanced": every class is drawn equally often, with replacement."""
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    """Of training, as Lightning names it; scores are always computed in single precision."""
    augment: Annotated[int, Field(ge=0, le=64)] = 0
    """So many moved, turned, scaled and re-exposed copies of each training image, drawn once; see `training.views`."""
    flip: bool = False
    """Mirror half of the training images, left to right."""
    selection: Literal["validation", "last", "paper"] = "validation"
    """Which epoch's weights are kept: best mean ROC-AUC on validation, the last, or best on *test* (biased)."""
    seed: int = 0


class ClassifierSpec(_Spec):
    """A classifier's options and recipe in a benchmark."""

    options: Mapping[str, Any] = Field(default_factory=dict)
    recipe: Recipe = Recipe()


class DatasetSpec(_Spec):
    """The dataset's registered name and its options."""

    name: str
    options: Mapping[str, Any] = Field(default_factory=dict)


class MetricSpec(_Spec):
    """A metric's registered name and the parameters that differ from its defaults."""

    name: str
    parameters: Mapping[str, Any] = Field(default_factory=dict)
    version: Annotated[int, Field(ge=1)] | None = None
    """Of the metric's definition, see `xaibench.metrics.base.Metric.version`; None: the one that is installed."""


class LocalizationSpec(_Spec):
    """Where localization is measured."""

    regions: Literal["boxes", "mask"] = "boxes"
    frame: Literal["input", "image"] | int | tuple[int, int] = "input"
    """"input"; "image", each image's own size; or the side in pixels of a square frame, or height and width of another.
    Maps are brought there in one step, bilinearly (align_corners=False) where they grow, by area where they shrink."""
    baselines: tuple[str, ...] = ("random", "center", "prior_box")

    @field_validator("frame", mode="before")
    @classmethod
    def _side(cls, frame: object) -> object:
        sides = frame if isinstance(frame, list | tuple) and len(frame) == 2 else (frame,)
        if frame not in ("input", "image") and not all(type(side) is int and 8 <= side <= 4096 for side in sides):
            raise ValueError(
                'it is "input" or a side of 8 to 4096 pixels, or [height, width], or "image" for each image\'s own size'
            )
        return tuple(frame) if isinstance(frame, list | tuple) else frame


class StatisticsSpec(_Spec):
    """How intervals are made, with the patient as the unit: see docs/statistics.md."""

    method: Literal["score", "percentile", "bca"] = "score"
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    resamples: Annotated[int, Field(ge=100)] = 2000
    seed: int = 0


class Benchmark(_Spec):
    """A protocol. Runs of benchmarks whose `hash` differs are not comparable."""

    name: str
    title: str = ""
    description: str = ""
    task: Literal["multiclass", "multilabel"] = "multiclass"
    classes: Annotated[tuple[str, ...], Field(min_length=1)]
    input_size: Annotated[int, Field(ge=32, le=2048)]
    dataset: DatasetSpec
    classifiers: Mapping[str, ClassifierSpec] = Field(default_factory=dict)
    """By registered name; the entry ``default`` serves every other classifier."""
    localization: LocalizationSpec = LocalizationSpec()
    metrics: tuple[MetricSpec, ...]
    primary: str | None = None
    """The metric whose pairs of explainers are tested; the others are exploratory."""
    statistics: StatisticsSpec = StatisticsSpec()
    scoring: Annotated[int, Field(ge=1, le=SCORING)] = SCORING
    """Which rules make scores of maps; older ones only in runs of older versions."""

    @field_validator("name")
    @classmethod
    def _plain(cls, name: str) -> str:
        """Refuse what can't stand in the names of files, which runs and checkpoints are kept under."""
        if not name or len(name) > 100 or name.startswith(".") or re.search(r"[/\\\x00-\x1f\x7f-\x9f]", name):
            raise ValueError("it is a name without slashes, control characters or a point in front")
        return name

    @field_validator("classes")
    @classmethod
    def _different(cls, classes: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(classes)) != len(classes):
            raise ValueError(f"a class is named twice in {list(classes)}")
        for name in classes:
            if name.strip().casefold() in RESERVED:
                raise ValueError(f"a class can't be called {name!r}, as tables call the mean over the classes so")
            if not name.strip() or re.search(r"[\x00-\x1f\x7f-\x9f]", name):
                raise ValueError(f"a class needs a name without control characters, got {name!r}")
        return classes

    @model_validator(mode="after")
    def _one_class(self) -> Benchmark:
        if len(self.classes) == 1 and self.task != "multilabel":
            raise ValueError(
                f"classes = {list(self.classes)}: one class is present or not, which is several labels' task: "
                'give task = "multilabel", or name two'
            )
        return self

    @model_validator(mode="after")
    def _once(self) -> Benchmark:
        names = [spec.name for spec in self.metrics]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"metrics named twice: {', '.join(twice)}")
        if self.primary is not None and self.primary not in names:
            raise ValueError(
                f"primary = {self.primary!r} is not among its metrics. {did_you_mean(self.primary, names)}"
            )
        return self

    @property
    def hash(self) -> str:
        """sha256 of everything that decides a number (not of title and description).

        What stands at its default stays out, so that a key added later changes no hash; so does a metric's version 1.
        """
        table = self.model_dump(mode="json", exclude={"title", "description", "scoring"}, exclude_defaults=True)
        table["metrics"] = [
            {key: value for key, value in metric.items() if (key, value) != ("version", 1)}
            for metric in table["metrics"]
        ]
        return digest(_as_written_before(table) if self.scoring == 1 else {**table, "scoring": self.scoring})

    @property
    def frame(self) -> Frame | None:
        """The frame that localization is measured in; None where that is each image's own size."""
        frame = self.localization.frame
        if frame == "image":
            return None
        if isinstance(frame, tuple):
            return Frame(*frame)
        return Frame.square(frame if isinstance(frame, int) else self.input_size)

    @property
    def shown_frame(self) -> Frame:
        """The frame of a report's maps: that of the scores, unless each has its own."""
        return self.frame or Frame.square(self.input_size)

    def pinned(self) -> Benchmark:
        """Return the benchmark with the installed version of each metric's definition, which its hash then covers.

        A metric that is not installed stays as it is.

        Raises:
            BenchmarkError: another version than the installed one is asked for.
        """
        if self.scoring != SCORING:
            raise BenchmarkError(
                f"scoring = {self.scoring}: this version of xaibench scores by {SCORING}: leave the key out"
            )
        return self.model_copy(update={"metrics": tuple(map(_pinned, self.metrics))})

    def classifier(self, name: str) -> ClassifierSpec:
        """Return the options and recipe of a classifier: its own, else the benchmark's ``default``.

        Raises:
            BenchmarkError: the benchmark says nothing of it and has no default.
        """
        for key in (name, "default"):
            if key in self.classifiers:
                return self.classifiers[key]
        raise BenchmarkError(
            f"benchmark {self.name!r} has no recipe for {name!r}, only for {', '.join(sorted(self.classifiers))}: "
            f"add [classifiers.{name}] or [classifiers.default] to a copy of its TOML"
        )


def _as_written_before(table: dict[str, Any]) -> dict[str, Any]:
    """Return a protocol of scoring 1 without what was the default then: its hash is the one that its runs recorded."""
    statistics = {key: value for key, value in table.pop("statistics", {}).items() if (key, value) != _OLD_METHOD}
    return {**table, "statistics": statistics} if statistics else table


_OLD_METHOD = ("method", "percentile")


def _pinned(spec: MetricSpec) -> MetricSpec:
    from xaibench import registry

    try:
        version = registry.get("metrics", spec.name).load().version
    except PluginError:
        return spec
    if spec.version not in (None, version):
        raise BenchmarkError(
            f"metrics.{spec.name}.version = {spec.version}, installed is version {version}: leave the key out, or "
            "install the package that has the version asked for"
        )
    return spec.model_copy(update={"version": version})


def digest(value: Any) -> str:
    """Return the sha256 of a JSON value, whatever the order of its keys.

    >>> digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    True
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def load_benchmark(name: str | Path) -> Benchmark:
    """Read a benchmark by its registered name, or from a TOML file by its path.

    Raises:
        PluginError: no benchmark of that name is installed; the message says what is near.
        BenchmarkError: the file can't be read, or a key is unknown or has a wrong value; names file and key.
    """
    if isinstance(name, Path) or name.endswith(".toml"):
        return read_benchmark(Path(name))
    from xaibench import registry

    found = registry.get("benchmarks", name).load()
    return found.pinned() if isinstance(found, Benchmark) else read_benchmark(Path(found))


def read_benchmark(path: Path) -> Benchmark:
    """Read a benchmark from a TOML file; see `load_benchmark`."""
    try:
        table = read_toml(path)
    except FileNotFoundError as error:
        raise BenchmarkError(f"no benchmark file {path}") from error
    except (OSError, ValueError) as error:
        raise BenchmarkError(f"can't read {path}: {first_line(error)}") from error
    try:
        return Benchmark.model_validate(table).pinned()
    except ValidationError as error:
        raise BenchmarkError(f"{path}: {_first(error)}") from error
    except BenchmarkError as error:
        raise BenchmarkError(f"{path}: {error}") from error


def override(spec: ClassifierSpec, options: Mapping[str, Any], recipe: Mapping[str, Any]) -> ClassifierSpec:
    """Return a classifier's spec with options and recipe fields replaced, validated as if they stood in the file.

    Raises:
        BenchmarkError: an unknown field of the recipe, or a wrong value.
    """
    table = spec.model_dump()
    table["options"] = {**table["options"], **options}
    table["recipe"] = {**table["recipe"], **recipe}
    try:
        return ClassifierSpec.model_validate(table)
    except ValidationError as error:
        raise BenchmarkError(_first(error)) from error


def _first(error: ValidationError) -> str:
    """Say the first fault in one line: key, fault, and what was perhaps meant."""
    # A misspelt key is also a missing one: name the misspelling, which says both.
    fault = min(error.errors(include_url=False), key=lambda found: found["type"] != "extra_forbidden")
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    key = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        return f"unknown key {key!r}. {did_you_mean(str(fault['loc'][-1]), _keys(error.title, fault['loc']))}{more}"
    if fault["type"] == "missing":
        return f"key {key!r} is missing{more}"
    toml = {"model_type": "it is a table", "dict_type": "it is a table", "tuple_type": "it is a list"}
    message = toml.get(fault["type"], fault["msg"].removeprefix("Value error, "))
    shown = "" if isinstance(fault["input"], Mapping) else f" = {fault['input']!r}"
    return f"{f'{key}{shown}: ' if key else ''}{message[:1].lower()}{message[1:]}{more}"


def _keys(title: str, location: tuple[int | str, ...]) -> list[str]:
    """Return the keys that may stand where an unknown one stood."""
    tables: dict[str, type[_Spec]] = {
        "dataset": DatasetSpec,
        "recipe": Recipe,
        "classifiers": ClassifierSpec,
        "localization": LocalizationSpec,
        "metrics": MetricSpec,
        "statistics": StatisticsSpec,
    }
    top = ClassifierSpec if title == "ClassifierSpec" else Benchmark
    known = [tables[part] for part in location[:-1] if part in tables]
    return list((known[-1] if known else top).model_fields)


@dataclass(frozen=True)
class Deviation:
    """One value that differs from the benchmark as written."""

    key: str
    written: str
    used: str


def deviations(base: Benchmark, used: Benchmark) -> list[Deviation]:
    """Name every value of a benchmark that differs from the one as written, whoever changed it.

    Args:
        used: that of subset 0: the others differ in their seeds alone.
    """
    before, after = (flatten(_by_metric(benchmark.model_dump(mode="json"))) for benchmark in (base, used))
    for key in [*before, *after]:  # a classifier that the default served: its own recipe now stands in the table
        if key.startswith("classifiers.") and key not in before:
            before[key] = before.get("classifiers.default." + key.split(".", 2)[2], None)
    keys = [key for key in dict.fromkeys([*before, *after]) if before.get(key) != after.get(key)]
    return [Deviation(key, _shown(before.get(key)), _shown(after.get(key))) for key in keys]


def _by_metric(table: dict[str, Any]) -> dict[str, Any]:
    metrics = {}
    for spec in table["metrics"]:
        version = {} if spec["version"] in (None, 1) else {"version": spec["version"]}
        metrics[spec["name"]] = {**spec["parameters"], **version} or "defaults"
    return {**table, "metrics": metrics}


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Return a nested table with dotted keys.

    >>> flatten({"a": {"b": 1}, "c": [2]})
    {'a.b': 1, 'c': [2]}
    """
    if not isinstance(value, Mapping):
        return {prefix: value}
    found: dict[str, Any] = {}
    for key, inner in value.items():
        found |= flatten(inner, f"{prefix}.{key}" if prefix else str(key))
    return found


def _shown(value: Any) -> str:
    return "not set" if value is None else str(value).lower() if isinstance(value, bool) else f"{value}"
