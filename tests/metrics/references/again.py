"""Implementations of metrics that explain again: robustness, randomization, axioms.

Every case is an `Explained`. Packages draw neighbours, weights and classes of their own: here they are given ours.
"""

from __future__ import annotations

from functools import cache, partial
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import scipy.stats
import torch
from torch import Tensor

from tests.explainers.small import Linear, Small, predict
from tests.metrics.asked import explained_by
from tests.metrics.references.base import Array, Cases, Drawn, Kind, Reference, own, own_scores
from xaibench.classifiers.base import Classifier
from xaibench.explainers.base import Explainer, seed_of
from xaibench.explainers.gradient import InputXGradient
from xaibench.metrics import _rerun
from xaibench.metrics._randomized import Order, randomized
from xaibench.metrics.axioms import cells
from xaibench.metrics.explained import Explained
from xaibench.types import Prediction

SAMPLES, RADIUS, STEPS, NOISE, BINS, GRID = 4, 0.05, 3, 0.1, (10, 100), 4
HOW: dict[str, Any] = {"samples": SAMPLES, "radius": RADIUS}
IMAGES = 6


def small() -> Cases:
    """Input x gradient of a small network with random weights, on noise."""
    network = Small().eval()
    return {"random": explained_by(network, InputXGradient(), predict(network, 5), torch.tensor([0, 1, 2, 3, 1]))}


def undecided() -> Cases:
    """Input x gradient of a linear network, on images between its two first classes, which noise sends either way."""
    network = Linear().eval()
    images = 0.4 + 0.2 * predict(network, 12, size=16).images
    first = network.weight[0] - network.weight[1]
    away = ((network(images)[:, 0] - network(images)[:, 1]) / first.square().sum()).detach()
    images = (images - away[:, None, None, None] * first.detach()).clamp(0, 1)
    network.weight.data[2:] = 0  # which is less than either
    with torch.no_grad():
        prediction = network.predict(images, [f"undecided{row}.png" for row in range(12)])
    return {"random": explained_by(network, InputXGradient(), prediction, torch.zeros(12, dtype=torch.long))}


@cache
def of_drawn(drawn: Drawn) -> Cases:
    """What explainers draw of the first images."""
    prediction = drawn.prediction.select(range(IMAGES))
    targets = drawn.targets[:IMAGES]
    return {
        f"{name}{drawn.suffix}": explained_by(drawn.classifier, explainer, prediction, targets)
        for name, explainer in drawn.explainers.items()
    }


EXPLAINED = Kind(small, of_drawn)


# robustness


def near(given: Explained, **how: Any) -> tuple[Tensor, Tensor]:
    """Return the neighbours (P, S, 3, H, W) and their maps (P, S, H, W)."""
    images, maps = [], []
    for rows, prediction in _rerun.neighbours(given, **{**HOW, **how}):
        images.append(prediction.images)
        maps.append(given.explain(prediction.images, rows).detach())
    count = len(given)
    return (torch.cat(parts).unflatten(0, (count, -1)) for parts in (images, maps))


def neighbours(given: Explained, **how: Any) -> Prediction:
    """Return the prediction of the neighbours, an image's after one another."""
    parts = [prediction for _, prediction in _rerun.neighbours(given, **{**HOW, **how})]
    tensors = (torch.cat([getattr(part, name) for part in parts]) for name in ("images", "logits", "features"))
    return Prediction(sum((part.ids for part in parts), ()), *tensors)


def sensitivity_max(given: Explained) -> Array:
    from captum.metrics import sensitivity_max

    images, maps = near(given)
    queue = [(given.maps,), (maps.flatten(0, 1),)]
    found = sensitivity_max(
        lambda _: queue.pop(0),
        given.prediction.images,
        perturb_func=lambda _: images.flatten(0, 1),
        n_perturb_samples=SAMPLES,
        max_examples_per_batch=len(given) * SAMPLES,
    )
    return found.numpy()


def ask_quantus(name: str, given: Explained, **options: Any) -> Array:
    """Let Quantus score our neighbours; for relative stability, of all things over their largest value.

    It puts a constant in the place of a zero, which is a share of the largest value here.
    """
    import quantus

    relative = name.startswith("Relative")
    images, near_maps = (part.double() for part in near(given))
    before, after = given.prediction, neighbours(given)
    own_images, own_maps = before.images.double(), given.maps.double()
    if relative:
        largest = own_images.flatten(1).abs().amax(1)[:, None, None, None]
        own_images, images = own_images / largest, images / largest[:, None]
        largest = own_maps.abs().amax((1, 2))[:, None, None]
        own_maps, near_maps = own_maps / largest, near_maps / largest[:, None]
    scale = before.features.double().flatten(1).abs().amax(1, keepdim=True)
    metric = getattr(quantus, name)(nr_samples=SAMPLES, disable_warnings=True, normalise=False, **options)
    steps, now = iter(range(SAMPLES)), [0]

    def perturb(arr: Array, **_: Any) -> Array:
        now[0] = next(steps)
        return images[:, now[0]].numpy().reshape(arr.shape)

    def seen(x: Array) -> Prediction:
        return before if np.array_equal(x, own_images.numpy()) else after.select(range(now[0], len(after), SAMPLES))

    metric.perturb_func = perturb
    metric.explain_batch = lambda model, x, y: near_maps[:, now[0]].numpy()[:, None]
    metric.changed_prediction_indices = lambda *_: []
    if relative:
        metric._layer_names = metric._layer_indices = None
    model = SimpleNamespace(
        predict=lambda x: seen(x).logits.detach().double().numpy(),
        get_hidden_representations=lambda x, *_: (seen(x).features.double().flatten(1) / scale).detach().numpy(),
    )
    found = metric.evaluate_batch(
        model=model, x_batch=own_images.numpy(), y_batch=given.targets.numpy(), a_batch=own_maps.numpy()[:, None]
    )
    return np.asarray(found, dtype=float)


def consistency(given: Explained) -> Array:
    """Tell Quantus which cell each map is strongest in, and which class each image is: an image and its neighbours."""
    import quantus

    how = {"samples": 20, "radius": 0.2}
    _, near_maps = near(given, **how)
    answers = neighbours(given, **how).logits.argmax(1).reshape(len(given), -1)
    grid = cells(*given.maps.shape[1:], GRID).flatten(1).double()
    found = []
    for row, map_ in enumerate(given.maps):
        maps = torch.cat([map_[None], near_maps[row]]).double().flatten(1)
        strongest = (maps @ grid.T / grid.sum(1)).argmax(1)
        predicted = torch.cat([given.prediction.logits[row].argmax()[None], answers[row]])
        scores = quantus.Consistency(disable_warnings=True).evaluate_batch(
            a_batch=maps.numpy(),
            i_batch=np.arange(len(maps)),
            a_label_batch=strongest.numpy(),
            y_pred_classes=predicted.numpy(),
        )
        found.append(scores[0] if (strongest[1:] == strongest[0]).any() else np.nan)
    return np.array(found)


# randomization


def rank_correlations(first: Tensor, second: Tensor) -> Array:
    pairs = zip(first.flatten(1).numpy(), second.flatten(1).numpy(), strict=True)
    return np.array([scipy.stats.spearmanr(a, b).statistic for a, b in pairs])


def random_maps(given: Explained, order: Order, steps: int, images: Tensor | None = None) -> list[Tensor]:
    """Return the maps (P, H, W) of each randomised classifier."""
    images = given.prediction.images if images is None else images
    return [
        maps_of(given, changed, images) for changed in randomized(given.classifier, order=order, steps=steps, seed=0)
    ]


def maps_of(given: Explained, classifier: Any, images: Tensor) -> Tensor:
    with torch.no_grad():
        prediction = classifier.predict(images.contiguous(memory_format=torch.channels_last), given.prediction.ids)
        return given.explainer.explain(classifier, prediction, given.targets).detach().float()


@np.errstate(invalid="ignore")
def mprt(given: Explained, *, order: Order) -> Array:
    found = [rank_correlations(given.maps, maps) for maps in random_maps(given, order, STEPS)]
    return np.nanmean(found, axis=0)


def smooth_mprt(given: Explained) -> Array:
    """Go through the noisy copies one by one, as the paper describes it."""
    images = given.prediction.images
    draws = _rerun.noise(given.prediction.ids, SAMPLES, (images.shape[-2], images.shape[-1]), kind="normal")
    span = (images.amax((1, 2, 3)) - images.amin((1, 2, 3)))[:, None, None, None]
    noisy = [images + NOISE * span * draws[:, sample] for sample in range(SAMPLES)]
    mean = torch.stack([maps_of(given, given.classifier, copy) for copy in noisy]).double().mean(0)
    others = [random_maps(given, "bottom_up", 1, copy)[0] for copy in noisy]
    return rank_correlations(mean, torch.stack(others).double().mean(0))


def efficient_mprt(given: Explained) -> Array:
    from quantus import complexity_func

    def entropies(maps: Tensor, bins: int) -> Array:
        arrays = maps.double().numpy()
        return np.array([complexity_func.discrete_entropy(a=array, x=array, n_bins=bins) for array in arrays])

    (changed,) = random_maps(given, "bottom_up", 1)
    pairs = [(entropies(given.maps, bins), entropies(changed, bins)) for bins in BINS]
    return np.array([(after - before) / before for before, after in pairs])


def random_logit(given: Explained) -> Array:
    """Let Quantus draw the class that the image's id draws."""
    import quantus

    classes = given.prediction.logits.shape[1]
    steps = np.array([1 + seed_of("random logit", 0, name) % (classes - 1) for name in given.prediction.ids])
    targets = given.targets.numpy()
    others = (targets + steps) % classes
    metric = quantus.RandomLogit(
        num_classes=classes, similarity_func=quantus.correlation_spearman, normalise=False, disable_warnings=True
    )
    metric.explain_batch = lambda model, x, y: _rerun.explain(
        given, given.classifier, given.prediction, torch.from_numpy(np.asarray(y))
    ).numpy()
    # Quantus draws a place among the classes that are not the image's own
    with mock.patch("numpy.random.randint", return_value=others - (others > targets)):
        found = metric.evaluate_batch(
            model=None, x_batch=given.prediction.images.numpy(), y_batch=targets, a_batch=given.maps.numpy()
        )
    return np.asarray(found, dtype=float)


def class_sensitivity(given: Explained) -> Array:
    logits = given.prediction.logits
    first, second = (
        _rerun.explain(given, given.classifier, given.prediction, targets)
        for targets in (logits.argmax(1), logits.argmin(1))
    )
    return rank_correlations(first, second)


# axioms


def completeness(given: Explained) -> Array:
    """Take captum's convergence delta, the map's sum less the logit's rise from the baseline, over both.

    An explainer whose map's mean is the logit itself has no baseline: its start is an image of logit 0.
    """
    from captum.attr import IntegratedGradients

    images, mean = given.prediction.images, given.explainer.completeness == "mean"
    start = torch.full_like(images, -1.0) if mean else torch.zeros_like(images)

    def logits(x: Tensor) -> Tensor:
        with torch.no_grad():
            found: Tensor = given.classifier(x).double()
        return found.masked_fill((x < 0).flatten(1).all(1)[:, None], 0.0)

    maps = given.maps.double() / (given.maps[0].numel() if mean else 1)
    # captum calls it a method of path integrals; it computes two forward passes and a sum
    apart = IntegratedGradients(logits).compute_convergence_delta((maps,), (start,), (images,), target=given.targets)
    found = maps.sum((1, 2))
    return (apart.abs() / (found.abs() + (found - apart).abs())).numpy()


class Given(Explainer):
    """Maps that were made before."""

    def __init__(self, maps: Tensor) -> None:
        self.maps = maps

    def explain(self, classifier: Classifier, prediction: Prediction, targets: Tensor) -> Tensor:
        return self.maps


def dead_pixels() -> Cases:
    """Maps of a linear network that ignores the left half, true and false ones; a black pixel there in each image.

    Quantus paints a pixel as dark as the image's darkest, so that this one is never changed.
    """
    from tests.metrics.hand_built import SIDE, Evidence

    generator = torch.Generator().manual_seed(1)
    weight = 0.5 + torch.rand(SIDE, SIDE, generator=generator)
    weight[:, : SIDE // 2] = 0
    images = (0.25 + 0.5 * torch.rand(3, 1, SIDE, SIDE, generator=generator)).expand(-1, 3, -1, -1).clone()
    images[:, :, 3, 0] = 0
    maps = weight.repeat(3, 1, 1)
    maps[1, 0, 0] = 0.3  # says that a pixel without weight matters
    maps[2, :2, SIDE - 1] = 0  # says that two with weight don't
    classifier = Evidence(weight).eval()
    with torch.no_grad():
        prediction = classifier.predict(images, ["a", "b", "c"])
    return {"random": Explained(classifier, Given(maps), prediction, torch.tensor([1, 1, 1]), maps)}


def non_sensitivity(given: Explained) -> Array:
    """Take the share of Quantus's violations among the pixels."""
    import quantus

    def logits(x: Array) -> Array:
        with torch.no_grad():
            return given.classifier(torch.from_numpy(x).float().expand(-1, 3, -1, -1)).numpy()

    metric = quantus.NonSensitivity(disable_warnings=True, normalise=False, features_in_step=1)
    found = metric.evaluate_batch(
        model=SimpleNamespace(predict=logits, shape_input=lambda x, *_, **__: x),
        x_batch=given.prediction.images[:, :1].numpy().copy(),
        y_batch=given.targets.numpy(),
        a_batch=given.maps[:, None].numpy(),
    )
    return np.asarray(found, dtype=float) / given.maps[0].numel()


again = partial(Reference, kind=EXPLAINED)

AGAIN = [
    again("max_sensitivity", "captum sensitivity_max", sensitivity_max, own_scores("max_sensitivity", **HOW)),
    again(
        "max_sensitivity",
        "Quantus MaxSensitivity",
        partial(ask_quantus, "MaxSensitivity"),
        own_scores("max_sensitivity", **HOW),
    ),
    again(
        "avg_sensitivity",
        "Quantus AvgSensitivity",
        partial(ask_quantus, "AvgSensitivity"),
        own_scores("avg_sensitivity", **HOW),
    ),
    again(
        "local_lipschitz",
        "Quantus LocalLipschitzEstimate",
        partial(ask_quantus, "LocalLipschitzEstimate"),
        own_scores("local_lipschitz", normalise=False, **HOW),
    ),
    *(
        again(
            f"relative_{what}_stability",
            f"Quantus Relative{what.capitalize()}Stability, where no neighbour's class changes",
            partial(ask_quantus, f"Relative{what.capitalize()}Stability"),
            own_scores(f"relative_{what}_stability", **HOW),
            relative=True,
            gaps="theirs",
        )
        for what in ("input", "output", "representation")
    ),
    Reference(
        "consistency",
        "Quantus Consistency, given the labels",
        consistency,
        own_scores("consistency", samples=20, radius=0.2, grid=GRID),
        kind=Kind(undecided, of_drawn),
        gaps="both",
    ),
    again(
        "mprt",
        "SciPy spearmanr with the maps of the same random weights",
        partial(mprt, order="top_down"),
        own_scores("mprt", steps=STEPS),
    ),
    again(
        "mprt_independent",
        "SciPy spearmanr with the maps of the same random weights",
        partial(mprt, order="independent"),
        own_scores("mprt_independent", steps=STEPS),
    ),
    again(
        "smooth_mprt",
        "a plain loop over noisy copies, with SciPy spearmanr",
        smooth_mprt,
        own_scores("smooth_mprt", samples=SAMPLES, noise=NOISE),
    ),
    again(
        "efficient_mprt",
        "Quantus discrete_entropy of both maps",
        efficient_mprt,
        lambda given: np.array([own("efficient_mprt", given, bins=bins) for bins in BINS]),
    ),
    again("random_logit", "Quantus RandomLogit, of the same class", random_logit),
    again("class_sensitivity", "SciPy spearmanr of both maps", class_sensitivity),
    again("completeness", "captum compute_convergence_delta, over both sums", completeness),
    Reference(
        "non_sensitivity",
        "Quantus NonSensitivity on single pixels",
        non_sensitivity,
        own_scores("non_sensitivity", grid=16),
        kind=Kind(dead_pixels, lambda _: {}),
    ),
]
