"""Numbers that can't flatter: undefined maps, exact metrics, marks and intervals."""

from __future__ import annotations

import inspect
import io
import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock
from zlib import crc32

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from scipy import integrate, optimize, stats
from sklearn.metrics import average_precision_score
from torch import Tensor

from tests.cases.base import Pair, Says, case
from tests.cases.network import CLASSES, SIZE, benchmark, run, value
from tests.classifiers import odd_networks as odd
from xaibench import registry
from xaibench.benchmark import Benchmark, LocalizationSpec, load_benchmark
from xaibench.classifiers.base import Classifier
from xaibench.datasets.chestxray8.cohort import audit_cohort
from xaibench.evaluation.setup import load_splits
from xaibench.explainers.base import Explainer
from xaibench.metrics import _ops, localization
from xaibench.metrics.axioms import non_sensitivity
from xaibench.metrics.base import metric
from xaibench.metrics.explained import Explained
from xaibench.reporting.tables.run import print_run
from xaibench.results.comparison.compare import compare
from xaibench.results.run import Run
from xaibench.statistics import auc_interval, detectable_difference, mean_interval
from xaibench.types import Frame, Prediction

SECTION = "Numbers that can't flatter"
UNDEFINED = "tests/evaluation/test_undefined.py"
Maps = Callable[[str, int], npt.NDArray[np.float32]]
"""Image id and class to the map (SIZE, SIZE)."""


def heavy_tailed(name: str, target: int) -> npt.NDArray[np.float32]:
    """Return a map whose largest value is many times the others, a little higher in the upper half."""
    rng = np.random.default_rng(crc32(name.encode()) + target)
    found = np.exp(2.5 * rng.normal(size=(SIZE, SIZE)))
    found[: SIZE // 2] *= 2
    return found.astype(np.float32)


def scored(maps: Maps, protocol: Benchmark, **options: Any) -> Run:
    """Evaluate an explainer that returns these maps, on a tiny network."""

    class Given(Explainer):
        def explain(self, classifier: Classifier, prediction: Prediction, targets: Tensor) -> Tensor:
            pairs = zip(prediction.ids, targets.tolist(), strict=True)
            return torch.from_numpy(np.stack([maps(name, target) for name, target in pairs]))

    registry.register("explainers", "given", Given)
    try:
        return run(odd.Plain(len(protocol.classes)).eval(), ["given"], protocol, **options)
    finally:
        registry.unregister("explainers", "given")


def pairs(maps: Maps, protocol: Benchmark) -> dict[str, list[tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]]]:
    """Return class to map and mask of each test image with a region."""
    test = load_splits(protocol, None).test
    found: dict[str, list[tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]]] = {}
    for row, name in enumerate(test.ids):
        for target, region in test.regions(row).items():
            mask = region.rasterize(Frame.square(SIZE))
            found.setdefault(test.classes[target], []).append((maps(name, target), mask))
    return found


def scaled(one: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    exact = one.astype(np.float64)
    low, high = exact.min(), exact.max()
    return (exact - low) / (high - low)


def mean_over_classes(maps: Maps, protocol: Benchmark, of_class: Callable[[list[Any]], float]) -> float:
    return float(np.mean([of_class(some) for some in pairs(maps, protocol).values()]))


# undefined maps


def silent(name: str, target: int) -> npt.NDArray[np.float32]:
    """Return a map that is zero for the last class, and elsewhere highest in the image's middle."""
    found = np.zeros((SIZE, SIZE), dtype=np.float32)
    if target != 3:
        found[SIZE // 2, SIZE // 2] = 1
    return found


@case(
    SECTION,
    "maps that are all zero for one class of three: hit rate (macro) and the chance beside it",
    before="0.5, 0.0867164",
    source="numpy: such a pair counts as its mask's area, in the value as in chance",
    test=f"{UNDEFINED}::test_through_the_whole_line",
)
def hit_rate_of_silence(folder: Path) -> Pair:
    protocol = benchmark("hit_rate")
    found = scored(silent, protocol)
    (score,) = found.select(metric="hit_rate", class_name="macro")
    means, areas = [], []
    for some in pairs(silent, protocol).values():
        peak = SIZE // 2
        means.append(np.mean([mask[peak, peak] if one.any() else mask.mean() for one, mask in some]))
        areas.append(np.mean([mask.mean() for _, mask in some]))
    return Pair([score.value, score.chance], [float(np.mean(means)), float(np.mean(areas))])


@case(
    SECTION,
    "a metric whose chance level fails: what the run says",
    before="nothing",
    right="metric unlucky has no chance level, and undefined maps are left out of it: ValueError: no noise here",
    source="it is said",
    test=f"{UNDEFINED}::test_through_the_whole_line",
)
def failing_chance(folder: Path) -> str:
    def chance(masks: Tensor) -> Tensor:
        raise ValueError("no noise here")

    @metric("unlucky", category="localization", direction="higher", range=(0, 1), reference="", title="", chance=chance)
    def unlucky(maps: Tensor, masks: Tensor) -> Tensor:
        """One."""
        return torch.ones(len(maps))

    registry.register("metrics", "unlucky", unlucky)
    try:
        notes = scored(heavy_tailed, benchmark("unlucky")).notes
    finally:
        registry.unregister("metrics", "unlucky")
    return next((str(note) for note in notes if "unlucky" in str(note)), "nothing")


# exact metrics


def exact_ap(some: list[Any]) -> float:
    values = np.concatenate([scaled(one).ravel() for one, _ in some])
    return float(average_precision_score(np.concatenate([mask.ravel() for _, mask in some]), values))


@case(
    SECTION,
    "heavy-tailed maps: PxAP",
    before="0.0866506",
    source="scikit-learn's average_precision_score on all pixels of a class, min-max scaled in double precision",
    test="tests/metrics/test_pixels.py::test_the_value_is_scikit_learns_of_all_pixels",
)
def pxap_of_a_heavy_tail(folder: Path) -> Pair:
    protocol = benchmark("pxap")
    return Pair(value(scored(heavy_tailed, protocol), "pxap"), mean_over_classes(heavy_tailed, protocol, exact_ap))


def iou(one: npt.NDArray[Any], mask: npt.NDArray[np.bool_], threshold: float) -> float:
    above = scaled(one) > threshold
    return float((above & mask).sum() / (above | mask).sum())


def mild(name: str, target: int) -> npt.NDArray[np.float32]:
    """Return a smooth map."""
    rng = np.random.default_rng(crc32(name.encode()) + target)
    return rng.random((SIZE, SIZE), dtype=np.float32)


@case(
    SECTION,
    "IoU at a fixed threshold of 0.15, as CheXlocalize's tuned ones",
    before="0.0837335",
    source="numpy: the map, min-max scaled in double precision, above 0.15",
    test="tests/metrics/test_pooled.py::test_iou_of_a_heavy_tail_is_exact_at_every_threshold",
)
def iou_at_a_tuned_threshold(folder: Path) -> Pair:
    protocol = benchmark("iou_fixed")
    protocol = replace_parameters(protocol, threshold=0.15)
    right = mean_over_classes(mild, protocol, lambda some: float(np.mean([iou(*pair, 0.15) for pair in some])))
    return Pair(value(scored(mild, protocol), "iou_fixed"), right)


def replace_parameters(protocol: Benchmark, **parameters: Any) -> Benchmark:
    table = protocol.model_dump()
    table["metrics"][0]["parameters"] = parameters
    return Benchmark.model_validate(table)


@case(
    SECTION,
    "heavy-tailed maps: IoU at the best of 100 thresholds (oracle)",
    before="0.0351405",
    source="numpy: the best of 0, 0.01, ..., 0.99 of the map, min-max scaled in double precision",
    test="tests/metrics/test_pooled.py::test_iou_of_a_heavy_tail_is_exact_at_every_threshold",
)
def best_iou_of_a_heavy_tail(folder: Path) -> Pair:
    protocol = benchmark("iou_best")

    def best(some: list[Any]) -> float:
        return max(float(np.mean([iou(*pair, step / 100) for pair in some])) for step in range(100))

    found = value(scored(heavy_tailed, protocol), "iou_best@oracle")
    return Pair(found, mean_over_classes(heavy_tailed, protocol, best))


def almost_constant(name: str, target: int) -> npt.NDArray[np.float32]:
    """Return a map of 0.9 with its peak in the corner."""
    found = np.full((SIZE, SIZE), 0.9, dtype=np.float32)
    found[-1, -1] = 1
    return found


@case(
    SECTION,
    "nearly constant maps with the peak outside the box: share visible of the box, and of the rest of the image",
    before="1, not measured",
    source="numpy: above half the maximum, inside and outside",
    test="tests/metrics/test_localization.py::test_outside_is_inside_of_all_else_and_over_coverage_shows",
)
def over_coverage(folder: Path) -> Pair:
    known = ["visible_in_box", "visible_outside"][: 1 + hasattr(localization, "visible_outside")]
    found = scored(almost_constant, benchmark(*known))
    values = [value(found, f"{name}@0.50") for name in known]
    inside, outside = (
        mean_over_classes(
            almost_constant,
            benchmark(),
            lambda some, side=side: float(np.mean([(one > 0.5)[mask == side].mean() for one, mask in some])),
        )
        for side in (True, False)
    )
    return Pair(values if len(values) == 2 else [*values, "not measured"], [inside, outside])


# marks and tests


def around_the_box(protocol: Benchmark) -> Maps:
    """Return maps that know where the test boxes are, and lay 0.12 of their height over the rest of the image."""
    test = load_splits(protocol, None).test
    rows = {name: row for row, name in enumerate(test.ids)}

    def found(name: str, target: int) -> npt.NDArray[np.float32]:
        region = test.regions(rows[name]).get(target)
        inside = np.zeros((SIZE, SIZE), bool) if region is None else region.rasterize(Frame.square(SIZE))
        return np.where(inside, 1.0, 0.12).astype(np.float32)

    return found


@case(
    SECTION,
    "energy in the heart's box below that of prior_box, which looks at no image: what the table does",
    before="marked",
    right="not marked",
    source="a mark says: better than chance and than every baseline that sees no image",
    test="tests/reporting/test_marks.py::test_a_score_below_the_prior_box_is_not_marked",
)
def mark_below_the_prior_box(folder: Path) -> str:
    baselines = ["random", "center", "prior_box"]
    protocol = benchmark("energy").model_copy(update={"localization": LocalizationSpec(baselines=tuple(baselines))})
    found = scored(around_the_box(protocol), protocol, out=folder)
    ours, prior = (found.select(explainer=name, class_name="Cardiomegaly")[0].value for name in ("given", "prior_box"))
    assert ours is not None
    assert prior is not None
    if ours >= prior:
        return f"{ours:.2f} is not below {prior:.2f}"
    text = io.StringIO()
    print_run(found, Console(file=text))
    lines = text.getvalue().splitlines()
    start = next(at for at, line in enumerate(lines) if line.startswith("Cardiomegaly"))
    return "marked" if "▲" in next(line for line in lines[start:] if line.strip().startswith("given")) else "not marked"


@case(
    SECTION,
    "hits of an explainer and of a baseline on the same pairs, some of them of one patient: the p-value in compare",
    before="0.00149112",
    source="all exchanges of the two in whole patients, one by one, as in the report's summary",
    test="tests/reporting/test_comparison.py::test_hits_are_tested_by_the_same_permutations_as_every_score",
)
def one_p_value(folder: Path) -> Pair:
    protocol = benchmark("hit_rate").model_copy(update={"localization": LocalizationSpec(baselines=("center",))})
    found = scored(around_the_box(protocol), protocol, out=folder)
    (table,) = compare(found).tables
    images = found.images()
    assert len(set(images["class"].astype(str).value_counts())) == 1, "the mean over the classes is that over the pairs"
    hits = images.pivot(index=["patient", "image", "class"], columns="explainer", values="value")
    sums = (hits["given"] - hits["center"]).groupby(level="patient", observed=True).sum().to_numpy()
    sums = sums[sums != 0]
    flipped = np.array([np.dot(signs, sums) for signs in itertools.product((1, -1), repeat=len(sums))])
    return Pair(table.pairs[0].p, float(np.mean(np.abs(flipped) >= abs(sums.sum()) - 1e-9)))


# what decides a number, and what does not


@case(
    SECTION,
    "a metric's definition changes under the same name: are runs before and after comparable (hashes)",
    before="the same hash",
    right="hashes differ",
    source="the numbers are others",
    test="tests/test_benchmark.py::test_the_version_of_a_metric_is_pinned_and_enters_the_hash",
)
def changed_definition(folder: Path) -> str:
    path = folder / "own.toml"
    text = Path(load_path()).read_text(encoding="utf-8").replace('name = "energy"', 'name = "shifting"')
    path.write_text(text.replace('primary = "energy"\n', ""), encoding="utf-8")

    def shifting(maps: Tensor, masks: Tensor) -> Tensor:
        """One."""
        return torch.ones(len(maps))

    options: dict[str, Any] = {"category": "localization", "direction": "higher", "range": (0, 1)}
    made = metric("shifting", reference="", title="", **options)(shifting)
    hashes = []
    for version in (1, 2):
        known = {"version": version} if "version" in inspect.signature(metric).parameters else {}
        registry.register("metrics", "shifting", replace(made, **known))
        hashes.append(load_benchmark(str(path)).hash)
        registry.unregister("metrics", "shifting")
    return "hashes differ" if len(set(hashes)) == 2 else "the same hash"


def load_path() -> str:
    return str(Path(__file__).resolve().parents[2] / "benchmarks" / "phantom.toml")


@case(
    SECTION,
    "import xaibench, and choosing a device: environment variables that change",
    before="GOMP_SPINCOUNT",
    right="none",
    source="an import changes nothing of the process",
    test="tests/test_memory.py::test_the_library_leaves_environment_and_malloc_alone",
)
def environment_after_import(folder: Path) -> str:
    code = (
        "import os; before = dict(os.environ); import xaibench; from xaibench.evaluation.setup import choose_device; "
        "choose_device('cpu'); print(', '.join(sorted(k for k in os.environ if os.environ[k] != before.get(k))) or "
        "'none')"
    )
    roots = [path for path in sys.path if (Path(path) / "xaibench" / "__init__.py").exists()]
    clean = {key: text for key, text in os.environ.items() if key != "GOMP_SPINCOUNT"} | {"PYTHONPATH": roots[0]}
    done = subprocess.run([sys.executable, "-c", code], env=clean, capture_output=True, text=True, check=True)
    return done.stdout.strip()


# intervals and tests


@case(
    SECTION,
    "ROC-AUC of 25 positive and 25 negative patients, in order, then one, two, ... ten pairs misranked: ends that rise",
    before="at pair 1",
    right="none",
    source="less of an order can't be surer of a high area",
    test="tests/statistics/test_score.py::test_one_more_misranked_pair_raises_neither_end",
)
def ends_of_an_auc(folder: Path) -> str:
    labels = np.repeat([0, 1], 25)
    patients = [f"p{n}" for n in range(50)]
    scores = np.arange(50.0)
    ends = []
    for misranked in range(11):
        if misranked:  # the lowest positive falls below one more negative
            scores[25] = 24.5 - misranked
        interval = auc_interval(scores, labels, patients)
        ends.append((interval.low, interval.high))
    rises = [number for number in range(1, 11) if (np.diff(ends, axis=0)[number - 1] > 1e-12).any()]
    return ", ".join(f"at pair {number}" for number in rises) or "none"


@case(
    SECTION,
    "scores of six patients, most near 0, few large (gamma, shape 0.5): how often the interval covers, 400 studies",
    before="75%",
    right=Says(r"^(9[3-9]|100)%", "at least 93%"),
    source="simulation: the mean of the scores' distribution is known",
    test="tests/statistics/test_coverage.py::test_coverage_of_1000_studies",
)
def coverage_at_six(folder: Path) -> str:
    rng, patients, covered = np.random.default_rng(0), [f"p{n}" for n in range(6)], 0
    for _ in range(400):
        interval = mean_interval(np.clip(rng.gamma(0.5, 0.2, size=6), 0, 1), patients)
        covered += interval.low <= 0.1 <= interval.high
    return f"{covered / 4:.0f}%"


@case(
    SECTION,
    "the smallest difference that a study of four patients could have shown (80% power)",
    before="ValueError: The function value at x=8.0 is NaN; solver cannot continue.",
    source="SciPy: the power of a paired t-test, integrated over the variance's distribution",
    test="tests/statistics/test_power.py::test_any_study_has_an_answer",
)
def detectable_by_four(folder: Path) -> Pair:
    differences = np.array([0.1, 0.3, 0.2, 0.25])
    found = detectable_difference(differences, ["a", "b", "c", "d"]).difference
    critical = stats.t.isf(0.025, 3)

    def power(shift: float) -> float:
        def beyond(variance: float) -> float:
            at = critical * np.sqrt(variance / 3)
            return float((stats.norm.sf(at - shift) + stats.norm.cdf(-at - shift)) * stats.chi2.pdf(variance, 3))

        return float(integrate.quad(beyond, 0, 60)[0])

    shift = optimize.brentq(lambda value: power(value) - 0.8, 0.1, 20)
    return Pair(found, shift * float(np.std(differences, ddof=1)) / 2)


# what the pages claim


@case(
    SECTION,
    "a network that was not trained here: what its run says of the weights, and its recipe",
    before="as they came; a recipe of 100 epochs",
    right="external, not trained here; no recipe",
    source="it was given",
    test="tests/classifiers/test_outside.py::test_evaluate_takes_a_module_and_trains_nothing",
)
def external_weights(folder: Path) -> str:
    record = scored(almost_constant, benchmark("energy")).record
    source = str(record["weights"]["source"]).partition(":")[0]
    return (
        f"{source}; {'a recipe of ' + str(record['recipe']['epochs']) + ' epochs' if record['recipe'] else 'no recipe'}"
    )


@case(
    SECTION,
    "the paper's split of the NIH release: test images of training patients (Cardiomegaly, Pneumothorax, Effusion), "
    "and negatives of Effusion that carry the label",
    before="not counted",
    right="62, 67, 45; 47 of 321",
    source="counted apart on the release's tables",
    test="tests/datasets/test_chestxray8_cohort.py::test_what_flatters_and_what_contradicts_on_the_full_tables",
)
def leaking_patients(folder: Path) -> str:
    for path in Path(os.environ["NIH_SAMPLE"]).iterdir():
        if path.suffix in (".csv", ".txt"):
            shutil.copy(path, folder)
    audit = audit_cohort(folder, CLASSES, options={"max_per_class": 963})
    paper = next(counts for counts in audit.tables if counts.preset == "paper")
    if not hasattr(paper, "leaking"):
        return "not counted"
    of = ", ".join(str(paper.leaking[name]) for name in CLASSES[1:])
    return f"{of}; {paper.contradicting['Effusion']} of {paper.negatives['Effusion']}"


@case(
    SECTION,
    "the report page: headline columns that the terminal shows and the page does not (iou_best, max_box_acc)",
    before="iou_best@tuned, iou_best@oracle, max_box_acc@tuned, max_box_acc@oracle",
    right="none",
    source="both show a run's headline scores",
    test="tests/reporting/test_html.py::test_terminal_and_page_show_the_same_headline_columns",
)
def columns_of_the_page(folder: Path) -> str:
    from xaibench.reporting.html.data import Report

    found = scored(mild, benchmark("energy", "iou_best", "max_box_acc"), out=folder)
    report, lost = Report([found]), []
    for spec in found.benchmark.metrics:
        wanted = registry.get("metrics", spec.name).load().headline_scores
        shown = report.headline(spec.name)
        shown = [shown] if isinstance(shown, str) else list(shown)
        there = {score.metric for score in found.scores}
        lost += [name for name in wanted if name in there and name not in shown]
    return ", ".join(lost) or "none"


@case(
    SECTION,
    "a peak of four pixels, equal but for the last bit of one: pixels that score as the peak, crosses on a sheet",
    before="4, 1",
    right=[4, 0],
    source="the metric's own rule: a millionth of the range; of several peaks none is drawn",
    test="tests/reporting/test_figures.py::test_the_peak_drawn_is_the_one_scored",
)
def peak_on_a_sheet(folder: Path) -> list[int]:
    from xaibench.reporting.figures import contact_sheet as figures
    from xaibench.reporting.figures.tiles import Tile

    heat = np.zeros((8, 8), dtype=np.float32)
    heat[2:4, 2:4] = np.float32(1)
    heat[2, 2] = np.nextafter(np.float32(1), np.float32(2))
    axes = mock.MagicMock()
    figures._draw_peak(axes, Tile(np.zeros((8, 8)), heat, None, "a", "b"))
    return [int(_ops.maxima(torch.from_numpy(heat)[None]).sum()), len(axes.method_calls)]


class LeftIsDead(Classifier):
    """Linear in the image, its left half without weight."""

    def __init__(self) -> None:
        super().__init__(("a", "b"), 4)
        self.weight = torch.nn.Parameter(torch.ones(2, 4, 4))
        self.weight.data[:, :, :2] = 0

    def features(self, images: Tensor) -> Tensor:
        return images.mean(1, keepdim=True)

    def head(self, features: Tensor, images: Tensor) -> Tensor:
        return torch.einsum("khw,bhw->bk", self.weight, features[:, 0])


class Constant(Explainer):
    def explain(self, classifier: Classifier, prediction: Prediction, targets: Tensor) -> Tensor:
        return torch.full((len(prediction), 4, 4), 0.5)


@case(
    SECTION,
    "non_sensitivity of a constant map that is not zero, on a network without weight in the left half of the image",
    before="nan",
    right=0.5,
    source="Nguyen and Rodriguez Martinez 2020: all cells matter to the map, half of them to the network",
    test="tests/metrics/test_axioms.py::test_non_sensitivity_of_a_constant_map_is_that_all_matters",
)
def constant_and_non_sensitive(folder: Path) -> float:
    network = LeftIsDead().eval()
    prediction = network.predict(torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(1)) * 0.5 + 0.25)
    targets = torch.zeros(1, dtype=torch.long)
    maps = Constant().explain(network, prediction, targets)
    return float(non_sensitivity(Explained(network, Constant(), prediction, targets, maps), grid=4))
