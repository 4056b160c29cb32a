from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from PIL import Image

from tests.reporting.rated_runs import CLASSES, HOSTILE, Shown, write_run
from xaibench.errors import NotApplicableError, UsageError
from xaibench.progress import Progress
from xaibench.reporting.figures.contact_sheet import overlay
from xaibench.studies.gcm_paper import paper_figures

IMAGES = [(f"i{i:02d}", f"p{i}", CLASSES[1 + i // 10]) for i in range(20)]
"""Ten of each class with boxes; those with an odd number are hits."""


@pytest.fixture
def shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shown:
    plain = [f"n{i}" for i in range(6)]
    run = write_run(tmp_path / "run", IMAGES, unboxed=plain)
    made = Shown(run, [*(image for image, _, _ in IMAGES), *plain])
    monkeypatch.setattr(paper_figures, "reopen", lambda *_, **__: made)
    return made


def drawn(shown: Shown, monkeypatch: pytest.MonkeyPatch, **options: Any) -> dict[str, Figure]:
    figures: dict[str, Figure] = {}

    def keep(figure: Figure, stem: Path, _: Any) -> list[Path]:
        figures[stem.name] = figure
        return []

    monkeypatch.setattr(paper_figures, "_write", keep)
    paper_figures.paper_figures(shown.run, shown.run.directory or Path(), **options)
    return figures


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.texts if text.get_text()]


def pictures(figure: Figure) -> list[Axes]:
    return [axes for axes in figure.axes if not axes.axison]


def test_the_figures_are_numbered_as_in_the_paper_and_named_in_ascii(shown: Shown, tmp_path: Path) -> None:
    written = paper_figures.paper_figures(shown.run, tmp_path / "deep" / "figures")
    stems = ["figure-5-ccm-cwm", "figure-6-script-b-cardio-megaly", "figure-7-class", "figure-8-no-finding"]
    assert [path.name for path in written] == [f"{stem}.{kind}" for stem in stems for kind in ("png", "pdf")]
    assert all(path.is_file() for path in written)


def test_three_hits_and_one_miss_in_boxes_then_four_normal_images(
    shown: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = drawn(shown, monkeypatch)
    for stem, first, last in (("figure-6-script-b-cardio-megaly", 0, 10), ("figure-7-class", 10, 20)):
        found = texts(figures[stem])
        assert [word for word in found if word in ("hit", "miss")] == ["hit", "hit", "hit", "miss"]
        numbers = [int(word[1:]) for word in found if word.startswith("i")]
        assert all(first <= number < last for number in numbers)
        assert [number % 2 for number in numbers] == [1, 1, 1, 0]
        for axes in pictures(figures[stem]):
            (box,) = (patch for patch in axes.patches if isinstance(patch, Rectangle))
            assert (box.get_x(), box.get_y(), box.get_width(), box.get_height()) == (4.0, 4.5, 8.0, 7.5)
    normal = figures["figure-8-no-finding"]
    assert len(pictures(normal)) == 4
    assert len({word for word in texts(normal) if word.startswith("n")}) == 4
    assert not any(axes.patches for axes in pictures(normal))


def test_the_draw_is_seeded(shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    def shown_images(seed: int) -> list[str]:
        figures = drawn(shown, monkeypatch, seed=seed)
        return [word for figure in figures.values() for word in texts(figure) if word[0] in "in" and word[1:].isdigit()]

    assert shown_images(0) == shown_images(0)
    assert shown_images(0) != shown_images(1)


def test_the_colours_are_those_of_the_overlay_on_the_scale_that_the_bar_shows(
    shown: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = drawn(shown, monkeypatch)
    (bar,) = (axes for axes in figures["figure-7-class"].axes if axes.axison)
    assert [label.get_text() for label in bar.get_yticklabels()] == ["-2", "0", "+2"]
    picture = pictures(figures["figure-7-class"])[0].images[0].get_array()
    np.testing.assert_allclose(picture[7, 7], overlay(np.full((1, 1), 0.5), np.full((1, 1), 2.0), 2.0)[0, 0])
    image = drawn(shown, monkeypatch, scale="image")
    (bar,) = (axes for axes in image["figure-7-class"].axes if axes.axison)
    assert [label.get_text() for label in bar.get_yticklabels()] == ["-1", "0", "+1"]
    assert "share" in bar.get_ylabel()


def test_figure_5_shows_the_ccm_in_grey_beside_the_coloured_cwm(shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    figure = drawn(shown, monkeypatch)["figure-5-ccm-cwm"]
    assert {"input", "(a) CCM", "(b) CWM over the input"} <= set(texts(figure))
    plain, ccm, cwm = (axes.images[0].get_array() for axes in pictures(figure))
    np.testing.assert_allclose(plain, 0.5)
    # the map's values 0, 2 and -8 on a grey scale from -8 to 8
    assert [round(float(ccm[y, x, 0]), 4) for y, x in ((12, 2), (7, 7), (0, 0))] == [0.5, 0.625, 0.0]
    assert np.ptp(ccm, axis=2).max() == 0
    assert np.ptp(cwm[7, 7]) > 0.5
    assert len([axes for axes in figure.axes if axes.axison]) == 2


def test_without_ccm_figure_5_is_left_out_and_said(shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    show = shown.show

    def refuse(pairs: Any, explainers: Any, sheet: Any, **more: Any) -> None:
        if "ccm" in explainers:
            raise NotApplicableError("no such map")
        show(pairs, explainers, sheet, **more)

    monkeypatch.setattr(shown, "show", refuse)
    said: list[str] = []
    figures = drawn(shown, monkeypatch, progress=Progress(say=said.append))
    assert "figure-5-ccm-cwm" not in figures
    assert said == ["figure 5 left out: no such map"]
    assert len(figures) == 3


def test_ratings_decide_what_a_hit_is(shown: Shown, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rows = [f'{image},"{name.replace(chr(34), chr(34) * 2)}",cwm,ann,{"hit" if i % 10 == 4 else "miss"}'
            for i, (image, _, name) in enumerate(IMAGES)]  # fmt: skip
    path = tmp_path / "ann.csv"
    path.write_text("\n".join(["image,class,explainer,rater,rating", *rows]), encoding="utf-8")
    found = texts(drawn(shown, monkeypatch, ratings=[path])["figure-7-class"])
    assert [word for word in found if word in ("hit", "miss")] == ["hit", "miss", "miss", "miss"]
    assert "i14" in found
    assert any("marked by 1 rater" in word for word in found)


def test_files_are_ready_for_print_and_the_same_every_time(shown: Shown, tmp_path: Path) -> None:
    first = paper_figures.paper_figures(shown.run, tmp_path / "a")
    again = paper_figures.paper_figures(shown.run, tmp_path / "b")
    for one, other in zip(first, again, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name
    for path in first[1::2]:
        data = path.read_bytes()
        assert b"/FontFile2" in data
        assert b"/Type3" not in data
        assert b"CreationDate" not in data
    with Image.open(first[2]) as opened:
        assert opened.info["dpi"] == pytest.approx((300, 300), abs=0.1)
        assert 7 < opened.width / 300 < 7.6


def test_hostile_names_stay_inside_the_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = "a very long name " * 20
    images = [(f"{name}{long}", f"p{i}", CLASSES[1]) for i, name in enumerate(HOSTILE)]
    shown = Shown(write_run(tmp_path / "run", images), [image for image, _, _ in images])
    monkeypatch.setattr(paper_figures, "reopen", lambda *_, **__: shown)
    for figure in drawn(shown, monkeypatch).values():
        figure.canvas.draw()
        for text in figure.findobj(Text):
            if text.get_text() and text.get_visible():
                box = text.get_window_extent()
                assert box.x0 >= 0, text.get_text()
                assert box.x1 <= figure.bbox.width + 1, text.get_text()
                assert "\n" not in text.get_text()


def test_nothing_to_show_is_one_line(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [("a", "p", CLASSES[1])])
    with pytest.raises(UsageError, match="Did you mean 'cwm'"):
        paper_figures.paper_figures(run, tmp_path, explainer="cvm")
    undefined = write_run(tmp_path / "undefined", [("a", "p", CLASSES[1])], hits=lambda _: float("nan"))
    with pytest.raises(UsageError, match="no image to show"):
        paper_figures.paper_figures(undefined, tmp_path)
