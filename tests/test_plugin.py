"""`xaibench.plugin` is the one import line of plugin authors: templates and the plugins beside it need no other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import xaibench.plugin
from xaibench.classifiers.base import Classifier
from xaibench.datasets.base import Split
from xaibench.explainers.base import Explainer
from xaibench.metrics.base import Metric

ROOT = Path(__file__).resolve().parent.parent
PUBLIC = {"xaibench", "xaibench.plugin", "xaibench.testing", "xaibench.testing.small"}
WITHOUT_PROMISE = {"xaibench.classifiers.densenet", "xaibench.classifiers.weights", "xaibench.explainers.layers"}
"""What the plugins of this repository use beyond: they move with it."""
TEMPLATES = sorted((ROOT / "xaibench" / "scaffold" / "templates").glob("*.py.j2"))
PLUGINS = sorted((ROOT / "plugins").glob("*/src/**/*.py"))


def imported(path: Path) -> set[str]:
    return set(
        re.findall(r"^\s*(?:from|import) (xaibench(?:\.\w+)*)\b", path.read_text(encoding="utf-8"), re.MULTILINE)
    )


def test_names_are_the_classes_that_are_used_inside() -> None:
    assert xaibench.plugin.Classifier is Classifier
    assert xaibench.plugin.Explainer is Explainer
    assert xaibench.plugin.Metric is Metric
    assert xaibench.plugin.Split is Split
    assert all(hasattr(xaibench.plugin, name) for name in xaibench.plugin.__all__)


@pytest.mark.parametrize("path", [*TEMPLATES, ROOT / "docs" / "plugins.md"], ids=lambda path: path.name)
def test_what_new_plugins_start_from_needs_nothing_private(path: Path) -> None:
    assert imported(path) <= PUBLIC


@pytest.mark.parametrize("path", PLUGINS, ids=lambda path: path.parent.name + "/" + path.name)
def test_our_own_plugins_import_one_line(path: Path) -> None:
    assert imported(path) <= PUBLIC | WITHOUT_PROMISE
