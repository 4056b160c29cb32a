"""Implementations of metrics of predictions."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tests.metrics.references.base import Array, Cases, Drawn, Kind, Reference
from xaibench import registry


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


CLASSIFICATION = [
    Reference(
        "roc_auc",
        "torchmetrics binary_auroc",  # in float32
        _torchmetrics,
        lambda case: np.array([registry.get("metrics", "roc_auc").load()(*case)]),
        kind=Kind(tied_scores, predicted),
    )
]
