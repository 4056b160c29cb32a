"""Faithfulness by order: what happens to the class's score as parts of the image go or come in the map's order.

Every metric takes an `Explained` of P maps and returns (P,) float64, NaN for a constant or non-finite map. The class's
score is that of the class asked for, never of the predicted one. Equal values of a map are put in an order drawn from
the image's id. `output` is "probability", "logit" or "margin"; a declared range is that of the default. No chance level
is declared: what an uninformed map scores depends on the classifier and the image; read the baselines' rows instead.

Our own code: captum has none of these, Quantus and pytorch-grad-cam go through the images one by one and, where noted,
depart from the papers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from xaibench.errors import UsageError
from xaibench.explainers.base import seed_of
from xaibench.metrics import _impute, _perturb
from xaibench.metrics._perturb import Baseline
from xaibench.metrics.base import metric
from xaibench.metrics.explained import Explained, Output

_ROAD: dict[str, Any] = {
    "category": "faithfulness",
    "range": (0.0, 1.0),
    "reference": "Rong et al. 2022, arXiv:2202.00449",
    "percentages": [10, 30, 50, 70, 90],
    "noise": 0.01,
    "output": "probability",
}
TINY = 1e-12  # a probability of zero is one too small for float64


@metric(
    "insertion",
    category="faithfulness",
    direction="higher",
    range=(0.0, 1.0),
    title="Insertion",
    reference="Petsiuk, Das and Saenko 2018, arXiv:1806.07421",
    steps=28,
    baseline="blurred",
    output="probability",
)
def insertion(
    explained: Explained, *, steps: int = 28, baseline: Baseline = "blurred", output: Output = "probability"
) -> Tensor:
    """Area under the class's score as the top pixels come in over the blurred image, in equal steps.

    The authors' code blurs with a Gaussian of 5 px, cut at 11: a large lesion stays visible under it. Ours is a tenth
    of the image's side. Equal to their code on the same baseline and steps.
    """
    return _perturb.defined(explained, _insertion(explained, steps, baseline, output, hide=False))


@metric(
    "deletion",
    category="faithfulness",
    direction="lower",
    range=(0.0, 1.0),
    title="Deletion",
    reference="Petsiuk, Das and Saenko 2018, arXiv:1806.07421",
    steps=28,
    baseline="mean",
    output="probability",
)
def deletion(
    explained: Explained, *, steps: int = 28, baseline: Baseline = "mean", output: Output = "probability"
) -> Tensor:
    """Area under the class's score as the top pixels go out to the image's mean, in equal steps."""
    return _perturb.defined(explained, _insertion(explained, steps, baseline, output, hide=True))


def _insertion(explained: Explained, steps: int, kind: Baseline, output: Output, *, hide: bool) -> Tensor:
    places = _perturb.pixel_ranks(explained)
    counts = _perturb.steps_of(places[0].numel(), steps)
    images, base = explained.prediction.images, _perturb.baseline(explained, kind)
    ends = [explained.own_scores(output)[:, None], _perturb.baseline_scores(explained, kind, output)[:, None]]
    if not hide:  # the curve's ends are known: of two images that no map decides
        images, base, ends = base, images, ends[::-1]
    if steps > 1:
        ends.insert(1, _perturb.revealed(explained, places, counts[1:-1], images, base, output))
    return _perturb.area(torch.cat(ends, 1))


@metric("road_morf", direction="lower", title="ROAD, most relevant first", **_ROAD)
def road_morf(
    explained: Explained,
    *,
    percentages: Sequence[float] = (10, 30, 50, 70, 90),
    noise: float = 0.01,
    output: Output = "probability",
) -> Tensor:
    """Mean of the class's score after the top 10, 30, 50, 70, 90% of the pixels were imputed from what is around them.

    Imputation agrees with pytorch-grad-cam's on the same masks; its masks do not follow the paper: it removes the
    pixels not below a percentile, which on a map that is mostly zero are all of them. Here exactly that share goes.
    """
    return _perturb.defined(explained, _road(explained, percentages, noise, output, 1.0))


@metric("road_lerf", direction="higher", title="ROAD, least relevant first", **_ROAD)
def road_lerf(
    explained: Explained,
    *,
    percentages: Sequence[float] = (10, 30, 50, 70, 90),
    noise: float = 0.01,
    output: Output = "probability",
) -> Tensor:
    """Mean of the class's score after the bottom 10, 30, 50, 70, 90% of the pixels were imputed; see `road_morf`."""
    return _perturb.defined(explained, _road(explained, percentages, noise, output, -1.0))


def _road(explained: Explained, percentages: Sequence[float], noise: float, output: Output, sign: float) -> Tensor:
    if noise < 0:
        raise UsageError(f"noise = {noise}; it is a standard deviation, at least 0")
    if not len(percentages) or not all(0 < percentage < 100 for percentage in percentages):
        raise UsageError(f"percentages must lie between 0 and 100, got {list(percentages)}")
    places, images = _perturb.pixel_ranks(explained), explained.prediction.images
    pixels = places[0].numel()
    counts = [round(pixels * percentage / 100) for percentage in percentages]
    rows = torch.arange(len(explained), device=places.device).repeat_interleave(len(counts))
    noises = explained.once(("road noise",), lambda: _noises(explained))

    def make(part: Tensor) -> Tensor:
        row, count = rows[part], torch.tensor(counts, device=places.device)[part % len(counts), None, None]
        hidden = places[row] < count if sign > 0 else places[row] >= pixels - count
        filled = torch.stack(_impute.impute_all(images[row].unbind(), hidden.unbind()))
        return filled.addcmul_(noises[row], hidden[:, None].to(filled), value=noise) if noise else filled

    return explained.scores_of(make, rows, output).reshape(-1, len(counts)).mean(1)


def _noises(explained: Explained) -> Tensor:
    """Return standard normal noise of the images' shape, drawn from their ids."""
    shape = explained.prediction.images.shape[1:]
    seeds = [seed_of("road", image) for image in explained.prediction.ids]
    noises = torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
    return noises.to(explained.maps.device)


def _shown(explained: Explained) -> tuple[Tensor, Tensor]:
    """Return the class's probability on the image, and on the image times the displayed map; (P,), made once a map."""
    maps, images = explained.maps, explained.prediction.images

    def make() -> tuple[Tensor, Tensor]:  # keeps the maps, so that their id names no others
        positive = _perturb.finite_maps(explained).clamp(min=0)
        displayed = (positive / positive.amax((-2, -1), keepdim=True).clamp(min=TINY)).float()[:, None]
        rows = torch.arange(len(explained), device=maps.device)
        return maps, explained.scores_of(lambda part: images[part] * displayed[part], rows)

    return explained.own_scores(), explained.once(("shown", id(maps)), make)[1]


@metric(
    "average_drop",
    category="faithfulness",
    direction="lower",
    range=(0.0, 1.0),
    title="Average drop",
    reference="Chattopadhay et al. 2018, arXiv:1710.11063",
)
def average_drop(explained: Explained) -> Tensor:
    """Share of the class's probability that is lost on image x map: max(0, p - p') / p.

    The map is as displayed: its positive part over its largest value; what it leaves out turns black, which no
    radiograph is. Agrees with pytorch-grad-cam's DropInConfidence.
    """
    own, shown = _shown(explained)
    return _perturb.defined(explained, (own - shown).clamp(min=0) / own.clamp(min=TINY))


@metric(
    "average_increase",
    category="faithfulness",
    direction="higher",
    range=(0.0, 1.0),
    title="Increase in confidence",
    reference="Chattopadhay et al. 2018, arXiv:1710.11063",
)
def average_increase(explained: Explained) -> Tensor:
    """1 where the class's probability is larger on image x map than on the image, else 0; see `average_drop`."""
    own, shown = _shown(explained)
    return _perturb.defined(explained, (shown > own).double())


@metric(
    "average_gain",
    category="faithfulness",
    direction="higher",
    range=(0.0, 1.0),
    title="Average gain",
    reference="Zhang et al. 2024 (Opti-CAM), arXiv:2301.07002",
)
def average_gain(explained: Explained) -> Tensor:
    """Share of the missing probability that is gained on image x map: max(0, p' - p) / (1 - p); see `average_drop`."""
    own, shown = _shown(explained)
    return _perturb.defined(explained, (shown - own).clamp(min=0) / (1 - own).clamp(min=TINY))


@metric(
    "region_perturbation",
    category="faithfulness",
    direction="higher",
    range=(-1.0, 1.0),
    title="Region perturbation (AOPC)",
    reference="Samek et al. 2017, arXiv:1509.06321",
    cells=16,
    regions=32,
    baseline="mean",
    output="probability",
)
def region_perturbation(
    explained: Explained,
    *,
    cells: int = 16,
    regions: int = 32,
    baseline: Baseline = "mean",
    output: Output = "probability",
) -> Tensor:
    """Mean loss of the class's score, after none to L = 32 squares are hidden, those of the largest sums first.

    The paper shows uniform noise in a square, here it is `baseline`. As Quantus's curves on the same squares.
    """
    parts = _perturb.cell_numbers(explained, cells)
    if not 1 <= regions <= cells**2:
        raise UsageError(f"regions = {regions}; it is 1 to {cells**2}, the number of cells")
    places = _perturb.part_places(explained, parts, _perturb.cell_sums(explained, cells))
    base, images = _perturb.baseline(explained, baseline), explained.prediction.images
    curve = _perturb.revealed(explained, places, torch.arange(1, regions + 1), images, base, output)
    lost = explained.own_scores(output)[:, None] - curve
    return _perturb.defined(explained, lost.sum(1) / (regions + 1))


@metric(
    "irof",
    category="faithfulness",
    direction="higher",
    range=(-math.inf, 1.0),
    title="IROF",
    reference="Rieger and Hansen 2020, arXiv:2003.08747",
    segments=50,
    baseline="mean",
)
def irof(explained: Explained, *, segments: int = 50, baseline: Baseline = "mean") -> Tensor:
    """Area over the curve of p / p(image) as superpixels are hidden, those of the largest mean first.

    Superpixels are scikit-image's SLIC on the grey image, about `segments`. The curve starts at the whole image and its
    abscissa runs over [0, 1]; Quantus leaves the first point out, multiplies by the number of superpixels, and draws
    the curve of an image with fewer of them than another of the batch on to zero.
    """
    parts = _perturb.superpixels(explained, segments)
    means, _ = _perturb.part_means(explained, parts)
    places = _perturb.part_places(explained, parts, means)  # parts that an image lacks come last
    base, images, own = _perturb.baseline(explained, baseline), explained.prediction.images, explained.own_scores()
    scores = []
    for row, count in enumerate(means.isfinite().sum(1).tolist()):

        def hidden(part: Tensor, row: int = row) -> Tensor:
            return torch.where((places[row] <= part[:, None, None])[:, None], base[row], images[row])

        curve = explained.scores_of(hidden, torch.full((count,), row, device=places.device))
        scores.append(1 - _perturb.area(torch.cat([own[row, None], curve])[None] / own[row].clamp(min=TINY)))
    return _perturb.defined(explained, torch.cat(scores))


@metric(
    "monotonicity",
    category="faithfulness",
    direction="higher",
    range=(0.0, 1.0),
    title="Monotonicity",
    reference="Arya et al. 2019, arXiv:1909.03012",
    cells=8,
    baseline="mean",
    output="probability",
    tolerance=1e-6,
)
def monotonicity(
    explained: Explained,
    *,
    cells: int = 8,
    baseline: Baseline = "mean",
    output: Output = "probability",
    tolerance: float = 1e-6,
) -> Tensor:
    """Share of the steps at which the score does not fall as squares come in over the baseline, least relevant first.

    The paper's (AIX360's) yes is a 1, its no anything below. Quantus 0.6.0 replaces the baseline by the baseline, so
    that its image never changes and its answer is always yes.
    """
    if tolerance < 0:
        raise UsageError(f"tolerance = {tolerance}; it is at least 0")
    parts = _perturb.cell_numbers(explained, cells)
    places = _perturb.part_places(explained, parts, -_perturb.cell_sums(explained, cells))
    base, images = _perturb.baseline(explained, baseline), explained.prediction.images
    curve = _perturb.revealed(explained, places, torch.arange(1, cells**2), base, images, output)
    curve = torch.cat([curve, explained.own_scores(output)[:, None]], 1)
    return _perturb.defined(explained, (curve.diff(dim=1) >= -tolerance).double().mean(1))


@metric(
    "sufficiency",
    category="faithfulness",
    direction="higher",
    range=(0.0, 1.0),
    title="Sufficiency",
    reference="Dasgupta, Frost and Moshkovitz 2022, arXiv:2202.00734",
    share=0.2,
    samples=16,
)
def sufficiency(explained: Explained, *, share: float = 0.2, samples: int = 16) -> Tensor:
    """How often the classifier decides the same on images that agree with this one where the map is highest.

    The paper: the probability of the same decision among inputs to which the same explanation applies. Those inputs are
    here the image's top 20% of pixels over the image itself, moved round by a random half to once its side and back: a
    score of this image alone. Quantus counts equal predictions among the images of a batch whose maps are near each
    other, so that a score depends on the batch. NaN where the classifier does not decide for the class explained.
    """
    if not 0 < share < 1 or samples < 1:
        raise UsageError(f"share = {share}, samples = {samples}; a share lies in (0, 1), and samples are 1 or more")
    places, images = _perturb.pixel_ranks(explained), explained.prediction.images
    kept, (height, width) = places < round(share * places[0].numel()), images.shape[-2:]
    rows = torch.arange(len(explained), device=places.device).repeat_interleave(samples)
    scored = []
    for row, image in enumerate(explained.prediction.ids):
        draw = torch.rand(samples, 2, generator=torch.Generator().manual_seed(seed_of("sufficiency", image)))
        shifts = [(int(height * (0.25 + 0.5 * y)), int(width * (0.25 + 0.5 * x))) for y, x in draw.tolist()]
        moved = torch.stack([images[row].roll(shift, (-2, -1)) for shift in shifts])
        scored.append(explained.logits(torch.where(kept[row], images[row], moved)))
    same = _decides(torch.cat(scored), explained.targets[rows], explained.task).double().reshape(-1, samples).mean(1)
    asked = _decides(explained.prediction.logits.double(), explained.targets, explained.task)
    return _perturb.defined(explained, same.masked_fill(~asked, math.nan))


def _decides(logits: Tensor, targets: Tensor, task: str) -> Tensor:
    if task == "multilabel":
        return logits.gather(1, targets[:, None])[:, 0] > 0
    return logits.argmax(1) == targets
