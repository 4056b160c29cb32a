"""CAM and Grad-CAM against their closed forms, autograd, and pytorch-grad-cam on the whole network."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pytorch_grad_cam import GradCAM as StockGradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor

from xaibench.classifiers.gcm import GCM
from xaibench.classifiers.timm import TimmClassifier
from xaibench.errors import NotApplicableError
from xaibench.explainers.cam import CAM, GradCAM
from xaibench.types import Prediction


def near(found: Tensor, wanted: Tensor, relative: float = 1e-4) -> None:
    assert wanted.abs().max() > 0
    torch.testing.assert_close(found, wanted, atol=relative * float(wanted.abs().max()), rtol=0)


def test_cam_is_its_closed_form(densenet: TimmClassifier, seen_by_densenet: Prediction, targets: Tensor) -> None:
    maps = CAM().explain(densenet, seen_by_densenet, targets)
    weight = densenet.model.classifier.weight.detach()
    small = torch.stack(
        [
            sum(weight[target, channel] * features[channel] for channel in range(1024))  # type: ignore[misc]
            for features, target in zip(seen_by_densenet.features, targets.tolist(), strict=True)
        ]
    )
    near(maps, F.interpolate(small[:, None], (64, 64), mode="bilinear", align_corners=False)[:, 0], 1e-5)
    assert (maps < 0).any()  # signed
    bias = densenet.model.classifier.bias.detach()[targets]
    chosen = seen_by_densenet.logits.gather(1, targets[:, None])[:, 0]
    near(small.mean(dim=(1, 2)) + bias, chosen)  # the mean of the map is the score, less its bias


def test_cam_is_gradcam_before_its_relu_times_the_area(
    densenet: TimmClassifier, seen_by_densenet: Prediction, targets: Tensor
) -> None:
    signed = GradCAM().signed(densenet, seen_by_densenet, targets)
    assert signed.shape == (7, 2, 2)
    area = signed.shape[-2] * signed.shape[-1]
    upsampled = F.interpolate(signed[:, None] * area, (64, 64), mode="bilinear", align_corners=False)[:, 0]
    near(upsampled, CAM().explain(densenet, seen_by_densenet, targets))


def test_gradcam_is_the_stock_one_on_the_whole_network(
    densenet: TimmClassifier, seen_by_densenet: Prediction, targets: Tensor
) -> None:
    normalized = densenet.normalize(seen_by_densenet.images)
    layer = densenet.model.features.norm5
    with StockGradCAM(model=densenet.model, target_layers=[layer]) as stock:
        wanted = [ClassifierOutputTarget(int(target)) for target in targets]
        scaled = stock(normalized.clone(), targets=wanted)
        activations = stock.activations_and_grads.activations[0].numpy()
        gradients = stock.activations_and_grads.gradients[0].numpy()
        raw = torch.as_tensor(stock.get_cam_image(normalized, layer, wanted, activations, gradients, False))
    densenet.zero_grad(set_to_none=True)  # the stock one leaves gradients in the parameters
    near(GradCAM().signed(densenet, seen_by_densenet, targets), raw)
    maps = GradCAM().explain(densenet, seen_by_densenet, targets)
    near(maps, F.interpolate(raw.relu()[:, None], (64, 64), mode="bilinear", align_corners=False)[:, 0])
    assert (maps >= 0).all()
    # Its own result is ours after its min-max scaling, on each image with a map at all.
    own = GradCAM().signed(densenet, seen_by_densenet, targets).relu().numpy()
    kept = [row for row in range(7) if own[row].max() > 0]
    assert len(kept) >= 2
    for row in kept:
        low, high = own[row].min(), own[row].max()
        small = torch.as_tensor((own[row] - low) / (1e-7 + high - low))[None, None]
        shown = F.interpolate(small, (64, 64), mode="bilinear", align_corners=False)[0, 0].numpy()
        assert np.abs(shown - scaled[row]).max() < 1e-3  # it resizes by OpenCV


@pytest.mark.parametrize("name", ["gcm", "bigger_head"])
def test_gradcam_is_what_autograd_says(request: pytest.FixtureRequest, name: str, targets: Tensor) -> None:
    """A head that is no linear layer: gradients of each image's own score, one image at a time."""
    classifier: GCM | TimmClassifier = request.getfixturevalue(name)
    prediction: Prediction = request.getfixturevalue(f"seen_by_{name}")
    small = []
    for row, target in enumerate(targets.tolist()):
        features = prediction.features[row : row + 1].clone().requires_grad_(True)
        score = classifier.head(features, prediction.images[row : row + 1])[0, target]
        (gradient,) = torch.autograd.grad(score, features)
        small.append((gradient.mean(dim=(2, 3), keepdim=True) * features).sum(dim=1)[0].detach())
    near(GradCAM().signed(classifier, prediction, targets), torch.stack(small))
    maps = GradCAM().explain(classifier, prediction, targets)
    wanted = torch.stack(small).relu()[:, None]
    near(maps, F.interpolate(wanted, (64, 64), mode="bilinear", align_corners=False)[:, 0])


def test_cam_refuses_other_heads(gcm: GCM, bigger_head: TimmClassifier, densenet: TimmClassifier) -> None:
    CAM().check(densenet)
    for classifier in (gcm, bigger_head):
        with pytest.raises(NotApplicableError, match=f"{type(classifier).__name__} does not have: use gradcam"):
            CAM().check(classifier)
        GradCAM().check(classifier)


def test_gradcam_tells_of_a_failing_head_and_cleans_up(gcm: GCM, seen_by_gcm: Prediction, targets: Tensor) -> None:
    with pytest.raises(IndexError):  # a class that there is not; the library's own `with` block would swallow it
        GradCAM().explain(gcm, seen_by_gcm, targets + 4)
    assert any(parameter.requires_grad for parameter in gcm.parameters())
    assert not any(module._forward_hooks for module in gcm.modules())
