"""Class activation maps whose weights are scores: of masked images (Score-CAM) and of ablated features (Ablation-CAM).

Both are computed here, not by pytorch-grad-cam: it holds every masked image of a batch in memory at once (Score-CAM on
DenseNet-121 at 224 px: 0.6 GB for each image), and gives ablated channels of signed features a value that depends on
their place in the batch. The maps are the same where its own are sound: Ablation-CAM on features whose minimum is 0.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from xaibench.classifiers.base import Classifier
from xaibench.errors import UsageError
from xaibench.explainers.base import Explainer, upsample
from xaibench.explainers.cam import check_features
from xaibench.types import Prediction


class _ScoredCAM(Explainer):
    """Features weighted channel by channel, then ReLU.

    Args:
        batch_size: how many masked images, or ablated features, go through the network at once.

    Raises:
        UsageError: a batch size below 1.
    """

    name: str

    def __init__(self, batch_size: int = 32) -> None:
        if batch_size < 1:
            raise UsageError(f"{self.name}: batch_size = {batch_size}; it is at least 1")
        self.batch_size = batch_size

    def check(self, classifier: Classifier) -> None:
        check_features(classifier, self.name)

    def explain(self, classifier: Classifier, prediction: Prediction, targets: Tensor) -> Tensor:
        return upsample(self.native(classifier, prediction, targets), prediction.frame)

    def native(self, classifier: Classifier, prediction: Prediction, targets: Tensor) -> Tensor:
        return self.signed(classifier, prediction, targets).relu()

    @torch.no_grad()
    def signed(self, classifier: Classifier, prediction: Prediction, targets: Tensor) -> Tensor:
        """Return the map before its ReLU, at the features' resolution, (B, h, w)."""
        maps = []
        for row, target in enumerate(targets.tolist()):
            features, image = prediction.features[row].detach(), prediction.images[row].detach()
            weights = self.weights(classifier, features, image, target)
            maps.append(torch.einsum("chw,c->hw", features, weights))
        return torch.stack(maps)

    @abstractmethod
    def weights(self, classifier: Classifier, features: Tensor, image: Tensor, target: int) -> Tensor:
        """Return the weights (C,) of features (C, h, w) of an image (3, H, W)."""


class ScoreCAM(_ScoredCAM):
    """Score-CAM (Wang 2020): features weighted by the softmax over channels of the logits of images they mask, ReLU.

    The mask is the channel scaled to [0, 1]; it dims the raw image towards black. One forward pass of the whole network
    for each channel: 1,024 an image for DenseNet-121.
    """

    name = "scorecam"
    runs_body = True

    def weights(self, classifier: Classifier, features: Tensor, image: Tensor, target: int) -> Tensor:
        scores = []
        for channels in torch.split(features, self.batch_size):
            masks = torch.nn.functional.interpolate(
                channels[:, None],
                image.shape[-2:],
                mode="bilinear",
                align_corners=True,  # as the library's
            )
            low, high = masks.amin((2, 3), keepdim=True), masks.amax((2, 3), keepdim=True)
            scores.append(classifier(image * ((masks - low) / (high - low + 1e-8)))[:, target])
        return torch.cat(scores).softmax(dim=0)


class AblationCAM(_ScoredCAM):
    """Ablation-CAM (Desai 2020): features weighted by the share of the logit lost without each channel, ReLU.

    A negative logit turns the weights' sign, by the paper's definition. One pass of the head for each channel.
    """

    name = "ablationcam"

    def weights(self, classifier: Classifier, features: Tensor, image: Tensor, target: int) -> Tensor:
        whole = classifier.head(features[None], image[None])[0, target]
        scores = []
        for channels in torch.split(torch.arange(len(features), device=features.device), self.batch_size):
            ablated = features.repeat(len(channels), 1, 1, 1)
            ablated[torch.arange(len(channels), device=features.device), channels] = 0
            scores.append(classifier.head(ablated, image.expand(len(channels), -1, -1, -1))[:, target])
        return (whole - torch.cat(scores)) / whole
