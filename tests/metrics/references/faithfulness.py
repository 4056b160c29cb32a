"""Implementations of faithfulness metrics: packages on the same images and the same hidden pixels, and plain loops.

Every case is an `Explained` of grey images whose maps have no ties: packages break those by position. They are given
the classifier in float64; ours is as it is. What is hidden shows black, in Quantus the number 0.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from typing import Any
from unittest import mock

import numpy as np
import scipy.stats
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.metrics.hand_built import SIDE, Evidence, explained, shuffled
from tests.metrics.references.base import Array, Cases, Drawn, Kind, Reference, own, own_scores
from xaibench.classifiers.base import Classifier
from xaibench.explainers.base import seed_of
from xaibench.metrics import _perturb
from xaibench.metrics.explained import Explained

SHARE, SAMPLES, STEPS, SEGMENTS = 0.25, 20, 16, 12
SQUARES, REGIONS, PERCENTAGES = 4, 9, (12.5, 50.0)
SHARES, LEVELS = (0.3, 0.7), (0.1, 0.9)
IMAGES = 3
"""Of what explainers drew: each costs a thousand forward passes."""


def hand_built() -> Cases:
    """What pixels add to the logit of a network that sums them up, and the same values in another order.

    Much speaks against the class, or no map could raise its probability.
    """
    true = explained(classifier=Evidence(against=-0.6).eval())
    return {"random": replace(true, maps=shuffled(true.maps), shared={}), "true": true}


@cache
def of_drawn(drawn: Drawn) -> Cases:
    """What explainers draw of the first images at half their size, for the class that is decided for; without ties.

    In float64, and of images where no map is constant.
    """
    exact = copy.deepcopy(drawn.classifier).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        prediction = exact.predict(F.avg_pool2d(drawn.prediction.images.double(), 2), drawn.prediction.ids)
        targets = prediction.logits.argmax(1)
        maps = {n: e.explain(exact, prediction, targets).double() for n, e in drawn.explainers.items()}
    varied = torch.stack([some.flatten(1).std(1) > 0 for some in maps.values()]).all(0)
    rows = varied.nonzero()[:IMAGES, 0].tolist()

    def untied(some: Tensor) -> Tensor:
        return some + 1e-4 * some.abs().amax((1, 2), keepdim=True) * torch.rand(some.shape, generator=generator)

    return {
        f"{name}{drawn.suffix}": Explained(
            exact, explainer, prediction.select(rows), targets[rows], untied(maps[name][rows])
        )
        for name, explainer in drawn.explainers.items()
    }


SCORED = Kind(hand_built, of_drawn)


def exact(given: Explained) -> Classifier:
    """Return the classifier in float64."""
    return given.once(("in float64",), lambda: copy.deepcopy(given.classifier).double())


def in_float64(given: Explained) -> Explained:
    with torch.no_grad():
        prediction = exact(given).predict(given.prediction.images.double(), given.prediction.ids)
    return replace(given, classifier=exact(given), prediction=prediction, shared={})


class Grey(nn.Module):
    """The classifier on one channel, some images at a time: for packages that perturb channel by channel."""

    def __init__(self, given: Explained, probability: bool) -> None:
        super().__init__()
        self.classifier, self.probability = exact(given), probability

    def forward(self, images: Tensor) -> Tensor:
        parts = torch.split(images.double(), 16)
        logits = torch.cat([self.classifier(part.expand(-1, 3, -1, -1).contiguous()) for part in parts])
        return logits.softmax(1) if self.probability else logits


def ask_quantus(name: str, given: Explained, *, output: str = "logit", **options: Any) -> Array:
    """Return the scores of Quantus's metric."""
    import quantus

    if not hasattr(np, "trapz"):  # Quantus 0.6.0 calls what NumPy 2.4 dropped
        np.trapz = np.trapezoid  # noqa: NPY201
    metric = getattr(quantus, name)(normalise=False, abs=False, disable_warnings=True, **options)
    found = metric(
        model=Grey(given, output == "probability").eval(),
        x_batch=given.prediction.images[:, :1].double().numpy(),
        y_batch=given.targets.numpy(),
        a_batch=given.maps[:, None].double().numpy(),
        channel_first=True,
        softmax=False,
        device="cpu",
    )
    return np.asarray(found, dtype=float)


def in_turn(score: Callable[[Explained, int], float]) -> Callable[[Explained], Array]:
    """Return a function that scores the images of a batch one by one."""
    return lambda given: np.array([score(given, row) for row in range(len(given))])


def answer(given: Explained, row: int, image: Array, *, logit: bool = False) -> float:
    """Return the probability of the explained class of an image (3, H, W), or its logit."""
    with torch.no_grad():
        logits = exact(given)(torch.from_numpy(image)[None])[0]
    return float((logits if logit else logits.softmax(0))[given.targets[row]])


def arrays(given: Explained, row: int) -> tuple[Array, Array]:
    """Return image (3, H, W) and map (H, W)."""
    return given.prediction.images[row].double().numpy().copy(), given.maps[row].double().numpy()


def area_as_pixels_change(given: Explained, row: int, *, kind: Any, hide: bool) -> float:
    """Go as the authors' CausalMetric goes: from one image to the other, by the map's order."""
    image, map_ = arrays(given, row)
    start, goal = image, _perturb.baseline(given, kind)[row].double().numpy()
    if not hide:
        start, goal = goal.copy(), image
    order, curve = np.argsort(-map_.ravel()), [answer(given, row, start)]
    for part in np.split(order, STEPS):
        start.reshape(3, -1)[:, part] = goal.reshape(3, -1)[:, part]
        curve.append(answer(given, row, start))
    return (sum(curve) - curve[0] / 2 - curve[-1] / 2) / STEPS


def road(given: Explained, *, sign: float) -> Array:
    """Use pytorch-grad-cam's ROAD, whose percentile is of the pixels that stay."""
    from pytorch_grad_cam.metrics import road

    def score(given: Explained, row: int) -> float:
        image, map_ = given.prediction.images[row].float(), sign * given.maps[row]
        removals = [road.RemoveMostRelevantFirst(100 - p, road.NoisyLinearImputer(noise=0.0)) for p in PERCENTAGES]
        return float(np.mean([answer(given, row, remove(image, map_).double().numpy()) for remove in removals]))

    return in_turn(score)(given)


def multiplied(given: Explained, name: str) -> Array:
    """Use pytorch-grad-cam's metrics of the image times the displayed map; of its class alone, not its prediction."""
    from pytorch_grad_cam.metrics import cam_mult_image

    maps = given.maps.double().clamp(min=0)
    shown = (maps / maps.amax((1, 2), keepdim=True)).numpy()
    asked = [lambda logits, target=target: logits.softmax(-1)[target] for target in given.targets.tolist()]
    scored: Array = getattr(cam_mult_image, name)()(given.prediction.images.double(), shown, asked, exact(given))
    return scored


def average_drop(given: Explained) -> Array:
    return multiplied(given, "DropInConfidence") / given.own_scores().numpy()


def average_gain(given: Explained) -> Array:
    gained = multiplied(given, "CamMultImageConfidenceChange")
    return np.maximum(gained, 0) / (1 - given.own_scores().numpy())


def irof(given: Explained) -> Array:
    """Add the first point to Quantus's curve, and take its number of superpixels off it: as the paper has it.

    One image at a time: in a batch, Quantus draws the curve of an image with fewer superpixels on to zero.
    """
    found = []
    for row in range(len(given)):
        one = alone(given, row)
        parts = _perturb.superpixels(given, SEGMENTS)[row].numpy()
        options: dict[str, Any] = {"perturb_baseline": 0.0, "return_aggregate": False}
        with mock.patch("quantus.helpers.utils.get_superpixel_segments", lambda parts=parts, **_: parts):
            score = ask_quantus("IROF", one, output="probability", **options).item()
        image, map_ = arrays(given, row)
        count = parts.max() + 1
        first = max(range(count), key=lambda part: map_[parts == part].mean())
        ratio = answer(given, row, np.where(parts == first, 0.0, image)) / answer(given, row, image)
        found.append(1 - (0.5 * (1 + ratio) + count - score) / count)
    return np.array(found)


def alone(given: Explained, row: int) -> Explained:
    return replace(
        given,
        prediction=given.prediction.select([row]),
        targets=given.targets[[row]],
        maps=given.maps[[row]],
        shared={},
    )


def region_perturbation(given: Explained) -> Array:
    side = given.maps.shape[-1] // SQUARES
    options: dict[str, Any] = {"patch_size": side, "regions_evaluation": REGIONS, "order": "morf"}
    curves = ask_quantus("RegionPerturbation", given, output="probability", perturb_baseline=0.0, **options)
    return curves.reshape(len(given), REGIONS).sum(1) / (REGIONS + 1)


def cells_of(given: Explained) -> int:
    """Return how many cells a side has: in a hand-built image a pixel is one."""
    return SIDE if given.maps.shape[-1] == SIDE else SIDE // 2


def pixels_of(given: Explained, sets: Tensor) -> Tensor:
    """Return the pixels (P, S, H, W) bool of sets of cells (P, S, cells^2)."""
    numbers = _perturb.cell_numbers(given, cells_of(given)).flatten(1)[:, None].expand(-1, sets.shape[1], -1)
    return sets.gather(2, numbers).reshape(*sets.shape[:2], *given.maps.shape[1:])


def sets_of(given: Explained, share: float = SHARE) -> Tensor:
    return pixels_of(given, _perturb.subsets(given, cells_of(given), share, SAMPLES))


def infidelity(given: Explained) -> Array:
    """Take captum's over its own value for a map of zeros: the mean square of what is lost."""
    from captum.metrics import infidelity

    hidden = sets_of(given).flatten(0, 1)[:, None].double()
    found = [
        infidelity(
            Grey(given, probability=False),
            lambda images: (hidden, images * (1 - hidden)),
            given.prediction.images[:, :1].double(),
            maps[:, None].double(),
            target=given.targets,
            n_perturb_samples=SAMPLES,
            normalize=True,
        )
        for maps in (given.maps, torch.zeros_like(given.maps))
    ]
    return (found[0] / found[1]).detach().numpy()


def faithfulness_correlation(given: Explained) -> Array:
    sets = sets_of(given).flatten(2).numpy()
    drawn = iter([np.flatnonzero(sets[row, run]) for run in range(SAMPLES) for row in range(len(given))])
    options: dict[str, Any] = {"nr_runs": SAMPLES, "subset_size": int(sets[0, 0].sum()), "return_aggregate": False}
    with mock.patch("numpy.random.choice", side_effect=drawn):
        return ask_quantus("FaithfulnessCorrelation", given, perturb_baseline=0.0, **options)


def of_cells(given: Explained) -> Explained:
    """Give each pixel the mean of its cell, so that a step of a cell's pixels in the map's order is that cell."""
    numbers = _perturb.cell_numbers(given, cells_of(given)).flatten(1).numpy()
    values = given.maps.double().flatten(1).numpy()
    means = [(np.bincount(n, v) / np.bincount(n))[n] for n, v in zip(numbers, values, strict=True)]
    return replace(given, maps=torch.from_numpy(np.stack(means)).reshape(given.maps.shape), shared={})


def faithfulness_estimate(given: Explained) -> Array:
    step = given.maps[0].numel() // cells_of(given) ** 2
    return ask_quantus("FaithfulnessEstimate", of_cells(given), features_in_step=step, perturb_baseline=0.0)


def lost(given: Explained, row: int, sets: Array, *, level: float = 0.0) -> Array:
    """Return what the logit loses as each set of pixels (S, H, W) shows one level, (S,)."""
    image, _ = arrays(given, row)
    shown = [answer(given, row, np.where(hidden, level, image), logit=True) for hidden in sets]
    return answer(given, row, image, logit=True) - np.array(shown)


def sensitivity_n(given: Explained, row: int) -> float:
    found, (_, map_) = [], arrays(given, row)
    for share in SHARES:
        sets = sets_of(given, share)[row].numpy()
        sums = [map_[hidden].sum() for hidden in sets]
        found.append(scipy.stats.pearsonr(sums, lost(given, row, sets)).statistic)
    return float(np.mean(found))


def monotonicity_correlation(given: Explained, row: int) -> float:
    cells, (_, map_) = pixels_of(given, _perturb.alone(given, cells_of(given)))[row].numpy(), arrays(given, row)
    changes = np.mean([lost(given, row, cells, level=level) ** 2 for level in LEVELS], axis=0)
    return float(scipy.stats.spearmanr([abs(map_[cell].sum()) for cell in cells], changes).statistic)


def sufficiency(given: Explained, row: int) -> float:
    """Shift the image under its top pixels, as far as its id says, and ask again."""
    image, map_ = arrays(given, row)
    height, width = map_.shape
    top = np.zeros(map_.size, dtype=bool)
    top[np.argsort(-map_.ravel())[: round(0.2 * map_.size)]] = True
    seed, asked, same = seed_of("sufficiency", given.prediction.ids[row]), int(given.targets[row]), []
    for y, x in torch.rand(SAMPLES, 2, generator=torch.Generator().manual_seed(seed)).tolist():
        moved = np.roll(image, (int(height * (0.25 + 0.5 * y)), int(width * (0.25 + 0.5 * x))), (1, 2))
        same.append(decides(given, np.where(top.reshape(map_.shape), image, moved)) == asked)
    return float(np.mean(same)) if decides(given, image) == asked else float("nan")


def decides(given: Explained, image: Array) -> int:
    with torch.no_grad():
        return int(exact(given)(torch.from_numpy(image)[None]).argmax())


def own_of_cells(name: str, **parameters: Any) -> Callable[[Explained], Array]:
    """Return a function from a case to our scores."""
    return lambda given: own(name, given, cells=cells_of(given), **parameters)


of_scores = partial(Reference, kind=SCORED)
_BLACK: dict[str, Any] = {"baseline": "black"}
_LOOP = "a plain loop, image by image"

FAITHFULNESS = [
    of_scores(
        "insertion",
        f"{_LOOP}, as the authors' CausalMetric",
        in_turn(partial(area_as_pixels_change, kind="blurred", hide=False)),
        own_scores("insertion", steps=STEPS),
    ),
    of_scores(
        "deletion",
        f"{_LOOP}, as the authors' CausalMetric",
        in_turn(partial(area_as_pixels_change, kind="mean", hide=True)),
        own_scores("deletion", steps=STEPS),
    ),
    of_scores(
        "road_morf",
        "pytorch-grad-cam RemoveMostRelevantFirst",
        partial(road, sign=1.0),
        own_scores("road_morf", percentages=PERCENTAGES, noise=0.0),
    ),
    of_scores(
        "road_lerf",
        "pytorch-grad-cam RemoveMostRelevantFirst of the map's negative",
        partial(road, sign=-1.0),
        own_scores("road_lerf", percentages=PERCENTAGES, noise=0.0),
    ),
    of_scores("average_drop", "pytorch-grad-cam DropInConfidence, over the probability", average_drop),
    of_scores(
        "average_increase", "pytorch-grad-cam IncreaseInConfidence", partial(multiplied, name="IncreaseInConfidence")
    ),
    of_scores("average_gain", "pytorch-grad-cam CamMultImageConfidenceChange, over what is missing", average_gain),
    of_scores(
        "irof",
        "Quantus IROF, its first point added, over the number of superpixels",
        irof,
        own_scores("irof", segments=SEGMENTS, **_BLACK),
    ),
    of_scores(
        "region_perturbation",
        "Quantus RegionPerturbation",
        region_perturbation,
        own_scores("region_perturbation", cells=SQUARES, regions=REGIONS, **_BLACK),
    ),
    of_scores(
        "monotonicity",
        "Quantus Monotonicity",
        lambda given: ask_quantus(
            "Monotonicity", given, features_in_step=given.maps[0].numel() // 64, perturb_baseline=0.0
        ),
        own_scores("monotonicity", cells=8, **_BLACK),
        remark="replaces the baseline by the baseline, and so says yes to every map; worked case in test_faithfulness",
    ),
    of_scores("sufficiency", _LOOP, in_turn(sufficiency), own_scores("sufficiency", samples=SAMPLES), gaps="both"),
    of_scores(
        "infidelity",
        "captum infidelity(normalize=True), over its value for an empty map",
        infidelity,
        own_of_cells("infidelity", samples=SAMPLES, share=SHARE, **_BLACK),
    ),
    of_scores(
        "faithfulness_correlation",
        "Quantus FaithfulnessCorrelation",
        faithfulness_correlation,
        own_of_cells("faithfulness_correlation", samples=SAMPLES, share=SHARE, **_BLACK),
    ),
    of_scores(
        "faithfulness_estimate",
        "Quantus FaithfulnessEstimate",
        faithfulness_estimate,
        lambda given: own_of_cells("faithfulness_estimate", **_BLACK)(of_cells(given)),
    ),
    of_scores(
        "sensitivity_n",
        f"{_LOOP}, with SciPy pearsonr",
        in_turn(sensitivity_n),
        own_of_cells("sensitivity_n", shares=SHARES, samples=SAMPLES, **_BLACK),
    ),
    of_scores(
        "monotonicity_correlation",
        f"{_LOOP}, with SciPy spearmanr",
        in_turn(monotonicity_correlation),
        # in float64 too: rounding changes the ranks of pixels that move the logit alike
        lambda given: own_of_cells("monotonicity_correlation", levels=LEVELS)(in_float64(given)),
    ),
]
