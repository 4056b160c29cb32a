from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from xaibench.errors import UsageError, XaibenchError
from xaibench.metrics import _ops
from xaibench.reporting.figures import contact_sheet as figures
from xaibench.reporting.figures.contact_sheet import contact_sheet, overlay
from xaibench.reporting.figures.tiles import SheetCollector, Tile, write_sheet
from xaibench.types import Frame, Region

SIZE = 32
HOSTILE = "$\\frac{x}$ [red]{}%\n\x1b[31m肺炎 " + "a very long name " * 20


def tile(
    name: str = "img.png",
    hit: bool | None = True,
    *,
    box: Sequence[float] | None = (8, 16, 16, 28),
    heat: np.ndarray | None = None,
    image: np.ndarray | None = None,
    score: float | None = None,
) -> Tile:
    frame = Frame.square(SIZE)
    return Tile(
        np.zeros((SIZE, SIZE)) if image is None else image,
        np.zeros((SIZE, SIZE)) if heat is None else heat,
        None if box is None else Region(np.array([box]), frame),
        name,
        "Effusion",
        hit,
        score,
    )


def peaked(x: int, y: int, value: float = 1.0) -> np.ndarray:
    heat = np.zeros((SIZE, SIZE))
    heat[y, x] = value
    return heat


def draw(tiles: dict[str, list[Tile]], columns: int = 4) -> Figure:
    return figures._draw(tiles, columns, "cwm of gcm on toy")


def sheet(path: Path, tiles: dict[str, list[Tile]], **more: int) -> np.ndarray:
    write_sheet(path, contact_sheet(tiles, title="cwm of gcm on toy", **more))
    with Image.open(path) as opened:
        assert opened.format == "PNG"
        return np.asarray(opened.convert("RGB"))


def pictures(figure: Figure) -> list:
    return [axes for axes in figure.axes if not axes.axison]


def test_overlay_shows_for_in_red_and_against_fainter_in_green() -> None:
    grey = np.full((1, 5), 0.5)
    out = overlay(grey, np.array([[2.0, 0.5, 0.0, -2.0, np.nan]]), 2.0)
    moved = np.abs(out - 0.5).sum(axis=-1)[0]
    assert moved[0] > moved[1] > 0.05
    assert moved[0] > 2 * moved[3] > 0.1
    assert moved[2] == moved[4] == 0
    assert out[0, 0].argmax() == 0
    assert out[0, 3].argmax() == 1
    assert np.array_equal(overlay(grey, np.full((1, 5), 9.0), 0.0), np.repeat(grey[..., None], 3, axis=-1))
    assert overlay(np.array([[-1.0, 7.0]]), np.full((1, 2), 99.0), 1.0).min() >= 0


def test_evidence_orders_by_value() -> None:
    """More evidence is always redder: the share of red over the others grows on black, grey and white."""
    values = np.linspace(0, 1, 21)[None]
    for level in (0.0, 0.4, 1.0):
        out = overlay(np.full_like(values, level), values, 1.0)[0]
        assert (np.diff(out[:, 0] - out[:, 2]) > 0).all()


def test_the_box_is_drawn_at_its_edges(tmp_path: Path) -> None:
    pixels = sheet(tmp_path / "a.png", {"Effusion": [tile(box=(8, 16, 16, 28))]}, columns=1).astype(int)
    blue = (pixels[..., 2] > 180) & (pixels[..., 2] > pixels[..., 0] + 80)
    black = pixels.max(axis=-1) < 20
    bottom, left = np.nonzero(black.sum(axis=1) > 250)[0].max(), np.nonzero(black.sum(axis=0) > 250)[0].min()
    side = int(black[bottom - 1, left:].argmin())  # the bar's frame is black too, farther right
    y, x = np.nonzero(blue)
    scale = side / SIZE
    tolerance = 0.4  # of a map pixel, half of the line's width
    assert (x.min() - left) / scale == pytest.approx(8, abs=tolerance)
    assert (x.max() + 1 - left) / scale == pytest.approx(16, abs=tolerance)
    assert SIZE - (bottom + 1 - y.min()) / scale == pytest.approx(16, abs=tolerance)
    assert SIZE - (bottom - y.max()) / scale == pytest.approx(28, abs=tolerance)
    inside = blue[y.min() + 8 : y.max() - 8, x.min() + 8 : x.max() - 8]
    assert not inside.any()


def test_a_box_in_another_frame_is_moved_along() -> None:
    region = Region(np.array([[256.0, 512.0, 512.0, 896.0]]), Frame.square(1024))
    moved = Tile(np.zeros((SIZE, SIZE)), np.zeros((SIZE, SIZE)), region, "a", "Effusion", False)
    (box,) = [patch for axes in pictures(draw({"Effusion": [moved]})) for patch in axes.patches]
    assert (*box.get_xy(), box.get_width(), box.get_height()) == (8, 16, 8, 12)


def test_each_tile_has_a_plain_and_a_coloured_picture_and_each_row_a_bar() -> None:
    heat = peaked(3, 5, 0.25)
    figure = draw({"A": [tile("1", heat=heat), tile("2", False, heat=-4 * heat)], "B": [tile(box=None, hit=None)]})
    assert len(pictures(figure)) == 2 * 3
    bars = [axes for axes in figure.axes if axes.axison]
    assert [[t.get_text() for t in bar.get_yticklabels()] for bar in bars] == [["-1", "0", "+1"], ["", "0", ""]]
    assert all("no unit" in bar.get_ylabel() for bar in bars)
    assert sum(len(axes.patches) for axes in figure.axes) == 2, "one box a tile, on the coloured picture only"
    texts = [text.get_text() for text in figure.texts]
    assert {"hit", "miss", "no box, constant map"} <= set(texts)
    assert any("Red: evidence for" in text for text in texts)


def test_the_peak_is_marked_at_the_centre_of_its_pixel_and_ties_are_not() -> None:
    figure = draw({"A": [tile(heat=peaked(3, 5)), tile(heat=peaked(3, 5) + peaked(9, 9))]})
    marks = [line.get_xydata().tolist() for axes in pictures(figure) for line in axes.lines]
    assert marks == [[[3.5, 5.5]]]


def test_the_peak_drawn_is_the_one_scored() -> None:
    """Two pixels that differ by rounding alone are a tie when a hit is scored, so no one of them is the peak."""
    nearly = peaked(3, 5) + peaked(9, 9) * (1 - 1e-8)
    lonely = peaked(3, 5) + peaked(9, 9) * (1 - 1e-3)
    undefined = np.where(peaked(9, 9) > 0, np.nan, peaked(3, 5))
    for heat in (nearly, lonely, undefined):
        scored = np.argwhere(_ops.maxima(torch.from_numpy(heat)[None])[0].numpy())
        figure = draw({"A": [tile(heat=heat)]})
        marks = [line.get_xydata().tolist() for axes in pictures(figure) for line in axes.lines]
        assert marks == ([[[scored[0][1] + 0.5, scored[0][0] + 0.5]]] if len(scored) == 1 else [])


def test_captions_name_verdict_score_and_image() -> None:
    texts = [text.get_text() for text in draw({"A": [tile("x.png", False, heat=peaked(1, 1), score=0.428)]}).texts]
    assert "miss · energy 0.43" in texts
    assert "x.png" in texts
    undefined = draw({"A": [tile(hit=None, heat=peaked(1, 1))]}).texts
    assert "undefined" in [text.get_text() for text in undefined]


def test_many_classes_leave_the_bare_pictures_out() -> None:
    rows = {f"class {i}": [tile()] for i in range(14)}
    assert len(pictures(draw(rows))) == 14


@pytest.mark.parametrize(("classes", "columns"), [(1, 1), (1, 4), (4, 4), (7, 2), (14, 4)])
def test_texts_overlap_neither_each_other_nor_pictures(classes: int, columns: int) -> None:
    row = [tile(f"{HOSTILE}{i}", heat=peaked(2, 2), score=0.5) for i in range(columns)]
    figure = figures._draw({f"{i} {HOSTILE}": row for i in range(classes)}, columns, HOSTILE)
    renderer = figure.canvas.get_renderer()
    page = figure.bbox
    boxes = [(text.get_text(), text.get_window_extent(renderer)) for text in figure.texts]
    for name, box in boxes:
        assert page.x0 <= box.x0, name
        assert box.x1 <= page.x1, name
        assert page.y0 <= box.y0, name
        assert box.y1 <= page.y1, name
    tall = [axes.get_tightbbox(renderer) for axes in figure.axes]
    for i, (name, box) in enumerate(boxes):
        assert not any(box.overlaps(other) for _, other in boxes[i + 1 :]), name
        assert not any(box.overlaps(other) for other in tall), name
    assert all(box.x1 <= page.x1 for box in tall)


def test_hostile_names_stay_on_one_line_and_are_no_formulas() -> None:
    figure = draw({"$x^2$ \n肺": [tile("$\\frac{", heat=peaked(1, 1))]})
    texts: list[Text] = figure.texts
    shown = [text.get_text() for text in texts]
    assert r"$x^2$ \n\u80ba" in shown
    assert "$\\frac{" in shown
    assert not any(text.get_parse_math() for text in texts)


def test_pictures_are_not_distorted() -> None:
    wide = Tile(np.zeros((10, 40)), np.zeros((10, 40)), None, "a", "A")
    for axes in pictures(draw({"A": [wide]})):
        axes.apply_aspect()
        box = axes.get_window_extent()
        assert box.width / box.height == pytest.approx(4, rel=1e-3)


def test_the_same_tiles_give_the_same_bytes_without_a_date(tmp_path: Path) -> None:
    rows = {"A": [tile(heat=peaked(4, 4), score=0.3)], "No Finding": [tile(hit=None, box=None)]}
    first, second = tmp_path / "a.png", tmp_path / "b.png"
    sheet(first, rows)
    sheet(second, rows)
    assert first.read_bytes() == second.read_bytes()
    with Image.open(first) as opened:
        assert set(opened.info) <= {"dpi"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png"]


def test_noise_keeps_to_the_size_by_a_lower_resolution(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).random((SIZE, SIZE))
    rows = {"A": [tile(image=noise, heat=noise - 0.5)] * 4}
    full, small = sheet(tmp_path / "full.png", rows), sheet(tmp_path / "small.png", rows, max_bytes=120_000)
    assert (tmp_path / "small.png").stat().st_size <= 120_000 < (tmp_path / "full.png").stat().st_size
    assert small.shape[0] < full.shape[0]


def test_real_x_rays_fit_into_two_megabytes(tmp_path: Path, nih_sample: Path) -> None:
    names = sorted(path for path in (nih_sample / "images").iterdir() if path.suffix == ".png")[:8]
    smooth = np.add.outer(np.sin(np.arange(256) / 20), np.cos(np.arange(256) / 30))
    rows: dict[str, list[Tile]] = {"A": [], "B": []}
    for i, path in enumerate(names):
        with Image.open(path) as opened:
            image = np.asarray(opened.convert("L"), dtype=np.float32) / 255
        rows["AB"[i % 2]].append(Tile(image, np.roll(smooth, 30 * i, axis=1), None, path.name, "A"))
    pixels = sheet(tmp_path / "real.png", rows)
    assert (tmp_path / "real.png").stat().st_size < 2_000_000
    assert pixels.shape[1] > 1000
    assert pixels.std() > 20


def test_bad_input_is_named() -> None:
    with pytest.raises(UsageError, match=r"'a.png'.*\(4, 4\) and \(4, 5\)"):
        Tile(np.zeros((4, 4)), np.zeros((4, 5)), None, "a.png", "A")
    with pytest.raises(UsageError, match="at least one tile"):
        contact_sheet({"A": []}, title="e of c on b")
    with pytest.raises(UsageError, match="class 2 of 1"):
        SheetCollector(["A"]).offer(2, tile())
    with pytest.raises(UsageError, match="class -1 of 1"):
        SheetCollector(["A"]).wants(-1, True)
    with pytest.raises(UsageError, match="negative"):
        SheetCollector(["A"], plain=-1)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(XaibenchError, match=r"can't write .*gone"):
        sheet(tmp_path / "gone" / "a.png", {"A": [tile()]})


def offered(kinds: str, **more: int) -> str:
    """Offer h(its), m(isses) and p(lain images) in that order; return the kept ones as kind and number."""
    collector = SheetCollector(["A"], **more)
    meaning = {"h": True, "m": False, "p": None}
    for i, kind in enumerate(kinds):
        collector.offer(0, tile(f"{kind}{i}", meaning[kind]))
    return " ".join(kept.image_id for kept in collector.tiles().get("A", []))


@pytest.mark.parametrize(
    ("kinds", "kept"),
    [
        ("hhhhhmm", "h0 h1 h2 m5"),
        ("mmhhhh", "h2 h3 h4 m0"),
        ("hhhhhh", "h0 h1 h2 h3"),
        ("mmmmmmh", "h6 m0 m1 m2"),
        ("mmmmm", "m0 m1 m2 m3"),
        ("ppppppp", "p0 p1 p2 p3"),
        ("phpp", "h1 p0 p2 p3"),
        ("hpm", "h0 m2 p1"),
        ("", ""),
    ],
)
def test_collector_keeps_three_hits_and_a_miss_and_fills_up(kinds: str, kept: str) -> None:
    assert offered(kinds) == kept


def test_collector_obeys_its_numbers_and_keeps_classes_apart() -> None:
    assert offered("hhmmpp", hits_per_class=1, misses_per_class=2, plain=1) == "h0 m2 m3"
    collector = SheetCollector(["A", "B", "C"])
    collector.offer(2, tile("c"))
    collector.offer(0, tile("a"))
    assert {name: [t.image_id for t in row] for name, row in collector.tiles().items()} == {"A": ["a"], "C": ["c"]}


def test_collector_holds_few_tiles_and_no_batch() -> None:
    collector = SheetCollector(["A"])
    batch = np.ones((200, SIZE, SIZE))
    for i in range(200):
        hit = (True, False, None)[i % 3]
        assert collector.wants(0, hit) is (i < 12)
        collector.offer(0, tile(str(i), hit, image=batch[i], heat=batch[i]))
    batch[:] = 0
    for kept in collector.tiles()["A"]:
        assert kept.image.base is None
        assert kept.image.dtype == np.float32
        assert kept.image.min() == 1


def test_image_and_map_lie_the_right_way_up(tmp_path: Path) -> None:
    heat = np.zeros((SIZE, SIZE))
    heat[4:12, 20:28] = 1.0
    image = np.zeros((SIZE, SIZE))
    image[20:28, 4:12] = 1.0
    figure = draw({"A": [tile(box=None, hit=None, image=image, heat=heat)]})
    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3].astype(int)
    _, coloured = pictures(figure)
    place = coloured.get_window_extent()

    def at(x: float, y: float) -> list[int]:
        row = pixels.shape[0] - (place.y1 - y / SIZE * place.height)
        return pixels[round(row), round(place.x0 + x / SIZE * place.width)].tolist()

    red, white, black = at(24, 8), at(8, 24), at(24, 24)
    assert red[0] > 150 > 60 > max(red[1:])
    assert min(white) > 250
    assert max(black) < 5
