"""Packages with a fault each, evaluated beside a sound one: each is named with the remedy, the others' scores stand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tiny import tiny_benchmark
from xaibench.errors import PluginError, XaibenchError
from xaibench.evaluation.evaluate import evaluate, raise_if_failed
from xaibench.results.run import Run

HEAD = """
import torch
from xaibench.explainers.base import Explainer, upsample

class Mine(Explainer):
    '''Where the features are strong, times the class's number.'''
"""
BODIES = {
    "sad": "raise RuntimeError('boom')\n",
    "coarse": HEAD
    + "    def explain(self, classifier, prediction, targets):\n        return torch.zeros(len(targets), 8, 8)\n",
    "leaky": HEAD
    + "    def explain(self, classifier, prediction, targets):\n"
    + "        classifier.decoders[0][-1].register_forward_hook(lambda m, i, o: o * 0)\n"  # would spoil all after it
    + "        classifier.train()\n"
    + "        return upsample(prediction.features.norm(dim=1) * (1 + targets)[:, None, None], prediction.frame)\n",
    "undefined": HEAD
    + "    def explain(self, classifier, prediction, targets):\n"
    + "        maps = upsample(prediction.features.norm(dim=1) * (1 + targets)[:, None, None], prediction.frame)\n"
    + "        return (maps - maps.amax((1, 2), keepdim=True)).sqrt()\n",
    "fussy": HEAD
    + "    def __init__(self):\n        {}['no such key']\n"
    + "    def explain(self, classifier, prediction, targets):\n        return None\n",
    "alien": "def Mine():\n    return object()\n",
}


@pytest.fixture
def packages(install: Callable[..., Path]) -> None:
    for name, source in BODIES.items():
        install(f"{name}-pkg", {"xaibench.explainers": f"{name} = {name}_mod:Mine"}, **{f"{name}_mod": source})


def values(run: Run, explainer: str) -> dict[tuple[str, str], float | None]:
    return {(score.metric, score.class_name): score.value for score in run.select(explainer=explainer)}


def test_each_is_named_with_the_remedy_and_the_others_are_complete(packages: None, tmp_path: Path) -> None:
    names = ["sad", "coarse", "leaky", "undefined", "fussy", "alien", "cwm", "gradcam"]
    run = evaluate("gcm", names, tiny_benchmark(), device="cpu", out=tmp_path / "runs")
    plain = evaluate("gcm", ["cwm", "gradcam"], tiny_benchmark(), device="cpu")
    for name in ("cwm", "gradcam", "random", "center"):
        assert values(run, name) == values(plain, name)
    said = {name: " ".join(note for note in run.notes if note.startswith(f"explainer {name}")) for name in BODIES}
    assert "sad-pkg 1.0" in said["sad"]
    assert "RuntimeError: boom" in said["sad"]
    assert "uninstall it" in said["sad"]
    assert "(21, 8, 8)" in said["coarse"] or "8, 8)" in said["coarse"]
    assert "upsample(maps, prediction.frame)" in said["coarse"]
    assert "decoders.0" in said["leaky"]
    assert "finally block" in said["leaky"]
    assert "21 of " in said["undefined"] or "maps hold NaN" in said["undefined"]
    assert "guard its divisions" in said["undefined"]
    assert "KeyError: 'no such key'" in said["fussy"]
    assert "xaibench plugin check fussy-pkg" in said["fussy"]
    assert "no Explainer" in said["alien"]
    assert not any("\n" in note for note in run.notes)
    assert values(run, "leaky")  # its maps are sound: they are scored
    assert set(run.record["failed"]) == {"sad", "coarse", "fussy", "alien"}
    with pytest.raises(XaibenchError, match="the other scores are kept"):
        raise_if_failed(run)


def test_nothing_but_broken_ones_is_an_error(packages: None) -> None:
    with pytest.raises(PluginError, match=r"sad-pkg 1\.0"):
        evaluate("gcm", ["sad"], tiny_benchmark(), device="cpu")
