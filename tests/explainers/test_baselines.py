"""The baselines: known answers, and that they look at nothing."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from xaibench.classifiers.base import Classifier
from xaibench.datasets.base import Splits
from xaibench.errors import NotApplicableError
from xaibench.explainers.baselines import Center, OraclePriorBox, PriorBox, Random
from xaibench.types import Frame, Prediction, Region

HEART, AIR, WATER = 1, 2, 3
Make = Callable[..., Splits]


def blank(ids: list[str], frame: Frame, value: float = 0.0) -> Prediction:
    images = torch.full((len(ids), 3, frame.height, frame.width), value)
    return Prediction(tuple(ids), images, torch.zeros(len(ids), 4), torch.zeros(len(ids), 8, 2, 2))


def prior(explainer: PriorBox, splits: Splits, targets: list[int], frame: Frame, classifier: Classifier) -> Tensor:
    explainer.prepare(splits)
    return explainer.explain(classifier, blank(["x"] * len(targets), frame), torch.tensor(targets))


def test_random_hangs_on_image_and_class_alone(densenet: Classifier) -> None:
    frame = Frame(32, 48)
    state = torch.get_rng_state()
    targets = torch.tensor([0, 1, 0, 0])
    maps = Random().explain(densenet, blank(["a", "a", "b", "a"], frame), targets)
    assert torch.equal(torch.get_rng_state(), state)
    assert maps.shape == (4, 32, 48)
    assert torch.equal(maps[0], maps[3])
    assert not torch.equal(maps[0], maps[1])
    assert not torch.equal(maps[0], maps[2])
    torch.manual_seed(1)
    assert torch.equal(Random().explain(densenet, blank(["a", "a", "b", "a"], frame, value=1.0), targets), maps)
    # Uniform in [0, 1), and the draws of different images have nothing in common.
    assert maps.min() >= 0
    assert maps.max() < 1
    assert abs(float(maps[0].mean()) - 0.5) < 0.05
    assert abs(float(np.corrcoef(maps[0].flatten(), maps[2].flatten())[0, 1])) < 0.1


@given(height=st.integers(1, 300), width=st.integers(1, 300))
def test_center_is_symmetric_to_the_last_bit(height: int, width: int) -> None:
    maps = Center().explain(None, blank(["a", "b"], Frame(height, width)), torch.tensor([0, 1]))  # type: ignore[arg-type]
    assert torch.equal(maps[0], maps[1])
    assert torch.equal(maps, maps.flip(1))
    assert torch.equal(maps, maps.flip(2))
    peak = (maps[0] == maps[0].max()).nonzero()
    middle = torch.tensor([(height - 1) / 2, (width - 1) / 2])
    assert ((peak - middle).abs() <= 0.5).all()
    assert len(peak) == (2 - height % 2) * (2 - width % 2)  # one pixel, or the two or four around the middle


def test_center_is_a_gaussian_of_a_quarter_of_the_sides(densenet: Classifier) -> None:
    bump = Center().explain(densenet, blank(["a"], Frame(101, 201)), torch.tensor([0]))[0]
    assert bump[50, 100] == 1
    down, right = 25 / 101 / 0.25, 50 / 201 / 0.25  # in standard deviations
    assert float(bump[75, 100]) == pytest.approx(np.exp(-(down**2) / 2), rel=1e-5)
    assert float(bump[50, 150]) == pytest.approx(np.exp(-(right**2) / 2), rel=1e-5)


def test_prior_box_known_answer(splits_of: Make, densenet: Classifier) -> None:
    """Boxes (0, 0, 20, 10) and (40, 20, 60, 30) of 80 x 40 average to (20, 10, 40, 20), halved (10, 5, 20, 10)."""
    splits = splits_of(train=[("Cardiomegaly", (0, 0, 20, 10)), ("Cardiomegaly", (40, 20, 60, 30))])
    maps = prior(PriorBox(), splits, [HEART, AIR], Frame(20, 40), densenet)
    inside = torch.zeros(20, 40, dtype=torch.bool)
    inside[5:10, 10:20] = True
    assert torch.equal(maps[0] > 0, inside)
    assert torch.equal(maps[0][~inside], torch.zeros(800 - 50))
    assert float(maps[0][inside].min()) > 0.9
    assert maps[0].max() <= 1
    # The box's middle is (15, 7.5): between columns 14 and 15, in row 7.
    assert (maps[0] == maps[0].max()).nonzero().tolist() == [[7, 14], [7, 15]]
    assert float(maps[0, 7, 14]) == pytest.approx(1 - 0.1 * 0.1)  # half a pixel off of a half width of 5
    assert maps[1].isnan().all()  # no box of this class anywhere


def test_prior_box_prefers_training_and_falls_back_on_validation(splits_of: Make, densenet: Classifier) -> None:
    splits = splits_of(
        train=[("Cardiomegaly", (0, 0, 20, 10))],
        val=[("Cardiomegaly", (60, 30, 80, 40)), ("Effusion", (40, 20, 80, 40))],
        test=[("Cardiomegaly", (20, 20, 30, 30)), ("Pneumothorax", (20, 20, 30, 30))],
    )
    frame = Frame(40, 80)
    heart, air, water = prior(PriorBox(), splits, [HEART, AIR, WATER], frame, densenet)
    assert (heart > 0).sum() == 200
    assert heart[:10, :20].all()
    assert air.isnan().all()  # boxed in the test split alone, which is not looked at
    assert (water > 0).sum() == 800
    assert water[20:, 40:].all()
    heart, air, water = prior(OraclePriorBox(), splits, [HEART, AIR, WATER], frame, densenet)
    assert heart[20:30, 20:30].all()
    assert (heart > 0).sum() == (air > 0).sum() == 100
    assert water.isnan().all()


def test_prior_box_without_boxes_says_what_to_use(splits_of: Make) -> None:
    with pytest.raises(NotApplicableError, match="use oracle_prior_box"):
        PriorBox().prepare(splits_of(test=[("Effusion", (0, 0, 5, 5))]))
    with pytest.raises(NotApplicableError, match="oracle_prior_box needs boxes in the test split"):
        OraclePriorBox().prepare(splits_of(train=[("Effusion", (0, 0, 5, 5))]))


def test_prior_box_prepared_again_forgets(splits_of: Make, densenet: Classifier) -> None:
    explainer = PriorBox()
    explainer.prepare(splits_of(train=[("Cardiomegaly", (0, 0, 20, 10)), ("Effusion", (0, 0, 20, 10))]))
    maps = prior(
        explainer, splits_of(train=[("Cardiomegaly", (40, 20, 60, 30))]), [HEART, WATER], Frame(40, 80), densenet
    )
    assert maps[0, 20:30, 40:60].all()
    assert maps[0, :10, :20].sum() == 0
    assert maps[1].isnan().all()


def test_prior_box_passes_over_regions_without_boxes(splits_of: Make, densenet: Classifier) -> None:
    frame = Frame(40, 80)
    splits = splits_of(train=[("Cardiomegaly", (0, 0, 20, 10)), ("Cardiomegaly", (0, 0, 20, 10))], frame=frame)
    masked = Region(np.zeros((0, 4)), frame, np.ones((40, 80), dtype=bool))
    splits.train.regions(1)[HEART] = masked  # type: ignore[index]
    maps = prior(PriorBox(), splits, [HEART], frame, densenet)
    assert (maps[0] > 0).sum() == 200
