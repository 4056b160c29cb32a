"""Metrics: what a map or a set of logits is worth. Light to import: no torch until a metric is loaded."""

from __future__ import annotations

from typing import Any

from xaibench.metrics.base import Category, Metric, metric

__all__ = ["Category", "Metric", "metric", "pixel_rows"]


def __getattr__(name: str) -> Any:
    if name != "pixel_rows":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from xaibench.metrics._pixels import pixel_rows

    return pixel_rows
