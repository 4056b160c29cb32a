"""The vocabulary: what flows from a dataset to a score.

Coordinates are in pixels of a `Frame`, x to the right and y down, measured at pixel *edges*: the first pixel
spans [0, 1), its centre is 0.5, and the right edge of the image is ``frame.width``. Box edges stay floats.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:  # torch takes seconds to import, and datasets' tables need none of it
    from torch import Tensor

FloatArray = npt.NDArray[np.floating[Any]]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, order=True)
class Frame:
    """The pixel grid that coordinates live in."""

    height: int
    width: int

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise ValueError(f"a frame needs at least one pixel, got {self.height} x {self.width}")

    @classmethod
    def square(cls, size: int) -> Frame:
        return cls(size, size)

    def __str__(self) -> str:
        return f"{self.height}x{self.width}"


@dataclass(frozen=True, eq=False)
class Region:
    """Where a class is in an image: boxes, and an exact mask where the dataset has one.

    Args:
        boxes: (N, 4) float64, ``x0, y0, x1, y1`` at pixel edges of `frame`.
        frame: the grid of `boxes` (and of `mask`).
        mask: (height, width) bool, or None.

    Raises:
        ValueError: a box with no area or a mask of another size.
    """

    boxes: FloatArray
    frame: Frame
    mask: BoolArray | None = None

    def __post_init__(self) -> None:
        boxes = np.asarray(self.boxes, dtype=np.float64).reshape(-1, 4)
        if not np.isfinite(boxes).all() or (boxes[:, 2:] <= boxes[:, :2]).any():
            raise ValueError(f"a box needs x0 < x1 and y0 < y1, got {boxes.tolist()}")
        if self.mask is not None and self.mask.shape != (self.frame.height, self.frame.width):
            raise ValueError(f"mask of shape {self.mask.shape} in a frame of {self.frame}")
        object.__setattr__(self, "boxes", boxes)

    def to(self, frame: Frame) -> Region:
        """Return the region in another frame that shows the same picture, stretched (the mask by nearest pixel)."""
        if frame == self.frame:
            return self
        sx, sy = frame.width / self.frame.width, frame.height / self.frame.height
        mask = None
        if self.mask is not None:
            rows = ((np.arange(frame.height) + 0.5) / sy).astype(int)
            columns = ((np.arange(frame.width) + 0.5) / sx).astype(int)
            mask = self.mask[rows[:, None], columns[None, :]]
        return Region(self.boxes * np.array([sx, sy, sx, sy]), frame, mask)

    def rasterize(self, frame: Frame, *, source: str = "boxes") -> BoolArray:
        """Return the (height, width) bool mask: a pixel belongs if its centre lies in a box (in the mask).

        Args:
            frame: the grid of the result.
            source: "boxes", or "mask" for the exact mask.

        Raises:
            ValueError: source "mask" where the region has none, or an unknown source.
        """
        moved = self.to(frame)
        if source == "mask":
            if moved.mask is None:
                raise ValueError('this region has no mask: use regions = "boxes"')
            return moved.mask
        if source != "boxes":
            raise ValueError(f'regions come from "boxes" or "mask", not {source!r}')
        y, x = np.arange(frame.height) + 0.5, np.arange(frame.width) + 0.5
        inside = np.zeros((frame.height, frame.width), dtype=bool)
        for x0, y0, x1, y1 in moved.boxes:
            inside |= ((y >= y0) & (y < y1))[:, None] & ((x >= x0) & (x < x1))[None, :]
        return inside


@dataclass(frozen=True, eq=False)
class Sample:
    """One image with what is known about it.

    Args:
        id: unique in the dataset (NIH: the file's name).
        image: (C, H, W) float32 in [0, 1], C = 1 (grey) or 3.
        labels: (K,) float32, 1 where the class is present, in the order of the dataset's classes.
        patient: the unit of resampling and of splitting.
        regions: class index to `Region`, in the frame of `image`.
        meta: anything else a dataset knows (view, age, a planted marker's box).
    """

    id: str
    image: npt.NDArray[np.float32]
    labels: npt.NDArray[np.float32]
    patient: str
    regions: Mapping[int, Region] = field(default_factory=dict)
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Batch:
    """Samples stacked for a classifier: `images` (B, 3, H, W) float32 in [0, 1], grey repeated as RGB."""

    samples: Sequence[Sample]
    images: Tensor

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(sample.id for sample in self.samples)


@dataclass(frozen=True, eq=False)
class Prediction:
    """What one forward pass leaves; everything downstream takes it.

    Args:
        ids: the images' ids (stochastic explainers draw their seed from them).
        images: (B, 3, H, W) float32 in [0, 1].
        logits: (B, K) float32.
        features: (B, C, h, w), at the explained layer.
        maps: a self-explaining classifier's own maps by name, each (B, K, H, W) (GCM: "cwm" and "ccm").
    """

    ids: tuple[str, ...]
    images: Tensor
    logits: Tensor
    features: Tensor
    maps: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def frame(self) -> Frame:
        return Frame(int(self.images.shape[-2]), int(self.images.shape[-1]))

    def __len__(self) -> int:
        return len(self.ids)

    def select(self, rows: Sequence[int]) -> Prediction:
        """Return the prediction of the given images, in that order; an image may come twice (for two targets).

        The maps are copied when they are asked for, as they are the largest part: see `class_maps`.
        """
        index = list(rows)
        return Prediction(
            tuple(self.ids[row] for row in index),
            self.images[index],
            self.logits[index],
            self.features[index],
            _OfRows(self.maps, index),
        )

    def copied(self) -> Prediction:
        """Return a prediction whose tensors nobody else holds; own maps are copied when they are asked for."""
        rows = list(range(len(self)))
        maps = self.maps if isinstance(self.maps, _OfRows) else _OfRows(self.maps, rows)
        return Prediction(self.ids, self.images.clone(), self.logits.clone(), self.features.clone(), maps)

    def class_maps(self, name: str, targets: Tensor) -> Tensor:
        """Return the map of one class of each image, (B, H, W), of the maps of that name; the others are not copied.

        Args:
            targets: (B,) int64, the classes.
        """
        if isinstance(self.maps, _OfRows):
            return self.maps.of_classes(name, targets)
        maps = self.maps[name]
        return maps[list(range(len(maps))), targets]


class _OfRows(Mapping[str, "Tensor"]):
    """The maps (B, K, H, W) of some of the images, in place of copies that nobody may ask for."""

    def __init__(self, maps: Mapping[str, Tensor], rows: Sequence[int]) -> None:
        self._maps, self._rows = maps, rows

    def __getitem__(self, name: str) -> Tensor:
        return self._maps[name][self._rows]

    def __contains__(self, name: object) -> bool:
        return name in self._maps  # `Mapping` would make the copy

    def __iter__(self) -> Iterator[str]:
        return iter(self._maps)

    def __len__(self) -> int:
        return len(self._maps)

    def of_classes(self, name: str, targets: Tensor) -> Tensor:
        return self._maps[name][self._rows, targets]
