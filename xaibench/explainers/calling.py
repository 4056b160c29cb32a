"""Calls of an explainer, with what foreign code must be kept from: changing the classifier, torch or the prediction."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from xaibench.classifiers.base import Classifier
from xaibench.classifiers.snapshot import Snapshot
from xaibench.errors import NotApplicableError, SideEffectError
from xaibench.explainers.base import Explainer
from xaibench.torch_settings import restored_settings
from xaibench.types import Prediction


def call(explainer: Explainer, classifier: Classifier, prediction: Prediction, targets: Tensor) -> Tensor:
    """Return an explainer's maps, (B, H, W) float32 in the input's frame, on the classifier's device, without a graph.

    One that is not of this package works on copies of the prediction, and what it changes of the classifier or of
    torch's settings is put back.

    Raises:
        SideEffectError: it changed something.
        NotApplicableError: what it returned is no such tensor.
    """
    wanted = (len(prediction), prediction.frame.height, prediction.frame.width)
    if not is_foreign(explainer):
        with torch.no_grad():
            return checked(explainer.explain(classifier, prediction, targets), wanted, classifier.device)
    with undone(classifier, lambda: classifier(prediction.images[:1])), torch.no_grad():
        found = explainer.explain(classifier, prediction.copied(), targets.clone())
        return checked(found, wanted, classifier.device).clone()  # which may be one that it goes on writing to


def call_native(
    explainer: Explainer, classifier: Classifier, prediction: Prediction, targets: Tensor
) -> Tensor | Sequence[Tensor] | None:
    """Return an explainer's maps at their own resolution, B of (h, w); None where they are made in the input's frame.

    Raises:
        SideEffectError: as `call`.
    """
    if not has_native(explainer):
        return None
    if not is_foreign(explainer):
        with torch.no_grad():
            return explainer.native(classifier, prediction, targets)
    with undone(classifier, lambda: classifier(prediction.images[:1])), torch.no_grad():
        found = explainer.native(classifier, prediction.copied(), targets.clone())
        return None if found is None else [checked(m[None], (1, *m.shape), m.device)[0].clone() for m in found]


def has_native(explainer: Explainer) -> bool:
    """Tell whether a method has maps at their own resolution.

    Those of a base class do not count where a class below it makes others of them in its `explain`.
    """
    native, explain = (_place(type(explainer), name) for name in ("native", "explain"))
    return native <= explain


def _place(kind: type, name: str) -> int:
    """Return how far up among a class's bases a method is defined."""
    return next(at for at, base in enumerate(kind.__mro__) if name in vars(base))


def is_foreign(plugin: object) -> bool:
    """Tell whether a function, or an object's class, is another package's."""
    return not f"{plugin.__module__}.".startswith("xaibench.")


@contextmanager
def undone(classifier: Classifier, run: Callable[[], Any] | None = None) -> Iterator[None]:
    """Put back what changes in the block of a classifier's numbers and torch's settings.

    Args:
        classifier: whose weights, buffers and plain settings are kept.
        run: runs the classifier; what that changes by itself (a counter of calls) is nobody's fault.

    Raises:
        SideEffectError: something changed; it stands in the place of what the block raised.
    """
    snapshot = Snapshot(classifier)
    changed: list[str] = []
    settings: list[str] = []
    try:
        with restored_settings() as settings:
            yield
    finally:
        if changed := snapshot.changes():
            snapshot.restore()
            if run is not None and (own := _by_itself(snapshot, run)):
                changed = [what for what in changed if what not in own]
        changed += [f"changed {what}" for what in settings]
        if changed:
            more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
            raise SideEffectError(f"{changed[0]}{more}; put back, and nothing of it is kept: work on a copy")


def _by_itself(snapshot: Snapshot, run: Callable[[], Any]) -> list[str]:
    """Return what a run of the classifier changes, and put it back."""
    with torch.no_grad():
        run()
    changed = snapshot.changes()
    snapshot.restore()
    return changed


def checked(maps: Any, wanted: tuple[int, int, int], device: torch.device) -> Tensor:
    """Return what an explainer gave, as maps (B, H, W) float32 on a device.

    Raises:
        NotApplicableError: it is something else.
    """
    remedy = "end it with upsample(maps, prediction.frame)"
    if not isinstance(maps, Tensor):
        raise NotApplicableError(
            f"returned a {type(maps).__module__}.{type(maps).__name__}, not a torch.Tensor: {remedy}"
        )
    if maps.is_meta or maps.layout != torch.strided or maps.is_quantized or maps.is_complex():
        kind = "meta" if maps.is_meta else "complex" if maps.is_complex() else "sparse or quantized"
        raise NotApplicableError(f"returned a {kind} tensor, not one of numbers (B, H, W): {remedy}")
    if tuple(maps.shape) != wanted:
        raise NotApplicableError(f"returned maps of shape {tuple(maps.shape)}, not {wanted} (B, H, W): {remedy}")
    return maps.detach().as_subclass(Tensor).float().to(device)
