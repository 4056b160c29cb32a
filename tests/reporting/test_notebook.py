"""What a notebook shows."""

from __future__ import annotations

import numpy as np
import pytest

from tests.reporting.runs import full_run
from xaibench.errors import UsageError
from xaibench.reporting.notebook import overlay
from xaibench.types import Frame, Region


def test_a_run_shows_its_tables_as_html_that_loads_nothing() -> None:
    run = full_run()
    html = run._repr_html_()
    assert html.startswith("<pre style=")
    assert run.explainers[0] in html
    assert run.benchmark.name in html
    assert "http" not in html
    assert "<script" not in html
    assert "style=" in html.partition("<code>")[2]  # in colour


def test_overlay_known_answers() -> None:
    heat = np.zeros((8, 8))
    heat[2, 3], heat[6, 6] = 2.0, -2.0
    region = Region(np.array([[0, 0, 2, 2]]), Frame(4, 4))
    picture = np.asarray(overlay(np.full((1, 8, 8), 0.5), heat, region)).astype(int)
    assert picture.shape == (8, 8, 3)
    assert picture[2, 2, 0] == picture[2, 2, 1] == picture[2, 2, 2]  # nothing there: the image's grey
    assert picture[2, 3, 0] > picture[2, 3, 2]
    assert picture[6, 6, 1] > picture[6, 6, 0]
    for place in ((0, 0), (0, 3), (3, 0), (3, 3)):
        assert picture[place].tolist() == [255, 200, 0]
    assert picture[4, 4].tolist() != [255, 200, 0]
    blank = np.asarray(overlay(np.full((3, 8, 8), 0.5), np.full((8, 8), np.nan)))
    assert len(np.unique(blank)) == 1


def test_shapes_that_do_not_belong_together() -> None:
    with pytest.raises(UsageError, match=r"an image of shape \(1, 8, 8\) and a map of shape \(4, 4\)"):
        overlay(np.zeros((1, 8, 8)), np.zeros((4, 4)))
