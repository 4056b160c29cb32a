"""Network in Network's output: a confidence map for each class, and its mean as the class's score.

Lin, Chen and Yan 2014 (ICLR, arXiv:1312.4400), sec. 3.2: a last mlpconv layer makes one map for each class, and global
average pooling of the maps takes the place of the fully connected layers, so that each map shows where the class is.
Here on a timm backbone. The score is the map's mean: ``confidence.mean() == logit``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xaibench.classifiers.base import Classifier, seeded
from xaibench.classifiers.timm import size_options
from xaibench.classifiers.weights import build_backbone, normalize_of, outline
from xaibench.errors import UsageError, first_line


class NIN(Classifier):
    """A timm backbone, convolutions of 1 x 1 to one confidence map a class, and global average pooling; all trains.

    Args:
        classes: K class names.
        input_size: side of the images.
        model: any timm backbone with features (B, C, h, w).
        weights: of the backbone, see `xaibench.classifiers.weights`.
        hidden: channels of a further 1 x 1 convolution with ReLU before the maps, which makes them an mlpconv layer; 0:
            none, and the map is a CAM.
        head: "linear" (maps are signed) or "relu" (the paper's: no evidence against a class).
        seed: of the new layers' initial weights (of all, when weights are "random").

    Own map, (B, K, H, W): "confidence", the maps brought up bilinearly. That keeps their mean where the features'
    side divides the image's.

    Raises:
        UsageError: an option out of its range, an unknown model, or one whose features are no (B, C, h, w).
        WeightsError: the weights can't be had.
    """

    own_maps = ("confidence",)
    memory_format = torch.channels_last

    def __init__(
        self,
        classes: Sequence[str],
        input_size: int = 256,
        *,
        model: str = "densenet121",
        weights: str = "auto",
        hidden: int = 0,
        head: Literal["linear", "relu"] = "linear",
        seed: int = 0,
    ) -> None:
        super().__init__(classes, input_size)
        if isinstance(hidden, bool) or not isinstance(hidden, int) or hidden < 0:
            raise UsageError(f"nin: hidden = {hidden!r}; it is a number of channels, or 0")
        if head not in ("linear", "relu"):
            raise UsageError(f"nin: head = {head!r}; it is 'linear' or 'relu'")
        sized = size_options(model, input_size)
        channels = outline(model, num_classes=0, **sized).num_features
        self.model: Any
        self.model, self.weights = build_backbone(model, weights, seed=seed, num_classes=0, **sized)
        self.normalize = normalize_of(model)
        with seeded(seed):
            before = [nn.Conv2d(channels, hidden, 1), nn.ReLU()] if hidden else []
            after = [nn.ReLU()] if head == "relu" else []
            self.maps = nn.Sequential(*before, nn.Conv2d(hidden or channels, len(classes), 1), *after)
        self.head_is_pooled_linear = len(self.maps) == 1
        self._try(model, channels)

    def features(self, images: Tensor) -> Tensor:
        return self.model.forward_features(self.normalize(images))  # type: ignore[no-any-return]

    def head(self, features: Tensor, images: Tensor) -> Tensor:
        return self.confidence(features).mean(dim=(-2, -1))

    def head_with_maps(self, features: Tensor, images: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
        maps = self.confidence(features)
        size = tuple(images.shape[-2:])
        up = F.interpolate(maps, size=size, mode="bilinear", align_corners=False)
        return maps.mean(dim=(-2, -1)), {"confidence": up}

    def confidence(self, features: Tensor) -> Tensor:
        """Return the confidence maps (B, K, h, w) of features (B, C, h, w); their means are the logits."""
        return self.maps(features)  # type: ignore[no-any-return]

    def class_weights(self) -> Tensor:
        """Return the maps' weights, (K, C).

        Raises:
            UsageError: more than one linear layer makes the maps.
        """
        if not self.head_is_pooled_linear:
            raise UsageError("nin's maps come from more than one linear layer: use confidence_map, which is exact")
        weight: Tensor = self.maps[0].weight  # type: ignore[assignment]
        return weight[:, :, 0, 0]

    def _try(self, model: str, channels: int) -> None:
        """Run one image through, so that a model that does not fit says so before an hour of training."""
        training = self.training
        self.eval()
        try:
            with torch.no_grad():
                features = self.features(torch.zeros(1, 3, self.input_size, self.input_size))
        except (RuntimeError, ValueError, AssertionError) as error:
            raise UsageError(f"nin: {model} takes no images of {self.input_size} px: {first_line(error)}") from error
        finally:
            self.train(training)
        if features.ndim != 4 or features.shape[1] != channels:
            raise UsageError(
                f"nin: {model}'s features have shape {tuple(features.shape)}, not (B, C, h, w): take a CNN such as "
                "densenet121 or resnet50"
            )
