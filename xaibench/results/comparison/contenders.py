"""What stands in a comparison: runs that may be compared, and which of their explainers are the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from xaibench.benchmark import deviations, digest
from xaibench.errors import UsageError, XaibenchError, did_you_mean
from xaibench.results.run import Run

if TYPE_CHECKING:
    import numpy.typing as npt
    import pandas as pd

    from xaibench.metrics.base import Metric

SHOWN = 5
"""So many differences are named in an error."""
KEYS = ["image", "class", "explainer", "metric"]


@dataclass(frozen=True)
class Entrant:
    """An explainer of a run (or its classifier) under the name that a comparison gives it.

    Args:
        label: unique in the comparison: "gcm:cwm", "prior_box" for a baseline that the runs share, "gcm" for a
            classifier; the run's folder stands behind it where that does not tell two apart.
        classifier: None for a baseline that the runs share.
        explainer: None for a classifier itself.
        is_baseline: it looks at no evidence.
        run: index of the run that its numbers are taken from.
        seeds: index of run by training seed, where several runs differ in that alone; else empty.
    """

    label: str
    classifier: str | None
    explainer: str | None
    is_baseline: bool
    run: int
    seeds: Mapping[str, int] = field(default_factory=dict)

    @property
    def runs(self) -> list[int]:
        """Indices of all its runs."""
        return list(self.seeds.values()) or [self.run]


def load_runs(runs: Iterable[Run | str | Path]) -> list[Run]:
    """Load runs given by their directories; the same directory twice counts once.

    Raises:
        UsageError: no run.
        XaibenchError: a directory without a run, or a damaged one.
    """
    found: dict[str, Run] = {}
    for number, given in enumerate(runs):
        run = given if isinstance(given, Run) else Run.load(Path(given))
        key = str(run.directory.resolve()) if run.directory else f"unsaved {number}"
        if key in found:  # two pairs of one run: keep what either asks for
            asked = tuple(dict.fromkeys([*found[key].explainers, *run.explainers]))
            run = replace(run, explainers=asked)
        found[key] = run
    if not found:
        raise UsageError("give at least one run to compare")
    return list(found.values())


def run_name(run: Run, number: int = 0) -> str:
    """Return what messages call a run: its directory, else its number."""
    return str(run.directory) if run.directory else f"run {number + 1}"


def check_comparable(runs: Sequence[Run]) -> list[str]:
    """Check that runs follow one protocol on the same test images; return notes on what else differs.

    Raises:
        UsageError: says in one line what differs.
    """
    first, notes = runs[0], []
    for number, other in enumerate(runs[1:], start=1):
        names = f"{run_name(first)} and {run_name(other, number)}"
        if first.benchmark.hash != other.benchmark.hash:
            raise UsageError(
                f"{names} follow different protocols: {protocol_differences(first, other)}. Run both by one benchmark"
            )
        _same_images(first, other, names)
        parts = [part for part in ("train", "val") if _fingerprint(first, part) != _fingerprint(other, part)]
        notes += [f"{names} had other {part} images" for part in parts]
        mine, theirs = (dict(run.record.get("versions", {})) for run in (first, other))
        changed = [f"{key} {mine.get(key)} and {theirs.get(key)}" for key in mine if mine.get(key) != theirs.get(key)]
        if changed:
            notes.append(f"{names} were made with other versions: {_few(changed)}")
    return notes


def protocol_differences(first: Run, other: Run) -> str:
    """Name the values in which two runs' benchmarks differ, with dotted keys."""
    found = [
        f"{change.key} {change.written} and {change.used}"
        for change in deviations(first.benchmark, other.benchmark)
        if change.key not in ("title", "description")
    ]
    return _few(found) if found else "the order of metrics or classes"


def _few(texts: Sequence[str]) -> str:
    more = f" (and {len(texts) - SHOWN} more)" if len(texts) > SHOWN else ""
    return "; ".join(text if len(text) <= 160 else f"{text[:157]}..." for text in texts[:SHOWN]) + more


def _fingerprint(run: Run, part: str) -> str:
    return str(dict(run.record.get("data", {})).get(part, ""))


def _same_images(first: Run, other: Run, names: str) -> None:
    prints = [_fingerprint(run, "test") for run in (first, other)]
    if prints[0] != prints[1]:
        raise UsageError(
            f"{names} are of other test images: data.test {prints[0][:12] or 'not set'} and "
            f"{prints[1][:12] or 'not set'}{_images_that_differ(first, other)}. Run both on the same data"
        )
    if first.directory is None or other.directory is None:
        return
    mine, theirs = (_labels(run) for run in (first, other))
    if not mine.equals(theirs):
        raise UsageError(
            f"{names} are of other test images: data.test is the same, but predictions.parquet is not"
            f"{_images_that_differ(first, other)}. Run both on the same data"
        )


def _labels(run: Run) -> pd.DataFrame:
    table = run.predictions()
    kept = [name for name in table.columns if not str(name).startswith("logit:")]
    return table[kept].sort_values("image", ignore_index=True)


def _images_that_differ(first: Run, other: Run) -> str:
    try:
        mine, theirs = (set(run.predictions()["image"].astype(str)) for run in (first, other))
    except (XaibenchError, KeyError):
        return ""
    only = sorted(mine ^ theirs)
    return f" ({len(only)} images in one alone, such as {only[0]})" if only else ""


def image_scores(run: Run, name: str) -> pd.DataFrame:
    """Read a run's per-image scores, names as strings.

    Raises:
        XaibenchError: the table is damaged: a column is missing, or a score stands twice.
    """
    table = run.images()
    if missing := [column for column in (*KEYS, "patient", "value") if column not in table]:
        raise XaibenchError(f"{name}/scores.parquet is damaged: it has no column {missing[0]!r}. Run it again")
    for column in (*KEYS, "patient"):
        table[column] = table[column].astype(str)
    twice = table.duplicated(KEYS)
    if twice.any():
        where = ", ".join(table.loc[twice, KEYS].iloc[0])
        raise XaibenchError(f"{name}/scores.parquet is damaged: {where} stands there twice. Run it again")
    return table


def counted_values(run: Run, explainer: str, metric: Metric, rows: pd.DataFrame) -> npt.NDArray[np.float64]:
    """Return per-image scores (n,) as headline values count them: see `Metric.counted`.

    A metric that was given up for the explainer stays undefined, and so do runs of versions that left such pairs out.

    Args:
        rows: of `image_scores`, those of the explainer and of one column of the metric.
    """
    values: npt.NDArray[np.float64] = rows["value"].to_numpy(dtype=np.float64)
    lost = dict(run.record.get("given_up") or {}).get(metric.name, {})
    if run.benchmark.scoring < 2 or explainer in lost or "chance" not in rows:
        return values
    counted: npt.NDArray[np.float64] = metric.counted(values, rows["chance"].to_numpy(dtype=np.float64))
    return counted


def seed_groups(runs: Sequence[Run]) -> tuple[list[dict[str, int]], list[str]]:
    """Return the runs (indices by seed) that differ in the recipe's seed alone, and notes.

    Contenders are compared seed by seed: where the groups' seeds are not the same, nothing is grouped.
    """
    groups: dict[str, dict[str, int]] = {}
    for number, run in enumerate(runs):
        recipe = dict(run.record.get("recipe") or {})
        if run.external or "seed" not in recipe:
            continue
        seed = str(recipe.pop("seed"))
        options = dict(run.record.get("classifier_options") or {})
        train = [_fingerprint(run, part) for part in ("train", "val")]
        asked = sorted((*run.explainers, *run.baselines))
        own = groups.setdefault(digest([run.classifier, recipe, options, train, asked]), {})
        own[seed if seed not in own else f"{seed} ({number})"] = number
    found = [own for own in groups.values() if len(own) > 1 and not any("(" in seed for seed in own)]
    if len({tuple(sorted(own)) for own in found}) > 1:
        each = "; ".join(f"{runs[min(own.values())].classifier} {', '.join(own)}" for own in found)
        return [], [f"training seeds are not the same ({each}), so each run stands for itself"]
    return found, []


def _grouped(found: Sequence[Entrant], groups: Sequence[Mapping[str, int]]) -> list[Entrant]:
    """Make one entrant of those that differ in their run's training seed alone."""
    of = {run: group for group in groups for run in group.values()}
    kept: dict[Any, Entrant] = {}
    for one in found:
        group = of.get(one.run)
        if group is None:
            kept[len(kept), one.run] = one
        else:
            kept.setdefault((min(group.values()), one.explainer), replace(one, seeds=dict(group)))
    return list(kept.values())


def classifiers(runs: Sequence[Run]) -> list[Entrant]:
    """Return the runs' classifiers; a run whose classification scores are those of another adds none."""
    found: list[Entrant] = []
    seen: list[object] = []
    for number, run in enumerate(runs):
        own = [replace(score, classifier="") for score in run.scores if score.explainer is None]
        key = (run.classifier, own)
        if own and key not in seen:
            seen.append(key)
            found.append(Entrant(run.classifier, run.classifier, None, False, number))
    return _told_apart(found, runs)


def explainers(
    runs: Sequence[Run], tables: Sequence[pd.DataFrame], groups: Sequence[Mapping[str, int]] = ()
) -> list[Entrant]:
    """Return the runs' explainers in their order, then the baselines; one whose scores are the same in all comes once.

    Args:
        tables: of `image_scores`, one for each run.
        groups: of `seed_groups`: their explainers are one entrant.
    """
    found: list[Entrant] = []
    for number, run in enumerate(runs):
        there = set(tables[number]["explainer"])
        found += [
            Entrant(f"{run.classifier}:{name}", run.classifier, name, name in run.baselines, number)
            for name in dict.fromkeys((*run.explainers, *run.baselines))
            if name in there
        ]
    shared: list[Entrant] = []
    for name in dict.fromkeys(str(one.explainer) for one in found if one.is_baseline):
        same = [one for one in found if one.explainer == name]
        scores = [_scores_of(tables[one.run], name) for one in same]
        if all(scores[0].equals(other) for other in scores[1:]):
            found = [one for one in found if one not in same]
            shared.append(Entrant(name, None, name, True, same[0].run))
    found = _grouped(found, groups)
    own = [one for one in found if not one.is_baseline]
    return _told_apart([*own, *(one for one in found if one.is_baseline), *shared], runs)


def _scores_of(table: pd.DataFrame, explainer: str) -> pd.DataFrame:
    rows = table[table["explainer"] == explainer].sort_values(KEYS, ignore_index=True)
    return rows[[*KEYS, "value"]]


def _told_apart(entrants: Sequence[Entrant], runs: Sequence[Run]) -> list[Entrant]:
    count = Counter(one.label for one in entrants)
    places = Counter((one.label, _place(runs[one.run], one.run)) for one in entrants)
    found = []
    for one in entrants:
        label, place = one.label, _place(runs[one.run], one.run)
        if count[label] > 1:
            whole = run_name(runs[one.run], one.run)
            label = f"{label} ({place if places[label, place] == 1 else whole})"
        found.append(replace(one, label=label.encode("utf-8", "backslashreplace").decode()))
    return found


def _place(run: Run, number: int) -> str:
    return run.directory.name if run.directory else run_name(run, number)


def find_entrant(name: str, entrants: Sequence[Entrant]) -> Entrant:
    """Return the entrant of a label, or the only one of an explainer's name.

    Raises:
        UsageError: none, or several.
    """
    for one in entrants:
        if one.label == name:
            return one
    named = [one for one in entrants if one.explainer == name]
    if len(named) == 1:
        return named[0]
    if named:
        raise UsageError(f"--against {name}: there are several: {', '.join(one.label for one in named)}. Name one")
    raise UsageError(f"--against {name}: no run has it. {did_you_mean(name, [one.label for one in entrants])}")


def pair_index(tables: Mapping[str, pd.DataFrame]) -> pd.MultiIndex:
    """Return the (image, class) pairs, the same for every entrant, sorted by class and image.

    Raises:
        UsageError: an entrant was scored on other pairs.
    """
    import pandas as pd

    first: tuple[str, set[tuple[str, str]]] | None = None
    for label, table in tables.items():
        own = set(zip(table["image"], table["class"], strict=True))
        if first is None:
            first = (label, own)
        elif own != first[1]:
            image, name = sorted(own ^ first[1])[0]
            raise UsageError(
                f"{first[0]} and {label} are not scored on the same images: {len(own ^ first[1])} (image, class) pairs "
                f"are in one alone, such as {image} ({name}). Run both again"
            )
    pairs = sorted(first[1], key=lambda pair: (pair[1], pair[0])) if first else []
    return pd.MultiIndex.from_tuples(pairs, names=["image", "class"])
