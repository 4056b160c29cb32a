from __future__ import annotations

import base64
import csv
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.reporting.rated_runs import CLASSES, HOSTILE, SIZE, Shown, write_run
from xaibench.errors import UsageError
from xaibench.reporting.figures.contact_sheet import overlay
from xaibench.studies.gcm_paper.ratings import COLUMNS, Item, rating_items, write_folder, write_page


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, str] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags:
            key = self.tags[-1][1].get("id") or self.tags[-1][0]
            self.texts[key] = self.texts.get(key, "") + data


@pytest.fixture
def shown(tmp_path: Path) -> Shown:
    images = [(name, f"p{i}", CLASSES[1 + i % 2]) for i, name in enumerate(HOSTILE)]
    return Shown(write_run(tmp_path / "run", images, explainers=("cwm", "ccm")), HOSTILE)


def page(shown: Shown, tmp_path: Path, **options: Any) -> tuple[str, _Tags, dict[str, Any]]:
    path = tmp_path / "pages" / "rate.html"
    write_page(shown, rating_items(shown.run, **options), path)
    text = path.read_text(encoding="utf-8")
    tags = _Tags()
    tags.feed(text)
    return text, tags, json.loads(tags.texts["data"])


def test_every_map_comes_once_in_an_order_that_the_seed_decides(shown: Shown) -> None:
    items = rating_items(shown.run)
    every = [Item(name, CLASSES[1 + i % 2], e) for i, name in enumerate(HOSTILE) for e in ("cwm", "ccm")]
    assert sorted(items) == sorted(every)
    assert items == rating_items(shown.run)
    assert items != rating_items(shown.run, seed=1)
    assert items != sorted(items)
    assert {item.explainer for item in rating_items(shown.run, ["random"])} == {"random"}


def test_hostile_names_stay_text(shown: Shown, tmp_path: Path) -> None:
    text, tags, data = page(shown, tmp_path)
    names = [tag for tag, _ in tags.tags]
    assert names.count("script") == 2
    assert text.count("<script") == text.count("</script") == 2
    assert not [attrs for _, attrs in tags.tags if any(name.startswith("on") for name in attrs)]
    assert "<b>" not in text
    assert {item["image"] for item in data["items"]} == set(HOSTILE)
    assert {item["class"] for item in data["items"]} == set(CLASSES[1:])


def test_a_hostile_benchmark_is_escaped(shown: Shown, tmp_path: Path) -> None:
    title = "<img src=x onerror=alert(1)> \"'& 肺"
    shown.run.benchmark.__dict__["title"] = title
    text, tags, _ = page(shown, tmp_path)
    assert "<img src=x" not in text
    assert tags.texts["title"].strip() == f"Rating maps: {title}"


def test_nothing_comes_from_outside(shown: Shown, tmp_path: Path) -> None:
    text, tags, _ = page(shown, tmp_path)
    assert not re.search(r"(https?:)?//[a-z]", re.sub(r"base64,[A-Za-z0-9+/=]+", "", text))
    for _, attrs in tags.tags:
        for name in ("src", "href"):
            assert (attrs.get(name) or "data:").startswith("data:")
    (policy,) = [a["content"] for t, a in tags.tags if t == "meta" and a.get("http-equiv") == "Content-Security-Policy"]
    assert (policy or "").startswith("default-src 'none'; img-src data:;")


def test_the_rater_sees_no_name_and_no_score(shown: Shown, tmp_path: Path) -> None:
    text, _, data = page(shown, tmp_path)
    assert all(set(item) == {"image", "class", "explainer", "picture", "boxes"} for item in data["items"])
    body = re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
    assert not any(word in body for word in ("cwm", "ccm", "logit", "hit_rate", "気胸", "肺炎"))
    assert data["columns"] == list(COLUMNS)


def test_the_picture_is_the_overlay_with_full_red_at_the_map_s_largest_value(shown: Shown, tmp_path: Path) -> None:
    item = page(shown, tmp_path)[2]["items"][0]
    assert item["boxes"] == [[4.0, 4.5, 8.0, 7.5]]
    kind, _, encoded = item["picture"].partition(",")
    assert kind == "data:image/jpeg;base64"
    with Image.open(io.BytesIO(base64.b64decode(encoded))) as opened:
        picture = np.asarray(opened.convert("RGB")) / 255
    assert picture.shape == (SIZE, SIZE, 3)
    red = overlay(np.full((1, 1), 0.5), np.ones((1, 1)), 1.0)[0, 0]
    np.testing.assert_allclose(picture[7:9, 7:9].mean((0, 1)), red, atol=0.03)  # JPEG at quality 95
    np.testing.assert_allclose(picture[13, 13], 0.5, atol=0.03)


def test_the_same_run_makes_the_same_page_and_another_seed_another_place_to_keep_answers(
    shown: Shown, tmp_path: Path
) -> None:
    first, _, data = page(shown, tmp_path)
    assert page(shown, tmp_path)[0] == first
    assert page(shown, tmp_path, seed=2)[2]["key"] != data["key"]
    assert page(shown, tmp_path, explainers=["cwm"])[2]["key"] != data["key"]


def test_a_folder_of_pictures_and_a_csv_to_fill_in(shown: Shown, tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "rating"
    items = rating_items(shown.run, ["cwm"])
    write_folder(shown, items, folder)
    with (folder / "ratings.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["image"], row["class"], row["explainer"]) for row in rows] == [
        (item.image, item.class_name, item.explainer) for item in items
    ]
    assert {row["rating"] + row["rater"] for row in rows} == {""}
    assert sorted(path.name for path in folder.iterdir()) == [*(row["file"] for row in rows), "ratings.csv"]
    with Image.open(folder / "0001.png") as opened:
        picture = np.asarray(opened.convert("RGB")).astype(int)
    scale = picture.shape[0] / SIZE
    edge = picture[round(8 * scale), round(4 * scale)]  # the box's left side
    assert edge[2] > 200 > 120 > edge[0]
    with pytest.raises(UsageError, match="may hold ratings"):
        write_folder(shown, items, folder)


def test_nothing_to_rate_and_unknown_explainers_are_one_line(shown: Shown, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Did you mean 'cwm'"):
        rating_items(shown.run, ["cvm"])
    empty = write_run(tmp_path / "empty", [], unboxed=["a.png"])
    with pytest.raises(UsageError, match="nothing to rate"):
        rating_items(empty)
