"""What a metric sees that asks the network: maps with the classifier and the explainer that made them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeVar, get_args

import torch
from torch import Tensor

from xaibench.classifiers.base import Classifier
from xaibench.errors import NotApplicableError, UsageError
from xaibench.explainers.base import Explainer
from xaibench.explainers.calling import call
from xaibench.types import Prediction

Output = Literal["probability", "logit", "margin"]
Made = TypeVar("Made")
CHUNK = 64  # images in one forward pass of `scores`


class Shelf(Protocol):
    """Keeps tensors of a batch by name."""

    def load(self, name: str) -> Tensor | None:
        """Return a tensor, None where it is not known."""

    def save(self, name: str, tensor: Tensor) -> None:
        """Keep a tensor."""


class Runs(Protocol):
    """Runs the classifier, as `xaibench.evaluation.inference.Forward` does."""

    def __call__(self, images: Tensor, ids: Sequence[str]) -> Prediction:
        """Return the prediction of images (N, 3, H, W)."""

    def logits(self, images: Tensor) -> Tensor:
        """Return the logits (N, K) of images (N, 3, H, W)."""


@dataclass(frozen=True, eq=False)
class Explained:
    """A batch of P maps, each of one image and one class, with what made them.

    Args:
        classifier: in eval mode.
        explainer: that made `maps`.
        prediction: of the P images; an image with two classes comes twice.
        targets: (P,) int64, the class explained.
        maps: (P, H, W) float32, signed, in the input's frame.
        task: "multiclass" (a probability is a softmax) or "multilabel" (a sigmoid).
        shared: values that the metrics of all explainers of this batch share: see `once`.
        shelf: where scores of perturbed images are kept from one evaluation to the next; None keeps none.
        forward: how the classifier is run; as it is by default.
    """

    classifier: Classifier
    explainer: Explainer
    prediction: Prediction
    targets: Tensor
    maps: Tensor
    task: str = "multiclass"
    shared: dict[Hashable, Any] = field(default_factory=dict)
    shelf: Shelf | None = None
    forward: Runs | None = None

    def __len__(self) -> int:
        return len(self.targets)

    def once(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """Return what `make` gives, made at most once a batch: perturbed images and their scores are shared so.

        `key` names everything that decides the value beside the batch's images and targets.
        """
        if key not in self.shared:
            self.shared[key] = make()
        return self.shared[key]  # type: ignore[no-any-return]

    def once_kept(self, key: Hashable, make: Callable[[], Tensor]) -> Tensor:
        """Return what `make` gives, as `once`; a tensor that cost forward passes, looked for on the shelf first.

        `key` consists of numbers and strings, and names everything that decides the value beside the batch.
        """

        def find() -> Tensor:
            known = self.shelf.load(repr(key)) if self.shelf else None
            if known is not None:
                return known.to(self.maps.device)
            made = make()
            if self.shelf:
                self.shelf.save(repr(key), made)
            return made

        return self.once(key, find)

    def scores(self, images: Tensor, rows: Tensor, output: Output = "probability") -> Tensor:
        """Return the score of the explained class of changed images, (N,) float64; no gradient.

        Args:
            images: (N, 3, H, W) in [0, 1].
            rows: (N,) int64, which of the P pairs each image belongs to.
            output: "probability" (softmax or sigmoid), "logit", or "margin" (the logit less the log-sum-exp of the
                others; multi-label: the logit).
        """
        return class_score(self.logits(images), self.targets[rows], self.task, output)

    def logits(self, images: Tensor) -> Tensor:
        """Return the logits of changed images, (N, K) float64; no gradient."""
        forward = self.forward.logits if self.forward else self.classifier
        with torch.no_grad():
            logits = [forward(self.classifier.laid_out(part)).double() for part in torch.split(images, CHUNK)]
        return torch.cat(logits)

    def predict(self, images: Tensor, ids: Sequence[str]) -> Prediction:
        """Return the prediction of changed images (N, 3, H, W), without gradients."""
        with torch.no_grad():
            return (self.forward or self.classifier.predict)(self.classifier.laid_out(images), ids)

    def scores_of(self, make: Callable[[Tensor], Tensor], rows: Tensor, output: Output = "probability") -> Tensor:
        """Return `scores` of images that need not be in memory at once, (N,) float64.

        Args:
            make: called with places in `rows`, (n,) int64; returns their images, (n, 3, H, W).
            rows, output: see `scores`.
        """
        places = torch.arange(len(rows), device=rows.device)
        return torch.cat([self.scores(make(part), rows[part], output) for part in torch.split(places, CHUNK)])

    def own_scores(self, output: Output = "probability") -> Tensor:
        """Return the score of the explained class of the unchanged images, (P,) float64: no forward pass."""
        return class_score(self.prediction.logits.double(), self.targets, self.task, output)

    def explain(self, images: Tensor, rows: Tensor) -> Tensor:
        """Explain the same class of changed images, (N, 3, H, W) in [0, 1]: (N, H, W).

        An image keeps its pair's id, so what a stochastic explainer draws stays the same.

        Raises:
            NotApplicableError: the explainer's maps were made elsewhere.
        """
        require_live(self.explainer)
        ids = [self.prediction.ids[row] for row in rows.tolist()]
        maps = []
        for part, names, targets in zip(
            torch.split(images, CHUNK), _split(ids, CHUNK), torch.split(self.targets[rows], CHUNK), strict=True
        ):
            maps.append(call(self.explainer, self.classifier, self.predict(part, names), targets))
        return torch.cat(maps)


def require_live(explainer: Explainer) -> None:
    """Refuse an explainer whose maps were made elsewhere: that they do not change would say nothing of its method.

    Raises:
        NotApplicableError: it is one.
    """
    if explainer.fixed:
        raise NotApplicableError("its maps were made elsewhere: it can't explain a changed image or another network")


def class_score(logits: Tensor, targets: Tensor, task: str, output: Output) -> Tensor:
    """Return one class's score (N,) of logits (N, K); see `Explained.scores`.

    Raises:
        UsageError: another output.

    >>> class_score(torch.zeros(1, 4), torch.tensor([2]), "multiclass", "probability").tolist()
    [0.25]
    """
    if output not in get_args(Output):
        raise UsageError(f"output = {output!r}; it is one of {', '.join(map(repr, get_args(Output)))}")
    own = logits.gather(1, targets[:, None])[:, 0]
    if output == "logit" or (output == "margin" and task == "multilabel"):
        return own
    if task == "multilabel":
        return own.sigmoid()
    others = logits.scatter(1, targets[:, None], -torch.inf).logsumexp(1)
    return (own - others).sigmoid() if output == "probability" else own - others


def _split(items: list[str], size: int) -> list[list[str]]:
    return [items[start : start + size] for start in range(0, len(items), size)]
