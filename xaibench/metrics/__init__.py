"""Metrics: what a map or a set of logits is worth. Light to import: no torch until a metric is loaded."""

from __future__ import annotations

from xaibench.metrics.base import Category, Metric, metric

__all__ = ["Category", "Metric", "metric"]
