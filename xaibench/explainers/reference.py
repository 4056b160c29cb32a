"""Reference images: what "no evidence" looks like to a method that compares an image with something else."""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from xaibench.datasets.base import Split, Splits
from xaibench.datasets.loader import batches
from xaibench.errors import NotApplicableError, UsageError
from xaibench.explainers.base import seed_of

Kind = Literal["black", "grey", "blurred", "mean"]
_MEASURED = 64  # images that the mean is taken over: their mean brightness varies by about a hundredth


class Reference:
    """A reference image for each image.

    Args:
        explainer: its name, for messages.
        kind: "black" (0), "grey" (0.5), "blurred" (the image under a Gaussian of a standard deviation of a tenth of its
            sides), or "mean" (one brightness for each channel, the mean over 64 training images).

    Raises:
        UsageError: another kind.
    """

    def __init__(self, explainer: str, kind: str) -> None:
        if kind not in get_args(Kind):
            known = ", ".join(map(repr, get_args(Kind)))
            raise UsageError(f"{explainer}: reference = {kind!r}; it is one of {known}")
        self.explainer, self.kind = explainer, kind
        self._mean: Tensor | None = None

    def prepare(self, splits: Splits) -> None:
        """Measure the mean, where it is asked for.

        Raises:
            NotApplicableError: there are no training or validation images.
        """
        if self.kind == "mean":
            self._mean = draw(splits, self.explainer, _MEASURED).mean(dim=(0, 2, 3))[:, None, None]

    def __call__(self, images: Tensor) -> Tensor:
        """Return the references of images (B, 3, H, W), of the same shape."""
        if self.kind == "blurred":
            return blurred(images)
        if self.kind == "mean":
            if self._mean is None:
                raise UsageError(f'{self.explainer}: reference = "mean" is measured on the data: call prepare(splits)')
            return torch.zeros_like(images) + self._mean.to(images)
        return torch.full_like(images, 0.5 if self.kind == "grey" else 0.0)


def blurred(images: Tensor) -> Tensor:
    """Return images (B, C, H, W) under a Gaussian of a standard deviation of a tenth of their sides, edges repeated.

    >>> torch.allclose(blurred(torch.full((1, 3, 20, 30), 0.25)), torch.tensor(0.25))
    True
    """
    for dim in (-1, -2):
        images = _blurred_along(images.transpose(dim, -1)).transpose(dim, -1)
    return images


def _blurred_along(images: Tensor) -> Tensor:
    length = images.shape[-1]
    reach = max(1, round(3 * 0.1 * length))
    offsets = torch.arange(-reach, reach + 1, device=images.device, dtype=images.dtype)
    kernel = torch.exp(-0.5 * (offsets / (0.1 * length)) ** 2)
    rows = F.pad(images.reshape(-1, 1, length), (reach, reach), mode="replicate")
    return F.conv1d(rows, (kernel / kernel.sum())[None, None]).reshape(images.shape)


def draw(splits: Splits, explainer: str, count: int) -> Tensor:
    """Draw images (N, 3, H, W) of the training split (else of validation), the same ones in every run.

    Args:
        splits: of the benchmark.
        explainer: its name, for the message and the draw.
        count: how many; all of them where there are fewer.

    Raises:
        NotApplicableError: both splits are empty.
    """
    split: Split | None = next((split for split in (splits.train, splits.val) if len(split)), None)
    if split is None:
        raise NotApplicableError(f"{explainer} needs training or validation images, and there are none: use saliency")
    generator = torch.Generator().manual_seed(seed_of(explainer, len(split)))
    chosen = sorted(torch.randperm(len(split), generator=generator)[:count].tolist())
    return torch.cat([batch.images for batch in batches(split, 32, chosen)])
