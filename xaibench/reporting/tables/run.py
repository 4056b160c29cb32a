"""A run as tables: what the classifier knows, and whether its maps point at the thing more than chance would."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.box import ROUNDED
from rich.console import Console, RenderableType
from rich.panel import Panel
from rich.text import Text

from xaibench.errors import PluginError, XaibenchError
from xaibench.io.files import write_atomically
from xaibench.metrics.base import Metric
from xaibench.reporting.tables.layout import Cell, Glyphs, Grid, Group, Row, fold, paragraphs
from xaibench.results import marks as marking
from xaibench.results.run import MACRO, Run, Score

PIPE_WIDTH = 160
_TERMINAL = Glyphs()
INTERVAL_WAYS = {
    "score": "score intervals by patient",
    "percentile": "percentile bootstrap by patient",
    "bca": "BCa bootstrap by patient",
    "delong": "DeLong",
    "exact": "Clopper-Pearson where the scores have no spread",
    "patients only": "patients drawn, of one seed",
    "wilson": "Wilson where the bootstrap has no spread",
    "bounds": "the metric's bounds where nothing else can speak",
}
"""How intervals are made, in words."""
_CORRECTED = "corrected for chance"


def run_tables(
    run: Run, metrics: Mapping[str, Metric], *, width: int, glyphs: Glyphs = _TERMINAL, panel: bool = True
) -> list[RenderableType]:
    """Lay a run out for a console of `width` columns.

    Args:
        run: the run.
        metrics: by registered name, those of the benchmark; one that is missing is named in the notes.
        width: columns; from 120 on a value and its interval share a line.
        glyphs: signs and encoding of the output.
        panel: frame the header.

    Returns:
        Header, classification, a table for each category of map metrics, legend and notes. Print them with
        ``crop=False`` (`print_run` does).
    """
    parts: list[RenderableType] = [_header(run, width, glyphs, panel)]
    declared = [spec.name for spec in run.benchmark.metrics]
    known = [m for name in declared if name in metrics and metrics[name].headline for m in _shown(metrics[name])]
    parts += _classification(run, [m for m in known if m.category == "classification"], width, glyphs)
    judged = marking.judged(run, metrics)
    maps = corrected = undefined = False
    for category in dict.fromkeys(m.category for m in known if m.category != "classification"):
        chosen = [m for m in known if m.category == category]
        groups = _groups(run, chosen, glyphs, judged.cells)
        if not groups:
            continue
        maps = True
        corrected |= groups[-1].heading == _CORRECTED
        cells = [cell for group in groups for row in group.rows for cell in row.cells if cell]
        undefined |= any(cell.remark for cell in cells)
        title = [Text.assemble((category.capitalize(), "bold"), (f"  {_interval(run, chosen)}", "dim"))]
        if len(title[0]) > width:
            ways = paragraphs([_interval(run, chosen)], width, "", str)
            title = [Text(category.capitalize(), "bold"), *(Text(line, "dim") for line in ways)]
        headers = [_title(run, m) for m in chosen]
        parts.append(_section([*title, *Grid(headers, groups, glyphs).render(width)]))
    legend = _marks_legend(run, metrics, judged, glyphs) if maps and run.explainers else []
    if undefined:
        lost = {score.metric for score in run.scores if score.explainer and score.nan}
        how = undefined_counts(list(metrics.values()), lost, run.benchmark.scoring)
        legend.append(f"undef.: pairs without a score; {how}; rest: the value of the others alone")
        legend.append("constant: maps of one value throughout")
    if _fewer(run):
        legend.append(f"{glyphs.fewer} mean over fewer classes than its neighbours', so not to be compared with them")
    if corrected:
        legend.append(f"{_CORRECTED}: 0 is chance, 1 the metric's best value, below 0 is worse than chance")
    if legend:
        parts.append(_section([Text(line, "dim") for line in paragraphs(legend, width, "", str)]))
    notes = list(run.notes)
    if missing := [name for name in declared if name not in metrics]:
        notes.append(f"not shown, for want of the plugin: {', '.join(missing)}")
    if notes:
        folded = paragraphs(notes, width, f"{glyphs.dot} " if panel else "- ", glyphs.clean)
        parts.append(_section([Text("Notes", "bold"), *map(Text, folded)]))
    return parts


def print_run(run: Run, console: Console, metrics: Mapping[str, Metric] | None = None) -> None:
    """Print a run: in colour and at its width on a terminal, else as plain text of 160 columns.

    Args:
        run: the run.
        console: where to print.
        metrics: by name; None: those of the benchmark, from the registry.
    """
    terminal = console.is_terminal
    parts = run_tables(
        run,
        _registered(run) if metrics is None else metrics,
        width=console.width if terminal else PIPE_WIDTH,
        glyphs=Glyphs.for_output(console.encoding, terminal=terminal),
        panel=terminal,
    )
    for number, part in enumerate(parts):
        if number:
            console.print()
        console.print(part, crop=False, no_wrap=True, overflow="ignore", highlight=False)


def export_svg(run: Run, path: Path, width: int = 120, metrics: Mapping[str, Metric] | None = None) -> None:
    """Write the tables as a terminal would show them, as an SVG image that loads nothing from elsewhere.

    Raises:
        XaibenchError: the file can't be written.
    """
    console = Console(record=True, width=width, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    print_run(run, console, metrics)
    svg = console.export_svg(title=f"{run.classifier} on {run.benchmark.name}")
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)  # fonts from a CDN
    try:
        write_atomically(path, lambda part: part.write_text(svg, encoding="utf-8"))
    except OSError as error:
        raise XaibenchError(f"can't write {path}: {error.strerror or error}") from error


def stands_out(run: Run, score: Score, metric: Metric) -> bool:
    """Return whether a score is marked; see `xaibench.results.marks.marks`, which tells it of all scores at once."""
    known = {**_registered(run), metric.name: metric}
    return (str(score.explainer), score.metric, score.class_name) in marking.marks(run, known)


def undefined_counts(metrics: Iterable[Metric], names: Collection[str], scoring: int) -> str:
    """Say what a pair without a score counts as, metric by metric where they differ.

    Args:
        metrics: declarations.
        names: of the scores in a run that have such pairs.
        scoring: by which rules the runs were scored.
    """
    lost = {name.partition("@")[0] for name in names}
    kinds: dict[str, list[str]] = {}
    for one in metrics:
        if one.name not in lost:
            continue
        level = "is left out"
        if scoring > 1 and one.counts_as is not None:
            level = f"counts as {one.counts_as:g}"
        elif scoring > 1 and one.corrected and one.chance is not None:
            level = "counts as chance"
        kinds.setdefault(level, []).append(one.title.partition(" (")[0])
    said = [f"{how} ({', '.join(titles)})" if len(kinds) > 1 else how for how, titles in kinds.items()]
    return f"in the value such a pair {', '.join(said)}, and is left out where the metric was given up"


def _fewer(run: Run) -> set[tuple[str | None, str]]:
    """Return explainer and score name of the means that are over fewer classes than another explainer's."""
    means = [s for s in run.select(class_name=MACRO) if s.explainer and s.value is not None]
    most: dict[str, int] = {}
    for score in means:
        most[score.metric] = max(most.get(score.metric, 0), score.classes)
    return {(score.explainer, score.metric) for score in means if score.classes < most[score.metric]}


def _registered(run: Run) -> dict[str, Metric]:
    from xaibench import registry

    found = {}
    for spec in run.benchmark.metrics:
        try:
            found[spec.name] = registry.get("metrics", spec.name).load()
        except PluginError:  # `run_tables` says which are missing
            continue
    return found


def _section(lines: Iterable[Text]) -> Text:
    return Text("\n", no_wrap=True, overflow="ignore").join(lines)


def _header(run: Run, width: int, glyphs: Glyphs, panel: bool) -> RenderableType:
    facts = {
        "classifier": run.classifier,
        "weights": _weights(run.record.get("weights")),
        "benchmark": f"{run.benchmark.name} {run.benchmark.hash[:8]}",
        "": run.benchmark.title,
        "test": _test_set(run),
        "saved in": str(run.directory) if run.directory else "",
    }
    room = width - 4 if panel else width
    key_width = max(map(len, facts)) + 2
    lines = []
    for key, value in facts.items():
        if not value:
            continue
        for number, part in enumerate(fold(glyphs.clean(value), room - key_width)):
            style = "bold" if key in ("classifier", "benchmark") else "dim" if not key else ""
            lines.append(Text.assemble(((key if number == 0 else "").ljust(key_width), "dim"), (part, style)))
    if not panel:
        return _section(lines)
    return Panel(_section(lines), box=ROUNDED, border_style="cyan", width=width, padding=(0, 1))


def _weights(weights: Any) -> str:
    if isinstance(weights, Mapping):
        digest = str(weights.get("sha256") or "")
        return str(weights.get("source") or "") + (f" (sha256 {digest[:12]})" if digest else "")
    return str(weights or "")


def _test_set(run: Run) -> str:
    """Say how large the test set is: from the record, else from the classifier's scores, which are on all of it."""
    counts = run.record.get("test")
    if isinstance(counts, Mapping) and {"images", "patients"} <= counts.keys():
        images, patients = int(counts["images"]), int(counts["patients"])
    else:
        scores = [score for score in run.scores if score.explainer is None]
        images = max((score.n for score in scores), default=0)
        patients = max((score.patients for score in scores), default=0)
    return f"{_count(images, 'image')} of {_count(patients, 'patient')}" if images else ""


def _count(number: int, word: str) -> str:
    return f"{number:,} {word}{'s' * (number != 1)}"


def _classification(run: Run, metrics: Sequence[Metric], width: int, glyphs: Glyphs) -> list[Text]:
    names = [_key(metric) for metric in metrics]
    rows = []
    for class_name in (*run.benchmark.classes, MACRO):
        scores = [_one(run.select(metric=name, class_name=class_name), None) for name in names]
        there = [score for score in scores if score is not None]
        if not there:
            continue
        cells = [_cell(score, metric, glyphs, 3) for score, metric in zip(scores, metrics, strict=True)]
        counts = [Cell(f"{max(s.n for s in there):,}"), Cell(f"{max(s.patients for s in there):,}")]
        label = glyphs.clean(class_name)
        rows.append(Row(label, [*cells, *counts], label_style="bold italic" if class_name == MACRO else "bold"))
    if not rows:
        return []
    headers = [*(_title(run, metric) for metric in metrics), "images", "patients"]
    grid = Grid(headers, [Group(rows)], glyphs, frozenset({len(metrics), len(metrics) + 1}))
    title = Text.assemble(("Classification", "bold"), (f"  {_interval(run, metrics)}", "dim"))
    return [_section([title, *grid.render(width)])]


def _groups(run: Run, metrics: Sequence[Metric], glyphs: Glyphs, marked: frozenset[marking.Cell]) -> list[Group]:
    """Return the rows of each class with scores, then those of the mean over the classes."""
    names = [_key(metric) for metric in metrics]
    fewer = _fewer(run)
    groups = []
    for class_name in (*run.benchmark.classes, MACRO):
        scores = [s for s in run.select(class_name=class_name) if s.metric in names and s.explainer and s.n]
        if not scores:
            continue
        rows = []
        for explainer in dict.fromkeys((*run.explainers, *run.baselines)):
            own = [_one([s for s in scores if s.metric == name], explainer) for name in names]
            there = [score for score in own if score is not None]
            if not there:
                continue
            cells = [
                _cell(
                    s,
                    m,
                    glyphs,
                    2,
                    mark=s is not None and (explainer, s.metric, class_name) in marked,
                    fewer=s is not None and class_name == MACRO and (explainer, s.metric) in fewer,
                )
                for s, m in zip(own, metrics, strict=True)
            ]
            constant = max(score.constant for score in there)
            baseline = explainer not in run.explainers
            rows.append(
                Row(
                    glyphs.clean(explainer),
                    cells,
                    style="dim" if baseline else "",
                    label_style="" if baseline else "bold",
                    remark=f"{constant:,} constant" if constant else "",
                )
            )
        rows.append(_chance_row(scores, metrics, glyphs))
        detail = f"{_span([s.n for s in scores], 'pair')}, {_span([s.patients for s in scores], 'patient')}"
        if class_name == MACRO:
            detail = f"mean over the classes above; {detail}"
        groups.append(Group(rows, glyphs.clean(class_name), detail))
    return groups + _corrected(run, metrics, glyphs)


def _corrected(run: Run, metrics: Sequence[Metric], glyphs: Glyphs) -> list[Group]:
    """Return the chance-corrected means over the classes, where there are any."""
    found = {(s.explainer, s.metric): s.corrected for s in run.select(class_name=MACRO)}
    rows = []
    for explainer in dict.fromkeys((*run.explainers, *run.baselines)):
        own = [found.get((explainer, _key(metric))) for metric in metrics]
        if any(value is not None for value in own):
            cells = [None if value is None else Cell(_fixed(value)) for value in own]
            baseline = explainer not in run.explainers
            look = {"style": "dim", "label_style": ""} if baseline else {}
            rows.append(Row(glyphs.clean(explainer), cells, **look))
    return [Group(rows, _CORRECTED, "mean over the classes")] if rows else []


def _chance_row(scores: Sequence[Score], metrics: Sequence[Metric], glyphs: Glyphs) -> Row:
    """Return the chance levels; two numbers where explainers are undefined on different pairs."""
    cells: list[Cell | None] = []
    for metric in metrics:
        levels = sorted({s.chance for s in scores if s.metric == _key(metric) and s.chance is not None})
        shown = list(dict.fromkeys(_number(level, metric, 2) for level in levels if not math.isnan(level)))
        cells.append(Cell(shown[0] if len(shown) == 1 else f"{shown[0]} to {shown[-1]}") if shown else None)
    return Row("chance", cells, style="dim italic", label_style="")


def _one(scores: Sequence[Score], explainer: str | None) -> Score | None:
    return next((score for score in scores if score.explainer == explainer), None)


def _cell(
    score: Score | None, metric: Metric, glyphs: Glyphs, digits: int, *, mark: bool = False, fewer: bool = False
) -> Cell | None:
    if score is None:
        return None
    remark = f"{score.nan:,} undef." if score.nan else ""
    if score.nan and score.defined is not None:
        remark += f", rest {_number(score.defined, metric, digits)}"
    if score.value is None or math.isnan(score.value):
        return Cell(glyphs.dash, remark=remark)
    value = _number(score.value, metric, digits) + (glyphs.fewer if fewer else "")
    low, high = (glyphs.dash if end is None else _number(end, metric, digits) for end in (score.low, score.high))
    interval = f"[{low}, {high}]"
    plain = score.low is not None and score.high is not None and score.low >= 0 and "e" not in low + high
    short = f"{low}{glyphs.dash}{high}" if plain else interval
    return Cell(value, interval, short, glyphs.mark if mark else "", remark)


def _number(value: float, metric: Metric, digits: int) -> str:
    """Format a score: fixed decimals where the metric stays within -1 to 1, else three significant digits or whole."""
    if max(map(abs, metric.range)) <= 1:
        return _fixed(value, digits)
    size = abs(value)
    if 100 <= size < 999_999.5:
        return f"{value:,.0f}"
    return f"{value:#.3g}".rstrip(".") if 1e-3 <= size < 100 or value == 0 else f"{value:.2e}"


def _fixed(value: float, digits: int = 2) -> str:
    shown = f"{value:.{digits}f}"
    return shown.removeprefix("-") if float(shown) == 0 else shown


def _span(numbers: Sequence[int], word: str) -> str:
    low, high = min(numbers), max(numbers)
    return _count(high, word) if low == high else f"{low:,} to {_count(high, word)}"


def _key(metric: Metric) -> str:
    """Return the name that a headline score has in a run: a curve has its abscissa behind it."""
    if metric.headline_at is None:
        return metric.name
    at = metric.headline_at
    return f"{metric.name}@{at}" if isinstance(at, str) else f"{metric.name}@{at:.2f}"


def _shown(metric: Metric) -> list[Metric]:
    """Return a metric for each of its columns: two, tuned and oracle, where it chooses a threshold of the map."""
    if metric.pool is None or metric.pool.thresholds is None:
        return [metric]
    return [replace(metric, headline_at=name.partition("@")[2]) for name in metric.pool.names(metric.name)]


def _title(run: Run, metric: Metric) -> str:
    """Return the column's title. Parameters that the benchmark changes take the place of the title's brackets."""
    title = metric.title
    spec = next(spec for spec in run.benchmark.metrics if spec.name == metric.name)
    abscissas = (metric.curve, metric.pool.thresholds if metric.pool else None)
    changed = {k: v for k, v in spec.parameters.items() if k not in abscissas and metric.parameters.get(k) != v}
    if changed:
        title = f"{title.partition(' (')[0]} ({', '.join(f'{k} {v}' for k, v in changed.items())})"
    if metric.headline_at is not None:
        at = metric.headline_at
        title += f" ({at})" if isinstance(at, str) else f" (at {at:g})"
    return title + (" (lower is better)" if metric.direction == "lower" else "")


def _level(run: Run) -> str:
    return f"{100 * run.benchmark.statistics.confidence:.4g}%"


def _interval(run: Run, metrics: Sequence[Metric]) -> str:
    names = {_key(metric) for metric in metrics}
    ways = dict.fromkeys(s.interval for s in run.scores if s.metric in names and s.low is not None)
    return f"{_level(run)} intervals: {', '.join(INTERVAL_WAYS.get(way, way) for way in ways)}" if ways else ""


def _marks_legend(run: Run, metrics: Mapping[str, Metric], judged: marking.Marks, glyphs: Glyphs) -> list[str]:
    """Say what a mark means, that there is none and why, and which metrics can have none."""
    lines = [f"{glyphs.mark} {marking.meaning([run])}"]
    if judged.reason:
        lines.append(f"no {glyphs.mark} here: {judged.reason}")
    elif not judged.cells:
        lines.append(f"no {glyphs.mark} here: none of the {sum(judged.tested.values())} cells tested is")
    if not judged.reason and (names := marking.untested(run, metrics, judged)):
        why = "not judged against chance, or without scores of images"
        lines.append(f"never {glyphs.mark} ({why}): {', '.join(names)}")
    return lines
