"""Robustness metrics: does the map stay where it is while the image hardly changes?

Each image gets `samples` neighbours, drawn from its id: uniform noise of at most `radius` in brightness, one draw for a
pixel, cut off at black and white. They are predicted once for all explainers and metrics of a batch, and each explainer
explains them once for all metrics, for the class it explained; what is random in an explainer is drawn as before.
Scores are (P,) float64, NaN for a constant or non-finite map. A maximum over few samples is a lower bound of the one
over the ball. None has a chance level: a map that ignores the image is as stable as can be.

Computed here. captum (max-sensitivity) and Quantus draw neighbours of their own in each call, and so explain and
predict them again for each metric; both give these numbers on the same neighbours, but for what a docstring says.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from xaibench.errors import UsageError
from xaibench.metrics import _ops
from xaibench.metrics._rerun import changes, count
from xaibench.metrics.base import metric
from xaibench.metrics.explained import Explained

_UNBOUNDED = (0.0, math.inf)
_RELATIVE: dict[str, Any] = {
    "category": "robustness",
    "direction": "lower",
    "range": _UNBOUNDED,
    "reference": "Agarwal et al. 2022, arXiv:2203.06877",
    "samples": 10,
    "radius": 0.02,
    "eps": 1e-6,
}


@metric(
    "max_sensitivity",
    category="robustness",
    direction="lower",
    range=_UNBOUNDED,
    title="Max-sensitivity",
    reference="Yeh et al. 2019, arXiv:1901.09392, over the map's norm as in their code and in captum",
    samples=10,
    radius=0.02,
)
def max_sensitivity(explained: Explained, *, samples: int = 10, radius: float = 0.02) -> Tensor:
    """Largest change of the map among the neighbours, as a share of the map: max |A(x') - A(x)| / |A(x)|, Euclidean.

    Computed here, and held to captum, which would draw and predict other neighbours for each explainer; it divides by 1
    where the map is zero everywhere, which here is NaN. The defaults are captum's.
    """
    moved = changes(explained, samples=samples, radius=radius)
    return moved.largest(moved.shares)


@metric(
    "avg_sensitivity",
    category="robustness",
    direction="lower",
    range=_UNBOUNDED,
    title="Average sensitivity",
    reference="Yeh et al. 2019, arXiv:1901.09392; Bhatt, Weller and Moura 2020, arXiv:2005.00631",
    samples=10,
    radius=0.02,
)
def avg_sensitivity(explained: Explained, *, samples: int = 10, radius: float = 0.02) -> Tensor:
    """Mean change of the map over the neighbours, as a share of the map: see `max_sensitivity`.

    Computed here: captum has it not.
    """
    moved = changes(explained, samples=samples, radius=radius)
    return _ops.nan_where(moved.undefined, moved.shares.mean(1))


@metric(
    "local_lipschitz",
    category="robustness",
    direction="lower",
    range=_UNBOUNDED,
    title="Local Lipschitz estimate",
    reference="Alvarez-Melis and Jaakkola 2018, arXiv:1806.08049",
    samples=10,
    radius=0.02,
    normalise=True,
)
def local_lipschitz(explained: Explained, *, samples: int = 10, radius: float = 0.02, normalise: bool = True) -> Tensor:
    """Largest ratio of the map's change to the image's: max |A(x') - A(x)| / |x' - x|, Euclidean, over 3 channels.

    With `normalise`, maps are taken over their own largest absolute value, or a factor on a map would decide; without,
    it is the estimate as published. Computed here: captum has it not; Quantus adds 1e-10 to the image's change.
    """
    moved = changes(explained, samples=samples, radius=radius)
    return moved.largest((moved.scaled if normalise else moved.maps) / moved.images)


@metric("relative_input_stability", title="Relative input stability", **_RELATIVE)
def relative_input_stability(
    explained: Explained, *, samples: int = 10, radius: float = 0.02, eps: float = 1e-6
) -> Tensor:
    """Largest ratio of two relative changes, of the map and of the image.

    max |(A - A') / A| / max(|(x - x') / x|, eps), divided pixel by pixel, so that a few pixels near 0 decide. Exactly 0
    counts as `eps` times the largest value; in Quantus as `eps`, where a factor on the map decides. As published, among
    the neighbours with the image's prediction (multi-label: of the explained class), NaN where none has it. Computed
    here: Quantus gives up an image with one neighbour predicted otherwise.
    """
    moved = changes(explained, samples=samples, radius=radius, eps=_positive(eps))
    return moved.largest(moved.relative / moved.relative_images.clamp(min=eps), moved.same_decision)


@metric("relative_output_stability", title="Relative output stability", **_RELATIVE)
def relative_output_stability(
    explained: Explained, *, samples: int = 10, radius: float = 0.02, eps: float = 1e-6
) -> Tensor:
    """Largest ratio of the map's relative change to that of the logits: max |(A - A') / A| / max(|h - h'|, eps).

    All K logits; the rest as for `relative_input_stability`, computed here for the same reason.
    """
    moved = changes(explained, samples=samples, radius=radius, eps=_positive(eps))
    return moved.largest(moved.relative / moved.logits.clamp(min=eps), moved.same_decision)


@metric("relative_representation_stability", title="Relative representation stability", **_RELATIVE)
def relative_representation_stability(
    explained: Explained, *, samples: int = 10, radius: float = 0.02, eps: float = 1e-6
) -> Tensor:
    """Largest ratio of two relative changes, of the map and of the explained layer L.

    max |(A - A') / A| / max(|(L - L') / L|, eps). The paper leaves open which layer; Quantus takes all of them unless
    told. The rest as for `relative_input_stability`, computed here for the same reason.
    """
    moved = changes(explained, samples=samples, radius=radius, eps=_positive(eps))
    return moved.largest(moved.relative / moved.relative_features.clamp(min=eps), moved.same_decision)


@metric(
    "consistency",
    category="robustness",
    direction="higher",
    range=(0.0, 1.0),
    title="Consistency",
    reference="Dasgupta, Frost and Moshkovitz 2022, arXiv:2202.00734, in the image's neighbourhood",
    samples=10,
    radius=0.2,
    grid=4,
)
def consistency(explained: Explained, *, samples: int = 10, radius: float = 0.2, grid: int = 4) -> Tensor:
    """Share of the neighbours explained alike that are predicted alike: does the same map mean the same answer?

    Explained alike: of the cells of a `grid` x `grid` over the map, the same one has the largest mean. Predicted alike:
    the same class is predicted (multi-label: the explained class is, or is not, in both). NaN where no neighbour is
    explained alike. Neighbours stand in for the paper's data, as a share among the images of a batch would depend on
    its size; noise is heavier than in the other metrics, or no prediction would ever change. Computed here: Quantus
    compares the batch's images, and by default the signs of the maps' first five pixels.
    """
    count("grid", grid)
    moved = changes(explained, samples=samples, radius=radius, grid=grid)
    alike = moved.same_cell.sum(1).double()
    share = (moved.same_cell & moved.same_decision).sum(1).double() / alike
    return _ops.nan_where(moved.undefined, share)


def _positive(eps: float) -> float:
    if not (eps > 0 and math.isfinite(eps)):
        raise UsageError(f"eps = {eps}; it is above 0")
    return eps
