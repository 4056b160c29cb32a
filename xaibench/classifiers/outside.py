"""What classifiers that come from outside share: how images are brought to them, and how their output is read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

from xaibench.classifiers.base import Normalize
from xaibench.errors import UsageError, WeightsError, did_you_mean

Normalization = Literal["imagenet", "none"] | Sequence[Sequence[float]]
"""A mean and a standard deviation for each channel, of images in [0, 1]: "imagenet", "none" or ``[[...], [...]]``."""


class Prepare(nn.Module):
    """Raw images (B, 3, H, W) in [0, 1] to what a network expects.

    Args:
        what: the classifier's name, for messages.
        normalize: see `Normalization`. A network that takes 0 to 255: ``[[0, 0, 0], [1/255, 1/255, 1/255]]``.
        channels: 3, or 1 for a network of grey images (the channels' mean).
        resize: side that the network sees images at; None: theirs.

    Attributes:
        dtype, memory_format: of what comes out.

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
        self.dtype, self.memory_format = torch.float32, torch.contiguous_format

    def forward(self, images: Tensor, enlarged: float = 1.0) -> Tensor:
        """Return the images as the network takes them; `enlarged` is their side over that of the classifier's."""
        size = None if self.resize is None else round(self.resize * enlarged)
        if size is not None and images.shape[-2:] != (size, size):
            images = F.interpolate(images, size=size, mode="bilinear", align_corners=False)
        if self.channels == 1:
            images = images.mean(dim=1, keepdim=True)
        return self.scale(images).to(self.dtype).contiguous(memory_format=self.memory_format)  # type: ignore[no-any-return]


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
        negative: of a network with one logit z and two classes, the class whose logit is -z/2; the other's is z/2, so
            that their softmax is the sigmoid of z.

    Raises:
        UsageError: as many outputs as classes are needed, each once, or `negative` is none of the classes.
    """

    def __init__(
        self, what: str, classes: Sequence[str], outputs: Sequence[int] | None, negative: str | None = None
    ) -> None:
        self.what, self.classes, self.negative = what, list(classes), negative
        if negative is not None and (len(classes) != 2 or negative not in classes):
            hint = did_you_mean(str(negative), list(classes)) if len(classes) == 2 else "There must be two."
            raise UsageError(f"{what}: negative = {negative!r}; it is one of the two classes {self.classes}. {hint}")
        wanted = 1 if negative is not None else len(classes)
        if outputs is not None and (len(outputs) != wanted or not all(type(at) is int for at in outputs)):
            of = "the network's one logit" if negative is not None else f"the output of each of {self.classes}"
            raise UsageError(f"{what}: outputs = {outputs!r}; it is the index of {of}")
        if outputs is not None and len(set(outputs)) < len(outputs):
            raise UsageError(f"{what}: outputs = {outputs!r} names one output for two classes: give each its own")
        self.outputs = None if outputs is None else list(outputs)

    def __call__(self, output: Any, rows: int) -> Tensor:
        """Return the classes' logits (B, K), float32.

        Args:
            output: a tensor; an object or mapping with ``logits``; or a mapping or tuple with one tensor that fits.
            rows: B, how many images went in.

        Raises:
            UsageError: the network gives something else.
        """
        return self.chosen(self._logits(output, rows)).float()

    def chosen(self, logits: Tensor) -> Tensor:
        """Return the columns (N, K) of the classes, of the network's own (N, outputs).

        Raises:
            UsageError: as many columns as classes are needed.
        """
        count, classes = logits.shape[1], ", ".join(self.classes)
        if self.outputs is not None:
            if not all(-count <= at < count for at in self.outputs):
                raise UsageError(f"{self.what}: outputs = {self.outputs}, but it has {count} outputs")
            if len({at % count for at in self.outputs}) < len(self.outputs):
                raise UsageError(f"{self.what}: outputs = {self.outputs} names one of its {count} outputs twice")
            logits = logits[:, self.outputs]
        elif count == 1 and len(self.classes) == 2 and self.negative is None:
            raise UsageError(
                f"{self.what} has one output for the classes {classes}: say which of them a low value means with "
                f"negative = {self.classes[0]!r} (or {self.classes[1]!r})"
            )
        if logits.shape[1] != (1 if self.negative is not None else len(self.classes)):
            remedy = f"say which are theirs with outputs = {'[...]' if self.negative is None else '[0]'}"
            raise UsageError(f"{self.what} has {count} outputs for the {len(self.classes)} classes {classes}: {remedy}")
        if self.negative is None:
            return logits
        signs = [-0.5 if name == self.negative else 0.5 for name in self.classes]
        return logits * torch.tensor(signs, dtype=logits.dtype, device=logits.device)

    def check_task(self, task: str) -> None:
        """Return if the logits are meant for a task; see `Classifier.check_task`."""
        if self.negative is not None and task != "multiclass":
            raise UsageError(
                f"{self.what}: negative = {self.negative!r} makes of one logit those of two classes that exclude each "
                'other, and the task is "multilabel": name one class alone, or take task = "multiclass"'
            )

    def _logits(self, output: Any, rows: int) -> Tensor:
        """Return the network's own logits (B, outputs)."""
        if (named := _named_logits(output)) is not None:
            output = named
        if isinstance(output, Tensor):
            found = _by_image(output, rows)
            if found is None:
                raise UsageError(self._not_logits(f"shape {tuple(output.shape)}"))
            return found
        fitting = [tensor for tensor in (_by_image(part, rows) for part in _parts(output)) if self._fits(tensor)]
        if len(fitting) == 1:
            assert fitting[0] is not None
            return fitting[0]
        shapes = ", ".join(str(tuple(part.shape)) for part in _parts(output) if isinstance(part, Tensor))
        shown = f"a {type(output).__name__}" + (f" of tensors {shapes}" if shapes else "")
        if fitting:
            raise UsageError(
                f"{self.what} gives {shown}, of which several may be the logits: wrap it in a module that returns them"
            )
        raise UsageError(self._not_logits(shown))

    def _fits(self, logits: Tensor | None) -> bool:
        if logits is None:
            return False
        if self.outputs is not None:
            return logits.shape[1] > max(max(self.outputs), -1 - min(self.outputs))
        return logits.shape[1] == (1 if self.negative is not None else len(self.classes))

    def _not_logits(self, shown: str) -> str:
        return f"{self.what} gives {shown}, not logits (B, K): wrap it in a module that returns them"


def _named_logits(output: Any) -> Any:
    """Return what is called logits in an object or mapping, None where nothing is."""
    named = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    return named if isinstance(named, Tensor) else None


def _parts(output: Any) -> Iterator[Any]:
    if isinstance(output, Mapping):
        yield from output.values()
    elif isinstance(output, tuple | list):
        yield from output


def _by_image(output: Any, rows: int) -> Tensor | None:
    """Return a network's output as (B, outputs): of one logit an image, or with axes of length 1, also; else None."""
    if not isinstance(output, Tensor) or not output.is_floating_point() or output.is_meta or not output.numel():
        return None
    if output.ndim <= 1:
        return output.reshape(rows, -1) if output.numel() == rows or rows == 1 else None
    if len(output) != rows or any(side != 1 for side in output.shape[2:]):
        return None
    return output.flatten(1)


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
