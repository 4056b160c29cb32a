"""A metric: a pure batched function, and what a table must know to show its scores."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:  # declaring a metric needs no torch
    pass

Category = Literal[
    "classification", "localization", "faithfulness", "robustness", "randomization", "axioms", "complexity"
]
ASKS_NETWORK: tuple[Category, ...] = ("faithfulness", "robustness", "randomization", "axioms")
"""Categories whose metrics take an `xaibench.metrics.explained.Explained` in place of maps and masks."""


@dataclass(frozen=True)
class PixelStatistic:
    """A statistic of all pixels of a class's maps together, which no mean over the pairs gives.

    Attributes:
        exact: ``exact(rows)`` of the pairs' pixels, `xaibench.metrics._pixels.Row` each, is the score.
        binned: ``binned(means)`` of (r, 2 L) mean histograms, outside and inside the masks, are (r,) scores: resamples.
    """

    exact: Callable[..., float]
    binned: Callable[..., Any]


@dataclass(frozen=True)
class Pool:
    """How a metric of a whole dataset is made of statistics (B, C) of its pairs, which `Metric.compute` then returns.

    The statistics are averaged over the pairs of a class where they are defined; ``scores(means, **parameters)`` makes
    of (r, C) float64 means (r, J, T): J criteria at T thresholds of the map. The metric is the mean over the criteria
    at one threshold each: the best one (an oracle), or the one that is best on validation (tuned).

    Attributes:
        columns: ``columns(**parameters)`` is C.
        scores: as said; in numpy, one row a resample.
        thresholds: the parameter whose T values they are; None where there is none to choose (J = T = 1).
        pixels: the score is made of all pixels instead, which are then kept on disk; `compute` returns (B, 1), each
            pair's own score, and `chance` (B, 1), the areas of the masks.
    """

    columns: Callable[..., int]
    scores: Callable[..., Any]
    thresholds: str | None = None
    pixels: PixelStatistic | None = None

    def names(self, metric: str) -> list[str]:
        """Return the names of its results, such as ``iou_best@tuned`` and ``iou_best@oracle``."""
        return [metric] if self.thresholds is None else [f"{metric}@{how}" for how in ("tuned", "oracle")]


@dataclass(frozen=True)
class Metric:
    """A metric of maps (or of logits) with its declaration. Make one with `@metric`.

    Localization metrics are called as ``compute(maps, masks, **parameters)`` with `maps` (B, H, W) float and `masks`
    (B, H, W) bool in one frame, and return (B,) float, one score an image, NaN where undefined (empty mask, constant or
    non-finite map); a curve returns (B, T). ``chance(masks, **parameters)`` returns the score expected of a map that
    knows nothing, of the same shape. Metrics of `ASKS_NETWORK` are called as ``compute(explained, **parameters)`` and
    return (P,) float64, one score a pair, NaN where undefined. Classification metrics are called as
    ``compute(scores, labels, **parameters)``, both (N,), of one class against the rest, and return one number; scores
    are log-odds (`xaibench.metrics.classification.class_scores`). Their ``chance``, if callable, is called with the
    labels.
    """

    name: str
    compute: Callable[..., Any]
    category: Category
    direction: Literal["higher", "lower"]
    range: tuple[float, float]
    reference: str
    title: str
    chance: Callable[..., Any] | float | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Defaults; a benchmark may set others."""
    curve: str | None = None
    """For a metric that returns (B, T): the parameter whose T values are its abscissa."""
    headline: bool = True
    """Shown in the short table (a curve: at the value `headline_at`)."""
    headline_at: float | str | None = None
    pool: Pool | None = None
    """For a metric of a whole dataset: `compute` and `chance` return the statistics (B, C) that it is made of."""
    corrected: bool = True
    """Shown also on the scale where chance is 0 and the best value 1; not where neither end of the range is best."""
    simulated: bool = False
    """`chance` simulates noise in the masks' frame; where each image has its own size, in a fixed one near it."""
    counts_as: float | None = None
    """What a pair with an undefined map counts as in headline values, tests and intervals; None: its chance level."""
    version: int = 1
    """Of its definition: raised where the same maps get other scores, and part of a benchmark's hash."""
    mean_of: Callable[..., Any] | None = None
    """Of a classification metric that is a mean over images: ``mean_of(scores, labels, **parameters)`` gives them, (N,)
    float64, NaN where an image doesn't count."""
    weighted: Callable[..., Any] | None = None
    """Of one that is not: ``weighted(scores, labels, **parameters)`` gives a function from weights (r, N) of the images
    to (r,) values, for intervals; without it the metric is called for each resample, which takes longer."""
    tunes: bool = False
    """A classification metric whose parameter ``threshold``, where it is None, a run tunes on validation."""
    one_class: bool = False
    """A classification metric that is defined where all labels are alike."""
    mask: str | None = None
    """What it is scored against in place of the region: a mask that the dataset gives in `Sample.meta` by this name."""

    @property
    def formula(self) -> str:
        """What is computed, in a sentence: the first paragraph of the documentation."""
        return " ".join(inspect.cleandoc(self.__doc__ or "").partition("\n\n")[0].split())

    @property
    def headline_scores(self) -> list[str]:
        """Names of its headline scores in a run: of a curve one point, of chosen thresholds both kinds."""
        if self.pool is not None:
            return self.pool.names(self.name)
        at = self.headline_at
        return [self.name if at is None else f"{self.name}@{at}" if isinstance(at, str) else f"{self.name}@{at:.2f}"]

    def counted(self, values: Any, chance: Any) -> Any:
        """Return scores of pairs as headline values, tests and intervals take them: no map gains by being undefined.

        NaN counts as `counts_as`, else as the pair's chance level where the metric is corrected for it; else it stays.

        Args:
            values, chance: numpy arrays of one shape.
        """
        if self.counts_as is None and not self.corrected:
            return values
        import numpy as np

        level = np.where(np.isnan(chance), np.nan, self.counts_as) if self.counts_as is not None else chance
        return np.where(np.isnan(values), level, values)

    def with_parameters(self, parameters: Mapping[str, Any]) -> Metric:
        """Return the metric with other defaults."""
        made = replace(self, parameters={**self.parameters, **parameters})
        object.__setattr__(made, "__doc__", self.__doc__)
        return made

    def __call__(self, *args: Any, **parameters: Any) -> Any:
        return self.compute(*args, **{**self.parameters, **parameters})


def metric(
    name: str,
    *,
    category: Category,
    direction: Literal["higher", "lower"],
    range: tuple[float, float],
    reference: str,
    title: str,
    chance: Callable[..., Any] | float | None = None,
    curve: str | None = None,
    headline: bool = True,
    headline_at: float | None = None,
    pool: Pool | None = None,
    corrected: bool = True,
    simulated: bool = False,
    counts_as: float | None = None,
    version: int = 1,
    mask: str | None = None,
    mean_of: Callable[..., Any] | None = None,
    weighted: Callable[..., Any] | None = None,
    tunes: bool = False,
    one_class: bool = False,
    **parameters: Any,
) -> Callable[[Callable[..., Any]], Metric]:
    """Declare the decorated function as a metric; keyword arguments left over are its default parameters."""

    def wrap(compute: Callable[..., Any]) -> Metric:
        made = Metric(
            name=name,
            compute=compute,
            category=category,
            direction=direction,
            range=range,
            reference=reference,
            title=title,
            chance=chance,
            parameters=parameters,
            curve=curve,
            headline=headline,
            headline_at=headline_at,
            pool=pool,
            corrected=corrected,
            simulated=simulated,
            counts_as=counts_as,
            version=version,
            mask=mask,
            mean_of=mean_of,
            weighted=weighted,
            tunes=tunes,
            one_class=one_class,
        )
        object.__setattr__(made, "__doc__", compute.__doc__)
        return made

    return wrap
