"""The page of a reproduction: every published number is on it, and every section is filled or says why not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.evaluation.saved_runs import saved_run
from tests.tiny import tiny_benchmark
from xaibench.benchmark import Deviation, deviations, load_benchmark
from xaibench.datasets.chestxray8.cohort import CohortAudit, Overlap
from xaibench.published import load_published
from xaibench.reporting.page import NOT_COMPUTABLE, Page, Section, Table, Text, to_html, to_markdown
from xaibench.studies.gcm_paper.map_pairs import compare_maps
from xaibench.studies.gcm_paper.normal_maps import MapArea
from xaibench.studies.gcm_paper.page import make_page
from xaibench.studies.gcm_paper.page_figures import draw_curves
from xaibench.studies.gcm_paper.page_ratings import ratings_section
from xaibench.studies.gcm_paper.reproduce import COMPARED, MAPS, Counts, Reproduction, Size
from xaibench.studies.gcm_paper.subsets import best_subset, compare_aucs, equivalences, mean_aucs
from xaibench.studies.gcm_paper.variants import CLASSIFIERS, Settings, subset_benchmark

BASE = tiny_benchmark()
PUBLISHED = load_published()
LABELS = np.tile(np.eye(4, dtype=np.int64), (4, 1))
RATED = Section("Human ratings", [Text("none")])


def empty(reason: str = "no image is there") -> Reproduction:
    made = [subset_benchmark(BASE, Settings(), subset) for subset in range(2)]
    return Reproduction(BASE, Settings(), made, None, "cpu", missing={"runs": reason, "audit": "no tables"})


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Reproduction:
    folder = tmp_path_factory.mktemp("reproduction") / "runs"
    settings = Settings(subsets=2, limit_epochs=1)
    made = [subset_benchmark(BASE, settings, subset) for subset in range(2)]
    result = Reproduction(BASE, settings, made, None, "cpu", deviations(BASE, made[0]), missing={"audit": "no tables"})
    for position, name in enumerate(CLASSIFIERS):
        draw = np.random.default_rng(position)
        result.runs[name] = [
            saved_run(
                folder / f"{name}-{k}", made[k], name, LABELS + draw.normal(size=LABELS.shape), LABELS, auc=0.7 + k / 9
            )
            for k in range(2)
        ]
        result.training_seconds[name] = [1.0, None]
        result.sizes[name] = Size(1000, 400)
        result.aucs[name] = mean_aucs(result.runs[name])
        result.best[name] = best_subset(result.runs[name])
        result.areas[name] = [
            MapArea("cwm", "image", t, 0.4, 0.3, 0.5, 1 - t, 4, 4, 0) for t in (0.1, 0.25, 0.5, 0.75, 0.9)
        ]
    first, second = (result.runs[name] for name in CLASSIFIERS)
    usable = [np.ones(LABELS.shape, dtype=bool) for _ in range(2)]
    usable[0][:4] = usable[1][:4] = False  # a patient of the training has the first image of each class
    for name in CLASSIFIERS:
        result.strict[name] = mean_aucs(result.runs[name], usable)
    result.differences = compare_aucs(first, second)
    result.equivalence = [*equivalences(first, second), *equivalences(first, second, usable)]
    result.maps = compare_maps(first, second, MAPS, COMPARED)
    each, one, none = (dict.fromkeys(BASE.classes, n) for n in (4, 1, 0))
    negatives = dict.fromkeys(BASE.classes, 12)
    result.counts = [Counts(each, each, each, (3, 3, 4), one, one, negatives, {**none, "Effusion": 2})] * 2
    result.overlaps = [Overlap("", (0, 1), {**none, "Effusion": 3}, dict.fromkeys(BASE.classes, 8))]
    return result


def test_every_published_number_is_on_the_page(found: Reproduction, tmp_path: Path) -> None:
    for result in (found, empty()):
        page = to_markdown(make_page(result, PUBLISHED, tmp_path, "", RATED))
        for values in PUBLISHED.roc_auc.classifiers.values():
            assert all(f"{value:.3f}" in page for value in values.values())
        for text in (
            "126/130 = 0.969 (0.924 to 0.988)",
            "59/83 = 0.711 (0.606 to 0.797)",
            "76/98 = 0.776 (0.683 to 0.847)",
        ):
            assert text in page
        for table in (PUBLISHED.boxes("IoU"), PUBLISHED.boxes("IoBB")):
            for name in ("Cardiomegaly", "Pneumothorax", "Effusion"):
                assert all(f"{value:.3f}" in page for value in table.accuracy[name])


def test_measured_numbers_stand_beside_them(found: Reproduction, tmp_path: Path) -> None:
    page = to_markdown(make_page(found, PUBLISHED, tmp_path, "xaibench reproduce tiny", RATED))
    lines = page.splitlines()
    auc = found.aucs["gcm"][0]
    (row,) = [line for line in lines if line.startswith("| No Finding | 0.860 |")]
    assert f"{auc.value:.3f} ({auc.low:.3f} to {auc.high:.3f})" in row
    assert ", ".join(f"{value:.3f}" for value in auc.subsets) in row
    assert "| classifiers.gcm.recipe.epochs | 2 | 1 |" in lines
    assert "gcm: subset 1, densenet121: subset 1" in page  # the larger mean
    assert any(line.startswith("| cwm (gcm) | 0.400 (0.350 to 0.450)") for line in lines)
    assert any(line.startswith("| Effusion, cwm (gcm) | 0.400") for line in lines)  # T(IoU)
    assert "| prior_box |" in page.replace(" 0.400 (0.350 to 0.450) |", "")
    assert "Cardiomegaly: not computable from this data (no test image has a box of it)" in page
    assert "Spread over the lungs: not computable from this data" in page
    assert "| GCM, subset 0 | 2 | 2 | 0.750 | 1.0000 | 1 |" in lines
    assert "| DenseNet-121, subset 1 | 2 | 2 | 0.750 | 1.0000 | not known |" in lines


def test_every_section_with_published_values_says_that_nothing_was_measured_on_the_release(
    found: Reproduction, tmp_path: Path
) -> None:
    """Drawn images stand beside values of NIH images: the page, its numbers and every section must say so."""
    start = "Published values are the paper's, on the NIH release; "
    for result, end in (
        (found, "those here are on drawn images: not like for like."),
        (empty(), "nothing was measured here."),
    ):
        line = start + end
        page = make_page(result, PUBLISHED, tmp_path, "", ratings_section(result, PUBLISHED, []))
        text = to_markdown(page)
        assert text.count("No table of the paper has been measured here on the NIH release") == 1
        assert result.to_json()["claim"] == result.claim
        assert ("is no reproduction of them: it was measured on drawn images." in result.claim) is (result is found)
        assert text.index(result.claim) < text.index("| what | value |")
        for section in page.sections:
            said = to_markdown(Page("", [section]))
            if section.title == "Training (table 2)":  # settings, which are no measurement
                continue
            if "ublished (NIH)" in said or "Published: " in said:
                assert line in said, section.title
        headers = [header for section in page.sections for block in section.blocks for header in headers_of(block)]
        assert any("published (NIH)" in header for header in headers)
        assert not any("published" in header and "NIH" not in header for header in headers)


def headers_of(block: object) -> list[str]:
    return list(block.headers) if isinstance(block, Table) else []


def whole_release(**changes: object) -> Reproduction:
    """A reproduction of chestxray8-4class where the audit found every image."""
    base = load_benchmark("chestxray8-4class")
    audit = CohortAudit(
        **{**{"images": 9, "patients": 3, "found": 9, "classes": (), "tables": (), "present": ()}, **changes}
    )
    return Reproduction(base, Settings(), [base], Path("nih"), "cpu", audit=audit)


def test_the_claim_follows_from_the_data_and_the_deviations(found: Reproduction) -> None:
    partial = whole_release(found=5)
    partial.runs = found.runs
    assert "it was measured on 5 of the NIH release's 9 images" in partial.claim
    complete = whole_release()
    complete.missing["runs"] = "nobody had time"
    assert complete.claim == "No table of the paper has been measured here on the NIH release: nobody had time."
    complete.runs = found.runs
    complete.deviations = [Deviation("metrics.t_iou", "not set", "defaults")]  # as every reproduction has
    assert complete.claim == "Measured on the NIH release by the benchmark as written, beside the published values."
    assert complete.like_for_like
    complete.deviations = found.deviations
    assert "No table of the paper has been measured here on the NIH release." in complete.claim
    assert "not carried out as written" in complete.claim


def test_what_flatters_and_contradicts_stands_on_the_page(found: Reproduction, tmp_path: Path) -> None:
    lines = to_markdown(make_page(found, PUBLISHED, tmp_path, "", RATED)).splitlines()
    assert "| Effusion | 1, 1 of 4 | 2 of 12 | 1, 1 of 4 | 2 of 12 |" in lines  # cohort
    (row,) = [line for line in lines if line.startswith("| a test patient may be in the training |")]
    assert "images used, subset 0: No Finding 1 of 4, Cardiomegaly 1 of 4" in row
    (row,) = [line for line in lines if line.startswith("| a negative may carry the class's label |")]
    assert "Effusion 2 of 12" in row
    (row,) = [line for line in lines if line.startswith("| images that subsets 0 and 1 share |")]
    assert "Effusion 3 of 8" in row
    (row,) = [line for line in lines if line.startswith("| training images of a class |")]
    assert "No Finding 963" in row
    assert "No Finding 4 of 8" in row
    assert "the rest validates" in row
    auc, strict = found.aucs["gcm"][0], found.strict["gcm"][0]
    assert strict.value != auc.value
    (row,) = [line for line in lines if line.startswith("| No Finding | 3 + 9, 3 + 9 | 4 + 12, 4 + 12 |")]
    for value in (auc, strict):
        assert f"{value.value:.3f} ({value.low:.3f} to {value.high:.3f})" in row


def test_nothing_to_leave_out_is_said(found: Reproduction, tmp_path: Path) -> None:
    result = Reproduction(**{**vars(found), "strict": found.aucs})
    page = to_markdown(make_page(result, PUBLISHED, tmp_path, "", RATED))
    assert "there is nothing to leave out" in page
    assert "without leaks and contradictions" not in page  # the same rows once more


def test_what_could_not_be_measured_has_its_reason(tmp_path: Path) -> None:
    page = to_markdown(make_page(empty("no Pneumothorax has a box"), PUBLISHED, tmp_path, "", RATED))
    for what in (
        "ROC-AUC without leaking patients and contradicting negatives",
        "Equivalence test",
        "Paired comparison",
        "cwm against gradcam",
    ):
        assert f"{what}: not computable from this data (no Pneumothorax has a box)." in page


def test_comparable_is_tested_and_maps_are_paired(found: Reproduction, tmp_path: Path) -> None:
    page = to_markdown(make_page(found, PUBLISHED, tmp_path, "", RATED))
    lines = page.splitlines()
    assert "two one-sided tests (TOST), margin 0.03" in page
    for item in found.equivalence:
        what = "mean of the classes" if item.class_name == "macro" else item.class_name
        images = "without leaks and contradictions" if item.usable else "all test images"
        (row,) = [line for line in lines if line.startswith(f"| {what}, {images} |")]
        assert f"{item.difference:.3f} ({item.low:.3f} to {item.high:.3f})".replace("-0.000", "0.000") in row
        assert row.endswith("| yes |" if item.equivalent else "| not shown |")
    (row,) = [line for line in lines if line.startswith("| Energy in the region: mean of the classes |")]
    assert row.startswith("| Energy in the region: mean of the classes | 0.400 | 0.400 | 0.000 (")
    lost = replace(found.maps[0], class_name="Cardiomegaly", first=float("nan"), second=float("nan"), n=0)
    result = Reproduction(**{**vars(found), "maps": [lost, *found.maps]})
    page = to_markdown(make_page(result, PUBLISHED, tmp_path, "", RATED))
    assert "| Energy in the region: mean of the classes, of 1 of 2 classes |" in page
    result = Reproduction(**{**vars(found), "maps": [], "missing": {"maps": "no test image has a box"}})
    page = to_markdown(make_page(result, PUBLISHED, tmp_path, "", RATED))
    assert "cwm against gradcam: not computable from this data (no test image has a box)." in page


def test_another_split_rule_stands_beside(found: Reproduction, tmp_path: Path) -> None:
    beside = Reproduction(**{**vars(found)})
    split = {"name": "chestxray8", "options": {"split": "patient_disjoint"}}
    beside.benchmarks = [tiny_benchmark(dataset=split)]
    for result in (found, empty("the split rule paper can't be drawn: no box")):
        both = Reproduction(**{**vars(result), "beside": beside})
        page = to_markdown(make_page(both, PUBLISHED, tmp_path, "", RATED))
        auc = beside.aucs["gcm"][0]
        rows = [line for line in page.splitlines() if line.startswith("| No Finding |") and line.count("|") == 6]
        assert any(f"{auc.value:.3f} ({auc.low:.3f} to {auc.high:.3f})" in row for row in rows)
        assert "GCM, patient_disjoint" in page
        assert "patient_disjoint/reproduction.html" in page
        assert both.to_json()["beside"]["preset"] == "patient_disjoint"
    assert "can't be drawn: no box" in page


def test_lungs_come_with_a_table_where_the_data_know_them(found: Reproduction, tmp_path: Path) -> None:
    lungs = [MapArea("cwm", "lungs", t, 0.7, 0.6, 0.8, 1 - t, 4, 4, 0) for t in (0.1, 0.25, 0.5, 0.75, 0.9)]
    result = Reproduction(**{**vars(found), "areas": {"gcm": [*found.areas["gcm"], *lungs]}})
    page = to_markdown(make_page(result, PUBLISHED, tmp_path, "", RATED))
    assert "Mean share of the lungs above a share of the map's maximum; 4 images, 4 patients" in page
    assert any(line.startswith("| cwm (gcm) | 0.700 (0.600 to 0.800) |") for line in page.splitlines())
    assert "no lung masks" not in page


def test_without_runs_every_section_says_why(tmp_path: Path) -> None:
    result = empty()
    page = make_page(result, PUBLISHED, tmp_path, "", ratings_section(result, PUBLISHED, []))
    wanted = {"ROC-AUC", "GCM against", "Localization", "No Finding", "Human ratings", "Maps", "Versions", "Training"}
    for word in wanted:
        (section,) = [one for one in page.sections if one.title.startswith(word)]
        assert any(getattr(block, "reason", "").startswith("no image is there") for block in section.blocks), word
    assert all(section.blocks for section in page.sections)
    assert NOT_COMPUTABLE[1:] in to_html(page)


def test_a_run_without_boxes_has_no_curves_and_says_so(found: Reproduction, tmp_path: Path) -> None:
    bare = saved_run(tmp_path / "bare", found.benchmarks[0], "gcm", LABELS + 0.0, LABELS, boxed=())
    assert draw_curves(bare, PUBLISHED) is None
    result = Reproduction(**{**vars(found), "runs": {**found.runs, "gcm": [bare, bare]}, "best": {"gcm": 0}})
    page = to_markdown(make_page(result, PUBLISHED, tmp_path, "", RATED))
    assert "Measured localization: not computable from this data (no test image has a box" in page


def test_the_curves_are_a_picture(found: Reproduction) -> None:
    data = draw_curves(found.runs["gcm"][0], PUBLISHED)
    assert data is not None
    assert data.startswith(b"\x89PNG")
    assert data == draw_curves(found.runs["gcm"][0], PUBLISHED)


def test_ratings_come_with_rates_and_the_published_ones(found: Reproduction, tmp_path: Path) -> None:
    path = tmp_path / "ann.csv"
    rows = [f"i{row},Effusion,cwm,ann,{'hit' if row < 8 else 'miss'}" for row in range(3, 16, 4)]
    path.write_text("\n".join(["image,class,explainer,rater,rating", *rows]) + "\n")
    section = ratings_section(found, PUBLISHED, [path])
    (rates,) = [block for block in section.blocks if getattr(block, "caption", "").startswith("Rated hits")]
    assert list(rates.rows[0])[:2] == ["cwm, ann: Effusion", "2/4"]
    assert "76/98" in rates.rows[0][3]


def test_the_numbers_are_json(found: Reproduction) -> None:
    text = json.dumps(found.to_json(), allow_nan=False)
    table = json.loads(text)
    assert table["best"] == {"gcm": 1, "densenet121": 1}
    assert len(table["runs"]["gcm"]) == 2
    assert table["aucs"]["gcm"][0]["class_name"] == "No Finding"
