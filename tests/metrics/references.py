"""What other packages make of the same maps: one entry for each pair of a metric and an implementation.

`docs/make_metric_table.py` shows them, `test_references` holds each to its tolerance, and `test_every_metric` wants an
entry, or a reason in `WITHOUT_REFERENCE`, for every metric of maps. To add one, append a `Reference`: its `cases` give
what both sides are called with, so that a metric that asks the network brings its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xaibench import registry
from xaibench.metrics import _ops

Array = np.ndarray
Cases = Mapping[str, Any]
"""Name of a case ("random", "real") to what `ours` and `theirs` take."""


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
def phantom_cases(images: int = 24) -> Cases:
    """Add maps that explainers drew: of the shipped GCM checkpoint on the phantom's first test images, in their frame.

    Bilinear maps have plateaus at their borders, whose values differ in the last bit.
    """
    return _drawn_cases("phantom", None, images)


def sample_cases(folder: Path, images: int = 24) -> Cases:
    """Return such maps of real radiographs: of GCM, trained on the sample in `folder`, on its first boxed images."""
    return {f"{name}, real": case for name, case in _drawn_cases("chestxray8-sample", folder, images).items()}


def _drawn_cases(benchmark_name: str, data_root: Path | None, images: int) -> Cases:
    from xaibench.benchmark import load_benchmark
    from xaibench.harness.setup import load_splits, make_classifier, make_explainers, obtain_weights

    benchmark = load_benchmark(benchmark_name)
    splits, spec = load_splits(benchmark, data_root), benchmark.classifier("gcm")
    model = make_classifier("gcm", spec, benchmark)
    obtain_weights("gcm", model, spec, benchmark, splits)
    model.optimized()
    samples = [splits.test[row] for row in range(len(splits.test)) if splits.test.regions(row)][:images]
    pictures = torch.from_numpy(np.stack([np.broadcast_to(s.image, (3, *s.image.shape[1:])) for s in samples]))
    targets = torch.tensor([min(sample.regions) for sample in samples])
    masks = np.stack([s.regions[int(t)].rasterize(benchmark.frame) for s, t in zip(samples, targets, strict=True)])
    asked, _, _ = make_explainers(["ccm", "gradcam"], [], model, splits)
    with torch.no_grad():
        prediction = model.predict(pictures, tuple(sample.id for sample in samples))
        drawn = {n: e.explain(model, prediction, targets).detach().double() for n, e in asked.items()}
    return {name: (maps, torch.from_numpy(masks)) for name, maps in drawn.items()}


@dataclass(frozen=True)
class Reference:
    """Another implementation of a metric.

    Args:
        metric: our registered name.
        source: the package and what is called in it.
        theirs: from a case to their scores.
        ours: from a case to ours; None: the metric itself on (maps, masks).
        tolerance: of the largest difference, where the definitions are equal.
        remark: where they are not, or hold only in part: what differs.
        cases: what both are called with.
    """

    metric: str
    source: str
    theirs: Callable[[Any], Array]
    ours: Callable[[Any], Array] | None = None
    tolerance: float = 1e-6
    remark: str = ""
    cases: Callable[[], Cases] = map_cases

    def pair(self, case: Any) -> tuple[Array, Array]:
        """Return our scores and theirs."""
        ours = self.ours or partial(_own, self.metric)
        return np.asarray(ours(case), dtype=np.float64), np.asarray(self.theirs(case), dtype=np.float64)


def _own(name: str, case: tuple[Tensor, Tensor], **parameters: Any) -> Array:
    metric = registry.get("metrics", name).load()
    scores = metric(*case, **parameters)
    if metric.pool is None:
        return scores.numpy()
    means = scores.numpy().mean(0, keepdims=True)
    return metric.pool.scores(means, **{**metric.parameters, **parameters})[0].ravel()


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


def each(compute: Callable[[Array, Array], float]) -> Callable[[tuple[Tensor, Tensor]], Array]:
    """Return a function that scores the images of a case one by one, as arrays (H, W)."""
    return lambda case: np.array([compute(m.double().numpy(), g.numpy()) for m, g in zip(*case, strict=True)])


def _scikit_learn(name: str) -> Callable[[Array, Array], float]:
    def score(map_: Array, mask: Array) -> float:
        import sklearn.metrics

        return float(getattr(sklearn.metrics, name)(mask.ravel(), map_.ravel()))

    return score


def _grey(map_: Array) -> Array:
    return (255 * (map_ - map_.min()) / (map_.max() - map_.min())).astype(np.uint8)


def _jaccard(segment: Array, mask: Array) -> float:
    from torchmetrics.functional.classification import binary_jaccard_index

    return float(binary_jaccard_index(torch.from_numpy(segment).int(), torch.from_numpy(mask).int()))


def _otsu(map_: Array, mask: Array) -> float:
    from scipy.ndimage import binary_fill_holes
    from skimage.filters import threshold_otsu

    grey = _grey(map_)
    return _jaccard(binary_fill_holes(grey > threshold_otsu(grey)), mask)


def _pooled_ap(case: tuple[Tensor, Tensor]) -> Array:
    from sklearn.metrics import average_precision_score

    maps, masks = case
    return np.array([average_precision_score(masks.flatten(), _ops.grey_levels(maps).flatten())])


def _best_jaccard(case: tuple[Tensor, Tensor]) -> Array:
    def at(threshold: float) -> Callable[[tuple[Tensor, Tensor]], Array]:
        return each(lambda m, g: _jaccard(_grey(m) > int(255 * threshold), g))

    return np.array([at(threshold)(case).mean() for threshold in (0.2, 0.5, 0.8)])


def _visible(map_: Array, mask: Array) -> float:
    from torchmetrics.functional.classification import binary_recall

    shown = torch.from_numpy(np.clip(map_, 0, None) / map_.max())
    return float(binary_recall((shown > 0.5).int(), torch.from_numpy(mask).int()))


def _near_peak(map_: Array, mask: Array) -> float:
    from scipy.spatial.distance import cdist

    peak = np.argwhere(map_ == map_.max())
    return float(cdist(peak, np.argwhere(mask)).min() < 15 * map_.shape[1] / 224)


def _own_column(name: str, **parameters: Any) -> Callable[[Any], Array]:
    return lambda case: _own(name, case, **parameters).ravel()


REFERENCES: list[Reference] = [
    Reference("hit_rate", "Quantus PointingGame", quantus("PointingGame")),
    Reference("pointing_game", "SciPy cdist, as TorchRay's PointingGame", each(_near_peak)),
    Reference("energy", "Quantus RelevanceMassAccuracy", quantus("RelevanceMassAccuracy", rectify=True)),
    Reference("relevance_rank_accuracy", "Quantus RelevanceRankAccuracy", quantus("RelevanceRankAccuracy")),
    Reference("top_k_intersection", "Quantus TopKIntersection", quantus("TopKIntersection")),
    Reference("pixel_auc", "Quantus AUC", quantus("AUC")),
    Reference("pixel_auc", "scikit-learn roc_auc_score", each(_scikit_learn("roc_auc_score"))),
    Reference("pixel_ap", "scikit-learn average_precision_score", each(_scikit_learn("average_precision_score"))),
    Reference(
        "attribution_localisation",
        "Quantus AttributionLocalisation",
        quantus("AttributionLocalisation", positive_attributions=True),
    ),
    Reference("iou_otsu", "scikit-image threshold_otsu, SciPy binary_fill_holes, torchmetrics Jaccard", each(_otsu)),
    Reference("iou_fixed", "torchmetrics binary_jaccard_index", each(lambda m, g: _jaccard(_grey(m) > 127, g))),
    Reference(
        "iou_best",
        "torchmetrics binary_jaccard_index",
        _best_jaccard,
        _own_column("iou_best", thresholds=(0.2, 0.5, 0.8)),
    ),
    Reference("pxap", "scikit-learn average_precision_score, all pixels", _pooled_ap),
    Reference(
        "visible_in_box",
        "torchmetrics binary_recall",
        each(_visible),
        _own_column("visible_in_box", thresholds=(0.5,)),
    ),
    # Quantus adds 1e-7 to every value, which shows in small maps; the index does not depend on the scale
    Reference("sparseness", "Quantus Sparseness", quantus("Sparseness", absolute=True, scale=1e3)),
    Reference("complexity", "Quantus Complexity", quantus("Complexity", absolute=True)),
    Reference(
        "effective_complexity",
        "Quantus EffectiveComplexity",
        quantus("EffectiveComplexity", absolute=True, scale=1.0),
    ),
]

WITHOUT_REFERENCE = {
    "attribution_localisation_weighted": "Quantus 0.6.0's divides by the wrong axis: worked case in test_ranking",
    "map_area": "visible_in_box with the whole image as mask",
    "lung_coverage": "visible_in_box with the lung fields as mask",
    "t_iou": "the paper released no code: worked cases, and boxes against scikit-image and torchvision, in test_boxes",
    "t_iobb": "as t_iou",
    "t_iou_false_positives": "as t_iou",
    "t_iobb_false_positives": "as t_iou",
    "box_iou": "wsolevaluation is no package: its box by OpenCV, in test_boxes",
    "max_box_acc": "wsolevaluation is no package: against box_iou in test_pooled, whose box is OpenCV's",
    "max_box_acc_v2": "as max_box_acc",
}
"""Why a metric has no entry above, and what stands in."""

_POOR = "nothing with this definition; "
_BY_SUMS = "same pixels hidden, test_faithfulness"
_NEIGHBOURS = "same neighbours, test_robustness"

ASKING = {
    "average_drop": "pytorch-grad-cam DropInConfidence: test_faithfulness",
    "average_increase": "pytorch-grad-cam IncreaseInConfidence: test_faithfulness",
    "average_gain": f"{_POOR}worked by hand in test_faithfulness",
    "deletion": "a plain loop, one image at a time: test_faithfulness",
    "insertion": "a plain loop, one image at a time: test_faithfulness",
    "irof": "Quantus IROF, less its first point: same superpixels, test_faithfulness",
    "monotonicity": "Quantus Monotonicity says yes to any map (test_faithfulness); worked by hand",
    "region_perturbation": "Quantus RegionPerturbation: same squares, test_faithfulness",
    "road_morf": "pytorch-grad-cam's imputer, and its ROAD where its percentiles hold: test_faithfulness",
    "road_lerf": "as road_morf",
    "sufficiency": f"{_POOR}worked by hand in test_faithfulness",
    "infidelity": f"captum infidelity(normalize=True), over its value for an empty map: {_BY_SUMS}",
    "faithfulness_correlation": f"Quantus FaithfulnessCorrelation: {_BY_SUMS}",
    "faithfulness_estimate": "Quantus FaithfulnessEstimate on single pixels: test_faithfulness",
    "sensitivity_n": f"{_POOR}worked by hand in test_faithfulness",
    "monotonicity_correlation": f"{_POOR}worked by hand in test_faithfulness",
    "max_sensitivity": f"captum sensitivity_max and Quantus MaxSensitivity: {_NEIGHBOURS}",
    "avg_sensitivity": f"Quantus AvgSensitivity: {_NEIGHBOURS}",
    "local_lipschitz": f"Quantus LocalLipschitzEstimate: {_NEIGHBOURS}",
    "relative_input_stability": f"Quantus RelativeInputStability where no neighbour's class changes: {_NEIGHBOURS}",
    "relative_output_stability": f"Quantus RelativeOutputStability, likewise: {_NEIGHBOURS}",
    "relative_representation_stability": f"Quantus RelativeRepresentationStability, likewise: {_NEIGHBOURS}",
    "consistency": "Quantus Consistency, given its labels: test_robustness",
    "mprt": "similarities as SciPy's, scikit-image's and Quantus's; Quantus's mean takes in the map itself: "
    "test_randomization",
    "mprt_independent": "as mprt",
    "smooth_mprt": "a plain loop, with similarities as mprt: test_randomization",
    "efficient_mprt": "Quantus discrete_entropy of the same two maps: test_randomization",
    "random_logit": "Quantus RandomLogit with two classes: test_randomization",
    "class_sensitivity": "equals random_logit with two classes: test_randomization",
    "completeness": "methods that promise it; Quantus Completeness asks floats to be equal: test_axioms",
    "input_invariance": "methods that promise it; Quantus spoils the padded border: test_axioms",
    "non_sensitivity": "Quantus NonSensitivity on single pixels, with a black one in each image: test_axioms",
}
"""What a metric that asks the network is held to, to 1e-6 where another package is named, and where."""
