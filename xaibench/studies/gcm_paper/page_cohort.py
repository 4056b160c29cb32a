"""The cohort in a reproduction's page: what each split rule draws beside the paper's table 1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from xaibench.datasets.chestxray8.cohort import CohortAudit, PresetCounts, departures
from xaibench.published import Published
from xaibench.reporting.page import Block, Missing, Section, Table, Text
from xaibench.studies.gcm_paper.page_claims import NIH, doubt_table, not_alike, used_doubt_table
from xaibench.studies.gcm_paper.reproduce import Counts, Reproduction


def cohort_section(found: Reproduction, published: Published) -> Section:
    """Table 1."""
    cohort = published.cohort
    blocks = not_alike(found) if found.audit is None else []  # the audit is of the release's own tables
    if found.audit is None:
        blocks.append(Missing(found.missing.get("audit", ""), "The audit of the NIH tables"))
    else:
        blocks += _audit_blocks(found.audit, published)
        blocks += doubt_table(found)
    if not found.counts:
        return Section("Cohort (table 1)", blocks)
    rows = []
    for name in found.base.classes:
        row = [name, _count(cohort.train, name), _count(cohort.test, name)]
        for counts in found.counts:
            row += [f"{counts.train[name]:,} + {counts.val[name]:,}", f"{counts.test[name]:,}"]
        rows.append(row)
    rows.append(["patients", "-", "-", *(cell for counts in found.counts for cell in _patients(counts))])
    headers = ["class", f"{NIH} train", f"{NIH} test"]
    for subset in range(len(found.counts)):
        headers += [f"subset {subset}: train + val", "test"]
    blocks.append(Table(headers, rows, "Images used here"))
    blocks += used_doubt_table(found)
    return Section("Cohort (table 1)", blocks)


def _patients(counts: Counts) -> list[str]:
    train, val, test = counts.patients
    return [f"{train:,} + {val:,}", f"{test:,}"]


def _count(counts: Mapping[str, int], name: str) -> str:
    return f"{counts[name]:,}" if name in counts else "-"


def _audit_blocks(audit: CohortAudit, published: Published) -> list[Block]:
    facts = [
        [
            row.name,
            f"{row.single_label:,}",
            "no list" if row.single_label_train_val is None else f"{row.single_label_train_val:,}",
            f"{row.boxes:,}",
            f"{row.single_box:,}",
            f"{row.shared:,}",
        ]
        for row in audit.classes
    ]
    headers = ["class", "only label", "of those in the official train list", "boxes", "images with that one box only"]
    blocks: list[Block] = [
        Text(
            f"The tables name {audit.images:,} images of {audit.patients:,} patients; {audit.found:,} images are found."
        ),
        Table([*headers, "only label, patient has a boxed image"], facts, "What the tables hold"),
        _preset_table(audit.tables, published, "Drawn from the complete tables: train / test"),
        _preset_checks(audit.tables, "Checks on the complete tables"),
    ]
    if audit.present:
        blocks.append(_preset_table(audit.present, published, "Drawn from the images found: train / test"))
        blocks.append(_preset_checks(audit.present, "Checks on the images found"))
    else:
        reason = "all images are there" if audit.found else "no image is there"
        blocks.append(Text(f"No second count from the images found: {reason}."))
    off = {preset.preset: departures(preset, published.cohort) for preset in audit.tables if not preset.problem}
    for name, differences in off.items():
        if differences:
            blocks.append(Text(f"Preset {name} does not give table 1: {'; '.join(differences)}."))
    if off and all(off.values()):
        blocks.append(
            Text("No preset gives table 1's counts: they do not follow from the rules that the paper states.")
        )
    if (changes := audit.changes) is None:
        blocks.append(Missing("no older Data_Entry table was given: --older-entries FILE", "Labels changed since"))
        return blocks
    blocks.append(
        Text(
            f"Against {changes.source}: {changes.changed:,} of {changes.compared:,} images have other labels; "
            f"{changes.only_older:,} images are in the older table only, {changes.only_newer:,} in the newer only. "
            + "; ".join(changes.examples)
        )
    )
    rows = [
        [name, f"{changes.lost[name]:,}", f"{changes.gained[name]:,}", f"{changes.single_label[name]:,}"]
        for name in changes.lost
    ]
    blocks.append(Table(["class", "label lost", "label gained", "only label in the older table"], rows))
    return blocks


def _preset_table(presets: Sequence[PresetCounts], published: Published, caption: str) -> Table:
    names = next((list(preset.train) for preset in presets if not preset.problem), [])
    cohort = published.cohort
    rows = []
    for name in names:
        cells = [f"{p.train[name]:,} / {p.test[name]:,}" if not p.problem else "-" for p in presets]
        rows.append([name, f"{_count(cohort.train, name)} / {_count(cohort.test, name)}", *cells])
    return Table(["class", NIH, *(preset.preset for preset in presets)], rows, caption)


def _preset_checks(presets: Sequence[PresetCounts], caption: str) -> Table:
    rows = [
        [preset.preset, *["-"] * 4, preset.problem]
        if preset.problem
        else [
            preset.preset,
            f"{preset.patients[0]:,} / {preset.patients[1]:,}",
            f"{preset.shared_patients:,}",
            f"{preset.shared_images:,}",
            f"{preset.boxed_in_train:,}",
            "",
        ]
        for preset in presets
    ]
    headers = ["preset", "patients train / test", "patients on both sides", "training images of those"]
    return Table([*headers, "boxed images in training", "remark"], rows, caption)
