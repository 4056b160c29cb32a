"""torchxrayvision: the kit, its own numbers, and a folder made like NIH's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from xaibench.errors import DataError, UsageError, WeightsError

library = pytest.importorskip("torchxrayvision", reason="torchxrayvision is not installed: pip install torchxrayvision")

from PIL import Image  # noqa: E402
from xaibench_torchxrayvision.classifier import XRVDenseNet  # noqa: E402
from xaibench_torchxrayvision.dataset import xrv  # noqa: E402

from xaibench.testing import check_dataset, small_images  # noqa: E402

CLASSES = ("Cardiomegaly", "Effusion", "Pneumothorax")
SIDE = 128  # of the images; boxes are of 1024 px


def test_classifier_conforms(conforms) -> None:
    conforms("classifiers", "xrv_densenet121", options={"weights": "random"})


@pytest.mark.parametrize("count", [1, 4])  # one runs the library's body, four xaibench's faster one
def test_logits_are_the_library_s_own(count: int) -> None:
    classifier = XRVDenseNet(CLASSES, 224, weights="random").eval()
    model = library.models.DenseNet(num_classes=3).eval()
    model.features.load_state_dict(classifier.body.state_dict())
    model.classifier.load_state_dict(classifier.last.state_dict())
    images = small_images(count, 224).mean(1, keepdim=True)
    with torch.no_grad():
        wanted = model((2 * images - 1) * 1024)
        with torch.profiler.profile() as profile:
            found = classifier(images.expand(-1, 3, -1, -1))
    assert ("aten::cat" in {event.key for event in profile.key_averages()}) == (count == 1)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_weights_that_are_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(library.utils, "download", lambda *_: (_ for _ in ()).throw(OSError("no network")))
    with pytest.raises(WeightsError, match="no network") as caught:
        XRVDenseNet(CLASSES, weights="nih")
    assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="it is one of all, chex"):
        XRVDenseNet(CLASSES, weights="imagenet")


def test_pretrained_weights(tmp_path: Path) -> None:
    """Where there is a network or the file: the classes are those of the weights."""
    try:
        classifier = XRVDenseNet(CLASSES, weights="nih")
    except WeightsError as error:
        pytest.skip(str(error))
    assert classifier.weights.source.endswith("nih")
    with pytest.raises(UsageError, match="no class 'Fracture'"):
        XRVDenseNet(("Fracture", "Effusion"), weights="nih")


@pytest.fixture(scope="module")
def nih(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Sixty images, one a patient, of every class in turn; each Effusion has a box."""
    folder = tmp_path_factory.mktemp("nih")
    draw = np.random.default_rng(0)
    table = ["Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position"]
    boxes = ["Image Index,Finding Label,Bbox [x,y,w,h],,,,,,"]
    for row in range(60):
        name, finding = f"{row:08d}_000.png", (*CLASSES, "No Finding")[row % 4]
        Image.fromarray(draw.integers(0, 256, (SIDE, SIDE), dtype=np.uint8)).save(folder / name)
        table.append(f"{name},{finding},0,{row},50,M,PA")
        if finding == "Effusion":
            boxes.append(f"{name},Effusion,256,512,128,64,,,")
    (folder / "entries.csv").write_text("\n".join(table))
    (folder / "boxes.csv").write_text("\n".join(boxes))
    options = {"csvpath": str(folder / "entries.csv"), "bbox_list_path": str(folder / "boxes.csv")}
    return folder, {"dataset": "NIH_Dataset", **options}


def test_dataset_conforms(nih: tuple[Path, dict[str, Any]]) -> None:
    folder, options = nih
    classes = ("No Finding", *CLASSES)
    assert check_dataset("xrv", classes=classes, input_size=SIDE, data_root=folder, options=options) == []


def test_images_labels_and_boxes_are_the_files(nih: tuple[Path, dict[str, Any]]) -> None:
    folder, options = nih
    splits = xrv(classes=("No Finding", *CLASSES), input_size=SIDE, data_root=folder, options=options)
    assert sum(len(split) for split in (splits.train, splits.val, splits.test)) == 60
    seen = 0
    for split in (splits.train, splits.val, splits.test):
        for index, patient in enumerate(split.patients):
            sample = split[index]
            pixels = np.asarray(Image.open(folder / f"{int(patient):08d}_000.png"), dtype=np.float32) / 255
            np.testing.assert_allclose(sample.image[0], pixels, atol=1e-6)
            assert sample.labels.argmax() == {0: 1, 1: 2, 2: 3, 3: 0}[int(patient) % 4]
            assert set(sample.regions) == ({2} if int(patient) % 4 == 1 else set())
            for region in sample.regions.values():
                seen += 1
                np.testing.assert_allclose(region.boxes, [[32, 64, 48, 72]], atol=1)
    assert seen == 15


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"dataset": "NHI_Dataset"}, UsageError, "Did you mean 'NIH_Dataset'"),
        ({"test": 0.8, "val": 0.3}, UsageError, "below 1"),
        ({"no_such": 1}, UsageError, "no_such"),
        ({"csvpath": "no such file"}, DataError, "can't be read"),
    ],
)
def test_bad_options_are_one_line(nih: tuple[Path, dict[str, Any]], change: Any, error: Any, says: str) -> None:
    folder, options = nih
    with pytest.raises(error, match=says) as caught:
        xrv(classes=CLASSES, input_size=SIDE, data_root=folder, options={**options, **change})
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="--data-root"):
        xrv(classes=CLASSES, input_size=SIDE, data_root=None, options=options)
