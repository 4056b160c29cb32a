"""Any timm CNN or Vision Transformer as a classifier: ``densenet121`` by name, the rest as ``timm:MODEL``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from timm.models.densenet import DenseNet
from torch import Tensor, nn

from xaibench.classifiers.base import Classifier
from xaibench.classifiers.densenet import run_densenet
from xaibench.classifiers.hooked import Hooked
from xaibench.classifiers.probe import check_network, probe_images, splits_well
from xaibench.classifiers.target import NoTargetError, find_target
from xaibench.classifiers.tokens import TokenGrid, is_vision_transformer
from xaibench.classifiers.weights import build_backbone, normalize_of, pretrained_config
from xaibench.errors import UsageError, first_line
from xaibench.types import Prediction


class TimmClassifier(Classifier):
    """A timm CNN or Vision Transformer with a fresh last layer; all of it trains.

    Args:
        classes: K class names.
        input_size: side of the images.
        model: the timm model's name.
        weights: see `xaibench.classifiers.weights`.
        resize: side that the network sees images at, when it is not theirs: finer features of small images, or the side
            that pretrained weights know. Brought there bilinearly; maps stay in the images' frame.
        seed: of the last layer's initial weights (of all, when weights are "random").

    `features` are `forward_features`, (B, C, h, w): DenseNet-121 1024 x 8 x 8 at 256 px. A Vision Transformer takes any
    size that its patches divide; its features are the patch tokens that enter its last block, or leave it where the
    head pools them, see `TokenGrid`. A model whose ``forward`` is something else is split where `find_target` says.

    Raises:
        UsageError: an unknown model, one that does not take the input size, or whose features are no (B, C, h, w).
        WeightsError: the weights can't be had.
    """

    def __init__(
        self,
        classes: Sequence[str],
        input_size: int = 256,
        *,
        model: str,
        weights: str = "auto",
        resize: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(classes, input_size)
        if resize is not None and (type(resize) is not int or not 32 <= resize <= 2048):
            raise UsageError(f"timm:{model}: resize = {resize!r}; it is a side of 32 to 2048 pixels")
        self.resize = None if resize == input_size else resize
        self.model: Any  # an nn.Module with timm's further methods
        sized = size_options(model, self.resize or input_size)
        self.model, self.weights = build_backbone(model, weights, seed=seed, num_classes=len(classes), **sized)
        self.normalize = normalize_of(model)
        self.tokens = TokenGrid(self.model, self._prepare) if is_vision_transformer(self.model) else None
        self.split: Hooked | None = None
        self.channels_are_last = False
        self._try(model)
        last: Any = self.model.get_classifier()
        self.last_layer = last if isinstance(last, nn.Linear) else None
        self.head_is_pooled_linear = self.last_layer is not None and self._pools_then_multiplies()

    def features(self, images: Tensor) -> Tensor:
        if self.split is not None:
            return self.split.features(lambda: self.own_forward(images))
        if self.tokens is not None:
            return self.tokens.features(images)
        images = self._prepare(images)
        if type(self.model) is DenseNet:
            return run_densenet(self.model.features, images)
        features: Tensor = self.model.forward_features(images)
        return features.permute(0, 3, 1, 2) if self.channels_are_last else features

    def head(self, features: Tensor, images: Tensor) -> Tensor:
        if self.split is not None:
            return self.split.head(lambda: self.own_forward(images), features)  # type: ignore[no-any-return]
        if self.tokens is not None:
            return self.tokens.head(features, images)
        return self.model.forward_head(features.permute(0, 2, 3, 1) if self.channels_are_last else features)  # type: ignore[no-any-return]

    def own_forward(self, images: Tensor) -> Tensor:
        return self.model(self._prepare(images))  # type: ignore[no-any-return]

    def predict(self, images: Tensor, ids: Sequence[str] = ()) -> Prediction:
        if self.split is None:
            return super().predict(images, ids)
        logits, features = self.split.both(lambda: self.own_forward(images))
        return Prediction(self.ids_of(images, ids), images, logits, features)

    def _prepare(self, images: Tensor) -> Tensor:
        if self.resize is not None:
            size = round(self.resize * images.shape[-1] / self.input_size)  # probe images may be larger
            images = F.interpolate(images, size=size, mode="bilinear", align_corners=False)
        return self.normalize(images)  # type: ignore[no-any-return]

    def class_weights(self) -> Tensor:
        """Return the last layer's weights, (K, C).

        Raises:
            UsageError: the head is not global average pooling and one linear layer.
        """
        if self.last_layer is None or not self.head_is_pooled_linear:
            raise UsageError(f"{type(self.model).__name__}'s head is more than average pooling and one linear layer")
        return self.last_layer.weight

    def _try(self, model: str) -> None:
        """Run probe images through, so that a model that does not fit says so before an hour of training."""
        training = self.training
        self.eval()
        images = probe_images(self.input_size)
        try:
            with torch.no_grad():
                self.own_forward(images[:1])
                check_network(self, f"timm:{model}")
                shape = self._shape_of_features(images[:1])
                channels = getattr(self.model, "embed_dim", None) if self.tokens else self.model.num_features
                # A Swin's grid is (B, h, w, C); other transformers' tokens are (B, N, C).
                at = [axis for axis in (1, 3) if len(shape) == 4 and shape[axis] == channels]
                self.channels_are_last = at == [3]
                if len(at) == 1 and splits_well(self, images):
                    return
            self._split_by_hooks(model, shape)
        except (RuntimeError, ValueError, AssertionError) as error:
            side = self.resize or self.input_size
            raise UsageError(f"timm:{model} takes no images of {side} px: {first_line(error)}") from error
        finally:
            self.train(training)

    def _shape_of_features(self, image: Tensor) -> tuple[int, ...]:
        try:
            return tuple(self.features(image).shape)
        except (AttributeError, TypeError):  # a model of somebody's own, registered with timm
            return ()

    def _split_by_hooks(self, model: str, shape: tuple[int, ...]) -> None:
        """Split at the layer that `find_target` finds, as the model's own parts are not its ``forward``.

        Raises:
            UsageError: there is none.
        """
        images = probe_images(self.input_size)
        self.tokens, self.channels_are_last = None, False
        try:
            self.target = find_target(self.model, self.own_forward, self.input_size, images.device)
            self.split = Hooked(self.model, self.target)
            with torch.no_grad():
                if splits_well(self, images):
                    return
            reason = f"with the output of {self.target.name} put in place by hand it gives other logits"
        except NoTargetError as error:
            reason = first_line(error, 300)
        own = f"features have shape {shape}, not (B, C, h, w)" if len(shape) != 4 else "features are not what it reads"
        raise UsageError(
            f"timm:{model}'s {own}, and it can't be split elsewhere ({reason}): take a CNN or a plain Vision "
            "Transformer (vit_*, deit_*)"
        )

    def _pools_then_multiplies(self) -> bool:
        """Try the head on random features against its closed form: what the layers are called proves nothing."""
        assert self.last_layer is not None
        if self.tokens is not None or self.split is not None:
            return False
        training = self.training
        self.eval()
        generator = torch.Generator().manual_seed(0)
        features = torch.randn(2, self.last_layer.in_features, 3, 4, generator=generator)
        try:
            with torch.no_grad():
                logits = self.head(features, features)
                closed = F.linear(features.mean(dim=(-2, -1)), self.last_layer.weight, self.last_layer.bias)
            return logits.shape == closed.shape and bool(torch.allclose(logits, closed, atol=1e-4))
        except (RuntimeError, ValueError):
            return False
        finally:
            self.train(training)


def size_options(model: str, size: int) -> dict[str, int]:
    """Return what timm needs to make a model for images of that side: a position embedding fits one grid alone."""
    config = pretrained_config(model)
    return {"img_size": size} if config is not None and config.fixed_input_size else {}


def densenet121(
    classes: Sequence[str],
    input_size: int = 256,
    *,
    weights: str = "auto",
    resize: int | None = None,
    seed: int = 0,
) -> TimmClassifier:
    """DenseNet-121 (Huang 2017), the paper's comparison: timm's, with a fresh last layer."""
    return TimmClassifier(classes, input_size, model="densenet121", weights=weights, resize=resize, seed=seed)
