"""Faithfulness: other implementations of the same definitions, and loops that leave no room for doubt."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.metrics.hand_built import SIDE, Evidence, explained, shuffled
from xaibench.metrics import _impute, _perturb, faithfulness, faithfulness_sums
from xaibench.metrics.explained import Explained


class Grey(nn.Module):
    """The classifier on one channel, float64: what a reference that perturbs channel by channel is given."""

    def __init__(self, classifier: nn.Module, probability: bool) -> None:
        super().__init__()
        self.classifier, self.probability = classifier.double(), probability

    def forward(self, images: Tensor) -> Tensor:
        logits = self.classifier(images.double().repeat(1, 3, 1, 1))
        return logits.softmax(1) if self.probability else logits


def quantus_scores(name: str, given: Explained, *, output: str = "logit", **options: Any) -> Any:
    """Ask Quantus, whose "black" is the darkest value of the batch: give it the number 0."""
    quantus = pytest.importorskip("quantus")
    if not hasattr(np, "trapz"):  # Quantus 0.6.0 calls what NumPy 2.4 dropped
        np.trapz = np.trapezoid  # noqa: NPY201
    metric = getattr(quantus, name)(normalise=False, abs=False, disable_warnings=True, **options)
    model = Grey(Evidence(given.classifier.weight.detach()), output == "probability").eval()
    batch = given.prediction.images[:, :1].double().numpy()
    return metric(
        model=model,
        x_batch=batch,
        y_batch=given.targets.numpy(),
        a_batch=given.maps[:, None].double().numpy(),
        channel_first=True,
        softmax=False,
        device="cpu",
    )


class TestReferences:
    """Other implementations of the same definitions."""

    def test_faithfulness_correlation_is_quantus_on_the_same_pixels(self, monkeypatch: pytest.MonkeyPatch) -> None:
        given = explained(shuffled(explained().maps))
        sets = _perturb.subsets(given, SIDE, 0.25, 30).numpy()
        drawn = iter([np.flatnonzero(sets[row, run]) for run in range(30) for row in range(len(given))])
        monkeypatch.setattr(np.random, "choice", lambda *_, **__: next(drawn))
        theirs = quantus_scores(
            "FaithfulnessCorrelation", given, nr_runs=30, subset_size=64, perturb_baseline=0.0, return_aggregate=False
        )
        ours = faithfulness_sums.faithfulness_correlation(given, cells=SIDE, samples=30, baseline="black")
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=0, atol=1e-6)
        assert ours.abs().max() > 0.1

    def test_faithfulness_estimate_is_quantus_on_pixels(self) -> None:
        given = explained(shuffled(explained().maps))
        theirs = quantus_scores("FaithfulnessEstimate", given, features_in_step=1, perturb_baseline=0.0)
        ours = faithfulness_sums.faithfulness_estimate(given, cells=SIDE, baseline="black")
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=0, atol=1e-6)

    def test_region_perturbation_is_quantus_on_the_same_squares(self) -> None:
        given = explained(shuffled(explained().maps))
        curves = quantus_scores(
            "RegionPerturbation",
            given,
            output="probability",
            patch_size=4,
            regions_evaluation=9,
            perturb_baseline=0.0,
            order="morf",
        )
        theirs = np.asarray(curves).reshape(len(given), 9).sum(1) / 10
        ours = faithfulness.region_perturbation(given, cells=4, regions=9, baseline="black")
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=0, atol=1e-6)

    def test_irof_is_quantus_less_its_first_point(self, monkeypatch: pytest.MonkeyPatch) -> None:
        given = explained(shuffled(explained().maps))
        parts = _perturb.superpixels(given, 12)
        left = iter(parts.numpy())
        monkeypatch.setattr("quantus.helpers.utils.get_superpixel_segments", lambda **_: next(left))
        options = {"output": "probability", "perturb_baseline": 0.0, "return_aggregate": False}
        # One image at a time: in a batch, Quantus draws the curve of an image with fewer parts on to zero.
        theirs = np.concatenate([quantus_scores("IROF", explained(given.maps, rows=[r]), **options) for r in range(12)])
        counts = parts.flatten(1).amax(1).numpy() + 1
        means, _ = _perturb.part_means(given, parts)
        places = _perturb.part_places(given, parts, means)
        rows = torch.arange(len(given))
        first = torch.where((places == 0)[:, None], 0.0, given.prediction.images)
        ratio = (given.scores(first, rows) / given.own_scores()).numpy()
        expected = 1 - (0.5 * (1 + ratio) + counts - theirs) / counts
        ours = faithfulness.irof(given, segments=12, baseline="black").numpy()
        np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-6)

    def test_quantus_monotonicity_says_yes_to_anything(self) -> None:
        given = explained()
        options = {"features_in_step": 4, "perturb_baseline": 0.0}
        for maps in (given.maps, -given.maps, shuffled(given.maps)):
            assert all(quantus_scores("Monotonicity", explained(maps), **options))
        assert faithfulness.monotonicity(explained(-given.maps)).max() < 1

    def test_infidelity_is_captums_on_pixels(self) -> None:
        captum = pytest.importorskip("captum.metrics")
        given = explained(shuffled(explained().maps))
        sets = _perturb.subsets(given, SIDE, 0.25, 20)
        hidden = sets.flatten(0, 1).reshape(-1, 1, SIDE, SIDE).double()
        model = Grey(Evidence(given.classifier.weight.detach()), probability=False)
        theirs, power = (
            captum.infidelity(
                model,
                lambda x: (hidden, x * (1 - hidden)),
                given.prediction.images[:, :1].double(),
                attributions.double(),
                target=1,
                n_perturb_samples=20,
                normalize=True,
            )
            for attributions in (given.maps[:, None], torch.zeros(len(given), 1, SIDE, SIDE))
        )
        ours = faithfulness_sums.infidelity(given, cells=SIDE, samples=20, baseline="black")
        np.testing.assert_allclose(ours.numpy(), (theirs / power).detach().numpy(), rtol=0, atol=1e-6)

    @pytest.mark.parametrize("share", [0.05, 0.4, 0.9])
    def test_imputation_is_pytorch_grad_cams(self, share: float) -> None:
        road = pytest.importorskip("pytorch_grad_cam.metrics.road")
        generator = torch.Generator().manual_seed(9)
        image = torch.rand(3, 21, 17, generator=generator)
        smooth = nn.functional.interpolate(torch.rand(1, 1, 4, 4, generator=generator), (21, 17), mode="bilinear")[0, 0]
        for scatter in (smooth, torch.rand(21, 17, generator=generator)):
            hidden = scatter > scatter.quantile(1 - share)
            theirs = road.NoisyLinearImputer(noise=0.0)(image, (~hidden).float())
            np.testing.assert_allclose(_impute.impute(image, hidden).numpy(), theirs.numpy(), rtol=0, atol=1e-6)

    def test_road_is_pytorch_grad_cams_where_its_percentiles_hold(self) -> None:
        road = pytest.importorskip("pytorch_grad_cam.metrics.road")
        given = explained(shuffled(explained().maps))
        percentages = [12.5, 50]  # of 256 pixels without ties; its percentile is of those that stay
        rows = torch.arange(len(given))
        for sign, metric in ((1.0, faithfulness.road_morf), (-1.0, faithfulness.road_lerf)):
            found = []
            for percentage in percentages:
                remove = road.RemoveMostRelevantFirst(100 - percentage, road.NoisyLinearImputer(noise=0.0))
                pairs = zip(given.prediction.images, sign * given.maps, strict=True)
                found.append(given.scores(torch.stack([remove(image, heat) for image, heat in pairs]), rows))
            ours = metric(given, percentages=percentages, noise=0.0)
            torch.testing.assert_close(ours, torch.stack(found).mean(0), rtol=0, atol=1e-6)

    def test_road_removes_no_more_of_a_sparse_map_than_it_says(self) -> None:
        road = pytest.importorskip("pytorch_grad_cam.metrics.road")
        maps = torch.zeros(12, SIDE, SIDE)
        maps[:, 5, 5] = 1
        kept = maps[0] < np.percentile(maps[0].numpy(), 90)
        assert not kept.any()  # theirs: 10% are to go, and everything does
        assert road.RemoveMostRelevantFirst(90, lambda image, mask: mask)(None, maps[0]).sum() == 0
        given = explained(maps)
        found = faithfulness.road_morf(given, percentages=[10], noise=0.0)
        assert ((found - given.own_scores()).abs() < 0.2).all()

    def test_average_drop_and_increase_are_pytorch_grad_cams(self) -> None:
        peer = pytest.importorskip("pytorch_grad_cam.metrics.cam_mult_image")
        given = explained(shuffled(explained().maps))
        maps = given.maps.clamp(min=0)
        maps = (maps / maps.amax((-2, -1), keepdim=True)).numpy()
        targets = [lambda output: output.softmax(-1)[1]] * len(maps)
        for name, metric in (("DropInConfidence", "average_drop"), ("IncreaseInConfidence", "average_increase")):
            theirs = getattr(peer, name)()(given.prediction.images, maps, targets, given.classifier)
            if name == "DropInConfidence":  # it gives the drop, not its share
                own = given.own_scores().numpy()
                theirs = (
                    theirs if np.allclose(theirs, getattr(faithfulness, metric)(given), atol=1e-5) else theirs / own
                )
            np.testing.assert_allclose(getattr(faithfulness, metric)(given).numpy(), theirs, rtol=0, atol=1e-6)

    @pytest.mark.parametrize("mode", ["ins", "del"])
    def test_insertion_and_deletion_are_a_plain_loop(self, mode: str) -> None:
        given = explained(shuffled(explained().maps))
        kind = "blurred" if mode == "ins" else "mean"
        base, expected = _perturb.baseline(given, kind), []
        for row, heat in enumerate(given.maps.numpy()):
            order = np.argsort(-heat.ravel())
            start, end = (base, given.prediction.images) if mode == "ins" else (given.prediction.images, base)
            image, curve = start[row].clone().contiguous(), []
            for step in range(17):
                image.view(3, -1)[:, order[16 * (step - 1) : 16 * step] if step else []] = end[row].reshape(3, -1)[
                    :, order[16 * (step - 1) : 16 * step] if step else []
                ]
                with torch.no_grad():
                    curve.append(given.classifier(image[None]).softmax(1)[0, 1].item())
            expected.append((sum(curve) - curve[0] / 2 - curve[-1] / 2) / 16)
        metric = faithfulness.insertion if mode == "ins" else faithfulness.deletion
        np.testing.assert_allclose(metric(given, steps=16).numpy(), expected, rtol=0, atol=1e-6)
