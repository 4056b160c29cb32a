"""Human ratings in a reproduction's page: rates, agreement, and the threshold that agrees best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from xaibench.published import Published
from xaibench.reporting.page import Block, Missing, Section, Table, Text
from xaibench.studies.gcm_paper.page_claims import NIH, not_alike
from xaibench.studies.gcm_paper.page_scores import by_eye, ranged
from xaibench.studies.gcm_paper.rated import rating_results, read_ratings
from xaibench.studies.gcm_paper.reproduce import Reproduction

_TITLE = "Human ratings"
_WHAT = "Rates, kappa and the threshold"


def ratings_section(found: Reproduction, published: Published, files: Sequence[Path]) -> Section:
    """Read ratings of the GCM run whose maps are judged; without any, say how to make them.

    Raises:
        DataError: a file that is no ratings file of that run.
    """
    run = found.best_runs.get("gcm")
    if run is None:
        return Section(_TITLE, [Missing(found.missing.get("runs", ""), _WHAT)])
    if not files:
        how = f"xaibench rate {run.directory} makes the page to mark on, --ratings CSV brings the marks here"
        return Section(_TITLE, [Missing(f"nobody has rated these maps; {how}", _WHAT)])
    results = rating_results(run, read_ratings(files, run))
    raters = ", ".join(map(str, results["raters"]))
    blocks = not_alike(found)
    blocks += [Text(f"{results['rated']} ratings by {raters}; {results['unrated']} left unrated.")]
    blocks.append(_rates(results["rates"], published))
    blocks.append(_agreement(results["agreement"]))
    blocks.append(_rules(results["rules"]))
    return Section(_TITLE, [*blocks, *(Text(note) for note in results["notes"])])


def _span(row: Mapping[str, Any]) -> str:
    return ranged(float("nan") if row["value"] is None else row["value"], row["low"], row["high"])


def _rates(rows: Sequence[Mapping[str, Any]], published: Published) -> Table:
    cells = [
        [
            f"{row['explainer']}, {row['rater']}: {row['class']}",
            f"{row['hits']}/{row['n']}",
            _span(row),
            by_eye(published, row["class"]) or "-",
        ]
        for row in rows
    ]
    return Table(["map, rater: class", "hits", "rate", NIH], cells, "Rated hits, Wilson's intervals")


def _agreement(rows: Sequence[Mapping[str, Any]]) -> Block:
    if not rows:
        return Missing("one rater only", "Agreement of raters")
    cells = [
        [
            f"{row['explainer']}, {' and '.join(row['raters'])}: {row['class']}",
            str(row["n"]),
            f"{row['same']:.3f}",
            _span(row),
        ]
        for row in rows
    ]
    return Table(["map, raters: class", "both rated", "same answer", "Cohen's kappa"], cells, "Agreement of raters")


def _rules(rows: Sequence[Mapping[str, Any]]) -> Block:
    if not rows:
        return Missing("too few ratings of both kinds", "The threshold that agrees best")
    cells = []
    for row in rows:
        held, constant = row["held_out"], row["constant"]
        cells.append(
            [
                row["explainer"],
                f"{row['share']:g} of the box above {row['threshold']:g}",
                f"{row['fitted']['same']:.3f} of {row['fitted']['n']}",
                f"{ranged(held['same'], held['low'], held['high'])} of {held['n']}",
                f"{constant['same']:.3f} (always {constant['answer']})",
            ]
        )
    headers = ["map", "rule", "same answer, fitted half", "same answer, other half", "a constant answer"]
    return Table(headers, cells, "The visible-in-box rule that agrees best, fitted on half of the patients")
