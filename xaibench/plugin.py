"""What plugins import: the base classes of the plugin kinds, what they hand to each other, and the errors they raise.

>>> from xaibench.plugin import Explainer, Prediction, upsample
"""

from __future__ import annotations

from xaibench.classifiers.base import Classifier, Normalize, Weights, hash_tensors, seeded
from xaibench.datasets.base import Split, Splits
from xaibench.datasets.content import sha256_of
from xaibench.errors import (
    DataError,
    NotApplicableError,
    UsageError,
    WeightsError,
    XaibenchError,
    did_you_mean,
    first_line,
)
from xaibench.explainers.base import Explainer, frozen, seed_of, upsample
from xaibench.findings import Note
from xaibench.metrics.base import Metric, Pool, metric
from xaibench.metrics.explained import Explained
from xaibench.types import Frame, Prediction, Region, Sample

__all__ = [
    "Classifier",
    "DataError",
    "Explained",
    "Explainer",
    "Frame",
    "Metric",
    "Normalize",
    "NotApplicableError",
    "Note",
    "Pool",
    "Prediction",
    "Region",
    "Sample",
    "Split",
    "Splits",
    "UsageError",
    "Weights",
    "WeightsError",
    "XaibenchError",
    "did_you_mean",
    "first_line",
    "frozen",
    "hash_tensors",
    "metric",
    "seed_of",
    "seeded",
    "sha256_of",
    "upsample",
]
