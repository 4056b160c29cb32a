"""How often 95% intervals cover the truth: simulated studies whose patients have several images each.

    python benchmarks/coverage.py [--studies 2000] [--image-studies 2000] [--seed 0]

A study has 200 patients with one to six images, two on average; those of a patient share much of the variation. Three
statistics whose truth is known exactly: a mean score, a hit rate, a ROC-AUC. Each gets the interval by the patient
bootstrap (percentile and BCa) and, for the AUC, DeLong's with patient names; beside them what ignores the patients: the
bootstrap of images, DeLong's interval without the names. Exits with 1 where a patient interval covers in less than
93.5% or more than 96.5% of the studies: three standard errors of 2,000 of them. Two and a half minutes of one core.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections import defaultdict
from collections.abc import Iterator

import numpy as np
from scipy.stats import norm

from xaibench.statistics import Interval, Resampling, auc_intervals, delong, mean_intervals

PATIENTS, MOST_IMAGES, RESAMPLES = 200, 6, 1000
SHIFT, SHARED = 1.0, 0.8
LEVEL = (0.8, 1.2)
"""Beta distribution of a patient's level: mean 0.4; a third of the variance of hits lies between patients."""
CONCENTRATION = 12.0
"""Of an image's score around its patient's level: 87% of the variance lies between patients."""
TRUTH = {"mean score": 0.4, "hit rate": 0.4, "ROC-AUC": float(norm.cdf(SHIFT / math.sqrt(2)))}
NOMINAL, TOLERANCE = 0.95, 0.015

Key = tuple[str, str, str]
"""Statistic, unit ("patient" or "image"), method."""


def simulate(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return one study: each image's patient (N,), its [score, hit] (N, 2), its classifier score (N,), its label (N,).

    A patient's number of images does not depend on its level, so that means over images have the truth as their limit.
    """
    sizes = np.minimum(rng.geometric(0.5, PATIENTS), MOST_IMAGES)
    patient = np.repeat(np.arange(PATIENTS), sizes)
    level = rng.beta(*LEVEL, PATIENTS)[patient]
    score = rng.beta(CONCENTRATION * level, CONCENTRATION * (1 - level))
    hit = rng.random(len(patient)) < level
    label = (patient + (rng.random(len(patient)) < 0.1)) % 2  # most of a patient's images have one label
    latent = math.sqrt(SHARED) * rng.normal(size=PATIENTS)[patient]
    latent += math.sqrt(1 - SHARED) * rng.normal(size=len(patient)) + SHIFT * label
    return patient, np.column_stack([score, hit]), latent, label


def intervals(number: int, seed: int, image: bool) -> Iterator[tuple[Key, Interval]]:
    """Yield every interval of study `number`; those that take images for patients only if asked."""
    patient, scores, latent, label = simulate(np.random.default_rng([seed, number]))
    units = {"patient": [f"{n:03d}" for n in patient]}
    if image:
        units["image"] = [f"{n:04d}" for n in range(len(patient))]
    for unit, names in units.items():
        drawn = Resampling(names, resamples=RESAMPLES, seed=number)
        for method in ("percentile", "bca") if unit == "patient" else ("percentile",):
            means = mean_intervals(scores, names, resampling=drawn, method=method).columns
            area = auc_intervals(latent[:, None], label[:, None], names, resampling=drawn, method=method).macro
            yield from (((name, unit, method), found) for name, found in zip(TRUTH, (*means, area), strict=True))
        yield ("ROC-AUC", unit, "delong"), delong(latent, label, names).interval()


def coverage(studies: int, image_studies: int, seed: int = 0) -> dict[Key, tuple[float, float, int]]:
    """Return, for each kind of interval, the share that covers the truth, the mean width, and the number of studies."""
    found: dict[Key, list[tuple[bool, float]]] = defaultdict(list)
    for number in range(studies):
        for key, interval in intervals(number, seed, image=number < image_studies):
            covers = interval.low <= TRUTH[key[0]] <= interval.high
            found[key].append((covers, interval.high - interval.low))
    return {key: (*np.mean(rows, axis=0).tolist(), len(rows)) for key, rows in found.items()}


def main() -> int:
    """Print the table; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--studies", type=int, default=2000, help="simulated studies")
    parser.add_argument("--image-studies", type=int, default=2000, help="of these, with intervals that ignore patients")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    began, failed = time.perf_counter(), []
    result = coverage(given.studies, given.image_studies, given.seed)
    print(f"{'statistic':<12}{'unit':<9}{'method':<12}{'coverage':>9}  {'error':>6}  {'width':>6}  {'studies':>7}")
    for (statistic, unit, method), (share, width, n) in sorted(
        result.items(), key=lambda row: (row[0][1], row[0])[::-1]
    ):
        error = math.sqrt(NOMINAL * (1 - NOMINAL) / n)
        print(f"{statistic:<12}{unit:<9}{method:<12}{share:>9.1%}  {error:>6.2%}  {width:>6.3f}  {n:>7}")
        if unit == "patient" and abs(share - NOMINAL) > TOLERANCE:
            failed.append(f"{statistic}, {method}")
    print(f"{time.perf_counter() - began:.0f} s")
    if failed:
        print(f"not within {TOLERANCE:.1%} of {NOMINAL:.0%}: {'; '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
