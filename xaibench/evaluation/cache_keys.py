"""What decides a result, by name: weights, code, parameters, images, versions. The store's keys are made of it.

Code is part of it, so that a map made by yesterday's version of a method that is being written is never taken for
today's. What can't be identified (a class typed into a notebook, maps read from a folder) is not kept: None.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import inspect
import json
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from xaibench.benchmark import digest
from xaibench.classifiers.base import Classifier, hash_tensors
from xaibench.datasets.base import Splits
from xaibench.explainers.base import Explainer
from xaibench.io.versions import libraries
from xaibench.metrics.bound import MapMetric

_BY_VERSION = frozenset({"builtins", "abc", "torch", "torchvision", "timm", "captum", "pytorch_grad_cam", "numpy"})
"""Modules known by their version (`xaibench.io.versions.LIBRARIES`); any other package by its code."""
_OURS = {
    "maps": ("types.py", "classifiers", "datasets", "explainers"),
    "scores": ("types.py", "classifiers", "datasets", "explainers", "metrics"),
    "sheets": ("types.py", "reporting"),
    "doctor": ("types.py", "classifiers", "datasets", "explainers", "doctor"),
    "engine": ("types.py", "classifiers", "datasets", "explainers", "metrics", "evaluation", "io", "results"),
}
"""The parts of this package that decide a map, its score, a contact sheet, what the doctor says, what a worker does."""


def classifier_identity(name: str, classifier: Classifier, options: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what decides a classifier's predictions; None where the code of a layer can't be found."""
    code = code_of({type(module) for module in classifier.modules()}, "maps")
    if code is None:
        return None
    return {
        "name": name,
        "type": _qualified(type(classifier)),
        "code": code,
        "options": json.dumps(dict(options), sort_keys=True, default=repr),
        "classes": list(classifier.classes),
        "input_size": classifier.input_size,
        "state": hash_tensors([*classifier.state_dict().items(), *classifier.named_buffers()]),
        "settings": digest(_settings(classifier)),
        "weights": classifier.weights.sha256,
        "device": classifier.device.type,
        "dtype": str(next((p.dtype for p in classifier.parameters()), None)),
        "libraries": libraries(),
    }


def _settings(classifier: Classifier) -> list[Any]:
    """Return the plain attributes of all layers: strides, sizes, factors, which no tensor of the state tells."""
    plain = (bool, int, float, str, type(None))
    return [
        [name, attribute, repr(value)]
        for name, layer in classifier.named_modules()
        for attribute, value in sorted(vars(layer).items())
        if not attribute.startswith("_")
        and isinstance(value, (*plain, tuple))
        and all(isinstance(part, plain) for part in (value if isinstance(value, tuple) else (value,)))
    ]


def explainer_identity(name: str, explainer: Explainer, splits: Splits) -> dict[str, Any] | None:
    """Return what decides an explainer's maps beside the classifier; None where they are not to be kept.

    An explainer that learns from the data (`Explainer.prepare`) depends on all three splits.
    """
    if explainer.fixed:
        return None
    code = code_of({type(explainer)}, "maps")
    if code is None:
        return None
    learns = type(explainer).prepare is not Explainer.prepare
    data = [splits.train.fingerprint, splits.val.fingerprint, splits.test.fingerprint] if learns else []
    return {"name": name, "type": _qualified(type(explainer)), "code": code, "data": data}


def metric_identity(metric: MapMetric) -> str | None:
    """Return the hash of what decides a metric's scores of given maps; None where its code can't be found."""
    code = code_of({metric.metric.compute}, "scores")
    if code is None:
        return None
    parameters = {**metric.metric.parameters, **metric.parameters}
    return digest([metric.metric.name, _qualified(metric.metric.compute), parameters, code])


def code_of(objects: Iterable[Any], part: str) -> str | None:
    """Return a hash of the sources of the packages that classes or functions, and their bases, come from.

    Args:
        objects: classes or functions.
        part: "maps", "scores", "sheets", "doctor" or "engine": which parts of this package count.
    """
    packages = set()
    for thing in objects:
        for base in inspect.getmro(thing) if inspect.isclass(thing) else (thing,):
            packages.add(base.__module__.partition(".")[0])
    others = sorted(packages - _BY_VERSION)
    hashes = {package: _sources(package, part) for package in others}
    return None if None in hashes.values() else digest([hashes, [_requirements(package) for package in others]])


@cache
def _requirements(package: str) -> dict[str, str]:
    """Return the versions of what the distributions of a package need: a plugin may be a thin layer over its library.

    Of this package they are `libraries`.
    """
    found: dict[str, str] = {}
    for distribution in () if package == "xaibench" else importlib.metadata.packages_distributions().get(package, ()):
        for requirement in importlib.metadata.requires(distribution) or ():
            name = Requirement(requirement).name
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                found[name] = importlib.metadata.version(name)
    return found


@cache
def _sources(package: str, part: str) -> str | None:
    file = getattr(sys.modules.get(package), "__file__", None)
    if file is None or not Path(file).is_file() or Path(file).suffix != ".py":
        return None
    path = Path(file)
    if package == "xaibench":
        found = [part for name in _OURS[part] for part in _python(path.parent / name)]
    else:
        found = _python(path.parent) if path.name == "__init__.py" else [path]
    known = hashlib.sha256()
    for source in found:
        known.update(f"{source.relative_to(path.parent).as_posix()}\n".encode())
        known.update(source.read_bytes())
    return known.hexdigest()


def _python(path: Path) -> list[Path]:
    return sorted(path.rglob("*.py")) if path.is_dir() else [path]


def _qualified(thing: Any) -> str:
    return f"{thing.__module__}.{getattr(thing, '__qualname__', thing)}"
