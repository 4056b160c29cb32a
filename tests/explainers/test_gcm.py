"""GCM's own maps: they add up to what GCM says."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from xaibench.classifiers.gcm import GCM
from xaibench.classifiers.timm import TimmClassifier
from xaibench.errors import NotApplicableError
from xaibench.explainers.base import Explainer
from xaibench.explainers.gcm import CCM, CWM, CCMContrast
from xaibench.types import Prediction


def test_ccm_averages_to_the_score(gcm: GCM, seen_by_gcm: Prediction, targets: Tensor) -> None:
    maps = CCM().explain(gcm, seen_by_gcm, targets)
    scores = seen_by_gcm.logits.gather(1, targets[:, None])[:, 0]
    assert scores.std() > 0
    torch.testing.assert_close(maps.mean(dim=(1, 2)), scores, atol=1e-5, rtol=0)


def test_ccm_is_cwm_times_the_image(gcm: GCM, seen_by_gcm: Prediction, targets: Tensor) -> None:
    cwm = CWM().explain(gcm, seen_by_gcm, targets)
    ccm = CCM().explain(gcm, seen_by_gcm, targets)
    torch.testing.assert_close(ccm, cwm * seen_by_gcm.images.mean(dim=1))
    assert cwm.min() < 0 < cwm.max()
    for row, target in enumerate(targets.tolist()):
        assert torch.equal(cwm[row], seen_by_gcm.maps["cwm"][row, target])


def test_contrast_is_this_class_less_the_mean_of_the_others(gcm: GCM, seen_by_gcm: Prediction, targets: Tensor) -> None:
    maps = CCMContrast().explain(gcm, seen_by_gcm, targets)
    for row, target in enumerate(targets.tolist()):
        others = [other for other in range(4) if other != target]
        closed = seen_by_gcm.maps["ccm"][row, target] - seen_by_gcm.maps["ccm"][row, others].mean(dim=0)
        torch.testing.assert_close(maps[row], closed, atol=1e-6, rtol=1e-4)
        logits = seen_by_gcm.logits[row]
        torch.testing.assert_close(maps[row].mean(), logits[target] - logits[others].mean(), atol=1e-5, rtol=0)


def test_contrast_does_not_see_what_all_classes_share(gcm: GCM, seen_by_gcm: Prediction, targets: Tensor) -> None:
    shared = torch.linspace(-1, 1, 64 * 64).view(64, 64)
    moved = Prediction(
        seen_by_gcm.ids,
        seen_by_gcm.images,
        seen_by_gcm.logits,
        seen_by_gcm.features,
        {"ccm": seen_by_gcm.maps["ccm"] + shared},
    )
    before, after = (CCMContrast().explain(gcm, prediction, targets) for prediction in (seen_by_gcm, moved))
    torch.testing.assert_close(after, before, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("explainer", "name"), [(CWM(), "cwm"), (CCM(), "ccm"), (CCMContrast(), "ccm_contrast")])
def test_other_classifiers_make_no_such_maps(
    explainer: Explainer,
    name: str,
    densenet: TimmClassifier,
    seen_by_densenet: Prediction,
    targets: Tensor,
    gcm: GCM,
) -> None:
    explainer.check(gcm)
    with pytest.raises(NotApplicableError, match=f"^{name} .*TimmClassifier has no .*: use gradcam") as caught:
        explainer.check(densenet)
    assert "\n" not in str(caught.value)
    with pytest.raises(NotApplicableError, match="use gradcam"):
        explainer.explain(densenet, seen_by_densenet, targets)
