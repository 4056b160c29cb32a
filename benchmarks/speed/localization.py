"""Six localization metrics on the same maps of 256 px: xaibench against Quantus, one call a metric, in one run.

    python benchmarks/speed/localization.py

Both sides get one thread and the same float32 maps without ties, for which the definitions are equal, and must agree to
1e-6. They take turns, three times; prints each one's median processor time, in milliseconds an image, and the ratio.
Processor time, as what else the machine does is no part of it. Needs quantus (`pip install 'xaibench[test]'`).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import quantus
import torch
from torch import Tensor

from xaibench.io.memory import keep_freed_memory
from xaibench.metrics import Metric, localization, ranking
from xaibench.metrics._ops import sharing

IMAGES, SIZE, ROUNDS = 32, 256, 3
PAIRS: dict[str, Metric] = {
    "PointingGame": localization.hit_rate,
    "RelevanceMassAccuracy": localization.energy,
    "RelevanceRankAccuracy": ranking.relevance_rank_accuracy,
    "TopKIntersection": ranking.top_k_intersection,
    "AUC": ranking.pixel_auc,
    "AttributionLocalisation": ranking.attribution_localisation,
}


def make() -> tuple[Tensor, Tensor]:
    """Return smooth, positive maps, as CAMs are, and boxes of NIH's sizes, 3 to 20% of the image."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(IMAGES, 1, 8, 8, generator=generator)
    maps = torch.nn.functional.interpolate(coarse, (SIZE, SIZE), mode="bilinear", align_corners=False)[:, 0]
    maps += 1e-3 * torch.randn(maps.shape, generator=generator)  # no plateaus at the borders
    masks = torch.zeros(maps.shape, dtype=torch.bool)
    for mask in masks:
        height, width = (int(side) for side in torch.randint(45, 115, (2,), generator=generator))
        top, left = (int(torch.randint(SIZE - side, (1,), generator=generator)) for side in (height, width))
        mask[top : top + height, left : left + width] = True
    return maps - maps.amin((-2, -1), keepdim=True), masks


def timed(compute: Callable[[], Any]) -> tuple[Any, float]:
    """Return the result and the milliseconds an image."""
    began = time.process_time()
    scores = compute()
    return scores, (time.process_time() - began) / IMAGES * 1000


def main() -> None:
    """Time both sides in turn, compare their scores, and print the table."""
    torch.set_num_threads(1)
    keep_freed_memory()  # as `xaibench run` does; it helps both sides
    maps, masks = make()
    images, labels = np.zeros((IMAGES, 1, SIZE, SIZE), np.float32), np.zeros(IMAGES, int)
    attributions, segments = maps.numpy()[:, None], masks.numpy()[:, None]
    own: dict[str, list[float]] = {name: [] for name in PAIRS}
    other: dict[str, list[float]] = {name: [] for name in PAIRS}
    for _ in range(ROUNDS):
        scores = {}
        with sharing():  # as in every run: metrics of the same maps share one sort
            for name, metric in PAIRS.items():
                scores[name], spent = timed(partial(metric, maps, masks))
                own[name].append(spent)
        for name in PAIRS:
            peer = getattr(quantus, name)(disable_warnings=True)
            theirs, spent = timed(partial(peer, None, images, labels, a_batch=attributions, s_batch=segments))
            other[name].append(spent)
            np.testing.assert_allclose(scores[name], np.asarray(theirs, float), rtol=0, atol=1e-6, err_msg=name)
    print(f"{'metric':<28}{'xaibench':>10}{'Quantus':>10}   ms an image")
    medians = {name: (statistics.median(own[name]), statistics.median(other[name])) for name in PAIRS}
    for name, (ours, theirs) in medians.items():
        print(f"{PAIRS[name].name:<28}{ours:>10.2f}{theirs:>10.2f}")
    ours, theirs = (sum(times) for times in zip(*medians.values(), strict=True))
    print(f"{'all six':<28}{ours:>10.2f}{theirs:>10.2f}   ratio {theirs / ours:.0f}")


if __name__ == "__main__":
    main()
