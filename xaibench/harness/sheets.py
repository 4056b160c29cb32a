"""The contact sheets that a run leaves: hits, misses and plain images of each class, for every explainer asked for."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

from torch import Tensor

from xaibench.benchmark import Benchmark
from xaibench.harness.run import Run
from xaibench.paths import make_folder
from xaibench.types import Sample


class ContactSheets:
    """A contact sheet for each explainer asked for."""

    def __init__(self, benchmark: Benchmark, explainers: Sequence[str]) -> None:
        from xaibench.reports.figures import SheetCollector

        self.classes = benchmark.classes
        self.collectors = {name: SheetCollector(benchmark.classes) for name in explainers}
        self._closed: frozenset[tuple[str, int, bool | None]] = frozenset()

    def wants(self, explainer: str, image: str, target: int, hit: float | None) -> bool:
        """Tell whether there is room for a map of that kind."""
        collector, kind = self.collectors.get(explainer), _peak(hit)
        if (explainer, target, kind) in self._closed:
            return False
        return collector is not None and collector.wants(target, kind)

    def rest(self) -> ContactSheets:
        """Return empty sheets that want only what these still have room for."""
        from xaibench.reports.figures import SheetCollector

        rest = copy.copy(self)
        rest.collectors = {name: SheetCollector(self.classes) for name in self.collectors}
        rest._closed = self._closed | {
            (name, target, kind)
            for name, collector in self.collectors.items()
            for target in range(len(self.classes))
            for kind in (True, False, None)
            if not collector.wants(target, kind)
        }
        return rest

    def offer(self, explainer: str, target: int, sample: Sample, heat: Tensor, hit: float | None) -> None:
        """Keep a map, if there is room for it."""
        from xaibench.reports.figures import Tile

        image, region = sample.image.mean(axis=0), sample.regions.get(target)
        tile = Tile(image, heat.cpu().numpy(), region, sample.id, self.classes[target], _peak(hit))
        self.collectors[explainer].offer(target, tile)

    def write(self, run: Run) -> None:
        """Draw the sheets into the run's directory, making it where it is missing."""
        from xaibench.reports.figures import contact_sheet

        assert run.directory is not None
        make_folder(run.directory)
        for name, collector in self.collectors.items():
            if tiles := collector.tiles():
                path = run.directory / f"contact-sheet-{name.replace(':', '-').replace('/', '-')}.png"
                contact_sheet(tiles, explainer=name, classifier=run.classifier, benchmark=run.benchmark.name, path=path)


def _peak(hit: float | None) -> bool | None:
    return None if hit is None or math.isnan(hit) else hit >= 0.5
