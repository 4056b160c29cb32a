"""Benchmark explanations of image classifiers on chest X-rays.

Names are imported when they are first used, so that ``import xaibench`` costs milliseconds and no torch. Neither that
nor a call changes the process: what the command line sets in it for speed, a notebook gets by a call of
`xaibench.io.memory.settle_process` before torch is imported.

>>> import xaibench
>>> xaibench.list_explainers("ccm*")
['ccm', 'ccm_contrast']
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from xaibench.benchmark import load_benchmark
    from xaibench.classifiers import create as create_classifier
    from xaibench.evaluation.evaluate import evaluate
    from xaibench.explainers import create as create_explainer
    from xaibench.registry import (
        list_benchmarks,
        list_classifiers,
        list_datasets,
        list_explainers,
        list_metrics,
        register,
    )
    from xaibench.results.comparison.compare import compare
    from xaibench.results.run import Run

_TARGETS = {
    "compare": "xaibench.results.comparison.compare:compare",
    "create_classifier": "xaibench.classifiers:create",
    "create_explainer": "xaibench.explainers:create",
    "evaluate": "xaibench.evaluation.evaluate:evaluate",
    "list_benchmarks": "xaibench.registry:list_benchmarks",
    "list_classifiers": "xaibench.registry:list_classifiers",
    "list_datasets": "xaibench.registry:list_datasets",
    "list_explainers": "xaibench.registry:list_explainers",
    "list_metrics": "xaibench.registry:list_metrics",
    "load_benchmark": "xaibench.benchmark:load_benchmark",
    "register": "xaibench.registry:register",
    "Run": "xaibench.results.run:Run",
}

__all__ = [
    "Run",
    "__version__",
    "compare",
    "create_classifier",
    "create_explainer",
    "evaluate",
    "list_benchmarks",
    "list_classifiers",
    "list_datasets",
    "list_explainers",
    "list_metrics",
    "load_benchmark",
    "register",
]


def __getattr__(name: str) -> Any:
    if name not in _TARGETS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _TARGETS[name].partition(":")
    found = getattr(import_module(module), attribute)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
