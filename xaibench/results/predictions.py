"""A run's predictions, as what ranks images in ROC curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from xaibench.metrics.classification import class_scores
from xaibench.results.run import Run

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Predicted:
    """What a run predicted: scores and labels (N, K), and N image and patient ids."""

    scores: Array
    labels: npt.NDArray[np.int64]
    images: Sequence[str]
    patients: Sequence[str]


def predicted(run: Run) -> Predicted:
    """Read a run's predictions as the scores that rank images in a class's ROC curve."""
    table, classes = run.predictions(), run.benchmark.classes
    logits = table[[f"logit:{name}" for name in classes]].to_numpy(dtype=np.float64)
    labels = table[[f"label:{name}" for name in classes]].to_numpy(dtype=np.int64)
    images, patients = (table[column].astype(str).tolist() for column in ("image", "patient"))
    return Predicted(class_scores(logits, run.benchmark.task), labels, images, patients)
