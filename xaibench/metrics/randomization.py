"""Randomization metrics: does the map depend on what the network learned, and on the class that is asked for?

Scores are (P,) float64, NaN where a map is constant or not finite. Randomised classifiers are made once for each
classifier, and predict a batch once for all explainers; a self-explaining one is run whole again, encoder and all.
Nothing is written to the classifier itself. None has a chance level.

Computed here: Quantus draws the same numbers for every layer of one shape (one seed for each), counts the comparison of
the map with itself in its average correlation, and explains all over again for every metric.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Any

import torch
from torch import Tensor

from xaibench.classifiers.base import Classifier
from xaibench.errors import NotApplicableError, UsageError
from xaibench.explainers.base import seed_of
from xaibench.metrics import _ops, _rerun
from xaibench.metrics._randomized import Order, randomized
from xaibench.metrics._similarity import similarity as alike
from xaibench.metrics.base import metric
from xaibench.metrics.explained import Explained
from xaibench.types import Prediction

_ADEBAYO: dict[str, Any] = {
    "category": "randomization",
    "direction": "lower",
    "range": (-1.0, 1.0),
    "reference": "Adebayo et al. 2018, arXiv:1810.03292",
    "steps": 4,
    "similarity": "spearman",
    "absolute": False,
    "seed": 0,
}
_HEDSTROEM = "Hedström et al. 2024, arXiv:2401.06465"


def _maps(explained: Explained, order: Order, steps: int, seed: int) -> list[Tensor]:
    """Return the maps (P, H, W) of the same images and classes, of each randomised classifier."""
    before, maps = explained.prediction, []
    for step, changed in enumerate(randomized(explained.classifier, order=order, steps=steps, seed=seed)):

        def make(changed: Classifier = changed) -> Prediction:
            return _rerun.predict(changed, before.images, before.ids)

        prediction = _rerun.kept(explained, ("randomized", order, steps, seed, step), make)
        maps.append(_rerun.explain(explained, changed, prediction, explained.targets))
    return maps


def _mean(scores: list[Tensor]) -> Tensor:
    """Return the mean (P,) over the steps where a score is defined; NaN where none is."""
    return torch.stack(scores).nanmean(0)


@metric("mprt", title="Parameter randomisation, cascading", **_ADEBAYO)
def mprt(
    explained: Explained, *, steps: int = 4, similarity: str = "spearman", absolute: bool = False, seed: int = 0
) -> Tensor:
    """Mean similarity of the map with those under weights randomised from the top down: 1 if weights don't matter.

    At `steps` depths evenly spaced over the layers, the last all of them. Layers draw anew as PyTorch makes them, batch
    norms return to mean 0 and variance 1. A step whose map is constant has no similarity and is left out.
    `similarity` is "spearman" (ranks by SciPy, ties sharing their mean rank) or "ssim" (scikit-image, of maps brought
    to [0, 1]); with `absolute`, of the absolute values. Weights are drawn here: Quantus gives layers of one shape the
    same ones.
    """
    changed = _maps(explained, "top_down", steps, seed)
    return _mean([alike(explained.maps, maps, similarity, absolute=absolute) for maps in changed])


@metric("mprt_independent", title="Parameter randomisation, independent", **_ADEBAYO)
def mprt_independent(
    explained: Explained, *, steps: int = 4, similarity: str = "spearman", absolute: bool = False, seed: int = 0
) -> Tensor:
    """Mean similarity of the map with those under random weights in one part of the layers, the others as trained.

    `steps` parts of as many layers each; the rest as for `mprt`.
    """
    changed = _maps(explained, "independent", steps, seed)
    return _mean([alike(explained.maps, maps, similarity, absolute=absolute) for maps in changed])


@metric(
    "smooth_mprt",
    category="randomization",
    direction="lower",
    range=(-1.0, 1.0),
    title="Parameter randomisation, smooth",
    reference=_HEDSTROEM,
    steps=1,
    samples=10,
    noise=0.1,
    similarity="spearman",
    absolute=False,
    seed=0,
)
def smooth_mprt(
    explained: Explained,
    *,
    steps: int = 1,
    samples: int = 10,
    noise: float = 0.1,
    similarity: str = "spearman",
    absolute: bool = False,
    seed: int = 0,
) -> Tensor:
    """Similarity as in `mprt`, from the bottom up, of maps averaged over noisy images: less noise in the verdict.

    Normal noise of standard deviation `noise` times the image's range, drawn from its id, on `samples` copies. One step
    compares with all layers random, where order plays no part. The paper takes 50 copies. Computed as for `mprt`.
    """
    own = _smooth(explained, explained.classifier, samples, noise, "own")
    scores = []
    for step, changed in enumerate(randomized(explained.classifier, order="bottom_up", steps=steps, seed=seed)):
        maps = _smooth(explained, changed, samples, noise, (steps, seed, step))
        scores.append(alike(own, maps, similarity, absolute=absolute))
    return _ops.nan_where(_ops.undefined(explained.maps), _mean(scores))


def _smooth(explained: Explained, classifier: Classifier, samples: int, noise: float, key: Hashable) -> Tensor:
    """Return the mean map (P, H, W) over noisy copies of each image."""
    _rerun.count("samples", samples)
    if not (noise > 0 and math.isfinite(noise)):
        raise UsageError(f"noise = {noise}; it is a share of the image's range, above 0")
    images, ids = explained.prediction.images, explained.prediction.ids
    draws = _rerun.noise(ids, samples, (images.shape[-2], images.shape[-1]), kind="normal").to(images)
    scale = noise * (images.amax((1, 2, 3)) - images.amin((1, 2, 3)))
    total = torch.zeros_like(explained.maps, dtype=torch.float64)
    for sample in range(samples):

        def make(sample: int = sample) -> Prediction:
            return _rerun.predict(classifier, images + scale[:, None, None, None] * draws[:, sample], ids)

        prediction = _rerun.kept(explained, ("noisy", key, noise, sample), make)
        total += _rerun.explain(explained, classifier, prediction, explained.targets).double()
    return total / samples


@metric(
    "efficient_mprt",
    category="randomization",
    direction="higher",
    range=(-1.0, math.inf),
    title="Parameter randomisation, efficient",
    reference=_HEDSTROEM,
    bins=100,
    seed=0,
)
def efficient_mprt(explained: Explained, *, bins: int = 100, seed: int = 0) -> Tensor:
    """Relative rise of the map's complexity once all weights are random: (H(random) - H(map)) / H(map).

    Complexity: the entropy of a histogram of the map's values, `bins` of equal width between its least and largest.
    Computed here, as Quantus does on its random weights.
    """
    _rerun.count("bins", bins, least=2)
    (changed,) = _maps(explained, "bottom_up", 1, seed)
    before, after = (_histogram_entropy(maps, bins) for maps in (explained.maps, changed))
    return _ops.nan_where(_ops.undefined(explained.maps) | _ops.undefined(changed), (after - before) / before)


def _histogram_entropy(maps: Tensor, bins: int) -> Tensor:
    """Return (N,) the entropy, in nats, of each map's histogram between its extremes; as numpy.histogram counts."""
    values = maps.double().flatten(1)
    low, high = values.amin(1, keepdim=True), values.amax(1, keepdim=True)
    place = (
        ((values - low) / (high - low) * bins).nan_to_num(nan=0.0, posinf=0.0, neginf=0.0).long().clamp(max=bins - 1)
    )
    counts = torch.zeros(len(maps), bins, dtype=torch.float64, device=maps.device)
    counts.scatter_add_(1, place, torch.ones_like(values))
    entropy: Tensor = torch.special.entr(counts / values.shape[1]).sum(1)
    return entropy


@metric(
    "random_logit",
    category="randomization",
    direction="lower",
    range=(-1.0, 1.0),
    title="Random logit",
    reference="Sixt, Granz and Landgraf 2020, arXiv:1912.09818",
    similarity="spearman",
    absolute=False,
    seed=0,
)
def random_logit(
    explained: Explained, *, similarity: str = "spearman", absolute: bool = False, seed: int = 0
) -> Tensor:
    """Similarity of the map with that of another class of the same image: 1 if the class makes no difference.

    The other class is drawn from the image's id, any but the explained one being as likely. The paper's similarity is
    "ssim". Computed here: Quantus seeds by the batch, so that an image's other class depends on its place in it.
    """
    before = explained.prediction
    classes = before.logits.shape[1]
    if classes < 2:
        raise NotApplicableError("there is no other class to compare one with")
    pairs = zip(before.ids, explained.targets.tolist(), strict=True)
    steps = [1 + seed_of("random logit", seed, name) % (classes - 1) for name, _ in pairs]
    others = (explained.targets + torch.tensor(steps, dtype=torch.long, device=explained.targets.device)) % classes
    maps = _rerun.explain(explained, explained.classifier, before, others)
    return alike(explained.maps, maps, similarity, absolute=absolute)


@metric(
    "class_sensitivity",
    category="randomization",
    direction="lower",
    range=(-1.0, 1.0),
    title="Class sensitivity (top, least)",
    reference="Sixt, Granz and Landgraf 2020, arXiv:1912.09818, for the classes farthest apart",
    similarity="spearman",
    absolute=False,
)
def class_sensitivity(explained: Explained, *, similarity: str = "spearman", absolute: bool = False) -> Tensor:
    """Similarity of the maps of the classes with the largest and with the smallest logit; 1 explains no class.

    Whatever class was explained. NaN where all logits are equal. Computed here: no library has it.
    """
    before = explained.prediction
    if before.logits.shape[1] < 2:
        raise NotApplicableError("there is no other class to compare one with")
    top, least = before.logits.argmax(1), before.logits.argmin(1)
    first, second = (_rerun.explain(explained, explained.classifier, before, targets) for targets in (top, least))
    return _ops.nan_where(top == least, alike(first, second, similarity, absolute=absolute))
