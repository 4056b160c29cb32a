"""Class activation maps, on the head alone over features computed once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pytorch_grad_cam import GradCAM as _GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn

from xaibench.classifiers.base import Classifier
from xaibench.errors import NotApplicableError
from xaibench.explainers.base import Explainer, frozen, upsample
from xaibench.types import Prediction


class CAM(Explainer):
    """Class activation map (Zhou 2016): the class's weights of the last layer on the features, signed.

    Equals Grad-CAM before its ReLU times h * w, on a head of average pooling and one linear layer; other heads are
    refused.
    """

    def check(self, classifier: Classifier) -> None:
        if not classifier.head_is_pooled_linear:
            raise NotApplicableError(
                f"cam needs a head of average pooling and one linear layer, which {type(classifier).__name__} does not "
                "have: use gradcam, which is the same where cam applies"
            )

    def explain(self, classifier: Classifier, prediction: Prediction, targets: Tensor) -> Tensor:
        weights = classifier.class_weights().detach()[targets]
        return upsample(torch.einsum("bchw,bc->bhw", prediction.features.detach(), weights), prediction.frame)


class GradCAM(Explainer):
    """Grad-CAM (Selvaraju 2017), by pytorch-grad-cam: features weighted by their mean gradients, then ReLU.

    The target layer is the classifier's `features`. The library's own scaling to [0, 1] is left out.
    """

    method: Callable[..., Any] = _GradCAM

    def explain(self, classifier: Classifier, prediction: Prediction, targets: Tensor) -> Tensor:
        return upsample(self.signed(classifier, prediction, targets).relu(), prediction.frame)

    def signed(self, classifier: Classifier, prediction: Prediction, targets: Tensor) -> Tensor:
        """Return the map before its ReLU, at the features' resolution, (B, h, w)."""
        head = _Head(classifier, prediction.images.detach())
        features = prediction.features.detach().requires_grad_(True)
        wanted = [ClassifierOutputTarget(int(target)) for target in targets]  # one an image: fewer gives zero maps
        with frozen(classifier):
            cam = type(self).method(model=head, target_layers=[head.explained])
            try:
                outputs = cam.activations_and_grads(features)
                sum(target(output) for target, output in zip(wanted, outputs, strict=True)).backward()
                activations = cam.activations_and_grads.activations[0].detach().cpu().numpy()
                gradients = cam.activations_and_grads.gradients[0].detach().cpu().numpy()
                raw = cam.get_cam_image(features, head.explained, wanted, activations, gradients, False)
            finally:
                cam.activations_and_grads.release()
        return torch.as_tensor(raw, dtype=torch.float32, device=features.device)


class _Head(nn.Module):
    """The head as a network of its own, whose first layer is the one explained."""

    def __init__(self, classifier: Classifier, images: Tensor) -> None:
        super().__init__()
        self.explained = nn.Identity()
        # In a list, so that the classifier is no submodule: the library switches its model to eval mode and device.
        self._classifier = [classifier]
        self._images = images
        # The library asks its model's first parameter for the device.
        self.device_of = nn.Parameter(torch.empty(0, device=images.device), requires_grad=False)

    def forward(self, features: Tensor) -> Tensor:
        return self._classifier[0].head(self.explained(features), self._images)
