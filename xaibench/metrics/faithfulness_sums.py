"""Faithfulness by sums: does what the map gives a part of the image say what the score loses without that part?

Parts are square cells, `cells` a side, as single pixels of a radiograph move nothing; with `cells` the image's side
they are pixels. Sets of cells are drawn from the image's id and hidden once a batch: the scores serve every explainer.
See `faithfulness` for what all these metrics have in common; `output` is the logit, which sums may explain.
"""

from __future__ import annotations

from collections.abc import Sequence

import captum.metrics
import torch
from torch import Tensor

from xaibench.errors import UsageError
from xaibench.metrics import _perturb
from xaibench.metrics._perturb import Baseline
from xaibench.metrics.base import metric
from xaibench.metrics.explained import Explained, Output


@metric(
    "infidelity",
    category="faithfulness",
    direction="lower",
    range=(0.0, 1.0),
    title="Infidelity (normalised)",
    reference="Yeh et al. 2019, arXiv:1901.09392",
    cells=14,
    share=0.25,
    samples=64,
    baseline="mean",
    output="logit",
)
def infidelity(
    explained: Explained,
    *,
    cells: int = 14,
    share: float = 0.25,
    samples: int = 64,
    baseline: Baseline = "mean",
    output: Output = "logit",
) -> Tensor:
    """Mean squared error of the map's sum over hidden cells, best scaled, as the score's loss; over the loss's square.

    Computed by captum, which fits the factor (normalize=True): without it a map's unit decides. Over the mean squared
    loss it is 0 for a map that says each loss and 1 for one that says nothing.
    """
    sets = _perturb.subsets(explained, cells, share, samples)
    lost = _perturb.losses(explained, cells, sets, ("subsets", share, samples), baseline, output)

    def score(shown: Tensor) -> Tensor:  # captum asks about the whole image, then about all the sets
        return torch.zeros(len(shown)).to(lost) if len(shown) == len(lost) else -lost.flatten()

    found = captum.metrics.infidelity(
        score,
        lambda shown: (sets.flatten(0, 1).double(), shown - sets.flatten(0, 1).double()),
        torch.ones(len(sets), sets.shape[2]).to(lost),
        _perturb.cell_sums(explained, cells),
        n_perturb_samples=samples,
        normalize=True,
    )
    return _perturb.defined(explained, found / lost.square().mean(1))


@metric(
    "faithfulness_correlation",
    category="faithfulness",
    direction="higher",
    range=(-1.0, 1.0),
    title="Faithfulness correlation",
    reference="Bhatt, Weller and Moura 2020, arXiv:2005.00631",
    cells=14,
    share=0.25,
    samples=64,
    baseline="mean",
    output="logit",
)
def faithfulness_correlation(
    explained: Explained,
    *,
    cells: int = 14,
    share: float = 0.25,
    samples: int = 64,
    baseline: Baseline = "mean",
    output: Output = "logit",
) -> Tensor:
    """Pearson correlation of the map's sum over random cells and what the score loses without them.

    Agrees with Quantus on the same sets of pixels. An uninformed map scores 0 on average.
    """
    sets = _perturb.subsets(explained, cells, share, samples)
    lost = _perturb.losses(explained, cells, sets, ("subsets", share, samples), baseline, output)
    return _perturb.defined(explained, _perturb.pearson(_sums(explained, cells, sets), lost))


@metric(
    "sensitivity_n",
    category="faithfulness",
    direction="higher",
    range=(-1.0, 1.0),
    title="Sensitivity-n",
    reference="Ancona et al. 2018, arXiv:1711.06104",
    cells=14,
    shares=[0.1, 0.3, 0.5, 0.7, 0.9],
    samples=24,
    baseline="mean",
    output="logit",
)
def sensitivity_n(
    explained: Explained,
    *,
    cells: int = 14,
    shares: Sequence[float] = (0.1, 0.3, 0.5, 0.7, 0.9),
    samples: int = 24,
    baseline: Baseline = "mean",
    output: Output = "logit",
) -> Tensor:
    """Mean over n of the Pearson correlation of the map's sum over n random cells and the score's loss without them.

    n is each of `shares` of the cells. Quantus draws no sets: it hides pixels in the map's order and correlates over
    the images of a batch, so that a score depends on the batch.
    """
    if not len(shares):
        raise UsageError("shares: give at least one share of the cells, such as 0.5")
    found = []
    for share in shares:
        sets = _perturb.subsets(explained, cells, share, samples)
        lost = _perturb.losses(explained, cells, sets, ("subsets", share, samples), baseline, output)
        found.append(_perturb.pearson(_sums(explained, cells, sets), lost))
    return _perturb.defined(explained, torch.stack(found).mean(0))


def _sums(explained: Explained, cells: int, sets: Tensor) -> Tensor:
    """Return the map's sum over each set, (P, S) float64."""
    return torch.where(sets, _perturb.cell_sums(explained, cells)[:, None], 0.0).sum(2)


@metric(
    "faithfulness_estimate",
    category="faithfulness",
    direction="higher",
    range=(-1.0, 1.0),
    title="Faithfulness estimate",
    reference="Alvarez-Melis and Jaakkola 2018, arXiv:1806.07538",
    cells=8,
    baseline="mean",
    output="logit",
)
def faithfulness_estimate(
    explained: Explained, *, cells: int = 8, baseline: Baseline = "mean", output: Output = "logit"
) -> Tensor:
    """Pearson correlation of the map's sum over each cell and what the score loses without that cell alone.

    Agrees with Quantus on single pixels (features_in_step = 1).
    """
    lost = _perturb.losses(explained, cells, _perturb.alone(explained, cells), ("alone",), baseline, output)
    return _perturb.defined(explained, _perturb.pearson(_perturb.cell_sums(explained, cells), lost))


@metric(
    "monotonicity_correlation",
    category="faithfulness",
    direction="higher",
    range=(-1.0, 1.0),
    title="Monotonicity correlation",
    reference="Nguyen and Rodriguez Martinez 2020, arXiv:2007.07584",
    cells=8,
    levels=[0.1, 0.5, 0.9],
    output="logit",
)
def monotonicity_correlation(
    explained: Explained, *, cells: int = 8, levels: Sequence[float] = (0.1, 0.5, 0.9), output: Output = "logit"
) -> Tensor:
    """Spearman correlation of the map's absolute sum over a cell and the score's mean squared change without it.

    The paper replaces a feature at random, here a cell shows each of `levels` of brightness: the same for every map,
    and one forward pass for each cell and level. Quantus ranks signed sums unless told otherwise (abs=True).
    """
    if not len(levels) or not all(0 <= level <= 1 for level in levels):
        raise UsageError(f"levels must be brightnesses in [0, 1], got {list(levels)}")
    sets = _perturb.alone(explained, cells)
    changes = [_perturb.losses(explained, cells, sets, ("alone", level), level, output).square() for level in levels]
    sums = _perturb.cell_sums(explained, cells).abs()
    return _perturb.defined(explained, _perturb.spearman(sums, torch.stack(changes).mean(0)))
