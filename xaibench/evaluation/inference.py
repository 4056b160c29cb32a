"""The one forward pass of the stream, and what makes it faster: automatic mixed precision, compilation, batch size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from xaibench.classifiers.base import Classifier
from xaibench.errors import UsageError
from xaibench.types import Prediction

Precision = Literal["float32", "bf16", "fp16"]
_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
LARGEST_BATCH = 512
_SHARE = 0.7
"""Of the free memory, as explainers need some beside the forward pass; where that was too much, batches are halved."""


class Forward:
    """Runs a classifier once, as `Classifier.predict`, in less time.

    Forward passes of the images, and of those that a metric has changed, are so run. An explainer that runs the network
    itself, for gradients or on images of its own, has it in float32 and not compiled. What comes out is float32.

    Args:
        classifier: in eval mode.
        precision: "float32"; or "bf16" or "fp16", by autocast: results change by rounding, and the record says so.
        compiled: by `torch.compile`, which takes a minute and a C++ compiler (on a GPU: Triton) the first time.

    Raises:
        UsageError: another precision, or a classifier with its own `predict` that can't be compiled from outside.
    """

    def __init__(self, classifier: Classifier, precision: Precision = "float32", *, compiled: bool = False) -> None:
        if precision not in get_args(Precision):
            raise UsageError(f"precision = {precision!r}; it is one of {', '.join(get_args(Precision))}")
        self.classifier, self.precision, self.compiled = classifier, precision, compiled
        self._features: Any = classifier.features
        self._head: Any = classifier.head_with_maps
        if compiled:
            if type(classifier).predict is not Classifier.predict:
                raise UsageError(f"{type(classifier).__name__} has a forward pass of its own: leave --compile out")
            self._features, self._head = torch.compile(classifier.features), torch.compile(classifier.head_with_maps)

    def __call__(self, images: Tensor, ids: Sequence[str]) -> Prediction:
        """Return the prediction of images (B, 3, H, W) on the classifier's device, without gradients."""
        with torch.no_grad(), self._autocast():
            if not self.compiled:
                prediction = self.classifier.predict(images, ids)
            else:
                features = self._features(images)
                logits, maps = self._head(features, images)
                prediction = Prediction(tuple(ids), images, logits, features, maps)
        if self.precision == "float32":
            return prediction
        return Prediction(
            prediction.ids,
            images,
            prediction.logits.float(),
            prediction.features.float(),
            {name: maps.float() for name, maps in prediction.maps.items()},
        )

    def logits(self, images: Tensor) -> Tensor:
        """Return the logits (N, K) of images (N, 3, H, W) on the classifier's device, without gradients."""
        with torch.no_grad(), self._autocast():
            if not self.compiled:
                logits: Tensor = self.classifier(images)
            else:
                logits = self._head(self._features(images), images)[0]
        return logits.float()

    def identity(self) -> dict[str, Any]:
        """Return what of it decides the results, for the store's keys: nothing by default."""
        changed = {"precision": self.precision} if self.precision != "float32" else {}
        return changed | ({"compiled": True} if self.compiled else {})

    def _autocast(self) -> Any:
        if self.precision == "float32":
            return nullcontext()
        return torch.autocast(self.classifier.device.type, dtype=_TYPES[self.precision])


def find_batch_size(classifier: Classifier, default: int = 32) -> int:
    """Return how many images fit the device's memory: a power of two, from two small forward passes.

    On the CPU it is `default`: larger batches are no faster there.
    """
    device = classifier.device
    if device.type != "cuda":
        return default
    used = [_peak(classifier, images) for images in (4, 8)]
    each = max((used[1] - used[0]) / 4, 1.0)
    free = torch.cuda.mem_get_info(device)[0] * _SHARE
    fits = math.floor((free - used[0]) / each) + 4
    size = 1
    while 2 * size <= min(fits, LARGEST_BATCH):
        size *= 2
    return size


def _peak(classifier: Classifier, images: int) -> int:
    """Return the bytes that a forward pass of so many images takes at its peak."""
    device, side = classifier.device, classifier.input_size
    batch = classifier.laid_out(torch.zeros(images, 3, side, side, device=device))
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    with torch.no_grad():
        classifier.predict(batch)
    return torch.cuda.max_memory_allocated(device) - before
