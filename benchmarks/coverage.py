"""How often 95% intervals cover the truth, and how wide they are: simulated studies of 6 to 200 patients.

    python benchmarks/coverage.py [--quick] [--studies 2000] [--bootstrap-studies 500] [--seed 0] [--markdown]

Seven minutes of one core; 25 seconds with --quick. The table of docs/statistics.md is that of --markdown --seed 1.

Every distribution is listed in `means`, `AREAS` and below; their truth is known exactly. Each statistic gets the score
interval and, in fewer studies as it takes longer, the percentile bootstrap of patients; where patients have several
images, also the score interval that takes images for patients. Exits with 1 where a score interval by patient covers
in less than 93% of the studies; where the statistic is continuous and the patients are 30 or more, in more than 97%; in
both cases by more than two standard errors of the simulation (1% at 2,000 studies); or where one more misranked pair
raises an end of a ROC-AUC's interval: with one image a patient by any amount, with several by more than 0.005. Two
distributions are shown and not asked: lognormal scores, and a rare second lump, which few patients may not show at all.
"""

from __future__ import annotations

import argparse
import functools
import math
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from xaibench.statistics import (
    Interval,
    Resampling,
    auc_interval,
    auc_intervals,
    statistic_intervals,
    two_level_interval,
)
from xaibench.statistics.bootstrap import mean_intervals_of

SIZES = (6, 10, 15, 30, 60, 200)
MOST_IMAGES, RESAMPLES = 6, 500
SHARED = 0.8
"""Of the variance of a patient's images, where they have several, what lies between patients."""
LEAST, MOST, CONTINUOUS_FROM = 0.93, 0.97, 30
MISRANKED = 3.0
"""An AUC is continuous where so many patients of the smaller class are expected to be misranked: with fewer it takes
few values."""
METHODS = ("score", "percentile")
Rng = np.random.Generator


@dataclass(frozen=True)
class Scores:
    """Independent scores with a normal patient's level as their rank: quantiles of it.

    Args:
        quantile: from uniform values to scores.
        truth: their mean.
        bounds: the range that is declared.
        continuous: no value has a probability of its own.
        beyond: shown, not asked.
    """

    quantile: Callable[[np.ndarray], np.ndarray]
    truth: float
    bounds: tuple[float, float]
    continuous: bool = True
    beyond: bool = False


def beta(a: float, b: float, *, beyond: bool = False) -> Scores:
    """Return scores of a Beta distribution, from a table of its quantiles."""
    from scipy.stats import beta as distribution

    return Scores(table(distribution(a, b).ppf), a / (a + b), (0.0, 1.0), beyond=beyond)


def table(ppf: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    """Return a fast quantile function: interpolated between 2,000 points of the normal scale."""
    grid = np.linspace(-6, 6, 2001)
    values = ppf(norm.cdf(grid))
    return lambda z: np.interp(z, grid, values)


def hits(rate: float) -> Scores:
    """Return hits, 0 or 1."""
    return Scores(lambda z: (z > norm.isf(rate)).astype(float), rate, (0.0, 1.0), continuous=False)


def mostly_zero(zeros: float) -> Scores:
    """Return scores that are 0 in a share of the images, else symmetric between 0 and 1: an IoU."""
    inner = table(beta_ppf(2, 2, zeros))
    return Scores(inner, (1 - zeros) * 0.5, (0.0, 1.0), continuous=False)


def beta_ppf(a: float, b: float, zeros: float) -> Callable[[np.ndarray], np.ndarray]:
    """Return the quantile function of a Beta distribution with zeros added."""
    from scipy.stats import beta as distribution

    return lambda u: np.where(u < zeros, 0.0, distribution(a, b).ppf(np.clip((u - zeros) / (1 - zeros), 0, 1)))


@functools.cache
def means() -> dict[str, Scores]:
    """Return the distributions of scores."""
    return {
        "symmetric, Beta(2, 2)": beta(2, 2),
        "skewed, Beta(0.6, 4)": beta(0.6, 4),
        "very skewed, Beta(0.3, 5)": beta(0.3, 5),
        "near the upper end, Beta(8, 1)": beta(8, 1),
        "at both ends, Beta(0.3, 0.3)": beta(0.3, 0.3),
        "60% zeros": mostly_zero(0.6),
        "hits, 5%": hits(0.05),
        "hits, 40%": hits(0.4),
        "normal, no range": Scores(lambda z: z, 0.0, (-math.inf, math.inf)),
        "exponential, from 0": Scores(lambda z: -norm.logsf(z), 1.0, (0.0, math.inf)),
        "lognormal, from 0": Scores(np.exp, math.exp(0.5), (0.0, math.inf), beyond=True),
    }


@functools.cache
def lumps() -> Scores:
    """Return scores of which 90% lie around 0.1 and 10% around 0.9: few patients may show the first lump alone."""
    from scipy.stats import beta as distribution

    first, second = distribution(10, 90).ppf, distribution(90, 10).ppf
    upper = table(lambda u: np.where(u < 0.9, first(np.minimum(u / 0.9, 1)), second(np.clip((u - 0.9) / 0.1, 0, 1))))
    return Scores(upper, 0.9 * 0.1 + 0.1 * 0.9, (0.0, 1.0), beyond=True)


@dataclass(frozen=True)
class Area:
    """Classifier scores of two classes whose ROC-AUC is known.

    Args:
        truth: the area.
        share: of the patients that are positive.
        exponential: scores exponential, the positives' longer; else normal with equal variance.
    """

    truth: float
    share: float = 0.5
    exponential: bool = False

    def scores(self, latent: np.ndarray, label: np.ndarray) -> np.ndarray:
        """Return scores from standard normal values and labels."""
        if self.exponential:
            return -norm.logsf(latent) * np.where(label == 1, self.truth / (1 - self.truth), 1.0)
        return latent + label * norm.ppf(self.truth) * math.sqrt(2)

    def continuous(self, patients: int) -> bool:
        """Return whether enough patients are misranked for the area to take many values."""
        return (1 - self.truth) * patients * min(self.share, 1 - self.share) >= MISRANKED


AREAS = {
    "AUC 0.76": Area(0.76),
    "AUC 0.90": Area(0.90),
    "AUC 0.97": Area(0.97),
    "AUC 0.99": Area(0.99),
    "AUC 0.90, exponential": Area(0.90, exponential=True),
    "AUC 0.76, a third positive": Area(0.76, 1 / 3),
    "AUC 0.97, a third positive": Area(0.97, 1 / 3),
}


@dataclass(frozen=True)
class Key:
    """A line of the table: statistic, images a patient, unit ("patient" or "image"), method."""

    statistic: str
    images: str
    unit: str
    method: str


@dataclass(frozen=True)
class Found:
    """An interval, the truth, and what is asked of it."""

    interval: Interval
    truth: float
    continuous: bool
    asked: bool = True


def latent(rng: Rng, patient: np.ndarray, several: bool) -> np.ndarray:
    """Return (N,) standard normal values, of a patient's images alike where there are several."""
    size = int(patient.max()) + 1
    own = rng.normal(size=len(patient))
    return math.sqrt(SHARED) * rng.normal(size=size)[patient] + math.sqrt(1 - SHARED) * own if several else own


def study(
    number: int, patients: int, several: bool, methods: tuple[str, ...], seed: int
) -> Iterator[tuple[Key, Found]]:
    """Yield every interval of a study with one image a patient, or one to six, unequally."""
    rng = np.random.default_rng([seed, number, patients, several])
    counts = np.minimum(rng.geometric(0.5, patients), MOST_IMAGES) if several else np.ones(patients, dtype=int)
    patient = np.repeat(np.arange(patients), counts)
    units = {"patient": [f"{n:03d}" for n in patient]}
    if several:
        units["image"] = [f"{n:04d}" for n in range(len(patient))]
    images = "1 to 6" if several else "1"
    scores = {name: kind.quantile(latent(rng, patient, several)) for name, kind in means().items()}
    tables, bounds, asked = [], [], []
    for name, kind in means().items():
        tables.append(scores[name][:, None])
        bounds.append(kind.bounds)
        asked.append((name, kind.truth, kind.continuous, not kind.beyond))
    tables, bounds, asked = differences(rng, patient, several, tables, bounds, asked)
    rare = latent(np.random.default_rng([seed, number, patients, several, 1]), patient, several)  # others stay as drawn
    tables.append(lumps().quantile(rare)[:, None])
    bounds.append(lumps().bounds)
    asked.append(("rare second lump, 10% near 0.9", lumps().truth, True, False))
    classes = rng.random((len(patient), 3)) < 0.5
    skewed = means()["skewed, Beta(0.6, 4)"]
    shared = latent(rng, patient, several)
    mixed = (shared[:, None] + latent(rng, patient, several)[:, None] * [0.5, 1.0, 2.0]) / np.sqrt([1.25, 2.0, 5.0])
    tables.append(np.where(classes, skewed.quantile(mixed), np.nan))
    bounds.append((0.0, 1.0))
    asked.append(("mean of 3 classes, Beta(0.6, 4)", skewed.truth, True, True))
    areas = dict(area_data(rng, patient, several))
    pooled = ratio(rng, patient, several)
    for unit, names in units.items():
        drawn = Resampling(names, resamples=RESAMPLES, seed=number)
        for method in methods if unit == "patient" else ("score",):
            found = mean_intervals_of(tables, bounds, drawn, method=method)
            for (name, truth, continuous, wanted), intervals in zip(asked, found, strict=True):
                yield Key(name, images, unit, method), Found(intervals.macro, truth, continuous, wanted)
            for name, (score, label, truth, continuous) in areas.items():
                interval = auc_intervals(score, label, names, resampling=drawn, method=method).macro
                yield Key(name, images, unit, method), Found(interval, truth, continuous)
            if "percentile" in methods:  # a bootstrap either way
                statistic, truth = pooled
                sizes = [drawn.n_clusters]
                interval = statistic_intervals(statistic, drawn, patients=sizes, method=method).macro
                yield Key("pooled ratio, by bootstrap", images, unit, method), Found(interval, truth, True)


def differences(
    rng: Rng, patient: np.ndarray, several: bool, tables: list, bounds: list, asked: list
) -> tuple[list, list, list]:
    """Add paired differences of two explainers on the same images."""
    common = latent(rng, patient, several)
    one, other = (0.8 * common + 0.6 * latent(rng, patient, several) for _ in range(2))
    kinds = means()
    for name, first, second in (
        ("difference of skewed scores", "skewed, Beta(0.6, 4)", "very skewed, Beta(0.3, 5)"),
        ("difference of hits", "hits, 40%", "hits, 5%"),
    ):
        tables.append((kinds[first].quantile(one) - kinds[second].quantile(other))[:, None])
        bounds.append((-1.0, 1.0))
        truth = kinds[first].truth - kinds[second].truth
        asked.append((name, truth, kinds[first].continuous, True))
    return tables, bounds, asked


def area_data(
    rng: Rng, patient: np.ndarray, several: bool
) -> Iterator[tuple[str, tuple[np.ndarray, np.ndarray, float, bool]]]:
    """Yield scores and labels, the true AUC and whether it is continuous; last the mean of three classes."""
    size = int(patient.max()) + 1
    flipped = (rng.random(len(patient)) < 0.1) if several else np.zeros(len(patient), dtype=bool)
    for name, area in AREAS.items():
        positive = np.arange(size) < max(2, round(size * area.share))
        label = (positive[patient] ^ flipped).astype(int)
        if label.min() == label.max():
            continue
        score = area.scores(latent(rng, patient, several), label)
        yield name, (score[:, None], label[:, None], area.truth, area.continuous(size))
    target = (np.arange(size) % 3)[patient]
    labels = np.eye(3, dtype=int)[target]
    raw = np.stack([latent(rng, patient, several) for _ in range(3)], 1)
    area = Area(0.85, 1 / 3)
    yield "mean of 3 AUCs of 0.85", (area.scores(raw, labels), labels, area.truth, area.continuous(size))


def ratio(rng: Rng, patient: np.ndarray, several: bool) -> tuple[Callable[[np.ndarray], np.ndarray], float]:
    """Return a dataset-level statistic, a ratio of means such as a pooled IoU, and its truth."""
    union = 0.2 + means()["symmetric, Beta(2, 2)"].quantile(latent(rng, patient, several))
    inside = union * means()["skewed, Beta(0.6, 4)"].quantile(latent(rng, patient, several))
    return lambda weights: (weights @ inside / (weights @ union))[:, None], means()["skewed, Beta(0.6, 4)"].truth


def seeds(number: int, patients: int, seed: int) -> Iterator[tuple[Key, Found]]:
    """Yield intervals over three and five training seeds, whose effect is half to once and a half of the patients'."""
    rng = np.random.default_rng([seed, number, patients, 2])
    names = [str(n) for n in range(patients)]
    for trained, spread in ((3, 0.1), (3, 0.5), (5, 0.1), (5, 0.5)):
        effects = spread * rng.normal(size=(trained, 1)), rng.normal(size=patients)
        values = effects[0] + effects[1] + 0.5 * rng.normal(size=(trained, patients))
        found = two_level_interval(dict(enumerate(values)), names, bounds=(-math.inf, math.inf))
        label = f"mean over {trained} seeds, {'little' if spread < 0.3 else 'much'} between them"
        yield Key(label, "1", "patient", "score"), Found(found.interval, 0.0, False)  # conservative by design


Cell = dict[int, tuple[float, float, int]]
"""Size to coverage, mean width and studies."""


def coverage(
    studies: int, bootstrap_studies: int, sizes: tuple[int, ...] = SIZES, seed: int = 0
) -> tuple[dict[Key, Cell], list[str]]:
    """Return coverage and width of each kind of interval at each size, and what does not do as asked."""
    rows: dict[tuple[Key, int], list[tuple[bool, float]]] = defaultdict(list)
    about: dict[tuple[Key, int], Found] = {}
    for size in sizes:
        for number in range(studies):
            methods = METHODS if number < bootstrap_studies else METHODS[:1]
            for several in (False, True):
                for key, found in study(number, size, several, methods, seed):
                    keep(rows, about, key, size, found)
            for key, found in seeds(number, size, seed):
                keep(rows, about, key, size, found)
    result: dict[Key, Cell] = defaultdict(dict)
    failed = []
    for (key, size), values in rows.items():
        share, width = np.mean(values, axis=0).tolist()
        result[key][size] = (share, width, len(values))
        if key.method != "score" or key.unit != "patient" or not about[key, size].asked:
            continue
        noise = 2 * math.sqrt(0.95 * 0.05 / len(values))
        if share < LEAST - noise:
            failed.append(f"{key.statistic}, {key.images} images, {size} patients: {share:.1%} is below {LEAST:.0%}")
        if share > MOST + noise and about[key, size].continuous and size >= CONTINUOUS_FROM:
            failed.append(f"{key.statistic}, {key.images} images, {size} patients: {share:.1%} is above {MOST:.0%}")
    return dict(result), failed


def keep(rows: dict, about: dict, key: Key, size: int, found: Found) -> None:
    """Add one interval to the rows of its kind."""
    covers = found.interval.low - 1e-12 <= found.truth <= found.interval.high + 1e-12
    rows[key, size].append((covers, found.interval.high - found.interval.low))
    about[key, size] = found


def misranked(size: int, several: bool, rankings: int, seed: int = 0) -> tuple[float, int]:
    """Return the most that one more misranked pair raises an end of an AUC's interval, and the pairs tried."""
    rng = np.random.default_rng([seed, size, several])
    most, tried = 0.0, 0
    for _ in range(rankings):
        counts = np.minimum(rng.geometric(0.5, size), MOST_IMAGES) if several else np.ones(size, dtype=int)
        patient = np.repeat(np.arange(size), counts)
        label = ((np.arange(size) % 2)[patient] ^ (several & (rng.random(len(patient)) < 0.1))).astype(int)
        if label.min() == label.max():
            continue
        score = latent(rng, patient, several) + rng.choice([0.0, 1.0, 2.5, 4.0]) * label
        order, names = np.argsort(score), [f"{n:03d}" for n in patient]
        before = auc_interval(score, label, names)
        pairs = np.flatnonzero((label[order[:-1]] == 0) & (label[order[1:]] == 1))
        for place in rng.permutation(pairs)[:10]:
            moved = score.copy()
            moved[order[[place, place + 1]]] = score[order[[place + 1, place]]]
            after = auc_interval(moved, label, names)
            most = max(most, after.low - before.low, after.high - before.high)
            tried += 1
    return most, tried


def show(result: dict[Key, Cell], sizes: tuple[int, ...], markdown: bool) -> None:
    """Print the table: coverage and, in brackets, mean width, for each size."""
    order = {name: place for place, name in enumerate(dict.fromkeys(key.statistic for key in result))}
    keys = sorted(result, key=lambda key: (order[key.statistic], key.images, key.unit != "patient", key.method))
    head = ["statistic", "images a patient", "interval", *map(str, sizes)]
    lines = [[key.statistic, key.images, kind(key), *(cell(result[key], size) for size in sizes)] for key in keys]
    if markdown:
        print("\n".join(paired(head, lines)))
        return
    widths = [max(len(line[column]) for line in [head, *lines]) for column in range(len(head))]
    for line in [head, *lines]:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def kind(key: Key) -> str:
    """Return how an interval was made, in words."""
    return key.method + (", by image" if key.unit == "image" else "")


def cell(cells: Cell, size: int) -> str:
    """Return coverage in percent and mean width."""
    return f"{100 * cells[size][0]:.1f} ({cells[size][1]:.3f})" if size in cells else "-"


def paired(head: list[str], lines: list[list[str]]) -> Iterator[str]:
    """Yield a Markdown table, the percentile bootstrap in italics beneath the score interval; not those by image."""
    yield f"| {' | '.join([*head[:2], *head[3:]])} |"
    yield f"|{' --- |' * 2}{' ---: |' * (len(head) - 3)}"
    rows: dict[tuple[str, str], dict[str, list[str]]] = defaultdict(dict)
    for statistic, images, method, *cells in lines:
        rows[statistic, images][method] = cells
    for (statistic, images), methods in rows.items():
        score, old = methods["score"], methods.get("percentile")
        cells = [f"{new}<br>*{other}*" for new, other in zip(score, old, strict=True)] if old else score
        yield f"| {' | '.join([statistic, images, *cells])} |"


def main() -> int:
    """Print the table; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--studies", type=int, default=2000, help="simulated studies of each size")
    parser.add_argument("--bootstrap-studies", type=int, default=500, help="of these, with percentile bootstraps")
    parser.add_argument("--quick", action="store_true", help="200 studies, 50 with bootstraps")
    parser.add_argument("--markdown", action="store_true", help="the table as in docs/statistics.md")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    studies, resampled = (200, 50) if given.quick else (given.studies, given.bootstrap_studies)
    began = time.perf_counter()
    result, failed = coverage(studies, resampled, seed=given.seed)
    show(result, SIZES, given.markdown)
    print(
        f"\ncoverage in %, mean width in brackets; {studies} studies: two standard errors are "
        f"{200 * math.sqrt(0.95 * 0.05 / studies):.1f}%; {resampled} with percentile bootstraps: "
        f"{200 * math.sqrt(0.95 * 0.05 / resampled):.1f}%"
    )
    for several in (False, True):
        found = [misranked(size, several, max(5, studies // 20), given.seed) for size in SIZES]
        most, tried = max(rise for rise, _ in found), sum(pairs for _, pairs in found)
        print(
            f"one more misranked pair, {'1 to 6 images' if several else '1 image'} a patient: {tried} tried, an end "
            f"rises by {most:.4f} at most"
        )
        if most > (0.005 if several else 1e-12):
            failed.append(f"one more misranked pair raises an end by {most:.4f}")
    print(f"{time.perf_counter() - began:.0f} s")
    if failed:
        print("not as asked:\n" + "\n".join(failed), file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
