"""Faithfulness: cases worked by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.metrics.hand_built import SIDE, Evidence, Truth, explained
from xaibench.metrics import _perturb, faithfulness, faithfulness_sums
from xaibench.metrics.explained import Explained


class TestByHand:
    """A logit that four pixels decide: their contributions are 4, 3, -2 and 1; the rest add nothing."""

    ADDED = (4.0, 3.0, -2.0, 1.0)

    def given(self, *values: float) -> Explained:
        weight = torch.zeros(SIDE, SIDE)
        weight[0, :4] = torch.tensor(self.ADDED)
        classifier = Evidence(weight).eval()
        maps = torch.zeros(1, SIDE, SIDE)
        maps[0, 0, :4] = torch.tensor(values)
        white = torch.ones(1, 3, SIDE, SIDE)
        with torch.no_grad():
            prediction = classifier.predict(white, ["white"])
        return Explained(classifier, Truth(), prediction, torch.tensor([1]), maps)

    def test_deletion_and_insertion(self) -> None:
        given = self.given(4, 3, 2, 1)  # the order of the four; the 252 others follow
        own, each = sum(self.ADDED) - 2, SIDE * SIDE
        options: dict[str, Any] = {"steps": each, "baseline": "black", "output": "logit"}
        gone = [own, own - 4, own - 7, own - 5] + [own - 6] * (each - 3)
        assert faithfulness.deletion(given, **options).item() == pytest.approx(np.trapezoid(gone) / each, abs=1e-6)
        come = [-2, 2, 5, 3] + [4] * (each - 3)
        assert faithfulness.insertion(given, **options).item() == pytest.approx(np.trapezoid(come) / each, abs=1e-6)

    def test_sums_that_are_exact_are_perfect(self) -> None:
        given = self.given(*self.ADDED)
        options: dict[str, Any] = {"cells": SIDE, "baseline": "black"}
        assert faithfulness_sums.infidelity(given, **options).item() == pytest.approx(0, abs=1e-6)
        for metric in (faithfulness_sums.faithfulness_correlation, faithfulness_sums.faithfulness_estimate):
            assert metric(given, **options).item() == pytest.approx(1, abs=1e-6)
        assert faithfulness_sums.sensitivity_n(given, **options).item() == pytest.approx(1, abs=1e-6)
        opposite = self.given(*(-value for value in self.ADDED))
        assert faithfulness_sums.faithfulness_estimate(opposite, **options).item() == pytest.approx(-1, abs=1e-6)

    def test_infidelity_of_a_map_that_says_nothing_of_the_four(self) -> None:
        given = self.given(0, 0, 0, 0)
        given.maps[0, 8, 8] = 1  # a pixel that decides nothing: hidden or not, whatever the others are
        found = faithfulness_sums.infidelity(given, cells=SIDE, baseline="black", share=0.5, samples=4000)
        # The pixel a and the loss d are independent, each of the four is hidden in half of the sets: the best factor
        # leaves 1 - E[a d]^2 / (E[a^2] E[d^2]) = 1 - (0.5 x 3)^2 / (0.5 x (3^2 + 30 / 4)); 4,000 sets give it to 0.02
        assert found.item() == pytest.approx(1 - 2.25 / (0.5 * 16.5), abs=0.02)

    def test_monotonicity_counts_the_steps_that_fall(self) -> None:
        given = self.given(*self.ADDED)
        # the one negative pixel comes first, over black: its step is the curve's start and no fall is seen
        options: dict[str, Any] = {"cells": SIDE, "baseline": "black", "output": "logit"}
        assert faithfulness.monotonicity(given, **options).item() == 1
        last = self.given(4, 3, 5, 1)  # 1, 4, 3 come, then the negative one: one fall in 255 steps
        assert faithfulness.monotonicity(last, **options).item() == pytest.approx(254 / 255)

    def test_monotonicity_correlation_ranks_the_sizes(self) -> None:
        found = faithfulness_sums.monotonicity_correlation(self.given(4, -3, 2, -1), cells=SIDE)
        assert found.item() == pytest.approx(1)

    def test_region_perturbation_is_the_mean_of_the_losses(self) -> None:
        given = self.given(*self.ADDED)
        found = faithfulness.region_perturbation(given, cells=SIDE, regions=3, baseline="black", output="logit")
        assert found.item() == pytest.approx((0 + 4 + 7 + 8) / 4, abs=1e-6)

    def test_the_image_times_the_map(self) -> None:
        given = self.given(4, 3, -2, 1)  # the displayed map is 1, 3/4, 0, 1/4
        own, shown = (torch.tensor(v, dtype=torch.float64).sigmoid().item() for v in (4.0, 4 + 2.25 + 0.25 - 2))
        assert faithfulness.average_increase(given).item() == 1
        assert faithfulness.average_drop(given).item() == 0
        assert faithfulness.average_gain(given).item() == pytest.approx((shown - own) / (1 - own), abs=1e-6)
        worse = self.given(0, 0, 0, 1)
        assert faithfulness.average_drop(worse).item() == pytest.approx(
            1 - torch.tensor(-1.0, dtype=torch.float64).sigmoid().item() / own, abs=1e-6
        )

    def test_sufficiency_of_all_that_decides(self) -> None:
        assert faithfulness.sufficiency(self.given(*self.ADDED), share=0.1).item() == 1
        given = explained()
        assert (faithfulness.sufficiency(given).isnan() == (given.prediction.logits.argmax(1) != 1)).all()

    def test_superpixels_that_hold_everything(self) -> None:
        given = explained()
        parts = torch.zeros(len(given), SIDE, SIDE, dtype=torch.int64)
        parts[:, 3:8, 4:9] = 1
        given.shared["superpixels", 7] = parts
        own, base = given.own_scores(), _perturb.baseline_scores(given, "black", "probability")
        half = given.prediction.images.clone()
        half[:, :, 3:8, 4:9] = 0
        middle = given.scores(half, torch.arange(len(given)))
        expected = 1 - (own / 2 + middle + base / 2) / 2 / own
        torch.testing.assert_close(faithfulness.irof(given, segments=7, baseline="black"), expected, rtol=0, atol=1e-9)
