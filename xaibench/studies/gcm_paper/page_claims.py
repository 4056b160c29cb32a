"""What a reproduction's page says of its own claims: what was measured on what, and where it departs from the paper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from xaibench.datasets.chestxray8.cohort import Overlap
from xaibench.published import Published
from xaibench.reporting.page import Block, Table, Text
from xaibench.studies.gcm_paper.reproduce import Reproduction

NIH = "published (NIH)"
"""Heads a column of published values."""


def not_alike(found: Reproduction) -> list[Block]:
    """Return a line for every section that has published values beside others of other data, or by another protocol."""
    if found.like_for_like:
        return []
    if not found.runs:
        return [Text("Published values are the paper's, on the NIH release; nothing was measured here.")]
    return [
        Text(
            f"Published values are the paper's, on the NIH release; those here are on {found.measured_on}: not like "
            "for like."
        )
    ]


def paper_departures(found: Reproduction, published: Published) -> Table:
    """Return where training differs from the paper's, counted on the complete tables and on the images used."""
    cohort, audit = published.cohort, found.audit
    drawn = audit.preset(found.preset) if audit else None
    names = [name for name in found.base.classes if name in cohort.train]
    rows = [
        [
            "training images of a class",
            _listed({name: cohort.train[name] for name in names}),
            "-" if drawn is None else _trained(drawn.train, drawn.validation),
            _used_trainings(found),
        ]
    ]
    complete = [overlap for overlap in audit.overlaps if overlap.preset == found.preset] if audit else []
    for one, other in dict.fromkeys(overlap.subsets for overlap in (*complete, *found.overlaps)):
        rows.append(
            [
                f"images that subsets {one} and {other} share",
                "not stated; drawn at random",
                *(_shared(overlaps, (one, other)) for overlaps in (complete, found.overlaps)),
            ]
        )
    headers = ["what", "the paper", "here, of the complete tables", "here, of the images used"]
    return Table(headers, rows, "Where the training departs from the paper, or may")


def open_doubts(found: Reproduction) -> list[list[str]]:
    """Return rows for the points left open: patients on both sides, and negatives that carry the class's label."""
    drawn = found.audit.preset(found.preset) if found.audit else None
    rows = []
    for what, complete, used in (
        (
            "a test patient may be in the training",
            "" if drawn is None else _shares(drawn.leaking, drawn.test),
            "; ".join(_shares(counts.leaking, counts.test) for counts in found.counts[:1]),
        ),
        (
            "a negative may carry the class's label",
            "" if drawn is None else _shares(drawn.contradicting, drawn.negatives),
            "; ".join(_shares(counts.contradicting, counts.negatives) for counts in found.counts[:1]),
        ),
    ):
        parts = [f"complete tables: {complete}" if complete else "", f"images used, subset 0: {used}" if used else ""]
        rows.append([what, "; ".join(part for part in parts if part) or "not counted: no image was drawn"])
    return rows


def doubt_table(found: Reproduction) -> list[Block]:
    """Return per class what flatters and what contradicts, by each split rule on the complete tables."""
    if found.audit is None:
        return []
    presets = [preset for preset in found.audit.tables if not preset.problem]
    rows = []
    for name in found.base.classes:
        row = [name]
        for preset in presets:
            row += [
                f"{preset.leaking[name]:,} of {preset.test[name]:,}",
                f"{preset.leaking_any[name]:,} of {preset.test[name]:,}",
                f"{preset.contradicting[name]:,} of {preset.negatives[name]:,}",
            ]
        rows.append(row)
    headers = ["class"]
    for preset in presets:
        headers += [f"{preset.preset}: patient in training", "in training or validation", "negatives with the label"]
    return [
        Table(headers, rows, "Test images of training patients, and negatives that Data_Entry labels with the class")
    ]


def used_doubt_table(found: Reproduction) -> list[Block]:
    """Return the same of the images used, subset by subset."""
    if not found.counts or not found.counts[0].leaking:
        return []
    rows = []
    for name in found.base.classes:
        row = [name]
        for counts in found.counts:
            row += [
                f"{counts.leaking[name]:,}, {counts.leaking_any[name]:,} of {counts.test[name]:,}",
                f"{counts.contradicting[name]:,} of {counts.negatives[name]:,}",
            ]
        rows.append(row)
    headers = ["class"]
    for subset in range(len(found.counts)):
        headers += [f"subset {subset}: patient in training, or in validation too", "negatives with the label"]
    return [Table(headers, rows, "The same of the images used here")]


def _trained(side: Mapping[str, int], validation: Mapping[str, int]) -> str:
    parts = (f"{name} {side[name] - validation[name]:,} of {side[name]:,}" for name in side)
    return f"{', '.join(parts)}; the rest validates"


def _used_trainings(found: Reproduction) -> str:
    if not found.counts:
        return "-"
    counts = found.counts[0]
    both = {name: counts.train[name] + counts.val[name] for name in counts.train}
    return _trained(both, counts.val)


def _shared(overlaps: Sequence[Overlap], subsets: tuple[int, int]) -> str:
    found = next((overlap for overlap in overlaps if overlap.subsets == subsets), None)
    return "-" if found is None else _shares(found.shared, found.images)


def _shares(part: Mapping[str, int], whole: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {part[name]:,} of {whole[name]:,}" for name in part)


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {n:,}" for name, n in counts.items())
