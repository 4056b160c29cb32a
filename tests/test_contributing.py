"""CONTRIBUTING.md: its metric and its explainer run, conform, and are as short as it says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from xaibench import registry
from xaibench.metrics import Metric
from xaibench.testing import check_explainer, check_metric, small_prediction
from xaibench.testing.small import Small

ROOT = Path(__file__).resolve().parent.parent
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.DOTALL)


def run(block: str) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "contributed"}
    exec(block, names)
    return names


def test_the_metric_is_one_function_and_conforms() -> None:
    made = run(BLOCKS[0])["mass_inside"]
    assert isinstance(made, Metric)
    (declaration,) = [line for line in BLOCKS[0].splitlines() if line.startswith("@metric(")]
    assert declaration.count("=") + 1 <= 6  # arguments of the decorator
    maps, masks = torch.tensor([[[3.0, -1.0]]]), torch.tensor([[[False, True]]])
    assert made(maps, masks).tolist() == [0.25]
    assert [finding.what for finding in check_metric(made) if finding.severity == "error"] == []


def test_the_explainer_is_short_and_conforms() -> None:
    made = run(BLOCKS[1])["GradientNorm"]
    lines = BLOCKS[1].split("class ")[1].rstrip().splitlines()
    assert len(lines) <= 12
    registry.register("explainers", "gradient_norm", made)
    try:
        assert check_explainer("gradient_norm") == []
        classifier = Small()
        prediction = small_prediction(classifier)
        targets = torch.zeros(len(prediction), dtype=torch.long)
        maps = made().explain(classifier, prediction, targets)
    finally:
        registry.unregister("explainers", "gradient_norm")
    assert maps.shape == (len(prediction), prediction.frame.height, prediction.frame.width)
    assert (maps >= 0).all()


@pytest.mark.parametrize("name", ["check", "test"])
def test_scripts_can_be_called(name: str) -> None:
    assert (ROOT / "scripts" / name).stat().st_mode & 0o111
    assert f"scripts/{name}" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
