"""MedicalPatchNet (Wienholt et al. 2025): patches classified apart, and an image's logits are the mean of theirs.

A patch's logits depend on nothing outside the patch, so the map of patch logits is no approximation: its mean is the
image's logit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xaibench.classifiers.weights import build_backbone, normalize_of
from xaibench.plugin import Classifier, Explainer, NotApplicableError, Prediction, UsageError, seeded

MAP = "patch_map"


class MedicalPatchNet(Classifier):
    """The mean of patch logits on a timm backbone; all of it trains.

    Args:
        classes: K class names.
        input_size: side of the images, a multiple of `patch`.
        backbone: a timm model's name, run on each patch.
        weights: see `xaibench.classifiers.weights`.
        patch: side of a patch in pixels; None: an eighth of the image's (the paper: 64 of 512 px).
        resize: side that the backbone sees a patch at, where it is not the patch's own.
        seed: of the last layer's initial weights.

    `features` are the backbone's pooled features of each patch, (B, C, n, n) for n x n patches; the head is their mean
    and one linear layer. Own map: "patch_map", (B, K, H, W), each patch filled with its logit.

    Raises:
        UsageError: a patch that does not divide the image, or an unknown backbone.
        WeightsError: the weights can't be had.
    """

    head_is_pooled_linear = True
    own_maps = (MAP,)

    def __init__(
        self,
        classes: Sequence[str],
        input_size: int = 256,
        *,
        backbone: str = "tf_efficientnet_lite0",
        weights: str = "auto",
        patch: int | None = None,
        resize: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(classes, input_size)
        self.patch = input_size // 8 if patch is None else patch
        if self.patch < 1 or input_size % self.patch:
            raise UsageError(f"medicalpatchnet: patch = {self.patch} does not divide images of {input_size} px")
        if resize is not None and resize < 1:
            raise UsageError(f"medicalpatchnet: resize = {resize}; it is a side in pixels")
        self.resize = resize or self.patch
        self.backbone, self.weights = build_backbone(backbone, weights, seed=seed, num_classes=0)
        self.normalize = normalize_of(backbone)
        with seeded(seed):
            self.last = nn.Linear(self._width(backbone), len(classes))

    def _width(self, backbone: str) -> int:
        """Run one patch through, so that a backbone that does not fit says so at once."""
        training = self.training
        self.backbone.eval()
        try:
            with torch.no_grad():
                found = self.backbone(torch.zeros(1, 3, self.resize, self.resize))
        except (RuntimeError, ValueError, AssertionError) as error:
            raise UsageError(
                f"medicalpatchnet: {backbone} takes no patches of {self.resize} px; give resize, such as 64"
            ) from error
        finally:
            self.train(training)
        return int(found.shape[1])

    def features(self, images: Tensor) -> Tensor:
        batch, _, height, width = images.shape
        rows, columns = height // self.patch, width // self.patch
        cut = images.unfold(2, self.patch, self.patch).unfold(3, self.patch, self.patch)  # (B, 3, rows, columns, p, p)
        patches = cut.permute(0, 2, 3, 1, 4, 5).reshape(-1, 3, self.patch, self.patch)
        if self.resize != self.patch:
            patches = F.interpolate(patches, size=self.resize, mode="bilinear", align_corners=False)
        found: Tensor = self.backbone(self.normalize(patches))
        return found.reshape(batch, rows, columns, -1).permute(0, 3, 1, 2)

    def patch_logits(self, features: Tensor) -> Tensor:
        """Return the logits of each patch, (B, K, n, n)."""
        return F.conv2d(features, self.last.weight[:, :, None, None], self.last.bias)

    def head(self, features: Tensor, images: Tensor) -> Tensor:
        return self.patch_logits(features).mean(dim=(-2, -1))

    def head_with_maps(self, features: Tensor, images: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
        logits = self.patch_logits(features)
        filled = F.interpolate(logits, size=images.shape[-2:], mode="nearest")
        return logits.mean(dim=(-2, -1)), {MAP: filled}

    def class_weights(self) -> Tensor:
        return self.last.weight


class PatchMap(Explainer):
    """The class's logit of each patch: the classifier's own map, whose mean is the image's logit."""

    completeness = "mean"

    def check(self, classifier: Classifier) -> None:
        if MAP not in classifier.own_maps:
            raise NotApplicableError(
                f"patch_map is medicalpatchnet's own map, and {type(classifier).__name__} has none: use cam or gradcam"
            )

    def baselines(self, images: Tensor) -> Tensor:
        """Return no reference image for each image, (B, 0, 3, H, W): the logit itself is explained."""
        return images[:, None][:, :0]

    def explain(self, classifier: Classifier, prediction: Prediction, targets: Tensor) -> Tensor:
        maps = prediction.maps[MAP].detach()
        return maps[torch.arange(len(maps), device=maps.device), targets].float()
