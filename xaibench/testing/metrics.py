"""The contract of a metric, checked: its declaration, and what its scores must not depend on."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xaibench.classifiers.state import State
from xaibench.errors import NotApplicableError
from xaibench.findings import Finding
from xaibench.metrics.base import ASKS_NETWORK, Metric
from xaibench.testing.checking import (
    GivenUpError,
    Report,
    clear,
    equal_generators,
    furthest,
    generators,
    newborn,
    one_thread,
    reseeded,
    same,
)

CALL_REMEDY = "Take maps (B, H, W) float and masks (B, H, W) bool; return (B,) float64."
POOL_REMEDY = "Let pool.columns(**parameters) be C, and pool.scores(means (r, C), **parameters) give (r, J, T) float64."


@one_thread()
def check_metric(name: str | Metric, **parameters: Any) -> list[Finding]:
    """Put a metric through the contract of its category.

    Args:
        name: its registered name, or the metric.
        parameters: in place of its defaults.

    Returns:
        What is not as it should be; empty for a metric that conforms.
    """
    report = Report(f"metric {name if isinstance(name, str) else name.name}")
    with report.checks():
        metric = _load(report, name)
        _declaration(report, metric, name)
        if metric.category == "classification":
            _classification(report, metric, parameters)
        elif metric.category in ASKS_NETWORK:
            _asking(report, metric, parameters)
        else:
            _OfMaps(report, metric, parameters).run()
    return report.findings


def _load(report: Report, name: str | Metric) -> Metric:
    from xaibench import registry

    if isinstance(name, Metric):
        return name
    found = report.call("importing it", lambda: registry.get("metrics", name).load(), "Mend the import.")
    if not report.expect(
        isinstance(found, Metric),
        "type",
        f"the entry point names a {type(found).__name__}, no Metric",
        "Decorate the function with @xaibench.metrics.metric(...).",
    ):
        raise GivenUpError
    return found  # type: ignore[no-any-return]


def _declaration(report: Report, metric: Metric, name: str | Metric) -> None:
    for key in ("title", "reference"):
        report.expect(bool(getattr(metric, key)), "declaration", f"has no {key}", f"Declare {key} in @metric(...).")
    report.expect(
        not isinstance(name, str) or metric.name == name,
        "declaration",
        f"calls itself {metric.name!r}",
        "Give @metric the name of the entry point: columns of scores go by it.",
    )
    report.expect(
        metric.range[0] < metric.range[1], "declaration", f"range is {metric.range}", "Declare (lowest, highest)."
    )
    functions: list[Callable[..., Any]] = [metric.compute, *([metric.chance] if callable(metric.chance) else [])]
    for function in functions:
        known = inspect.signature(function).parameters
        free = any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values())
        if missing := sorted(set(metric.parameters) - set(known)):
            report.expect(
                free,
                "declaration",
                f"declares the parameter {missing[0]!r}, which {function.__name__} does not take",
                "Let compute and chance take every declared parameter.",
            )
    if metric.curve:
        report.expect(
            metric.headline_at in metric.parameters.get(metric.curve, ()),
            "declaration",
            f"headline_at = {metric.headline_at} is none of its {metric.curve}",
            "Name the point of the curve that the short table shows.",
        )


def noise(batch: int = 6, height: int = 48, width: int = 56) -> tuple[Tensor, Tensor]:
    """Return signed, smooth maps without ties, and a box each."""
    generator = torch.Generator().manual_seed(3)
    coarse = torch.randn(batch, 1, 4, 5, generator=generator)
    maps = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")[:, 0]
    masks = torch.zeros(batch, height, width, dtype=torch.bool)
    for row, mask in enumerate(masks):
        mask[2 + row : 20 + 2 * row, 3 * row + 1 : 3 * row + 16] = True
    return maps + 0.01 * torch.randn(maps.shape, generator=generator), masks


class _OfMaps:
    def __init__(self, report: Report, metric: Metric, parameters: dict[str, Any]) -> None:
        self.report, self.metric, self.parameters = report, metric, parameters
        self.maps, self.masks = noise()

    def scores(self, maps: Tensor, masks: Tensor) -> Tensor:
        return self.report.call(  # type: ignore[no-any-return]
            "compute", lambda: self.metric(maps, masks, **self.parameters), CALL_REMEDY
        )

    def run(self) -> None:
        report, maps, masks = self.report, self.maps, self.masks
        kept = maps.clone(), masks.clone()
        with reseeded(4):
            before = generators()
            wanted = self.scores(maps, masks)
            report.expect(equal_generators(before, generators()), "random", "draws at random", "Be a pure function.")
        shape = self.shape()
        if not isinstance(wanted, Tensor) or tuple(wanted.shape) != shape:
            given = tuple(wanted.shape) if isinstance(wanted, Tensor) else type(wanted).__name__
            report.add(
                "shape",
                f"returned {given}, not {shape}",
                "Return one score an image (a curve: (B, T); a pool: (B, C)).",
            )
            raise GivenUpError
        report.expect(wanted.dtype == torch.float64, "dtype", f"scores are {wanted.dtype}", "Compute in float64.")
        report.expect(
            torch.equal(maps, kept[0]) and torch.equal(masks, kept[1]), "inputs", "changed its input", "Clone first."
        )
        self.range("scores", self.pooled(wanted))
        self.chance(masks, shape)
        parts = [self.scores(a, b) for a, b in zip(torch.split(maps, 2), torch.split(masks, 2), strict=True)]
        report.expect(
            same(torch.cat(parts), wanted, 1e-9), "batches", "the batch size changes scores", "Score image by image."
        )
        back = self.scores(maps.flip(0), masks.flip(0)).flip(0)
        report.expect(same(back, wanted, 1e-9), "order", "the order changes scores", "Score image by image.")
        double = self.scores(maps.double(), masks)
        report.expect(
            same(double, wanted, 1e-6),
            "dtype",
            f"float64 maps score otherwise, {furthest(double, wanted)}",
            CALL_REMEDY,
        )
        self.undefined(wanted)
        self.memory()
        if torch.cuda.is_available():
            there = self.scores(maps.cuda(), masks.cuda()).cpu()
            report.expect(same(there, wanted, 1e-6), "device", "the GPU scores otherwise", "Make tensors like maps.")

    def shape(self) -> tuple[int, ...]:
        """Return the shape of scores, or of a pooled metric's statistics."""
        pool, values = self.metric.pool, {**self.metric.parameters, **self.parameters}
        if pool:
            return len(self.maps), self.report.call("pool.columns", lambda: pool.columns(**values), POOL_REMEDY)
        return (len(self.maps), len(values[self.metric.curve])) if self.metric.curve else (len(self.maps),)

    def pooled(self, statistics: Tensor) -> Tensor:
        """Return scores: of a pooled metric those that its pool makes of the statistics, as if of one pair each."""
        pool, values = self.metric.pool, {**self.metric.parameters, **self.parameters}
        if pool is None:
            return statistics
        defined = statistics[~statistics.isnan().any(1)].double().cpu().numpy()
        scores = np.asarray(self.report.call("pool.scores", lambda: pool.scores(defined, **values), POOL_REMEDY))
        candidates = len(values[pool.thresholds]) if pool.thresholds else 1
        if not self.report.expect(
            scores.ndim == 3 and scores.shape[::2] == (len(defined), candidates),
            "pool",
            f"pool.scores makes {scores.shape} of {defined.shape}, not {(len(defined), 'J', candidates)}",
            POOL_REMEDY,
        ):
            raise GivenUpError
        return torch.from_numpy(scores)

    def range(self, what: str, values: Tensor) -> None:
        low, high = self.metric.range
        known = values[~values.isnan()]
        self.report.expect(
            bool(((known >= low - 1e-9) & (known <= high + 1e-9)).all()),
            "range",
            f"{what} from {float(known.min()) if len(known) else 0:.3g} to "
            f"{float(known.max()) if len(known) else 0:.3g} leave the declared range [{low:g}, {high:g}]",
            "Declare the range that the definition allows: intervals are clipped to it.",
        )

    def chance(self, masks: Tensor, shape: tuple[int, ...]) -> None:
        chance, values = self.metric.chance, {**self.metric.parameters, **self.parameters}
        if not callable(chance):
            self.report.expect(
                chance is not None, "chance", "declares no chance level", "Give chance: a score needs one.", "warning"
            )
            return
        found = self.report.call("chance", lambda: chance(masks, **values), "Take masks and every parameter.")
        if self.report.expect(
            tuple(found.shape) == shape, "chance", f"chance has shape {tuple(found.shape)}, not {shape}", CALL_REMEDY
        ):
            self.range("chance levels", self.pooled(found))

    def undefined(self, wanted: Tensor) -> None:
        """A constant map, one with NaN, an empty mask: NaN for that image, and the others as before."""
        for what, value in (("a constant map", 1.0), ("a map with NaN", float("nan")), ("an empty mask", None)):
            maps, masks = self.maps.clone(), self.masks.clone()
            if value is None:
                masks[0] = False
            elif value == value:
                maps[0] = value
            else:
                maps[0, 3, 4] = value
            found = self.scores(maps, masks)
            self.report.expect(
                same(found[1:], wanted[1:], 1e-9), "batches", f"{what} changes the others' scores", CALL_REMEDY
            )
            if value is not None:
                self.report.expect(
                    bool(found[0].isnan().all()),
                    "undefined",
                    f"{what} scores {found[0].flatten()[0].item():.3g}, not NaN",
                    "Return NaN where the score is undefined: the pair then counts as chance, and is counted.",
                )
        empty = self.scores(self.maps[:0], self.masks[:0])
        self.report.expect(len(empty) == 0, "shape", "no images give scores", "Return an empty tensor.")
        try:
            self.metric(self.maps, self.masks[:, 1:], **self.parameters)
        except Exception as error:
            if fault := clear(error):
                self.report.add(
                    "clear errors",
                    f"masks of another size raise {fault}",
                    "Raise UsageError with one line that names masks.",
                    "warning",
                )

    def memory(self) -> None:
        sizes = []
        with newborn() as living:
            for _ in range(3):
                self.scores(self.maps, self.masks)
                sizes.append(living())
        self.report.expect(not sizes[0] < sizes[1] < sizes[2], "memory", "keeps tensors", "Keep nothing.")


def _classification(report: Report, metric: Metric, parameters: dict[str, Any]) -> None:
    draw = np.random.default_rng(0)
    labels = np.array([0, 1] * 20, dtype=np.float32)
    scores = draw.normal(size=40) + labels

    def value(s: Any, y: Any) -> float:
        return float(report.call("compute", lambda: metric(s, y, **parameters), "Take (N,) scores and (N,) labels."))

    wanted, order = value(scores, labels), draw.permutation(40)
    low, high = metric.range
    report.expect(low <= wanted <= high, "range", f"{wanted:.3g} is not in [{low:g}, {high:g}]", "Declare the range.")
    report.expect(
        abs(value(scores[order], labels[order]) - wanted) < 1e-9, "order", "the order changes it", "Be symmetric."
    )
    one_class = value(scores, np.zeros_like(labels))
    report.expect(
        metric.one_class or one_class != one_class,
        "undefined",
        f"without a positive label it is {one_class:.3g}, not NaN",
        "Return NaN where it is undefined, or declare one_class = True.",
        "warning",
    )


def _asking(report: Report, metric: Metric, parameters: dict[str, Any]) -> None:
    """A metric of an `Explained`: one score a pair, and the network is left as it was."""
    from xaibench.explainers.gradient import InputXGradient
    from xaibench.metrics.explained import Explained
    from xaibench.testing.small import Small, small_prediction

    classifier, explainer = Small().eval(), InputXGradient()
    prediction, targets = small_prediction(classifier, 3), torch.tensor([1, 2, 1])

    def scores(rows: list[int]) -> Tensor:
        part, wanted = prediction.select(rows), targets[rows]
        maps = explainer.explain(classifier, part, wanted)
        try:
            with torch.no_grad():
                found = metric(Explained(classifier, explainer, part, wanted, maps), **parameters)
        except NotApplicableError as error:
            report.add("applies", f"does not apply to a small CNN ({error})", "No remedy is needed.", "note")
            raise GivenUpError from error
        except Exception as error:
            fault = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            report.add("raises", f"compute raised {fault}", "Take an Explained; return (P,) float64.")
            raise GivenUpError from error
        return found  # type: ignore[no-any-return]

    state, values = State.of(classifier), {k: v.clone() for k, v in classifier.state_dict().items()}
    with reseeded(7):
        before = generators()
        wanted = scores([0, 1, 2])
        report.expect(
            equal_generators(before, generators()), "random", "draws from a global generator", "Use seed_of(image id)."
        )
    shape = (3, len({**metric.parameters, **parameters}[metric.curve])) if metric.curve else (3,)
    if not report.expect(tuple(wanted.shape) == shape, "shape", f"returned {tuple(wanted.shape)}", f"Return {shape}."):
        raise GivenUpError
    report.expect(wanted.dtype == torch.float64, "dtype", f"scores are {wanted.dtype}", "Compute in float64.")
    low, high = metric.range
    known = wanted[~wanted.isnan()]
    report.expect(
        bool(((known >= low - 1e-9) & (known <= high + 1e-9)).all()),
        "range",
        f"scores leave the declared range [{low:g}, {high:g}]",
        "Declare the range that the definition allows.",
    )
    alone = torch.cat([scores([row]) for row in range(3)])
    report.expect(
        same(alone, wanted, 1e-3),
        "batches",
        f"the batch size changes scores, {furthest(alone, wanted)}",
        "Let each score depend on its own pair; draw from seed_of(image id).",
    )
    now = State.of(classifier)
    for where in state.hooks_left(now)[:3]:
        report.add("hooks", f"left a hook on {where or 'the classifier'}", "Remove it in a finally block.")
    after = classifier.state_dict()
    changes = state.changes(now) + [name for name, v in values.items() if not torch.equal(after[name], v)]
    for change in changes[:3]:
        report.add("state", f"afterwards the classifier differs: {change}", "Work on a copy of the classifier.")
