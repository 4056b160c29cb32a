"""The contact sheets that a run leaves: hits, misses and plain images of each class, for every explainer asked for."""

from __future__ import annotations

import copy
import hashlib
import importlib.metadata
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from xaibench.benchmark import Benchmark
from xaibench.evaluation.cache_keys import code_of
from xaibench.evaluation.records import Picture
from xaibench.io.files import make_folder
from xaibench.io.store import Store, key_of
from xaibench.reporting.figures.tiles import SheetCollector, Tile, write_sheet
from xaibench.results.run import Run
from xaibench.types import FloatArray, Frame


@dataclass(frozen=True, eq=False)
class Shown:
    """What a tile shows.

    Attributes:
        image_id, class_name, map, hit: the tile's.
        key: decides the image and the region; None where that is not known.
        tile: makes the tile; an image that was not at hand is decoded then, which a sheet drawn before never asks for.
    """

    image_id: str
    class_name: str
    map: FloatArray
    hit: bool | None
    key: str | None
    tile: Callable[[], Tile]

    @classmethod
    def of(cls, picture: Picture, target: int, class_name: str, heat: Tensor, hit: bool | None) -> Shown:
        shown = np.array(heat.cpu().numpy())

        def tile() -> Tile:
            sample = picture.sample
            image = np.asarray(sample.image.mean(axis=0))
            return Tile(image, shown, sample.regions.get(target), sample.id, class_name, hit)

        made = tile() if picture.is_decoded else None  # holds no batch in memory
        return cls(picture.id, class_name, shown, hit, picture.key, (lambda: made) if made else tile)

    def owned(self) -> Shown:
        return self


class ContactSheets:
    """A contact sheet for each explainer asked for."""

    def __init__(self, benchmark: Benchmark, explainers: Sequence[str]) -> None:
        self.classes = benchmark.classes
        self.collectors: dict[str, SheetCollector[Shown]] = {
            name: SheetCollector(benchmark.classes) for name in explainers
        }
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

    def offer(self, explainer: str, target: int, picture: Picture, heat: Tensor, hit: float | None) -> None:
        """Keep a map, if there is room for it."""
        shown = Shown.of(picture, target, self.classes[target], heat, _peak(hit))
        self.collectors[explainer].offer(target, shown)

    def write(self, run: Run, store: Store | None = None) -> None:
        """Draw the sheets into the run's directory, making it where it is missing; one drawn before is in the store."""
        assert run.directory is not None
        make_folder(run.directory)
        for name, collector in self.collectors.items():
            if shown := collector.tiles():
                path = run.directory / f"contact-sheet-{name.replace(':', '-').replace('/', '-')}.png"
                title = f"{name} of {run.classifier} on {run.benchmark.name}"
                write_sheet(path, _drawn(shown, title, store))


def _drawn(rows: Mapping[str, Sequence[Shown]], title: str, store: Store | None) -> bytes:
    if store is not None and (found := store.read(key := key_of("sheet", _identity(rows, title)))):
        return bytes(found.arrays["png"].tobytes())
    from xaibench.reporting.figures.contact_sheet import contact_sheet  # matplotlib only where something is drawn

    tiles = {name: [shown.tile() for shown in row] for name, row in rows.items()}
    png = contact_sheet(tiles, title=title)
    if store is not None:
        store.write(key, {"png": np.frombuffer(png, dtype=np.uint8)}, {"kind": "sheet", "title": title})
    return png


def _identity(rows: Mapping[str, Sequence[Shown]], title: str) -> dict[str, Any]:
    """Return what decides a sheet: the same tiles give the same bytes."""
    content = hashlib.sha256()
    told: list[Any] = []
    for name, row in rows.items():
        for shown in row:
            told.append([name, shown.image_id, shown.class_name, shown.hit, shown.map.shape, shown.key])
            content.update(shown.map.tobytes())
            if shown.key is None:
                tile = shown.tile()
                told.append(tile.region.to(Frame(*tile.image.shape)).boxes.tolist() if tile.region else None)
                content.update(np.ascontiguousarray(tile.image).tobytes())
    drawing = {package: importlib.metadata.version(package) for package in ("matplotlib", "numpy", "pillow")}
    code = code_of({Tile}, "sheets")
    return {"title": title, "tiles": told, "content": content.hexdigest(), "code": code, "drawing": drawing}


def _peak(hit: float | None) -> bool | None:
    return None if hit is None or math.isnan(hit) else hit >= 0.5
