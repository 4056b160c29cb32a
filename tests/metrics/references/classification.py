"""Implementations of metrics of predictions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.metrics.references.base import Array, Cases, Drawn, Kind, Reference
from xaibench.metrics.classification import (
    average_precision,
    calibration_error,
    roc_auc,
    sensitivity,
    specificity,
)


def tied_scores() -> Cases:
    """Scores (N,) of 30 levels, and labels (N,)."""
    generator = torch.Generator().manual_seed(9)
    return {"random": (torch.randint(0, 30, (200,), generator=generator) / 30, torch.arange(200) % 3 == 0)}


def predicted(drawn: Drawn) -> Cases:
    """The scores of the class that most images were explained for: is it this one or another?"""
    asked = int(drawn.targets.mode().values)
    return {f"gcm{drawn.suffix}": (drawn.prediction.logits[:, asked].sigmoid(), drawn.targets == asked)}


def _torchmetrics(case: tuple[Tensor, Tensor]) -> Array:
    from torchmetrics.functional.classification import binary_auroc

    scores, labels = case
    return np.array([binary_auroc(scores, labels.int())])


def log_odds() -> Cases:
    """Log-odds (N,) of a badly calibrated network, and labels (N,)."""
    generator = torch.Generator().manual_seed(10)
    labels = torch.rand(400, generator=generator) < 0.3
    return {"random": (2 * torch.randn(400, generator=generator) + 2 * labels, labels)}


def predicted_log_odds(drawn: Drawn) -> Cases:
    """The logits of the class that most images were explained for."""
    asked = int(drawn.targets.mode().values)
    return {f"gcm{drawn.suffix}": (drawn.prediction.logits[:, asked], drawn.targets == asked)}


def _sklearn_precision(case: tuple[Tensor, Tensor]) -> Array:
    from sklearn.metrics import average_precision_score

    scores, labels = case
    return np.array([average_precision_score(labels.numpy(), scores.double().numpy())])


def _torchmetrics_of(name: str, **options: Any) -> Callable[[tuple[Tensor, Tensor]], Array]:
    """Return a function of torchmetrics that takes probabilities; it computes in float32."""

    def theirs(case: tuple[Tensor, Tensor]) -> Array:
        from torchmetrics.functional import classification

        scores, labels = case
        return np.array([getattr(classification, name)(scores.double().sigmoid(), labels.int(), **options)])

    return theirs


LOG_ODDS = Kind(log_odds, predicted_log_odds)

CLASSIFICATION = [
    Reference(
        "roc_auc",
        "torchmetrics binary_auroc",  # in float32
        _torchmetrics,
        lambda case: np.array([roc_auc(*case)]),
        kind=Kind(tied_scores, predicted),
    ),
    Reference(
        "average_precision",
        "scikit-learn average_precision_score",
        _sklearn_precision,
        lambda case: np.array([average_precision(*case)]),
        kind=Kind(tied_scores, predicted),
        tolerance=1e-12,
    ),
    Reference(
        "sensitivity",
        "torchmetrics binary_recall",
        _torchmetrics_of("binary_recall"),
        lambda case: np.array([sensitivity(*case)]),
        kind=LOG_ODDS,
    ),
    Reference(
        "specificity",
        "torchmetrics binary_specificity",
        _torchmetrics_of("binary_specificity"),
        lambda case: np.array([specificity(*case)]),
        kind=LOG_ODDS,
    ),
    Reference(
        "calibration_error",
        "torchmetrics binary_calibration_error",
        _torchmetrics_of("binary_calibration_error", n_bins=15, norm="l1"),
        lambda case: np.array([calibration_error(*case)]),
        kind=LOG_ODDS,
    ),
]
