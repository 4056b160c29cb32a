"""Maps made of a Vision Transformer's attention."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from xaibench.classifiers.base import Classifier
from xaibench.classifiers.tokens import grid_of
from xaibench.errors import NotApplicableError, UsageError
from xaibench.explainers.base import Explainer, frozen, upsample
from xaibench.types import Prediction

ROWS = 8  # images at once: a ViT-B/16 at 224 px keeps some 22 MB of attention for each


@dataclass
class Attention:
    """What the blocks of a ViT attend to in one pass.

    Attributes:
        prefixes: how many tokens come before the patches: class tokens and registers.
        grid: rows and columns of the patches, N less `prefixes` of them.
        layers: for each block, from the first, (B, heads, N, N): the share that token n (row) takes from token m.
        last: the tokens that leave the last block, (B, N, C), with a graph to the logits.
    """

    prefixes: int
    grid: tuple[int, int] = (0, 0)
    layers: list[Tensor] = field(default_factory=list)
    last: Tensor | None = None

    def on_grid(self, relevance: Tensor, logits: Tensor) -> Tensor:
        """Return what the logits draw from each patch, (B, h, w), of (B, N, N): the mean of the rows of the tokens that
        the head reads (the class token; where it pools, the patches).
        """
        read = self._read(logits).to(relevance)
        rows = torch.einsum("bn,bnm->bm", read / read.sum(dim=1, keepdim=True), relevance)
        return rows[:, self.prefixes :].reshape(-1, *self.grid)

    def _read(self, logits: Tensor) -> Tensor:
        """Return which tokens the logits (B, K) depend on, (B, N) bool: those with a gradient."""
        assert self.last is not None
        weights = torch.linspace(1, 2, logits.shape[1], device=logits.device)  # so that no two classes cancel
        (gradient,) = torch.autograd.grad((logits * weights).sum(), self.last, retain_graph=True)
        return gradient.abs().sum(dim=2) > 0


class _OfAttention(Explainer):
    """Base of the methods that look at the attention of every block.

    Attributes:
        name: as registered, for messages.
    """

    runs_body = True
    name: ClassVar[str]

    def check(self, classifier: Classifier) -> None:
        vision_transformer(classifier, self.name)

    def explain(self, classifier: Classifier, prediction: Prediction, targets: Tensor) -> Tensor:
        return upsample(self.native(classifier, prediction, targets), prediction.frame)

    def native(self, classifier: Classifier, prediction: Prediction, targets: Tensor) -> Tensor:
        maps = []
        for rows in torch.split(torch.arange(len(prediction)), ROWS):
            images = prediction.images[rows].detach()
            with attending(classifier, self.name) as attention, frozen(classifier):
                maps.append(self.relevance(classifier, images, targets[rows.to(targets.device)], attention).detach())
        return torch.cat(maps)

    @abstractmethod
    def relevance(self, classifier: Classifier, images: Tensor, targets: Tensor, attention: Attention) -> Tensor:
        """Run images (b, 3, H, W) through, gradients on, and return maps (b, h, w) of the attention that this fills."""


class AttentionRollout(_OfAttention):
    """Attention rollout (Abnar and Zuidema 2020): the product over the blocks of attention, half of it the shortcut.

    The same map for every class: it says where the network looks, not why it decides.

    Args:
        head_fusion: how a block's heads become one: "mean" (the paper's), "max" or "min".
        discard: share of each block's smallest fused attentions set to zero, but never those of the class token; 0
            keeps all (the paper), 0.9 is common with "max".

    Raises:
        UsageError: an option out of its range.
    """

    name = "attention_rollout"
    class_specific: ClassVar[bool] = False

    def __init__(self, head_fusion: Literal["mean", "max", "min"] = "mean", discard: float = 0.0) -> None:
        if head_fusion not in ("mean", "max", "min"):
            raise UsageError(f"{self.name}: head_fusion = {head_fusion!r}; it is 'mean', 'max' or 'min'")
        if isinstance(discard, bool) or not isinstance(discard, int | float) or not 0 <= discard < 1:
            raise UsageError(f"{self.name}: discard = {discard!r}; it is a share, from 0 to below 1")
        self.head_fusion, self.discard = head_fusion, discard

    def relevance(self, classifier: Classifier, images: Tensor, targets: Tensor, attention: Attention) -> Tensor:
        logits = classifier(images)  # the weights are frozen: a graph begins at the last block's output alone
        found = rollout(attention.layers, self.head_fusion, self.discard, attention.prefixes)
        return attention.on_grid(found, logits)


class GradientAttention(_OfAttention):
    """Attention weighted by its gradient, rolled through the blocks (Chefer 2021, ICCV, "Generic attention-model
    explainability", eq. 5 and 6): each block adds the positive part of attention times gradient of the class's logit.
    """

    name = "gradient_attention"

    def relevance(self, classifier: Classifier, images: Tensor, targets: Tensor, attention: Attention) -> Tensor:
        # With the weights frozen, only the image can start the graph.
        logits = classifier(images.clone().requires_grad_(True))
        score = logits.gather(1, targets[:, None]).sum()
        gradients = torch.autograd.grad(score, attention.layers, retain_graph=True)
        found = weighted_rollout([layer.detach() for layer in attention.layers], gradients)
        return attention.on_grid(found, logits)


def rollout(layers: Sequence[Tensor], head_fusion: str = "mean", discard: float = 0.0, prefixes: int = 1) -> Tensor:
    """Roll attentions (B, heads, N, N) of all blocks out to (B, N, N): what the output takes from the input tokens.

    >>> rollout([torch.tensor([[[[0.5, 0.5], [1.0, 0.0]]]])])  # half of it the token itself
    tensor([[[0.7500, 0.2500],
             [0.5000, 0.5000]]])
    """
    found = torch.eye(layers[0].shape[-1], device=layers[0].device).expand(len(layers[0]), -1, -1)
    for layer in layers:
        fused = {"mean": layer.mean(dim=1), "max": layer.amax(dim=1), "min": layer.amin(dim=1)}[head_fusion]
        if discard:
            flat = fused.flatten(1).clone()
            smallest = flat.topk(int(flat.shape[1] * discard), dim=1, largest=False).indices
            kept = fused[:, :, :prefixes].clone()
            fused = flat.scatter(1, smallest, 0.0).reshape(fused.shape)
            fused[:, :, :prefixes] = kept
        mixed = fused + torch.eye(fused.shape[-1], device=fused.device)
        found = (mixed / mixed.sum(dim=-1, keepdim=True)) @ found
    return found


def weighted_rollout(layers: Sequence[Tensor], gradients: Sequence[Tensor]) -> Tensor:
    """Return Chefer's relevance (B, N, N) of attentions and the logit's gradients at them, both (B, heads, N, N)."""
    found = torch.eye(layers[0].shape[-1], device=layers[0].device).expand(len(layers[0]), -1, -1)
    for layer, gradient in zip(layers, gradients, strict=True):
        found = found + (layer * gradient).relu().mean(dim=1) @ found
    return found


def vision_transformer(classifier: Classifier, explainer: str) -> Any:
    """Return the timm Vision Transformer in a classifier.

    Raises:
        NotApplicableError: there is none, or its blocks do not show their attention.
    """
    from timm.models.vision_transformer import VisionTransformer

    who = type(classifier).__name__
    models: list[Any] = [module for module in classifier.modules() if isinstance(module, VisionTransformer)]
    if len(models) != 1:
        raise NotApplicableError(
            f"{explainer} is made of a Vision Transformer's attention and {who} has none: use gradcam, or a classifier "
            "such as timm:vit_tiny_patch16_224"
        )
    blocks = models[0].blocks
    if not all(hasattr(getattr(block, "attn", None), "attn_drop") for block in blocks):
        raise NotApplicableError(
            f"{explainer} reads attention that the blocks of {who}'s {type(models[0]).__name__} do not show: use "
            "gradcam or integrated_gradients"
        )
    return models[0]


@contextmanager
def attending(classifier: Classifier, explainer: str) -> Iterator[Attention]:
    """Keep the attention of the next pass through a ViT, whose fused attention is off for the block.

    Raises:
        NotApplicableError: see `vision_transformer`.
    """
    model = vision_transformer(classifier, explainer)
    seen = Attention(int(model.num_prefix_tokens))

    def keep(_: Any, __: Any, output: Tensor) -> None:
        seen.layers.append(output)

    def note_grid(_: Any, inputs: tuple[Tensor, ...]) -> None:
        seen.grid = grid_of(model, inputs[0])

    def keep_last(_: Any, __: Any, output: Tensor) -> Tensor:
        seen.last = output if output.requires_grad else output.detach().requires_grad_(True)
        return seen.last

    attentions = [block.attn for block in model.blocks]
    fused = [attention.fused_attn for attention in attentions]
    # Dropout is where the softmax comes out; in eval mode it changes nothing.
    handles = [attention.attn_drop.register_forward_hook(keep) for attention in attentions]
    handles.append(model.patch_embed.register_forward_pre_hook(note_grid))
    handles.append(model.blocks[-1].register_forward_hook(keep_last))
    try:
        for attention in attentions:
            attention.fused_attn = False
        yield seen
    finally:
        for handle in handles:
            handle.remove()
        for attention, was in zip(attentions, fused, strict=True):
            attention.fused_attn = was
