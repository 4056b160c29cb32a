"""What runs on a worker: one model, loaded once, and shards of a split run through it."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import ray
import torch
from ray import cloudpickle

import xaibench
from xaibench.classifiers.base import Classifier
from xaibench.errors import WeightsError, XaibenchError
from xaibench.evaluation.batch import Work
from xaibench.evaluation.cache_keys import code_of
from xaibench.evaluation.merge import copied, note, show
from xaibench.evaluation.records import Offer, Part
from xaibench.evaluation.setup import weights_hash
from xaibench.evaluation.sheets import ContactSheets
from xaibench.evaluation.stream import unsettled
from xaibench.io.memory import settle_process
from xaibench.io.versions import libraries
from xaibench.registry import one_line


@dataclass(frozen=True)
class Shard:
    """Rows of the split, and what is known of those before them.

    Attributes:
        rows: begin on a batch's first image.
        failed, given_up: by shards before this one.
        sheet: empty, and wanting only what the whole split's sheet still may.
    """

    rows: range
    batch_size: int
    failed: Mapping[str, str]
    given_up: Mapping[str, Mapping[str, str]]
    sheet: ContactSheets | None


@dataclass(frozen=True)
class Done:
    """What a shard leaves: parts for a `Settling`, and what the store did."""

    parts: list[Part]
    seconds: float
    damaged: list[str] = field(default_factory=list)
    stopped: str | None = None


@dataclass(frozen=True)
class Sent:
    """A work on its way: the classifier apart, None where it can't be sent; then with the hash of its weights."""

    work: Work
    classifier: bytes | None
    weights: str
    state: Mapping[str, torch.Tensor] | None = None


class Worker:
    """A process with one model.

    Args:
        threads: how many compute on the CPU.
        device: "cpu" or "cuda".
        paths: where the driver finds Python's modules; those that are not looked at here are added.
    """

    def __init__(self, threads: int, device: str, paths: Sequence[str]) -> None:
        sys.path += [path for path in paths if path not in sys.path]
        torch.set_num_threads(threads)
        settle_process()
        self._device = torch.device(device)
        self._name = ""
        self._work: Work | None = None

    def hello(self) -> tuple[dict[str, str], int, str]:
        """Return what has to be the same everywhere, the process id and the machine's name."""
        torch.zeros(1, device=self._device)
        return fingerprint(), os.getpid(), platform.node()

    def run(self, name: str, payload: Sequence[Any], shard: Shard) -> Done:
        """Run a shard through.

        Args:
            name: of the work; the one at hand is used if it has that name.
            payload: one reference to a pickled `Sent`, fetched only if needed.
        """
        began = time.monotonic()
        if self._work is None or self._name != name:
            self._work = None  # two models may be too much for a GPU
            self._work, self._name = _unpacked(ray.get(payload[0]), self._device), name
        work = replace(self._work, sheet=shard.sheet)
        store = work.kept.store if work.kept else None
        if store:
            store.damaged.clear()
            store.stopped = None
        failed, given_up, parts = dict(shard.failed), copied(shard.given_up), []
        for part in unsettled(work, shard.rows, shard.batch_size, failed, given_up):
            note(part, failed, given_up)
            for explainer, offers in part.offers.items():
                part.offers[explainer] = _portable(show(work.sheet, explainer, offers))
            for explainer, classes in part.plain.items():
                for plain in classes.values():
                    plain.offers = _portable(show(work.sheet, explainer, plain.offers))
            parts.append(part)
        damaged, stopped = (list(store.damaged), store.stopped) if store else ([], None)
        return Done(parts, time.monotonic() - began, damaged, stopped)


def fingerprint() -> dict[str, str]:
    """Return the versions of what decides numbers, and a hash of this package's code."""
    python = ".".join(platform.python_version_tuple()[:2])
    code = code_of({Work}, "engine") or ""
    return {"python": python, "xaibench": xaibench.__version__, **libraries(), "code of xaibench": code[:12]}


def pack(work: Work) -> bytes:
    """Pickle a work for the workers, its classifier on the CPU.

    Raises:
        XaibenchError: a part can't be pickled; says which.
    """
    classifier, device = work.classifier, work.classifier.device
    bare = replace(work, sheet=None, running=_silent, classifier=None)  # type: ignore[arg-type]
    state = None
    classifier.cpu()
    try:
        try:
            sent: bytes | None = _dumps(classifier)
        except Exception as error:  # whatever a network's attributes raise
            if work.remake is None:
                raise XaibenchError(
                    f"{type(classifier).__name__} can't be sent to other processes ({one_line(error, 160)}): make it "
                    "importable and evaluate it by its name, module:PACKAGE.MODULE:ATTRIBUTE, or leave --engine ray out"
                ) from error
            sent = None
            state = None if classifier.comes_trained else dict(classifier.trained_state())
        try:
            result = _dumps(Sent(bare, sent, weights_hash(classifier), state))
        except Exception as error:
            raise XaibenchError(
                f"{_culprit(bare)} can't be sent to other processes ({one_line(error, 160)})"
            ) from error
    finally:
        classifier.to(device)
    return result


def _unpacked(payload: bytes, device: torch.device) -> Work:
    try:
        sent: Sent = cloudpickle.loads(payload)
        classifier: Classifier
        if sent.classifier is not None:
            classifier = cloudpickle.loads(sent.classifier)
        else:
            assert sent.work.remake is not None
            classifier = sent.work.remake()
            if sent.state is not None:
                classifier.load_trained_state(sent.state)
    except ImportError as error:
        raise XaibenchError(
            f"a worker on {platform.node()} lacks what the work needs ({one_line(error, 160)}): install the same "
            "packages there as here"
        ) from error
    if sent.classifier is None and (found := weights_hash(classifier)) != sent.weights:
        raise WeightsError(
            f"a worker on {platform.node()} has other weights (sha256 {found[:12]}, here {sent.weights[:12]}): put the "
            "same file there"
        )
    work = replace(sent.work, classifier=classifier.to(device).optimized())
    if work.kept is not None:  # a map made on another kind of device has other bits
        work = replace(work, kept=replace(work.kept, classifier={**work.kept.classifier, "device": device.type}))
    return work


def _culprit(work: Work) -> str:
    things: dict[str, Any] = {f"explainer {name}": explainer for name, explainer in work.explainers.items()}
    things |= {f"metric {metric.metric.name}": metric for metric in work.metrics}
    for name, thing in {**things, "the dataset": work.split}.items():
        try:
            _dumps(thing)
        except Exception:  # the caller says what it was
            return name
    return "the evaluation"


def _portable(offers: list[Offer]) -> list[Offer]:
    return [replace(offer, heat=offer.heat.cpu().clone()) for offer in offers]  # clone: no view of a whole batch


def _dumps(thing: object) -> bytes:
    pickled: bytes = cloudpickle.dumps(thing)  # type: ignore[no-untyped-call]
    return pickled


def _silent(*said: object) -> None:
    """Report nothing."""
