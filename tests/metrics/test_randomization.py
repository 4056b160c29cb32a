"""Randomization: copies that share what stays, invariants, agreement with Quantus and SciPy; where Quantus is wrong."""

from __future__ import annotations

import copy
import gc
import weakref
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from skimage.metrics import structural_similarity
from torch import Tensor, nn

from tests.explainers.small import CLASSES, Linear, Small, predict
from tests.metrics.asked import Brightness, Fixed, explained_by, state_of
from xaibench.classifiers.base import Classifier, hash_tensors
from xaibench.classifiers.gcm import GCM
from xaibench.errors import UsageError
from xaibench.explainers.base import Explainer
from xaibench.explainers.baselines import Random
from xaibench.explainers.cam import GradCAM
from xaibench.explainers.gcm import CWM
from xaibench.explainers.gradient import InputXGradient, Saliency
from xaibench.metrics import _randomized, _rerun, randomization
from xaibench.metrics._randomized import layers, randomized
from xaibench.metrics._similarity import similarity, spearman
from xaibench.metrics.explained import Explained
from xaibench.metrics.randomization import (
    class_sensitivity,
    efficient_mprt,
    mprt,
    mprt_independent,
    random_logit,
    smooth_mprt,
)
from xaibench.types import Prediction

TARGETS = torch.tensor([0, 1, 2, 3, 1])


@pytest.fixture(scope="module")
def small() -> Classifier:
    return Small().eval()


@pytest.fixture(scope="module")
def explained(small: Classifier) -> Explained:
    return explained_by(small, InputXGradient(), predict(small, 5), TARGETS)


def changed_layers(before: Classifier, after: Classifier) -> list[str]:
    """Names of the layers whose tensors are others; the rest must be the very same objects."""
    old, new = dict(layers(before)), dict(layers(after))
    assert list(old) == list(new)
    differ = []
    for name in old:
        pairs = zip(
            [*old[name].parameters(recurse=False), *old[name].buffers(recurse=False)],
            [*new[name].parameters(recurse=False), *new[name].buffers(recurse=False)],
            strict=True,
        )
        same = {a is b for a, b in pairs}
        assert len(same) == 1
        differ += [] if same.pop() else [name]
    return differ


def test_copies_have_random_layers_from_the_top_from_the_bottom_or_in_one_part(small: Classifier) -> None:
    names = [name for name, _ in layers(small)]
    assert names == ["body.0", "body.1", "body.4", "body.5", "last"]

    def found(order: Any, steps: int) -> list[list[str]]:
        return [changed_layers(small, made) for made in randomized(small, order=order, steps=steps, seed=0)]

    assert found("top_down", 5) == [names[4:], names[3:], names[2:], names[1:], names]
    assert found("bottom_up", 5) == [names[:1], names[:2], names[:3], names[:4], names]
    assert found("independent", 5) == [[name] for name in reversed(names)]
    assert found("top_down", 2) == [names[3:], names]
    assert found("independent", 2) == [names[3:], names[:3]]
    assert found("top_down", 50) == found("top_down", 5)
    assert found("bottom_up", 1) == [names]


def test_a_layer_draws_the_same_numbers_wherever_it_is_random(small: Classifier) -> None:
    down, up, part = (
        randomized(small, order=order, steps=5, seed=0) for order in ("top_down", "bottom_up", "independent")
    )
    assert hash_tensors(down[-1].state_dict().items()) == hash_tensors(up[-1].state_dict().items())
    assert part[0].last.weight is down[0].last.weight
    assert not torch.equal(part[0].last.weight, small.last.weight)
    other = randomized(small, order="top_down", steps=5, seed=1)
    assert not torch.equal(other[0].last.weight, down[0].last.weight)
    fresh = randomized(copy.deepcopy(small), order="top_down", steps=5, seed=0)
    assert hash_tensors(fresh[2].state_dict().items()) == hash_tensors(down[2].state_dict().items())
    wide = copy.deepcopy(small).optimized()  # another layout of the memory
    again = randomized(wide, order="top_down", steps=1, seed=0)[0]
    assert hash_tensors(again.state_dict().items()) == hash_tensors(down[-1].state_dict().items())


def test_batch_norms_forget_what_they_measured(small: Classifier) -> None:
    made = randomized(small, order="top_down", steps=1, seed=0)[0]
    for norm in (made.body[1], made.body[5]):
        assert norm.running_mean.abs().max() == 0
        assert (norm.running_var == 1).all()
        assert (norm.weight == 1).all()
    assert small.body[1].running_mean.abs().max() > 0
    assert not made.training


def test_random_weights_reach_every_layer_of_a_self_explaining_classifier() -> None:
    gcm = GCM(CLASSES, 64, encoder="tf_efficientnet_lite0", weights="package").eval()
    before = state_of(gcm)
    made = randomized(gcm, order="top_down", steps=3, seed=0)
    assert changed_layers(gcm, made[-1]) == [name for name, _ in layers(gcm)]
    first = changed_layers(gcm, made[0])
    assert any(name.startswith("decoders") for name in first)
    explained = explained_by(gcm, CWM(), predict(gcm, 2), torch.tensor([0, 1]))
    with torch.no_grad():
        theirs = [one.predict(explained.prediction.images).maps["cwm"] for one in made]
    maps = torch.stack([m[torch.arange(2), explained.targets] for m in theirs])
    expected = torch.stack([similarity(explained.maps, one, "spearman") for one in maps]).nanmean(0)
    torch.testing.assert_close(mprt(explained, steps=3), expected, rtol=0, atol=1e-6)
    assert state_of(gcm) == before


def test_copies_are_made_once_and_go_with_the_classifier(monkeypatch: pytest.MonkeyPatch) -> None:
    small = Small().eval()
    made: list[int] = []
    draw = _randomized._all_random
    monkeypatch.setattr(_randomized, "_all_random", lambda *given: made.append(1) or draw(*given))
    for _ in range(2):
        explained = explained_by(small, Saliency(), predict(small, 1), torch.tensor([0]))
        for metric in (mprt, mprt_independent, efficient_mprt, smooth_mprt):
            metric(explained)
    assert made == [1]
    gone = weakref.ref(small)
    del small, explained
    gc.collect()
    assert gone() is None


def test_further_training_is_seen_by_the_layers_that_stay() -> None:
    small = Small().eval()
    made = randomized(small, order="top_down", steps=5, seed=0)[0]
    with torch.no_grad():
        small.body[0].weight.mul_(2)
    assert torch.equal(made.body[0].weight, small.body[0].weight)


def test_weights_without_a_way_to_be_drawn_keep_their_mean_and_spread() -> None:
    linear = Linear().eval()
    with torch.no_grad():
        linear.weight.mul_(3).add_(5)
    made = randomized(linear, order="top_down", steps=1, seed=0)[0]
    assert not torch.equal(made.weight, linear.weight)
    assert made.weight.mean().item() == pytest.approx(5, abs=0.3)
    assert made.weight.std().item() == pytest.approx(3, abs=0.3)


@pytest.mark.parametrize("kind", ["spearman", "ssim"])
@pytest.mark.parametrize("explainer", [Fixed(), Brightness()], ids=type)
def test_a_map_that_ignores_weights_and_class_has_similarity_1(
    kind: str, explainer: Explainer, small: Classifier
) -> None:
    blind = explained_by(small, explainer, predict(small, 3), torch.tensor([0, 1, 2]))
    for metric in (mprt, mprt_independent, smooth_mprt, random_logit, class_sensitivity):
        scores = metric(blind, similarity=kind)
        torch.testing.assert_close(scores, torch.ones(3, dtype=torch.float64), rtol=0, atol=1e-9)
    assert efficient_mprt(blind).tolist() == [0, 0, 0]


def test_noise_that_knows_the_class_alone() -> None:
    linear = Linear().eval()
    noise = explained_by(linear, Random(), predict(linear, 3, size=16), torch.tensor([0, 1, 2]))
    assert mprt(noise).tolist() == pytest.approx([1, 1, 1])  # drawn from image and class, not from weights
    for metric in (random_logit, class_sensitivity):
        assert metric(noise).abs().max() < 4 / 16  # 4 standard errors of a rank correlation over 256 pixels


def test_gradients_of_a_linear_model_follow_its_weights() -> None:
    linear = Linear().eval()
    by_weights = explained_by(linear, Saliency(), predict(linear, 1, size=16), torch.tensor([2]))
    made = randomized(linear, order="top_down", steps=1, seed=0)[0]
    theirs = scipy.stats.spearmanr(
        linear.weight[2].detach().abs().amax(0).flatten(), made.weight[2].detach().abs().amax(0).flatten()
    ).statistic
    assert mprt(by_weights).item() == pytest.approx(theirs, abs=1e-9)
    assert abs(theirs) < 4 / 16


def test_class_sensitivity_compares_top_and_least(small: Classifier, explained: Explained) -> None:
    top, least = explained.prediction.logits.argmax(1), explained.prediction.logits.argmin(1)
    maps = [explained_by(small, InputXGradient(), explained.prediction, t).maps for t in (top, least)]
    torch.testing.assert_close(class_sensitivity(explained), spearman(*maps))
    other = explained_by(small, InputXGradient(), explained.prediction, TARGETS.flip(0))
    assert torch.equal(class_sensitivity(other), class_sensitivity(explained))


def test_random_logit_draws_every_other_class_and_never_its_own(small: Classifier) -> None:
    asked: list[tuple[int, int]] = []

    class Note(Brightness):
        def explain(self, classifier: Classifier, prediction: Prediction, targets: Tensor) -> Tensor:
            asked.extend(zip((hash(name) for name in prediction.ids), targets.tolist(), strict=True))
            return super().explain(classifier, prediction, targets)

    images = torch.rand(60, 3, 64, 64)
    with torch.no_grad():
        prediction = small.predict(images, [f"{row}.png" for row in range(60)])
    targets = torch.arange(60) % 4
    random_logit(Explained(small, Note(), prediction, targets, images.mean(1)))
    pairs = {(int(own), other) for own, (_, other) in zip(targets, asked, strict=True)}
    assert pairs == {(own, other) for own in range(4) for other in range(4) if own != other}


def test_ties_share_their_mean_rank() -> None:
    one = torch.tensor([[[1.0, 2.0, 2.0, 3.0, 0.0, 0.0]]])
    other = torch.tensor([[[1.0, 2.0, 3.0, 4.0, 9.0, 9.0]]])
    theirs = scipy.stats.spearmanr(one.flatten(), other.flatten()).statistic
    assert spearman(one, other).item() == pytest.approx(theirs, abs=1e-12)
    order = [one.flatten().argsort().argsort().double(), other.flatten().argsort().argsort().double()]
    assert torch.corrcoef(torch.stack(order))[0, 1].item() != pytest.approx(theirs, abs=0.01)  # ranks in order of place
    assert spearman(one, -one).item() == pytest.approx(-1)


def test_similarity_agrees_with_the_libraries(explained: Explained) -> None:
    quantus = pytest.importorskip("quantus")
    one, other = explained.maps, explained.maps.flip(0).abs() + 0.1 * explained.maps
    flat = [maps.flatten(1).numpy() for maps in (one, other)]
    theirs = quantus.similarity_func.correlation_spearman(*flat, batched=True)
    np.testing.assert_allclose(similarity(one, other, "spearman").numpy(), theirs, rtol=0, atol=1e-6)
    low = [maps - maps.amin((1, 2), keepdim=True) for maps in (one, other)]
    unit = [(maps / maps.amax((1, 2), keepdim=True)).double().numpy() for maps in low]
    theirs = quantus.similarity_func.ssim(*unit, batched=True)
    np.testing.assert_allclose(similarity(one, other, "ssim").numpy(), theirs, rtol=0, atol=1e-6)
    theirs = [structural_similarity(a, b, data_range=1.0) for a, b in zip(*unit, strict=True)]
    np.testing.assert_allclose(similarity(one, other, "ssim").numpy(), theirs, rtol=0, atol=1e-6)
    # what Quantus makes of two maps of one shape and of different size is a matter of size
    assert similarity(one, 1000 * one, "ssim").tolist() == pytest.approx([1] * 5)
    assert quantus.similarity_func.ssim(one[0].numpy(), 1000 * one[0].numpy()) < 0.9


def test_of_two_classes_the_other_is_top_or_least() -> None:
    class Two(Small):
        def __init__(self) -> None:
            super().__init__()
            self.classes, self.last = CLASSES[:2], nn.Linear(12, 2)

    two = Two().eval()
    explained = explained_by(two, InputXGradient(), predict(two, 4), torch.tensor([0, 1, 1, 0]))
    torch.testing.assert_close(random_logit(explained), class_sensitivity(explained))


def test_noise_on_images_has_the_spread_that_it_says(explained: Explained) -> None:
    draws = _rerun.noise(explained.prediction.ids, 3, (64, 64), kind="normal")
    assert draws.std() == pytest.approx(1, abs=0.02)


def test_a_histogram_worked_by_hand() -> None:
    maps = torch.tensor([[[0.0, 0.4, 0.6, 1.0]], [[0.0, 0.1, 0.2, 4.0]]])
    entropy = randomization._histogram_entropy(maps, 2)
    assert entropy[0].item() == pytest.approx(np.log(2))
    assert entropy[1].item() == pytest.approx(-0.75 * np.log(0.75) - 0.25 * np.log(0.25))


@pytest.mark.filterwarnings("ignore")
def test_quantus_counts_the_map_itself_in_its_mean_and_draws_layers_alike() -> None:
    quantus = pytest.importorskip("quantus")
    from quantus.helpers.model.pytorch_model import PyTorchModel

    metric = quantus.MPRT(return_average_correlation=True, disable_warnings=True)
    metric.evaluation_scores = {"original": [1.0], "fc_2": [0.2], "fc_1": [0.0]}
    # Adebayo's and Hedström's mean is over the randomised layers: 0.1
    assert metric.recompute_average_correlation_per_sample() == pytest.approx([0.4])
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    *_, (_, theirs) = PyTorchModel(network, channel_first=True).get_random_layer_generator(order="top_down")
    assert torch.equal(theirs[0].weight, theirs[2].weight)  # two layers that are the same are not two random layers


def test_a_step_whose_map_is_constant_is_left_out(small: Classifier) -> None:
    class Rectified(Explainer):
        """Constant once the last layer is not that of the trained classifier, and only then."""

        def explain(self, classifier: Classifier, prediction: Prediction, targets: Tensor) -> Tensor:
            trained = classifier.last.weight is small.last.weight
            return prediction.images.mean(1) * float(trained)

    explained = explained_by(small, Rectified(), predict(small, 2), torch.tensor([0, 1]))
    assert mprt(explained).isnan().all()
    torch.testing.assert_close(mprt_independent(explained, steps=5), torch.ones(2, dtype=torch.float64))
    assert efficient_mprt(explained).isnan().all()


def test_grad_cam_on_random_weights_is_another_map(small: Classifier) -> None:
    explained = explained_by(small, GradCAM(), predict(small, 5), TARGETS)
    assert mprt(explained).nan_to_num(0).max() < 0.99


@pytest.mark.parametrize(
    ("metric", "options"),
    [
        (mprt, {"steps": 0}),
        (mprt, {"similarity": "pearson"}),
        (smooth_mprt, {"samples": 0}),
        (smooth_mprt, {"noise": 0.0}),
        (efficient_mprt, {"bins": 1}),
        (random_logit, {"similarity": "cosine"}),
    ],
)
def test_bad_parameters_are_named(metric: Any, options: dict[str, Any], explained: Explained) -> None:
    with pytest.raises(UsageError, match=next(iter(options))):
        metric(explained, **options)
