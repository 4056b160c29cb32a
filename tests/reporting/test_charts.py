"""Forest plots and curves: what is drawn equals what the runs say, and names that attack are text."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from tests.reporting import compared, runs
from tests.reporting.report_runs import CLASSES, EXPLAINERS, LONG, Shown, write_run
from xaibench.benchmark import Benchmark
from xaibench.errors import UsageError
from xaibench.reporting.figures.charts import COLOURS, GREY, looks, save
from xaibench.reporting.figures.contact_sheet import overlay
from xaibench.reporting.figures.curves import roc_figure, threshold_figures, tolerance_figure
from xaibench.reporting.figures.files import write_charts
from xaibench.reporting.figures.forest import forest_plots
from xaibench.reporting.html.curves import roc_curves
from xaibench.reporting.html.data import Report
from xaibench.reporting.html.tolerance import TOLERANCES, tolerance_curves
from xaibench.results.run import MACRO, Run

NASTY = ("$x^{$", "<script>alert('e')</script>", LONG, "気胸 $\\frac$")


@pytest.fixture
def report() -> Report:
    return Report([runs.full_run()], runs.metrics())


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Shown]:
    return write_run(tmp_path_factory.mktemp("charts") / "run")


def panels(figure: Figure) -> list[Axes]:
    return list(figure.axes)


def drawn(axes: Axes, gid: str) -> list[Any]:
    return [line for line in axes.lines if line.get_gid() == gid]


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.texts if text.get_text()]


def test_a_forest_plot_draws_values_intervals_and_chance_as_scored(report: Report) -> None:
    (run,) = report.runs
    figures = forest_plots(report)
    assert list(figures) == [
        "forest-roc-auc", "forest-hit-rate", "forest-pointing-game", "forest-energy", "forest-iou-otsu",
        "forest-visible-in-box-0-50",
    ]  # fmt: skip
    figure = figures["forest-visible-in-box-0-50"]
    places = [MACRO, "Cardiomegaly", "Pneumothorax", "Effusion"]
    assert len(panels(figure)) == len(places)
    means = {s.explainer: s.value for s in run.select(metric="visible_in_box@0.50", class_name=MACRO)}
    order = [
        *sorted(run.explainers, key=lambda name: -(means[name] or 0)),
        *sorted(run.baselines, key=lambda name: -(means[name] or 0)),
    ]
    labels = [word for word in texts(figure) if word in order]
    assert labels == order * 2  # beside the mean and beside the row of classes
    for axes, place in zip(panels(figure), places, strict=True):
        points, bars = drawn(axes, "value"), drawn(axes, "interval")
        assert len(points) == len(bars) == len(order)
        for row, name in enumerate(order):
            (score,) = run.select(explainer=name, metric="visible_in_box@0.50", class_name=place)
            assert list(points[row].get_xdata()) == [score.value]
            assert list(bars[row].get_xdata()) == [score.low, score.high]
            assert list(points[row].get_ydata()) == [row]
            assert (points[row].get_color() == GREY) == (name in run.baselines)
        (chance,) = drawn(axes, "chance")
        assert list(chance.get_xdata()) == pytest.approx([0.1, 0.1])
        assert chance.get_linestyle() == "--"
        low, high = axes.get_xlim()
        assert low <= 0.1
        assert high <= 1.05


def test_a_forest_plot_is_filled_where_the_score_is_marked(tmp_path: Path) -> None:
    values = compared.random_values(1, ["cwm"], 80, level=0.5) | compared.random_values(2, ["cam", "prior_box"], 80)
    run = compared.write_run(tmp_path / "A", values, explainers=("cwm", "cam"), images=80)
    found = forest_plots(Report([run], compared.metrics()), metrics=["energy"])
    (axes, *_) = panels(found["forest-energy"])
    fills = [to_rgb(point.get_markerfacecolor()) for point in drawn(axes, "value")]
    assert fills == [to_rgb(COLOURS[0]), to_rgb("white"), to_rgb("white")]
    assert any("beats chance and prior_box" in text for text in texts(found["forest-energy"]))


def test_chance_is_a_tick_of_each_row_where_it_differs() -> None:
    made = runs.full_run(explainers=("cwm", "ccm"), baselines=())
    levels = {"cwm": 0.1, "ccm": 0.25}
    scores = [replace(s, chance=levels[s.explainer]) if s.explainer else s for s in made.scores]
    figure = forest_plots(Report([replace(made, scores=tuple(scores))], runs.metrics()), metrics=["energy"])
    axes = panels(figure["forest-energy"])[0]
    assert sorted(tick.get_xdata()[0] for tick in drawn(axes, "chance")) == [0.1, 0.25]
    for tick in drawn(axes, "chance"):
        middle = float(np.mean(tick.get_ydata()))
        value = next(point for point in drawn(axes, "value") if point.get_ydata()[0] == middle)
        own = next(
            s for s in scores if s.metric == "energy" and s.class_name == MACRO and s.value == value.get_xdata()[0]
        )
        assert tick.get_xdata()[0] == own.chance


def test_a_classifiers_forest_plot_has_a_row_for_each_class_and_a_panel_for_each_run(report: Report) -> None:
    (run,) = report.runs
    (axes,) = panels(forest_plots(report, metrics=["roc_auc"])["forest-roc-auc"])
    expected = [run.select(metric="roc_auc", class_name=name)[0].value for name in (*report.classes, MACRO)]
    assert [point.get_xdata()[0] for point in drawn(axes, "value")] == expected
    two = Report([run, replace(run, classifier="densenet121")], runs.metrics())
    figures = forest_plots(two)
    assert len(panels(figures["forest-roc-auc"])) == 2
    assert {"gcm · cwm", "densenet121 · cwm"} <= set(texts(figures["forest-hit-rate"]))


def test_undefined_scores_are_named_not_drawn(report: Report) -> None:
    (run,) = report.runs
    none = {"value": None, "low": None, "high": None}
    scores = tuple(replace(s, **none) if s.explainer == "ccm" else s for s in run.scores)
    figure = forest_plots(Report([replace(run, scores=scores)], runs.metrics()), metrics=["energy"])["forest-energy"]
    for axes in panels(figure):
        assert len(drawn(axes, "value")) == 4
        assert [text.get_text() for text in axes.texts] == ["undefined"]


def test_one_class_and_one_metric_can_be_asked_for(report: Report) -> None:
    figures = forest_plots(report, metrics=["energy"], classes=["Effusion"])
    assert list(figures) == ["forest-energy"]
    assert len(panels(figures["forest-energy"])) == 1
    with pytest.raises(UsageError, match="Did you mean 'energy'"):
        forest_plots(report, metrics=["enrgy"])
    with pytest.raises(UsageError, match="Did you mean 'Effusion'"):
        forest_plots(report, classes=["Efusion"])
    with pytest.raises(UsageError, match="Did you mean 'Effusion'"):
        roc_figure(report, classes=["Efusion"])


def test_curves_against_the_threshold_are_the_runs_scores_with_chance(report: Report) -> None:
    (run,) = report.runs
    chance = {"visible_in_box@0.25": 0.75, "visible_in_box@0.50": 0.5}
    scores = tuple(replace(s, chance=chance.get(s.metric, s.chance)) for s in run.scores)
    report = Report([replace(run, scores=scores)], runs.metrics())
    figures = threshold_figures(report)
    assert list(figures) == ["curve-visible-in-box"]
    for axes, place in zip(panels(figures["curve-visible-in-box"]), [MACRO, *report.boxed], strict=True):
        lines = {line.get_label(): line for line in drawn(axes, "curve")}
        assert list(lines) == [*run.explainers, *run.baselines]
        for name, line in lines.items():
            own = [s for s in scores if s.explainer == name and s.class_name == place and s.metric in chance]
            assert list(line.get_xdata()) == [0.25, 0.5]
            assert list(line.get_ydata()) == [score.value for score in own]
        (level,) = drawn(axes, "chance")
        assert list(level.get_ydata()) == [0.75, 0.5]
        bands = [band for band in axes.collections if band.get_gid() == "band"]
        assert len(bands) == len(run.explainers)
        edges = bands[0].get_paths()[0].vertices
        own = [s for s in scores if s.explainer == "cwm" and s.class_name == place and s.metric in chance]
        assert {(round(x, 6), round(y, 6)) for x, y in edges} == {
            (round(x, 6), round(end, 6)) for x, s in zip((0.25, 0.5), own, strict=True) for end in (s.low, s.high)
        }


def test_inside_is_drawn_against_outside_at_the_same_thresholds(report: Report) -> None:
    (run,) = report.runs
    scores = [*run.scores]
    for s in run.scores:
        if s.metric.startswith("visible_in_box") and s.value is not None:
            outside = s.value / 2 if s.metric.endswith("0.50") else s.value / 2 + 0.1
            scores.append(replace(s, metric=s.metric.replace("in_box", "outside"), value=outside, low=0.0, high=1.0))
    table = run.benchmark.model_dump()
    both = Benchmark.model_validate({**table, "metrics": [*table["metrics"], {"name": "visible_outside"}]})
    figures = threshold_figures(Report([replace(run, benchmark=both, scores=tuple(scores))], runs.metrics()))
    assert list(figures) == ["curve-inside-outside", "curve-visible-in-box", "curve-visible-outside"]
    for axes, place in zip(panels(figures["curve-inside-outside"]), [MACRO, *report.boxed], strict=True):
        lines = {line.get_label(): line for line in drawn(axes, "curve")}
        assert list(lines) == [*run.explainers, *run.baselines]
        for name, line in lines.items():
            own = {s.metric: s.value for s in scores if s.explainer == name and s.class_name == place}
            for metric, values in (("visible_outside", line.get_xdata()), ("visible_in_box", line.get_ydata())):
                assert list(values) == [own[f"{metric}@{at}"] for at in ("0.25", "0.50")]
        (level,) = drawn(axes, "chance")
        assert list(level.get_xdata()) == list(level.get_ydata()) == [0, 1]


def test_roc_curves_have_their_band_the_diagonal_and_the_runs_auc(saved: tuple[Run, Shown]) -> None:
    report = Report([saved[0]])
    found = {curve["class"]: curve for curve in roc_curves(report)}
    (figure,) = roc_figure(report).values()
    assert len(panels(figure)) == len(CLASSES)
    for place, axes in enumerate(panels(figure)):
        (line,) = drawn(axes, "curve")
        assert list(line.get_xdata()) == found[place]["x"]
        assert list(line.get_ydata()) == found[place]["y"]
        (diagonal,) = drawn(axes, "chance")
        assert (list(diagonal.get_xdata()), list(diagonal.get_ydata())) == ([0, 1], [0, 1])
        assert len(axes.collections) == 1
        score = report.runs[0].select(metric="roc_auc", class_name=CLASSES[place])[0]
        assert f"AUC {score.value:.3f} [{score.low:.3f}, {score.high:.3f}]" in texts(figure)


def test_two_runs_share_the_roc_panels(saved: tuple[Run, Shown]) -> None:
    report = Report([saved[0], replace(saved[0], classifier="other")])
    (figure,) = roc_figure(report, classes=[CLASSES[0]]).values()
    (axes,) = panels(figure)
    assert [line.get_label() for line in drawn(axes, "curve")] == ["gcm", "other"]
    assert len({line.get_color() for line in drawn(axes, "curve")}) == 2
    assert {"gcm", "other"} <= set(texts(figure))


def test_hit_rate_against_tolerance_is_drawn_from_maps_made_again(saved: tuple[Run, Shown]) -> None:
    run, shown = saved
    report = Report([run])
    table = run.images()[["image", "class"]].drop_duplicates().astype(str)
    curves = tolerance_curves(report, {0: shown}, set(table.itertuples(index=False, name=None)))  # type: ignore[dict-item]
    (figure,) = tolerance_figure(report, curves, len(table)).values()
    axes = panels(figure)[0]
    lines = {line.get_label(): line for line in drawn(axes, "curve")}
    assert EXPLAINERS[2] not in lines  # constant maps have no peak
    assert list(lines["cwm"].get_ydata()) == [1.0] * len(TOLERANCES)
    own = next(c for c in curves if report.methods[c["m"]].label == EXPLAINERS[1] and c["class"] == len(CLASSES))
    assert list(lines[EXPLAINERS[1]].get_ydata()) == own["y"]
    assert own["y"][0] == 0
    (chance,) = drawn(axes, "chance")
    assert list(chance.get_ydata()) == own["chance"]


def test_colours_and_dashes_tell_lines_apart() -> None:
    found = looks([False] * 30 + [True] * 4)
    assert len({(look.color, look.linestyle) for look in found}) == 34
    assert [look.color for look in found[:7]] == list(COLOURS)
    assert all(first.linestyle != second.linestyle for first, second in pairwise(found[:7]))
    assert {look.color for look in found[30:]} == {GREY}


@pytest.fixture
def nasty() -> Report:
    made = runs.full_run(classes=("No Finding", *NASTY), explainers=NASTY, baselines=("random",))
    return Report([replace(made, classifier=NASTY[0])], runs.metrics())


def _figures(report: Report) -> Iterator[Figure]:
    yield from forest_plots(report, metrics=["hit_rate", "roc_auc"]).values()
    yield from threshold_figures(report).values()


def test_names_that_attack_are_text_inside_the_figure(nasty: Report) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for figure in _figures(nasty):
            figure.canvas.draw()
            labels = [text for axes in figure.axes for text in (axes.xaxis.label, axes.yaxis.label, *axes.texts)]
            for text in (*figure.texts, *labels):
                if text.get_text():
                    box = text.get_window_extent()
                    assert box.x0 >= -1, text.get_text()
                    assert box.x1 <= figure.bbox.width + 1, text.get_text()
            assert NASTY[0] in " ".join(texts(figure))


def test_files_keep_text_as_text_and_are_the_same_every_time(nasty: Report, tmp_path: Path) -> None:
    figure = next(_figures(nasty))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first = save(figure, tmp_path / "a" / "chart", ("png", "pdf", "svg"))
        again = save(next(_figures(nasty)), tmp_path / "b" / "chart", ("png", "pdf", "svg"))
    assert [path.suffix for path in first] == [".png", ".pdf", ".svg"]
    for one, other in zip(first, again, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name
    with Image.open(first[0]) as opened:
        assert opened.width / 300 == pytest.approx(7.5, abs=0.01)
    pdf = first[1].read_bytes()
    assert b"/FontFile2" in pdf
    assert b"/Type3" not in pdf
    tree = ElementTree.parse(first[2])  # well formed: names are escaped
    words = {"".join(node.itertext()).strip() for node in tree.iter("{http://www.w3.org/2000/svg}text")}
    assert {NASTY[0], NASTY[1], "ROC-AUC (higher is better)"} <= words
    assert NASTY[3] in words  # whose letters the font lacks: its reader has them
    assert not list(tree.iter("{http://www.w3.org/2000/svg}script"))
    assert not re.search(r"https?://(?!www\.w3\.org|purl\.org|creativecommons|matplotlib)", first[2].read_text())
    assert NASTY[3] not in texts(figure)  # and the figure is as it was


def test_charts_of_a_run_are_written_and_named(saved: tuple[Run, Shown], tmp_path: Path) -> None:
    run, shown = saved
    kinds = ("forest", "roc", "curve", "tolerance")
    written = write_charts([run], tmp_path / "new", kinds=kinds, formats=("svg",), opened=lambda _: shown)  # type: ignore[arg-type,return-value]
    assert [path.stem for path in written] == [
        "forest-roc-auc", "forest-hit-rate", "forest-pointing-game", "forest-energy", "forest-visible-in-box-0-50",
        "roc", "curve-visible-in-box", "curve-tolerance",
    ]  # fmt: skip
    assert all(path.is_file() for path in written)
    empty = replace(run, scores=(), directory=tmp_path / "gone")
    with pytest.raises(UsageError, match="no data for forest, roc"):
        write_charts([empty], tmp_path, kinds=("forest", "roc"))


def test_jet_is_drawn_only_when_asked_and_leaves_evidence_against_as_nothing() -> None:
    image, heat = np.zeros((1, 3)), np.array([[2.0, 0.0, -2.0]])
    signed, jet = overlay(image, heat, 2.0), overlay(image, heat, 2.0, "jet")
    np.testing.assert_allclose(jet[0], 0.6 * np.array([[0.5, 0, 0], [0, 0, 0.5], [0, 0, 0.5]]), atol=0.01)
    assert signed[0, 1].max() == 0
    assert signed[0, 2, 1] > signed[0, 2, 0]
    np.testing.assert_allclose(overlay(image, heat, 0.0, "jet"), 0)
