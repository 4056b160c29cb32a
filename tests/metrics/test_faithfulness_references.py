"""Faithfulness where other implementations do not hold, and ROAD's imputation. Where they do: `references`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.metrics.hand_built import SIDE, explained, shuffled
from tests.metrics.references.faithfulness import ask_quantus
from xaibench.metrics import _impute, faithfulness


def test_quantus_monotonicity_says_yes_to_anything() -> None:
    pytest.importorskip("quantus")
    given = explained()
    options: dict[str, Any] = {"features_in_step": 4, "perturb_baseline": 0.0}
    for maps in (given.maps, -given.maps, shuffled(given.maps)):
        assert ask_quantus("Monotonicity", explained(maps), **options).all()
    assert faithfulness.monotonicity(explained(-given.maps)).max() < 1


@pytest.mark.parametrize("share", [0.05, 0.4, 0.9])
def test_imputation_is_pytorch_grad_cams(share: float) -> None:
    road = pytest.importorskip("pytorch_grad_cam.metrics.road")
    generator = torch.Generator().manual_seed(9)
    image = torch.rand(3, 21, 17, generator=generator)
    smooth = nn.functional.interpolate(torch.rand(1, 1, 4, 4, generator=generator), (21, 17), mode="bilinear")[0, 0]
    for scatter in (smooth, torch.rand(21, 17, generator=generator)):
        hidden = scatter > scatter.quantile(1 - share)
        theirs = road.NoisyLinearImputer(noise=0.0)(image, (~hidden).float())
        np.testing.assert_allclose(_impute.impute(image, hidden).numpy(), theirs.numpy(), rtol=0, atol=1e-6)


def test_road_removes_no_more_of_a_sparse_map_than_it_says() -> None:
    road = pytest.importorskip("pytorch_grad_cam.metrics.road")
    maps = torch.zeros(12, SIDE, SIDE)
    maps[:, 5, 5] = 1
    kept = maps[0] < np.percentile(maps[0].numpy(), 90)
    assert not kept.any()  # theirs: 10% are to go, and everything does
    assert road.RemoveMostRelevantFirst(90, lambda image, mask: mask)(None, maps[0]).sum() == 0
    given = explained(maps)
    found = faithfulness.road_morf(given, percentages=[10], noise=0.0)
    assert ((found - given.own_scores()).abs() < 0.2).all()
