"""The cells of a comparison as strings, the same for a terminal, Markdown and LaTeX."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from string import ascii_lowercase

from xaibench.reporting.tables.layout import FEWER
from xaibench.reporting.tables.run import INTERVAL_WAYS, undefined_counts
from xaibench.results.comparison.compared import POWER, PRIMARY, ComparedRuns, MetricTable, Standing
from xaibench.results.run import MACRO
from xaibench.statistics import Comparison, Interval

DASH = "-"
SEEDS, DEFINED, RANKS = "seeds", "defined only", "mean rank"
_OPTIONAL: Mapping[str, Callable[[Standing, MetricTable], bool]] = {
    SEEDS: lambda one, table: one.seeds > 1,
    DEFINED: lambda one, table: one.undefined > 0,
    RANKS: lambda one, table: table.class_name == MACRO and math.isfinite(one.mean_rank),
}
"""Columns that stand only where they say something."""
BETTER, WORSE = "better", "worse"
_TESTS = {
    "permutation": "permutation by patient",
    "exact permutation": "all permutations by patient",
    "two levels": "training seeds and patients as two levels",
    "DeLong": "DeLong's",
    "bootstrap": "bootstrap by patient",
}
"""Tests, in words."""


@dataclass(frozen=True)
class Shown:
    """A number, its interval, and which way a difference that survives points: "better", "worse" or nothing."""

    value: str
    interval: str = ""
    verdict: str = ""


@dataclass(frozen=True)
class Line:
    """A row: the letter that others name it by, its label, and a cell (or nothing) for each column."""

    letter: str
    label: str
    cells: tuple[Shown | None, ...]
    is_baseline: bool = False


@dataclass(frozen=True)
class Block:
    """The rows of one metric and class."""

    heading: str
    detail: str
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Part:
    """One table: a category's standings, or its paired differences."""

    title: str
    headers: tuple[str, ...]
    blocks: tuple[Block, ...]
    numbers: frozenset[int]
    """Columns that are set flush right."""
    caption: str = ""
    labels: str = "explainer"
    """What the rows are: explainers, classifiers, or two of them."""


def parts(compared: ComparedRuns, *, pairs: bool = False) -> list[Part]:
    """Return a table for each category, and with `pairs` one of its differences behind it."""
    letters = letters_of(compared)
    found = []
    for category, tables in compared.categories.items():
        found.append(_standings(compared, category, tables, letters))
        if pairs and any(table.pairs for table in tables):
            found.append(_differences(compared, category, tables))
    return found


def letters_of(compared: ComparedRuns) -> dict[str, str]:
    """Return the letter of each label: a, b, ... for explainers, A, B, ... for classifiers."""
    classifiers = dict.fromkeys(
        standing.entrant.label
        for table in compared.tables
        for standing in table.standings
        if standing.entrant.explainer is None
    )
    found = {one.label: _letter(number) for number, one in enumerate(compared.entrants)}
    return found | {label: _letter(number).upper() for number, label in enumerate(classifiers)}


def _letter(number: int) -> str:
    """Return a, b, ..., z, aa, ab, ...

    >>> _letter(0), _letter(25), _letter(26), _letter(53)
    ('a', 'z', 'aa', 'bb')
    """
    before, last = divmod(number, len(ascii_lowercase))
    return (_letter(before - 1) if before else "") + ascii_lowercase[last]


def _standings(compared: ComparedRuns, category: str, tables: Sequence[MetricTable], letters: dict[str, str]) -> Part:
    optional = [
        name
        for name, shown in _OPTIONAL.items()
        if any(shown(one, table) for table in tables for one in table.standings)
    ]
    headers = ["value", *(name for name in optional if name != RANKS), "chance", "chance corrected", "rank"]
    headers += [RANKS, "first"] if RANKS in optional else []
    versus = any(table.reference for table in tables)
    tested = any(table.pairs for table in tables)
    headers += ["difference", "effect", "p"] if versus else ["better than"] if tested else []
    blocks = []
    for table in tables:
        lines = [
            Line(
                letters[one.entrant.label] if tested and not versus else "",
                one.entrant.label,
                (
                    *_values(one, table, headers),
                    *_verdicts(one, table, compared, letters, versus=versus, tested=tested),
                ),
                one.entrant.is_baseline,
            )
            for one in table.standings
        ]
        blocks.append(Block(table.title, _detail(table, tables), tuple(lines)))
    labels = "classifier" if category == "classification" else "explainer"
    right = ("chance", "chance corrected", "rank", "first", "p")
    numbers = frozenset(number for number, header in enumerate(headers) if header in right)
    return Part(category.capitalize(), tuple(headers), tuple(blocks), numbers, _caption(compared, tables), labels)


def _values(one: Standing, table: MetricTable, headers: Sequence[str]) -> tuple[Shown | None, ...]:
    """Return the cells of the columns before the verdicts."""
    fewer = FEWER if one.entrant.label in table.fewer_classes else ""
    interval = span(one.low, one.high, table) if one.value is not None else ""
    cells: dict[str, Shown | None] = {
        "value": Shown(number(one.value, table) + fewer, interval),
        SEEDS: Shown(str(one.seeds)),
        DEFINED: Shown(number(one.defined, table), f"without {one.undefined:,}") if one.undefined else None,
        "chance": Shown(number(one.chance, table)),
        "chance corrected": Shown(fixed(one.corrected, 2)),
        "rank": _rank(one.rank),
        RANKS: None,
        "first": None,
    }
    if math.isfinite(one.mean_rank):
        cells[RANKS] = Shown(f"{one.mean_rank:.1f}", f"[{one.rank_low:g}, {one.rank_high:g}]")
        cells["first"] = Shown(f"{one.rank_first:.0%}")
    return tuple(cells[header] for header in headers if header in cells)


def _verdicts(
    one: Standing,
    table: MetricTable,
    compared: ComparedRuns,
    letters: dict[str, str],
    *,
    versus: bool,
    tested: bool,
) -> tuple[Shown | None, ...]:
    if versus:
        pair = one.against
        if pair is None:
            return (Shown("0") if one.entrant.label == table.reference else None), None, None
        return _difference(pair, table, compared.alpha)
    if not tested:
        return ()
    beaten = sorted((letters[label] for label in one.better_than), key=lambda letter: (len(letter), letter))
    return (Shown(" ".join(beaten)) if beaten else None,)


def _difference(pair: Comparison, table: MetricTable, alpha: float) -> tuple[Shown | None, ...]:
    verdict = (BETTER if table.is_better(pair.difference) else WORSE) if table.survives(pair, alpha) else ""
    difference = Shown(number(pair.difference, table, sign=True), _ends(pair.interval, table), verdict)
    effect = None
    if math.isfinite(pair.effect):
        effect = Shown(fixed(pair.effect, 2, sign=True), _bracket(pair.effect_interval))
    return difference, effect, Shown(p_value(pair.p_holm))


def _differences(compared: ComparedRuns, category: str, tables: Sequence[MetricTable]) -> Part:
    blocks = []
    for table in tables:
        if not table.pairs:
            continue
        lines = [
            Line("", f"{pair.first} - {pair.second}", (*_difference(pair, table, compared.alpha), Shown(pair.method)))
            for pair in table.pairs
        ]
        blocks.append(Block(table.title, _detail(table, tables), tuple(lines)))
    headers = ("difference", "effect", "p", "test")
    title = f"{category.capitalize()}: paired differences"
    return Part(title, headers, tuple(blocks), frozenset({2}), _of_class(tables), "first - second")


def _of_class(tables: Sequence[MetricTable]) -> str:
    """Say which class a part is about, where it is about one alone."""
    names = {table.class_name for table in tables}
    if len(names) > 1:
        return ""
    return "mean over the classes" if names == {MACRO} else f"class {names.pop()}"


def _detail(table: MetricTable, tables: Sequence[MetricTable]) -> str:
    counts = [one for one in table.standings if one.n]
    unit = "image" if table.category == "classification" else "pair"
    pieces = [] if _of_class(tables) else [_of_class([table])]
    if counts:
        pieces.append(
            f"{_count([one.n for one in counts], unit)} of {_count([one.patients for one in counts], 'patient')}"
        )
    if table.direction == "lower":
        pieces.append("lower is better")
    if len(table.standings) > 1 and not table.pairs:
        pieces.append("not tested: no score of an image")
    if table.pairs:
        pieces.append(table.role)
    if seen := _could_have_shown(table):
        pieces.append(seen)
    return ", ".join(pieces)


def _could_have_shown(table: MetricTable) -> str:
    """Say which difference these comparisons could have shown."""
    found = sorted(one for one in table.detectable.values() if math.isfinite(one))
    if not found:
        return "no difference that the metric can have could have been shown" if table.detectable else ""
    low, high = (number(one, table) for one in (found[0], found[-1]))
    low = "under 0.01" if low == "0.00" and found[0] > 0 else low
    sizes, depends = (low, "") if low == high else (f"{low} to {high}", ", depending on the two")
    return f"could have shown a difference of {sizes} ({POWER:.0%} power{depends})"


def _count(numbers: Sequence[int], word: str) -> str:
    low, high = min(numbers), max(numbers)
    return f"{high:,} {word}{'s' * (high != 1)}" if low == high else f"{low:,} to {high:,} {word}s"


def _caption(compared: ComparedRuns, tables: Sequence[MetricTable]) -> str:
    return "; ".join(text for text in (_of_class(tables), _intervals(compared, tables)) if text)


def _intervals(compared: ComparedRuns, tables: Sequence[MetricTable]) -> str:
    level = f"{100 * compared.runs[0].benchmark.statistics.confidence:.4g}%"
    ways = dict.fromkeys(one.interval for table in tables for one in table.standings if one.low is not None)
    return f"{level} intervals: {', '.join(INTERVAL_WAYS.get(way, way) for way in ways)}" if ways else ""


def legend(compared: ComparedRuns, *, pairs: bool = False, signs: tuple[str, str] = ("better", "worse")) -> list[str]:
    """Return the lines below the tables: what the columns and marks mean, and which tests were made."""
    lines = ["chance corrected: 0 at the chance level, 1 when perfect; rank: by value, 1 the best"]
    standings = [one for table in compared.tables for one in table.standings]
    lost = {table.metric for table in compared.tables if any(one.undefined for one in table.standings)}
    if lost:
        how = undefined_counts(compared.metrics, lost, compared.runs[0].benchmark.scoring)
        lines.append(f"{DEFINED}: the value without the pairs (so many) that have no score; {how}")
    if any(table.fewer_classes for table in compared.tables):
        lines.append(f"{FEWER} mean over fewer classes than the others', so not to be compared with them")
    if any(_OPTIONAL[RANKS](one, table) for table in compared.tables for one in table.standings):
        level = f"{100 * compared.runs[0].benchmark.statistics.confidence:.4g}%"
        lines.append(
            f"{RANKS}: over resamples of the patients, with {level} limits; first: share of them in which it's best"
        )
    if any(one.seeds > 1 for one in standings):
        lines.append(
            f"{SEEDS}: trainings that differ in the seed alone, as one explainer; value: their mean, its interval of "
            f"seeds and patients; {RANKS} and first move with the patients alone, over the seeds' mean"
        )
    methods = dict.fromkeys(pair.method for table in compared.tables for pair in table.pairs)
    if not methods:
        return lines
    lines.append(_roles(compared))
    tests = ", ".join(_TESTS.get(method, method) for method in methods)
    counts = sorted({len(table.pairs) for table in compared.tables if table.pairs})
    many = str(counts[-1]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    level = f"p at most {compared.alpha:g} after Holm's correction over the {many} comparisons of a metric"
    if compared.against is not None:
        lines.append(
            f"difference: from {compared.against}, in pairs; {signs[0]} or {signs[1]} at {level} (tests: {tests})"
        )
    else:
        lines.append(f"better than: letters of those it beats at {level} (tests: {tests})")
    if compared.against is not None or pairs:
        lines.append("effect: difference over the standard deviation of the pairs' differences (Cohen's d_z)")
        if pairs and compared.against is None:
            lines.append(f"{signs[0]} or {signs[1]}: a difference that survives, first less second")
    return lines


def _roles(compared: ComparedRuns) -> str:
    named = compared.runs[0].benchmark.primary
    if named is None:
        return "the benchmark names no primary metric: every p is exploratory, corrected within its own table alone"
    primary = next((table for table in compared.tables if table.role == PRIMARY), None)
    rest = "exploratory: p corrected within its own table alone"
    if primary is None:
        return f"primary metric: {named}, whose mean over the classes is not shown here; {rest}"
    return f"primary: {primary.title}, named in the benchmark; its comparisons are the family of tests; {rest}"


def number(value: float | None, table: MetricTable, *, sign: bool = False) -> str:
    """Format a score: fixed decimals where the metric stays within -1 to 1, else three significant digits."""
    if value is None or math.isnan(value):
        return DASH
    if max(map(abs, table.bounds)) <= 1:
        return fixed(value, 3 if table.category == "classification" else 2, sign=sign)
    plus = "+" if sign and value > 0 else ""
    return plus + (f"{value:#.3g}".rstrip(".") if 1e-3 <= abs(value) < 1e3 or value == 0 else f"{value:.2e}")


def fixed(value: float, digits: int, *, sign: bool = False) -> str:
    """Format with fixed decimals, zero without a sign.

    >>> fixed(-0.001, 2), fixed(0.5, 2, sign=True), fixed(float("nan"), 2), fixed(float("inf"), 2)
    ('0.00', '+0.50', '-', 'inf')
    """
    if math.isnan(value):
        return DASH
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    shown = f"{value:.{digits}f}"
    if float(shown) == 0:
        return shown.removeprefix("-")
    return f"+{shown}" if sign and value > 0 else shown


def span(low: float | None, high: float | None, table: MetricTable) -> str:
    """Return an interval in brackets."""
    return f"[{number(low, table)}, {number(high, table)}]"


def _ends(interval: Interval, table: MetricTable) -> str:
    return span(interval.low, interval.high, table)


def _bracket(interval: Interval) -> str:
    return f"[{fixed(interval.low, 2)}, {fixed(interval.high, 2)}]"


def _rank(rank: float) -> Shown:
    return Shown(DASH if math.isnan(rank) else f"{rank:g}")


def p_value(p: float) -> str:
    """Format a p-value.

    >>> p_value(0.0004), p_value(0.0321), p_value(1.0)
    ('<0.001', '0.032', '1')
    """
    if math.isnan(p):
        return DASH
    return "<0.001" if p < 0.001 else "1" if p >= 0.9995 else f"{p:.3f}"
