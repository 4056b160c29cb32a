"""Does noise score what each metric of maps declares as its chance level? Simulated.

    python benchmarks/chance.py [--maps 10000] [--seed 0]

The model: every pixel of a map is drawn from the uniform distribution on [0, 1], independently. Maps of 32 x 32 pixels
are scored against two masks, a box of 6% of the image and two boxes of 30% together; each declared level must lie in
the 99% interval of the simulated mean (normal, for all columns of a metric jointly, by Bonferroni). The levels of
`iou_otsu` and of box metrics are themselves means over maps of the same model with another seed: there the interval is
that of the difference of two means. A metric of a whole dataset is checked on the statistics it is made of. Exits with
1 where a level lies outside. A minute and a half of one core.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from xaibench import registry
from xaibench.metrics import Metric, boxes, localization, pixel_rows
from xaibench.metrics._noise import noise_maps

SIDE = 32
FEWER = (0.1, 0.4, 0.7)
"""Thresholds of metrics that try a hundred: each costs a labelling of every map."""
CONFIDENCE = 0.99


@dataclass(frozen=True)
class Level:
    """A declared level against the simulated mean, in the column that fits worst."""

    metric: str
    mask: str
    column: int
    columns: int
    declared: float
    mean: float
    half: float

    @property
    def inside(self) -> bool:
        return abs(self.declared - self.mean) <= self.half


def masks() -> dict[str, Tensor]:
    """Return name to mask (1, SIDE, SIDE)."""
    small, large = torch.zeros(2, 1, SIDE, SIDE, dtype=torch.bool)
    small[0, 10:17, 12:21] = True
    large[0, 2:18, 3:17] = True
    large[0, 21:28, 18:30] = True
    return {"6%": small, "30%, two boxes": large}


def metrics() -> Iterator[tuple[Metric, dict[str, object]]]:
    """Yield every built-in metric of maps that declares a chance level, with the parameters used here."""
    for name in registry.list_metrics():
        entry = registry.get("metrics", name)
        metric = entry.load()
        if entry.is_builtin and metric.category in ("localization", "complexity") and callable(metric.chance):
            options = {"k": 100} if "k" in metric.parameters else {}
            yield metric, options | ({"thresholds": FEWER} if metric.pool and metric.pool.thresholds else {})


def rests_on(metric: Metric, options: dict[str, object]) -> int | None:
    """Return on how many simulated maps a declared level rests; None for a formula."""
    parameters = {**metric.parameters, **options}
    if metric.name == "iou_otsu":
        return localization.noise_maps(SIDE, SIDE)
    if metric.name in ("max_box_acc", "max_box_acc_v2", "box_iou"):
        return noise_maps(SIDE, SIDE, len(parameters["thresholds"]))
    return noise_maps(SIDE, SIDE, len(parameters["levels"])) if metric.compute.__module__ == boxes.__name__ else None


def check(metric: Metric, options: dict[str, object], maps: Tensor) -> Iterator[Level]:
    """Yield, for each mask, the column whose level lies furthest from the simulated mean, in half-widths."""
    assert callable(metric.chance)
    for name, mask in masks().items():
        scores = _scores(metric, options, maps, mask)
        declared = metric.chance(mask, **{**metric.parameters, **options}).reshape(-1)
        own = rests_on(metric, options)
        mean, variance = scores.mean(0), scores.var(0)
        if own is not None and metric.range == (0.0, 1.0):  # of hits that few maps have, as the level sees them
            variance = torch.maximum(variance, declared * (1 - declared)) if _counts(scores) else variance
        error = (variance / len(scores) + (variance / own if own else 0)).sqrt()
        z = torch.special.ndtri(torch.tensor(1 - (1 - CONFIDENCE) / 2 / len(mean), dtype=torch.float64))
        half = z * error + 1e-12  # constant scores: rounding
        worst = int(((declared - mean).abs() / half).argmax())
        found = (float(values[worst]) for values in (declared, mean, half))
        yield Level(metric.name, name, worst, len(mean), *found)


def _scores(metric: Metric, options: dict[str, object], maps: Tensor, mask: Tensor) -> Tensor:
    """Return the scores (n, columns) of maps or, of a metric of all pixels of a class, of ten classes of maps."""
    pixels = metric.pool.pixels if metric.pool else None
    if pixels is None:
        parts = [metric(part, mask.expand(len(part), -1, -1), **options) for part in maps.split(500)]
        return torch.cat(parts).reshape(len(maps), -1)
    classes = [pixel_rows(part, mask.expand(len(part), -1, -1)) for part in maps.chunk(10)]
    return torch.tensor([pixels.exact(rows) for rows in classes], dtype=torch.float64)[:, None]


def _counts(scores: Tensor) -> bool:
    return bool(((scores == 0) | (scores == 1)).all())


def main() -> int:
    """Print the table; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--maps", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    began, outside = time.perf_counter(), []
    maps = torch.rand(given.maps, SIDE, SIDE, generator=torch.Generator().manual_seed(given.seed))
    print(f"{'metric':<41}{'mask':<16}{'declared':>12}{'simulated':>12}{'+-':>10}")
    for metric, options in metrics():
        for level in check(metric, options, maps):
            name = f"{level.metric}{f' (column {level.column + 1} of {level.columns})' if level.columns > 1 else ''}"
            mark = "" if level.inside else "  outside"
            print(f"{name:<41}{level.mask:<16}{level.declared:>12.5f}{level.mean:>12.5f}{level.half:>10.5f}{mark}")
            outside += [] if level.inside else [name]
    print(f"{given.maps:,} maps, {time.perf_counter() - began:.0f} s")
    if outside:
        print(f"outside the {CONFIDENCE:.0%} interval: {', '.join(outside)}", file=sys.stderr)
    return 1 if outside else 0


if __name__ == "__main__":
    sys.exit(main())
