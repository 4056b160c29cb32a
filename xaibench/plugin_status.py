"""Which plugins work, and what they are in one line: what ``xaibench list`` shows.

A listing must answer at once, so nothing is imported that need not be. xaibench's own plugins are read as source. Those
of other distributions are imported to be sure, which may take seconds the first time; that one worked is remembered in
the user's cache until its file changes. A failure is never remembered.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import inspect
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from xaibench.errors import PluginError
from xaibench.io.files import cache_dir, write_atomically
from xaibench.io.limits import read_json, read_toml
from xaibench.registry import Entry, Kind, claims, collision, one_line

_PACKAGE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Status:
    """A plugin, its first line of documentation ("" where it has none), and why it is broken (None where it works)."""

    entry: Entry
    description: str
    reason: str | None = None

    @property
    def state(self) -> str:
        return "ok" if self.reason is None else "broken"


def statuses(kind: Kind | str, *, check: bool = False) -> list[Status]:
    """Return the state of every plugin of a kind, sorted by name; one for each distribution where a name collides.

    Args:
        kind: which group.
        check: import everything, xaibench's own as well, whatever the cache says.

    Raises:
        UsageError: an unknown kind.
    """
    cached = _Cache()
    found = []
    for claimed in claims(kind).values():
        problem = collision(claimed)
        found += [Status(e, "", problem) if problem else _status(e, cached, check=check) for e in claimed]
    cached.save()
    return found


def _status(entry: Entry, cached: _Cache, *, check: bool) -> Status:
    if entry.is_builtin and not check:
        return _read_benchmark(entry) if entry.kind is Kind.BENCHMARKS else _read_source(entry)
    if not check and (description := cached.find(entry)) is not None:
        return Status(entry, description)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # a plugin that prints would spoil --json
            loaded = entry.load()
    except PluginError as error:
        return Status(entry, "", one_line(error.__cause__ or error))
    is_benchmark = entry.kind is Kind.BENCHMARKS
    status = _read_benchmark(entry) if is_benchmark else Status(entry, first_line(own_doc(loaded)))
    if status.reason is None and not entry.is_builtin and entry.version:
        cached.remember(status, loaded)
    return status


def own_doc(obj: Any) -> str | None:
    """Return the docstring that an object has itself: not its base's, nor, for an instance, its class's."""
    doc = obj.__doc__ if inspect.isroutine(obj) else getattr(obj, "__dict__", {}).get("__doc__")
    return inspect.cleandoc(doc) if isinstance(doc, str) else None


def first_line(doc: str | None) -> str:
    """Return a docstring's first sentence or line.

    >>> first_line("Grad-CAM (Selvaraju 2017).\\n\\nMore.")
    'Grad-CAM (Selvaraju 2017).'
    """
    lines = (doc or "").strip().splitlines()
    return lines[0].strip() if lines else ""


def _read_benchmark(entry: Entry) -> Status:
    """Read a benchmark's title; importing its path costs nothing."""
    try:
        path = Path(entry.load())
        table = read_toml(path)
    except PluginError as error:
        return Status(entry, "", one_line(error.__cause__ or error))
    except OSError as error:
        return Status(entry, "", f"{error.strerror}: {error.filename}")
    except (ValueError, TypeError) as error:  # TOMLDecodeError and UnicodeDecodeError are ValueErrors
        return Status(entry, "", one_line(error))
    return Status(entry, str(table.get("title") or first_line(str(table.get("description", "")))))


def _read_source(entry: Entry) -> Status:
    """Look a built-in up in its module's source, without importing it."""
    module, _, attribute = entry.target.partition(":")
    try:
        description = _describe(module, attribute.split(".")[0])
    except (LookupError, SyntaxError, OSError) as error:
        reason = error.args[0] if isinstance(error, LookupError) else one_line(error)
        return Status(entry, "", str(reason))
    return Status(entry, description)


def _describe(module: str, attribute: str, depth: int = 0) -> str:
    """Return the first line of documentation of an attribute; `LookupError` where module or attribute are missing."""
    tree = _tree(module)
    node = None
    for candidate in _top_level(tree.body):
        if attribute in _bound(candidate):
            node = candidate  # the last binding counts
    if node is None:
        raise LookupError(f"AttributeError: module {module!r} has no attribute {attribute!r}")
    if isinstance(node, ast.ClassDef | ast.FunctionDef):
        return first_line(ast.get_docstring(node))
    if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("xaibench.") and depth < 4:
        original = next(alias.name for alias in node.names if (alias.asname or alias.name) == attribute)
        return _describe(node.module, original, depth + 1)
    for call in (n for n in ast.walk(node) if isinstance(n, ast.Call)):
        for keyword in call.keywords:
            if keyword.arg == "title" and isinstance(keyword.value, ast.Constant):
                return str(keyword.value.value)
    return first_line(ast.get_docstring(tree))


@cache
def _tree(module: str) -> ast.Module:
    stem = _PACKAGE.parent.joinpath(*module.split("."))
    for path in (stem.with_suffix(".py"), stem / "__init__.py"):
        if path.is_file():
            return ast.parse(path.read_bytes(), filename=str(path))
    raise LookupError(f"ModuleNotFoundError: no module named {module!r}")


def _top_level(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    for node in body:
        yield node
        if isinstance(node, ast.If | ast.Try | ast.With):
            for part in ("body", "orelse", "finalbody"):
                yield from _top_level(getattr(node, part, []))


def _bound(node: ast.stmt) -> set[str]:
    if isinstance(node, ast.ClassDef | ast.FunctionDef):
        return {node.name}
    if isinstance(node, ast.Import | ast.ImportFrom):
        return {alias.asname or alias.name for alias in node.names}
    if isinstance(node, ast.Assign):
        return {n.id for target in node.targets for n in ast.walk(target) if isinstance(n, ast.Name)}
    if isinstance(node, ast.AnnAssign) and node.value is not None and isinstance(node.target, ast.Name):
        return {node.target.id}
    return set()


class _Cache:
    """Plugins of other distributions that were imported with success: key to description and the files it rests on."""

    def __init__(self) -> None:
        self.path = cache_dir() / "plugins.json"
        self.changed = False
        try:
            content = read_json(self.path)
        except (OSError, ValueError):
            content = {}
        self.known: dict[str, Any] = content if isinstance(content, dict) else {}

    @staticmethod
    def _key(entry: Entry) -> str:
        parts = (sys.prefix, sys.version, entry.location, entry.kind, entry.name, entry.target, entry.package)
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]

    def find(self, entry: Entry) -> str | None:
        """Return the description of a plugin that is known to work and whose files are unchanged, else None."""
        record: Any = self.known.get(self._key(entry))
        try:
            for path, mtime in record["files"].items():
                if os.stat(path).st_mtime_ns != mtime:
                    return None
            return str(record["description"])
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None

    def remember(self, status: Status, loaded: Any) -> None:
        module = sys.modules.get(status.entry.target.partition(":")[0])
        files = [getattr(module, "__file__", None)]
        if status.entry.kind is Kind.BENCHMARKS:
            files.append(str(loaded))
        try:
            stamps = {str(Path(f).resolve()): os.stat(f).st_mtime_ns for f in files if f}
        except OSError:
            return
        if stamps:
            self.known[self._key(status.entry)] = {"description": status.description, "files": stamps}
            self.changed = True

    def save(self) -> None:
        """Write what changed; a cache that can't be written is no reason to fail."""
        if not self.changed:
            return
        with contextlib.suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self.path, lambda part: part.write_text(json.dumps(self.known), encoding="utf-8"))
