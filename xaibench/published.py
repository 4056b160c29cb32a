"""Published numbers, read from one data file in which each stands with its source: benchmarks/published/*.toml."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from xaibench.builtin_benchmarks import FOLDER
from xaibench.errors import BenchmarkError, did_you_mean, first_line
from xaibench.io.limits import read_toml

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Block = tuple[str, int, int]
"""Name, side of the square output in pixels, channels."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Source(_Record):
    """A publication."""

    citation: str
    url: str = ""
    note: str = ""


class _Cited(_Record):
    source: str
    """A key of `Published.sources`."""
    place: str
    """Where in it: "table 1"."""


class Cohort(_Cited):
    """Images of each class."""

    subsets: Count
    train: Mapping[str, Count]
    test: Mapping[str, Count]


class Optimization(_Record):
    """What differs between the classifiers of `TrainingConditions`."""

    optimizer: Literal["sgd", "adam", "adamw"]
    learning_rate: Annotated[float, Field(gt=0)]


class TrainingConditions(_Cited):
    """How the classifiers were trained."""

    input_size: Count
    loss: str
    batch_size: Count
    epochs: Count
    classifiers: Mapping[str, Optimization]


class Architecture(_Cited):
    """The blocks of encoder and decoder, in order."""

    note: str = ""
    encoder: tuple[Block, ...]
    decoder: tuple[Block, ...]


class ClassScores(_Cited):
    """One score for each classifier and class."""

    classifiers: Mapping[str, Mapping[str, Share]]


class Hits(_Record):
    """So many of so many images."""

    hits: Annotated[int, Field(ge=0)]
    images: Count

    @model_validator(mode="after")
    def _of_all(self) -> Hits:
        if self.hits > self.images:
            raise ValueError(f"{self.hits} hits in {self.images} images")
        return self

    @property
    def rate(self) -> float:
        return self.hits / self.images


class VisualHits(_Cited):
    """Images whose lesion the map attends to, judged by eye."""

    rule: str
    no_finding: str
    counts: Mapping[str, Hits]


class BoxAccuracy(_Cited):
    """T(IoU) or T(IoBB): one number for each class and threshold."""

    metric: Literal["IoU", "IoBB"]
    dataset: str
    thresholds: tuple[Share, ...]
    accuracy: Mapping[str, tuple[Share, ...]]
    false_positives: Mapping[str, tuple[float, ...]]
    """Average number an image."""

    @model_validator(mode="after")
    def _as_many(self) -> BoxAccuracy:
        for table in (self.accuracy, self.false_positives):
            for name, row in table.items():
                if len(row) != len(self.thresholds):
                    raise ValueError(f"{name}: {len(row)} numbers for {len(self.thresholds)} thresholds")
        return self

    def at(self, threshold: float) -> Mapping[str, float]:
        """Return the accuracy of each class at one threshold.

        Raises:
            ValueError: none is published at that threshold.
        """
        column = self.thresholds.index(threshold)
        return {name: row[column] for name, row in self.accuracy.items()}


class Published(_Record):
    """All published numbers that belong to a protocol."""

    sources: Mapping[str, Source]
    cohort: Cohort
    training: TrainingConditions
    architecture: Architecture
    roc_auc: ClassScores
    visual_hits: VisualHits
    box_accuracy: tuple[BoxAccuracy, ...]

    @model_validator(mode="after")
    def _cited(self) -> Published:
        parts = (self.cohort, self.training, self.architecture, self.roc_auc, self.visual_hits, *self.box_accuracy)
        for part in parts:
            if part.source not in self.sources:
                raise ValueError(f"{part.place}: no source {part.source!r} in [sources]")
        return self

    def where(self, part: _Cited) -> str:
        """Return where a number stands: the source's authors, and the place in it."""
        return f"{self.sources[part.source].citation.partition(':')[0]}, {part.place}"

    def boxes(self, metric: str, dataset: str = "ChestX-ray8") -> BoxAccuracy:
        """Return the published T(IoU) or T(IoBB) of a dataset.

        Raises:
            KeyError: none is published.
        """
        for table in self.box_accuracy:
            if (table.metric, table.dataset) == (metric, dataset):
                return table
        raise KeyError(f"no published T({metric}) on {dataset}")


@cache
def load_published(name: str = "chestxray8-4class") -> Published:
    """Read the published numbers of a protocol.

    Raises:
        BenchmarkError: there is no such file, or it is damaged; names file and key.

    >>> published = load_published()
    >>> published.roc_auc.classifiers["gcm"]["Effusion"], published.visual_hits.counts["Effusion"].rate.__round__(3)
    (0.803, 0.776)
    """
    path = FOLDER / "published" / f"{name}.toml"
    known = [file.stem for file in path.parent.glob("*.toml")]
    if name not in known:
        raise BenchmarkError(f"no published numbers {name!r}. {did_you_mean(name, known)}")
    return read_published(path)


def read_published(path: Path) -> Published:
    """Read a file of published numbers; see `load_published`."""
    try:
        return Published.model_validate(read_toml(path))
    except ValidationError as error:  # a ValueError too
        fault = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in fault["loc"])
        raise BenchmarkError(f"{path}: {key}: {fault['msg'].removeprefix('Value error, ')}") from error
    except (OSError, ValueError) as error:
        raise BenchmarkError(f"can't read {path}: {first_line(error)}") from error
