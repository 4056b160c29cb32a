"""Maps are scored where the benchmark says: at each image's own size, in frames that are no squares, shrunk by area."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.classifiers.odd_networks import Plain
from tests.tiny import tiny_benchmark
from xaibench import registry
from xaibench.benchmark import Benchmark
from xaibench.datasets.base import Split, Splits
from xaibench.errors import BenchmarkError, UsageError
from xaibench.evaluation.evaluate import evaluate
from xaibench.evaluation.frames import FIXED, nearest_fixed, together
from xaibench.explainers import create
from xaibench.explainers.base import upsample
from xaibench.metrics.localization import energy, hit_rate, iou_otsu
from xaibench.results.run import Run
from xaibench.types import Frame, Region, Sample

CLASSES = ("No Finding", "Mass")
SIZES = [Frame(96, 80), Frame(100, 150), Frame(96, 80), Frame(64, 64), Frame(33, 47), Frame(96, 80)]
BOX = np.array([[0.25, 0.5, 0.6, 0.8]])
"""Of every image, as shares of its sides; its edges are between pixels."""


class Sized(Split):
    """Images of several sizes, each with one box, stretched to squares of 64 px."""

    def __init__(self, name: str) -> None:
        self.classes, self.frame = CLASSES, Frame.square(64)
        self.ids = [f"{name}{row}.png" for row in range(len(SIZES))]
        self.patients, self.fingerprint = self.ids, f"sized {name}"
        self.labels = np.tile(np.array([[0, 1]], dtype=np.float32), (len(SIZES), 1))
        self.labels[-1] = [1, 0]

    def __getitem__(self, index: int) -> Sample:
        image = np.random.default_rng(index).random((1, 64, 64), dtype=np.float32)
        return Sample(self.ids[index], image, self.labels[index], self.patients[index], self.regions(index))

    def regions(self, index: int, frame: Any = "input") -> Mapping[int, Region]:
        if self.labels[index, 1] == 0:
            return {}
        own = SIZES[index]
        region = Region(np.round(BOX * [own.width, own.height, own.width, own.height]), own)
        wanted = own if frame is None else self.frame if frame == "input" else frame
        return {1: region.to(wanted)}

    def own_frame(self, index: int) -> Frame:
        return SIZES[index]


def sized(**_: Any) -> Splits:
    return Splits(Sized("train"), Sized("val"), Sized("test"))


@pytest.fixture(autouse=True)
def _dataset() -> Iterator[None]:
    registry.register("datasets", "sized", sized)
    yield
    registry.unregister("datasets", "sized")


def benchmark(frame: Any, *metrics: str, **localization: Any) -> Benchmark:
    return tiny_benchmark(
        classes=CLASSES,
        dataset={"name": "sized"},
        metrics=[{"name": name} for name in metrics],
        localization={"frame": frame, "baselines": [], **localization},
    )


def run(explainer: str, protocol: Benchmark, **options: Any) -> Run:
    network = {"outputs": [0, 1], "normalize": "none"}
    return evaluate(Plain(), [explainer], protocol, options=network, device="cpu", **options)


# reduced by area


def test_a_smaller_map_is_the_mean_of_what_its_pixels_cover() -> None:
    maps = torch.tensor([[[1.0, 3.0, 5.0, 7.0], [2.0, 4.0, 6.0, 8.0]]])
    assert upsample(maps, Frame(1, 2)).tolist() == [[[2.5, 6.5]]]
    assert upsample(torch.tensor([[[0.0, 3.0, 6.0]]]), Frame(1, 2)).tolist() == [[[1.0, 5.0]]]
    wider = upsample(torch.tensor([[[0.0, 1.0], [2.0, 3.0]]]), Frame(1, 4))  # one axis shrinks, one grows
    assert wider.tolist() == [[[1.0, 1.25, 1.75, 2.0]]]


@given(
    height=st.integers(1, 40), width=st.integers(1, 40), to=st.tuples(st.integers(1, 12), st.integers(1, 12)), seed=...
)
def test_the_mean_of_a_map_that_shrinks_stays(height: int, width: int, to: tuple[int, int], seed: int) -> None:
    frame = Frame(min(to[0], height), min(to[1], width))
    maps = torch.rand(1, height, width, generator=torch.Generator().manual_seed(seed % 2**31), dtype=torch.float64)
    found = upsample(maps, frame)
    assert found.shape == (1, frame.height, frame.width)
    assert float(found.mean()) == pytest.approx(float(maps.mean()), abs=1e-6)  # float32
    assert float(found.min()) >= float(maps.min()) - 1e-6
    assert float(found.max()) <= float(maps.max()) + 1e-6


def test_bilinear_enlarging_is_as_before() -> None:
    maps = torch.rand(2, 7, 7)
    wanted = torch.nn.functional.interpolate(maps[:, None], (224, 200), mode="bilinear", align_corners=False)[:, 0]
    assert torch.equal(upsample(maps, Frame(224, 200)), wanted)


def test_a_map_sixteen_times_as_large_hits_and_keeps_its_energy() -> None:
    """Every fourth pixel of a block is bright: sampling one pixel of 16 x 16 saw 0.268 of the energy, and no peak."""
    mask = torch.zeros(1, 8, 8, dtype=torch.bool)
    mask[0, 2:4, 2:6] = True
    large = mask.double().repeat_interleave(16, 1).repeat_interleave(16, 2)
    rng = torch.Generator().manual_seed(0)
    heat = torch.where(torch.rand(large.shape, generator=rng) < 0.02, 1.0, 0.0).double()
    heat[large == 1] *= 0.5 / heat[large == 1].sum()
    heat[large == 0] *= 0.5 / heat[large == 0].sum()
    found = upsample(heat.float(), Frame(8, 8))
    assert float(energy(found, mask)) == pytest.approx(0.5, abs=1e-6)
    assert float(hit_rate(found, mask)) == 1.0


def test_large_maps_from_files_keep_their_energy(tmp_path: Path) -> None:
    """Maps 16 times as large as the input with half of their energy, and their peak, in the region."""
    tops = {}
    for row, own in enumerate(SIZES[:5]):
        region = Sized("test").regions(row, None)[1]
        size = Frame(16 * own.height, 16 * own.width)
        inside = region.to(size).rasterize(size)
        rng = np.random.default_rng(row)
        heat = np.zeros((size.height, size.width))
        pick = [rng.choice(np.flatnonzero(where), 400, replace=False) for where in (inside, ~inside)]
        for place, among in enumerate(pick):  # single pixels, which sampling would mostly miss
            heat.flat[among] = 1.0 + 0.1 * place
        heat *= np.where(inside, 0.5 / heat[inside].sum(), 0.5 / heat[~inside].sum())
        np.save(tmp_path / f"test{row}_Mass.npy", heat.astype(np.float32))
        tops[row] = heat
    scores = {}
    for frame in ("input", "image", 32):
        found = run(f"maps:{tmp_path}", benchmark(frame, "energy"))
        assert found.record["failed"] == {}
        (scores[frame],) = [s.value for s in found.select(metric="energy", class_name="Mass")]
    assert scores["image"] == pytest.approx(0.5, abs=1e-6)
    # at 64 px the box's edges fall between pixels' centres: what the edge pixels hold goes to one side
    assert scores["input"] == pytest.approx(0.5, abs=0.03)
    assert scores[32] == pytest.approx(0.5, abs=0.06)


def test_maps_of_other_proportions_are_refused(tmp_path: Path) -> None:
    for row, own in enumerate(SIZES[:5]):
        np.save(tmp_path / f"test{row}_Mass.npy", np.random.default_rng(row).random((own.width, own.height)))
    found = run(f"maps:{tmp_path}", benchmark("image", "energy"))
    reason = found.record["failed"][f"maps:{tmp_path}"]
    assert "test0_Mass.npy is a map of 80x96 (height x width) for image test0.png of 96x80: other proportions" in reason
    for row in range(5):  # those of the input, which the image is stretched to, are right too
        np.save(tmp_path / f"test{row}_Mass.npy", np.random.default_rng(row).random((7, 7)))
    assert run(f"maps:{tmp_path}", benchmark("image", "energy")).record["failed"] == {}


# where localization is measured


def by_hand(network: Plain, frame: Frame | None) -> dict[str, list[float]]:
    """Score Grad-CAM, brought from its own 8 x 8 to the frame in one step, with the metrics themselves."""
    from xaibench.classifiers.module import ModuleClassifier

    classifier = ModuleClassifier(CLASSES, 64, module=network, normalize="none", outputs=[0, 1])
    explainer: Any = create("gradcam")
    found: dict[str, list[float]] = {"hit_rate": [], "energy": [], "iou_otsu": []}
    split = Sized("test")
    for row in range(5):
        image = torch.from_numpy(split[row].image)[None].expand(-1, 3, -1, -1).contiguous()
        with torch.no_grad():
            prediction = classifier.predict(image)
        small = explainer.signed(classifier, prediction, torch.tensor([1])).relu()
        size = frame or SIZES[row]
        maps = torch.nn.functional.interpolate(
            small[:, None], (size.height, size.width), mode="bilinear", align_corners=False
        )[:, 0]
        mask = torch.from_numpy(split.regions(row, None)[1].to(size).rasterize(size))[None]
        for name, metric in (("hit_rate", hit_rate), ("energy", energy), ("iou_otsu", iou_otsu)):
            found[name].append(float(metric(maps, mask)))
    return found


@pytest.mark.parametrize(("frame", "size"), [("image", None), ([96, 160], Frame(96, 160)), (128, Frame(128, 128))])
def test_scores_in_a_frame_are_those_made_by_hand_there(frame: Any, size: Frame | None, tmp_path: Path) -> None:
    protocol = benchmark(frame, "hit_rate", "energy", "iou_otsu", "insertion")
    found = run("gradcam", protocol, store=tmp_path / "store", out=tmp_path, batch_size=4)
    assert found.record["failed"] == {}
    wanted = by_hand(Plain(), size)
    table = found.images()
    for name, values in wanted.items():
        rows = table[table["metric"] == name].sort_values("image")["value"].to_numpy()
        np.testing.assert_allclose(rows, values, atol=1e-6)
    assert found.select(metric="insertion", class_name="Mass")[0].value is not None  # in the input's frame
    again = run("gradcam", benchmark(frame, "energy", "hit_rate"), store=tmp_path / "store", batch_size=4)
    for name in ("energy", "hit_rate"):
        assert [s.value for s in again.select(metric=name)] == [s.value for s in found.select(metric=name)]


def test_maps_kept_by_a_run_in_the_inputs_frame_do_not_serve_another(tmp_path: Path) -> None:
    run("gradcam", benchmark("input", "energy"), store=tmp_path / "store")
    second = run("gradcam", benchmark("image", "energy"), store=tmp_path / "store")
    fresh = run("gradcam", benchmark("image", "energy"))
    assert [s.value for s in second.scores] == [s.value for s in fresh.scores]


def test_chance_in_own_frames_is_the_area_and_simulated_noise_is_of_fixed_frames() -> None:
    found = run("gradcam", benchmark("image", "energy", "box_iou"))
    areas = [Sized("test").regions(row, None)[1].rasterize(SIZES[row]).mean() for row in range(5)]
    assert found.select(metric="energy", class_name="Mass")[0].chance == pytest.approx(np.mean(areas), abs=1e-12)
    metric = registry.get("metrics", "box_iou").load()
    levels = []
    for row in range(5):
        fixed = nearest_fixed(SIZES[row])
        mask = torch.from_numpy(Sized("test").regions(row, None)[1].to(fixed).rasterize(fixed))[None]
        levels.append(metric.chance(mask, **metric.parameters).numpy()[0])
    for at, level in zip(metric.parameters["thresholds"], np.mean(levels, axis=0), strict=True):
        score = found.select(metric=f"box_iou@{at:.2f}", class_name="Mass")[0]
        assert score.chance == pytest.approx(level, abs=1e-12)


@pytest.mark.parametrize("size", [Frame(700, 560), Frame(512, 900)])
def test_levels_of_fixed_frames_are_those_of_their_noise_at_the_images_size(size: Frame) -> None:
    """IoU at Otsu's threshold of the fixed frame's noise, each of its pixels a block of the image: within 0.005."""
    fixed = nearest_fixed(size)
    noise = torch.rand(24, fixed.height, fixed.width, generator=torch.Generator().manual_seed(5))
    large = torch.nn.functional.interpolate(noise[:, None], (size.height, size.width), mode="nearest")[:, 0]
    for box in ([0.31, 0.2, 0.63, 0.71], [0.6, 0.55, 0.72, 0.7], [0.05, 0.1, 0.95, 0.55]):
        region = Region(np.array([box]) * [size.width, size.height, size.width, size.height], size)
        mask = torch.from_numpy(region.rasterize(size))[None].expand(24, -1, -1)
        small = torch.from_numpy(region.to(fixed).rasterize(fixed))[None].expand(24, -1, -1)
        assert float(iou_otsu(noise, small).mean()) == pytest.approx(float(iou_otsu(large, mask).mean()), abs=0.005)


def test_pairs_of_one_size_go_together_and_memory_is_bounded() -> None:
    found = list(together([*SIZES, Frame(4000, 4000), Frame(4000, 4000)]))
    assert found[0] == (Frame(96, 80), [0, 2, 5])
    assert [places for frame, places in found if frame == Frame(4000, 4000)] == [[6], [7]]
    assert nearest_fixed(Frame(10, 10)) == Frame(256, 256)
    assert nearest_fixed(Frame(100, 1000)) == Frame(128, 256)
    assert all(max(frame.height, frame.width) == 256 for frame in FIXED)


@pytest.mark.parametrize("frame", ["images", [96], [96, 4], [96.0, 96], -1])
def test_a_frame_that_is_none_says_so(frame: Any) -> None:
    with pytest.raises((BenchmarkError, ValueError, UsageError), match="each image's own size"):
        benchmark(frame, "energy")


def test_masks_of_their_own_size_too(tmp_path: Path) -> None:
    """A map that is the mask scores 1 in its own size, whatever the input's frame would make of a thin lesion."""

    def thin(row: int) -> Tensor:
        own = SIZES[row]
        mask = torch.zeros(own.height, own.width)
        region = Sized("test").regions(row, None)[1].rasterize(own)
        mask[torch.from_numpy(region)] = 1
        return mask

    for row in range(5):
        np.save(tmp_path / f"test{row}_Mass.npy", thin(row).numpy())
    found = run(f"maps:{tmp_path}", benchmark("image", "iou_otsu", "hit_rate", "energy"))
    for name in ("iou_otsu", "hit_rate", "energy"):
        assert found.select(metric=name, class_name="Mass")[0].value == 1.0


def test_a_dataset_without_own_sizes_says_so_where_they_are_asked_for() -> None:
    frame = {"frame": "image", "baselines": []}
    asked = tiny_benchmark(localization=frame, metrics=[{"name": "energy"}])
    found = evaluate(Plain(), ["gradcam"], asked, device="cpu", store=None)
    assert [note for note in found.notes if "knows no size" in note] == [
        'dataset phantom knows no size of its images but the input\'s, 64x64, so that localization.frame = "image" '
        "is that"
    ]
    own = run("gradcam", benchmark("image", "energy"))
    assert not any("knows no size" in note for note in own.notes)
