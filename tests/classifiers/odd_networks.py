"""Networks as users bring them, each odd in one way: what is scored must be what their own forward gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from xaibench.classifiers.base import seeded


class Plain(nn.Module):
    """Two convolutions, average pooling, one linear layer; drawn from a seed of its own, the same every time."""

    def __init__(self, outputs: int = 4, channels: int = 8) -> None:
        super().__init__()
        with seeded(3):
            self.first = nn.Conv2d(3, channels, 5, stride=4, padding=2)
            self.second = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
            self.last = nn.Linear(channels, outputs)

    def body(self, images: Tensor) -> Tensor:
        return F.relu(self.second(F.relu(self.first(images))))

    def forward(self, images: Tensor) -> Any:
        return self.last(self.body(images).mean((2, 3)))


class Viewed(Plain):
    """Calls `view` on its maps, which channels-last memory does not allow."""

    def __init__(self) -> None:
        super().__init__()
        with seeded(4):
            self.last = nn.Linear(8 * 8 * 8, 4)

    def forward(self, images: Tensor) -> Tensor:
        found = self.body(images)
        return self.last(found.view(len(found), -1))  # type: ignore[no-any-return]


class MeanOfPatches(VisionTransformer):
    """A subclass of timm's ViT with a forward of its own: the head reads the patches, not the class token."""

    def forward(self, x: Tensor, *_: Any, **__: Any) -> Tensor:
        return self.head(self.forward_features(x)[:, 1:].mean(1))  # type: ignore[no-any-return]


def tiny_vit(kind: type[VisionTransformer] = VisionTransformer, **options: Any) -> VisionTransformer:
    """Return a ViT of 64 px, patches of 16 and 3 blocks, with random weights that no head hides."""
    known: dict[str, Any] = {"img_size": 64, "patch_size": 16, "embed_dim": 32, "depth": 3, "num_heads": 2}
    with seeded(5):
        made = kind(**{**known, "num_classes": 4, **options})
        for parameter in made.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.15)
    return made.eval()


class OneLogit(Plain):
    def __init__(self, squeeze: bool = False) -> None:
        super().__init__(1)
        self.squeeze = squeeze

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = super().forward(images)
        return found.squeeze() if self.squeeze else found


class BatchStatistics(Plain):
    """A batch norm without running statistics: an image's output depends on the others of its batch."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(8, track_running_stats=False)

    def body(self, images: Tensor) -> Tensor:
        return F.relu(self.norm(self.second(F.relu(self.first(images)))))


class AlwaysDropping(Plain):
    def forward(self, images: Tensor) -> Tensor:
        return self.last(F.dropout(self.body(images), 0.5).mean((2, 3)))  # type: ignore[no-any-return]


class NotANumber(Plain):
    """NaN for dark images: a root of what may be negative."""

    def __init__(self, limit: float = 0.05) -> None:
        super().__init__()
        self.limit = limit

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = super().forward(images)
        return found + torch.sqrt(images.mean((1, 2, 3)) - self.limit)[:, None] * 0


class Counts(Plain):
    """Counts its calls in a buffer, which is its own affair."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(images)  # type: ignore[no-any-return]


class Prototype(Plain):
    """Keeps the result of an operation on its weights, which `copy.deepcopy` refuses."""

    def __init__(self) -> None:
        super().__init__()
        self.prototype = self.last.weight * 1.0
        self.register_buffer("scaled", self.last.weight.mean(0) * 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.body(images).mean((2, 3)) @ self.prototype.T + self.scaled.sum()


class Answer:
    """An object with logits, as transformers gives."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits


ANSWERS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "object": lambda logits, features: Answer(logits),
    "mapping": lambda logits, features: {"logits": logits, "loss": logits.sum()},
    "mapping of one that fits": lambda logits, features: {"pooled": features, "scores": logits},
    "tuple": lambda logits, features: (logits, features),
    "tuple, last": lambda logits, features: (features, None, logits),
    "axes of length 1": lambda logits, features: logits[:, :, None, None],
}


class Gives(Plain):
    """Gives what `how` makes of logits (B, 4) and pooled features (B, 8)."""

    def __init__(self, how: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.how = how

    def forward(self, images: Tensor) -> Any:
        pooled = self.body(images).mean((2, 3))
        return self.how(self.last(pooled), pooled)


class SoftmaxAttention(nn.Module):
    """Attention of two heads whose shares leave a module, (B, heads, N, N): four axes, and no place among them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv, self.softmax, self.out = nn.Linear(width, 3 * width), nn.Softmax(dim=-1), nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        q, k, v = self.qkv(tokens).unflatten(2, (3, 2, -1)).permute(2, 0, 3, 1, 4)
        shares = self.softmax(q @ k.transpose(2, 3) / q.shape[-1] ** 0.5)
        return self.out((shares @ v).transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class SoftmaxBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.attention, self.mlp = nn.LayerNorm(width), SoftmaxAttention(width), nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attention(self.norm(tokens))
        return tokens + F.gelu(self.mlp(tokens))


class SoftmaxViT(nn.Module):
    """A Vision Transformer as tutorials write it: 4 x 4 patches, a class token, `nn.Softmax` in the attention."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        with seeded(6):
            self.embed = nn.Conv2d(3, width, 16, stride=16)
            self.token, self.places = nn.Parameter(torch.randn(1, 1, width)), nn.Parameter(torch.randn(1, 17, width))
            self.blocks = nn.Sequential(*(SoftmaxBlock(width) for _ in range(3)))
            self.last = nn.Linear(width, 4)

    def forward(self, images: Tensor) -> Tensor:
        patches = self.embed(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(images), -1, -1), patches], 1) + self.places
        return self.last(self.blocks(tokens)[:, 0])  # type: ignore[no-any-return]
