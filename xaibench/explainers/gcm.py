"""What GCM says of itself: its class weight map, its class contribution map, and the contrast of classes.

The maps come out of the forward pass that made the score, so they cost nothing more.
"""

from __future__ import annotations

from torch import Tensor

from xaibench.classifiers.base import Classifier
from xaibench.errors import NotApplicableError
from xaibench.explainers.base import Explainer, check_several
from xaibench.types import Prediction


class OwnMap(Explainer):
    """Base of the explainers that hand over a map of the classifier itself.

    Attributes:
        name: as registered, for messages.
        map_name: the classifier's name of the map, one of its `own_maps`.
        maker: the classifier that has it, for messages.
    """

    name: str
    map_name: str
    maker: str = "gcm"

    def check(self, classifier: Classifier) -> None:
        if self.map_name not in classifier.own_maps:
            raise NotApplicableError(
                f"{self.name} is made of {self.maker.upper()}'s own maps and {type(classifier).__name__} has no "
                f"{self.map_name!r}: use gradcam, or the classifier {self.maker}"
            )

    def explain(self, classifier: Classifier, prediction: Prediction, targets: Tensor) -> Tensor:
        if self.map_name not in prediction.maps:
            raise NotApplicableError(
                f"the prediction has no {self.map_name!r} map: use gradcam, or the classifier {self.maker}"
            )
        return prediction.class_maps(self.map_name, targets).detach().float()


class CWM(OwnMap):
    """Class weight map: the weight of each pixel in the class's score (the paper's visualisation, sec. 3.2)."""

    name = map_name = "cwm"


class CCM(OwnMap):
    """Class contribution map: image times CWM; its mean is the class's score exactly."""

    name = map_name = "ccm"
    completeness = "mean"

    def baselines(self, images: Tensor) -> Tensor:
        return images[:, None][:, :0]


class CCMContrast(OwnMap):
    """The class's contribution map minus the mean of the other classes': what speaks for this class and no other.

    Softmax sees only differences between classes, so a high CWM alone is not evidence. The mean of this map is the
    class's logit minus the mean of the others'.
    """

    name = "ccm_contrast"
    map_name = "ccm"

    def check(self, classifier: Classifier) -> None:
        super().check(classifier)
        check_several(classifier, self.name, "ccm")

    def explain(self, classifier: Classifier, prediction: Prediction, targets: Tensor) -> Tensor:
        own, maps = super().explain(classifier, prediction, targets), prediction.maps[self.map_name].detach()
        return own - (maps.sum(dim=1) - own) / (maps.shape[1] - 1)
