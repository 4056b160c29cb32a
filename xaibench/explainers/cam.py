"""Class activation maps, on the head alone over features computed once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from pytorch_grad_cam import GradCAM as _GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn

from xaibench.classifiers.base import Classifier
from xaibench.errors import NotApplicableError
from xaibench.explainers.base import Explainer, frozen, upsample
from xaibench.types import Prediction

Array = npt.NDArray[np.float32]
Score = Callable[[Tensor], Tensor]
"""What is explained: a number of the logits (K,) of one image."""


@dataclass(frozen=True)
class Traced:
    """What one pass through the head leaves for a method of the library.

    Args:
        cam: the library's object, on `head`.
        head: the model, whose layer `explained` is the target layer.
        features: (B, C, h, w), the model's input and the layer's activations.
        scores: one for each image.
        activations: `features` as an array.
        gradients: of the scores, (B, C, h, w); None for a method without.
        ids: the images' ids.
    """

    cam: Any
    head: Head
    features: Tensor
    scores: Sequence[Score]
    activations: Array
    gradients: Array | None
    ids: Sequence[str]


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
        return upsample(self.native(classifier, prediction, targets), prediction.frame)

    def native(self, classifier: Classifier, prediction: Prediction, targets: Tensor) -> Tensor:
        weights = classifier.class_weights().detach()[targets]
        return torch.einsum("bchw,bc->bhw", prediction.features.detach(), weights)


class LibraryCAM(Explainer):
    """Base of the methods of pytorch-grad-cam, run on the head with the classifier's `features` as target layer.

    The map is the library's own before it clips and min-max scales it, brought to the input's frame.

    Attributes:
        method: the library's class.
        rectified: the method's definition ends in a ReLU.
        needs_gradients: takes the gradients of the class's score; the others run no head at all.
    """

    method: ClassVar[Callable[..., Any]]
    rectified: ClassVar[bool] = False
    needs_gradients: ClassVar[bool] = True

    def check(self, classifier: Classifier) -> None:
        check_features(classifier, type(self).__name__.lower())

    def explain(self, classifier: Classifier, prediction: Prediction, targets: Tensor) -> Tensor:
        return upsample(self.native(classifier, prediction, targets), prediction.frame)

    def native(self, classifier: Classifier, prediction: Prediction, targets: Tensor) -> Tensor:
        maps = self.signed(classifier, prediction, targets)
        return maps.relu() if self.rectified else maps

    def signed(self, classifier: Classifier, prediction: Prediction, targets: Tensor) -> Tensor:
        """Return the map before its ReLU, at the features' resolution, (B, h, w)."""
        head = Head(classifier, prediction.images.detach())
        features = prediction.features.detach()
        # A gradient of the features alone leaves parameters as they are, and visiting a thousand of them would take as
        # long as the map; what runs the head again must not make graphs of them.
        with torch.enable_grad() if self.needs_gradients else frozen(classifier):
            cam = type(self).method(model=head, target_layers=[head.explained])
            try:
                gradients = None
                if self.needs_gradients:
                    features = features.requires_grad_(True)
                    outputs = cam.activations_and_grads(features)
                    scores = self.scores(targets, outputs)
                    asked = [score(output) for score, output in zip(scores, outputs, strict=True)]
                    gradients = torch.autograd.grad(torch.stack(asked).sum(), features)[0].cpu().numpy()
                else:
                    scores = self.scores(targets, prediction.logits)
                activations = features.detach().cpu().numpy()
                raw = self.raw(Traced(cam, head, features, scores, activations, gradients, prediction.ids))
            finally:
                cam.activations_and_grads.release()
        return torch.as_tensor(raw, dtype=torch.float32, device=features.device)

    def scores(self, targets: Tensor, outputs: Tensor) -> Sequence[Score]:
        """Return what is explained, one for each image (the library makes zero maps where there are fewer)."""
        return [ClassifierOutputTarget(int(target)) for target in targets]

    def raw(self, traced: Traced) -> Array:
        """Return the library's map, (B, h, w)."""
        return traced.cam.get_cam_image(  # type: ignore[no-any-return]
            traced.features, traced.head.explained, traced.scores, traced.activations, traced.gradients, False
        )


def check_features(classifier: Classifier, explainer: str) -> None:
    """Return if the classifier has a layer to explain.

    Raises:
        NotApplicableError: it has none.
    """
    if not classifier.has_features:
        why = classifier.no_target or f"{type(classifier).__name__} is a program that shows none"
        raise NotApplicableError(
            f"{explainer} needs the features of a layer, and {why}: use rise or occlusion, which need forward passes "
            "only"
        )


class GradCAM(LibraryCAM):
    """Grad-CAM (Selvaraju 2017), by pytorch-grad-cam: features weighted by their mean gradients, then ReLU."""

    method = _GradCAM
    rectified = True


class Head(nn.Module):
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
