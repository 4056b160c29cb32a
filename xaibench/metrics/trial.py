"""Parameters of metrics, tried before a run: a wrong one must not be found out after hours of training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from xaibench.classifiers.base import Classifier, seeded
from xaibench.errors import PLUGIN_ERRORS, UsageError, first_line
from xaibench.explainers.base import Explainer
from xaibench.metrics.base import ASKS_NETWORK, Metric
from xaibench.metrics.explained import Explained
from xaibench.types import Prediction

_LARGEST, _MANY = 512, 20_000
"""Side of the images that are tried on, and counts of samples above which a trial would take too long."""


def check_parameters(metric: Metric, parameters: Mapping[str, Any], size: int, task: str) -> None:
    """Try a metric with a benchmark's parameters on one image.

    Args:
        metric: of maps.
        parameters: those that differ from its defaults.
        size: side of the images.
        task: the benchmark's.

    Raises:
        UsageError: a value of another type than the default's, or out of the range that the metric takes.
    """
    for name, value in parameters.items():
        _check_type(metric.name, name, value, metric.parameters[name])
    if not parameters or any(isinstance(value, int) and value > _MANY for value in parameters.values()):
        return
    side = min(size, _LARGEST)
    try:
        _tried(metric, parameters, side, task)
    except PLUGIN_ERRORS as error:
        try:
            _tried(metric, {}, side, task)
        except PLUGIN_ERRORS:
            return  # whatever it needs, this is not of the parameters
        shown = ", ".join(f"{name} = {value!r}" for name, value in parameters.items())
        raise UsageError(f"metric {metric.name!r} with {shown}: {first_line(error, 300)}") from error


def _check_type(metric: str, name: str, value: Any, default: Any) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    wanted = ""
    if isinstance(default, bool):
        wanted = "" if isinstance(value, bool) else "true or false"
    elif isinstance(default, int):
        wanted = "" if number and isinstance(value, int) else "a whole number"
    elif isinstance(default, float):
        wanted = "" if number else "a number"
    elif isinstance(default, str):
        wanted = "" if isinstance(value, str) else "a text"
    elif isinstance(default, tuple | list):
        several = isinstance(value, tuple | list) and len(value) > 0
        wanted = "" if several and not any(isinstance(x, str) for x in value) else "a list of numbers"
        for one in value if not wanted else ():
            _check_type(metric, f"{name}: an entry", one, 0.0)
    if wanted:
        raise UsageError(f"metric {metric!r}: {name} = {value!r}; it is {wanted}")


def _tried(metric: Metric, parameters: Mapping[str, Any], side: int, task: str) -> None:
    with torch.no_grad():
        if metric.category in ASKS_NETWORK:
            metric(_explained(side, task), **parameters)
            return
        maps = torch.rand(1, side, side, generator=torch.Generator().manual_seed(0))
        masks = torch.zeros(1, side, side, dtype=torch.bool)
        masks[:, side // 4 : side // 2, side // 4 : side // 2] = True
        metric(maps, masks, **parameters)


def _explained(side: int, task: str) -> Explained:
    classifier = _Linear(side).eval()
    images = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(1))
    prediction, targets = classifier.predict(images, ("trial",)), torch.tensor([1])
    explainer = _Grey()
    return Explained(
        classifier, explainer, prediction, targets, explainer.explain(classifier, prediction, targets), task, {}
    )


class _Linear(Classifier):
    """A network of next to no cost."""

    def __init__(self, side: int) -> None:
        super().__init__(("a", "b", "c"), side)
        with seeded(0):
            self.last = nn.Linear(3, 3)

    def features(self, images: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(images, max(1, images.shape[-1] // 4))

    def head(self, features: Tensor, images: Tensor) -> Tensor:
        return self.last(features.mean((2, 3)))  # type: ignore[no-any-return]


class _Grey(Explainer):
    """The image, times a number for the class."""

    def explain(self, classifier: Classifier, prediction: Prediction, targets: Tensor) -> Tensor:
        return prediction.images.mean(1) * (1 + targets[:, None, None])
