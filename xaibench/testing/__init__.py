"""The conformance kit: what every plugin must do, as functions that return findings, and as a pytest fixture.

::

    def test_conforms(conforms):
        conforms("explainers", "mine")

`conforms` comes with the install (a pytest plugin); the functions serve any other tester, and
``xaibench plugin check PACKAGE`` runs them on every entry point of an installed package.

>>> from xaibench.testing import check_metric
>>> check_metric("energy")
[]
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xaibench.findings import Finding
    from xaibench.testing.classifiers import check_classifier
    from xaibench.testing.datasets import check_benchmark, check_dataset
    from xaibench.testing.explainers import check_explainer
    from xaibench.testing.metrics import check_metric
    from xaibench.testing.package import check_package
    from xaibench.testing.small import small_classifiers, small_images, small_prediction, small_splits

_TARGETS = {  # imported when first used: pytest imports this package in every project
    "Finding": "xaibench.findings",
    "check_benchmark": "xaibench.testing.datasets",
    "check_classifier": "xaibench.testing.classifiers",
    "check_dataset": "xaibench.testing.datasets",
    "check_explainer": "xaibench.testing.explainers",
    "check_metric": "xaibench.testing.metrics",
    "check_package": "xaibench.testing.package",
    "small_classifiers": "xaibench.testing.small",
    "small_images": "xaibench.testing.small",
    "small_prediction": "xaibench.testing.small",
    "small_splits": "xaibench.testing.small",
}

__all__ = [
    "Finding",
    "check_benchmark",
    "check_classifier",
    "check_dataset",
    "check_explainer",
    "check_metric",
    "check_package",
    "small_classifiers",
    "small_images",
    "small_prediction",
    "small_splits",
]


def __getattr__(name: str) -> Any:
    if name not in _TARGETS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_TARGETS[name]), name)
