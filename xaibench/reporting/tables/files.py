"""A comparison as tidy rows for other programs: CSV, Parquet and JSON."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from typing import Any

from xaibench.reporting.tables.escape import spreadsheet
from xaibench.results.comparison.compared import POWER, ComparedRuns, MetricTable
from xaibench.statistics import Comparison

Row = dict[str, Any]


def score_rows(compared: ComparedRuns) -> list[Row]:
    """Return a row for each metric, class and explainer: value, interval, chance, rank, what it beats, difference."""
    rows: list[Row] = []
    for table in compared.tables:
        for one in table.standings:
            row: Row = {
                "category": table.category,
                "metric": table.metric,
                "class": table.class_name,
                "name": one.entrant.label,
                "classifier": one.entrant.classifier,
                "explainer": one.entrant.explainer,
                "baseline": one.entrant.is_baseline,
                "value": one.value,
                "low": one.low,
                "high": one.high,
                "interval": one.interval,
                "chance": one.chance,
                "chance_corrected": one.corrected,
                "chance_corrected_low": one.corrected_low,
                "chance_corrected_high": one.corrected_high,
                "rank": one.rank,
                "mean_rank": one.mean_rank,
                "rank_low": one.rank_low,
                "rank_high": one.rank_high,
                "rank_first": one.rank_first,
                "better_than": list(one.better_than),
                "n": one.n,
                "patients": one.patients,
                "undefined": one.undefined,
                "defined": one.defined,
                "classes": one.classes,
                "seeds": one.seeds,
                "role": table.role,
            }
            if compared.against is not None:
                row |= _against(one.against, is_zero=one.entrant.label == table.reference)
            rows.append({key: _plain(value) for key, value in row.items()})
    return rows


def _against(pair: Comparison | None, *, is_zero: bool) -> Row:
    names = ("difference", "difference_low", "difference_high", "effect", "effect_low", "effect_high", "p", "p_holm")
    if pair is None:
        return dict.fromkeys(names) | ({"difference": 0.0} if is_zero else {})
    ends = (pair.interval.low, pair.interval.high, pair.effect, pair.effect_interval.low, pair.effect_interval.high)
    return dict(zip(names, (pair.difference, *ends, pair.p, pair.p_holm), strict=True))


def pair_rows(compared: ComparedRuns) -> list[Row]:
    """Return a row for each comparison: difference, effect size, their intervals, p, and whether it survives."""
    return [
        {
            key: _plain(value)
            for key, value in {
                "category": table.category,
                "metric": table.metric,
                "class": table.class_name,
                "first": pair.first,
                "second": pair.second,
                "difference": pair.difference,
                "low": pair.interval.low,
                "high": pair.interval.high,
                "effect": pair.effect,
                "effect_low": pair.effect_interval.low,
                "effect_high": pair.effect_interval.high,
                "p": pair.p,
                "p_holm": pair.p_holm,
                "survives": table.survives(pair, compared.alpha),
                "test": pair.method,
                "n": pair.n,
                "patients": pair.patients,
                "left_out": pair.left_out,
                "detectable": table.detectable.get((pair.first, pair.second)),
                "role": table.role,
            }.items()
        }
        for table in compared.tables
        for pair in table.pairs
    ]


def comparison_csv(compared: ComparedRuns, *, pairs: bool = False) -> str:
    """Return the rows as CSV with a header, one line a row; no name in it is a spreadsheet's formula.

    Args:
        compared: the comparison.
        pairs: the paired differences instead of the scores.
    """
    rows = pair_rows(compared) if pairs else score_rows(compared)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(_columns(rows))
    for row in rows:
        writer.writerow([_csv(value) for value in row.values()])
    return out.getvalue()


def _columns(rows: Sequence[Row]) -> list[str]:
    return list(rows[0]) if rows else []


def _csv(value: Any) -> Any:
    if isinstance(value, list):
        return spreadsheet("; ".join(value))
    return spreadsheet(value) if isinstance(value, str) else value


def comparison_parquet(compared: ComparedRuns, *, pairs: bool = False) -> bytes:
    """Return the rows as a Parquet file; see `comparison_csv`. Names are as they are, ``better_than`` is a list."""
    import pandas as pd

    out = io.BytesIO()
    rows = pair_rows(compared) if pairs else score_rows(compared)
    pd.DataFrame(rows).to_parquet(out, index=False)
    return out.getvalue()


def comparison_json(compared: ComparedRuns) -> dict[str, Any]:
    """Return everything as plain values: benchmark, runs, scores, paired differences, rankings, notes."""
    benchmark = compared.runs[0].benchmark
    return {
        "benchmark": benchmark.name,
        "benchmark_hash": benchmark.hash,
        "runs": [
            {
                "directory": str(run.directory) if run.directory else None,
                "id": run.record.get("id"),
                "classifier": run.classifier,
                "explainers": list(run.explainers),
                "baselines": list(run.baselines),
            }
            for run in compared.runs
        ],
        "against": compared.against,
        "alpha": compared.alpha,
        "confidence": benchmark.statistics.confidence,
        "scores": score_rows(compared),
        "pairs": pair_rows(compared),
        "primary": benchmark.primary,
        "power": POWER,
        "rankings": [_ranking(table) for table in compared.tables if table.stability is not None],
        "notes": list(compared.notes),
    }


def _ranking(table: MetricTable) -> Row:
    """Return how the ranks move over resamples of the patients; the methods come best first."""
    found = table.stability
    assert found is not None
    moved = {one.entrant.label: one for one in table.standings}
    columns = {"ranks": found.ranks, "low": found.low, "high": found.high, "first": found.first}
    return {
        "metric": table.metric,
        "class": table.class_name,
        "role": table.role,
        "methods": list(found.methods),
        **{name: [_plain(value) for value in column] for name, column in columns.items()},
        "mean_ranks": [_plain(moved[name].mean_rank) for name in found.methods],
        "resamples": found.resamples,
        "unranked": list(found.unranked),
        "n": found.n,
        "patients": found.patients,
    }


def json_text(value: Any) -> str:
    """Return indented JSON without NaN, escaped to ASCII only where a name is no valid Unicode."""
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        text = json.dumps(value, indent=1, allow_nan=False)
    return text + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
