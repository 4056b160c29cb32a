"""The Lightning module: one recipe, whichever classifier."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import lightning as L
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from xaibench.benchmark import Recipe
from xaibench.classifiers.base import Classifier
from xaibench.errors import XaibenchError
from xaibench.metrics.classification import class_scores, roc_auc
from xaibench.training.arrays import Arrays

Row = tuple[int, int]
"""An image's row and the view of it: see `xaibench.training.views`."""


class EpochSampler(Sampler[Row]):
    """Draw (row, view) pairs; the order is a function of seed and epoch alone, so a resume repeats it.

    On several devices a batch of the recipe is divided among them, so that they take the steps that one would take.
    """

    def __init__(self, labels: npt.NDArray[np.float32], recipe: Recipe, *, rank: int = 0, devices: int = 1) -> None:
        self.labels, self.recipe, self.epoch = labels, recipe, 0
        self.rank, self.devices = rank, devices

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this before every epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.labels) // self.devices

    def __iter__(self) -> Iterator[Row]:
        drawn = self._draw()
        whole, share = self.recipe.batch_size, self.recipe.batch_size // self.devices
        for start in range(0, len(drawn), whole):
            batch = drawn[start : start + whole]
            own = min(share, len(batch) // self.devices)  # the last batch: as many on each
            yield from batch[self.rank * own : (self.rank + 1) * own]

    def _draw(self) -> list[Row]:
        random = np.random.default_rng((self.recipe.seed, self.epoch))
        count = len(self.labels)
        if self.recipe.sampling == "balanced":
            rows = random.choice(count, size=count, p=balanced_weights(self.labels))
        else:
            rows = random.permutation(count)
        views = (random.random(count) < 0.5).astype(int) if self.recipe.flip else np.zeros(count, dtype=int)
        if self.recipe.augment:
            views += 2 * random.integers(0, self.recipe.augment + 1, count)
        return list(zip(rows.tolist(), views.tolist(), strict=True))


def balanced_weights(labels: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Return each image's probability (N,) of being drawn so that every class comes equally often.

    >>> balanced_weights(np.array([[1, 0], [1, 0], [0, 1]], dtype=np.float32)).tolist()
    [0.25, 0.25, 0.5]
    """
    per_class = 1 / np.maximum(labels.sum(axis=0), 1)
    rarest = np.where(labels.any(axis=1), (labels * per_class).max(axis=1), per_class.min())
    weights: npt.NDArray[np.float64] = rarest / rarest.sum()
    return weights


def mean_auc(scores: npt.NDArray[np.floating[Any]], labels: npt.NDArray[np.float32]) -> float:
    """Return ROC-AUC of scores (N, K) averaged over the classes that have both kinds of images; NaN if none has."""
    per_class = [float(roc_auc(scores[:, k], labels[:, k])) for k in range(labels.shape[1])]
    known = [value for value in per_class if math.isfinite(value)]
    return float(np.mean(known)) if known else math.nan


def spread(maps: Tensor) -> Tensor:
    """Return the mean over maps (B, K, H, W) of L1 norm / (L2 norm sqrt(H W)): 1 where even, 1/sqrt(H W) in one pixel.

    >>> round(float(spread(torch.eye(4)[None, None])), 3), float(spread(torch.ones(1, 2, 3, 3)))
    (0.5, 1.0)
    """
    flat = maps.float().flatten(2)
    norms = torch.linalg.vector_norm(flat, dim=-1)
    ratio: Tensor = flat.abs().sum(-1) / (norms * math.sqrt(flat.shape[-1])).clamp(min=1e-12)
    return ratio.mean()


class Training(L.LightningModule):
    """Trains what `Classifier.trained_state` holds; keeps the best epoch's weights by the recipe's selection."""

    def __init__(self, classifier: Classifier, recipe: Recipe, task: str, train: Arrays, held_out: Arrays) -> None:
        super().__init__()
        self.classifier, self.recipe, self.task = classifier, recipe, task
        self.train_arrays, self.held_out = train, held_out
        self.history: list[dict[str, float | None]] = []
        self.best_score, self.best_state = -math.inf, dict[str, Tensor]()
        self._losses: list[Tensor] = []
        self._logits: list[Tensor] = []

    def on_train_epoch_start(self) -> None:
        # Lightning keeps the mode it finds, and a classifier ready for inference is in eval mode: batch norm would
        # neither normalise by the batch nor learn its statistics.
        self.classifier.train()
        # What an epoch draws (dropout) depends on seed and epoch alone, as its order does: a resume draws the same.
        if self.current_epoch:
            known = np.random.SeedSequence((self.recipe.seed, self.current_epoch)).generate_state(1)
            L.seed_everything(int(known[0]), verbose=False)

    def train_dataloader(self) -> DataLoader[Any]:
        rank, devices = self.trainer.global_rank, self.trainer.world_size
        sampler = EpochSampler(self.train_arrays.labels, self.recipe, rank=rank, devices=devices)
        # A last batch of one image has no batch statistics: it goes without, unless it is all that there is.
        last = len(sampler) > 1 and len(sampler) % (self.recipe.batch_size // devices) == 1
        return self._loader(self.train_arrays, sampler, self.recipe.batch_size // devices, drop_last=last)

    def val_dataloader(self) -> DataLoader[Any]:
        rows = [(row, 0) for row in range(len(self.held_out))]
        return self._loader(self.held_out, rows, self.recipe.batch_size)  # whole on every device: no gathering

    def _loader(self, arrays: Arrays, sampler: Any, size: int, *, drop_last: bool = False) -> DataLoader[Any]:
        def collate(rows: list[Row]) -> tuple[Tensor, Tensor | None, Tensor]:
            return arrays.batch([row for row, _ in rows], [view for _, view in rows])

        # A generator of its own: each pass over a loader draws from it, and a resumed training begins a pass at another
        # moment than an undisturbed one, whose next draws (dropout) would then be others.
        own = torch.Generator()
        return DataLoader(
            _Rows(), batch_size=size, sampler=sampler, collate_fn=collate, drop_last=drop_last, generator=own
        )

    def outputs(self, images: Tensor, features: Tensor | None) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Return logits (B, K) and the classifier's own maps, from features where the body is frozen."""
        images = self.classifier.laid_out(images)
        if features is None:
            prediction = self.classifier.predict(images)  # one pass, also of a network that hooks split
            return prediction.logits, prediction.maps
        return self.classifier.head_with_maps(self.classifier.laid_out(features), images)

    def training_step(self, batch: tuple[Tensor, Tensor | None, Tensor], index: int) -> Tensor:
        images, features, labels = batch
        logits, maps = self.outputs(images, features)
        if self.task == "multilabel":
            loss = F.binary_cross_entropy_with_logits(logits, labels)
        else:
            loss = F.cross_entropy(logits, labels.argmax(dim=1))
        self._losses.append(loss.detach())
        if self.current_epoch < self.recipe.sparsity_warmup:
            return loss
        if self.recipe.sparsity:
            loss = loss + self.recipe.sparsity * maps["ccm"].abs().mean()
        if self.recipe.concentration:
            loss = loss + self.recipe.concentration * spread(maps["ccm"])
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor | None, Tensor], index: int) -> None:
        images, features, _ = batch
        self._logits.append(self.outputs(images, features)[0])

    def close_epoch(self) -> None:
        """Add a line to the history and keep the weights if the recipe selects this epoch.

        Raises:
            XaibenchError: the loss is no longer finite.
        """
        loss = math.nan
        if self._losses:
            loss = float(self.trainer.strategy.reduce(torch.stack(self._losses).mean(), reduce_op="mean"))
        self._losses = []
        if not math.isfinite(loss):
            raise XaibenchError(
                f"training diverged: the loss is {loss} in epoch {self.current_epoch + 1}; lower the rate: "
                f"--recipe learning_rate={self.recipe.learning_rate / 10:g}"
            )
        auc = math.nan
        if self._logits:  # none: nothing is held out
            logits, self._logits = torch.cat(self._logits).double().cpu().numpy(), []
            auc = mean_auc(class_scores(logits, self.task), self.held_out.labels)
        self.history.append({"epoch": self.current_epoch + 1, "loss": loss, "auc": None if math.isnan(auc) else auc})
        if self.recipe.selection == "last" or auc > self.best_score:
            self.best_score = auc
            self.best_state = {k: v.detach().cpu().clone() for k, v in self.classifier.trained_state().items()}

    def configure_optimizers(self) -> Any:
        recipe = self.recipe
        parameters = [parameter for parameter in self.classifier.parameters() if parameter.requires_grad]
        options: dict[str, Any] = {"lr": recipe.learning_rate, "weight_decay": recipe.weight_decay}
        if recipe.optimizer == "sgd":
            optimizer: torch.optim.Optimizer = torch.optim.SGD(parameters, momentum=recipe.momentum, **options)
        else:
            optimizer = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[recipe.optimizer](parameters, **options)
        if recipe.schedule == "constant":
            return optimizer
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=recipe.epochs)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "epoch"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["history"], checkpoint["best_score"] = self.history, self.best_score
        checkpoint["best_state"] = self.best_state

    def on_load_checkpoint(self, checkpoint: Mapping[str, Any]) -> None:
        self.history, self.best_score = list(checkpoint["history"]), checkpoint["best_score"]
        self.best_state = dict(checkpoint["best_state"])


class _Rows(torch.utils.data.Dataset[Row]):
    """The identity: a sampler's rows go to the collating function as they are."""

    def __getitem__(self, row: Any) -> Row:
        return row  # type: ignore[no-any-return]
