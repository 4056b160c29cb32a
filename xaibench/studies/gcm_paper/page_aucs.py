"""What a reproduction's page says of the classifiers: ROC-AUC beside the published one, and compared."""

from __future__ import annotations

import itertools

import numpy as np

from xaibench.published import Published
from xaibench.reporting.page import Block, Missing, Section, Table, Text
from xaibench.results.run import MACRO
from xaibench.studies.gcm_paper.page_claims import NIH, not_alike
from xaibench.studies.gcm_paper.page_scores import level, number, of_fewer, p_value, ranged
from xaibench.studies.gcm_paper.reproduce import BESIDE, Reproduction
from xaibench.studies.gcm_paper.subsets import MARGIN, MeanAUC
from xaibench.studies.gcm_paper.variants import CLASSIFIERS

_STRICT = "ROC-AUC without leaking patients and contradicting negatives"


def auc_section(found: Reproduction, published: Published) -> Section:
    """Table 5."""
    title = "ROC-AUC (table 5)"
    if not found.aucs:
        reason = found.missing.get("runs", "")
        absent = [Missing(reason, what) for what in ("Measured ROC-AUC", _STRICT)]
        return Section(title, [*not_alike(found), _published_aucs(published), *absent, *_beside_blocks(found)])
    rows = []
    for position, name in enumerate((*found.base.classes, MACRO)):
        row = ["mean of the classes" if name == MACRO else name]
        for classifier in CLASSIFIERS:
            printed = dict(published.roc_auc.classifiers[classifier])
            printed[MACRO] = float(np.mean(list(printed.values())))
            auc = found.aucs[classifier][position]
            row += [
                f"{printed[name]:.3f}" if name in printed else "-",
                ranged(auc.value, auc.low, auc.high),
                ", ".join(f"{value:.3f}" for value in auc.subsets),
            ]
        rows.append(row)
    headers = [
        "class",
        f"GCM {NIH}",
        "GCM here, mean",
        "subsets",
        f"DenseNet {NIH}",
        "DenseNet here, mean",
        "subsets",
    ]
    best = ", ".join(f"{name}: subset {subset}" for name, subset in found.best.items())
    other = not_alike(found)
    if set(found.base.classes) != set(published.roc_auc.classifiers["gcm"]) or found.base.task != "multiclass":
        known = ", ".join(published.roc_auc.classifiers["gcm"])
        other.append(Text(f"Published for another task, one of {known} for each image: no like for like."))
    return Section(
        title,
        [
            *other,
            Table(headers, rows, f"Mean of the subsets; {level(found)} bootstrap intervals by patient"),
            Text(
                "The interval covers the draw of the test's patients; the spread of the subsets shows the training's."
            ),
            Text(f"Best subset by the mean over the classes: {best}."),
            *_strict_blocks(found),
            *_beside_blocks(found),
        ],
    )


def _strict_blocks(found: Reproduction) -> list[Block]:
    """ROC-AUC without leaking patients and contradicting negatives, of the same predictions."""
    first = CLASSIFIERS[0]
    if not _leaves_out(found):
        return [
            Text(
                "No test image is of a patient of training or validation, and no negative carries the class's label: "
                "there is nothing to leave out."
            )
        ]
    rows, absent = [], list[Block]()
    for k, name in enumerate((*found.base.classes, MACRO)):
        every, left = found.aucs[first][k], found.strict[first][k]
        row = ["mean of the classes" if name == MACRO else name, _left(left), _left(every)]
        for classifier in CLASSIFIERS:
            every, left = found.aucs[classifier][k], found.strict[classifier][k]
            row += [ranged(every.value, every.low, every.high), ranged(left.value, left.low, left.high)]
            row[-1] += of_fewer([auc.value for auc in found.strict[classifier][:-1]]) if name == MACRO else ""
        rows.append(row)
        if left.value != left.value:
            absent.append(
                Missing("in one of the subsets no image of it, or none without it, is left", f"{_STRICT}: {name}")
            )
    headers = ["class", "images left, with + without", "of", "GCM", "GCM, without these"]
    headers += ["DenseNet-121", "DenseNet-121, without these"]
    caption = (
        "The same predictions without test images of training or validation patients, and without negatives that the "
        f"data label with the class; {level(found)} bootstrap intervals by patient"
    )
    return [Table(headers, rows, caption), *absent]


def _leaves_out(found: Reproduction) -> bool:
    """Tell whether `Reproduction.strict` is of fewer images."""
    first = CLASSIFIERS[0]
    return any(
        (every.positives, every.negatives) != (left.positives, left.negatives)
        for every, left in zip(found.aucs[first], found.strict[first], strict=True)
    )


def _left(auc: MeanAUC) -> str:
    return ", ".join(f"{n} + {m}" for n, m in zip(auc.positives, auc.negatives, strict=True)) or "-"


def _beside_blocks(found: Reproduction) -> list[Block]:
    """The same study with patients apart."""
    if found.beside is None:
        return []
    studies = (found, found.beside)
    rows = []
    for k, name in enumerate((*found.base.classes, MACRO)):
        row = ["mean of the classes" if name == MACRO else name]
        for study, classifier in itertools.product(studies, CLASSIFIERS):
            auc = study.aucs[classifier][k] if study.aucs else None
            row.append("-" if auc is None else ranged(auc.value, auc.low, auc.high))
        rows.append(row)
    headers = ["class", *(f"{title}, {study.preset}" for study in studies for title in ("GCM", "DenseNet-121"))]
    caption = f"Mean of the subsets by two split rules; other test images, so no paired test. More in {BESIDE}/"
    absent = [
        Missing(study.missing.get("runs", ""), f"ROC-AUC by the split rule {study.preset}")
        for study in studies
        if not study.aucs
    ]
    return [Table(headers, rows, caption), *absent]


def _published_aucs(published: Published) -> Table:
    values = published.roc_auc.classifiers
    rows = [[name, *(f"{values[classifier][name]:.3f}" for classifier in CLASSIFIERS)] for name in values["gcm"]]
    return Table(["class", f"GCM {NIH}", f"DenseNet {NIH}"], rows)


def difference_section(found: Reproduction) -> Section:
    """GCM less DenseNet-121 on the same images."""
    title = "GCM against DenseNet-121 on the same images"
    if not found.differences:
        reason = found.missing.get("runs", "")
        return Section(title, [Missing(reason, what) for what in ("Paired comparison", "Equivalence test")])
    rows = [
        [
            f"subset {item.subset}: {item.class_name}",
            number(item.first),
            number(item.second),
            ranged(item.difference, item.low, item.high),
            p_value(item.p),
            p_value(item.p_holm),
        ]
        for item in found.differences
    ]
    caption = f"DeLong's paired test, patients as clusters; {level(found)} intervals; Holm over all rows"
    tests = Table(["", "GCM", "DenseNet-121", "difference", "p", "p after Holm"], rows, caption)
    return Section(title, [tests, *_equivalence_blocks(found)])


def _equivalence_blocks(found: Reproduction) -> list[Block]:
    """Whether "comparable" holds, by a test that can say so."""
    rows = []
    for item in found.equivalence:
        if item.usable and not _leaves_out(found):
            continue  # the same images once more
        name, images = item.class_name, "without leaks and contradictions" if item.usable else "all test images"
        if name == MACRO:
            alike = [one.difference for one in found.equivalence if one.usable == item.usable and one is not item]
            name = "mean of the classes" + of_fewer(alike)
        rows.append(
            [
                f"{name}, {images}",
                ranged(item.difference, item.low, item.high),
                p_value(item.p),
                "yes" if item.equivalent else "not shown",
            ]
        )
    caption = (
        f"Comparable on the mean of the subsets: two one-sided tests (TOST), margin {MARGIN:g} in ROC-AUC, at 0.05; "
        "90% intervals. Standard errors by the bootstrap of patients, with their images in all subsets"
    )
    text = (
        "A p above 0.05 in the table before this one is no sign that two are comparable: few patients give one "
        "too. The tests cover the draw of the test's patients, not that of the "
        f"trainings, of which there are {len(found.benchmarks)}. They are not corrected for their number."
    )
    return [Table(["class", "GCM less DenseNet-121", "p", "comparable"], rows, caption), Text(text)]
