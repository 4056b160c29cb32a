"""Contact sheets and maps in the store: images are decoded only for sheets that are drawn, equal maps kept once."""

from __future__ import annotations

import pickle
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.tiny import tiny_benchmark
from xaibench.datasets.phantom import phantom
from xaibench.evaluation.cache import Kept, KeptBatch
from xaibench.evaluation.records import Picture
from xaibench.evaluation.sheets import ContactSheets
from xaibench.io.store import Store
from xaibench.types import Frame, Region, Sample

SIZE = 16
MAP = torch.linspace(0, 1, SIZE * SIZE).view(SIZE, SIZE)


def sample(grey: float = 0.5, left: float = 2.0) -> Sample:
    region = Region(np.array([[left, 3, 9, 10]]), Frame.square(SIZE))
    image = np.full((1, SIZE, SIZE), grey, dtype=np.float32)
    return Sample("a.png", image, np.array([1, 0, 0, 0], dtype=np.float32), "p", {0: region})


class Images:
    """Decodes one image, and counts how often."""

    def __init__(self, decoded: Sample) -> None:
        self.decoded, self.times = decoded, 0

    def __call__(self) -> Sample:
        self.times += 1
        return self.decoded


def sheet(folder: Path, store: Store | None, picture: Picture) -> bytes:
    """Draw a sheet of one tile."""
    protocol = tiny_benchmark()
    sheets = ContactSheets(protocol, ["cam"])
    sheets.offer("cam", 0, picture, MAP, 1.0)
    sheets.write(SimpleNamespace(directory=folder, classifier="net", benchmark=protocol), store)  # type: ignore[arg-type]
    return (folder / "contact-sheet-cam.png").read_bytes()


def test_an_image_is_decoded_for_a_sheet_that_is_drawn_and_for_no_other(tmp_path: Path) -> None:
    store, images = Store(tmp_path / "store"), Images(sample())
    first = sheet(tmp_path / "one", store, Picture("a.png", images, "a key"))
    assert images.times == 1
    assert sheet(tmp_path / "two", store, Picture("a.png", images, "a key")) == first
    assert images.times == 1
    other = Images(sample(left=5.0))  # the region moved
    assert sheet(tmp_path / "three", store, Picture("a.png", other, "another key")) != first
    assert other.times == 1
    assert sheet(tmp_path / "four", None, Picture("a.png", images)) == first


def test_an_image_without_a_key_is_known_by_its_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from xaibench.reporting.figures import contact_sheet as figures

    drawn, draw = list[int](), figures.contact_sheet
    monkeypatch.setattr(figures, "contact_sheet", lambda *a, **k: drawn.append(1) or draw(*a, **k))
    store = Store(tmp_path / "store")
    contents = [sample(), sample(), sample(grey=0.7), sample(left=5.0)]
    sheets = [sheet(tmp_path / str(at), store, Picture("a.png", Images(one))) for at, one in enumerate(contents)]
    assert len(drawn) == 3
    assert sheets[0] == sheets[1]
    assert len(set(sheets)) == 3


def test_a_picture_at_hand_leaves_no_batch_in_memory_and_one_sent_elsewhere_is_decoded() -> None:
    images = Images(sample())
    picture = Picture("a.png", images, "a key")
    assert not picture.is_decoded
    sent = pickle.loads(pickle.dumps(picture))
    assert (sent.id, sent.key, sent.is_decoded, images.times) == ("a.png", "a key", True, 1)
    sheets, maps = ContactSheets(tiny_benchmark(), ["cam"]), MAP[None].repeat(2, 1, 1)
    sheets.offer("cam", 0, picture, maps[1], 1.0)
    maps[:] = 0
    (shown,) = next(iter(sheets.collectors["cam"].tiles().values()))
    assert shown.map.base is None
    np.testing.assert_array_equal(shown.map, MAP.numpy())


def batch(store: Store, rows: range = range(4)) -> KeptBatch:
    split = phantom(
        classes=tiny_benchmark().classes, input_size=64, data_root=None, options={"train": 4, "val": 4, "test": 8}
    ).test
    found = Kept(store, {"name": "net"}, {"center": {"name": "center"}}, {}).batch(split, rows)
    assert found is not None
    return found


def test_equal_maps_lie_in_the_store_once_and_come_back_to_the_bit(tmp_path: Path) -> None:
    store, pairs = Store(tmp_path), [(0, 1), (1, 1), (1, 2), (2, 1), (3, 1), (3, 2)]
    bump, noise = np.random.default_rng(0).random((2, 64, 64), dtype=np.float32)
    late = bump.copy()
    late[-1, -1] = -1  # differs in its last pixel alone
    zero, nan = np.zeros_like(bump), np.full_like(bump, np.nan)
    for maps, distinct in (
        ([bump] * 6, 1),
        ([bump, late, bump, noise, late, bump], 3),
        ([zero, -zero, nan, nan, zero, -zero], 3),  # by their bits: 0 is not -0, and NaN is NaN
        ([noise + np.float32(i) for i in range(6)], 6),
    ):
        stacked = np.stack(maps)
        batch(store).keep_maps("center", pairs, stacked, {"seconds": 1.0})
        found = batch(store).maps("center", pairs)
        assert found is not None
        assert found.arrays["maps"].dtype == np.float32
        np.testing.assert_array_equal(found.arrays["maps"].view(np.uint32), stacked.view(np.uint32))
        (entry,) = store.entries()
        assert distinct == entry.size // bump.nbytes


def test_a_picture_is_named_by_all_that_decides_its_sample(tmp_path: Path) -> None:
    one, later = batch(Store(tmp_path)), batch(Store(tmp_path), range(2, 6))
    assert one.picture_key(2) == later.picture_key(0) != one.picture_key(1)
    known = one.picture_key(0)
    one.split.fingerprint = "other regions"
    assert one.picture_key(0) != known
    one.split.fingerprint = later.split.fingerprint
    assert one.picture_key(0) == known
    one.images = ["other content", *one.images[1:]]
    assert one.picture_key(0) != known
