"""On the phantom, with the shipped checkpoint: the true mask beats the explainers, and they beat noise."""

from __future__ import annotations

import pytest
import torch

from tests.metrics.references.base import Cases, draw
from tests.metrics.references.maps import drawn_maps
from xaibench import registry
from xaibench.metrics import Metric, pixel_rows

# a map that shows nothing is best by its area alone, and lungs are no lesions: no order by localization
LOCALIZATION = [
    metric
    for name in registry.list_metrics()
    if (entry := registry.get("metrics", name)).is_builtin
    and (metric := entry.load()).category == "localization"
    and name not in ("map_area", "visible_outside", "lung_coverage")
]
IMAGES = 12
NOISE_DOES_AS_WELL = {
    "t_iobb": "a single pixel of noise inside the region is a detection",
    "visible_in_box": "a recall: noise shows more of the region, and of all else, than a map that points",
}
"""Metrics that a map of noise may win against an explainer, by what they ask."""


def value(metric: Metric, maps: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Mean over the images; of a curve, of each column; of a pooled metric, the best over the thresholds."""
    options = {"thresholds": (0.1, 0.3, 0.5, 0.7)} if metric.pool and metric.pool.thresholds else {}
    if metric.pool and metric.pool.pixels:
        return torch.tensor([metric.pool.pixels.exact(pixel_rows(maps, masks))], dtype=torch.float64)
    means = metric(maps, masks, **options).reshape(len(maps), -1).nanmean(0)
    if metric.pool is None:
        return means
    scores = metric.pool.scores(means[None].numpy(), **{**metric.parameters, **options})
    return torch.from_numpy(scores.max(-1).mean(-1))


@pytest.fixture(scope="module")
def drawn() -> Cases:
    return drawn_maps(draw("phantom", images=IMAGES))


@pytest.mark.slow
@pytest.mark.parametrize("metric", LOCALIZATION, ids=lambda metric: metric.name)
def test_mask_above_explainers_above_noise(metric: Metric, drawn: Cases) -> None:
    noise = torch.rand(IMAGES, 128, 128, generator=torch.Generator().manual_seed(0))
    sign = 1 if metric.direction == "higher" else -1
    for maps, masks in drawn.values():
        best, explainer, worst = (sign * value(metric, m, masks) for m in (masks.double(), maps, noise.double()))
        assert (best >= explainer).all()
        if metric.name not in NOISE_DOES_AS_WELL:
            assert explainer.mean() > worst.mean()
        if metric.name != "t_iobb":
            assert best.mean() > worst.mean()
