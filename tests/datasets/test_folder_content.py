"""Other images of the same size are other data: in fingerprints, in keys of the cache, and for a training."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tiny import tiny_benchmark
from xaibench.benchmark import Benchmark
from xaibench.training.checkpoint import Making

from .folder_data import coco, load, noise, save, two, write_table


def swap_pixels(path: Path) -> None:
    """Give a file other content of the same size in bytes."""
    size = path.stat().st_size
    content = bytearray(path.read_bytes())
    content[content.index(b"IDAT") + 20] ^= 1
    path.write_bytes(content)
    assert path.stat().st_size == size


def test_other_content_of_the_same_size(tmp_path: Path) -> None:
    two(tmp_path)
    first = load(tmp_path)
    keys = [first.train.image_key(0), first.test.image_key(0)]
    swap_pixels(tmp_path / "m.png")
    second = load(tmp_path)
    assert second.train.fingerprint == first.train.fingerprint
    assert second.test.fingerprint != first.test.fingerprint
    assert first.train.image_key(0) == keys[0] == second.train.image_key(0)
    assert first.test.image_key(0) != keys[1] != second.test.image_key(0)  # also of splits that were loaded before


def test_a_training_of_other_images_is_another(tmp_path: Path) -> None:
    two(tmp_path)
    table = tiny_benchmark(classes=("No Finding", "Mass"), input_size=32).model_dump()
    table["dataset"] = {"name": "folder", "options": {"table": "labels.csv", "split_column": "split"}}
    benchmark = Benchmark.model_validate(table)
    before = Making.of("gcm", benchmark.classifier("gcm"), benchmark, load(tmp_path)).hash
    assert Making.of("gcm", benchmark.classifier("gcm"), benchmark, load(tmp_path)).hash == before
    swap_pixels(tmp_path / "n.png")
    assert Making.of("gcm", benchmark.classifier("gcm"), benchmark, load(tmp_path)).hash != before


def test_the_same_data_elsewhere_is_the_same(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        two(tmp_path / name)
    one, other = load(tmp_path / "a"), load(tmp_path / "b")
    assert one.test.fingerprint == other.test.fingerprint
    assert one.test.image_key(0) == other.test.image_key(0)


@pytest.mark.parametrize("changed", ["box", "mask", "size", "label"])
def test_what_is_marked_is_part_of_it(tmp_path: Path, changed: str) -> None:
    square = [[2, 2, 9, 2, 9, 9, 2, 9]]
    first = coco(tmp_path, {"bbox": [2, 2, 7, 7], "segmentation": square}, image={"width": 40, "height": 20})
    box = [2, 2, 7, 8] if changed == "box" else [2, 2, 7, 7]
    shape = [[2, 2, 9, 2, 9, 9]] if changed == "mask" else square
    size = {"width": 80, "height": 40} if changed == "size" else {"width": 40, "height": 20}
    if changed == "label":
        save(tmp_path / "n.png", noise())
        write_table(tmp_path, ["n.png,train,1,0", "m.png,test,1,0"])
        assert load(tmp_path).test.fingerprint != first.test.fingerprint
        return
    second = coco(tmp_path, {"bbox": box, "segmentation": shape}, image=size)
    assert second.test.fingerprint != first.test.fingerprint
    assert second.test.image_key(0) == first.test.image_key(0)  # the image itself is the same
