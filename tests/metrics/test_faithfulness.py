"""Faithfulness: cases worked by hand, reference implementations, invariances, and a network whose truth is known."""

from __future__ import annotations

import inspect
from importlib import metadata
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.metrics.hand_built import SIDE, Evidence, Truth, explained, images, shuffled
from xaibench.errors import UsageError
from xaibench.metrics import Metric, _impute, _perturb, faithfulness, faithfulness_sums
from xaibench.metrics.explained import Explained

METRICS: list[Metric] = [
    loaded
    for point in metadata.entry_points(group="xaibench.metrics")
    if isinstance(loaded := point.load(), Metric) and loaded.category == "faithfulness"
]
SMALL: dict[str, dict[str, Any]] = {"irof": {"segments": 12}}
every = pytest.mark.parametrize("metric", METRICS, ids=lambda m: m.name)


def scores(metric: Metric, given: Explained, **parameters: Any) -> Tensor:
    """Score against black, where the metric has a choice: the truth is what a pixel adds to a black one's logit."""
    black = {"baseline": "black"} if "baseline" in metric.parameters else {}
    return metric(given, **{**black, **SMALL.get(metric.name, {}), **parameters})


def test_sixteen_are_registered_under_their_names() -> None:
    modules = (faithfulness, faithfulness_sums)
    declared = {v.name for module in modules for v in vars(module).values() if isinstance(v, Metric)}
    assert {metric.name for metric in METRICS} >= declared
    assert len(declared) == 16


@every
def test_declares_its_parameters_and_is_short(metric: Metric) -> None:
    signature = inspect.signature(metric.compute).parameters
    defaults = {name: p.default for name, p in signature.items() if p.kind is p.KEYWORD_ONLY}
    plain = {name: list(v) if isinstance(v, tuple) else v for name, v in defaults.items()}
    assert plain == dict(metric.parameters)
    source = inspect.getsource(metric.compute)
    body = source[source.rindex('"""') :].splitlines()
    assert len(body) <= 25
    assert metric.reference
    assert metric.compute.__doc__


@every
def test_the_faithful_map_beats_shuffled_ones(metric: Metric) -> None:
    # A probability can only rise as evidence leaves if much of it speaks against the class.
    against = -0.6 if metric.name in ("average_gain", "average_increase") else -0.3
    classifier = Evidence(against=against).eval()
    faithful = explained(classifier=classifier)
    best = scores(metric, faithful)
    assert best.dtype == torch.float64
    sign = 1 if metric.direction == "higher" else -1
    for seed in (6, 7, 8):
        other = scores(metric, explained(shuffled(faithful.maps, seed), classifier=classifier))
        assert sign * best.nanmean() > sign * other.nanmean()


@every
def test_scores_lie_in_the_declared_range(metric: Metric) -> None:
    for maps in (None, shuffled(explained().maps)):
        found = scores(metric, explained(maps))
        found = found[~found.isnan()]
        assert len(found)
        assert ((found >= metric.range[0] - 1e-9) & (found <= metric.range[1] + 1e-9)).all()


@every
def test_batch_size_order_and_company_change_nothing(metric: Metric) -> None:
    maps = shuffled(explained().maps)
    maps[3] = maps[3].mul(20).round()  # ties
    whole = scores(metric, explained(maps))
    parts = torch.cat([scores(metric, explained(maps, rows=[row])) for row in range(len(maps))])
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-6, equal_nan=True)
    order = [7, 3, 0, 3, 11]
    torch.testing.assert_close(
        scores(metric, explained(maps, rows=order)), whole[order], rtol=0, atol=1e-6, equal_nan=True
    )
    shared: dict[Any, Any] = {}
    scores(metric, explained(explained().maps, shared=shared))
    torch.testing.assert_close(scores(metric, explained(maps, shared=shared)), whole, rtol=0, atol=0, equal_nan=True)


@every
def test_a_maps_unit_changes_nothing(metric: Metric) -> None:
    maps = shuffled(explained().maps)
    torch.testing.assert_close(
        scores(metric, explained(8 * maps)), scores(metric, explained(maps)), rtol=0, atol=1e-9, equal_nan=True
    )


@every
@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_constant_and_non_finite_maps_are_undefined(metric: Metric, value: float) -> None:
    maps = shuffled(explained().maps)
    plain = scores(metric, explained(maps))
    if value == 0:
        maps[1] = 0.7
    else:
        maps[1, 2, 3] = value
    found = scores(metric, explained(maps))
    assert found[1].isnan()
    others = [row for row in range(len(maps)) if row != 1]
    torch.testing.assert_close(found[others], plain[others], rtol=0, atol=1e-9, equal_nan=True)


@pytest.mark.parametrize(
    ("metric", "options"),
    [
        (faithfulness.insertion, {"steps": 0}),
        (faithfulness.deletion, {"baseline": "meen"}),
        (faithfulness.road_morf, {"percentages": [100]}),
        (faithfulness.region_perturbation, {"regions": 300}),
        (faithfulness.monotonicity, {"cells": 17}),
        (faithfulness.sufficiency, {"share": 1.0}),
        (faithfulness_sums.infidelity, {"samples": 1}),
        (faithfulness_sums.sensitivity_n, {"shares": []}),
        (faithfulness_sums.monotonicity_correlation, {"levels": [2.0]}),
    ],
)
def test_bad_parameters_are_named(metric: Metric, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(options))) as caught:
        metric(explained(), **options)
    assert "\n" not in str(caught.value)


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


def test_what_does_not_depend_on_the_map_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    logits = Explained.logits

    def counted(self: Explained, made: Tensor) -> Tensor:
        asked.append(len(made))
        return logits(self, made)

    monkeypatch.setattr(Explained, "logits", counted)
    shared: dict[Any, Any] = {}
    for metric in (faithfulness_sums.infidelity, faithfulness_sums.faithfulness_correlation):
        for seed in (1, 2, 3):
            metric(explained(shuffled(explained().maps, seed), shared=shared))
    assert sum(asked) == 12 * 64
    asked.clear()
    faithfulness.average_drop(given := explained())
    faithfulness.average_gain(given)
    faithfulness.average_increase(given)
    assert sum(asked) == len(images())
