"""Classification metrics: does the classifier tell the classes apart? Called as ``metric(scores, labels)``."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import logsumexp

from xaibench.metrics.base import metric
from xaibench.metrics.weighted_auc import weighted_auc


def _vector(values: Any) -> npt.NDArray[Any]:
    return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)


@metric(
    "roc_auc",
    category="classification",
    direction="higher",
    range=(0.0, 1.0),
    title="ROC-AUC",
    reference="Hanley and McNeil 1982, doi:10.1148/radiology.143.1.7063747; equals scikit-learn's roc_auc_score",
    chance=0.5,
)
def roc_auc(scores: Any, labels: Any) -> float:
    """Area under the ROC curve of one class: the chance that a positive outranks a negative, ties counted half.

    Args:
        scores: (N,) logits or probabilities, array or tensor; only their order matters.
        labels: (N,) 0 or 1.

    Returns:
        The area in [0, 1]; NaN when only one class is there or a score is NaN.

    Raises:
        UsageError: different lengths, or labels other than 0 and 1.

    >>> roc_auc([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1])
    0.75
    """
    score, label = _vector(scores), _vector(labels)
    return float(weighted_auc(score, label, np.ones((1, len(label))))[0])


def class_scores(logits: npt.NDArray[np.float64], task: str) -> npt.NDArray[np.float64]:
    """Return the scores (N, K) that rank images in a class's ROC curve, from logits (N, K).

    Multi-class: the log-odds of the softmax probability, which rank as the probability does but never tie at 0 or 1.
    Multi-label: the logits.

    >>> class_scores(np.array([[2.0, 1.0]]), "multiclass").tolist()
    [[1.0, -1.0]]
    """
    if task == "multilabel":
        return logits
    others = [logsumexp(np.delete(logits, k, axis=1), axis=1) for k in range(logits.shape[1])]
    scores: npt.NDArray[np.float64] = logits - np.stack(others, axis=1)
    return scores
