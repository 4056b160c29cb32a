"""Two classifiers' explainers on the same images: the paired test of their maps' scores over all subsets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from xaibench import registry
from xaibench.results.run import MACRO, Run
from xaibench.statistics import holm, paired_comparisons
from xaibench.studies.gcm_paper.subsets import same_images

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class MapDifference:
    """Scores of one explainer's maps less those of another's on the same pairs of image and class, of all subsets.

    Attributes:
        first, second: means over the pairs (the class means, for the macro value) that both have a score for.
        p: permutation of whole patients; `p_holm` after Holm's correction over the primary rows.
        left_out: pairs where a map of one of them has no score.
    """

    metric: str
    class_name: str
    first: float
    second: float
    difference: float
    low: float
    high: float
    p: float
    p_holm: float
    n: int
    patients: int
    left_out: int


def compare_maps(
    first: Sequence[Run], second: Sequence[Run], explainers: tuple[str, str], metrics: Sequence[str]
) -> list[MapDifference]:
    """Compare an explainer of the first classifier with one of the second, on the same pairs of all subsets.

    A patient's pairs, in whatever subsets, change sides together. Holm's correction runs over the metrics' values over
    the classes; the classes' own p-values stand beside them uncorrected.

    Args:
        metrics: columns of the per-image scores.

    Raises:
        XaibenchError: two runs of a subset are not of the same images.
    """
    tables = [_scores_of(one, other, explainers, metrics) for one, other in zip(first, second, strict=True)]
    import pandas as pd

    whole = pd.concat(tables, ignore_index=True)
    run, found = first[0], list[MapDifference]()
    for metric in metrics:
        own = whole[whole["metric"] == metric]
        if own.empty:
            continue
        for name in (*(name for name in run.benchmark.classes if (own["class"] == name).any()), MACRO):
            found.append(_map_difference(run, own if name == MACRO else own[own["class"] == name], metric, name))
    primary = [at for at, row in enumerate(found) if row.class_name == MACRO]
    for at, p in zip(primary, holm([found[at].p for at in primary]), strict=True):
        found[at] = replace(found[at], p_holm=float(p))
    return found


def _map_difference(run: Run, table: pd.DataFrame, metric: str, name: str) -> MapDifference:
    spec = run.benchmark.statistics
    scores = {side: table[side].to_numpy(dtype=np.float64) for side in ("first", "second")}
    classes = table["class"].astype(str).tolist() if name == MACRO else None
    loaded = registry.get("metrics", metric).load()
    (test,) = paired_comparisons(
        scores,
        table["patient"].astype(str).tolist(),
        classes,
        bounds=loaded.range,
        confidence=spec.confidence,
        method=spec.method,
        resamples=spec.resamples,
        seed=spec.seed,
    )
    both = table[np.isfinite(scores["first"]) & np.isfinite(scores["second"])]
    first, second = (float(both.groupby("class", observed=True)[side].mean().mean()) for side in ("first", "second"))
    return MapDifference(
        metric=metric,
        class_name=name,
        first=first,
        second=second,
        difference=test.difference,
        low=test.interval.low,
        high=test.interval.high,
        p=test.p,
        p_holm=math.nan,
        n=test.n,
        patients=test.patients,
        left_out=test.left_out,
    )


def _scores_of(one: Run, other: Run, explainers: tuple[str, str], metrics: Sequence[str]) -> pd.DataFrame:
    """Return image, patient, class and metric with the score of either explainer, ``first`` and ``second``."""
    same_images(one, other)
    keys = ["image", "patient", "class", "metric"]
    parts = []
    for run, explainer, side in zip((one, other), explainers, ("first", "second"), strict=True):
        table = run.images()
        chosen = table[(table["explainer"] == explainer) & table["metric"].isin(metrics)]
        values = chosen["value"].to_numpy(dtype=np.float64, copy=True)
        for metric in metrics:
            rows = (chosen["metric"] == metric).to_numpy()
            if explainer not in dict(run.record.get("given_up", {})).get(metric, {}):
                counted = registry.get("metrics", metric).load().counted
                values[rows] = counted(values[rows], chosen["chance"].to_numpy(dtype=np.float64)[rows])
        parts.append(chosen[keys].astype(str).assign(**{side: values}))
    return parts[0].merge(parts[1], on=keys, validate="one_to_one")
