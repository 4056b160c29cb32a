"""What a reproduction's page says of the maps: localization, normal images."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from xaibench import registry
from xaibench.published import BoxAccuracy, Published
from xaibench.reporting.page import Block, Missing, Picture, Section, Table, Text
from xaibench.results.run import MACRO, Run, Score
from xaibench.statistics import mean_intervals, wilson_interval
from xaibench.studies.gcm_paper.normal_maps import IMAGE, LUNGS, NORMAL, MapArea
from xaibench.studies.gcm_paper.page_claims import NIH, not_alike
from xaibench.studies.gcm_paper.reproduce import MAPS, Reproduction

SHOWN_THRESHOLDS = (0.1, 0.25, 0.5, 0.75, 0.9)
"""Of the 19 of the curves; the figure and the run's tables have all."""
SHARES = (0.1, 0.5)
"""Shares of the box that must be visible for an image to count as a hit."""
HEADLINES = ("hit_rate", "pointing_game", "energy", "iou_otsu")


def localization_section(found: Reproduction, published: Published, curves: Sequence[Picture]) -> Section:
    """Sec. 5.2 made exact, on each classifier's best subset."""
    title = "Localization (sec. 5.2)"
    hits = published.visual_hits
    rows = [[name, by_eye(published, name)] for name in hits.counts]
    caption = f"Published in {hits.place}: {hits.rule}; 95% Wilson intervals"
    blocks = not_alike(found)
    blocks.append(Table(["class", f"{NIH}: images whose lesion the map attends to"], rows, caption))
    if not found.best:
        nothing = Missing(found.missing.get("runs", ""), "Measured")
        return Section(title, [*blocks, *_boxes(found, published), nothing, *_map_blocks(found)])
    blocks += curves
    subsets = ", ".join(f"{name}: subset {subset}" for name, subset in found.best.items())
    blocks.append(Text(f"Maps of the best subsets ({subsets}); the baselines are on the images of the GCM's."))
    scored = [name for name in found.base.classes if any(_scores(found, "hit_rate", name))]
    if not scored:
        scored = [name for name in found.base.classes if any(_scores(found, _visible(0.5), name))]
    if not scored:
        reason = "no test image has a box of one of the classes"
        nothing = Missing(reason, "Measured localization")
        return Section(title, [*blocks, nothing, *_map_blocks(found), *_boxes(found, published)])
    for name in scored:
        blocks.append(_visible_table(found, published, name))
        blocks.append(_hit_table(found, published, name))
    for name in (*scored, MACRO):
        blocks.append(_headline_table(found, name))
    absent = [name for name in found.base.classes if name not in scored and name != NORMAL]
    blocks += [Missing("no test image has a box of it", name) for name in absent]
    blocks += _map_blocks(found)
    return Section(title, [*blocks, *_boxes(found, published)])


def _visible(threshold: float) -> str:
    return f"visible_in_box@{threshold:.2f}"


def _rows(found: Reproduction) -> list[tuple[str, Run, str]]:
    """Return label, run and explainer of every row of a localization table; the baselines are the GCM run's."""
    rows = [
        (f"{explainer} ({name})", run, explainer)
        for name, run in found.best_runs.items()
        for explainer in run.explainers
    ]
    gcm = found.best_runs["gcm"]
    return rows + [(explainer, gcm, explainer) for explainer in gcm.baselines]


def _scores(found: Reproduction, metric: str, class_name: str) -> list[Score | None]:
    return [_one(run, explainer, metric, class_name) for _, run, explainer in _rows(found)]


def _one(run: Run, explainer: str, metric: str, class_name: str) -> Score | None:
    return next(iter(run.select(explainer=explainer, metric=metric, class_name=class_name)), None)


def _visible_table(found: Reproduction, published: Published, name: str) -> Table:
    rows = []
    for label, run, explainer in _rows(found):
        scores = [_one(run, explainer, _visible(threshold), name) for threshold in SHOWN_THRESHOLDS]
        rows.append([label, *map(_cell, scores)])
    sizes = [score for score in _scores(found, _visible(0.5), name) if score]
    caption = f"{name}: mean share of the box where the map exceeds a share of its maximum" + _size(sizes)
    headers = ["map", *(f"above {threshold:g}" for threshold in SHOWN_THRESHOLDS)]
    return Table(headers, rows, caption + _beside(published, name))


def by_eye(published: Published, name: str) -> str:
    """Return the published hits of a class with Wilson's interval, "" where there are none."""
    counts = published.visual_hits.counts.get(name)
    if counts is None:
        return ""
    interval = wilson_interval(counts.hits, counts.images)
    return f"{counts.hits}/{counts.images} = {ranged(counts.rate, interval.low, interval.high)}"


def _hit_table(found: Reproduction, published: Published, name: str) -> Table:
    """Images that count as hits: at least a share of the box is visible."""
    rows, rules = [], list(itertools.product(SHARES, SHOWN_THRESHOLDS[1:4]))
    for label, run, explainer in _rows(found):
        rows.append([label, *(_hit_cell(run, explainer, name, share, level) for share, level in rules)])
    headers = [f"{share:.0%} of the box above {level:g}" for share, level in rules]
    caption = f"{name}: share of images in which so much of the box is visible, bootstrap by patient"
    return Table(["map", *headers], rows, caption + _beside(published, name))


def _beside(published: Published, name: str) -> str:
    printed = by_eye(published, name)
    return f". Published (NIH), by eye: {printed}" if printed else ""


def _hit_cell(run: Run, explainer: str, name: str, share: float, threshold: float) -> str:
    table = run.images()
    chosen = table[
        (table["explainer"] == explainer) & (table["class"] == name) & (table["metric"] == _visible(threshold))
    ]
    known = chosen[np.isfinite(chosen["value"].to_numpy(dtype=np.float64))]
    if known.empty:
        return "-"
    hits = (known["value"].to_numpy(dtype=np.float64) >= share).astype(np.float64)
    spec = run.benchmark.statistics
    interval = mean_intervals(
        hits[:, None],
        known["patient"].astype(str).tolist(),
        confidence=spec.confidence,
        resamples=spec.resamples,
        seed=spec.seed,
        method=spec.method,
    ).macro
    return ranged(float(hits.mean()), interval.low, interval.high)


def _headline_table(found: Reproduction, name: str) -> Table:
    declared = {spec.name for spec in found.benchmarks[0].metrics}
    names = [metric for metric in HEADLINES if metric in declared]
    rows = [[label, *(_cell(_one(run, explainer, m, name)) for m in names)] for label, run, explainer in _rows(found)]
    gcm = found.best_runs["gcm"]
    chance = [
        next((s.chance for s in gcm.select(metric=m, class_name=name) if s.chance is not None), None) for m in names
    ]
    rows.append(["chance", *("-" if level is None else f"{level:.3f}" for level in chance)])
    titles = [registry.get("metrics", metric).load().title for metric in names]
    sizes = [score for metric in names for score in _scores(found, metric, name) if score]
    return Table(["map", *titles], rows, ("Mean over the classes" if name == MACRO else name) + _size(sizes))


def _boxes(found: Reproduction, published: Published) -> list[Block]:
    """T(IoU) and T(IoBB), published by Wang et al. and measured."""
    return [block for metric in ("IoU", "IoBB") for block in _box_blocks(found, published.boxes(metric), published)]


def _box_blocks(found: Reproduction, printed: BoxAccuracy, published: Published) -> list[Block]:
    metric = f"t_{printed.metric.lower()}"
    where = f"Published on {printed.dataset}: {published.where(printed)}: {published.sources[printed.source].note}"
    blocks: list[Block] = [
        _box_table(found, printed, printed.accuracy, metric, f"Boxes found with {printed.metric} above T. {where}"),
        _box_table(
            found,
            printed,
            printed.false_positives,
            f"{metric}_false_positives",
            f"False positive boxes an image at T({printed.metric}). How they were counted is not published: here all "
            "boxes at both grey levels, on images with a box of the class",
        ),
    ]
    if not found.best or not any(score.metric.startswith(f"{metric}@") for score in found.best_runs["gcm"].scores):
        reason = found.missing.get("runs") or f"metric {metric} is not installed, or no test image has a box"
        blocks.append(Missing(reason, f"Measured T({printed.metric})"))
    return blocks


def _box_table(
    found: Reproduction, printed: BoxAccuracy, values: Mapping[str, Sequence[float]], metric: str, caption: str
) -> Table:
    rows = []
    for name in (name for name in found.base.classes if name in values):
        rows.append([f"{name}, {NIH}", *(f"{value:.3f}" for value in values[name])])
        for label, run, explainer in _rows(found) if found.best else ():
            scores = [_one(run, explainer, f"{metric}@{threshold:.2f}", name) for threshold in printed.thresholds]
            if any(scores):
                rows.append([f"{name}, {label}", *map(_cell, scores)])
    return Table(["class, map", *(f"T = {threshold:g}" for threshold in printed.thresholds)], rows, caption)


def _map_blocks(found: Reproduction) -> list[Block]:
    """The two classifiers' maps on the same images."""
    first, second = MAPS
    what = f"{first} against {second}"
    if not found.maps:
        return [Missing(found.missing.get("maps") or found.missing.get("runs", ""), what)]
    rows = []
    for item in found.maps:
        title = registry.get("metrics", item.metric).load().title
        name = item.class_name
        if name == MACRO:
            classes = [one.first for one in found.maps if one.metric == item.metric and one is not item]
            name = "mean of the classes" + of_fewer(classes)
        rows.append(
            [
                f"{title}: {name}",
                number(item.first),
                number(item.second),
                ranged(item.difference, item.low, item.high),
                p_value(item.p),
                p_value(item.p_holm) if item.class_name == MACRO else "-",
                f"{item.n}, {item.patients}" + (f" ({item.left_out} left out)" if item.left_out else ""),
            ]
        )
    caption = (
        f"{first} (gcm) against {second} (densenet121) on the same images of all subsets: permutation test of whole "
        f"patients; {level(found)} bootstrap intervals by patient; Holm over the means of the classes"
    )
    headers = ["metric: class", first, second, "difference", "p", "p after Holm", "pairs, patients"]
    return [Table(headers, rows, caption)]


def normal_section(found: Reproduction, published: Published) -> Section:
    """Figure 9 in numbers."""
    title = "No Finding: how much the maps cover (figure 9)"
    blocks = not_alike(found)
    blocks += [Text(f"Published: {published.visual_hits.no_finding} ({published.visual_hits.place}).")]
    areas = [(classifier, area) for classifier, measured in found.areas.items() for area in measured]
    for part, what in ((IMAGE, "Map area"), (LUNGS, "Spread over the lungs")):
        own = [(classifier, area) for classifier, area in areas if area.part == part]
        if own:
            blocks.append(_area_table(own, part))
        reason = found.missing.get("areas") or found.missing.get("runs") or "no normal image is in the test split"
        if not own and areas:
            reason = "the data have no lung masks"
        if not own or "areas" in found.missing:
            blocks.append(Missing(reason, what))
    return Section(title, blocks)


def _area_table(areas: Sequence[tuple[str, MapArea]], part: str) -> Table:
    rows: dict[str, dict[float, MapArea]] = {}
    for classifier, area in areas:
        rows.setdefault(f"{area.explainer} ({classifier})", {})[area.threshold] = area
    cells = [[label, *(_area_cell(own.get(t)) for t in SHOWN_THRESHOLDS)] for label, own in rows.items()]
    first = next(iter(rows.values()))
    cells.append(["chance", *(f"{first[t].chance:.3f}" if t in first else "-" for t in SHOWN_THRESHOLDS)])
    counted = areas[0][1]
    caption = f"Mean share of the {part} above a share of the map's maximum; "
    caption += f"{counted.n} images, {counted.patients} patients"
    return Table(["map", *(f"above {threshold:g}" for threshold in SHOWN_THRESHOLDS)], cells, caption)


def _area_cell(area: MapArea | None) -> str:
    return "-" if area is None or area.value is None else ranged(area.value, area.low, area.high)


def ranged(value: float, low: float, high: float) -> str:
    """Write a value and its interval.

    >>> ranged(0.97, 0.924, 0.9881)
    '0.970 (0.924 to 0.988)'
    """
    return f"{number(value)} ({number(low)} to {number(high)})"


def of_fewer(values: Sequence[float]) -> str:
    """Mark a mean over the classes that leaves some out."""
    known = sum(value == value for value in values)
    return "" if known == len(values) else f", of {known} of {len(values)} classes"


def number(value: float) -> str:
    """Write a number to three digits.

    >>> number(-0.0001), number(float("nan"))
    ('0.000', 'undefined')
    """
    text = f"{value:.3f}"
    return "undefined" if value != value else text.removeprefix("-") if float(text) == 0 else text


def p_value(value: float) -> str:
    """Write a p-value."""
    return "undefined" if value != value else "< 0.001" if value < 0.001 else f"{value:.3f}"


def _cell(score: Score | None) -> str:
    if score is None:
        return "-"
    undefined = f", {score.nan} undefined" if score.nan else ""
    if score.value is None:
        return f"undefined on all {score.n}"
    return (
        ranged(score.value, *(end if end is not None else float("nan") for end in (score.low, score.high))) + undefined
    )


def _size(scores: Sequence[Score]) -> str:
    if not scores:
        return ""
    return f"; {max(score.n for score in scores)} pairs of {max(score.patients for score in scores)} patients"


def level(found: Reproduction) -> str:
    """Write the confidence of the intervals."""
    return f"{100 * found.base.statistics.confidence:.4g}%"
