"""Maps of two classifiers compared on the same pairs: by hand, whatever the order, with patients of several subsets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.evaluation.saved_runs import saved_run
from tests.tiny import tiny_benchmark
from xaibench.errors import XaibenchError
from xaibench.results.run import Run
from xaibench.statistics import permutation_test
from xaibench.studies.gcm_paper.map_pairs import compare_maps

BENCHMARK = tiny_benchmark()
LABELS = np.tile(np.eye(4, dtype=np.int64), (3, 1))
BOXED = ("Cardiomegaly", "Effusion")
ROWS = {"Cardiomegaly": (1, 5, 9), "Effusion": (3, 7, 11)}


def study(
    folder: Path, classifier: str, explainer: str, values: dict[int, float], names: list[str] | None = None
) -> Run:
    """A run whose energy of an explainer on image i<row> is values[row]."""
    energy = {(explainer, "energy", row): value for row, value in values.items()}
    return saved_run(folder, BENCHMARK, classifier, 1.0 * LABELS, LABELS, boxed=BOXED, patients=names, values=energy)


CWM = {1: 0.9, 5: 0.7, 9: 0.5, 3: 0.4, 7: 0.3, 11: 0.2}
CAM = {1: 0.5, 5: 0.5, 9: 0.5, 3: 0.3, 7: 0.1, 11: 0.3}


def test_means_and_p_by_hand(tmp_path: Path) -> None:
    first, second = study(tmp_path / "g", "gcm", "cwm", CWM), study(tmp_path / "d", "densenet121", "gradcam", CAM)
    found = {row.class_name: row for row in compare_maps([first], [second], ("cwm", "gradcam"), ["energy"])}
    assert list(found) == [*BOXED, "macro"]
    heart, fluid, macro = found.values()
    assert (heart.first, heart.second, heart.difference) == pytest.approx((0.7, 0.5, 0.2))
    assert (fluid.first, fluid.second, fluid.difference) == pytest.approx((0.3, 0.7 / 3, 0.2 / 3))
    assert macro.difference == pytest.approx((0.2 + 0.2 / 3) / 2)
    assert heart.p == 0.5  # (0.4, 0.2, 0): two of the four choices of sign
    differences = [CWM[row] - CAM[row] for rows in ROWS.values() for row in rows]
    patients = [f"p{row}" for rows in ROWS.values() for row in rows]
    classes = [name for name, rows in ROWS.items() for _ in rows]
    assert macro.p == pytest.approx(permutation_test(differences, patients, classes).p)
    assert (macro.p_holm, macro.n, macro.patients, macro.left_out) == (macro.p, 6, 6, 0)
    assert np.isnan(heart.p_holm)


def test_the_same_patients_in_another_subset_tell_nothing_more(tmp_path: Path) -> None:
    pairs = [
        (study(tmp_path / f"g{k}", "gcm", "cwm", CWM), study(tmp_path / f"d{k}", "densenet121", "gradcam", CAM))
        for k in range(3)
    ]
    once, thrice = (
        compare_maps([g for g, _ in part], [d for _, d in part], ("cwm", "gradcam"), ["energy"])[-1]
        for part in (pairs[:1], pairs)
    )
    assert thrice.difference == pytest.approx(once.difference)
    assert thrice.p == pytest.approx(once.p)
    assert (thrice.low, thrice.high) == pytest.approx((once.low, once.high))
    assert (thrice.n, thrice.patients) == (18, 6)


def test_an_undefined_map_is_counted(tmp_path: Path) -> None:
    first = study(tmp_path / "g", "gcm", "cwm", {**CWM, 9: float("nan")})
    second = study(tmp_path / "d", "densenet121", "gradcam", CAM)
    (heart, _, _) = compare_maps([first], [second], ("cwm", "gradcam"), ["energy"])
    from xaibench import registry

    counts = hasattr(registry.get("metrics", "energy").load(), "counted")  # as chance, 0.1, where a metric says so
    assert (heart.n, heart.left_out) == ((3, 0) if counts else (2, 1))
    assert heart.first == pytest.approx((1.6 + 0.1) / 3 if counts else 0.8)


def test_other_images_are_refused(tmp_path: Path) -> None:
    first = study(tmp_path / "g", "gcm", "cwm", CWM)
    other = saved_run(tmp_path / "d", BENCHMARK, "densenet121", np.zeros((8, 4)), LABELS[:8], boxed=BOXED)
    with pytest.raises(XaibenchError, match="not of the same images"):
        compare_maps([first], [other], ("cwm", "gradcam"), ["energy"])
    assert compare_maps([first], [first], ("cwm", "cwm"), ["pixel_auc"]) == []  # not scored in these runs
