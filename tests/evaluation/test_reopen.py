"""A run's maps made again: the same maps, or one line that says why not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.tiny import tiny_benchmark
from xaibench.errors import DataError, NotApplicableError, UsageError, WeightsError, XaibenchError
from xaibench.evaluation.evaluate import evaluate
from xaibench.evaluation.restore import reopen
from xaibench.metrics.localization import hit_rate, visible_in_box
from xaibench.results.run import Run
from xaibench.types import Sample


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("XAIBENCH_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="module")
def run(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    made = evaluate("gcm", ["cwm", "ccm"], tiny_benchmark(), out=tmp_path_factory.mktemp("runs"), device="cpu")
    assert made.directory is not None
    return Run.load(made.directory)


def test_the_maps_are_those_that_the_run_scored(run: Run) -> None:
    table = run.images()
    opened = reopen(run, device="cpu")
    pairs = set(table[["image", "class"]].astype(str).itertuples(index=False, name=None))
    for explainer in ("cwm", "random"):  # a stochastic one draws from the image's id
        scored = table[table["explainer"] == explainer].astype({"class": str, "metric": str})
        found: dict[tuple[str, str], tuple[float, float]] = {}

        def score(_: str, target: int, sample: Sample, heat: torch.Tensor, __: Any, found: Any = found) -> None:
            mask = torch.from_numpy(sample.regions[target].rasterize(run.benchmark.frame))[None]
            share = visible_in_box(heat[None], mask, thresholds=[0.5]).item()
            found[sample.id, run.benchmark.classes[target]] = (hit_rate(heat[None], mask).item(), share)

        opened.show(pairs, [explainer], score, batch_size=5)
        assert set(found) == pairs
        for place, metric in enumerate(("hit_rate", "visible_in_box@0.50")):
            wanted = scored[scored["metric"] == metric].set_index(["image", "class"])["value"]
            ours = np.array([found[pair][place] for pair in wanted.index])
            # another batch size adds in another order: a pixel of a box of some 70 may pass a threshold or not
            np.testing.assert_allclose(ours, wanted, atol=1e-6 if metric == "hit_rate" else 0.05)


def test_only_the_pairs_asked_for_are_shown_and_an_image_without_boxes_too(run: Run) -> None:
    table = run.predictions()
    plain = str(table["image"][table["label:No Finding"] == 1].iloc[0])
    boxed = str(run.images()["image"].iloc[0])
    name = str(run.images()["class"].iloc[0])
    seen = []
    opened = reopen(run, device="cpu")
    opened.show(
        [(plain, "No Finding"), (boxed, name)],
        ["ccm"],
        lambda explainer, target, sample, heat, hit: seen.append((sample.id, explainer, tuple(heat.shape))),
    )
    assert sorted(seen) == sorted([(plain, "ccm", (64, 64)), (boxed, "ccm", (64, 64))])
    with pytest.raises(UsageError, match=r"'none\.png' with class 'Effusion' is not in"):
        opened.show([("none.png", "Effusion")], ["ccm"], lambda *_: None)
    with pytest.raises(NotApplicableError, match="use gradcam"):
        opened.show([(boxed, name)], ["cam"], lambda *_: None)


def test_other_data_other_weights_and_no_weights_are_one_line(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = dict(run.record["weights"])
    other = replace(run, record={**run.record, "weights": weights | {"sha256": "0" * 64}})
    with pytest.raises(WeightsError, match=r"are not those of run .* give --checkpoint"):
        reopen(other, device="cpu")
    table = run.benchmark.model_dump()
    table["dataset"]["options"]["seed"] = 7
    with pytest.raises(DataError, match=r"the data are not those of run .*\(other train, val, test images or labels\)"):
        reopen(replace(run, benchmark=tiny_benchmark(dataset=table["dataset"])), device="cpu")
    with pytest.raises(XaibenchError, match=r"record of run .* is incomplete"):
        reopen(replace(run, record={}), device="cpu")
    (kept,) = Path(str(_cache())).glob("checkpoints/*.safetensors")
    monkeypatch.setenv("XAIBENCH_CACHE", str(tmp_path))
    with pytest.raises(WeightsError, match="not in the cache: give --checkpoint"):
        reopen(run, device="cpu")
    assert reopen(run, checkpoint=kept, device="cpu").run is run


def _cache() -> Path:
    from xaibench.io.files import cache_dir

    return cache_dir()
