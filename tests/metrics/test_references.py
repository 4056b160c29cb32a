"""Agreement with other implementations of the same definitions."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from tests.metrics.references import REFERENCES, WITHOUT_REFERENCE, Reference
from xaibench import registry
from xaibench.errors import UsageError
from xaibench.metrics import _ops
from xaibench.metrics.classification import roc_auc
from xaibench.metrics.localization import energy, hit_rate, iou_otsu


@pytest.mark.parametrize("reference", REFERENCES, ids=lambda reference: f"{reference.metric}-{reference.source}")
def test_reference_agrees(reference: Reference) -> None:
    pytest.importorskip("quantus")
    pytest.importorskip("torchmetrics")
    seen = []
    for name, case in reference.kind.own().items():
        ours, theirs = reference.pair(case)
        assert ours.shape == theirs.shape
        compared = np.isfinite(theirs)
        assert compared.any()
        if reference.gaps != "theirs":
            assert compared.all() or reference.gaps == "both"
            np.testing.assert_array_equal(np.isfinite(ours), compared)
        assert np.isfinite(ours[compared]).all()
        if not reference.remark:
            assert reference.differences(ours, theirs)[compared].max() <= reference.tolerance, name
        seen.append(ours[compared])
    values = np.concatenate(seen)
    assert len(values) == 1 or np.ptp(values) > 1e-3  # scores that are all alike would prove nothing


def test_every_metric_has_a_reference_or_says_why_not() -> None:
    entries = [entry for name in registry.list_metrics() if (entry := registry.get("metrics", name)).is_builtin]
    for name in (entry.load().name for entry in entries):
        assert any(reference.metric == name for reference in REFERENCES) != (name in WITHOUT_REFERENCE), name


def maps_and_masks(batch: int = 40, size: int = 48) -> tuple[Tensor, Tensor]:
    """Smooth maps, as CAMs are, and random boxes."""
    generator = torch.Generator().manual_seed(5)
    coarse = torch.randn(batch, 1, 7, 7, generator=generator)
    maps = torch.nn.functional.interpolate(coarse, (size, size), mode="bilinear", align_corners=False)[:, 0]
    masks = torch.zeros(batch, size, size, dtype=torch.bool)
    for mask in masks:
        y, x, h, w = (int(torch.randint(1, size // 2, (1,), generator=generator)) for _ in range(4))
        mask[y : y + h, x : x + w] = True
    return maps, masks


def quantus_scores(name: str, maps: Tensor, masks: Tensor) -> np.ndarray:
    quantus = pytest.importorskip("quantus")
    metric = getattr(quantus, name)(normalise=False, disable_warnings=True)
    return np.asarray(metric.evaluate_batch(a_batch=maps.numpy()[:, None], s_batch=masks.numpy()[:, None]), dtype=float)


def test_hit_rate_is_quantus_pointing_game() -> None:
    maps, masks = maps_and_masks()
    ours = hit_rate(maps, masks).numpy()
    np.testing.assert_array_equal(ours, quantus_scores("PointingGame", maps, masks))
    assert 0 < ours.mean() < 1


def test_energy_is_quantus_relevance_mass_of_the_positive_part() -> None:
    maps, masks = maps_and_masks()
    # Quantus adds float32 in float32; float64 in, so that both agree to rounding
    theirs = quantus_scores("RelevanceMassAccuracy", maps.double().clamp(min=0), masks)
    np.testing.assert_allclose(energy(maps.double(), masks).numpy(), theirs, rtol=0, atol=1e-12)


def otsu_by_trying(levels: np.ndarray) -> int:
    """The level of the largest between-class variance, in exact integers; the smallest of equals."""
    counts = [int(count) for count in np.bincount(levels, minlength=256)]
    number, moment = sum(counts), sum(level * count for level, count in enumerate(counts))
    best, chosen = (0, 1), 0
    for level in range(255):
        below = sum(counts[: level + 1])
        if not 0 < below < number:
            continue
        part = sum(i * counts[i] for i in range(level + 1))
        value = ((moment * below - number * part) ** 2, below * (number - below))
        if value[0] * best[1] > best[0] * value[1]:
            best, chosen = value, level
    return chosen


def test_otsu_threshold_is_the_exact_maximum() -> None:
    generator = torch.Generator().manual_seed(6)
    rows = [torch.randint(0, high, (60,), generator=generator) for high in (2, 3, 10, 100, 256, 256)]
    rows += [torch.cat([torch.full((30,), 20), torch.full((30,), 230)]), torch.arange(60) * 4]
    levels = torch.stack(rows)
    assert _ops.otsu_threshold(levels).tolist() == [otsu_by_trying(row.numpy()) for row in levels]


def test_otsu_segmentation_is_skimages() -> None:
    filters = pytest.importorskip("skimage.filters")
    maps, _ = maps_and_masks()
    for map_, ours in zip(maps, _ops.otsu_segmentation(maps, holes=False), strict=True):
        scaled = (map_.double() - map_.min()) / (map_.max() - map_.min()).double()
        grey = (255 * scaled).numpy().astype(np.uint8)
        np.testing.assert_array_equal(ours.numpy(), grey > filters.threshold_otsu(grey))


def test_segmentation_is_opencvs_with_filled_contours() -> None:
    cv2 = pytest.importorskip("cv2")
    maps, _ = maps_and_masks()
    maps = torch.cat([maps, torch.rand(10, 48, 48, generator=torch.Generator().manual_seed(7))])
    filled = 0
    for map_, ours in zip(maps, _ops.otsu_segmentation(maps, holes=True), strict=True):
        low, high = map_.double().min(), map_.double().max()
        grey = (255 * ((map_.double() - low) / (high - low))).numpy().astype(np.uint8)
        binary = cv2.threshold(grey, 0, 255, cv2.THRESH_OTSU)[1]
        contours = cv2.findContours(binary, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[-2]
        theirs = cv2.drawContours(np.zeros_like(binary), contours, -1, 1, cv2.FILLED).astype(bool)
        np.testing.assert_array_equal(ours.numpy(), theirs)
        filled += int(theirs.sum() - (binary > 0).sum())
    assert filled > 0


def test_fill_holes_is_scipys() -> None:
    segments = torch.rand(30, 25, 31, generator=torch.Generator().manual_seed(8)) < 0.6
    expected = np.stack([ndimage.binary_fill_holes(segment) for segment in segments.numpy()])
    np.testing.assert_array_equal(_ops.fill_holes(segments).numpy(), expected)
    assert expected.sum() > segments.sum()


def test_iou_is_torchmetrics_on_the_segmentation() -> None:
    functional = pytest.importorskip("torchmetrics.functional.classification")
    maps, masks = maps_and_masks(10)
    segments = _ops.otsu_segmentation(maps, holes=True)
    expected = [functional.binary_jaccard_index(s.int(), m.int()).item() for s, m in zip(segments, masks, strict=True)]
    np.testing.assert_allclose(iou_otsu(maps, masks).numpy(), expected, rtol=0, atol=1e-6)  # theirs is float32


def test_roc_auc_is_of_the_order_alone() -> None:
    scores = torch.randint(0, 30, (200,), generator=torch.Generator().manual_seed(9)) / 30  # ties
    labels = torch.arange(200) % 3 == 0
    assert roc_auc(torch.logit(scores.double() / 2 + 0.25), labels) == roc_auc(scores, labels)


def test_roc_auc_by_hand() -> None:
    assert roc_auc([0.0, 1.0, 1.0, 2.0], [0, 0, 1, 1]) == 0.875  # of four pairs three won, one tied
    assert roc_auc(np.array([3.0, 2.0, 1.0]), np.array([0.0, 1.0, 1.0])) == 0
    assert roc_auc([1.0, 1.0, 1.0], [0, 1, 1]) == 0.5


@pytest.mark.parametrize(("scores", "labels"), [([], []), ([0.1, 0.2], [1, 1]), ([1.0, float("nan")], [0, 1])])
def test_roc_auc_is_undefined(scores: list[float], labels: list[int]) -> None:
    assert np.isnan(roc_auc(scores, labels))


@pytest.mark.parametrize(("scores", "labels"), [([0.1], [0, 1]), ([0.1, 0.2], [0, 2]), ([[0.1, 0.2]], [[0, 1]])])
def test_roc_auc_refuses(scores: list[float], labels: list[int]) -> None:
    with pytest.raises(UsageError, match="ROC-AUC"):
        roc_auc(scores, labels)


@pytest.mark.parametrize("share", [0.0, 0.4, 0.6, 1.0])
def test_holes_are_the_same_without_opencv(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    segments = torch.rand(5, 40, 30, generator=torch.Generator().manual_seed(1)) < share
    filled = _ops.fill_holes(segments)
    monkeypatch.setitem(sys.modules, "cv2", None)
    assert torch.equal(filled, _ops.fill_holes(segments))


SHARED = {
    "_rerun": {"neighbours", "noise", "explain"},
    "_randomized": {"Order", "randomized"},
    "_perturb": {"baseline", "superpixels", "cell_numbers", "subsets", "alone"},
    "axioms": {"cells"},
    "explained": {"Explained"},
    "": {"pixel_rows"},  # our side of the comparison
}
"""Modules of `xaibench.metrics` to what references may take from them: nothing that is computed of a map."""


def taken(source: str) -> set[tuple[str, str]]:
    """Return what a module takes from `xaibench.metrics`: (module, name), (module, "") for all of it."""
    tree, modules, found = ast.parse(source), dict[str, str](), set[tuple[str, str]]()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("xaibench.metrics"):
            inner = (node.module or "").removeprefix("xaibench.metrics").strip(".")
            for name in node.names:
                if inner or not name.name.startswith("_"):
                    found.add((inner, name.name))
                else:
                    modules[name.asname or name.name] = name.name
        elif isinstance(node, ast.Import):
            found |= {(name.name, "") for name in node.names if name.name.startswith("xaibench.metrics")}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            found.add((modules[node.value.id], node.attr))
    return found


def test_references_get_raw_maps() -> None:
    """No step of ours that a metric makes of maps and masks: agreement with our own intermediate proves nothing.

    What they share with ours is what both ask the network about: hidden pixels, neighbours, random weights.
    """
    files = list((Path(__file__).parent / "references").glob("*.py"))
    assert len(files) >= 6
    files = [file for file in files if file.name != "classification.py"]  # which gets scores, and no maps
    known = {(file.name, *one) for file in files for one in taken(file.read_text(encoding="utf-8"))}
    assert {one for one in known if one[2] not in SHARED.get(one[1], ())} == set()
    assert {one[1] for one in known} >= {"_rerun", "_perturb"}  # the rule sees them


def test_what_a_reference_takes_is_found() -> None:
    source = "from xaibench.metrics import _ops\nfrom xaibench.metrics.boxes import box_ious\n_ops.grey(maps)\n"
    assert taken(source) == {("_ops", "grey"), ("boxes", "box_ious")}
    assert taken("import xaibench.metrics._ops") == {("xaibench.metrics._ops", "")}


EIGHT_BITS = (
    "t_iou",
    "t_iobb",
    "t_iou_false_positives",
    "t_iobb_false_positives",
    "box_iou",
    "iou_otsu",
    "max_box_acc",
    "max_box_acc_v2",
)


@pytest.mark.parametrize("name", EIGHT_BITS)
def test_what_is_cut_to_eight_bits_says_so(name: str) -> None:
    metric = registry.get("metrics", name).load()
    assert re.search(r"\b8[- ]bits?\b", metric.__doc__), name


def test_no_other_metric_cuts_maps_to_eight_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("cut to 8 bits")

    monkeypatch.setattr(_ops, "_grey", refuse)
    monkeypatch.setattr(_ops, "_scaled_to_grey", refuse)
    maps, masks = torch.rand(2, 48, 48), torch.zeros(2, 48, 48, dtype=torch.bool)
    masks[:, 4:20, 6:30] = True
    cut = []
    for name in registry.list_metrics():
        metric = registry.get("metrics", name).load()
        if metric.category in ("localization", "complexity") and metric.mask is None:
            options = {"k": 100} if "k" in metric.parameters else {}
            try:
                metric(maps, masks, **options)
            except AssertionError:
                cut.append(name)
    assert set(cut) == set(EIGHT_BITS)
