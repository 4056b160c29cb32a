"""The report in sentences: what a reader should take home, with the numbers, and what to be wary of."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from xaibench.errors import XaibenchError
from xaibench.findings import Note
from xaibench.metrics.base import Metric
from xaibench.reporting.html.data import Report, clean, run_names
from xaibench.results import marks as marking
from xaibench.results.comparison.compare import ALPHA, metric_comparison, pair_of
from xaibench.results.run import MACRO, Run, Score

_MANY_UNDEFINED = 0.05


def summary(report: Report) -> list[tuple[str, str]]:
    """Return (subject, sentences): what the classifiers know; by each main metric which explainer leads, by how much.

    The primary metric comes first, and also says where the leader fails, and whether it beats the next.
    """
    found = []
    if known := " ".join(_classifiers(report, run_names(report.runs))):
        found.append(("Classification", known))
    measured = {spec.name for spec in report.benchmark.metrics}
    primary = report.primary
    for name in dict.fromkeys((primary, "hit_rate", "visible_in_box", "energy")):
        metric = report.metrics.get(name or "")
        if metric is None or name not in measured:
            continue
        if said := " ".join(_leader(report, metric, full=name == primary)):
            named = ", the primary metric" if name == report.benchmark.primary else ""
            found.append((metric.title + named, said))
    if not report.boxed:
        found.append(("Maps", "No test image has a box, so no map could be scored."))
    return [(clean(subject), clean(text)) for subject, text in found]


def warnings(report: Report) -> list[str]:
    """Return what makes a number doubtful: biased choices, explainers given up, undefined or constant maps."""
    found = []
    names = run_names(report.runs)
    for name, run in zip(names, report.runs, strict=True):
        lead = f"{name}: " if len(names) > 1 else ""
        found += [f"{lead}{note}" for note in _notes(run) if note.severity != "note" and note.subject != "doctor"]
        for explainer in (*run.explainers, *run.baselines):
            rows = [s for s in run.select(explainer=explainer, class_name=MACRO) if s.n]
            bad = [s for s in rows if s.nan > _MANY_UNDEFINED * s.n]
            if bad:
                listed = ", ".join(f"{s.metric} on {s.nan} of {s.n}" for s in bad[:3])
                more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
                how = "left out of" if run.benchmark.scoring < 2 else "counted as the metric says in"
                found.append(f"{lead}{explainer}: undefined {listed}{more}; these pairs are {how} the means")
            constant = max((s.constant for s in rows), default=0)
            if constant:
                found.append(f"{lead}{explainer}: {constant} of {rows[0].n} maps are constant")
    return list(dict.fromkeys(clean(text) for text in found))


def doctor(report: Report) -> list[str]:
    """Return what the doctor found in the classifiers and their explainers before the runs."""
    found = []
    for name, run in zip(run_names(report.runs), report.runs, strict=True):
        lead = f"{name}: " if len(report.runs) > 1 else ""
        found += [f"{lead}{note.removeprefix('doctor: ')}" for note in _notes(run) if note.subject == "doctor"]
    return list(dict.fromkeys(clean(text) for text in found))


def audit(report: Report) -> list[str]:
    """Return the runs' other notes: what was read, left out, drawn."""
    notes = [
        note for run in report.runs for note in _notes(run) if note.severity == "note" and note.subject != "doctor"
    ]
    return list(dict.fromkeys(clean(note) for note in notes))


def _notes(run: Run) -> list[Note]:
    return [Note.of(note) for note in run.notes]


def marks(report: Report) -> list[str]:
    """Return what the mark in the leaderboard means, or why there is none, and what undefined pairs count as."""
    judged = [marking.judged(run, report.metrics) for run in report.runs]
    found = []
    if any(not one.reason for one in judged):
        found.append(f"▲: {marking.meaning(report.runs)}.")
    names = run_names(report.runs)
    for name, run, one in zip(names, report.runs, judged, strict=True):
        lead = f"{name}: " if len(names) > 1 else ""
        if one.reason and run.explainers:
            found.append(f"{lead}no ▲: {one.reason}.")
        elif without := marking.untested(run, report.metrics, one):
            found.append(
                f"{lead}Never ▲ (not judged against chance, or without scores of images): {', '.join(without)}."
            )
    return list(dict.fromkeys(map(clean, found)))


def _classifiers(report: Report, names: Sequence[str]) -> Iterator[str]:
    for name, run in zip(names, report.runs, strict=True):
        mean = _one(run.select(metric="roc_auc", class_name=MACRO))
        if mean is None:
            continue
        each = [s for s in run.select(metric="roc_auc") if s.class_name != MACRO and s.value is not None]
        worst = min(each, key=lambda score: score.value or 0.0) if each else None
        hardest = f"; the hardest class is {worst.class_name} ({worst.value:.3f})" if worst and len(each) > 1 else ""
        yield (
            f"{name} tells the classes apart with a mean ROC-AUC of {_value(mean, 3)} on "
            f"{mean.n:,} test image{_s(mean.n)} of {mean.patients:,} patient{_s(mean.patients)}{hardest}."
        )


def _leader(report: Report, metric: Metric, *, full: bool) -> Iterator[str]:
    """Say which explainer leads by a metric, whether it beats the next and the baselines, and where it is weakest."""
    key = report.headline(metric.name)[0]
    higher = metric.direction == "higher"
    rows = [
        (method, score)
        for method in report.methods
        if (score := _one(report.runs[method.run].select(explainer=method.explainer, metric=key, class_name=MACRO)))
    ]
    rows.sort(key=lambda row: (row[1].value or 0.0) * (-1 if higher else 1))
    real = [row for row in rows if not row[0].baseline]
    if not real:
        return
    best, score = real[0]
    run = report.runs[best.run]
    at = f" with a threshold of {metric.headline_at:.0%} of the peak" if metric.curve and metric.headline_at else ""
    chance = "" if score.chance is None else f"; a map of noise gets {score.chance:.2f}"
    yield f"{best.label} leads with {_value(score)}{at}{chance}."
    # an oracle has seen the answers: no rival, but an upper bound
    blind = [
        row
        for row in rows
        if row[0].baseline and row[0].run == best.run and not row[0].explainer.startswith(marking.ORACLE)
    ]
    if blind:
        top, level = blind[0]
        gain = (score.value or 0.0) - (level.value or 0.0)
        margin = f"{abs(gain):.2f} {'above' if gain > 0 else 'below'}" if gain else "equal to"
        ahead = gain > 0 if higher else gain < 0
        verdict = "" if ahead else ": looking at the image gained nothing here"
        yield f"It is {margin} {top.label}, the best baseline that looks at no evidence ({_value(level)}){verdict}."
    if full:
        each = [
            s for s in run.select(explainer=best.explainer, metric=key) if s.class_name != MACRO and s.value is not None
        ]
        if len(each) > 1:
            worst = (min if higher else max)(each, key=lambda s: s.value or 0.0)
            cells = marking.marks(run, report.metrics)
            still = "still" if (best.explainer, key, worst.class_name) in cells else "not clearly"
            yield (
                f"Its weakest class is {worst.class_name}: {_value(worst)}, {still} better than chance and the blind "
                "baselines."
            )
        if len(real) > 1:
            yield _against(report, key, metric, best, real[1])


def _against(report: Report, key: str, metric: Metric, best: Any, other: Any) -> str:
    """Compare the two best as `xaibench compare` does: the same test, corrected over the same pairs."""
    second, score = other
    next_one = f"Next is {second.label} with {_value(score)}"
    try:
        table = metric_comparison(report.runs, metric, key)
        pair = pair_of(table, (best.run, best.explainer), (second.run, second.explainer)) if table else None
    except XaibenchError:  # not saved
        pair = table = None
    if pair is None or table is None or math.isnan(pair.p_holm):
        return f"{next_one}."
    word = "more than chance would make" if table.survives(pair, ALPHA) else "too close to call"
    seen = table.detectable.get((pair.first, pair.second), table.detectable.get((pair.second, pair.first), math.nan))
    least = f" With {pair.patients:,} patients a difference of {_fine(seen)} or more would be seen four times in five."
    difference, low, high = (_fine(one, "+") for one in (pair.difference, pair.interval.low, pair.interval.high))
    return (
        f"{next_one}; on the same {pair.n} pairs the difference is {difference} "
        f"[{low}, {high}], {word} ({_p(pair.p_holm)}, permutation of patients, "
        f"Holm over {len(table.pairs)} comparison{_s(len(table.pairs))}).{'' if math.isnan(seen) else least}"
    )


def _fine(value: float, sign: str = "") -> str:
    """Return two decimals, or more of what they would show as zero.

    >>> _fine(0.123), _fine(0.00071, "+"), _fine(0)
    ('0.12', '+0.0007', '0.00')
    """
    return f"{value:{sign}.2f}" if value == 0 or abs(value) >= 0.005 else f"{value:{sign}.4f}"


def _one(scores: Sequence[Score]) -> Score | None:
    return scores[0] if scores and scores[0].value is not None else None


def _value(score: Score, digits: int = 2) -> str:
    if score.low is None or score.high is None:
        return f"{score.value:.{digits}f}"
    return f"{score.value:.{digits}f} [{score.low:.{digits}f}, {score.high:.{digits}f}]"


def _p(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def _s(count: int) -> str:
    return "" if count == 1 else "s"
