"""A metric beside another implementation of it, and what both are called with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from xaibench import registry
from xaibench.classifiers.base import Classifier
from xaibench.explainers.base import Explainer
from xaibench.metrics import pixel_rows
from xaibench.types import Prediction

Array = np.ndarray
Cases = Mapping[str, Any]
"""Name of a case ("random", "ccm, real") to what both sides take: maps and masks, or an `Explained`."""


@dataclass(frozen=True, eq=False)
class Drawn:
    """Radiographs and what explains them.

    Args:
        classifier: in eval mode.
        explainers: by name.
        prediction: of the B images.
        targets: (B,) int64.
        masks: (B, H, W) bool, of the explained class.
        suffix: what the name of a case ends in.
    """

    classifier: Classifier
    explainers: Mapping[str, Explainer]
    prediction: Prediction
    targets: Tensor
    masks: Tensor
    suffix: str = ""


def draw(benchmark_name: str, data_root: Path | None = None, images: int = 24) -> Drawn:
    """Let GCM (CCM) and Grad-CAM explain a benchmark's first test images with regions, in their frame.

    GCM is the shipped checkpoint where there is one, else it is trained.
    """
    from xaibench.benchmark import load_benchmark
    from xaibench.evaluation.setup import load_splits, make_classifier, make_explainers, obtain_weights

    benchmark = load_benchmark(benchmark_name)
    splits, spec = load_splits(benchmark, data_root), benchmark.classifier("gcm")
    model = make_classifier("gcm", spec, benchmark)
    obtain_weights("gcm", model, spec, benchmark, splits)
    model.optimized()
    samples = [splits.test[row] for row in range(len(splits.test)) if splits.test.regions(row)][:images]
    pictures = torch.from_numpy(np.stack([np.broadcast_to(s.image, (3, *s.image.shape[1:])) for s in samples]))
    targets = torch.tensor([min(sample.regions) for sample in samples])
    masks = np.stack([s.regions[int(t)].rasterize(benchmark.frame) for s, t in zip(samples, targets, strict=True)])
    explainers, _, _ = make_explainers(["ccm", "gradcam"], [], model, splits)
    with torch.no_grad():
        prediction = model.predict(pictures, tuple(sample.id for sample in samples))
    suffix = ", real" if data_root else ""
    return Drawn(model, explainers, prediction, targets, torch.from_numpy(masks), suffix)


@dataclass(frozen=True)
class Kind:
    """What metrics of one kind are called with.

    Args:
        own: cases that cost little, for tests.
        drawn: cases of what explainers draw of radiographs.
    """

    own: Callable[[], Cases]
    drawn: Callable[[Drawn], Cases]


@dataclass(frozen=True)
class Reference:
    """Another implementation of a metric.

    Args:
        metric: our registered name.
        source: the package and what is called in it.
        theirs: from a case to their scores.
        ours: from a case to ours; None: the metric itself.
        kind: what both are called with.
        tolerance: of the largest difference, where the definitions are equal.
        relative: the difference is taken over their score, which has no bound.
        gaps: some maps have no score: none; the same maps on both sides; or maps of theirs, of which nothing is asked.
        remark: where the definitions are not equal: what differs; nothing is asked.
    """

    metric: str
    source: str
    theirs: Callable[[Any], Array]
    ours: Callable[[Any], Array] | None = None
    kind: Kind = field(kw_only=True)
    tolerance: float = 1e-6
    relative: bool = False
    gaps: Literal["none", "both", "theirs"] = "none"
    remark: str = ""

    def pair(self, case: Any) -> tuple[Array, Array]:
        """Return our scores and theirs."""
        scores = self.ours(case) if self.ours else own(self.metric, case)
        return tuple(np.asarray(some, dtype=np.float64).ravel() for some in (scores, self.theirs(case)))

    def differences(self, ours: Array, theirs: Array) -> Array:
        """Return how far scores are apart, NaN where one has none."""
        apart: Array = np.abs(ours - theirs)
        return apart / np.abs(theirs) if self.relative else apart


def own(name: str, case: Any, **parameters: Any) -> Array:
    """Return our scores of a case, an `Explained` or maps and masks; of a pooled metric those of mean statistics."""
    metric = registry.get("metrics", name).load()
    if metric.pool and metric.pool.pixels:
        return np.array([metric.pool.pixels.exact(pixel_rows(*case))])
    scores = metric(*(case if isinstance(case, tuple) else (case,)), **parameters)
    if metric.pool is None:
        return scores.numpy()
    means = scores.numpy().mean(0, keepdims=True)
    return metric.pool.scores(means, **{**metric.parameters, **parameters})[0]


def own_scores(name: str, **parameters: Any) -> Callable[[Any], Array]:
    """Return a function from a case to our scores."""
    return lambda case: own(name, case, **parameters)
