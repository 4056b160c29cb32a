"""Write docs/metrics.md: what each metric is, and how far it lies from other implementations on the same maps.

    python docs/make_metric_table.py [--nih-sample DIR]

The metrics come from the registry, the implementations from tests/metrics/references: an entry added there appears
here. Both sides get the raw maps: random ones, and GCM (CCM) and Grad-CAM maps of the shipped checkpoint on drawn
radiographs; with --nih-sample also of real ones, from a folder with a part of ChestX-ray8 (docs show numbers, no
image). A quarter of an hour, as most of the other implementations ask the network image by image.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from itertools import groupby
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.metrics.references import REFERENCES, WITHOUT_REFERENCE  # noqa: E402
from tests.metrics.references.base import Drawn, draw  # noqa: E402
from xaibench import registry  # noqa: E402
from xaibench.metrics import Metric  # noqa: E402
from xaibench.reporting.page import Page, Section, Table, Text, to_markdown  # noqa: E402

MAPS = (
    "Both sides score the same raw maps, image by image: none is given what the other cut, scaled or sorted. Where a "
    "metric asks the network, it is the same network about the same "
    "images, with the same pixels hidden, the same neighbours, random weights and classes. ccm and gradcam are maps of "
    "drawn radiographs; those called real, of a sample of ChestX-ray8; true are the contributions of a network that "
    "adds up pixels. Differences of relative stability, which has no bound, are relative."
)
PACKAGES = ("quantus", "captum", "grad-cam", "torchmetrics", "scikit-learn", "scikit-image", "scipy", "torchvision")


def declared() -> Iterator[Metric]:
    """Yield every built-in metric, by category and name."""
    entries = [entry for name in registry.list_metrics() if (entry := registry.get("metrics", name)).is_builtin]
    yield from sorted((entry.load() for entry in entries), key=lambda metric: (metric.category, metric.name))


def definition(metric: Metric) -> list[str]:
    """Return one row of the first table."""
    chance = metric.chance
    level = "-" if chance is None else f"{chance:g}" if isinstance(chance, int | float) else first_line(chance.__doc__)
    low, high = (f"{end:g}" for end in metric.range)
    return [
        metric.name,
        first_line(metric.__doc__),
        metric.direction,
        f"{low} to {high}",
        level.removeprefix("Return").partition(": ")[2].strip().rstrip(".") or level,
        metric.reference,
    ]


def first_line(doc: str | None) -> str:
    return (doc or "").strip().splitlines()[0] if doc else ""


def agreement(drawn: Sequence[Drawn]) -> Iterator[list[str]]:
    """Yield one row for each implementation and kind of maps, its own and the drawn ones."""
    for reference in REFERENCES:
        cases = [reference.kind.own(), *(reference.kind.drawn(one) for one in drawn)]
        for name, case in (item for some in cases for item in some.items()):
            ours, theirs = reference.pair(case)
            both = np.isfinite(ours) & np.isfinite(theirs)
            if not both.any():
                continue
            means = [f"{values[both].mean():.6g}" for values in (ours, theirs)]
            difference = reference.differences(ours, theirs)[both].max()
            missing = f"{(~both).sum()} of {len(both)} have none" if not both.all() else ""
            remark = "; ".join(part for part in (reference.remark, missing) if part)
            yield [reference.metric, reference.source, name, *means, f"{difference:.1e}", remark]


def installed() -> str:
    found = []
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--nih-sample", type=Path, metavar="DIR", help="a part of ChestX-ray8")
    folder = parser.parse_args().nih_sample
    drawn = [draw("phantom"), *([draw("chestxray8-sample", folder)] if folder else [])]
    what = ["metric", "definition", "better", "range", "chance", "reference"]
    against = ["metric", "implementation", "maps", "our mean", "their mean", "largest difference", "remark"]
    page = Page(
        "Metrics",
        [
            Section(
                "Definitions",
                [
                    Text("From the metrics' own declarations; xaibench show NAME tells more of each."),
                    *(
                        Table(what, [definition(metric) for metric in metrics], f"{category.capitalize()}:")
                        for category, metrics in groupby(declared(), key=lambda metric: metric.category)
                    ),
                ],
            ),
            Section(
                "Agreement with other implementations",
                [
                    Text(f"{MAPS} {installed()}."),
                    Table(against, list(agreement(drawn))),
                ],
            ),
            Section(
                "Without an implementation to compare with", [Table(["metric", "why"], list(WITHOUT_REFERENCE.items()))]
            ),
        ],
    )
    (ROOT / "docs" / "metrics.md").write_text(to_markdown(page), encoding="utf-8")


if __name__ == "__main__":
    main()
