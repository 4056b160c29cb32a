"""Baselines: maps that look at no evidence. A method that does not beat them has explained nothing."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from xaibench.classifiers.base import Classifier
from xaibench.datasets.base import Split, Splits
from xaibench.errors import NotApplicableError
from xaibench.explainers.base import Explainer, seed_of
from xaibench.io.files import cache_dir, write_atomically
from xaibench.io.limits import read_json
from xaibench.types import Prediction

Box = tuple[float, ...]
"""``x0, y0, x1, y1``, as shares of the width and height."""


class Random(Explainer):
    """Independent uniform noise in [0, 1), drawn from the image's id and the class."""

    is_baseline = True

    def explain(self, classifier: Classifier, prediction: Prediction, targets: Tensor) -> Tensor:
        size = (prediction.frame.height, prediction.frame.width)
        maps = []
        for image_id, target in zip(prediction.ids, targets.tolist(), strict=True):
            generator = torch.Generator().manual_seed(seed_of("random", image_id, target))
            maps.append(torch.rand(size, generator=generator))
        return torch.stack(maps).to(prediction.images.device)


class Center(Explainer):
    """A Gaussian in the middle of the image with a standard deviation of a quarter of its sides."""

    is_baseline = True

    def explain(self, classifier: Classifier, prediction: Prediction, targets: Tensor) -> Tensor:
        height, width = prediction.frame.height, prediction.frame.width
        # Subtract before dividing: exact, so that the map is symmetric to the last bit and its middle pixels tie.
        y = (torch.arange(height) + 0.5 - height / 2) / height
        x = (torch.arange(width) + 0.5 - width / 2) / width
        bump = torch.exp(-8 * (y[:, None] ** 2 + x[None, :] ** 2))  # 1 / (2 * 0.25^2) = 8
        return bump.repeat(len(prediction), 1, 1).to(prediction.images.device)


class PriorBox(Explainer):
    """The class's mean box over the training images that have one (else over the validation images).

    The map is 0 outside the box and falls inside it from 1 in the middle to 0.9 at the edge, so that its maximum is the
    box's centre and any threshold between finds the box.
    """

    is_baseline = True
    oracle: ClassVar[bool] = False

    def __init__(self) -> None:
        self._boxes: dict[int, Box] = {}

    def prepare(self, splits: Splits) -> None:
        self._boxes.clear()
        sources: Iterable[Split] = (splits.test,) if self.oracle else (splits.train, splits.val)
        for split in sources:
            for target, box in _mean_boxes(split).items():
                self._boxes.setdefault(target, box)
        if not self._boxes:
            raise NotApplicableError(
                "oracle_prior_box needs boxes in the test split, and there are none: use random or center"
                if self.oracle
                else "prior_box needs boxes in the training or validation split, and there are none: "
                "use oracle_prior_box, which looks at the test boxes"
            )

    def explain(self, classifier: Classifier, prediction: Prediction, targets: Tensor) -> Tensor:
        """Return the maps; all NaN for a class without a prior box, so that it counts as undefined."""
        height, width = prediction.frame.height, prediction.frame.width
        maps = torch.full((len(prediction), height, width), torch.nan)
        y, x = torch.arange(height) + 0.5, torch.arange(width) + 0.5
        for row, target in enumerate(targets.tolist()):
            if target in self._boxes:
                left, top, right, bottom = self._boxes[target]
                x0, x1, y0, y1 = left * width, right * width, top * height, bottom * height
                from_middle = torch.maximum(
                    (2 * y - y0 - y1).abs()[:, None] / (y1 - y0), (2 * x - x0 - x1).abs()[None, :] / (x1 - x0)
                )
                maps[row] = torch.where(from_middle < 1, 1 - 0.1 * from_middle, 0)
        return maps.to(prediction.images.device)


class OraclePriorBox(PriorBox):
    """`PriorBox` from the *test* boxes: an upper bound that has seen the answers, for data with no other boxes."""

    oracle = True


def _mean_boxes(split: Split) -> dict[int, Box]:
    """Return class index to its mean box, in shares of width and height, from the cache where it is known."""
    path = cache_dir() / "mean-boxes" / f"{split.fingerprint}.json"
    try:
        kept = read_json(path)
        if kept["sha256"] == _checksum(kept["boxes"]):
            return {int(target): tuple(box) for target, box in kept["boxes"].items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        pass  # not there yet, or damaged: looked up again
    means: dict[int, Box] = {target: tuple(boxes.mean(axis=0).tolist()) for target, boxes in _boxes(split).items()}
    made = {str(target): list(box) for target, box in means.items()}
    text = json.dumps({"boxes": made, "sha256": _checksum(made)})
    with contextlib.suppress(OSError):  # a cache that can't be written costs time, not the run
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda part: part.write_text(text))
    return means


def _checksum(boxes: Any) -> str:
    return hashlib.sha256(json.dumps(boxes, sort_keys=True).encode()).hexdigest()


def _boxes(split: Split) -> dict[int, npt.NDArray[np.float64]]:
    """Return class index to its boxes (N, 4), as shares of the width and height."""
    found: dict[int, list[npt.NDArray[np.float64]]] = {}
    scale = np.array([split.frame.width, split.frame.height] * 2, dtype=float)
    for index in np.flatnonzero(split.labels.any(axis=1)):
        for target, region in split.regions(int(index)).items():
            if len(region.boxes):  # a region may be a mask alone
                found.setdefault(target, []).append(np.asarray(region.boxes) / scale)
    return {target: np.concatenate(boxes) for target, boxes in found.items()}
