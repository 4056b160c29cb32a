"""Classifiers: a body and a head, made by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xaibench.classifiers.base import Classifier


def create(name: str, *, classes: Sequence[str], input_size: int, **options: Any) -> Classifier:
    """Make a classifier by its registered name.

    Args:
        name: "gcm", "densenet121", "timm:resnet50", or a plugin's.
        classes: the K class names, in order.
        input_size: side of the square images, in pixels.
        options: the classifier's own.

    Raises:
        PluginError: unknown or broken; the message says what is near.
        UsageError: an option that the classifier does not have, or a value out of range.
        WeightsError: pretrained weights can't be had.
    """
    from xaibench.plugins import build

    return build("classifiers", name, classes=classes, input_size=input_size, **options)  # type: ignore[no-any-return]
