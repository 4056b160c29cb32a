"""The vocabulary: frames, regions and predictions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from xaibench.errors import did_you_mean, first_line
from xaibench.types import Batch, Frame, Prediction, Region, Sample


def boxes(*rows: tuple[float, float, float, float]) -> np.ndarray:
    return np.array(rows, dtype=float)


def test_frame_is_a_grid_with_pixels() -> None:
    assert Frame.square(8) == Frame(8, 8)
    assert str(Frame(3, 5)) == "3x5"
    with pytest.raises(ValueError, match="at least one pixel, got 0 x 3"):
        Frame(0, 3)


@pytest.mark.parametrize(
    "box", [(5, 0, 5, 3), (0, 3, 5, 3), (4, 0, 3, 3), (0, 0, np.nan, 3), (0, 0, np.inf, 3), (-np.inf, 0, 1, 1)]
)
def test_box_without_area_is_refused(box: tuple[float, float, float, float]) -> None:
    with pytest.raises(ValueError, match="a box needs x0 < x1 and y0 < y1"):
        Region(boxes((0, 0, 1, 1), box), Frame(8, 8))


def test_mask_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"mask of shape \(8, 9\) in a frame of 9x8"):
        Region(boxes((0, 0, 1, 1)), Frame(9, 8), np.zeros((8, 9), dtype=bool))


def test_rasterize_known_answer() -> None:
    """A pixel belongs if its centre does: 1.5 is in [1.5, 3.5), 3.5 is not."""
    region = Region(boxes((1.5, 0.0, 3.5, 1.0), (0.0, 2.4, 0.6, 3.0)), Frame(3, 5))
    assert region.rasterize(Frame(3, 5)).astype(int).tolist() == [
        [0, 1, 1, 0, 0],
        [0, 0, 0, 0, 0],
        [1, 0, 0, 0, 0],
    ]
    assert not Region(boxes((0.6, 0.6, 1.4, 1.4)), Frame(3, 3)).rasterize(Frame(3, 3)).any()  # between the centres
    assert Region(boxes((-5, -5, 50, 50)), Frame(3, 3)).rasterize(Frame(3, 3)).all()
    assert not Region(np.zeros((0, 4)), Frame(3, 3)).rasterize(Frame(3, 3)).any()


def test_rasterize_in_another_frame_stretches_each_side() -> None:
    region = Region(boxes((256, 512, 768, 1024)), Frame.square(1024))
    found = region.rasterize(Frame(4, 8))
    wanted = np.zeros((4, 8), dtype=bool)
    wanted[2:4, 2:6] = True
    assert np.array_equal(found, wanted)
    assert region.to(Frame(4, 8)).boxes.tolist() == [[2.0, 2.0, 6.0, 4.0]]
    assert region.to(region.frame) is region


def test_overlapping_boxes_count_once() -> None:
    region = Region(boxes((0, 0, 3, 3), (2, 2, 4, 4)), Frame(5, 5))
    assert region.rasterize(Frame(5, 5)).sum() == 9 + 4 - 1


def test_mask_is_asked_for_by_name() -> None:
    mask = np.zeros((4, 6), dtype=bool)
    mask[1, 2] = True
    region = Region(boxes((2, 1, 3, 2)), Frame(4, 6), mask)
    assert np.array_equal(region.rasterize(Frame(4, 6), source="mask"), mask)
    doubled = region.rasterize(Frame(8, 12), source="mask")
    assert np.array_equal(doubled, mask.repeat(2, axis=0).repeat(2, axis=1))
    assert np.array_equal(region.to(Frame(8, 12)).rasterize(Frame(4, 6), source="mask"), mask)
    with pytest.raises(ValueError, match='has no mask: use regions = "boxes"'):
        Region(region.boxes, region.frame).rasterize(Frame(4, 6), source="mask")
    with pytest.raises(ValueError, match="not 'polygon'"):
        region.rasterize(Frame(4, 6), source="polygon")


sides = st.integers(1, 64)
edges = st.tuples(st.floats(0, 0.99), st.floats(0.01, 1)).filter(lambda pair: pair[0] < pair[1])


@given(height=sides, width=sides, other=st.tuples(sides, sides), x=edges, y=edges)
def test_boxes_come_back_from_another_frame(
    height: int, width: int, other: tuple[int, int], x: tuple[float, float], y: tuple[float, float]
) -> None:
    frame = Frame(height, width)
    box = boxes((x[0] * width, y[0] * height, x[1] * width, y[1] * height))
    if (box[:, 2:] <= box[:, :2]).any():
        return
    region = Region(box, frame)
    back = region.to(Frame(*other)).to(frame)
    assert back.frame == frame
    np.testing.assert_allclose(back.boxes, region.boxes, atol=1e-9)


@given(height=sides, width=sides, other=st.tuples(st.integers(1, 300), st.integers(1, 300)))
def test_mask_in_any_frame_stays_inside_and_full(height: int, width: int, other: tuple[int, int]) -> None:
    region = Region(np.zeros((0, 4)), Frame(height, width), np.ones((height, width), dtype=bool))
    found = region.rasterize(Frame(*other), source="mask")
    assert found.shape == other
    assert found.all()


def test_class_maps_are_those_of_the_targets_of_rows_chosen_twice_too() -> None:
    maps = torch.arange(24.0).view(3, 4, 1, 2)
    images = torch.zeros(3, 3, 1, 2)
    prediction = Prediction(("a", "b", "c"), images, torch.zeros(3, 4), images, {"cwm": maps})
    assert torch.equal(prediction.class_maps("cwm", torch.tensor([3, 0, 1])), maps[[0, 1, 2], [3, 0, 1]])
    chosen, targets = prediction.select([2, 0, 2]), torch.tensor([1, 2, 3])
    assert torch.equal(chosen.class_maps("cwm", targets), maps[[2, 0, 2], [1, 2, 3]])
    assert torch.equal(chosen.select([1]).class_maps("cwm", torch.tensor([2])), maps[[0], [2]])
    assert list(chosen.maps) == ["cwm"]
    assert "cwm" in chosen.maps
    assert "ccm" not in chosen.maps
    chosen.maps["cwm"].zero_()  # a copy
    assert torch.equal(chosen.maps["cwm"], maps[[2, 0, 2]])


def test_prediction_selects_rows_in_order_and_twice() -> None:
    rows = torch.arange(3.0)
    prediction = Prediction(
        ("a", "b", "c"),
        rows.view(3, 1, 1, 1).expand(3, 3, 4, 6),
        rows[:, None],
        rows.view(3, 1, 1, 1),
        {"cwm": rows.view(3, 1, 1, 1)},
    )
    assert len(prediction) == 3
    assert prediction.frame == Frame(4, 6)
    chosen = prediction.select([2, 0, 2])
    assert chosen.ids == ("c", "a", "c")
    for tensor in (chosen.images, chosen.logits, chosen.features, chosen.maps["cwm"]):
        assert [float(row.flatten()[0]) for row in tensor] == [2, 0, 2]
    assert len(prediction.select([])) == 0


def test_batch_knows_its_ids() -> None:
    samples = [Sample(name, np.zeros((1, 2, 2), np.float32), np.zeros(2, np.float32), name) for name in "xy"]
    assert Batch(samples, torch.zeros(2, 3, 2, 2)).ids == ("x", "y")


def test_messages_say_what_is_near_and_quote_one_line() -> None:
    assert did_you_mean("gradcan", ["gradcam", "cam"]) == "Did you mean 'gradcam'?"
    assert did_you_mean("zzz", ["b", "a"]) == "Known: a, b."
    assert did_you_mean("zzz", []) == "None is installed."
    assert first_line(ValueError("\n first. \nsecond")) == "first"
    assert first_line(ValueError("x" * 500), limit=10) == "x" * 10
    assert first_line(KeyError()) == "KeyError"
