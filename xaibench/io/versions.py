"""Versions of the libraries that decide numbers: one list for the store's keys, a run's record and a checkpoint."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Iterable
from functools import cache

LIBRARIES = (
    "torch",
    "torchvision",
    "timm",
    "captum",
    "grad-cam",
    "numpy",
    "scipy",
    "scikit-image",
    "scikit-learn",
    "pillow",
    "opencv-python",
    "opencv-python-headless",
)
"""Distributions that compute predictions, maps or scores, or decode images. Any other package is known by its code.

pandas, matplotlib and the like are not here: they write and draw, and no number changes with them."""
TRAINING_LIBRARIES = (*LIBRARIES, "lightning")
"""Those that decide the weights of a training."""


def libraries(names: Iterable[str] = LIBRARIES) -> dict[str, str]:
    """Return the versions of the distributions that are installed, by name."""
    return {name: found for name in names if (found := _version(name)) is not None}


def versions() -> dict[str, str]:
    """Return what a run's record says: this package, Python, and `LIBRARIES`."""
    return {"xaibench": _own(), "python": platform.python_version(), **libraries()}


@cache
def _version(name: str) -> str | None:
    if name == "torch":
        import torch

        return str(torch.__version__)  # with its build ("+cu130"), which the distribution's version may lack
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _own() -> str:
    from xaibench import __version__

    return __version__
