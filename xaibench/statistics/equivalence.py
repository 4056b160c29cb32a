"""Are two numbers equal but for a margin? A test whose null hypothesis is that they are not.

That a test of a difference finds none says nothing of equality: with few patients it finds none whatever there is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy.special import ndtr, ndtri

from xaibench.errors import UsageError


@dataclass(frozen=True)
class Equivalence:
    """The outcome of `tost`.

    Args:
        difference: first minus second.
        low, high: the interval of 1 - 2 alpha: equivalent exactly where it lies within the margin.
        margin: a difference smaller than this counts as none.
        p: the larger of the two one-sided p-values; NaN where it is undefined.
        alpha: the level.
    """

    difference: float
    low: float
    high: float
    margin: float
    p: float
    alpha: float

    @property
    def equivalent(self) -> bool:
        """Whether both one-sided tests reject: the difference is smaller than the margin, at level alpha."""
        return self.p < self.alpha


def tost(difference: float, error: float, *, margin: float, alpha: float = 0.05) -> Equivalence:
    """Test whether a difference that is normally distributed lies within -margin and margin, by two one-sided tests
    (Schuirmann, Journal of Pharmacokinetics and Biopharmaceutics 15:657, 1987).

    Args:
        difference: its estimate.
        error: its standard error. 0: p is 0 for a difference of 0, else undefined, as for DeLong's test.
        margin: above 0.
        alpha: of each one-sided test, and of both together.

    Raises:
        UsageError: a margin, a level or an error out of range.

    >>> found = tost(0.01, 0.01, margin=0.03)
    >>> f"p = {found.p:.4f}, {found.low:.4f} to {found.high:.4f}, {found.equivalent}"
    'p = 0.0228, -0.0064 to 0.0264, True'
    """
    if not margin > 0 or not 0 < alpha < 0.5:
        raise UsageError(f"tost needs margin > 0 and 0 < alpha < 0.5, got {margin} and {alpha}")
    if error < 0:
        raise UsageError(f"a standard error is at least 0, got {error}")
    if not math.isfinite(difference + error):
        return Equivalence(difference, -math.inf, math.inf, margin, math.nan, alpha)
    if error == 0:
        return Equivalence(difference, difference, difference, margin, 0.0 if difference == 0 else math.nan, alpha)
    p = float(ndtr((abs(difference) - margin) / error))  # the side that is nearer
    half = float(ndtri(1 - alpha)) * error
    return Equivalence(difference, difference - half, difference + half, margin, p, alpha)
