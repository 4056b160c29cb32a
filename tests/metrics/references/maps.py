"""Implementations of metrics that ask for maps and masks alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.metrics.references.base import Array, Cases, Drawn, Kind, Reference, own_scores


@cache
def map_cases() -> Cases:
    """Maps (B, H, W) float64 without ties and masks: smooth noise, and CAM and GCM maps of drawn radiographs."""
    generator = torch.Generator().manual_seed(5)
    coarse = torch.randn(40, 1, 7, 7, generator=generator)
    maps = torch.nn.functional.interpolate(coarse, (64, 64), mode="bilinear", align_corners=False)[:, 0].double()
    maps += 1e-3 * torch.randn(maps.shape, generator=generator)
    masks = torch.zeros(40, 64, 64, dtype=torch.bool)
    for mask in masks:
        y, x, h, w = (int(torch.randint(1, 32, (1,), generator=generator)) for _ in range(4))
        mask[y : y + h, x : x + w] = True
    return {"random": (maps, masks)}


@cache
def drawn_maps(drawn: Drawn) -> Cases:
    """Return the maps with the masks. Bilinear ones have plateaus at their borders, with values a last bit apart."""
    given = (drawn.classifier, drawn.prediction, drawn.targets)
    return {
        f"{name}{drawn.suffix}": (explainer.explain(*given).detach().double(), drawn.masks)
        for name, explainer in drawn.explainers.items()
    }


OF_MAPS = Kind(map_cases, drawn_maps)


def quantus(name: str, *, rectify: bool = False, absolute: bool = False, scale: float = 0.0, **options: Any) -> Any:
    """Return a function from a case to the scores of Quantus's metric; it gets float64 and no normalisation.

    `rectify` and `absolute` say what of the map it gets; `scale` is the largest absolute value, 0 for the map as it is.
    """

    def scores(case: tuple[Tensor, Tensor]) -> Array:
        import quantus as package

        maps, masks = case
        maps = maps.clamp(min=0) if rectify else maps.abs() if absolute else maps
        maps = maps * (scale / maps.abs().amax((-2, -1), keepdim=True)) if scale else maps
        metric = getattr(package, name)(normalise=False, disable_warnings=True, **options)
        values, segments = maps.double().numpy()[:, None].copy(), masks.numpy()[:, None]
        with_masks = {} if absolute else {"s_batch": segments}
        return np.asarray(metric.evaluate_batch(a_batch=values, x_batch=values.copy(), **with_masks), dtype=float)

    return scores


def each(compute: Callable[[Array, Array], Any]) -> Callable[[tuple[Tensor, Tensor]], Array]:
    """Return a function that scores the images of a case one by one, as arrays (H, W)."""
    return lambda case: np.array([compute(m.double().numpy(), g.numpy()) for m, g in zip(*case, strict=True)])


def _scikit_learn(name: str) -> Callable[[Array, Array], float]:
    def score(map_: Array, mask: Array) -> float:
        import sklearn.metrics

        return float(getattr(sklearn.metrics, name)(mask.ravel(), map_.ravel()))

    return score


def scaled(map_: Array) -> Array:
    return (map_ - map_.min()) / (map_.max() - map_.min())


def eight_bits(map_: Array) -> Array:
    """Return what OpenCV is given where the definition is of 8 bits."""
    return (255 * scaled(map_)).astype(np.uint8)


def _jaccard(segment: Array, mask: Array) -> float:
    from torchmetrics.functional.classification import binary_jaccard_index

    return float(binary_jaccard_index(torch.from_numpy(segment).int(), torch.from_numpy(mask).int()))


def _otsu(map_: Array, mask: Array) -> float:
    from scipy.ndimage import binary_fill_holes
    from skimage.filters import threshold_otsu

    grey = eight_bits(map_)
    return _jaccard(binary_fill_holes(grey > threshold_otsu(grey)), mask)


def _pooled_ap(case: tuple[Tensor, Tensor]) -> Array:
    from sklearn.metrics import average_precision_score

    maps, masks = case
    values = np.concatenate([scaled(map_.double().numpy()).ravel() for map_ in maps])
    return np.array([average_precision_score(masks.flatten(), values)])


def _best_jaccard(case: tuple[Tensor, Tensor]) -> Array:
    def at(threshold: float) -> Callable[[tuple[Tensor, Tensor]], Array]:
        return each(lambda m, g: _jaccard(scaled(m) > threshold, g))

    return np.array([at(threshold)(case).mean() for threshold in (0.2, 0.5, 0.8)])


def _visible(map_: Array, mask: Array) -> float:
    from torchmetrics.functional.classification import binary_recall

    shown = torch.from_numpy(np.clip(map_, 0, None) / map_.max())
    return float(binary_recall((shown > 0.5).int(), torch.from_numpy(mask).int()))


def _near_peak(map_: Array, mask: Array) -> float:
    from scipy.spatial.distance import cdist

    peak = np.argwhere(map_ == map_.max())
    return float(cdist(peak, np.argwhere(mask)).min() < 15 * map_.shape[1] / 224)


of_maps = partial(Reference, kind=OF_MAPS)

MAPS: list[Reference] = [
    of_maps("hit_rate", "Quantus PointingGame", quantus("PointingGame")),
    of_maps("pointing_game", "SciPy cdist, as TorchRay's PointingGame", each(_near_peak)),
    of_maps("energy", "Quantus RelevanceMassAccuracy", quantus("RelevanceMassAccuracy", rectify=True)),
    of_maps("relevance_rank_accuracy", "Quantus RelevanceRankAccuracy", quantus("RelevanceRankAccuracy")),
    of_maps("top_k_intersection", "Quantus TopKIntersection", quantus("TopKIntersection")),
    of_maps("pixel_auc", "Quantus AUC", quantus("AUC")),
    of_maps("pixel_auc", "scikit-learn roc_auc_score", each(_scikit_learn("roc_auc_score"))),
    of_maps("pixel_ap", "scikit-learn average_precision_score", each(_scikit_learn("average_precision_score"))),
    of_maps(
        "attribution_localisation",
        "Quantus AttributionLocalisation",
        quantus("AttributionLocalisation", positive_attributions=True),
    ),
    of_maps("iou_otsu", "scikit-image threshold_otsu, SciPy binary_fill_holes, torchmetrics Jaccard", each(_otsu)),
    of_maps("iou_fixed", "torchmetrics binary_jaccard_index", each(lambda m, g: _jaccard(scaled(m) > 0.5, g))),
    of_maps(
        "iou_best",
        "torchmetrics binary_jaccard_index",
        _best_jaccard,
        own_scores("iou_best", thresholds=(0.2, 0.5, 0.8)),
    ),
    of_maps("pxap", "scikit-learn average_precision_score, all pixels", _pooled_ap),
    of_maps(
        "visible_in_box",
        "torchmetrics binary_recall",
        each(_visible),
        own_scores("visible_in_box", thresholds=(0.5,)),
    ),
    # Quantus adds 1e-7 to every value, which shows in small maps; the index does not depend on the scale
    of_maps("sparseness", "Quantus Sparseness", quantus("Sparseness", absolute=True, scale=1e3)),
    of_maps("complexity", "Quantus Complexity", quantus("Complexity", absolute=True)),
    of_maps(
        "effective_complexity",
        "Quantus EffectiveComplexity",
        quantus("EffectiveComplexity", absolute=True, scale=1.0),
    ),
]
