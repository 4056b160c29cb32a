"""Maps made elsewhere: each format, each name, and pickles that are never executed."""

from __future__ import annotations

import os
import pickle
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.explainers.small import predict
from tests.metrics.asked import explained_by
from xaibench.classifiers.base import Classifier
from xaibench.datasets.base import Split, Splits
from xaibench.errors import DataError, NotApplicableError, UsageError
from xaibench.explainers import create
from xaibench.explainers.base import upsample
from xaibench.explainers.maps import read_map
from xaibench.explainers.plain_pickle import read_pickle
from xaibench.metrics.randomization import mprt
from xaibench.metrics.robustness import max_sensitivity
from xaibench.testing import check_explainer
from xaibench.types import Frame, Region, Sample

RAMP = np.array([[0.0, 1.0, 2.0], [-1.0, 0.5, 4.0]], dtype=np.float32)


class Evil:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize(
    "name",
    [
        "image0_Effusion.npy",
        "image0.png_Effusion.npy",
        "Effusion/image0.npy",
        "Effusion/image0.png.npy",
        "image0_Effusion_map.npy",
    ],
)
def test_names_and_bilinear_frame(name: str, tmp_path: Path, small: Classifier) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    np.save(tmp_path / name, RAMP)
    found = create(f"maps:{tmp_path}").explain(small, predict(small, 1), torch.tensor([3]))
    torch.testing.assert_close(found, upsample(torch.from_numpy(RAMP)[None], Frame(64, 64)))
    with pytest.raises(DataError, match=r"no map of image0\.png, Cardiomegaly"):
        create(f"maps:{tmp_path}").explain(small, predict(small, 1), torch.tensor([1]))


def test_conforms(folder_of_maps: Path, small: Classifier) -> None:
    assert check_explainer("maps", small, options={"folder": str(folder_of_maps), "allow_missing": True}) == []


def test_a_known_interpolation(tmp_path: Path, small: Classifier) -> None:
    np.save(tmp_path / "image0_Effusion.npy", np.array([[0.0, 4.0]]))
    found = create(f"maps:{tmp_path}").explain(small, predict(small, 1, size=4), torch.tensor([3]))
    assert found.tolist() == [[[0.0, 1.0, 3.0, 4.0]] * 4]


def test_png_of_8_and_16_bits(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 51], [102, 255]], dtype=np.uint8)).save(tmp_path / "a.png")
    assert read_map(tmp_path / "a.png").tolist() == pytest.approx(np.array([[0, 0.2], [0.4, 1]]))
    Image.fromarray(np.array([[0, 13107], [65535, 1]], dtype=np.uint16)).save(tmp_path / "b.png")
    assert read_map(tmp_path / "b.png").tolist() == pytest.approx(np.array([[0, 0.2], [1, 1 / 65535]]))
    Image.new("RGB", (2, 2)).save(tmp_path / "c.png")
    with pytest.raises(DataError, match=r"c\.png is in colours \(RGB\)"):
        read_map(tmp_path / "c.png")
    (tmp_path / "d.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"d\.png is no image"):
        read_map(tmp_path / "d.png")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_chexlocalize_s_pickles(protocol: int, tmp_path: Path) -> None:
    """Its dictionary: the map (1, 1, h, w) as a tensor, and numbers of numpy beside it."""
    info = {
        "map": torch.from_numpy(RAMP)[None, None],
        "prob": np.float32(0.25),
        "task": "Airspace Opacity",
        "gt": np.float64(1),
        "cxr_img": torch.arange(6).view(3, 1, 2)[:, :, ::1],
        "cxr_dims": (3, 2),
        "array": np.arange(4.0)[::2],
    }
    path = tmp_path / "patient1_study1_view1_frontal_Airspace Opacity_map.pkl"
    path.write_bytes(pickle.dumps(info, protocol=protocol))
    assert np.array_equal(read_map(path), RAMP)
    found = read_pickle(path)
    assert (found["prob"], found["gt"], found["cxr_dims"]) == (0.25, 1.0, (3, 2))
    assert found["array"].tolist() == [0.0, 2.0]
    explainer: Any = create(f"maps:{tmp_path}")
    assert explainer.find("patient1/study1/view1_frontal.jpg", "Airspace Opacity") == path
    assert explainer.find("patient1/study1/view1_frontal.jpg", "Edema") is None


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_are_not_executed(protocol: int, tmp_path: Path) -> None:
    path, proof = tmp_path / "a_b.pkl", tmp_path / "proof"
    path.write_bytes(pickle.dumps({"map": Evil(proof)}, protocol=protocol))
    with pytest.raises(DataError, match=r"a_b\.pkl would call posix\.system, and is not read"):
        read_map(path)
    assert not proof.exists()
    pickle.loads(path.read_bytes())  # the payload is a real one
    assert proof.exists()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"cbuiltins\neval\n(S'1+1'\ntR.", r"would call builtins\.eval"),
        (
            b"cnumpy.core.multiarray\n_reconstruct.__globals__\n.",
            "would call numpy.core.multiarray._reconstruct.__glob",
        ),
        (b"ctorch._utils\n_import_dotted_name\n(S'os.system'\ntR.", r"torch\._utils\._import_dotted_name"),
        (b"c_codecs\nencode\n(S'x'\nS'rot13'\ntR.", "encode with 'rot13'"),
        (b"Pkept\n.", "kept elsewhere"),
        (b"\x80", "can't be read as a pickle"),
        (b"", "can't be read as a pickle"),
        (pickle.dumps({"heat": 1}), "a dictionary without 'map', only heat"),
        (pickle.dumps([1, 2]), "holds no numbers"),
        (pickle.dumps(np.array([object, 1])[1:]), "holds no numbers"),
        (pickle.dumps(np.zeros((3, 2, 2))), r"shape \(3, 2, 2\); a map is \(H, W\)"),
    ],
)
def test_what_is_refused_in_pickles(content: bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / "a_b.pkl").write_bytes(content)
    with pytest.raises(DataError, match=reason) as caught:
        read_map(tmp_path / "a_b.pkl")
    assert "\n" not in str(caught.value)


def test_a_pickle_can_not_change_what_it_is_handed(tmp_path: Path) -> None:
    """BUILD sets attributes of what lies on the stack: they must not outlive the file."""
    from xaibench.explainers import plain_pickle

    (tmp_path / "a.pkl").write_bytes(b"ctorch._utils\n_rebuild_tensor_v2\n(dS'planted'\nI1\nsb.")
    read_pickle(tmp_path / "a.pkl")
    assert not any(hasattr(call, "planted") for call in plain_pickle._FUNCTIONS.values())


def test_nested_bytes_of_torch_are_not_executed_either(tmp_path: Path) -> None:
    class Load:
        def __reduce__(self) -> Any:
            return torch.storage._load_from_bytes, (pickle.dumps(Evil(tmp_path / "proof")),)

    (tmp_path / "a.pkl").write_bytes(pickle.dumps(Load()))
    with pytest.raises(DataError, match="can't be read"):
        read_map(tmp_path / "a.pkl")
    torch.save(Evil(tmp_path / "proof"), tmp_path / "b.pkl")
    with pytest.raises(DataError, match="can't be read"):
        read_map(tmp_path / "b.pkl")
    np.save(tmp_path / "c.npy", np.array([Evil(tmp_path / "proof")]), allow_pickle=True)
    with pytest.raises(DataError, match=r"c\.npy is no array of numbers"):
        read_map(tmp_path / "c.npy")
    assert not (tmp_path / "proof").exists()


def test_missing_maps_by_count_and_first_names(
    tmp_path: Path, small: Classifier, splits_of: Callable[..., Splits]
) -> None:
    splits = splits_of(test=[("Effusion", (1, 1, 9, 9)), ("Cardiomegaly", (1, 1, 9, 9)), ("Effusion", (2, 2, 9, 9))])
    np.save(tmp_path / "test1_Cardiomegaly.npy", RAMP)
    with pytest.raises(DataError, match="2 of 3 maps are missing, first test0_Effusion, test2_Effusion "):
        create(f"maps:{tmp_path}").prepare(splits)
    lenient = create("maps", folder=str(tmp_path), allow_missing=True)
    lenient.prepare(splits)
    assert lenient.explain(small, predict(small, 1), torch.tensor([3])).isnan().all()
    for name in ("test0_Effusion", "test2_Effusion"):
        np.save(tmp_path / f"{name}.npy", RAMP)
    create(f"maps:{tmp_path}").prepare(splits)
    (tmp_path / "Effusion").mkdir()
    np.save(tmp_path / "Effusion" / "test0.npy", RAMP)
    with pytest.raises(DataError, match=r"test0_Effusion\.npy and .*Effusion/test0\.npy are both the map of test0"):
        create(f"maps:{tmp_path}").prepare(splits)


def test_metrics_that_explain_again_are_refused(folder_of_maps: Path, small: Classifier) -> None:
    """The same map of a changed image would be a perfect score in robustness, and no merit."""
    explained = explained_by(small, create(f"maps:{folder_of_maps}"), predict(small, 3), torch.tensor([1, 2, 3]))
    for metric in (max_sensitivity, mprt):
        with pytest.raises(NotApplicableError, match="made elsewhere"):
            metric(explained)
    assert explained.scores(explained.prediction.images, torch.arange(3)).isfinite().all()


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        create(f"maps:{tmp_path}/nothing")
    with pytest.raises(UsageError, match=r"holds no \.npy"):
        create(f"maps:{tmp_path}")


class Named(Split):
    """Images of 4 x 4 pixels under given names, each with a region of each class."""

    def __init__(self, ids: Sequence[str], classes: Sequence[str]) -> None:
        self.ids, self.patients, self.classes = ids, ids, tuple(classes)
        self.labels, self.frame, self.fingerprint = np.ones((len(ids), len(classes)), np.float32), Frame.square(4), ""

    def __getitem__(self, index: int) -> Sample:
        raise NotImplementedError

    def regions(self, index: int) -> dict[int, Region]:  # type: ignore[override]
        return dict.fromkeys(range(len(self.classes)), Region(np.array([[0.0, 0, 1, 1]]), self.frame))


def prepared(root: Path, files: Sequence[str], ids: Sequence[str], classes: Sequence[str] = ("Mass",)) -> Any:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        np.save(root / f"{file}.npy", np.eye(4))
    explainer = create(f"maps:{root}")
    split = Named(ids, classes)
    explainer.prepare(Splits(Named([], classes), Named([], classes), split))
    return explainer


PATH = "CheXpert-v1.0/test/patient1/study1/view1_frontal.jpg"


@pytest.mark.parametrize("file", ["patient1_study1_view1_frontal_Mass_map", "Mass/patient1/study1/view1_frontal"])
def test_the_end_of_a_path_names_its_image(file: str, tmp_path: Path) -> None:
    assert prepared(tmp_path, [file], [PATH]).find(PATH, "Mass") == tmp_path / f"{file}.npy"


def test_the_end_of_two_paths_names_neither(tmp_path: Path) -> None:
    other = "CheXpert-v1.0/train/patient1/study1/view1_frontal.jpg"
    with pytest.raises(
        DataError, match=r"may be a map of CheXpert-v1\.0/test/.* or CheXpert-v1\.0/train/.* whole path"
    ):
        prepared(tmp_path, ["patient1_study1_view1_frontal_Mass"], [PATH, other])


def test_a_file_is_of_the_image_with_its_whole_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"1 of 2 maps are missing, first x/a\.png_Mass"):
        prepared(tmp_path, ["a_Mass"], ["a.png", "x/a.png"])


def test_two_images_of_one_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a_Mass\.npy may be a map of a\.png or a\.jpg: name it by the image's whole"):
        prepared(tmp_path, ["a_Mass"], ["a.png", "a.jpg"])
    explainer = prepared(tmp_path / "whole", ["a.png_Mass", "a.jpg_Mass"], ["a.png", "a.jpg"])
    assert explainer.find("a.jpg", "Mass").name == "a.jpg_Mass.npy"


def test_a_number_after_a_dot_is_no_suffix(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"2 of 2 maps are missing"):
        prepared(tmp_path, ["case1_Mass"], ["case1.1", "case1.2"])


def test_one_file_for_two_classes(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"may be the map of p, Big Mass or of p_Big, Mass: name it CLASS/IMAGE"):
        prepared(tmp_path, ["p_Big_Mass", "Mass/p", "p_Big_Big_Mass"], ["p", "p_Big"], ["Mass", "Big Mass"])


def test_lung_opacity_is_airspace_opacity(tmp_path: Path) -> None:
    file = "p_Airspace Opacity_map"
    assert prepared(tmp_path, [file], ["p"], ["Lung Opacity"]).find("p", "Lung Opacity") == tmp_path / f"{file}.npy"
    with pytest.raises(DataError, match=r"1 of 2 maps are missing, first p_Lung Opacity"):
        prepared(tmp_path, [file], ["p"], ["Lung Opacity", "Airspace Opacity"])


def test_names_in_another_unicode_form(tmp_path: Path) -> None:
    file = unicodedata.normalize("NFD", "Röntgen_Mass")
    assert prepared(tmp_path, [file], ["Röntgen.png"]).find("Röntgen.png", "Mass") is not None
