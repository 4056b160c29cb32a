"""Scores of the order of pixels: those of the definitions, by rows in numpy and by one sort in torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from xaibench.metrics import _ops, _ranks

FEW = arrays(np.float32, (3, 4, 6), elements=st.integers(-2, 2).map(float))  # many ties
MANY = arrays(np.float32, (3, 4, 6), elements=st.floats(width=32, allow_nan=False, allow_infinity=False))
MASKS = arrays(bool, (3, 4, 6))


def by_pairs(values: np.ndarray, mask: np.ndarray) -> float:
    """ROC-AUC by its definition: each pixel of the mask against each outside."""
    inside, outside = values[mask][:, None], values[~mask][None]
    won = (inside > outside) + 0.5 * (inside == outside)
    return float(won.mean()) if won.size else np.nan


def by_pixels(values: np.ndarray, mask: np.ndarray) -> float:
    """Average precision by its definition: each pixel of the mask in turn."""
    precisions = [mask[values >= own].mean() for own in values[mask]]
    return float(np.mean(precisions)) if precisions else np.nan


def by_choice(values: np.ndarray, mask: np.ndarray, k: int) -> float:
    """Share of the mask among the k largest by its definition: all that are tied at the k-th place are as likely."""
    if not k:
        return np.nan
    last = np.sort(values, axis=None)[-k]
    above, tied = values > last, values == last
    return float((mask[above].sum() + (k - above.sum()) * mask[tied].mean()) / k)


@given(st.one_of(FEW, MANY), MASKS, st.integers(1, 24))
def test_scores_are_those_of_the_definitions_by_rows_and_by_one_sort(
    values: np.ndarray, drawn: np.ndarray, k: int
) -> None:
    masks = torch.from_numpy(drawn)
    for maps in (torch.from_numpy(values), torch.from_numpy(values).double()):  # float64 is sorted in torch
        found = [
            _ranks.roc_auc(maps, masks),
            _ranks.average_precision(maps, masks),
            _ranks.share_of_first(maps, masks),
            _ranks.share_of_first(maps, masks, k),
        ]
        for row, (own, mask) in enumerate(zip(values, drawn, strict=True)):
            wanted = [
                by_pairs(own, mask),
                by_pixels(own, mask),
                by_choice(own, mask, int(mask.sum())),
                by_choice(own, mask, k),
            ]
            # 24 terms in float64
            np.testing.assert_allclose([float(scores[row]) for scores in found], wanted, rtol=1e-13, atol=1e-15)


def test_metrics_that_share_their_steps_order_the_pixels_once(monkeypatch: pytest.MonkeyPatch) -> None:
    ordered = list[int]()
    falling = _ops.falling
    monkeypatch.setattr(_ops, "falling", lambda values: ordered.append(1) or falling(values))
    maps, masks = torch.rand(2, 5, 5), torch.rand(2, 5, 5) > 0.5
    with _ops.sharing():
        for score in (_ranks.roc_auc, _ranks.average_precision, _ranks.share_of_first):
            score(maps, masks)
        _ranks.share_of_first(maps, masks, 3)
    assert len(ordered) == len(maps)
