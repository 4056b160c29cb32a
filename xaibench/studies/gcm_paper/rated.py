"""Ratings read back: hit rates, agreement between raters, and the rule of the map that agrees best with them."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from xaibench.errors import DataError, UsageError, first_line
from xaibench.io.limits import read_text
from xaibench.results.run import Run
from xaibench.statistics import Interval, wilson_interval
from xaibench.statistics.agreement import fit_rule, rater_agreement
from xaibench.studies.gcm_paper.ratings import COLUMNS

_ITEM = ["image", "class", "explainer"]
_CURVE = "visible_in_box@"
ALL = "all"
"""In the place of a class: ratings of every class together."""


@dataclass(frozen=True)
class Ratings:
    """What persons marked.

    Attributes:
        table: one row a rating: image, patient, class, explainer, rater, hit (bool).
        unrated: rows of the files that were left empty.
    """

    table: pd.DataFrame
    unrated: int = 0


def read_ratings(paths: Sequence[Path], run: Run) -> Ratings:
    """Read ratings files of a run: CSV with the columns image, class, explainer, rater and rating, in any order.

    A row with an empty rating counts as unrated; an empty rater is called as the file is.

    Raises:
        DataError: not a CSV, a column missing, an image that the run did not score, an item rated twice by one rater,
            a rating other than hit and miss, or no rating at all; names file and row.
    """
    known = run.images()[["image", "patient", "class", "explainer"]].drop_duplicates().astype(str)
    patient = {tuple(row[1:]): row[0] for row in known[["patient", *_ITEM]].itertuples(index=False)}
    seen: set[tuple[str, ...]] = set()
    rows, unrated = [], 0
    for path in paths:
        table = _read(path)
        for number, (image, name, explainer, rater, rating) in enumerate(
            table[list(COLUMNS)].itertuples(index=False), start=1
        ):
            place, word = f"{path}, row {number}", rating.strip().lower()
            item = (image, name, explainer)
            if item not in patient:
                raise DataError(f"{place}: the run has no map of {explainer!r} for image {image!r} and class {name!r}")
            if not word:
                unrated += 1
                continue
            if word not in ("hit", "miss"):
                raise DataError(f"{place}: rating {rating!r} is neither hit nor miss")
            who = rater.strip() or path.stem
            if (*item, who) in seen:
                raise DataError(f"{place}: {who!r} rated image {image!r}, class {name!r}, {explainer!r} before")
            seen.add((*item, who))
            rows.append((image, patient[item], name, explainer, who, word == "hit"))
    if not rows:
        raise DataError(f"no rating in {', '.join(map(str, paths))}: the column rating says hit or miss")
    return Ratings(pd.DataFrame(rows, columns=["image", "patient", "class", "explainer", "rater", "hit"]), unrated)


def _read(path: Path) -> pd.DataFrame:
    try:
        text = read_text(path, encoding="utf-8-sig")
        header = text.partition("\n")[0]
        separator = max(",;\t", key=header.count)  # spreadsheets of some countries write semicolons
        table = pd.read_csv(io.StringIO(text), sep=separator, dtype=str, keep_default_na=False)
    except FileNotFoundError as error:
        raise DataError(f"no ratings file {path}") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path} can't be read as CSV in UTF-8: {first_line(error)}") from error
    table.columns = [str(name).strip().lower() for name in table.columns]
    for name in COLUMNS:
        if list(table.columns).count(name) != 1:
            there = "no column" if name not in table.columns else "two columns"
            raise DataError(f"{path} has {there} {name!r}; a ratings file has {', '.join(COLUMNS)}")
    return table.fillna("")


def rating_results(run: Run, ratings: Ratings) -> dict[str, Any]:
    """Return what ratings say of a run, as a JSON object.

    ``rates``: hit rate by explainer, rater and class, with Wilson's interval (images are its trials). ``agreement``:
    Cohen's kappa of each two raters on what both rated, by explainer, with a bootstrap of patients. ``rules``: for each
    explainer the threshold of the visible-in-box curve that agrees best, fitted on half of the patients and reported on
    the other half, beside a constant answer. ``notes``: what could not be computed, and why.
    """
    notes: list[str] = []
    options: dict[str, Any] = run.benchmark.statistics.model_dump(include={"confidence", "resamples", "seed"})
    table = ratings.table
    return {
        "run": str(run.directory),
        "raters": sorted(table["rater"].unique()),
        "rated": len(table),
        "unrated": ratings.unrated,
        "rates": list(_rates(run, table, options["confidence"])),
        "agreement": list(_agreement(run, table, options)),
        "rules": list(_rules(run, table, options, notes)),
        "notes": notes,
    }


def _classes(run: Run, rows: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield the rated classes in the benchmark's order, then all together where there are several."""
    there = [name for name in run.benchmark.classes if (rows["class"] == name).any()]
    for name in there:
        yield name, rows[rows["class"] == name]
    if len(there) > 1:
        yield ALL, rows


def _rates(run: Run, table: pd.DataFrame, confidence: float) -> Iterator[dict[str, Any]]:
    for (explainer, rater), group in table.groupby(["explainer", "rater"], sort=True):
        for name, rows in _classes(run, group):
            hits = int(rows["hit"].sum())
            yield {
                "explainer": explainer,
                "rater": rater,
                "class": name,
                "hits": hits,
                "n": len(rows),
                "patients": int(rows["patient"].nunique()),
                "value": hits / len(rows),
                **_limits(wilson_interval(hits, len(rows), confidence=confidence)),
            }


def _agreement(run: Run, table: pd.DataFrame, options: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for explainer, group in table.groupby("explainer", sort=True):
        answers = group.pivot(index=["image", "class", "patient"], columns="rater", values="hit").reset_index()
        for first, second in combinations(sorted(group["rater"].unique()), 2):
            both = answers[answers[first].notna() & answers[second].notna()]
            for name, rows in _classes(run, both):
                found = rater_agreement(
                    rows[first].astype(bool), rows[second].astype(bool), list(rows["patient"]), **options
                )
                yield {
                    "explainer": explainer,
                    "raters": [first, second],
                    "class": name,
                    "n": found.n,
                    "patients": found.patients,
                    "same": found.same,
                    "value": None if math.isnan(found.kappa) else found.kappa,
                    **_limits(found.interval),
                }


def _rules(run: Run, table: pd.DataFrame, options: dict[str, Any], notes: list[str]) -> Iterator[dict[str, Any]]:
    scores = run.images()
    scores = scores[scores["metric"].astype(str).str.startswith(_CURVE)]
    if scores.empty:
        notes.append(f"no threshold: benchmark {run.benchmark.name!r} does not measure visible_in_box")
        return
    text = scores.astype(dict.fromkeys((*_ITEM, "metric"), str))
    curves = text.pivot(index=_ITEM, columns="metric", values="value").sort_index(axis=1)
    thresholds = [float(name.removeprefix(_CURVE)) for name in curves.columns]
    for explainer, group in table.groupby("explainer", sort=True):
        visible = curves.loc[pd.MultiIndex.from_frame(group[_ITEM])].to_numpy()
        defined = np.isfinite(visible).all(axis=1)
        if not defined.all():
            notes.append(
                f"{explainer}: {int((~defined).sum())} ratings of constant maps left out of the threshold's fit"
            )
        rows = group[defined]
        try:
            rule = fit_rule(rows["hit"], visible[defined], thresholds, list(rows["patient"]), **options)
        except UsageError as error:
            notes.append(f"{explainer}: no threshold: {error}")
            continue
        yield {
            "explainer": explainer,
            "threshold": rule.threshold,
            "share": rule.share,
            "fitted": {"same": rule.fitted_same, "n": rule.fitted_n},
            "held_out": {"same": rule.same, "n": rule.n, "patients": rule.patients, **_limits(rule.interval)},
            "constant": {
                "answer": "hit" if rule.constant else "miss",
                "same": rule.constant_same,
                **_limits(rule.constant_interval),
            },
            "gain": {"value": rule.gain, **_limits(rule.gain_interval)},
        }


def _limits(interval: Interval) -> dict[str, Any]:
    return {"low": interval.low, "high": interval.high, "interval": interval.method}
