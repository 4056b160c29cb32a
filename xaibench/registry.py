"""Plugins by name: entry points of installed distributions, imported when they are first used.

A plugin is an entry point in one of the groups ``xaibench.classifiers``, ``.explainers``, ``.metrics``, ``.datasets``
and ``.benchmarks``; the built-ins are entry points of xaibench itself. The metadata is read once in a process; nothing
is imported until `Entry.load`.

>>> get("explainers", "cwm").target
'xaibench.explainers.gcm:CWM'
>>> entry = get("classifiers", "timm:resnet50")
>>> entry.name, entry.argument
('timm', 'resnet50')
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from configparser import Error as ConfigParserError
from dataclasses import dataclass, field, replace
from enum import StrEnum
from fnmatch import fnmatchcase
from functools import cache
from importlib import import_module, metadata
from typing import Any

from xaibench.errors import PluginError, UsageError, did_you_mean

OWN_DISTRIBUTION = "xaibench"
_log = logging.getLogger(__name__)


class UnknownPluginError(PluginError, UsageError):
    """A name that no plugin of that kind has (exit code 2)."""


class BrokenPluginError(PluginError):
    """A plugin whose import fails."""


class Kind(StrEnum):
    """What a plugin is; the value is the last part of its entry-point group.

    >>> Kind.parse("explainer") is Kind.EXPLAINERS
    True
    """

    CLASSIFIERS = "classifiers"
    EXPLAINERS = "explainers"
    METRICS = "metrics"
    DATASETS = "datasets"
    BENCHMARKS = "benchmarks"

    @property
    def group(self) -> str:
        return f"xaibench.{self.value}"

    @property
    def singular(self) -> str:
        return self.value[:-1]

    @classmethod
    def parse(cls, text: str) -> Kind:
        """Return the kind of that name, in the singular or the plural.

        Raises:
            UsageError: there is no such kind.
        """
        for kind in cls:
            if text.lower() in (kind.value, kind.singular):
                return kind
        raise UsageError(f"there is no kind of plugin {text!r}. {did_you_mean(text, [k.value for k in cls])}")


@dataclass(frozen=True)
class Entry:
    """A name, and what it stands for.

    Args:
        kind: which of the five groups.
        name: as the user writes it, without argument.
        target: "module:attribute".
        distribution: the package that brings it ("this session" for `register`).
        version: of that package, "" for `register`.
        argument: what follows the colon in "timm:resnet50", else None.
        location: folder that the distribution is installed in, "" where unknown.
    """

    kind: Kind
    name: str
    target: str
    distribution: str
    version: str
    argument: str | None = None
    location: str = field(default="", compare=False)

    @property
    def full_name(self) -> str:
        return self.name if self.argument is None else f"{self.name}:{self.argument}"

    @property
    def package(self) -> str:
        """The distribution with its version."""
        return f"{self.distribution} {self.version}".rstrip()

    @property
    def is_builtin(self) -> bool:
        return self.distribution == OWN_DISTRIBUTION

    def load(self) -> Any:
        """Import the target and return it.

        Raises:
            PluginError: the import fails, or the module lacks the attribute. One line: plugin, distribution, reason.
        """
        if (registered := _registered.get((self.kind, self.name))) is not None and registered[0].target == self.target:
            return registered[1]
        module, _, attributes = self.target.partition(":")
        try:
            found: Any = import_module(module)
            for attribute in filter(None, attributes.split(".")):
                found = getattr(found, attribute)
        except (Exception, SystemExit) as error:  # whatever a plugin does at import, it must not end the others
            remedy = f"Reinstall {self.distribution}" + ("." if self.is_builtin else ", or uninstall it.")
            raise BrokenPluginError(
                f"{self.kind.singular} {self.name!r} of {self.package} can't be imported from {self.target}: "
                f"{one_line(error)}. {remedy}"
            ) from error
        return found


_registered: dict[tuple[Kind, str], tuple[Entry, Any]] = {}


def one_line(error: BaseException, limit: int = 300) -> str:
    """Return type and message of an error in one line of at most `limit` characters.

    >>> one_line(ValueError("two\\n  lines"))
    'ValueError: two lines'
    """
    text = " ".join(f"{type(error).__name__}: {error}".split()).rstrip(":. ")
    return text if len(text) <= limit else text[: limit - 3] + "..."


@cache
def _installed() -> Mapping[Kind, Mapping[str, tuple[Entry, ...]]]:
    """Read all distributions' entry points: kind to name to everyone who claims it."""
    groups = {kind.group: kind for kind in Kind}
    found: dict[Kind, dict[str, tuple[Entry, ...]]] = {kind: {} for kind in Kind}
    seen: set[str] = set()
    for distribution in metadata.distributions():
        try:
            text = distribution.read_text("entry_points.txt")
            if not text or "xaibench." not in text:  # spares parsing the metadata of a hundred other packages
                continue
            points = distribution.entry_points
            name, version = distribution.metadata["Name"] or "unknown", distribution.version or ""
        except (OSError, ValueError, KeyError, TypeError, ConfigParserError) as error:
            _log.warning("an installed package's metadata can't be read, its plugins are left out: %s", one_line(error))
            continue
        # An editable install leaves its metadata twice (dist-info and egg-info): the first on the path counts.
        if (normalized := re.sub(r"[-_.]+", "-", name).lower()) in seen:
            continue
        seen.add(normalized)
        location = str(distribution.locate_file(""))
        for point in points:
            if (kind := groups.get(point.group)) is not None:
                entry = Entry(kind, point.name, point.value.strip(), name, version, location=location)
                claims = found[kind].get(point.name, ())
                if entry not in claims:
                    found[kind][point.name] = (*claims, entry)
    return found


def refresh() -> None:
    """Forget the metadata read so far, for a package that was installed while this process runs."""
    _installed.cache_clear()


def register(kind: Kind | str, name: str, obj: Any) -> None:
    """Add a plugin for this process: for notebooks and tests. Registering a name again replaces it.

    Args:
        kind: "classifiers", "explainers", "metrics", "datasets" or "benchmarks" (or the singular).
        name: as it is used afterwards; no colon.
        obj: what an entry point would name.

    Raises:
        UsageError: an unknown kind, or a name that is empty or has a colon.
        PluginError: an installed plugin has that name.

    >>> register("explainers", "mine", object)
    >>> get("explainers", "mine").load() is object
    True
    >>> unregister("explainers", "mine")
    """
    kind = Kind.parse(kind)
    if not name or ":" in name:
        raise UsageError(f"a plugin's name is not empty and has no colon, got {name!r}")
    if claims := _installed()[kind].get(name):
        raise PluginError(f"{kind.singular} {name!r} is already there, from {claims[0].package}: choose another name.")
    target = f"{getattr(obj, '__module__', '?')}:{getattr(obj, '__qualname__', name)}"
    _registered[kind, name] = (Entry(kind, name, target, "this session", ""), obj)


def unregister(kind: Kind | str, name: str) -> None:
    """Take back a `register`; nothing happens where there was none."""
    _registered.pop((Kind.parse(kind), name), None)


def claims(kind: Kind | str) -> dict[str, tuple[Entry, ...]]:
    """Return name to everyone who claims it, sorted by name: more than one entry is a collision."""
    kind = Kind.parse(kind)
    found = dict(_installed()[kind])
    for (registered_kind, name), (entry, _) in _registered.items():
        if registered_kind is kind:
            found[name] = (entry, *found.get(name, ()))
    return dict(sorted(found.items()))


def collision(claimed: tuple[Entry, ...]) -> str | None:
    """Return what is wrong with a name that is claimed more than once, None for a single claim."""
    if len(claimed) < 2:
        return None
    packages = sorted({entry.package for entry in claimed})
    first = claimed[0]
    if len(packages) == 1:
        targets = " and ".join(sorted(entry.target for entry in claimed))
        return f"{first.kind.singular} {first.name!r} is claimed twice by {packages[0]}: {targets}. Rename one of them."
    return f"{first.kind.singular} {first.name!r} is claimed by {' and by '.join(packages)}. Uninstall one of them."


def entries(kind: Kind | str) -> list[Entry]:
    """Return the plugins of a kind, sorted by name, without those whose name collides.

    Raises:
        UsageError: an unknown kind.
    """
    return [claimed[0] for claimed in claims(kind).values() if len(claimed) == 1]


def get(kind: Kind | str, name: str) -> Entry:
    """Return the plugin of that name; "timm:resnet50" is the plugin "timm" with the argument "resnet50".

    Raises:
        UnknownPluginError: no plugin has that name; the message says what is near.
        PluginError: two distributions claim the name; the message names both.
        UsageError: an unknown kind, or a colon with nothing behind it.
    """
    kind = Kind.parse(kind)
    known = claims(kind)
    base, colon, argument = name.partition(":")
    if base not in known:
        raise UnknownPluginError(f"there is no {kind.singular} {base!r}. {did_you_mean(base, known)}")
    if problem := collision(known[base]):
        raise PluginError(problem)
    if colon and not argument:
        raise UsageError(f"{kind.singular} {name!r}: nothing follows the colon.")
    entry = known[base][0]
    return replace(entry, argument=argument) if colon else entry


def _names(kind: Kind, pattern: str) -> list[str]:
    return [entry.name for entry in entries(kind) if fnmatchcase(entry.name, pattern)]


def list_classifiers(pattern: str = "*") -> list[str]:
    """Return the names of the classifiers that match a wildcard, sorted. "timm" takes a model: "timm:resnet50".

    >>> list_classifiers("dense*")
    ['densenet121']
    """
    return _names(Kind.CLASSIFIERS, pattern)


def list_explainers(pattern: str = "*") -> list[str]:
    """Return the names of the explainers that match a wildcard, sorted.

    >>> list_explainers("guided_*")
    ['guided_backprop', 'guided_gradcam']
    """
    return _names(Kind.EXPLAINERS, pattern)


def list_metrics(pattern: str = "*") -> list[str]:
    """Return the names of the metrics that match a wildcard, sorted."""
    return _names(Kind.METRICS, pattern)


def list_datasets(pattern: str = "*") -> list[str]:
    """Return the names of the datasets that match a wildcard, sorted."""
    return _names(Kind.DATASETS, pattern)


def list_benchmarks(pattern: str = "*") -> list[str]:
    """Return the names of the benchmarks that match a wildcard, sorted."""
    return _names(Kind.BENCHMARKS, pattern)
