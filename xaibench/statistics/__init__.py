"""Statistics: intervals that resample patients, not images."""

from __future__ import annotations

from xaibench.statistics.auc import auc_interval, auc_intervals, weighted_auc
from xaibench.statistics.bootstrap import (
    Interval,
    Intervals,
    Resampling,
    bootstrap_weights,
    chance_corrected,
    mean_interval,
    mean_intervals,
    statistic_intervals,
    wilson_interval,
)

__all__ = [
    "Interval",
    "Intervals",
    "Resampling",
    "auc_interval",
    "auc_intervals",
    "bootstrap_weights",
    "chance_corrected",
    "mean_interval",
    "mean_intervals",
    "statistic_intervals",
    "weighted_auc",
    "wilson_interval",
]
