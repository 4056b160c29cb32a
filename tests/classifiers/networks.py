"""Networks of a user's own, for the tests of classifiers from outside."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Net(nn.Module):
    """Its last spatial layer is followed by an in-place ReLU in a function, as torchvision's DenseNet is."""

    def __init__(self, outputs: int = 4, channels: int = 3) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.first = nn.Conv2d(channels, 6, 3, stride=4, padding=1)
        self.second = nn.Conv2d(6, 8, 3, stride=2, padding=1)
        self.last = nn.Linear(8, outputs)
        for parameter in self.parameters():
            with torch.no_grad():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)

    def forward(self, images: Tensor) -> Tensor:
        found = self.second(self.first(images).relu_()).relu_()
        return self.last(found.mean(dim=(2, 3)))  # type: ignore[no-any-return]


class Twice(Net):
    """Runs a layer twice."""

    def __init__(self) -> None:
        super().__init__()
        self.second = nn.Conv2d(6, 6, 3, padding=1)
        self.last = nn.Linear(6, 4)

    def forward(self, images: Tensor) -> Tensor:
        found = self.second(self.second(self.first(images)).relu())
        return self.last(found.mean(dim=(2, 3)))  # type: ignore[no-any-return]


class Named(Net):
    """Gives what transformers give: an object with logits."""

    def forward(self, images: Tensor) -> object:  # type: ignore[override]
        return type("Output", (), {"logits": super().forward(images)})()


def make() -> nn.Module:
    return Net()


def fails() -> nn.Module:
    raise RuntimeError("no weights\nat all")


MADE = Net()
NOTHING = 3
