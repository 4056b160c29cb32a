from __future__ import annotations

import base64
import io
import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from sklearn.metrics import roc_curve

from tests.reporting import compared, report_runs, runs
from tests.reporting.report_runs import BASELINES, CLASSES, EXPLAINERS, SIZE, Shown, heat, sample, write_run
from xaibench import registry
from xaibench.errors import UsageError, WeightsError
from xaibench.explainers.base import upsample
from xaibench.findings import Note
from xaibench.metrics.localization import hit_rate, pointing_game, visible_in_box
from xaibench.reporting.html import curves, words, write_report
from xaibench.reporting.html.data import Report, embed_json, metric_table, score_rows
from xaibench.reporting.html.gallery import THRESHOLDS, Gallery, choose_pairs, encode_map, encode_picture
from xaibench.reporting.html.tolerance import TOLERANCES
from xaibench.reporting.tables.run import run_tables
from xaibench.results.comparison.compare import compare
from xaibench.results.marks import marks
from xaibench.results.run import MACRO, Run
from xaibench.statistics import rank_stability
from xaibench.types import Frame

METHODS = (*EXPLAINERS, *BASELINES)


class _Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, str] = {}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        key = (self.tags[-1][1].get("id") or self.tags[-1][0]) if self.tags else ""
        self.texts[key] = self.texts.get(key, "") + data


@pytest.fixture
def made(tmp_path: Path) -> tuple[Run, Shown]:
    return write_run(tmp_path / "run")


def written(run: Run, shown: Shown, path: Path, **options: Any) -> _Page:
    write_report([run], path, opened=lambda _: shown, **options)  # type: ignore[arg-type,return-value]
    return _Page(path.read_text(encoding="utf-8"))


def filled(run: Run, shown: Shown) -> tuple[Report, Gallery]:
    report = Report([run])
    gallery = Gallery(report, choose_pairs(report, 100))
    gallery.fill(0, shown)  # type: ignore[arg-type]
    return report, gallery


def test_json_survives_the_page_and_cannot_end_its_script() -> None:
    value = {"a": ["</script><!--", "\u2028\u2029 & 'x'", "肺\N{LUNGS}"]}
    text = str(embed_json(value))
    assert json.loads(text) == value
    assert not set(text) & set("<>&'\u2028\u2029")
    with pytest.raises(ValueError, match="JSON"):
        embed_json(float("nan"))


def test_roc_points_are_scikit_learns_with_ties_and_weights() -> None:
    draw = np.random.default_rng(1)
    score, label = np.round(draw.random(60), 1), draw.random(60) > 0.6
    weights = draw.integers(0, 4, size=(2, 60)).astype(float)
    false, true = curves.roc_points(score, label, weights)
    for row in range(2):
        x, y, _ = roc_curve(label, score, sample_weight=weights[row], drop_intermediate=False)
        grid = np.linspace(0, 1, 33)
        np.testing.assert_allclose(np.interp(grid, false[row], true[row]), np.interp(grid, x, y), atol=1e-12)


def test_a_roc_curve_lies_in_its_band_and_ends_in_the_corners(made: tuple[Run, Shown]) -> None:
    found = curves.roc_curves(Report([made[0]]))
    assert [curve["class"] for curve in found] == [0, 1, 2, 3]
    for curve in found:
        assert (curve["x"][0], curve["y"][0], curve["x"][-1], curve["y"][-1]) == (0.0, 0.0, 1.0, 1.0)
        low, high = np.array(curve["low"]), np.array(curve["high"])
        assert len(low) == 101
        assert (low <= high).all()


@pytest.mark.parametrize("side", [4, 8, 64])
def test_a_small_map_comes_back_within_five_percent(side: int) -> None:
    torch.manual_seed(side)
    coarse = torch.randn(1, side, side) * 7
    full = upsample(coarse, Frame.square(64))[0]
    text, largest = encode_map(full, Frame.square(64))
    small = np.asarray(Image.open(io.BytesIO(base64.b64decode(text))), dtype=np.float32)
    assert largest == pytest.approx(float(full.abs().max()))
    back = upsample(torch.from_numpy((small - 128) / 127 * largest)[None], Frame.square(64))[0]
    assert float((back - full).abs().max()) < 0.06 * largest
    assert small.shape[0] <= 64


def test_a_map_of_zeros_and_one_without_numbers_are_blank() -> None:
    for value in (0.0, float("nan")):
        text, largest = encode_map(torch.full((16, 16), value), Frame.square(16))
        assert largest == 0
        assert (np.asarray(Image.open(io.BytesIO(base64.b64decode(text)))) == 128).all()


def test_thumbnails_are_small_webp() -> None:
    picture = Image.open(io.BytesIO(base64.b64decode(encode_picture(np.random.default_rng(0).random((512, 512))))))
    assert (picture.format, picture.size) == ("WEBP", (256, 256))


def test_the_page_judges_hits_as_the_metrics_do(made: tuple[Run, Shown]) -> None:
    run, shown = made
    report, gallery = filled(run, shown)
    frame, checked = report.benchmark.frame, 0
    for item in gallery.page()["items"]:
        if item["class"] == 0:
            assert all(cell[3] is None and cell[5] is None for cell in item["cells"])
            continue
        mask = torch.from_numpy(sample(item["id"], item["class"]).regions[item["class"]].rasterize(frame))[None]
        for explainer, (_, largest, top, distance, _, visible, _) in zip(METHODS, item["cells"], strict=True):
            maps = upsample(heat(explainer, item["id"])[None], frame)
            if explainer == EXPLAINERS[2]:
                assert distance is None
                assert visible is None
                continue
            assert largest * top == pytest.approx(float(maps.max()), rel=1e-3)
            assert (distance == 0) == (float(hit_rate(maps, mask)) >= 0.5)
            for tolerance in TOLERANCES[1:]:
                near = float(pointing_game(maps, mask, tolerance=tolerance)) >= 0.5
                assert near == (distance == 0 or distance < tolerance)
            shares = np.frombuffer(base64.b64decode(visible), "<u2") / 65535
            expected = visible_in_box(maps, mask, thresholds=THRESHOLDS)[0].numpy()
            np.testing.assert_allclose(shares, expected, atol=1e-5)
            checked += 1
    assert checked == 12 * 4


def test_tolerance_curves_are_mean_pointing_games(made: tuple[Run, Shown]) -> None:
    run, shown = made
    report, gallery = filled(run, shown)
    lines = {(line["m"], line["class"]): line for line in gallery.tolerance_curves()}
    frame = report.benchmark.frame
    for k, explainer in enumerate(METHODS):
        if explainer == EXPLAINERS[2]:
            continue
        for target in (1, 2, 3):
            own = [image for index, image in enumerate(shown.ids) if index % 4 == target]
            maps = torch.stack([upsample(heat(explainer, image)[None], frame)[0] for image in own])
            mask = sample("x", target).regions[target].rasterize(frame)
            masks = torch.from_numpy(np.stack([mask] * len(own)))
            for step in (0, 4, 20):
                expected = pointing_game(maps, masks, tolerance=TOLERANCES[step]).mean()
                assert lines[k, target]["y"][step] == pytest.approx(float(expected), abs=1e-4)
        macro = np.mean([lines[k, target]["y"] for target in (1, 2, 3)], axis=0)
        np.testing.assert_allclose(lines[k, len(CLASSES)]["y"], macro, atol=1e-4)
    chance = lines[0, 1]["chance"]
    assert chance[0] == pytest.approx(mask.mean(), abs=1e-4)
    assert chance == sorted(chance)


def test_the_gallery_is_capped_mixed_and_drawn_by_the_seed(tmp_path: Path) -> None:
    report = Report([write_run(tmp_path / "run", 60)[0]])
    pairs = choose_pairs(report, 20)
    assert len({image for image, _ in pairs}) == 20
    assert sum(name == CLASSES[0] for _, name in pairs) == 3
    assert pairs == choose_pairs(report, 20)
    assert pairs != choose_pairs(report, 20, seed=1)
    assert len(choose_pairs(report, 1000)) == 60


def test_names_are_text_wherever_they_stand(made: tuple[Run, Shown], tmp_path: Path) -> None:
    page = written(*made, tmp_path / "report.html")
    assert [attrs.get("id") for tag, attrs in page.tags if tag == "script"] == ["data", "gallery-data", None]
    assert not [tag for tag, _ in page.tags if tag in ("img", "b", "iframe", "link", "object", "base")]
    assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on")]
    data, gallery = json.loads(page.texts["data"]), json.loads(page.texts["gallery-data"])
    assert data["classes"] == list(CLASSES)
    assert [method["name"] for method in data["methods"]] == list(METHODS)
    assert {item["id"] for item in gallery["items"]} == set(report_runs.image_names(16))
    assert page.texts["title"].split("\n")[0] == "<b>Toy</b> & 肺 - xaibench report"


def test_nothing_is_loaded_from_elsewhere(made: tuple[Run, Shown], tmp_path: Path) -> None:
    page = written(*made, tmp_path / "report.html")
    for tag, attrs in page.tags:
        for name in ("src", "href", "srcset", "data", "action"):
            assert (attrs.get(name) or "#").startswith("#"), (tag, attrs)
    policy = next(attrs["content"] for tag, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_the_same_run_gives_the_same_bytes(made: tuple[Run, Shown], tmp_path: Path) -> None:
    for name in ("a.html", "b.html"):
        written(*made, tmp_path / name)
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_the_summary_names_the_leader_the_gap_and_the_baseline(made: tuple[Run, Shown]) -> None:
    said = dict(words.summary(Report([made[0]])))
    assert "mean ROC-AUC of 0.700 [0.650, 0.750]" in said["Classification"]
    assert f"the hardest class is {CLASSES[3]} (0.750)" in said["Classification"]
    leader = said["Hit rate (peak in the region)"]
    assert leader.startswith(f"{EXPLAINERS[1]} leads with 0.80 [0.75, 0.85]; a map of noise gets 0.10.")
    assert "It is 0.70 above random" in leader
    assert f"Next is {EXPLAINERS[3]} with 0.50" in leader


def test_an_oracle_is_no_rival_in_the_summary() -> None:
    made = runs.full_run(explainers=("cwm",), baselines=("random", "oracle_prior_box"))
    scores = tuple(replace(s, value=0.99) if s.explainer == "oracle_prior_box" else s for s in made.scores)
    said = dict(words.summary(Report([replace(made, scores=scores)], runs.metrics())))
    text = said["Hit rate (peak in the region)"]
    assert "above random, the best baseline" in text
    assert "oracle" not in text
    assert "gained nothing" not in text


def test_the_doctors_findings_are_a_section_of_their_own(made: tuple[Run, Shown], tmp_path: Path) -> None:
    run, _ = made
    found = "warning: gradcam: class-blind maps <b>of</b> two classes. Use another layer"  # a word that alarms, too
    sick = replace(run, notes=(*run.notes, Note(f"doctor: {found}", "warning", "doctor")))
    report = Report([sick])
    assert words.doctor(report) == [found]
    assert not any("class-blind" in text for text in [*words.warnings(report), *words.audit(report)])
    two = Report([sick, replace(run, classifier="other")])
    assert words.doctor(two) == [f"gcm: {found}"]
    for subject, told in ((sick, True), (run, False)):
        page = tmp_path / "page.html"
        write_report([subject], page, images=0)
        text = page.read_text(encoding="utf-8")
        start = text.index('<section id="doctor"')
        section = text[start : text.index("</section>", start)]
        assert "Warnings of the doctor" in section
        assert ("class-blind maps &lt;b&gt;of&lt;/b&gt;" in section) == told
        assert ("Nothing found" in section) != told
        assert text.count("class-blind") == told


def test_warnings_tell_of_constant_maps_and_biased_choices(made: tuple[Run, Shown]) -> None:
    report = Report([made[0]])
    found = words.warnings(report)
    assert "biased: the epoch was chosen on the test images" in found
    assert f"{EXPLAINERS[2]}: 4 of 40 maps are constant" in found
    assert words.audit(report) == ["test: <img src=x onerror=alert(1)> of patients"]


def test_terminal_and_page_show_the_same_headline_columns() -> None:
    """Of pooled metrics both columns, tuned and oracle, as of curves the headline's point."""
    names = ("hit_rate", "visible_in_box", "iou_best", "max_box_acc")
    declared = {name: registry.get("metrics", name).load() for name in names}
    keys = [key for metric in declared.values() for key in metric.headline_scores]
    assert len(keys) == 6
    scores = [
        runs.score(explainer, key, class_name, 0.5)
        for key in (*keys, "visible_in_box@0.25")
        for explainer in ("cwm", "ccm")
        for class_name in ("Effusion", MACRO)
    ]
    run = Run(runs.benchmark(["Effusion", "Mass"], names), "gcm", ("cwm", "ccm"), (), tuple(scores))
    report = Report([run])
    shown = [metric["key"] for metric in metric_table(report) if metric["headline"]]
    assert shown == keys
    titles = [metric["title"] for metric in metric_table(report) if metric["headline"]]
    assert len(set(titles)) == len(titles)
    console = Console(width=400, file=io.StringIO(), force_terminal=False)
    tables = run_tables(run, report.metrics, width=400, panel=False)
    for part in tables:
        console.print(part, crop=False)
    (row, *_) = [line for line in console.file.getvalue().splitlines() if line.strip().startswith("cwm")]  # type: ignore[attr-defined]
    assert row.count("0.50") == len(shown)


def test_ranks_and_how_they_move_are_those_of_the_statistics(made: tuple[Run, Shown]) -> None:
    report = Report([made[0]])
    found = curves.rankings(report)
    assert [one["metric"] for one in found] == ["hit_rate", "pointing_game", "energy", "visible_in_box@0.50"]
    table = made[0].images()
    for one in found:
        rows = table[table["metric"] == one["metric"]].astype(
            {"class": str, "image": str, "patient": str, "explainer": str}
        )
        wide = rows.pivot(index=["class", "image", "patient"], columns="explainer", values="value")
        direct = rank_stability(
            {name: wide[name].to_numpy() for name in METHODS},
            wide.index.get_level_values("patient").tolist(),
            wide.index.get_level_values("class").tolist(),
        )
        assert [METHODS[k] for k in one["methods"]] == list(direct.methods)
        assert (one["ranks"], one["low"], one["high"]) == (list(direct.ranks), list(direct.low), list(direct.high))
        assert one["first"] == pytest.approx(direct.first, abs=1e-4)
    renamed = replace(made[0], benchmark=made[0].benchmark.model_copy(update={"primary": "energy"}))
    assert curves.rankings(Report([renamed]))[0]["metric"] == "energy", "the primary metric comes first"


def test_costs_are_milliseconds_of_a_map(made: tuple[Run, Shown]) -> None:
    each, forward = curves.costs(Report([made[0]]))
    assert forward == [62.5]
    assert each[0] == round(10 / 12, 4)  # 12 pairs with a box: the clock runs for the maps that are scored


def test_runs_of_different_protocols_or_images_are_refused(made: tuple[Run, Shown], tmp_path: Path) -> None:
    run = made[0]
    other = replace(run, benchmark=run.benchmark.model_copy(update={"input_size": 128}))
    with pytest.raises(UsageError, match="differ in input_size"):
        write_report([run, other], tmp_path / "x.html")
    with pytest.raises(UsageError, match="not of the same test images"):
        Report([replace(run, record={"data": {"test": "a"}}), replace(run, record={"data": {"test": "b"}})])


def test_without_a_gallery_no_run_is_reopened(made: tuple[Run, Shown], tmp_path: Path) -> None:
    def never(_: Run) -> Any:
        raise AssertionError

    found = write_report([made[0]], tmp_path / "x.html", images=0, opened=never)
    assert found["pairs"] == 0
    assert "gallery-data" not in (tmp_path / "x.html").read_text(encoding="utf-8")


def test_weights_that_are_gone_are_an_error_with_a_way_out(made: tuple[Run, Shown], tmp_path: Path) -> None:
    def gone(_: Run) -> Any:
        raise WeightsError("the weights are not in the cache")

    with pytest.raises(WeightsError, match=r"not in the cache\. --images 0 makes the report without a gallery"):
        write_report([made[0]], tmp_path / "x.html", opened=gone)
    assert not (tmp_path / "x.html").exists()


def test_two_runs_share_a_report_and_label_their_explainers(made: tuple[Run, Shown], tmp_path: Path) -> None:
    run, shown = made
    second = replace(run, classifier="densenet121")
    report = Report([run, second])
    labels = [method.label for method in report.methods]
    assert labels[0] == "gcm · cwm"
    assert f"densenet121 · {EXPLAINERS[1]}" in labels
    assert [method.baseline for method in report.methods] == [False] * 8 + [True] * 2
    found = write_report([run, second], tmp_path / "x.html", opened=lambda _: shown)  # type: ignore[arg-type,return-value]
    assert (found["methods"], found["pairs"]) == (10, 16)
    assert SIZE == 64


def test_the_page_gives_the_comparisons_verdict_on_one_pair_of_explainers(tmp_path: Path) -> None:
    """Hits of several pairs a patient, of which another test would say something else: one p-value alone."""
    draw = np.random.default_rng(3)
    for seed in range(4):
        values = {
            name: {"hit_rate": (draw.random(12) < rate).astype(float)}
            for name, rate in {"a": 0.9, "b": 0.45 + 0.1 * seed, "prior_box": 0.2}.items()
        }
        run = compared.write_run(
            tmp_path / str(seed), values, explainers=("a", "b"), spec=compared.protocol(["hit_rate"])
        )
        (table,) = compare(run, metrics=compared.metrics()).tables
        (pair,) = [p for p in table.pairs if {p.first, p.second} == {"gcm:a", "gcm:b"}]
        text = " ".join(text for _, text in words.summary(Report([run], compared.metrics())))
        assert ("p < 0.001" if pair.p_holm < 0.001 else f"p = {pair.p_holm:.3f}") in text
        assert ("more than chance would make" in text) == (pair.p_holm <= 0.05)
        assert "Holm over 3 comparisons" in text


def test_the_summary_speaks_of_the_primary_metric_first(made: tuple[Run, Shown]) -> None:
    named = made[0].benchmark.model_copy(update={"primary": "energy"})
    said = words.summary(Report([replace(made[0], benchmark=named)]))
    assert [subject for subject, _ in said][1] == "Energy in the region, the primary metric"
    assert "Its weakest class is" in said[1][1]
    assert not any("Its weakest class is" in text for _, text in said[2:])


def test_the_leaderboards_rows_tell_of_defined_maps_and_of_fewer_classes(made: tuple[Run, Shown]) -> None:
    change = {"nan": 3, "defined": 0.75, "classes": 2}
    scores = [replace(s, **change) if s.metric == "energy" and s.explainer == "cwm" else s for s in made[0].scores]
    report = Report([replace(made[0], scores=tuple(scores))])
    metrics = metric_table(report)
    (row, *_) = [r for r in score_rows(report, metrics) if r[0] == 0 and metrics[r[2]]["key"] == "energy"]
    assert row[10:] == [3, 0, 0.75, 2]


def test_the_pages_marks_are_those_of_the_tables(tmp_path: Path) -> None:
    values = compared.random_values(1, ["cwm"], 80, level=0.5) | compared.random_values(2, ["cam", "prior_box"], 80)
    run = compared.write_run(tmp_path / "A", values, explainers=("cwm", "cam"), images=80)
    report = Report([run], compared.metrics())
    metrics = metric_table(report)
    shown = {
        (report.methods[row[0]].explainer, metrics[row[2]]["key"], [*report.classes, MACRO][row[3]])
        for row in score_rows(report, metrics)
        if row[11]
    }
    assert shown == marks(run, compared.metrics())
    assert shown
    assert any(line.startswith("▲: better than chance") and "prior_box" in line for line in words.marks(report))
    assert words.marks(Report([replace(run, directory=None)], compared.metrics())) == [
        "no ▲: the scores of the images were not saved."
    ]
