"""The contract of an explainer: a map for the class that is asked for, in the input's frame."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from xaibench.classifiers.base import Classifier
from xaibench.datasets.base import Splits
from xaibench.errors import NotApplicableError
from xaibench.types import Frame, Prediction


class Explainer(ABC):
    """Base of every explainer.

    A map is (H, W) float32, signed, in the input's frame; low-resolution maps come up bilinearly with
    ``align_corners=False``, see `upsample`. Nothing is normalised or rectified beyond the method's own definition. The
    result for an image depends on nothing else in the batch; what is random draws from `seed_of(image id)`.

    Attributes:
        class_specific: False for a method whose map is the same for every class by definition (EigenCAM).
        is_baseline: looks at no evidence; the tables show it beside the others.
        runs_body: runs the whole network again, for gradients of the image or on changed images, instead of living on
            the one forward pass.
        completeness: "sum" or "mean", which of its maps' values promises to be the class's logit less that of
            `baselines`; None promises nothing.
        fixed: its maps were made elsewhere, so that it can't explain a changed image or another network.
    """

    class_specific: ClassVar[bool] = True
    is_baseline: ClassVar[bool] = False
    runs_body: ClassVar[bool] = False
    completeness: ClassVar[Literal["sum", "mean"] | None] = None
    fixed: ClassVar[bool] = False

    def prepare(self, splits: Splits) -> None:  # noqa: B027 - most have nothing to learn
        """Learn from the data what the method needs (prior boxes); called once before `explain`.

        Raises:
            NotApplicableError: the data does not have it.
        """

    def check(self, classifier: Classifier) -> None:  # noqa: B027 - most apply to every classifier
        """Return if the method applies to the classifier.

        Raises:
            NotApplicableError: it does not; says why and what to use instead.
        """

    def baselines(self, images: Tensor) -> Tensor:
        """Return the images that a map tells images (B, 3, H, W) from, (B, M, 3, H, W): their mean logit is the zero.

        Black unless a method has others; M is 0 where a map adds up to the logit itself.
        """
        return torch.zeros_like(images)[:, None]

    @abstractmethod
    def explain(self, classifier: Classifier, prediction: Prediction, targets: Tensor) -> Tensor:
        """Explain one class of each image.

        Args:
            classifier: in eval mode; left as it was found.
            prediction: of B images.
            targets: (B,) int64, the class index asked for.

        Returns:
            (B, H, W) float32.
        """

    def native(
        self, classifier: Classifier, prediction: Prediction, targets: Tensor
    ) -> Tensor | Sequence[Tensor] | None:
        """Return the maps at the method's own resolution, B of (h, w), which `explain` brings to the input's frame.

        A benchmark that measures in another frame brings these there, in one step. None, the default, where the maps
        are made in the input's frame.
        """
        return None


def check_several(classifier: Classifier, explainer: str, instead: str) -> None:
    """Return if there are other classes to compare one with.

    Raises:
        NotApplicableError: there are none.
    """
    if len(classifier.classes) < 2:
        raise NotApplicableError(f"{explainer} compares a class with the others, and there is one alone: use {instead}")


def upsample(maps: Tensor, frame: Frame) -> Tensor:
    """Bring maps (B, h, w) to (B, H, W) of a frame, float32.

    Along an axis that grows, bilinear with ``align_corners=False``; along one that shrinks, each pixel becomes the mean
    of the part of the map that it covers, so that the sum over a region stays what it was.

    >>> upsample(torch.tensor([[[0.0, 4.0, 0.0, 0.0]]]), Frame(1, 2)).tolist()
    [[[2.0, 0.0]]]
    """
    size = (frame.height, frame.width)
    if tuple(maps.shape[-2:]) == size:
        return maps.float()
    if maps.shape[-2] > frame.height:
        maps = torch.einsum("oh,bhw->bow", _covered(maps.shape[-2], frame.height).to(maps.device), maps.double())
    if maps.shape[-1] > frame.width:
        maps = torch.einsum("bhw,ow->bho", maps.double(), _covered(maps.shape[-1], frame.width).to(maps.device))
    return F.interpolate(maps[:, None].float(), size=size, mode="bilinear", align_corners=False)[:, 0]


@lru_cache(maxsize=8)
def _covered(count: int, fewer: int) -> Tensor:
    """Return which share of each of `fewer` pixels is covered by each of `count` smaller ones, (fewer, count) float64.

    >>> _covered(3, 2).tolist() == [[2 / 3, 1 / 3, 0.0], [0.0, 1 / 3, 2 / 3]]
    True
    """
    edges = torch.arange(fewer + 1, dtype=torch.float64) * count / fewer
    cells = torch.arange(count, dtype=torch.float64)
    low = torch.maximum(edges[:-1, None], cells)
    high = torch.minimum(edges[1:, None], cells + 1)
    return (high - low).clamp(min=0) * fewer / count


def seed_of(*parts: object) -> int:
    """Return a 63-bit seed made of an image's id and what else decides a draw; the same on every machine.

    >>> seed_of("00000001_000.png") == seed_of("00000001_000.png") != seed_of("00000001_001.png")
    True
    """
    return int.from_bytes(hashlib.sha256("\0".join(map(str, parts)).encode()).digest()[:8], "big") >> 1


@contextmanager
def frozen(classifier: Classifier) -> Iterator[None]:
    """Let gradients flow to features but not to parameters, which keep their flags and their `.grad`."""
    trained = [parameter for parameter in classifier.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        with torch.enable_grad():
            yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
