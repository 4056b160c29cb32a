"""What a contact sheet shows: images with their maps, gathered from a stream. Drawing them is another module's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, Protocol, Self, TypeVar

import numpy as np

from xaibench.errors import UsageError, XaibenchError
from xaibench.io.files import write_atomically
from xaibench.types import FloatArray, Region


@dataclass(frozen=True, eq=False)
class Tile:
    """One image with the map of one class.

    Args:
        image: (H, W) float in [0, 1], grey.
        map: (H, W) float, signed, as the explainer gave it.
        region: where the class is; None for an image without boxes.
        image_id: shown below.
        class_name: the class explained.
        hit: whether the map's peak is in the region; None where there is none.
        score: a number for the caption (None: no number), and what it is.
        score_name: "energy", for example.

    Raises:
        UsageError: image and map are not two-dimensional or differ in shape.
    """

    image: FloatArray
    map: FloatArray
    region: Region | None
    image_id: str
    class_name: str
    hit: bool | None = None
    score: float | None = None
    score_name: str = "energy"

    def __post_init__(self) -> None:
        if np.ndim(self.image) != 2 or np.shape(self.image) != np.shape(self.map):
            raise UsageError(
                f"tile {self.image_id!r}: image and map need one (H, W) shape, "
                f"got {np.shape(self.image)} and {np.shape(self.map)}"
            )

    def owned(self) -> Self:
        """Return it with copies of its arrays, in float32, so that no batch stays in memory."""
        image, heat = (np.array(array, dtype=np.float32) for array in (self.image, self.map))
        return replace(self, image=image, map=heat)


class Collected(Protocol):
    """A tile, or what one will be made of."""

    @property
    def hit(self) -> bool | None:
        """Whether the map's peak is in the region; None where there is none."""

    def owned(self) -> Self:
        """Return it with arrays of its own."""


Item = TypeVar("Item", bound=Collected)


class SheetCollector(Generic[Item]):
    """Keeps the tiles of a contact sheet from a stream of any length, in order of arrival.

    For each class it holds at most ``hits_per_class + misses_per_class`` hits, as many misses, and `plain` images
    without boxes. Where one kind is scarce the other fills its places, and then plain ones.

    >>> collector: SheetCollector[Tile] = SheetCollector(["Effusion"])
    >>> blank = np.zeros((8, 8))
    >>> for name, hit in [("a", True), ("b", False), ("c", False)]:
    ...     collector.offer(0, Tile(blank, blank, None, name, "Effusion", hit))
    >>> [tile.image_id for tile in collector.tiles()["Effusion"]]
    ['a', 'b', 'c']
    """

    def __init__(
        self, classes: Sequence[str], hits_per_class: int = 3, misses_per_class: int = 1, plain: int = 4
    ) -> None:
        if min(hits_per_class, misses_per_class, plain) < 0:
            raise UsageError(f"tiles per class can't be negative: {hits_per_class}, {misses_per_class}, {plain}")
        self.classes = tuple(classes)
        self._hits, self._misses, self._plain = hits_per_class, misses_per_class, plain
        self._kept: list[dict[bool | None, list[Item]]] = [{True: [], False: [], None: []} for _ in self.classes]

    def wants(self, class_index: int, hit: bool | None) -> bool:
        """Return whether a tile of that kind would be kept, so that a caller need not make one in vain.

        Raises:
            UsageError: there is no such class.
        """
        if not 0 <= class_index < len(self.classes):
            raise UsageError(f"class {class_index} of {len(self.classes)} classes")
        room = self._plain if hit is None else self._hits + self._misses
        return len(self._kept[class_index][hit]) < room

    def offer(self, class_index: int, tile: Item) -> None:
        """Keep the tile if there is room; its arrays are copied, so that no batch stays in memory.

        Raises:
            UsageError: there is no such class.
        """
        if self.wants(class_index, tile.hit):
            self._kept[class_index][tile.hit].append(tile.owned())

    def tiles(self) -> dict[str, list[Item]]:
        """Return the tiles of each class that has any: hits, misses, plain ones."""
        chosen = {}
        for name, kept in zip(self.classes, self._kept, strict=True):
            room = self._hits + self._misses
            misses = min(len(kept[False]), max(self._misses, room - len(kept[True])))
            hits = min(len(kept[True]), room - misses)
            boxed = kept[True][:hits] + kept[False][:misses]
            row = boxed + kept[None][: max(room - len(boxed), 0) if boxed else self._plain]
            if row:
                chosen[name] = row
        return chosen


def write_sheet(path: Path, png: bytes) -> None:
    """Write a sheet, whole or not at all.

    Raises:
        XaibenchError: the file can't be written.
    """
    try:
        write_atomically(path, lambda part: part.write_bytes(png))
    except OSError as error:
        raise XaibenchError(f"can't write {path}: {error.strerror or error}") from error
