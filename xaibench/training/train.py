"""Train a classifier by a benchmark's recipe, going on where an interrupted training stopped."""

from __future__ import annotations

import logging
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import numpy.typing as npt
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from xaibench.benchmark import Recipe
from xaibench.classifiers.base import Classifier
from xaibench.datasets.base import Splits
from xaibench.errors import UsageError, XaibenchError
from xaibench.io.files import cache_dir
from xaibench.io.versions import TRAINING_LIBRARIES, libraries
from xaibench.progress import Progress
from xaibench.training.arrays import Arrays, compute_arrays, remove_arrays
from xaibench.training.checkpoint import Checkpoint, Making, save_checkpoint
from xaibench.training.module import Training
from xaibench.training.states import find_state, keep_state


def train(
    classifier: Classifier,
    splits: Splits,
    recipe: Recipe,
    making: Making,
    path: Path,
    progress: Progress | None = None,
    *,
    devices: int = 1,
) -> Checkpoint:
    """Train, keep the selected epoch's weights at `path`, load them into the classifier and return the checkpoint.

    Every epoch leaves its state in the cache; called again after any interruption, training goes on with the next epoch
    and ends with the weights of an undisturbed one.

    Args:
        devices: how many GPUs (or processes on the CPU) share the work, where the classifier's device is the first.
            Each takes its part of every batch, so the steps are those of one device; batch norm normalises by the
            whole batch on GPUs, by each process's part on the CPU.

    Raises:
        UsageError: the recipe asks for sparse contribution maps of a classifier that has none, or for batches that so
            many devices can't share.
        XaibenchError: the training split lacks a class, no held-out image can select an epoch, or the loss is no longer
            finite.
    """
    progress = progress or Progress()
    missing = [
        name for name, count in zip(classifier.classes, splits.train.labels.sum(axis=0), strict=True) if not count
    ]
    if missing:
        raise XaibenchError(f"no training image of class {missing[0]!r}: check the data, with xaibench data check")
    started = time.monotonic()
    work = cache_dir() / "training" / making.hash[:16]
    for name in ("sparsity", "concentration"):
        if getattr(recipe, name) and "ccm" not in classifier.own_maps:
            raise UsageError(
                f"recipe {name} = {getattr(recipe, name):g} needs class contribution maps, which only gcm has: "
                "leave it 0"
            )
    if devices < 1 or recipe.batch_size % devices or recipe.batch_size // devices < 2:
        raise UsageError(
            f"--devices {devices}: batches of {recipe.batch_size} can't be shared evenly, with two images or more each"
        )
    selects = splits.test if recipe.selection == "paper" else splits.val
    if recipe.selection != "last" and not _can_select(selects.labels):
        side = "test" if recipe.selection == "paper" else "validation"
        raise XaibenchError(
            f"no class has {side} images with it and without it ({len(selects)} images), so none can select an epoch: "
            f"enlarge the {side} split, or keep the last epoch with --recipe selection=last"
        )
    arrays = []
    classifier.optimized()
    for name, split, flip, copies in (
        ("train", splits.train, recipe.flip, recipe.augment),
        ("held out", selects, False, 0),
    ):
        progress.stage(
            f"reading {name} images" + (", running the frozen encoder" if classifier.body_is_frozen else ""), len(split)
        )
        arrays.append(
            compute_arrays(
                classifier,
                split,
                work / name.replace(" ", "_"),
                flip=flip,
                copies=copies,
                advance=progress.advance,
            )
        )
    device = classifier.device
    history, best = _fit(classifier, arrays[0], arrays[1], recipe, making.task, work, progress, devices)
    classifier.to(device).load_trained_state(best)
    classifier.eval()
    checkpoint = Checkpoint(
        path,
        making,
        history,
        classifier.weights.sha256,
        libraries(TRAINING_LIBRARIES),
        round(time.monotonic() - started, 1),
    )
    save_checkpoint(checkpoint, best)
    del arrays
    remove_arrays(work)
    return checkpoint


def _fit(
    classifier: Classifier,
    train: Arrays,
    held_out: Arrays,
    recipe: Recipe,
    task: str,
    work: Path,
    progress: Progress,
    devices: int,
) -> tuple[list[dict[str, float | None]], dict[str, Tensor]]:
    """Return the history and the selected epoch's weights."""
    module = Training(classifier, recipe, task, train, held_out)
    if (last := find_state(work)) is not None:
        progress.say("going on with a training that was interrupted")
    device = classifier.device
    one = devices == 1
    if not one and device.type != "cpu":
        classifier.cpu()  # what is sent to the processes
    with _quiet():
        L.seed_everything(recipe.seed, verbose=False)
        trainer = L.Trainer(
            max_epochs=recipe.epochs,
            precision=recipe.precision,
            accelerator={"cuda": "gpu"}.get(device.type, device.type),
            devices=[device.index] if one and device.index is not None else devices,
            strategy="auto" if one else "ddp_spawn",
            use_distributed_sampler=False,  # EpochSampler shares the batches out
            sync_batchnorm=not one and device.type == "cuda",
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            default_root_dir=work,
            enable_checkpointing=False,
            callbacks=[_EpochEnd(work, progress)],
        )
        with _interruptible():
            try:
                trainer.fit(module, ckpt_path=last, weights_only=True)
            except ValueError as error:
                if len(train) > 1 or "more than 1 value per channel" not in str(error):
                    raise
                raise XaibenchError(
                    "one training image has no batch statistics, which this classifier's batch norm needs: "
                    "enlarge the training split"
                ) from error
    if one and not module.history:
        raise XaibenchError(f"no epoch was trained, on {len(train)} training images: enlarge the training split")
    if one:
        return module.history, module.best_state
    left = find_state(work)
    assert left is not None
    kept = torch.load(left, map_location="cpu", weights_only=True)  # other processes trained: they left it there
    return list(kept["history"]), dict(kept["best_state"])


class _EpochEnd(Callback):
    """After every epoch: close it, tell the caller, and keep the state in `folder`; see `find_state`."""

    def __init__(self, folder: Path, progress: Progress) -> None:
        self.folder, self.progress = folder, progress

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "progress": Progress(say=_print)}  # a terminal's bars stay in their process

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        for name in ("lightning.pytorch", "lightning.fabric"):  # as `_quiet`, in a process of its own
            logging.getLogger(name).setLevel(logging.ERROR)
        warnings.filterwarnings("ignore", module=r"lightning\..*")

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.progress.stage("training", trainer.max_epochs or 0)
        if trainer.current_epoch:
            self.progress.advance(trainer.current_epoch)

    def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        assert isinstance(module, Training)
        module.close_epoch()
        entry = module.history[-1]
        if trainer.is_global_zero:
            self.progress.epoch(entry)
            self.progress.advance(1)
        if trainer.world_size > 1 and trainer.is_global_zero:
            self.progress.say(f"epoch {entry['epoch']} of {trainer.max_epochs}: loss {entry['loss']:.4f}")
        part = self.folder / "last.part"
        trainer.save_checkpoint(part)  # every device takes part, the first one writes
        if trainer.is_global_zero:
            keep_state(part, trainer.current_epoch + 1)


def _print(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _can_select(labels: npt.NDArray[np.float32]) -> bool:
    """Tell whether some class has both kinds of images, so that a ROC-AUC is defined."""
    return bool((labels.any(axis=0) & ~labels.all(axis=0)).any())


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Lightning's advice on workers, loggers and versions off the user's terminal."""
    log = logging.getLogger("lightning.pytorch")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning\..*")
            yield
    finally:
        log.setLevel(level)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Give Ctrl-C its meaning back: Lightning turns it into an exit with code 1 and ignores the next one."""
    try:
        yield
    except SystemExit as stopped:
        raise KeyboardInterrupt from stopped
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.default_int_handler)
