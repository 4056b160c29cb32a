from __future__ import annotations

import io
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from rich.cells import cell_len
from rich.console import Console

from xaibench.errors import XaibenchError
from xaibench.metrics.base import Metric
from xaibench.reporting.tables.layout import Glyphs, fold
from xaibench.reporting.tables.run import export_svg, print_run, run_tables
from xaibench.results.run import MACRO, Run, Score

from . import runs

CLASSES = ("No Finding", "Effusion")


class _Encoded(io.StringIO):
    def __init__(self, encoding: str) -> None:
        super().__init__()
        self._name = encoding

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._name


def printed(run: Run, known: Mapping[str, Metric], width: int | None = None, encoding: str = "utf-8") -> list[str]:
    """Lines of a terminal of that width, or of a pipe."""
    file = _Encoded(encoding)
    terminal = width is not None
    console = Console(
        file=file, width=width, force_terminal=terminal, color_system="truecolor" if terminal else None, _environ={}
    )
    print_run(run, console, known)
    return re.sub(r"\x1b\[[0-9;]*m", "", file.getvalue()).splitlines()


def line_of(lines: list[str], label: str, after: str = "") -> str:
    start = next(i for i, line in enumerate(lines) if line.startswith(after)) if after else 0
    return next(line for line in lines[start:] if line.strip().startswith(label))


@pytest.fixture
def small() -> Run:
    """One class with boxes, two metrics, known numbers."""
    s = runs.score
    scores = [
        s(None, "roc_auc", "Effusion", 0.91234, 0.02, n=320, patients=301),
        s("cwm", "hit_rate", "Effusion", 0.4321, 0.0777, chance=0.07),
        s("cwm", "energy", "Effusion", 0.12, 0.03, chance=0.07),
        s("random", "hit_rate", "Effusion", 0.08, chance=0.07),
        s("center", "hit_rate", "Effusion", 0.30, chance=0.07),
        s("random", "energy", "Effusion", 0.07, chance=0.07),
        s("center", "energy", "Effusion", 0.11, chance=0.07),
    ]
    benchmark = runs.benchmark(CLASSES, ["roc_auc", "hit_rate", "energy"])
    return Run(benchmark, "gcm", ("cwm",), ("random", "center"), tuple(scores))


def test_numbers_counts_and_chance_stand_in_their_rows(small: Run) -> None:
    lines = printed(small, runs.metrics(), 160)
    assert line_of(lines, "Effusion").split() == ["Effusion", "0.912", "[0.892,", "0.932]", "320", "301"]
    assert "Effusion · 40 pairs, 38 patients" in lines
    assert line_of(lines, "cwm").split() == ["cwm", "0.43", "[0.35,", "0.51]", "0.12", "[0.09,", "0.15]"]
    assert line_of(lines, "center").split() == ["center", "0.30", "[0.25,", "0.35]", "0.11", "[0.06,", "0.16]"]
    assert line_of(lines, "chance").split() == ["chance", "0.07", "0.07"]
    assert any("320 images of 301 patients" in line for line in lines)
    assert any(small.benchmark.hash[:8] in line for line in lines)
    assert not any(line.startswith("No Finding ·") for line in lines), "a class without scores has no group"
    assert "no ▲ here: the scores of the images were not saved" in lines


def test_explainers_come_in_the_order_asked_then_baselines_then_chance() -> None:
    lines = printed(runs.full_run(explainers=("zeta", "alpha")), runs.metrics(), 160)
    start = lines.index("Effusion · 40 pairs, 38 patients")
    labels = [line.split()[0] for line in lines[start + 1 : start + 7]]
    assert labels == ["zeta", "alpha", "random", "center", "prior_box", "chance"]
    groups = [line.partition(" · ")[0] for line in lines if " · " in line and "pairs, " in line]
    assert groups == ["Cardiomegaly", "Pneumothorax", "Effusion", MACRO]


def test_means_corrected_for_chance_stand_below_the_classes(small: Run) -> None:
    assert not any("corrected" in line for line in printed(small, runs.metrics(), 160)), "a run that has none"
    corrected = {("cwm", "hit_rate"): 0.391, ("cwm", "energy"): 0.05, ("random", "hit_rate"): -0.004}
    means = [
        replace(score, class_name=MACRO, corrected=corrected.get((score.explainer, score.metric)))
        for score in small.scores
    ]
    lines = printed(replace(small, scores=(*small.scores, *means)), runs.metrics(), 160)
    start = next(i for i, line in enumerate(lines) if line == "corrected for chance · mean over the classes")
    assert [line.split() for line in lines[start + 1 : start + 3]] == [["cwm", "0.39", "0.05"], ["random", "0.00"]]
    assert not lines[start + 3].strip(), "center has none"


def test_undefined_and_constant_maps_are_counted(small: Run) -> None:
    def change(score: Score) -> Score:
        if score.explainer != "cwm":
            return score
        if score.metric == "energy":
            return replace(score, value=None, low=None, high=None, nan=40, constant=2)
        return replace(score, nan=2, constant=2)

    lines = printed(replace(small, scores=tuple(map(change, small.scores))), runs.metrics(), 160)
    row = next(i for i, line in enumerate(lines) if line.strip().startswith("cwm"))
    assert lines[row].split()[-1] == "–"  # noqa: RUF001
    assert lines[row + 1].split("  ")[1:] != []
    assert re.split(r"\s{2,}", lines[row + 1].strip()) == ["2 constant", "2 undef.", "40 undef."]
    assert any(line.startswith("undef.: pairs without a score; in the value such a pair") for line in lines)
    assert not any("undef." in line for line in printed(small, runs.metrics(), 160))


def test_what_an_undefined_pair_counts_as_and_the_value_of_the_others_are_said(small: Run) -> None:
    known = runs.metrics()
    known["hit_rate"] = replace(known["hit_rate"], chance=0.1)
    known["energy"] = replace(known["energy"], chance=0.1, counts_as=0.0)
    scores = [replace(s, nan=3, defined=0.5678) if s.explainer == "cwm" else s for s in small.scores]
    run = replace(small, scores=tuple(scores))
    text = " ".join(" ".join(printed(run, known, 160)).split())
    assert "3 undef., rest 0.57" in text
    assert "in the value such a pair counts as chance (Hit rate), counts as 0 (Energy in the region)" in text
    old = replace(run, benchmark=run.benchmark.model_copy(update={"scoring": 1}))
    assert "in the value such a pair is left out, and" in " ".join(" ".join(printed(old, known, 160)).split())


@pytest.mark.parametrize(("encoding", "sign"), [("utf-8", "†"), ("ascii", "#")])
def test_a_mean_over_fewer_classes_than_its_neighbours_is_marked(small: Run, encoding: str, sign: str) -> None:
    means = [
        replace(s, class_name=MACRO, classes=2 if s.explainer == "cwm" else 3) for s in small.scores if s.explainer
    ]
    run = replace(small, scores=(*small.scores, *means))
    lines = printed(run, runs.metrics(), 160, encoding)
    assert line_of(lines, "cwm", "macro").split()[1] == f"0.43{sign}"
    assert line_of(lines, "center", "macro").split()[1] == "0.30"
    assert line_of(lines, "cwm").split()[1] == "0.43", "of a class"
    assert any(line.startswith(f"{sign} mean over fewer classes") for line in lines)
    same = replace(run, scores=tuple(replace(s, classes=1) for s in run.scores))
    assert not any(sign in line for line in printed(same, runs.metrics(), 160, encoding))


@pytest.mark.parametrize("width", [80, 100, 120, 160])
def test_no_line_is_too_long_and_no_number_is_cut(width: int) -> None:
    run = runs.full_run(
        classes=(
            "No Finding",
            "Pleural thickening of both sides, named at a length that no column has",
            "Effusion",
            "肺炎" * 9,
        ),
        explainers=("cwm", "integrated_gradients_smoothgrad_squared", "timm:resnet50/layer4", "ccm", "cam", "gradcam"),
        baselines=("random", "center", "oracle_prior_box"),
        notes=("a note of many words " * 12, "b" * 300),
        record={"weights": "w" * 200},
    )
    lines = printed(run, runs.metrics(), width)
    assert max(map(cell_len, lines)) <= width
    text = "\n".join(lines)
    assert "…" not in text
    for score in run.scores:
        if score.metric == "visible_in_box@0.25":
            continue  # no headline
        digits = 3 if score.metric == "roc_auc" else 2
        value, low, high = (f"{x:.{digits}f}" for x in (score.value, score.low, score.high))
        one, two = f"{value} [{low}, {high}]", f"{low}–{high}"  # noqa: RUF001
        if score.explainer:
            assert (one if width >= 120 else two) in text
        else:
            assert one in text or two in text
        assert re.search(rf"(?<![\d.]){re.escape(value)}(?!\d)", text)
    start = next(i for i, line in enumerate(lines) if line.strip().startswith("integrated_"))
    label = "".join(re.split(r"\s{2,}", line.strip())[0] for line in lines[start : start + 4])
    assert label.startswith("integrated_gradients_smoothgrad_squared")


def test_columns_that_do_not_fit_side_by_side_stack() -> None:
    known = runs.metrics()
    names = [f"extra_{i}" for i in range(12)]
    known |= {name: replace(known["energy"], name=name, title=f"Extra {name}") for name in names}
    scores = tuple(runs.score("cwm", name, "Effusion", 0.011 * i + 0.2) for i, name in enumerate(names))
    run = Run(runs.benchmark(CLASSES, names), "gcm", ("cwm",), (), scores)
    lines = printed(run, known, 80)
    assert max(map(cell_len, lines)) <= 80
    assert sum(line.strip().startswith("cwm") for line in lines) > 1
    for i in range(12):
        assert f"{0.011 * i + 0.2:.2f}" in "\n".join(lines)


def test_names_are_shown_literally_and_can_not_steer_the_terminal() -> None:
    run = runs.full_run(
        classes=("[red]x", "[/bold] :smile:", "c"),
        explainers=("[link=x]e", "a\x1b[31mb\nc"),
        notes=("[blink]note",),
    )
    run = replace(run, classifier="[bold]gcm")
    text = "\n".join(printed(run, runs.metrics(), 160))
    for name in ("[red]x", "[/bold] :smile:", r"a\x1b[31mb\nc", "[link=x]e", "[blink]note", "[bold]gcm"):
        assert name in text


def test_a_pipe_gets_plain_aligned_text_of_160_columns() -> None:
    file = io.StringIO()
    console = Console(file=file, width=80, _environ={})
    print_run(runs.full_run(), console, runs.metrics())
    text = file.getvalue()
    assert "\x1b" not in text
    assert not re.search(r"[─-╿]", text)
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("Effusion ·"))
    starts = {tuple(m.start() for m in re.finditer(r"\d\.\d\d \[", line)) for line in lines[start + 1 : start + 6]}
    assert len(starts) == 1
    assert len(next(iter(starts))) == 5
    assert all(line == line.rstrip() for line in lines)


@pytest.mark.parametrize("width", [None, 80])
def test_an_output_that_is_not_unicode_gets_ascii(width: int | None) -> None:
    run = runs.full_run(classes=("No Finding", "Erguß", "肺炎"), notes=("naïve",))
    text = "\n".join(printed(run, runs.metrics(), width, "ascii"))
    assert text.isascii()
    assert r"Ergu\xdf" in text
    assert " *" in text
    assert "0.43 [0.35" not in text or width is None


def test_parameters_that_the_benchmark_changes_are_in_the_title() -> None:
    scores = (runs.score("cwm", "pointing_game", "Effusion", 0.4),)
    changed = runs.benchmark(CLASSES, ["pointing_game"], pointing_game={"tolerance": 7.0})
    text = " ".join(" ".join(printed(Run(changed, "gcm", ("cwm",), (), scores), runs.metrics(), None)).split())
    assert "(tolerance 7.0)" in text
    assert "15 px" not in text
    same = runs.benchmark(CLASSES, ["pointing_game"], pointing_game={"tolerance": 15.0})
    assert "(15 px at 224)" in "\n".join(printed(Run(same, "gcm", ("cwm",), (), scores), runs.metrics(), None))


def test_chance_is_a_range_where_it_differs_and_missing_plugins_are_named(small: Run) -> None:
    scores = [replace(s, chance=0.09) if s.explainer == "random" else s for s in small.scores]
    lines = printed(replace(small, scores=tuple(scores)), {"hit_rate": runs.metrics()["hit_rate"]}, 160)
    assert line_of(lines, "chance").split() == ["chance", "0.07", "to", "0.09"]
    assert "· not shown, for want of the plugin: roc_auc, energy" in lines


def test_a_metric_without_bounds_gets_significant_digits() -> None:
    wide = replace(runs.metrics()["energy"], range=(-float("inf"), float("inf")))
    scores = (runs.score("cwm", "energy", "Effusion", 123456.0, low=-0.5, high=2e6, chance=0.0),)
    lines = printed(Run(runs.benchmark(CLASSES, ["energy"]), "gcm", ("cwm",), (), scores), {"energy": wide}, 160)
    assert line_of(lines, "cwm").split()[1:] == ["123,456", "[-0.500,", "2.00e+06]"]


def test_a_run_without_scores_still_has_a_header() -> None:
    run = Run(runs.benchmark(CLASSES, ["hit_rate"]), "gcm", (), (), ())
    assert len(run_tables(run, runs.metrics(), width=80)) == 1


def test_metrics_come_from_the_registry_where_none_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    from xaibench import registry
    from xaibench.errors import PluginError

    known = runs.metrics()

    class Entry:
        def __init__(self, name: str) -> None:
            self.name = name

        def load(self) -> Metric:
            if self.name == "energy":
                raise PluginError("broken")
            return known[self.name]

    monkeypatch.setattr(registry, "get", lambda kind, name: Entry(name))
    file = io.StringIO()
    print_run(runs.full_run(), Console(file=file, _environ={}))
    assert "Hit rate" in file.getvalue()
    assert "not shown, for want of the plugin: energy" in file.getvalue()


def test_svg_is_well_formed_repeatable_and_self_contained(tmp_path: Path) -> None:
    run = runs.full_run(classes=("No Finding", "<b>&amp;"))
    export_svg(run, tmp_path / "a.svg", 100, runs.metrics())
    export_svg(run, tmp_path / "b.svg", 100, runs.metrics())
    text = (tmp_path / "a.svg").read_text(encoding="utf-8")
    assert text == (tmp_path / "b.svg").read_text(encoding="utf-8")
    shown = "".join(ElementTree.fromstring(text).itertext())
    assert "<b>&amp;" in shown
    assert "@font-face" not in text
    assert not re.search(r"""(href|src|url)\s*[=(]\s*["']?https?:""", text)
    with pytest.raises(XaibenchError, match=r"can't write .*nowhere"):
        export_svg(run, tmp_path / "nowhere" / "a.svg", 100, runs.metrics())


@pytest.mark.parametrize("text", ["a_b-c", "x" * 50, "肺炎" * 20, "many words and_some_long_identifier_too", ""])
@pytest.mark.parametrize("width", [2, 7, 16])
def test_fold_keeps_every_letter_and_the_width(text: str, width: int) -> None:
    pieces = fold(text, width)
    assert "".join(pieces).replace(" ", "") == text.replace(" ", "")
    assert all(cell_len(piece) <= width for piece in pieces)


def test_signs_follow_the_encoding() -> None:
    assert Glyphs.for_output("UTF-8", terminal=True) == Glyphs(encoding="UTF-8")
    assert Glyphs.for_output("utf8", terminal=False).rule == "-"
    assert Glyphs.for_output("cp1252", terminal=True).mark == "*"
    assert Glyphs.for_output("latin-1", terminal=True).clean("ö肺") == r"ö\u80ba"
