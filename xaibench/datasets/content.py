"""What the content of files says, computed once and cached: their sha256, and whatever else a dataset asks of them.

A file is recognised by its path, size, inode and the nanoseconds of its last change of content and of status. A cached
answer is used only while all five are the same, and none is cached of a file that changed within the last two seconds:
another write in the same tick of the file system's clock would leave no trace.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from xaibench.errors import DataError
from xaibench.io.files import alone, cache_dir, make_folder, write_atomically
from xaibench.io.limits import check_size, read_text

FRESH_NS = 2 * 10**9
"""Nanoseconds after its last change within which a file's answer is not cached."""
SAVE_SECONDS = 60.0
"""While many files are read, the answers so far are saved this often: an interrupted run need not start anew."""

PathLike = str | os.PathLike[str]
Stamp = tuple[int, int, int, int]
Entry = tuple[Stamp, Any]
Table = dict[str, Entry]
_UNKNOWN = object()


class FileFacts:
    """A function of a file's content, cached under `cache_dir`; one file there holds the answers for one data root.

    Args:
        kind: names the function and its version; part of the cache files' names.
        compute: path to an answer that JSON can hold (lists, not tuples); called from threads.
    """

    def __init__(self, kind: str, compute: Callable[[str], Any]) -> None:
        self.kind, self._compute = kind, compute
        self._tables: dict[tuple[Path, str], Table] = {}
        self._lock = threading.Lock()

    def __call__(
        self, paths: Iterable[PathLike], root: PathLike, progress: Callable[[int, int], None] | None = None
    ) -> list[Any]:
        """Return the answer for each file, in order; those not cached are computed in threads and saved.

        Args:
            paths: of plain files.
            root: the folder that they are in, at any depth.
            progress: called with files done and files in all.

        Raises:
            DataError: a file is missing or no plain file; names it. And whatever the function raises.
        """
        wanted = [os.path.abspath(path) for path in paths]
        table = self._table(root)
        with _named():
            answers = [_cached(table, path) for path in wanted]
        missing = [place for place, answer in enumerate(answers) if answer is _UNKNOWN]
        saved, unsaved = time.monotonic(), False
        try:
            with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
                found = pool.map(lambda place: self._new(table, wanted[place]), missing)
                for done, (place, (answer, settled)) in enumerate(zip(missing, found, strict=True), start=1):
                    answers[place], unsaved = answer, unsaved or settled
                    if progress:
                        progress(len(wanted) - len(missing) + done, len(wanted))
                    if unsaved and time.monotonic() - saved > SAVE_SECONDS:
                        self._save(root)
                        saved, unsaved = time.monotonic(), False
        finally:
            if unsaved:
                self._save(root)
        return answers

    def one(self, path: PathLike, root: PathLike) -> Any:
        """Return the answer for one file; a new one is remembered by this process alone."""
        path, table = os.path.abspath(path), self._table(root)
        with _named():
            answer = _cached(table, path)
        return self._new(table, path)[0] if answer is _UNKNOWN else answer

    def _new(self, table: Table, path: str) -> tuple[Any, bool]:
        """Return the answer, and whether it may be cached."""
        with _named():
            try:
                check_size(path, 2**40)  # a pipe would be read for ever
            except ValueError as error:
                raise OSError(errno.EINVAL, str(error), path) from None
            now, stamp = time.time_ns(), _stamp(path)
            answer = self._compute(path)
            settled = max(stamp[2:]) < now - FRESH_NS and _stamp(path) == stamp
        if settled:
            table[path] = (stamp, answer)
        return answer, settled

    def _table(self, root: PathLike) -> Table:
        place = (cache_dir(), os.path.abspath(root))
        with self._lock:
            if place not in self._tables:
                self._tables[place] = _read(self._file(root))
            return self._tables[place]

    def _file(self, root: PathLike) -> Path:
        place = hashlib.sha256(f"{self.kind}\n{os.path.abspath(root)}".encode(errors="surrogateescape"))
        return cache_dir() / "content" / f"{place.hexdigest()[:24]}.json"

    def _save(self, root: PathLike) -> None:
        """Write what is known, with what other processes have written meanwhile."""
        file, table = self._file(root), self._table(root)
        with suppress(OSError):  # without a cache it only takes longer
            make_folder(file.parent)
            with alone(file.with_suffix(".lock")):
                table.update(_read(file) | table)
                text = _written(dict(table))  # a copy, as threads add to it
                write_atomically(file, lambda part: part.write_text(text))


@contextmanager
def _named() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = f"{error.filename}: {error.strerror}"
        raise DataError(f"{reason}: put the file back; `xaibench data check` names all that is missing") from None


def _cached(table: Mapping[str, Entry], path: str) -> Any:
    entry = table.get(path)
    return entry[1] if entry is not None and entry[0] == _stamp(path) else _UNKNOWN


def _stamp(path: str) -> Stamp:
    found = os.stat(path)
    return found.st_size, found.st_ino, found.st_mtime_ns, found.st_ctime_ns


def _written(table: Mapping[str, Entry]) -> str:
    """Return the text of a cache file: a sha256 of the rest, and the table."""
    text = json.dumps({path: [*stamp, answer] for path, (stamp, answer) in table.items()}, separators=(",", ":"))
    return f"{hashlib.sha256(text.encode()).hexdigest()}\n{text}"


def _read(file: Path) -> Table:
    """Return what a cache file says, nothing where it is missing or damaged."""
    try:
        digest, _, text = read_text(file).partition("\n")
        if hashlib.sha256(text.encode()).hexdigest() != digest:
            return {}
        return {path: (tuple(row[:4]), row[4]) for path, row in json.loads(text).items()}
    except (OSError, ValueError, LookupError, AttributeError, TypeError, RecursionError):
        return {}


def _sha256(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


_hashes = FileFacts("sha256", _sha256)


def sha256_of(paths: Iterable[PathLike], root: PathLike) -> list[str]:
    """Return the sha256 of the content of each file below `root`, from the cache where a file has not changed.

    Raises:
        DataError: a file can't be read; names it.
    """
    return _hashes(paths, root)


def sha256_of_one(path: PathLike, root: PathLike) -> str:
    """Return the sha256 of the content of one file below `root`, as `sha256_of`.

    Raises:
        DataError: it can't be read.
    """
    return str(_hashes.one(path, root))
