"""Computed once: a repeated evaluation asks nothing of the network, gives the same bits, and never a stale result."""

from __future__ import annotations

import importlib.metadata
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from tests.tiny import tiny_benchmark
from xaibench import registry
from xaibench.benchmark import Benchmark
from xaibench.classifiers.base import Classifier, seeded
from xaibench.datasets.loader import Decoder
from xaibench.datasets.phantom import PhantomSplit, phantom
from xaibench.evaluation import cache_keys as identity
from xaibench.evaluation.cache import Kept
from xaibench.evaluation.evaluate import evaluate
from xaibench.evaluation.records import join
from xaibench.evaluation.restore import reopen
from xaibench.evaluation.setup import load_splits
from xaibench.explainers.base import Explainer, upsample
from xaibench.io.store import Store
from xaibench.results.run import Run
from xaibench.types import Prediction

CALLS: list[str] = []
ROOM = [10**9]
"""Images that the pretended memory holds at once."""


class Counting(Classifier):
    """Two classes by two convolutions with fixed weights; says when it is asked, and how much it can hold."""

    comes_trained = True
    seed = 0

    def __init__(self, classes: Any, input_size: int) -> None:
        super().__init__(classes, input_size)
        with seeded(self.seed):
            self.body = torch.nn.Conv2d(3, 4, 5, stride=4)
            self.last = torch.nn.Linear(4, len(self.classes))

    def features(self, images: torch.Tensor) -> torch.Tensor:
        if len(images) > ROOM[0]:
            raise torch.OutOfMemoryError("out of memory")
        CALLS.append(f"features {len(images)}")
        return torch.relu(self.body(images))

    def head(self, features: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.last(features.mean((2, 3)))
        return logits


class Brightness(Explainer):
    """The features' sum, times the class; says when it is asked."""

    def explain(self, classifier: Classifier, prediction: Prediction, targets: torch.Tensor) -> torch.Tensor:
        CALLS.append(f"explain {len(targets)}")
        return upsample(prediction.features.sum(1) * (1 + targets[:, None, None]), prediction.frame)


@pytest.fixture(autouse=True)
def _plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("XAIBENCH_CACHE", str(tmp_path / "cache"))
    registry.register("classifiers", "counting", Counting)
    registry.register("explainers", "brightness", Brightness)
    CALLS.clear()
    yield
    ROOM[0] = 10**9
    registry.unregister("classifiers", "counting")
    registry.unregister("explainers", "brightness")


def run(tmp_path: Path, *metrics: str, benchmark: Benchmark | None = None, **options: Any) -> Run:
    return evaluate(
        "counting",
        ["brightness"],
        benchmark or tiny_benchmark(),
        **{"out": tmp_path / "runs", "store": tmp_path / "store", "batch_size": 8, "metrics": metrics or None}
        | options,
    )


def same(first: Run, second: Run) -> None:
    assert [score.to_json() for score in first.scores] == [score.to_json() for score in second.scores]
    pd.testing.assert_frame_equal(first.images(), second.images(), check_exact=True)
    pd.testing.assert_frame_equal(first.predictions(), second.predictions(), check_exact=True)


def test_the_second_time_nothing_is_asked_and_every_bit_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(tmp_path, out=tmp_path / "one")
    assert CALLS
    CALLS.clear()
    with monkeypatch.context() as patched:  # nor is an image decoded, for a sheet
        patched.setattr(PhantomSplit, "__getitem__", lambda self, row: pytest.fail(f"decoded {row}"))
        second = run(tmp_path, out=tmp_path / "two")
    assert CALLS == []
    same(first, second)
    same(first, run(tmp_path, out=tmp_path / "three", store=None))  # the store changes no bit
    assert first.record["seconds"]["brightness"] == second.record["seconds"]["brightness"] > 0  # what it cost to make
    sheets = [(tmp_path / name).rglob("contact-sheet-brightness.png") for name in ("one", "two", "three")]
    contents = [next(sheet).read_bytes() for sheet in sheets]
    assert contents[0] == contents[1] == contents[2]


def test_the_next_images_are_decoded_while_maps_are_made_and_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from xaibench.datasets.loader import Decoder

    submit = Decoder.submit
    monkeypatch.setattr(Decoder, "submit", lambda self, rows: CALLS.append(f"decode {rows[0]}") or submit(self, rows))
    run(tmp_path, "hit_rate", store=None)
    at = CALLS.index("decode 8")
    assert CALLS[at - 1] == "features 8"  # the first batch's, whose maps come next
    assert CALLS[at + 1].startswith("explain")


def test_a_sheet_is_drawn_once_and_anew_when_a_tile_is_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from xaibench.reporting.figures import contact_sheet as figures

    drawn, draw = [], figures.contact_sheet
    monkeypatch.setattr(figures, "contact_sheet", lambda *a, **k: drawn.append(1) or draw(*a, **k))
    run(tmp_path, out=tmp_path / "one")
    run(tmp_path, "energy", out=tmp_path / "two")  # without hits the sheet is another
    assert len(drawn) == 2
    run(tmp_path, "hit_rate", "energy", out=tmp_path / "three")
    assert len(drawn) == 2
    monkeypatch.setattr(Counting, "seed", 1)
    run(tmp_path, out=tmp_path / "four")
    assert len(drawn) == 3


def test_a_new_metric_runs_no_network(tmp_path: Path) -> None:
    run(tmp_path, "hit_rate")
    CALLS.clear()
    more = run(tmp_path, "hit_rate", "energy", "pixel_auc")
    assert CALLS == []
    same(more, run(tmp_path, "hit_rate", "energy", "pixel_auc", store=None, out=tmp_path / "alone"))
    CALLS.clear()
    run(tmp_path, "hit_rate", "iou_best")  # its threshold is chosen on the 12 images of validation
    assert [call for call in CALLS if call.startswith("features")] == ["features 8", "features 4"]


def test_maps_are_read_ahead_once_the_store_is_seen_to_have_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin, read, calls = Store.begin, Store.read, list[tuple[str, str]]()
    monkeypatch.setattr(Store, "begin", lambda self, key: calls.append(("begin", key)) or begin(self, key))
    monkeypatch.setattr(Store, "read", lambda self, key: calls.append(("read", key)) or read(self, key))
    run(tmp_path, "hit_rate")
    assert "begin" not in dict(calls)  # nothing was there
    calls.clear()
    run(tmp_path, "hit_rate", "energy")
    begun = [key for kind, key in calls if kind == "begin"]
    assert len(begun) > 4
    for key in begun:
        assert calls.index(("begin", key)) < calls.index(("read", key))


def test_a_metric_that_asks_the_network_asks_it_once(tmp_path: Path) -> None:
    first = run(tmp_path, "deletion")
    CALLS.clear()
    second = run(tmp_path, "deletion", out=tmp_path / "again")
    assert CALLS == []
    same(first, second)


def test_scores_of_perturbed_images_serve_the_next_explainer_and_metric(tmp_path: Path) -> None:
    """Random cells are hidden once: another metric on the same sets, and another explainer, ask nothing again."""
    sets = {"cells": 4, "share": 0.5, "samples": 6}
    table = tiny_benchmark().model_dump() | {"primary": None}

    def benchmark(*names: str) -> Benchmark:
        return Benchmark.model_validate(table | {"metrics": [{"name": name, "parameters": sets} for name in names]})

    run(tmp_path, benchmark=benchmark("faithfulness_correlation"))
    hidden = [call for call in CALLS if call.startswith("features")]
    CALLS.clear()
    both = run(tmp_path, benchmark=benchmark("faithfulness_correlation", "infidelity"), out=tmp_path / "both")
    again = [call for call in CALLS if call.startswith("features")]
    assert "features 36" in hidden  # six pairs, six sets each
    assert again == ["features 8", "features 8", "features 8", "features 4"]  # the batches alone, no set of cells
    alone = benchmark("faithfulness_correlation", "infidelity")
    same(both, run(tmp_path, benchmark=alone, out=tmp_path / "alone", store=None))


def test_a_new_explainer_finds_the_predictions_scores_and_maps_of_the_others(tmp_path: Path) -> None:
    run(tmp_path)
    CALLS.clear()
    evaluate("counting", ["brightness", "gradcam"], tiny_benchmark(), store=tmp_path / "store", batch_size=8)
    sizes = [int(call.split()[1]) for call in CALLS if call.startswith("explain")]
    assert max(sizes) <= 2  # the doctor asks with one or two, and nobody else


def test_other_weights_are_not_taken_for_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(tmp_path)
    monkeypatch.setattr(Counting, "seed", 1)
    CALLS.clear()
    other = run(tmp_path, out=tmp_path / "other")
    assert CALLS
    assert not np.array_equal(first.predictions().filter(like="logit:"), other.predictions().filter(like="logit:"))
    same(other, run(tmp_path, out=tmp_path / "alone", store=None))


def test_an_attribute_that_no_tensor_tells_is_not_taken_for_the_same(tmp_path: Path) -> None:
    class Scaled(Counting):
        factor = 1.0

        def __init__(self, factor: float) -> None:
            super().__init__(tiny_benchmark().classes, 64)
            self.factor = factor
            self.register_buffer("shift", torch.full((1,), 0.5 * factor), persistent=False)

        def features(self, images: torch.Tensor) -> torch.Tensor:
            return super().features(images) * self.factor + self.shift

    logits = []
    for factor in (1.0, 3.0):
        options: dict[str, Any] = {"out": tmp_path / str(factor), "store": tmp_path / "store", "batch_size": 8}
        made = evaluate(Scaled(factor), ["brightness"], tiny_benchmark(), **options)
        logits.append(made.predictions().filter(like="logit:").to_numpy())
    assert not np.array_equal(logits[0], logits[1])


def test_a_plugin_is_known_by_the_versions_of_what_it_needs(install: Any) -> None:
    metadata = install("thin", {}, thin_layer="class Method: pass\n")
    with (metadata / "METADATA").open("a") as file:
        file.write("Requires-Dist: pillow>=1; python_version > '3'\nRequires-Dist: no-such-library\n")
    (metadata / "top_level.txt").write_text("thin_layer\n")
    (metadata / "RECORD").write_text("thin_layer.py,,\n")
    identity._requirements.cache_clear()
    assert identity._requirements("thin_layer") == {"pillow": importlib.metadata.version("pillow")}
    method = __import__("thin_layer").Method
    before = identity.code_of({method}, "maps")
    identity._requirements.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importlib.metadata, "version", lambda _: "another")
        assert identity.code_of({method}, "maps") != before
    identity._requirements.cache_clear()


def test_a_level_of_chance_belongs_to_its_images(tmp_path: Path) -> None:
    """A metric may be scored against a mask of the image (lungs), which the regions' hash does not tell."""
    kept = Kept(Store(tmp_path), {"name": "c"}, {}, {})
    split = phantom(classes=("No Finding", "Effusion"), input_size=32, options={"train": 2, "val": 2, "test": 8}).test
    first, other = (kept.batch(split, rows) for rows in (range(4), range(4, 8)))
    assert first is not None
    assert other is not None
    first.keep_scores(None, [], {"masks": "alike"}, {"metric": np.zeros((1, 1))}, {})
    assert first.scores(None, [], {"masks": "alike"}) is not None
    assert other.scores(None, [], {"masks": "alike"}) is None


def test_edited_code_is_not_taken_for_the_same(tmp_path: Path, install: Any) -> None:
    source = (
        "from xaibench.explainers.base import Explainer\n"
        "class Mine(Explainer):\n"
        "    def explain(self, classifier, prediction, targets):\n"
        "        return prediction.images.sum(1) * {factor}\n"
    )
    found = []
    for factor in (1, -1):
        identity._sources.cache_clear()
        metadata = install(
            "mine", {"xaibench.explainers": "mine = mine_code:Mine"}, mine_code=source.format(factor=factor)
        )
        made = evaluate(
            "counting", ["mine"], tiny_benchmark(), store=tmp_path / "store", out=tmp_path / f"runs{factor}"
        )
        found.append(made.select(explainer="mine", metric="energy", class_name="macro")[0].defined)
        shutil.rmtree(metadata.parent)
        __import__("sys").modules.pop("mine_code", None)
        registry.refresh()
    identity._sources.cache_clear()
    assert found[0] is not None
    assert found[0] > 0
    assert found[1] in (None, 0.0)  # nothing of the negative map is positive


def test_a_changed_image_is_seen_and_the_others_are_kept(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    root = tmp_path / "data"
    root.mkdir()
    lines = ["image,class,split"]
    for n in range(12):
        Image.fromarray(rng.integers(0, 255, (64, 64), dtype=np.uint8)).save(root / f"{n}.bmp")
        lines.append(f"{n}.bmp,{'Effusion' if n % 2 else 'No Finding'},{'test' if n > 3 else 'train'}")
    (root / "table.csv").write_text("\n".join(lines) + "\n")
    (root / "boxes.csv").write_text(
        "image,class,x0,y0,x1,y1\n" + "".join(f"{n}.bmp,Effusion,4,4,30,40\n" for n in range(1, 12, 2))
    )
    options = {"table": "table.csv", "boxes": "boxes.csv", "label_column": "class", "split_column": "split"}
    table = tiny_benchmark().model_dump() | {"primary": None}
    table |= {"classes": ["No Finding", "Effusion"], "dataset": {"name": "folder", "options": options}}
    benchmark = Benchmark.model_validate(table)
    run(tmp_path, benchmark=benchmark, data_root=root, batch_size=4)
    assert "features 4" in CALLS
    test = load_splits(benchmark, root).test
    before = [test.image_key(row) for row in range(8)]
    Image.fromarray(rng.integers(0, 255, (64, 64), dtype=np.uint8)).save(root / "11.bmp")  # the same size in bytes
    assert [test.image_key(row) == before[row] for row in range(8)] == [True] * 7 + [False]
    CALLS.clear()
    changed = run(tmp_path, benchmark=benchmark, data_root=root, batch_size=4, out=tmp_path / "changed")
    asked = CALLS[CALLS.index("features 4") :]  # once the doctor has looked: the data are others
    # The prior box learns from the data, so that the network is asked for both batches. The maps of the first are kept,
    # those of the second made, and its plain images explained once more for the contact sheet.
    assert asked == ["features 4", "features 4", "explain 2", "explain 2"]
    same(changed, run(tmp_path, benchmark=benchmark, data_root=root, batch_size=4, out=tmp_path / "b", store=None))


def test_damaged_entries_are_made_again_and_reported(tmp_path: Path) -> None:
    first = run(tmp_path)
    rng = np.random.default_rng(0)
    for entry in Store(tmp_path / "store").entries():
        content = bytearray(entry.path.read_bytes())
        content[int(rng.integers(len(content)))] ^= 1
        entry.path.write_bytes(content)
    second = run(tmp_path, out=tmp_path / "again")
    same(first, second)
    assert any("damaged entries of the store" in note for note in second.notes)
    assert Store(tmp_path / "store").verify()[1] == []


def test_a_store_that_takes_nothing_costs_no_score(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = run(tmp_path, out=tmp_path / "alone", store=None)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Store, "_put", full)
    found = run(tmp_path, out=tmp_path / "full")
    same(alone, found)
    assert any("the store took no more" in note and "xaibench store prune" in note for note in found.notes)


def test_code_that_cannot_be_found_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Brightness, "__module__", "__main__")
    monkeypatch.setattr("sys.modules", {**__import__("sys").modules, "__main__": type("Notebook", (), {})})
    run(tmp_path)
    CALLS.clear()
    run(tmp_path, out=tmp_path / "again")
    assert [call for call in CALLS if call.startswith("explain")]


def test_a_report_takes_the_maps_that_the_run_left(tmp_path: Path) -> None:
    made = run(tmp_path)
    table = made.images()
    pairs = sorted({(str(row.image), str(row["class"])) for _, row in table[["image", "class"]].iterrows()})
    shown: dict[Any, np.ndarray] = {}

    def keep(explainer: str, target: int, sample: Any, heat: torch.Tensor, _: float | None) -> None:
        shown[sample.id, target] = heat.numpy()

    opened = reopen(made, store=tmp_path / "store")
    CALLS.clear()
    opened.show(pairs, ["brightness"], keep)
    assert CALLS == []
    assert len(shown) == len(pairs)
    kept, shown = shown, {}
    reopen(made, store=tmp_path / "nothing").show(pairs, ["brightness"], keep)
    assert CALLS
    assert kept.keys() == shown.keys()
    for pair, heat in kept.items():
        np.testing.assert_allclose(heat, shown[pair], rtol=1e-5, atol=1e-6)  # other batches, float32's rounding


def test_a_report_of_a_rounded_run_takes_its_rounded_maps(tmp_path: Path) -> None:
    made = run(tmp_path, precision="bf16")
    pairs = sorted({(str(row.image), str(row["class"])) for _, row in made.images()[["image", "class"]].iterrows()})
    CALLS.clear()
    opened = reopen(made, store=tmp_path / "store")
    shown: list[torch.Tensor] = []
    opened.show(pairs, ["brightness"], lambda *said: shown.append(said[3]))
    assert CALLS == []
    assert len(shown) == len(pairs)


@pytest.mark.parametrize("room", [1, 3])
def test_a_batch_that_the_memory_cannot_hold_is_halved(tmp_path: Path, room: int) -> None:
    whole = run(tmp_path, out=tmp_path / "whole", store=None)
    ROOM[0] = room
    CALLS.clear()
    halved = run(tmp_path, out=tmp_path / "halved", store=None)
    sizes = {int(call.split()[1]) for call in CALLS if call.startswith("features")}
    assert max(sizes) <= room
    assert len(whole.scores) == len(halved.scores)
    for one, other in zip(whole.scores, halved.scores, strict=True):
        assert (one.n, one.nan, one.metric) == (other.n, other.nan, other.metric)
        if one.value is not None:
            assert other.value == pytest.approx(one.value, abs=1e-4)


def test_one_image_too_large_is_an_error(tmp_path: Path) -> None:
    ROOM[0] = 0
    with pytest.raises(torch.OutOfMemoryError):
        run(tmp_path, store=None)


def test_what_was_decoded_for_a_batch_that_is_halved_is_dropped() -> None:
    split = phantom(classes=("No Finding", "Effusion"), input_size=32, options={"train": 2, "val": 2, "test": 8}).test
    with Decoder(split) as decoder:
        decoder.submit(range(8))
        decoder.forget()
        assert decoder._waiting == {}
        assert [sample.id for sample in decoder.take(range(4)).samples] == list(split.ids[:4])


def test_no_parts_make_empty_records() -> None:
    records = join([], (), ["brightness"])
    assert len(records.logits) == len(records.pair_images) == 0
    assert records.values["brightness"].shape == (0, 0)
