"""An explainer's maps of a few images: do they look at the class, at their own image, and leave nothing behind?"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from xaibench.classifiers.state import State
from xaibench.errors import PLUGIN_ERRORS
from xaibench.explainers.base import Explainer
from xaibench.explainers.calling import call
from xaibench.findings import Finding
from xaibench.registry import one_line
from xaibench.types import Prediction

if TYPE_CHECKING:
    from xaibench.doctor.diagnose import Patient

SAME = 1e-5  # of the largest value
INCOMPLETE = 0.05


def check(patient: Patient, name: str, explainer: Explainer) -> Iterator[Finding]:
    """Explain the images together and alone, and one of them for every class."""
    subject = f"explainer {name}"
    state, began = State.of(patient.classifier), time.perf_counter()
    maps, fault = _explain(patient, explainer, patient.prediction, patient.targets, tidy=False)
    seconds = (time.perf_counter() - began) / len(patient.ids)
    yield from _left(patient, subject, state)
    if maps is None:
        yield Finding("error", "maps", fault, "Put it right with: xaibench plugin check PACKAGE.", subject)
        return
    yield Finding("note", "time", f"{1000 * seconds:.3g} ms a map", "", subject)
    if explainer.is_baseline:
        return
    if not maps.isfinite().all():
        bad = int((~maps.isfinite().flatten(1).all(1)).sum())
        yield Finding(
            "error",
            "nan",
            f"{bad} of {len(maps)} maps hold NaN or infinity",
            "Guard divisions and roots; it may be a gradient that is 0 everywhere.",
            subject,
        )
        return
    if bool((maps.flatten(1).amax(1) == maps.flatten(1).amin(1)).all()):
        yield Finding(
            "warning",
            "constant",
            "every map is constant",
            "A ReLU over negative values alone, a gradient that is cut, or a classifier that is not trained.",
            subject,
        )
        return
    yield from _alone(patient, subject, explainer, maps)
    yield from _classes(patient, subject, explainer, patient.prediction.select([0]))
    yield from _complete(patient, subject, explainer, maps)


def glance(patient: Patient, name: str, explainer: Explainer) -> Iterator[Finding]:
    """Look whether the map of one image depends on the class, alone and in a batch of two."""
    if explainer.is_baseline or not explainer.class_specific or len(patient.classifier.classes) < 2:
        return
    subject, one, targets = f"explainer {name}", patient.prediction.select([0]), patient.targets.new_tensor([0, 1])
    both, _ = _explain(patient, explainer, one.select([0, 0]), targets)
    first, second = (_explain(patient, explainer, one, target[None])[0] for target in targets)
    if both is None or first is None or second is None or not torch.cat([both, first, second]).isfinite().all():
        return  # the run sees it too, and gives the explainer up
    if _alike(first, second):
        if float(both.std()) > 0:
            yield _blind(2, subject)
    elif _alike(both[:1], both[1:]):
        yield _one_target("one", subject, 2)


def _explain(
    patient: Patient, explainer: Explainer, prediction: Prediction, targets: Tensor, *, tidy: bool = True
) -> tuple[Tensor | None, str]:
    """Return the maps, or None and what is wrong; `tidy` puts the classifier's hooks and modes back."""
    state = State.of(patient.classifier)
    try:
        return call(explainer, patient.classifier, prediction, targets), ""
    except PLUGIN_ERRORS as error:  # a plugin may raise anything
        return None, f"failed: {one_line(error)}"
    finally:
        if tidy:
            state.restore(patient.classifier)


def _left(patient: Patient, subject: str, state: State) -> Iterator[Finding]:
    now = State.of(patient.classifier)
    for where in state.hooks_left(now)[:1]:
        yield Finding(
            "error",
            "hooks",
            f"leaves a hook on {where or 'the classifier'} at each call: time and memory grow, and what it does is "
            "done to the explainers that follow",
            "Remove it in a finally block: handle.remove().",
            subject,
        )
    for change in state.changes(now)[:1]:
        yield Finding("error", "state", f"afterwards {change}", "Put it back in a finally block.", subject)
    state.restore(patient.classifier)


def _alone(patient: Patient, subject: str, explainer: Explainer, maps: Tensor) -> Iterator[Finding]:
    """Find maps that depend on the rest of the batch, and above all one target for all of it."""
    if len(maps) < 2:
        return
    rows = range(len(maps))
    own = [_explain(patient, explainer, patient.prediction.select([row]), patient.targets[[row]])[0] for row in rows]
    if any(found is None for found in own):
        yield Finding("error", "batch", "fails on one image alone", "Take batches of any size.", subject)
        return
    alone = torch.cat([found for found in own if found is not None])
    if _alike(maps, alone):
        return
    for guess, what in ((patient.targets[0], "first"), (patient.targets[-1], "last")):
        single = [_explain(patient, explainer, patient.prediction.select([row]), guess[None])[0] for row in rows]
        if all(found is not None for found in single) and _alike(maps, torch.cat([s for s in single if s is not None])):
            yield _one_target(what, subject, len(maps))
            return
    yield Finding(
        "error",
        "batch",
        "a map changes with the other images of its batch",
        "Normalise, sum and draw image by image; seed draws with seed_of(image id).",
        subject,
    )


def _one_target(what: str, subject: str, count: int) -> Finding:
    return Finding(
        "error",
        "target",
        f"takes {'one' if what == 'one' else f'the {what}'} image's target for the whole batch of {count}",
        "Pick each image's own score: logits.gather(1, targets[:, None]), one target for each image.",
        subject,
    )


def _classes(patient: Patient, subject: str, explainer: Explainer, prediction: Prediction) -> Iterator[Finding]:
    """Explain one image for several classes, one after the other."""
    made = []
    for target in range(min(len(patient.classifier.classes), 8)):
        found, _ = _explain(patient, explainer, prediction, patient.targets.new_tensor([target]))
        if found is not None and found.isfinite().all():
            made.append(found)
    if not made:
        return
    maps = torch.cat(made)
    kept = maps[maps.flatten(1).amax(1) > maps.flatten(1).amin(1)]
    if len(kept) < 2 or not _alike(kept[1:], kept[:1].expand(len(kept) - 1, -1, -1)):
        return
    if not explainer.class_specific:
        yield Finding("note", "class", "the map is the same for every class, by the method's definition", "", subject)
        return
    yield _blind(len(kept), subject)


def _blind(count: int, subject: str) -> Finding:
    return Finding(
        "error",
        "class",
        f"the map is the same for all of {count} classes: it says nothing of the class that it is to explain",
        "Weight channels by the class's own weights or gradients, not by a batch norm's; where the method has none "
        "by definition, set class_specific = False.",
        subject,
    )


def _complete(patient: Patient, subject: str, explainer: Explainer, maps: Tensor) -> Iterator[Finding]:
    """Compare the map's sum or mean with what the explainer promises it to be."""
    promised = getattr(explainer, "completeness", None)
    if promised not in ("sum", "mean"):
        return
    found = maps.double().sum((1, 2)) if promised == "sum" else maps.double().mean((1, 2))
    wanted = patient.prediction.logits.double().gather(1, patient.targets[:, None])[:, 0]
    baselines = getattr(explainer, "baselines", None)
    if callable(baselines):
        with torch.no_grad():
            for row in range(len(maps)):
                images = baselines(patient.images[row : row + 1])[0]
                if len(images):
                    wanted[row] -= patient.classifier(images)[:, int(patient.targets[row])].double().mean()
    scale = float(torch.maximum(found.abs(), wanted.abs()).max())
    gap = float((found - wanted).abs().max()) / scale if scale else 0.0
    if gap > INCOMPLETE:
        yield Finding(
            "error",
            "completeness",
            f"promises that the {promised} of a map is the logit's difference, and misses it by {100 * gap:.0f}%",
            "More steps, or layers that the method has no rule for: look at what it leaves out.",
            subject,
        )
    else:
        yield Finding(
            "note", "completeness", f"the {promised} is the logit's difference to {100 * gap:.2g}%", "", subject
        )


def _alike(found: Tensor, wanted: Tensor) -> bool:
    scale = float(wanted.abs().max())
    return float((found - wanted).abs().max()) <= SAME * scale * 10 if scale else not float(found.abs().max())
