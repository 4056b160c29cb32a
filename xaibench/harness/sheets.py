"""The contact sheets that a run leaves: hits, misses and plain images of each class, for every explainer asked for."""

from __future__ import annotations

import copy
import hashlib
import importlib.metadata
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from xaibench.benchmark import Benchmark
from xaibench.harness.identity import code_of
from xaibench.harness.run import Run
from xaibench.harness.store import Store, key_of
from xaibench.paths import make_folder
from xaibench.reports.tiles import SheetCollector, Tile, write_sheet
from xaibench.types import Frame, Sample


class ContactSheets:
    """A contact sheet for each explainer asked for."""

    def __init__(self, benchmark: Benchmark, explainers: Sequence[str]) -> None:
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
        image, region = sample.image.mean(axis=0), sample.regions.get(target)
        tile = Tile(image, heat.cpu().numpy(), region, sample.id, self.classes[target], _peak(hit))
        self.collectors[explainer].offer(target, tile)

    def write(self, run: Run, store: Store | None = None) -> None:
        """Draw the sheets into the run's directory, making it where it is missing; one drawn before is in the store."""
        assert run.directory is not None
        make_folder(run.directory)
        for name, collector in self.collectors.items():
            if tiles := collector.tiles():
                path = run.directory / f"contact-sheet-{name.replace(':', '-').replace('/', '-')}.png"
                title = f"{name} of {run.classifier} on {run.benchmark.name}"
                write_sheet(path, _drawn(tiles, title, store))


def _drawn(tiles: Mapping[str, Sequence[Tile]], title: str, store: Store | None) -> bytes:
    if store is not None and (found := store.read(key := key_of("sheet", _identity(tiles, title)))):
        return bytes(found.arrays["png"].tobytes())
    from xaibench.reports.figures import contact_sheet  # matplotlib only where something is drawn

    png = contact_sheet(tiles, title=title)
    if store is not None:
        store.write(key, {"png": np.frombuffer(png, dtype=np.uint8)}, {"kind": "sheet", "title": title})
    return png


def _identity(tiles: Mapping[str, Sequence[Tile]], title: str) -> dict[str, Any]:
    """Return what decides a sheet: the same tiles give the same bytes."""
    content = hashlib.sha256()
    told = []
    for name, row in tiles.items():
        for tile in row:
            boxes = tile.region.to(Frame(*tile.image.shape)).boxes.tolist() if tile.region else None
            caption = [tile.image_id, tile.class_name, tile.hit, tile.score, tile.score_name]
            told.append([name, tile.image.shape, boxes, caption])
            content.update(np.ascontiguousarray(tile.image).tobytes())
            content.update(np.ascontiguousarray(tile.map).tobytes())
    drawing = {package: importlib.metadata.version(package) for package in ("matplotlib", "numpy", "pillow")}
    code = code_of({Tile}, "sheets")
    return {"title": title, "tiles": told, "content": content.hexdigest(), "code": code, "drawing": drawing}


def _peak(hit: float | None) -> bool | None:
    return None if hit is None or math.isnan(hit) else hit >= 0.5
