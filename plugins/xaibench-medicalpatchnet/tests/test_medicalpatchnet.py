"""MedicalPatchNet: the kit, and what must hold of it whatever its weights."""

from __future__ import annotations

import pytest
import torch
from xaibench_medicalpatchnet import MedicalPatchNet, PatchMap

from xaibench.errors import UsageError
from xaibench.explainers import create
from xaibench.testing import check_explainer, small_prediction

CLASSES = ("No Finding", "Cardiomegaly", "Pneumothorax", "Effusion")


@pytest.fixture(scope="module")
def classifier() -> MedicalPatchNet:
    return MedicalPatchNet(CLASSES, 64, backbone="test_resnet", weights="random", patch=16, resize=32).eval()


def test_conforms(conforms) -> None:
    conforms("classifiers", "medicalpatchnet", options={"backbone": "test_resnet", "patch": 16, "resize": 32})


def test_patch_map_conforms(classifier: MedicalPatchNet) -> None:
    assert check_explainer("patch_map", classifier) == []
    assert check_explainer("cam", classifier) == []


def test_the_map_s_mean_is_the_logit(classifier: MedicalPatchNet) -> None:
    prediction = small_prediction(classifier, 3)
    for target in range(4):
        maps = PatchMap().explain(classifier, prediction, torch.full((3,), target))
        torch.testing.assert_close(maps.double().mean((1, 2)), prediction.logits[:, target].double(), atol=1e-6, rtol=0)


def test_a_patch_sees_nothing_of_the_others(classifier: MedicalPatchNet) -> None:
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    changed = images.clone()
    changed[..., :16, 16:32] = 0  # the second patch of the first row
    with torch.no_grad():
        one, other = (classifier.patch_logits(classifier.features(x)) for x in (images, changed))
    moved = (one - other).abs().amax(1)[0] > 1e-6
    assert moved[0, 1]
    assert int(moved.sum()) == 1


def test_the_grid_is_the_image_s(classifier: MedicalPatchNet) -> None:
    """Rows are rows: the logit of a patch is that of the patch alone."""
    prediction = small_prediction(classifier, 1)
    with torch.no_grad():
        alone = classifier.features(prediction.images[..., 32:48, :16])  # third row, first column
    torch.testing.assert_close(prediction.features[:, :, 2, 0], alone[:, :, 0, 0], atol=1e-5, rtol=1e-4)


def test_bad_options_are_one_line() -> None:
    with pytest.raises(UsageError, match="does not divide"):
        MedicalPatchNet(CLASSES, 64, backbone="test_resnet", weights="random", patch=24)
    with pytest.raises(UsageError, match="no model"):
        MedicalPatchNet(CLASSES, 64, backbone="no_such_net", weights="random")


def test_patch_map_says_what_else_to_use() -> None:
    from xaibench.errors import NotApplicableError
    from xaibench.testing.small import Small

    with pytest.raises(NotApplicableError, match="use cam or gradcam"):
        create("patch_map").check(Small())
