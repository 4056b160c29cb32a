"""Layer-wise relevance propagation by zennit's composites (Anders et al. 2021, arXiv:2106.13200).

zennit hooks layers: what is no layer of its own (a shortcut's addition, a function's ReLU) escapes its rules, and a
batch norm must first be merged into its convolution. Both are tried on one image before anything is explained, and a
network that zennit can't do justice to is refused.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from zennit import composites
from zennit.canonizers import SequentialMergeBatchNorm

from xaibench.explainers.layers import operations, sample_image, unchanged
from xaibench.plugin import Classifier, Explainer, NotApplicableError, Prediction, first_line, frozen, upsample

ROWS = 8
_INSTEAD = "use lrp, or input_x_gradient"
_HARMLESS = frozenset({"sub", "div", "upsample_bilinear2d", "_upsample_bilinear2d_aa"})  # before the first layer


class LRP(Explainer):
    """Base of the composites; maps are summed over channels and signed.

    Relevance starts as the class's logit and stops at the input of the first layer with weights, so that normalising
    (and resizing) takes no part.

    Attributes:
        name: as registered, for messages.
    """

    runs_body = True
    name: ClassVar[str]

    @abstractmethod
    def composite(self, low: Tensor, high: Tensor) -> Any:
        """Return zennit's composite.

        Args:
            low, high: (1, 3, h, w), what the first layer sees of a black and of a white image.
        """

    def check(self, classifier: Classifier) -> None:
        who, image = type(classifier).__name__, sample_image(classifier)
        seen = operations(classifier, image)
        if between := sorted(op for op, kinds in seen.items() if None in kinds and op not in _HARMLESS):
            raise NotApplicableError(
                f"{self.name} needs a network of layers, and {who} computes {', '.join(between)} between them: "
                f"{_INSTEAD}"
            )
        with torch.no_grad():
            plain = classifier(image)
            try:
                low, high = _bounds(classifier)
                with unchanged(classifier), self.composite(low, high).context(classifier):
                    merged = classifier(image)
            except (RuntimeError, ValueError, AttributeError, TypeError) as error:
                raise NotApplicableError(
                    f"{self.name}: zennit can't hook {who} ({first_line(error)}): {_INSTEAD}"
                ) from error
        if not torch.allclose(plain, merged, rtol=1e-3, atol=1e-4):
            raise NotApplicableError(
                f"{self.name}: {who}'s batch norms can't be merged into its convolutions, as zennit's rules need: "
                f"{_INSTEAD}"
            )

    def explain(self, classifier: Classifier, prediction: Prediction, targets: Tensor) -> Tensor:
        maps = []
        composite = self.composite(*_bounds(classifier))
        parts = zip(torch.split(prediction.images, ROWS), torch.split(targets, ROWS), strict=True)
        with frozen(classifier), unchanged(classifier), _first_input(classifier) as seen, composite.context(classifier):
            for images, wanted in parts:
                seen.clear()
                logits = classifier(images.detach()).gather(1, wanted[:, None])
                (found,) = torch.autograd.grad(logits, seen[0], logits.detach())
                maps.append(found.sum(dim=1).detach())
        return upsample(torch.cat(maps), prediction.frame)


class EpsilonPlus(LRP):
    """LRP, epsilon rule in dense layers and z-plus in convolutions."""

    name = "lrp_epsilon_plus"

    def composite(self, low: Tensor, high: Tensor) -> Any:
        return composites.EpsilonPlus(canonizers=[SequentialMergeBatchNorm()])


class EpsilonPlusFlat(LRP):
    """LRP, epsilon-plus with the flat rule in the first layer."""

    name = "lrp_epsilon_plus_flat"

    def composite(self, low: Tensor, high: Tensor) -> Any:
        return composites.EpsilonPlusFlat(canonizers=[SequentialMergeBatchNorm()])


class EpsilonAlpha2Beta1(LRP):
    """LRP, epsilon rule in dense layers and alpha-2-beta-1 in convolutions."""

    name = "lrp_epsilon_alpha2_beta1"

    def composite(self, low: Tensor, high: Tensor) -> Any:
        return composites.EpsilonAlpha2Beta1(canonizers=[SequentialMergeBatchNorm()])


class EpsilonGammaBox(LRP):
    """LRP, epsilon rule in dense layers, gamma in convolutions, and the box rule in the first layer."""

    name = "lrp_epsilon_gamma_box"

    def composite(self, low: Tensor, high: Tensor) -> Any:
        return composites.EpsilonGammaBox(low=low, high=high, canonizers=[SequentialMergeBatchNorm()])


class ExcitationBackprop(LRP):
    """Excitation backpropagation (Zhang 2016): positive weights alone, in every layer."""

    name = "excitation_backprop"

    def composite(self, low: Tensor, high: Tensor) -> Any:
        return composites.ExcitationBackprop(canonizers=[SequentialMergeBatchNorm()])


@contextmanager
def _first_input(classifier: Classifier) -> Iterator[list[Tensor]]:
    """Cut the graph before the first layer with weights; the list gets its input, which carries gradients."""
    seen: list[Tensor] = []

    def cut(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if seen:
            return None
        seen.append(inputs[0].detach().requires_grad_(torch.is_grad_enabled()))
        return (seen[0], *inputs[1:])

    kinds = (nn.Conv2d, nn.Linear)
    handles = [m.register_forward_pre_hook(cut) for m in classifier.modules() if isinstance(m, kinds)]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _bounds(classifier: Classifier) -> tuple[Tensor, Tensor]:
    """Return what the first layer sees of a black and of a white image, each (1, 3, h, w)."""
    bounds = []
    size = classifier.input_size
    for value in (0.0, 1.0):
        with torch.no_grad(), _first_input(classifier) as seen:
            classifier.features(torch.full((1, 3, size, size), value, device=classifier.device))
        bounds.append(seen[0])
    return bounds[0], bounds[1]
