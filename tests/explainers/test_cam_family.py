"""Every further CAM against pytorch-grad-cam's own call on the whole network, and closed forms."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import pytorch_grad_cam as library
import torch
import torch.nn.functional as F
from pytorch_grad_cam.utils.image import scale_cam_image
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn

from tests.explainers.small import Small
from xaibench.classifiers.timm import TimmClassifier
from xaibench.errors import NotApplicableError, UsageError
from xaibench.explainers import create
from xaibench.explainers.base import seed_of, upsample
from xaibench.explainers.cam_family import principal
from xaibench.explainers.fullgrad import full_gradients
from xaibench.types import Prediction

Maps = npt.NDArray[np.float32]
GRADIENTS = {
    "gradcam_pp": library.GradCAMPlusPlus,
    "hirescam": library.HiResCAM,
    "gradcam_elementwise": library.GradCAMElementWise,
    "xgradcam": library.XGradCAM,
    "layercam": library.LayerCAM,
    "shapleycam": library.ShapleyCAM,
    "fem": library.FEM,
    "seg_eigencam": library.SegEigenCAM,
}
UNSIGNED = {"eigencam": library.EigenCAM, "eigengradcam": library.EigenGradCAM, "kpca_cam": library.KPCA_CAM}


@pytest.fixture(params=["small", "bigger_head"])
def seen(request: pytest.FixtureRequest) -> tuple[Any, nn.Module, Prediction]:
    """A classifier (one with a linear head, one without), the module whose output is its features, a prediction."""
    classifier = request.getfixturevalue(request.param)
    layer = classifier.body if request.param == "small" else classifier.model.norm_pre
    return classifier, layer, request.getfixturevalue(f"seen_by_{request.param}")


def stock(method: Any, classifier: nn.Module, layer: nn.Module, images: Tensor, targets: Tensor) -> tuple[Maps, Maps]:
    """Return the library's own result, scaled to [0, 1], and its map before clipping and scaling."""
    wanted = [ClassifierOutputTarget(int(target)) for target in targets]
    raw: list[Maps] = []
    cam = method(model=classifier, target_layers=[layer])
    own = cam.get_cam_image

    def remember(*arguments: Any) -> Maps:
        raw.append(own(*arguments))
        return raw[-1]

    cam.get_cam_image = remember
    scaled = cam(images.clone(), targets=wanted)
    cam.activations_and_grads.release()
    classifier.zero_grad(set_to_none=True)
    return scaled, raw[0]


def as_the_library_shows(maps: Maps, size: tuple[int, int] = (64, 64)) -> Maps:
    """Clip and scale as `BaseCAM.forward` does: at the features' resolution, then by OpenCV, then again."""
    return scale_cam_image(scale_cam_image(np.maximum(maps, 0), size))  # type: ignore[no-any-return]


def signed(name: str, classifier: Any, prediction: Prediction, targets: Tensor) -> Maps:
    return create(name).signed(classifier, prediction, targets).numpy()  # type: ignore[attr-defined, no-any-return]


def near(found: Maps, wanted: Maps) -> None:
    """To 1e-5 of the map's largest value: two orders of single precision's rounding, through different sums."""
    assert np.abs(wanted).max() > 0
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("name", GRADIENTS)
def test_values_are_the_stock_calls(name: str, seen: tuple[Any, nn.Module, Prediction], targets: Tensor) -> None:
    classifier, layer, prediction = seen
    if name == "fem" and prediction.features.shape[-1] < 3:
        pytest.skip("four places are never two standard deviations from their mean")
    scaled, raw = stock(GRADIENTS[name], classifier, layer, prediction.images, targets)
    ours = signed(name, classifier, prediction, targets)
    near(ours, raw)
    kept = ours.max(axis=(1, 2)) > 1e-3 * np.abs(ours).max()  # elsewhere both scale rounding errors up
    assert kept.sum() >= 3
    np.testing.assert_allclose(as_the_library_shows(ours)[kept], scaled[kept], rtol=0, atol=1e-4)
    explainer = create(name)
    maps = explainer.explain(classifier, prediction, targets)
    wanted = torch.from_numpy(raw).relu() if explainer.rectified else torch.from_numpy(raw)  # type: ignore[attr-defined]
    near(maps.numpy(), upsample(wanted, prediction.frame).numpy())


@pytest.mark.parametrize("name", UNSIGNED)
def test_projections_are_the_stock_calls_up_to_their_sign(
    name: str, seen: tuple[Any, nn.Module, Prediction], targets: Tensor
) -> None:
    classifier, layer, prediction = seen
    _, raw = stock(UNSIGNED[name], classifier, layer, prediction.images, targets)
    ours = signed(name, classifier, prediction, targets)
    near(ours, raw * np.sign((ours * raw).sum(axis=(1, 2), keepdims=True)))
    assert (ours.max(axis=(1, 2)) >= -ours.min(axis=(1, 2))).all()  # the largest absolute value is positive


def test_reduced_decomposition_is_the_full_one() -> None:
    maps = np.random.default_rng(0).normal(size=(3, 40, 5, 4)).astype(np.float32)
    full = library.utils.svd_on_activations.get_2d_projection(maps)
    ours = principal(maps)
    near(ours, full * np.sign((ours * full).sum(axis=(1, 2), keepdims=True)))
    near(principal(-maps), principal(maps))  # whatever sign the decomposition takes
    assert principal(np.ones((1, 3, 2, 2), np.float32)).tolist() == [[[0, 0], [0, 0]]]


def test_finercam_is_the_stock_call(seen: tuple[Any, nn.Module, Prediction], targets: Tensor) -> None:
    """The library takes one class for all images: one image at a time."""
    classifier, layer, prediction = seen
    ours = signed("finercam", classifier, prediction, targets)
    shown = as_the_library_shows(ours)
    compared = 0
    for row, target in enumerate(targets.tolist()):
        cam = library.FinerCAM(classifier, [layer])
        scaled = cam(prediction.images[row : row + 1].clone(), targets=None, target_idx=target)
        cam.base_cam.activations_and_grads.release()
        if ours[row].max() > 1e-3 * np.abs(ours).max():
            np.testing.assert_allclose(shown[row], scaled[0], rtol=0, atol=1e-4)
            compared += 1
    classifier.zero_grad(set_to_none=True)
    assert compared >= 3


def test_finercam_without_others_to_tell_from_is_gradcam(
    small: Small, seen_by_small: Prediction, targets: Tensor
) -> None:
    finer = create("finercam", strength=0.0).explain(small, seen_by_small, targets)
    near(finer.numpy(), create("gradcam").explain(small, seen_by_small, targets).numpy())
    with pytest.raises(UsageError, match="compared = 0"):
        create("finercam", compared=0)


def test_randomcam_is_the_stock_call_with_the_same_draw(
    small: Small, seen_by_small: Prediction, targets: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    draws = [
        np.random.default_rng(seed_of("randomcam", image_id, target)).uniform(-1, 1, 12)
        for image_id, target in zip(seen_by_small.ids, targets.tolist(), strict=True)
    ]
    monkeypatch.setattr(np.random, "uniform", lambda low, high, size: np.reshape(draws, size))
    _, raw = stock(library.RandomCAM, small, small.body, seen_by_small.images, targets)
    near(signed("randomcam", small, seen_by_small, targets), raw)


def test_scorecam_is_the_stock_call(seen: tuple[Any, nn.Module, Prediction], targets: Tensor) -> None:
    classifier, layer, prediction = seen
    some, few = prediction.select([0, 3]), targets[[0, 3]]
    _, raw = stock(library.ScoreCAM, classifier, layer, some.images, few)
    near(signed("scorecam", classifier, some, few), raw)
    near(create("scorecam", batch_size=5).signed(classifier, some, few).numpy(), raw)  # type: ignore[attr-defined]


def test_ablationcam_is_the_stock_call_where_features_start_at_zero(
    small: Small, seen_by_small: Prediction, targets: Tensor
) -> None:
    assert (seen_by_small.features.amin(dim=(1, 2, 3)) == 0).all()
    net = nn.Sequential(small.normalize, small.body, small.pool, small.flatten, small.last)  # a layer it can replace
    _, raw = stock(library.AblationCAM, net, small.body, seen_by_small.images, targets)
    near(signed("ablationcam", small, seen_by_small, targets), raw)


def test_ablationcam_sets_signed_features_to_zero(
    bigger_head: TimmClassifier, seen_by_bigger_head: Prediction, targets: Tensor
) -> None:
    prediction = seen_by_bigger_head.select([2])
    assert prediction.features.min() < 0
    features, target = prediction.features[0], int(targets[2])
    losses = []
    with torch.no_grad():
        whole = bigger_head.head(features[None], prediction.images)[0, target]
        for channel in range(len(features)):
            ablated = features.clone()
            ablated[channel] = 0
            losses.append((whole - bigger_head.head(ablated[None], prediction.images)[0, target]) / whole)
    wanted = (torch.stack(losses)[:, None, None] * features).sum(dim=0, keepdim=True)
    near(signed("ablationcam", bigger_head, prediction, targets[[2]]), wanted.numpy())


@pytest.mark.parametrize("pooled", [True, False])
def test_fullgrad_is_the_stock_call_where_layers_run_as_listed(
    pooled: bool, seen_by_small: Prediction, targets: Tensor
) -> None:
    plain = Small(normalized=False, pooled=pooled).eval()  # a bias in the normalisation is not in the library's sum
    some, few = seen_by_small.select([0, 3]), targets[[0, 3]]
    cam = library.FullGrad(plain, [])
    scaled = cam(some.images.clone(), targets=[ClassifierOutputTarget(int(target)) for target in few])
    cam.activations_and_grads.release()
    ours = create("fullgrad").explain(plain, some, few).numpy()
    # OpenCV and torch scale up alike, but for the 1e-5 that either rounds its weights to.
    np.testing.assert_allclose(scale_cam_image(ours), scaled, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["small", "densenet"])
def test_fullgrad_terms_make_up_the_logit(request: pytest.FixtureRequest, name: str, targets: Tensor) -> None:
    classifier, prediction = request.getfixturevalue(name), request.getfixturevalue(f"seen_by_{name}")
    terms = full_gradients(classifier, prediction.images[:2], targets[:2])
    total = sum(term.flatten(1).sum(dim=1) for term in (*terms.maps, *terms.rest))
    scale = sum(term.flatten(1).sum(dim=1).abs() for term in (*terms.maps, *terms.rest))
    wanted = prediction.logits[:2].gather(1, targets[:2, None])[:, 0]
    assert ((total - wanted).abs() <= 1e-5 * scale).all()  # sums of up to a million terms in single precision


def test_fullgrad_refuses_what_is_not_piecewise_linear(gcm: Any, bigger_head: TimmClassifier) -> None:
    for classifier in (gcm, bigger_head):
        with pytest.raises(NotApplicableError, match=f"don't on {type(classifier).__name__}.*use integrated_gradients"):
            create("fullgrad").check(classifier)


def test_with_a_linear_head_the_methods_meet(small: Small, seen_by_small: Prediction, targets: Tensor) -> None:
    """Gradients are the same everywhere: HiRes- and XGrad-CAM are CAM over the area, and so is Grad-CAM."""
    area = 64
    cam = create("cam").explain(small, seen_by_small, targets).numpy()
    for name in ("hirescam", "xgradcam"):
        near(create(name).explain(small, seen_by_small, targets).numpy() * area, cam)
    gradcam = create("gradcam").explain(small, seen_by_small, targets).numpy()
    near(create("shapleycam").explain(small, seen_by_small, targets).numpy(), gradcam)


def test_upsampling_is_bilinear_between_centres(small: Small, seen_by_small: Prediction, targets: Tensor) -> None:
    maps = create("hirescam").explain(small, seen_by_small, targets)
    raw = torch.from_numpy(signed("hirescam", small, seen_by_small, targets))
    assert torch.equal(maps, F.interpolate(raw[:, None], (64, 64), mode="bilinear", align_corners=False)[:, 0])
