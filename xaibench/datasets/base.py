"""What a dataset plugin gives: three splits, each a list of images with labels, patients and regions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from inspect import signature
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from xaibench.types import Frame, Region, Sample


class Split(ABC):
    """Images of one split. What the tables say is at hand at once; an image is decoded when it is asked for.

    Attributes:
        classes: the K class names, in the order of the columns of `labels`.
        frame: the frame of every image, map and region (the input size).
        ids: N image ids, unique.
        patients: N patient ids.
        labels: (N, K) float32, 0 or 1.
        threads: how many threads decode; 1 where decoding holds Python's interpreter lock, as more would only wait.
        fingerprint: sha256 over everything that decides the samples; part of every cache key.
        contradicting: (N, K): by `labels` no example of the class, yet its source says it is one; None for none.
    """

    classes: tuple[str, ...]
    frame: Frame
    ids: Sequence[str]
    patients: Sequence[str]
    labels: npt.NDArray[np.float32]
    fingerprint: str
    threads: int = 2
    contradicting: npt.NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @abstractmethod
    def __getitem__(self, index: int) -> Sample:
        """Decode image `index`.

        Raises:
            DataError: the file is missing, truncated or not an image; the message names it.
        """

    @abstractmethod
    def regions(self, index: int, frame: Frame | Literal["input"] | None = "input") -> Mapping[int, Region]:
        """Return class index to region of image `index`, without decoding the image where possible.

        Args:
            index: of the image.
            frame: of the regions: "input" for the split's `frame`, None for the image's own size (`own_frame`), or any
                other. A split that takes `index` alone gives them in its `frame`; see `regions_of`.
        """

    def ignored(self, index: int) -> npt.NDArray[np.bool_] | None:
        """Return the pixels of image `index` that count neither for nor against a map, (h, w), in a frame of any size.

        None: all count. Metrics that take a keyword `ignore` leave them out: of the built-in ones pxap, pixel_auc,
        pixel_ap, iou_fixed and iou_best. Maps are still scaled with them.
        """
        return None

    def own_frame(self, index: int) -> Frame:
        """Return the size that image `index` has before it is brought to `frame`; `frame` where it has no other."""
        return self.frame

    def image_key(self, index: int) -> str:
        """Return what names the content of image `index` as it is decoded, whatever split it is in; without decoding.

        A dataset of files does well to hash the file: by default the split's fingerprint and the image's id stand for
        the content, so that nothing is shared between splits.
        """
        return f"{self.fingerprint} {self.ids[index]}"


def regions_of(split: Split, index: int, frame: Frame | Literal["input"] | None = "input") -> Mapping[int, Region]:
    """Return the regions of an image in a frame, as `Split.regions` does, of any split.

    A split whose `regions` takes the index alone knows them in the input's frame, from where they are stretched.
    """
    if "frame" in signature(split.regions).parameters:
        return split.regions(index, frame=frame)
    known = split.regions(index)
    return known if not isinstance(frame, Frame) else {target: region.to(frame) for target, region in known.items()}


@dataclass(frozen=True)
class Splits:
    """A dataset, split: no patient is in two of the splits unless `notes` says so."""

    train: Split
    val: Split
    test: Split
    notes: Sequence[str] = field(default_factory=tuple)
    """What the loader found, for the user: counts, missing files, labels that disagree."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Why images that the tables name are in no split, to how many; with those in splits they are all that is named."""


class DatasetFactory(Protocol):
    """The object behind an entry point of the group ``xaibench.datasets``.

    One that has a further argument `task` is given the benchmark's, "multiclass" or "multilabel".
    """

    def __call__(
        self, *, classes: Sequence[str], input_size: int, data_root: Path | None, options: Mapping[str, Any]
    ) -> Splits:
        """Build the splits.

        Args:
            classes: the benchmark's classes, in order.
            input_size: side of the square images, in pixels.
            data_root: the folder of the data, None for datasets that need none.
            options: the benchmark's ``[dataset.options]``.

        Raises:
            DataError: data missing or damaged.
            UsageError: an unknown option, or a class that the dataset does not have.
        """
        ...
