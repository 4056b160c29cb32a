"""What classifiers that come from outside share: how images are brought to them, and how their output is read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

from xaibench.classifiers.base import Normalize
from xaibench.errors import UsageError, WeightsError

Normalization = Literal["imagenet", "none"] | Sequence[Sequence[float]]
"""A mean and a standard deviation for each channel, of images in [0, 1]: "imagenet", "none" or ``[[...], [...]]``."""


class Prepare(nn.Module):
    """Raw images (B, 3, H, W) in [0, 1] to what a network expects.

    Args:
        what: the classifier's name, for messages.
        normalize: see `Normalization`. A network that takes 0 to 255: ``[[0, 0, 0], [1/255, 1/255, 1/255]]``.
        channels: 3, or 1 for a network of grey images (the channels' mean).
        resize: side that the network sees images at; None: theirs.

    Raises:
        UsageError: an option out of its range.
    """

    def __init__(self, what: str, normalize: Normalization, channels: int, resize: int | None) -> None:
        super().__init__()
        if channels not in (1, 3):
            raise UsageError(f"{what}: channels = {channels!r}; it is 3, or 1 for grey images")
        if resize is not None and (type(resize) is not int or not 8 <= resize <= 4096):
            raise UsageError(f"{what}: resize = {resize!r}; it is a side of 8 to 4096 pixels")
        self.channels, self.resize = channels, resize
        self.scale = Normalize(*_mean_and_std(what, normalize, channels))

    def forward(self, images: Tensor) -> Tensor:
        if self.resize is not None and images.shape[-2:] != (self.resize, self.resize):
            images = F.interpolate(images, size=self.resize, mode="bilinear", align_corners=False)
        if self.channels == 1:
            images = images.mean(dim=1, keepdim=True)
        return self.scale(images)  # type: ignore[no-any-return]


def _mean_and_std(what: str, normalize: Normalization, channels: int) -> tuple[list[float], list[float]]:
    if isinstance(normalize, str):
        if normalize == "none":
            return [0.0] * channels, [1.0] * channels
        if normalize == "imagenet":
            mean, std = list(IMAGENET_DEFAULT_MEAN), list(IMAGENET_DEFAULT_STD)
            return (mean, std) if channels == 3 else ([sum(mean) / 3], [sum(std) / 3])
    else:
        try:
            mean, std = ([float(value) for value in row] for row in normalize)
            if len(mean) == len(std) == channels and all(value > 0 for value in std):
                return mean, std
        except (TypeError, ValueError):
            pass
    raise UsageError(
        f"{what}: normalize = {normalize!r}; it is 'imagenet', 'none', or a mean and a standard deviation above 0 for "
        f"each of {channels} channels, such as [[0.5, 0.5, 0.5], [0.25, 0.25, 0.25]]"
    )


class Columns:
    """Reads logits (B, K) out of what a network gives.

    Args:
        what: the classifier's name, for messages.
        classes: K class names.
        outputs: which of the network's outputs the classes are; None: all, in order.

    Raises:
        UsageError: as many outputs as classes are needed.
    """

    def __init__(self, what: str, classes: Sequence[str], outputs: Sequence[int] | None) -> None:
        if outputs is not None and (len(outputs) != len(classes) or not all(type(at) is int for at in outputs)):
            raise UsageError(f"{what}: outputs = {outputs!r}; it is the index of the output of each of {list(classes)}")
        self.what, self.classes, self.outputs = what, list(classes), None if outputs is None else list(outputs)

    def __call__(self, output: Any) -> Tensor:
        """Return the classes' logits.

        Raises:
            UsageError: the network gives something else.
        """
        logits = getattr(output, "logits", output)
        if not isinstance(logits, Tensor) or logits.ndim != 2:
            shown = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else f"a {type(output).__name__}"
            raise UsageError(f"{self.what} gives {shown}, not logits (B, K): wrap it in a module that returns them")
        if self.outputs is None:
            if logits.shape[1] != len(self.classes):
                raise UsageError(
                    f"{self.what} has {logits.shape[1]} outputs for the {len(self.classes)} classes "
                    f"{', '.join(self.classes)}: say which are theirs with outputs = [...]"
                )
            return logits
        if not all(-logits.shape[1] <= at < logits.shape[1] for at in self.outputs):
            raise UsageError(f"{self.what}: outputs = {self.outputs}, but it has {logits.shape[1]} outputs")
        return logits[:, self.outputs]


def existing(path: str, what: str) -> Path:
    """Return the path of a file that is there.

    Raises:
        WeightsError: it is not.
    """
    found = Path(path).expanduser()
    if not found.is_file():
        raise WeightsError(f"{what}: no file {found}")
    return found


def trial_image(prepare: Prepare, size: int) -> Tensor:
    """Return an image of noise (1, 3, size, size), the same every time."""
    image = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    return image.to(prepare.scale.mean.device)
