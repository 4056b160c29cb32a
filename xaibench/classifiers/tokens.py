"""A Vision Transformer as body and head: the patch tokens that enter the last block are the features.

After the last block a head that reads the class token has no use for the patch tokens, so their gradient is zero there:
the block's input is the last place where all methods find something. It is what pytorch-grad-cam's examples take, up to
the block's first norm. The class token and the registers have no place on the grid; they stay here, by image.
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
    """Splits a timm ViT before its last block; holds no weights of its own.

    Args:
        model: a timm `VisionTransformer`.
        prepare: what images go through before `model`.
    """

    def __init__(self, model: Any, prepare: Callable[[Tensor], Tensor]) -> None:
        self.model, self.prepare = model, prepare
        self._kept: OrderedDict[bytes, Tensor] = OrderedDict()
        self._last: tuple[Tensor, Tensor] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"model": self.model, "prepare": self.prepare}  # a copy starts with nothing kept

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def features(self, images: Tensor) -> Tensor:
        """Return the patch tokens that enter the last block, (B, C, h, w), of images (B, 3, H, W)."""
        tokens = self._body(images)
        prefix, patches = tokens[:, : self._prefixes()], tokens[:, self._prefixes() :]
        self._last = (images, prefix)
        if not self.model.training:
            for key, token in zip(self._keys(images), prefix.detach(), strict=True):
                self._kept[key] = token
                self._kept.move_to_end(key)
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        height, width = self.model.patch_embed.grid_size
        return patches.transpose(1, 2).reshape(len(patches), -1, height, width)

    def head(self, features: Tensor, images: Tensor) -> Tensor:
        """Return logits (B, K) of features (B, C, h, w) and the class tokens of the same images.

        The gradient stays on the features, unless they come with the graph of `features(images)` itself: then the
        class tokens bring theirs.
        """
        tokens = torch.cat([self._prefix(features, images), features.flatten(2).transpose(1, 2)], dim=1)
        logits: Tensor = self.model.forward_head(self.model.norm(self.model.blocks[-1](tokens)))
        return logits

    def _prefixes(self) -> int:
        return int(self.model.num_prefix_tokens)

    def _body(self, images: Tensor) -> Tensor:
        model = self.model
        tokens = model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(self.prepare(images)))))
        for block in model.blocks[:-1]:
            tokens = block(tokens)
        return tokens  # type: ignore[no-any-return]

    def _prefix(self, features: Tensor, images: Tensor) -> Tensor:
        """Return the tokens without a place, (B, P, C): from the pass that made the features, else from another."""
        if self._last is not None and self._last[0] is images:
            prefix = self._last[1]
            if features.grad_fn is None:
                return prefix.detach()
            self._last = None  # the graph must not outlive its step
            return prefix
        if features.grad_fn is not None:
            return self._body(images)[:, : self._prefixes()]
        found = [self._kept.get(key) for key in self._keys(images)]
        kept = [token for token in found if token is not None]
        if len(kept) == len(found):
            return torch.stack(kept)
        with torch.no_grad():
            return self._body(images)[:, : self._prefixes()]

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
