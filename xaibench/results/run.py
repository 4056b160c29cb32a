"""A run: one classifier, its explainers, one benchmark, on disk."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from xaibench.benchmark import Benchmark, digest
from xaibench.errors import XaibenchError, first_line
from xaibench.findings import Note
from xaibench.io.files import make_folder, remove_parts, write_together
from xaibench.io.limits import read_json, read_parquet

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("image", "patient", "class", "explainer", "metric", "value", "chance")
"""Of the per-image scores."""
_AS_THEY_CAME = "as they came: "
"""How earlier versions recorded weights that no recipe here made."""
MACRO = "macro"
"""The class name of a score averaged over the classes."""
_REMEDY = "run the same xaibench run again, which makes it anew"


@dataclass(frozen=True)
class Score:
    """One number with what is needed to judge it."""

    classifier: str
    explainer: str | None
    """None: a score of the classifier itself."""
    metric: str
    """The registered name; a point of a curve has its abscissa behind it: ``visible_in_box@0.50``."""
    class_name: str
    """A class, or "macro": the mean over the classes."""
    value: float | None
    """None: undefined on every image."""
    low: float | None
    high: float | None
    """The interval's ends, at the benchmark's confidence."""
    chance: float | None
    """What a map (a score) that knows nothing gets on the same images."""
    n: int
    """Images, or (image, class) pairs, that went in, undefined ones among them."""
    patients: int
    nan: int
    """Pairs on which the metric is undefined; what they count as: see `defined`."""
    constant: int = 0
    """Pairs whose map is constant (all-zero ones too)."""
    interval: str = "percentile"
    """How the interval was made."""
    corrected: float | None = None
    """The value on the scale where chance is 0 and the metric's best value 1; see `chance_corrected`."""
    defined: float | None = None
    """The mean over the pairs with a defined score alone; `value` counts the others as `Metric.counted` says."""
    classes: int = 1
    """Classes that a macro value averages: those that have one."""
    thresholds: tuple[float, ...] = ()
    """Of a metric that chooses them for the class: shares of the map's range, one for each of its criteria; of a
    classification metric the probability from which on the class is called."""

    def to_json(self) -> dict[str, Any]:
        """Return the score as a JSON object; ``class_name`` is called ``class``."""
        table = dict(self.__dict__)
        table["class"] = table.pop("class_name")
        return table

    @classmethod
    def from_json(cls, table: Mapping[str, Any]) -> Score:
        """Read what `to_json` gave.

        Raises:
            KeyError, TypeError, ValueError: a field is missing, unknown or of another type.
        """
        values = dict(table)
        values["class_name"] = values.pop("class")
        values["thresholds"] = tuple(values.get("thresholds", ()))
        return _checks().validate_python(cls(**values).__dict__)


@cache
def _checks() -> TypeAdapter[Score]:
    return TypeAdapter(Score)


@dataclass(frozen=True)
class Run:
    """The result of evaluating one classifier and its explainers by one benchmark.

    Attributes:
        directory: where it is kept, None if it was not saved.
        benchmark: the protocol.
        classifier: the classifier's name.
        explainers: names of the explainers asked for, in that order.
        baselines: names of the baselines beside them.
        scores: every score, classification first.
        record: versions, hashes, options, counts, seconds: what a reader needs to make it again.
        notes: what the user should know (a prior box from test boxes, undefined maps, a biased selection): text, which
            may be a `xaibench.findings.Note` that says how much it matters.
        images: per-image scores, one row for each (image, class, explainer); read from disk on demand.
    """

    benchmark: Benchmark
    classifier: str
    explainers: tuple[str, ...]
    baselines: tuple[str, ...]
    scores: tuple[Score, ...]
    record: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    directory: Path | None = None

    @property
    def external(self) -> bool:
        """Whether the classifier came with its weights, so that no recipe says how they were made."""
        weights = self.record.get("weights")
        known = weights if isinstance(weights, Mapping) else {}
        return bool(known.get("external", str(known.get("source", "")).startswith(_AS_THEY_CAME)))

    def select(
        self, *, explainer: str | None = None, metric: str | None = None, class_name: str | None = None
    ) -> list[Score]:
        """Return the scores that match everything given."""
        return [
            score
            for score in self.scores
            if (explainer is None or score.explainer == explainer)
            and (metric is None or score.metric == metric)
            and (class_name is None or score.class_name == class_name)
        ]

    def to_json(self) -> dict[str, Any]:
        """Return ``{"run": {...}, "scores": [...]}``."""
        run = {
            "directory": str(self.directory) if self.directory else None,
            "classifier": self.classifier,
            "explainers": list(self.explainers),
            "baselines": list(self.baselines),
            "benchmark": self.benchmark.model_dump(mode="json"),
            "benchmark_hash": self.benchmark.hash,
            "notes": [Note.of(note).to_json() for note in self.notes],
            **self.record,
        }
        return {"run": run, "scores": [score.to_json() for score in self.scores]}

    def _repr_html_(self) -> str:
        """Show the tables in a notebook."""
        from xaibench.reporting.notebook import run_html  # reports know runs, not the reverse

        return run_html(self)

    def images(self) -> pd.DataFrame:
        """Read the per-image scores: image, patient, class, explainer, metric, value, chance.

        Raises:
            XaibenchError: the run was not saved, or its table is damaged.
        """
        table = self._table("scores.parquet")
        if lacking := [name for name in COLUMNS if name not in table]:
            raise XaibenchError(f"{self.directory}/scores.parquet is damaged: no column {lacking[0]!r}")
        return table

    def predictions(self) -> pd.DataFrame:
        """Read the predictions: image, patient, and for each class ``logit:CLASS`` and ``label:CLASS``."""
        return self._table("predictions.parquet")

    def _table(self, name: str) -> pd.DataFrame:
        if self.directory is None:
            raise XaibenchError("this run was not saved: give evaluate(..., out=DIR)")
        path = self.directory / name
        known = _read(self.directory).get("files", {}).get(name)  # earlier versions wrote no checksums
        try:
            content = path.read_bytes()
            if known is None or hashlib.sha256(content).hexdigest() == known:
                return read_parquet(io.BytesIO(content))
        except (OSError, ValueError) as error:
            raise XaibenchError(f"can't read {path}: {first_line(error)}: {_REMEDY}") from error
        raise XaibenchError(f"{path} is damaged, its checksum is another than in run.json: {_REMEDY}")

    @classmethod
    def load(cls, directory: Path) -> Run:
        """Read a run from its directory.

        Raises:
            XaibenchError: no ``run.json`` there, or it is damaged.
        """
        table = _read(directory)
        try:
            record = dict(table["run"])
            for known in ("directory", "benchmark_hash"):
                record.pop(known)
            protocol = {"scoring": 1, **record.pop("benchmark")}  # which earlier versions did not write
            return cls(
                benchmark=Benchmark.model_validate(protocol),
                classifier=_text(record.pop("classifier")),
                explainers=tuple(map(_text, record.pop("explainers"))),
                baselines=tuple(map(_text, record.pop("baselines"))),
                scores=tuple(Score.from_json(score) for score in table["scores"]),
                notes=tuple(map(Note.from_json, record.pop("notes"))),
                record=record,
                directory=directory,
            )
        except ValidationError as error:
            fault = error.errors(include_url=False)[0]
            key = ".".join(map(str, fault["loc"]))
            reason = f"{key}: {first_line(ValueError(fault['msg']))}"
            raise XaibenchError(f"{directory / 'run.json'} is damaged ({reason}): {_REMEDY}") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            reason = f"{type(error).__name__} {first_line(error)}"
            raise XaibenchError(f"{directory / 'run.json'} is damaged ({reason}): {_REMEDY}") from error


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{str(value)[:40]!r} stands where a name does")
    return value


def _read(directory: Path) -> dict[str, Any]:
    """Read ``run.json`` and check it against its own checksum, where it has one: earlier versions wrote none.

    Raises:
        XaibenchError: it is missing or damaged.
    """
    path = directory / "run.json"
    try:
        table = dict(read_json(path))
        checksum = table.pop("checksum", None)
        whole = checksum is None or checksum == digest(table)
    except FileNotFoundError as error:
        raise XaibenchError(f"{directory} is no run: it has no run.json") from error
    except (OSError, ValueError, TypeError) as error:
        raise XaibenchError(f"{path} is damaged ({type(error).__name__} {first_line(error)}): {_REMEDY}") from error
    if not whole:
        raise XaibenchError(f"{path} is damaged, its checksum is wrong: {_REMEDY}")
    return table


def save_run(run: Run, images: Iterable[pd.DataFrame], predictions: pd.DataFrame) -> None:
    """Write a run into its directory: the tables and ``run.json``, with their checksums, all whole or none at all.

    Args:
        run: with a directory.
        images: tables of image, patient, class, explainer, metric, value, chance, which are written one after the
            other, so that memory need not hold them all.
        predictions: see `Run.predictions`.
    """
    folder = run.directory
    assert folder is not None
    make_folder(folder)
    remove_parts(folder)
    files: dict[str, str] = {}

    def summed(name: str, write: Callable[[Path], Any]) -> Callable[[Path], None]:
        def call(part: Path) -> None:
            write(part)
            with open(part, "rb") as file:
                files[name] = hashlib.file_digest(file, "sha256").hexdigest()

        return call

    def write_json(part: Path) -> None:
        table = json.loads(json.dumps({**run.to_json(), "files": files}))
        text = json.dumps({**table, "checksum": digest(table)}, indent=1, ensure_ascii=False) + "\n"
        part.write_text(text, encoding="utf-8")

    tables: dict[str, Callable[[Path], Any]] = {
        "scores.parquet": lambda part: _write_scores(part, images),
        "predictions.parquet": lambda part: predictions.to_parquet(part, index=False),
    }
    write_together(
        {**{folder / name: summed(name, write) for name, write in tables.items()}, folder / "run.json": write_json}
    )


def _write_scores(path: Path, tables: Iterable[pd.DataFrame]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    named = {name: pa.dictionary(pa.int32(), pa.string()) for name in ("patient", "class", "explainer", "metric")}
    numbers = {"value": pa.float64(), "chance": pa.float64()}
    schema = pa.schema([("image", pa.string()), *named.items(), *numbers.items()])
    assert tuple(schema.names) == COLUMNS
    with pq.ParquetWriter(path, schema) as writer:
        for table in tables:
            table = table.reindex(columns=schema.names)  # one without rows may come without columns
            columns = [pa.array(table["image"].astype(str), pa.string())]
            for name in named:
                column = table[name].astype("category").cat
                categories = pa.array(column.categories.astype(str), pa.string())
                columns.append(pa.DictionaryArray.from_arrays(pa.array(column.codes, pa.int32()), categories))
            columns += [pa.array(table[name], pa.float64()) for name in numbers]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))
