"""Axioms: what a map must do by a proof of its method, measured.

Scores are (P,) float64, 0 where the axiom holds, NaN for a constant or non-finite map. None has a chance level.

Computed here: Quantus answers completeness and input invariance with True or False, the first by exact equality of
floats, the second by an absolute tolerance, and moves the bias by a value that padding makes wrong at the borders.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from xaibench.classifiers.base import Classifier, Normalize
from xaibench.errors import UsageError
from xaibench.metrics import _ops, _rerun
from xaibench.metrics.base import metric
from xaibench.metrics.explained import CHUNK, Explained
from xaibench.types import Prediction


@metric(
    "completeness",
    category="axioms",
    direction="lower",
    range=(0.0, 1.0),
    title="Incompleteness",
    reference="Sundararajan, Taly and Yan 2017, arXiv:1703.01365",
    aggregate="declared",
)
def completeness(explained: Explained, *, aggregate: str = "declared") -> Tensor:
    """How far the map is from adding up to the logit: |S - D| / (|S| + |D|), 0 where S = D, 1 where they are unrelated.

    S is the sum of the map's values, or their mean where the explainer declares that (GCM's contribution map: its mean
    is the logit); D is the logit of the explained class less the mean logit of the explainer's baselines: black unless
    its method has another, none for GCM. `aggregate` is "declared", "sum" or "mean"; who declares nothing is summed.
    Computed here: Quantus asks S and D to be the same float.
    """
    if aggregate not in ("declared", "sum", "mean"):
        raise UsageError(f'aggregate = {aggregate!r}; it is "declared", "sum" or "mean"')
    declared = explained.explainer.completeness or "sum"
    found = _ops.total(explained.maps.double())
    if (declared if aggregate == "declared" else aggregate) == "mean":
        found = found / (explained.maps.shape[-2] * explained.maps.shape[-1])
    wanted = explained.own_scores("logit") - _baseline_logits(explained)
    return _ops.nan_where(_ops.undefined(explained.maps), _disagreement(found, wanted))


def _baseline_logits(explained: Explained) -> Tensor:
    """Return the explained class's mean logit (P,) over the explainer's baselines of each image."""
    logits = []
    for row in range(len(explained)):
        baselines = explained.explainer.baselines(explained.prediction.images[row : row + 1])[0]
        rows = torch.full((len(baselines),), row, device=baselines.device)
        scores = explained.scores(baselines, rows, "logit") if len(baselines) else torch.zeros(1, dtype=torch.float64)
        logits.append(scores.mean().to(explained.maps.device))
    return torch.stack(logits) if logits else torch.zeros(0, dtype=torch.float64, device=explained.maps.device)


def _disagreement(found: Tensor, wanted: Tensor) -> Tensor:
    size = found.abs() + wanted.abs()
    return (found - wanted).abs() / size.where(size > 0, torch.ones_like(size))


class Shifted(Classifier):
    """A classifier behind a first layer that takes a constant off the image: of image + shift it says the same.

    Args:
        inner: the classifier.
        shift: the constant, in brightness.
    """

    def __init__(self, inner: Classifier, shift: float) -> None:
        super().__init__(inner.classes, inner.input_size)
        self.inner, self.first = inner, Normalize([shift] * 3, [1.0] * 3).to(inner.device)
        self.weights, self.own_maps = inner.weights, inner.own_maps
        self.body_is_frozen, self.head_is_pooled_linear = inner.body_is_frozen, inner.head_is_pooled_linear
        self.training = self.first.training = inner.training  # not `train`, which would set the inner layers too

    def features(self, images: Tensor) -> Tensor:
        return self.inner.features(self.first(images))

    def head(self, features: Tensor, images: Tensor) -> Tensor:
        return self.inner.head(features, self.first(images))

    def head_with_maps(self, features: Tensor, images: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
        return self.inner.head_with_maps(features, self.first(images))

    def class_weights(self) -> Tensor:
        return self.inner.class_weights()


@metric(
    "input_invariance",
    category="axioms",
    direction="lower",
    range=(0.0, math.inf),
    title="Change under a shift of the input",
    reference="Kindermans et al. 2017, arXiv:1711.00867",
    shift=-1.0,
)
def input_invariance(explained: Explained, *, shift: float = -1.0) -> Tensor:
    """Change of the map, as a share of it, when image and first layer move together: |A' - A| / |A|, Euclidean.

    All pixels get brighter by `shift`, and a first layer takes it off again by its bias, so that the classifier says
    the same of every image. The paper's shift takes [0, 1] to [-1, 0]. Computed here: Quantus changes the bias of a
    convolution, which its padding makes wrong at the borders, and answers by an absolute tolerance.
    """
    if not (math.isfinite(shift) and shift):
        raise UsageError(f"shift = {shift}; it is a change of brightness other than 0")
    before = explained.prediction
    moved: Classifier = explained.once(("shifted", shift), lambda: Shifted(explained.classifier, shift))

    def make() -> Prediction:
        return _rerun.predict(moved, before.images + shift, before.ids)

    prediction = _rerun.kept(explained, ("shifted prediction", shift), make)
    maps = _rerun.explain(explained, moved, prediction, explained.targets)
    change = _rerun.norm(maps.double() - explained.maps.double()) / _rerun.norm(explained.maps)
    return _ops.nan_where(_ops.undefined(explained.maps), change)


@metric(
    "non_sensitivity",
    category="axioms",
    direction="lower",
    range=(0.0, 1.0),
    title="Non-sensitivity",
    reference="Nguyen and Rodriguez Martinez 2020, arXiv:2007.07584",
    version=2,
    grid=6,
    eps=1e-3,
)
def non_sensitivity(explained: Explained, *, grid: int = 6, eps: float = 1e-3) -> Tensor:
    """Share of the cells where the map says "matters" and the logit does not change, or the other way round.

    Cells of a `grid` x `grid` over the image. A cell matters to the map if its sum of absolute values exceeds `eps`
    times the largest cell's, and to the classifier if painting it black or white changes the class's logit by more than
    `eps` times the largest such change (rounding alone moves it a little). The paper asks it of single features, which
    would take a forward pass for each pixel. Computed here: Quantus compares both with one absolute number, and paints
    with the image's own darkest value, so that the darkest pixel never matters. A constant map that is not zero says
    that all cells matter, and is scored; an all-zero map is undefined.
    """
    _rerun.count("grid", grid)
    if not 0 <= eps < 1:
        raise UsageError(f"eps = {eps}; it is a share, in [0, 1)")
    places = cells(explained.maps.shape[-2], explained.maps.shape[-1], grid).to(explained.maps.device)
    changed = explained.once(("painted", grid), lambda: _painted(explained, places))
    held = torch.stack([_ops.total((explained.maps.double() * cell).abs()) for cell in places], dim=1)
    differ = _matters(held, eps) != _matters(changed, eps)
    low, high = _ops.ends(explained.maps)
    silent = ~(low.isfinite() & high.isfinite()) | (held.amax(1) == 0)  # a constant map speaks, of all cells alike
    return _ops.nan_where(silent, differ.double().mean(1))


def cells(height: int, width: int, grid: int) -> Tensor:
    """Return (C, H, W) bool: the cells of a grid over an image, as alike as whole pixels let them be.

    >>> cells(4, 4, 2).sum((1, 2)).tolist()
    [4, 4, 4, 4]
    """
    if grid > min(height, width):
        raise UsageError(f"grid = {grid}; an image of {height} x {width} has no more than {min(height, width)} cells")
    row, column = torch.arange(height) * grid // height, torch.arange(width) * grid // width
    number = row[:, None] * grid + column[None, :]
    return number == torch.arange(grid * grid)[:, None, None]


def _painted(explained: Explained, places: Tensor) -> Tensor:
    """Return (P, C) float64: how far each cell, painted black or white, moves the explained class's logit at most."""
    own, moved = explained.own_scores("logit"), []
    for row, image in enumerate(explained.prediction.images):
        largest = torch.zeros(len(places), dtype=torch.float64, device=image.device)
        for value in (0.0, 1.0):
            for part in torch.split(torch.arange(len(places)), CHUNK):
                painted = torch.where(places[part][:, None], value, image)
                rows = torch.full((len(part),), row, device=image.device)
                change = (explained.scores(painted, rows, "logit") - own[row]).abs()
                largest[part] = torch.maximum(largest[part], change)
        moved.append(largest)
    return torch.stack(moved) if moved else torch.zeros(0, len(places), dtype=torch.float64)


def _matters(values: Tensor, eps: float) -> Tensor:
    return values > eps * values.amax(1, keepdim=True)
