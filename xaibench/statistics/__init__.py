"""Statistics: intervals, tests, ranks and power with the patient as the unit, not the image."""

from __future__ import annotations

from xaibench.statistics.auc import auc_interval, auc_intervals, mean_auc_intervals, weighted_auc
from xaibench.statistics.bootstrap import (
    Interval,
    Intervals,
    Resampling,
    bootstrap_weights,
    exact_interval,
    mean_interval,
    mean_intervals,
    statistic_intervals,
    wilson_interval,
)
from xaibench.statistics.chance import chance_corrected, chance_corrected_interval
from xaibench.statistics.comparison import Comparison, paired_comparisons
from xaibench.statistics.delong import AUCs, AUCTest, delong
from xaibench.statistics.equivalence import Equivalence, tost
from xaibench.statistics.paired import PairedTest, holm, mcnemar_test, permutation_test
from xaibench.statistics.power import Detectable, design_effect, detectable_difference, detectable_rate
from xaibench.statistics.ranks import RankStability, rank_stability
from xaibench.statistics.seeds import TwoLevel, two_level_difference, two_level_interval

__all__ = [
    "AUCTest",
    "AUCs",
    "Comparison",
    "Detectable",
    "Equivalence",
    "Interval",
    "Intervals",
    "PairedTest",
    "RankStability",
    "Resampling",
    "TwoLevel",
    "auc_interval",
    "auc_intervals",
    "bootstrap_weights",
    "chance_corrected",
    "chance_corrected_interval",
    "delong",
    "design_effect",
    "detectable_difference",
    "detectable_rate",
    "exact_interval",
    "holm",
    "mcnemar_test",
    "mean_auc_intervals",
    "mean_interval",
    "mean_intervals",
    "paired_comparisons",
    "permutation_test",
    "rank_stability",
    "statistic_intervals",
    "tost",
    "two_level_difference",
    "two_level_interval",
    "weighted_auc",
    "wilson_interval",
]
