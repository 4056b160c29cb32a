"""A Vision Transformer as body and head, split where the head still depends on every patch token.

After the last block a head that reads the class token alone has no use for the patch tokens, so their gradient is zero
there: the block's input is the last place where all methods find something. It is what pytorch-grad-cam's examples
take, up to the block's first norm. A head that pools the patch tokens reads those that leave the last norm. The class
token and the registers have no place on the grid; they stay here, by image.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

KEPT = 2048
"""Images whose class tokens are kept: more than any batch; a few kB each."""


def is_vision_transformer(model: Any) -> bool:
    """Tell whether timm's model is a plain ViT: a row of blocks over one grid of patches."""
    from timm.models.vision_transformer import VisionTransformer

    return isinstance(model, VisionTransformer)


class TokenGrid:
    """Splits a timm ViT at its last block, or behind it; holds no weights of its own.

    Args:
        model: a timm `VisionTransformer`. Whether its ``forward`` is what this takes it for is for the caller to check.
        prepare: what images go through before `model`.

    Attributes:
        behind: the features are the patch tokens behind the last block and norm, in place of those before the block.
    """

    def __init__(self, model: Any, prepare: Callable[[Tensor], Tensor]) -> None:
        self.model, self.prepare = model, prepare
        self.behind = model.attn_pool is not None or model.global_pool not in ("", "token")
        self._kept: OrderedDict[bytes, Tensor] = OrderedDict()
        self._last: tuple[Tensor, Tensor] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"model": self.model, "prepare": self.prepare}  # a copy starts with nothing kept

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    @property
    def layer(self) -> str:
        """The module whose output the features are."""
        last = "norm" if not isinstance(self.model.norm, torch.nn.Identity) else "blocks"
        return last if self.behind else f"blocks.{len(self.model.blocks) - 2}"

    def features(self, images: Tensor) -> Tensor:
        """Return the patch tokens, (B, C, h, w), of images (B, 3, H, W)."""
        prepared = self.prepare(images)
        tokens = self._body(prepared)
        prefix, patches = tokens[:, : self._prefixes()], tokens[:, self._prefixes() :]
        self._last = (images, prefix)
        if not self.model.training:
            for key, token in zip(self._keys(images), prefix.detach(), strict=True):
                self._kept[key] = token
                self._kept.move_to_end(key)
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        height, width = grid_of(self.model, prepared)
        return patches.transpose(1, 2).reshape(len(patches), -1, height, width)

    def head(self, features: Tensor, images: Tensor) -> Tensor:
        """Return logits (B, K) of features (B, C, h, w) and the class tokens of the same images.

        The gradient stays on the features, unless they come with the graph of `features(images)` itself: then the
        class tokens bring theirs.
        """
        tokens = torch.cat([self._prefix(features, images), features.flatten(2).transpose(1, 2)], dim=1)
        if not self.behind:
            tokens = self.model.norm(self.model.blocks[-1](tokens))
        logits: Tensor = self.model.forward_head(tokens)
        return logits

    def _prefixes(self) -> int:
        return int(self.model.num_prefix_tokens)

    def _body(self, prepared: Tensor) -> Tensor:
        model = self.model
        tokens = model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(prepared))))
        for block in model.blocks if self.behind else model.blocks[:-1]:
            tokens = block(tokens)
        return model.norm(tokens) if self.behind else tokens  # type: ignore[no-any-return]

    def _prefix(self, features: Tensor, images: Tensor) -> Tensor:
        """Return the tokens without a place, (B, P, C): from the pass that made the features, else from another."""
        if self._last is not None and self._last[0] is images:
            prefix = self._last[1]
            if features.grad_fn is None:
                return prefix.detach()
            self._last = None  # the graph must not outlive its step
            return prefix
        if features.grad_fn is not None:
            return self._body(self.prepare(images))[:, : self._prefixes()]
        found = [self._kept.get(key) for key in self._keys(images)]
        kept = [token for token in found if token is not None]
        if len(kept) == len(found):
            return torch.stack(kept)
        with torch.no_grad():
            return self._body(self.prepare(images))[:, : self._prefixes()]

    def _keys(self, images: Tensor) -> list[bytes]:
        """Return what tells images apart, under the present weights."""
        state = str([(tensor.data_ptr(), tensor._version) for tensor in self.model.parameters()]).encode()
        once = images.stride(0) == 0  # one image, expanded
        rows = images[:1] if once else images
        keys = [
            hashlib.sha1(state + row.contiguous().numpy().tobytes(), usedforsecurity=False).digest()
            for row in rows.detach().cpu()
        ]
        return keys * len(images) if once else keys


def grid_of(model: Any, prepared: Tensor) -> tuple[int, int]:
    """Return rows and columns of a timm ViT's patches, of images (B, 3, H, W) of any size that it takes.

    Raises:
        AttributeError: its embedding does not say.
    """
    height, width = model.patch_embed.dynamic_feat_size(tuple(prepared.shape[-2:]))
    return int(height), int(width)
