"""Steps that the metrics share which explain again: on changed images, or by a changed classifier.

Predictions are kept for the other explainers of the batch, up to `KEEP` bytes; beyond, they are made again.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from xaibench.classifiers.base import Classifier
from xaibench.errors import UsageError
from xaibench.explainers.base import seed_of
from xaibench.explainers.calling import call
from xaibench.metrics import _ops
from xaibench.metrics.explained import CHUNK, Explained, require_live
from xaibench.types import Prediction

KEEP = 2**29
"""Bytes of predictions that one batch keeps."""
_USED = "bytes of kept predictions"


def predict(classifier: Classifier, images: Tensor, ids: Sequence[str]) -> Prediction:
    """Run a classifier on images (N, 3, H, W), without gradients."""
    with torch.no_grad():
        return classifier.predict(classifier.laid_out(images), ids)


def kept(explained: Explained, key: Hashable, make: Callable[[], Prediction]) -> Prediction:
    """Return what `make` gives; the batch's other explainers and metrics get the same, while there is room."""
    if key in explained.shared:
        return explained.shared[key]  # type: ignore[no-any-return]
    made = make()
    tensors = (made.images, made.logits, made.features, *made.maps.values())
    used = explained.shared.get(_USED, 0) + sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    if used <= KEEP:
        explained.shared.update({key: made, _USED: used})
    return made


def explain(explained: Explained, classifier: Classifier, prediction: Prediction, targets: Tensor) -> Tensor:
    """Return the maps (N, H, W) of the batch's explainer for a classifier and a prediction of its."""
    if not len(targets):
        return explained.maps[:0].float()
    require_live(explained.explainer)
    return call(explained.explainer, classifier, prediction, targets)


def noise(ids: Sequence[str], samples: int, size: tuple[int, int], *, kind: str) -> Tensor:
    """Return the draws (N, samples, 1, H, W), "uniform" in [-1, 1) or "normal", made of each image's id alone.

    One value for the three channels of a pixel: a grey image stays grey.
    """
    drawn = [torch.zeros(0, samples, 1, *size)]
    for name in ids:
        generator = torch.Generator().manual_seed(seed_of("noise", kind, name))
        # sample after sample, so that the first ones do not depend on how many are asked for
        one = [_draw(size, generator, kind) for _ in range(samples)]
        drawn.append(torch.stack(one)[None, :, None])
    return torch.cat(drawn)


def _draw(size: tuple[int, int], generator: torch.Generator, kind: str) -> Tensor:
    if kind == "normal":
        return torch.randn(size, generator=generator)
    return 2 * torch.rand(size, generator=generator) - 1


def neighbours(explained: Explained, samples: int, radius: float) -> Iterator[tuple[Tensor, Prediction]]:
    """Yield rows (N,) and the prediction of N perturbed images, all neighbours of an image after one another.

    A neighbour is drawn uniformly from the largest-change ball of that radius, as far as it holds images: one draw for
    each pixel, and what leaves [0, 1] is cut off.

    Raises:
        UsageError: no whole number of samples, or a radius outside (0, 1].
    """
    count("samples", samples)
    if not 0 < radius <= 1:
        raise UsageError(f"radius = {radius}; it is a change of brightness, above 0 and at most 1")
    images, ids = explained.prediction.images, explained.prediction.ids
    for part in torch.split(torch.arange(len(ids)), max(1, CHUNK // samples)):
        names = [ids[row] for row in part.tolist()]

        def make(part: Tensor = part, names: list[str] = names) -> Prediction:
            draws = noise(names, samples, (images.shape[-2], images.shape[-1]), kind="uniform").to(images)
            moved = (images[part.to(images.device)][:, None] + radius * draws).clamp(0, 1)
            return explained.predict(moved.flatten(0, 1), [name for name in names for _ in range(samples)])

        prediction = kept(explained, ("neighbours", samples, radius, tuple(names)), make)
        yield part.repeat_interleave(samples).to(images.device), prediction


def decisions(explained: Explained, logits: Tensor, rows: Tensor) -> Tensor:
    """Return (N,) int64: the predicted class of logits (N, K); multi-label: 1 where the explained class is present."""
    if explained.task == "multilabel":
        return (logits.gather(1, explained.targets[rows][:, None])[:, 0] > 0).long()
    return logits.argmax(1)


@dataclass
class Changes:
    """How far maps, images, logits and features moved from each image to each of its neighbours, (P, S) float64.

    Attributes:
        maps: Euclidean norm of the change of the map.
        shares: the same over the norm of the image's map.
        scaled: the same of maps over their own largest absolute value.
        relative: norm of the change over the map's value, pixel by pixel.
        images, relative_images: of the images.
        logits: of the logits.
        relative_features: of the explained layer.
        same_decision, same_cell: bool, the prediction stays, and where the map is strongest on a coarse grid.
        undefined: (P,) bool, the image's own map is constant or not finite.
    """

    maps: Tensor
    shares: Tensor
    scaled: Tensor
    relative: Tensor
    images: Tensor
    relative_images: Tensor
    logits: Tensor
    relative_features: Tensor
    same_decision: Tensor
    same_cell: Tensor
    undefined: Tensor
    owner: object = field(repr=False)

    def largest(self, values: Tensor, among: Tensor | None = None) -> Tensor:
        """Return (P,): the largest of values (P, S), of those `among` (P, S); NaN where undefined or none is among."""
        if among is not None:
            values = values.masked_fill(~among, -torch.inf)
        largest = values.amax(1)
        return _ops.nan_where(self.undefined | (largest == -torch.inf), largest)


def changes(explained: Explained, *, samples: int, radius: float, eps: float = 1e-6, grid: int = 4) -> Changes:
    """Explain the neighbours of each image and measure, once for each explainer of a batch, how far things moved.

    Args:
        samples, radius: see `neighbours`.
        eps: of the largest value, stands in for one of exactly 0 that something is divided by.
        grid: cells along each side, for `Changes.same_cell`.
    """
    key = ("changes", id(explained.explainer), id(explained.maps), samples, radius, eps, grid)
    return explained.once(key, lambda: _changes(explained, samples, radius, eps, grid))


def _changes(explained: Explained, samples: int, radius: float, eps: float, grid: int) -> Changes:
    before = explained.prediction
    found: dict[str, list[Tensor]] = {}
    for rows, after in neighbours(explained, samples, radius):
        new = explain(explained, explained.classifier, after, explained.targets[rows]).double()
        old, image = explained.maps[rows].double(), before.images[rows].double()
        features = before.features[rows].double()
        measured = {
            "maps": norm(new - old),
            "shares": norm(new - old) / norm(old),
            "scaled": norm(scaled(new) - scaled(old)),
            "relative": norm(relative(new, old, eps)),
            "images": norm(after.images.double() - image),
            "relative_images": norm(relative(after.images.double(), image, eps)),
            "logits": norm(after.logits.double() - before.logits[rows].double()),
            "relative_features": norm(relative(after.features.double(), features, eps)),
            "same_decision": decisions(explained, after.logits, rows)
            == decisions(explained, before.logits[rows], rows),
            "same_cell": (_cell(new, grid) == _cell(old, grid)) & ~_ops.undefined(new),
        }
        for name, values in measured.items():
            found.setdefault(name, []).append(values.reshape(len(values) // samples, samples))
    together = {name: torch.cat(values) for name, values in found.items()}
    owner = (explained.explainer, explained.maps)  # alive as long as the entry, so that no other takes their ids
    return Changes(**together, undefined=_ops.undefined(explained.maps), owner=owner)


def norm(values: Tensor) -> Tensor:
    """Return (N,) Euclidean norms of values (N, ...), summed in one order for any batch size."""
    squares = values.double().square()
    return _ops.total(squares.flatten(1, -2) if squares.ndim > 2 else squares[:, None]).sqrt()


def scaled(maps: Tensor) -> Tensor:
    """Return maps (N, H, W) over their own largest absolute value; a map of zeros stays one."""
    largest = maps.abs().amax((-2, -1), keepdim=True)
    return maps / largest.where(largest > 0, torch.ones_like(largest))


def relative(new: Tensor, old: Tensor, eps: float) -> Tensor:
    """Return the change of (N, ...) over the old value, where that is exactly 0 over `eps` times the largest one."""
    largest = old.abs().flatten(1).amax(1).reshape(-1, *[1] * (old.ndim - 1))
    return (new - old) / old.where(old != 0, (eps * largest).expand_as(old))


def _cell(maps: Tensor, grid: int) -> Tensor:
    """Return (N,): which cell of a grid over the map has the largest mean."""
    return F.adaptive_avg_pool2d(maps[:, None], grid).flatten(1).argmax(1)


def count(name: str, value: object, least: int = 1) -> None:
    """Raise `UsageError` unless a parameter is a whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UsageError(f"{name} = {value!r}; it is a whole number of at least {least}")
