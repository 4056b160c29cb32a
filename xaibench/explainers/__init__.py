"""Explainers: a map for the class that is asked for, made by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xaibench.explainers.base import Explainer


def create(name: str, **options: Any) -> Explainer:
    """Make an explainer by its registered name ("cwm", "gradcam", "random", or a plugin's).

    Raises:
        PluginError: unknown or broken; the message says what is near.
        UsageError: an option that the explainer does not have.
    """
    from xaibench.plugins import build

    return build("explainers", name, **options)  # type: ignore[no-any-return]
