"""The store: arrays on disk under the hash of what made them, so that nothing is computed twice.

An entry is one file, ``objects/ab/abcd...``: a magic number, the sha256 of what follows, and a safetensors file with
the arrays and what is known about them. It is written beside its place, flushed to the disk and put in place in one
step, so that a reader sees it whole or not at all, whatever happens to the writer. Several processes may use one
folder: who writes a key last writes what the others wrote. A damaged entry is noticed by its checksum, taken away and
made again. Inside ``with store:`` threads write, and read ahead: waiting for the disk costs the network no time.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import safetensors.numpy

from xaibench.errors import XaibenchError
from xaibench.io.files import STALE, cache_dir, hold

MAGIC = b"xaibench store 1\n"
_CHECKSUM = 32
_HEAD = len(MAGIC) + _CHECKSUM
_LARGEST_ABOUT = 2**20
_WRITERS, _WAITING, _BEGUN = 4, 8, 2
"""Threads that write, entries that may wait for each, and entries read ahead: a bounded part of the memory."""

Array = npt.NDArray[Any]


def default_store() -> Path:
    """Return the folder of the store that the command line uses: ``$XAIBENCH_STORE``, else in the user's cache."""
    given = os.environ.get("XAIBENCH_STORE")
    return Path(given).expanduser() if given else cache_dir() / "store"


def key_of(kind: str, parts: Mapping[str, Any]) -> str:
    """Return the key of an entry: the sha256 over everything that decides it, in canonical JSON.

    >>> key_of("maps", {"a": 1, "b": 2}) == key_of("maps", {"b": 2, "a": 1}) != key_of("scores", {"a": 1, "b": 2})
    True
    """
    text = json.dumps([kind, parts], sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Found:
    """What an entry holds: `arrays` by name, and `about`, what is known of how they were made."""

    arrays: Mapping[str, Array]
    about: Mapping[str, Any]


_Loaded = tuple[bytes | None, Found | None]
"""A file's bytes, None where there is none, and what it holds, None where it is damaged."""


@dataclass(frozen=True)
class Entry:
    """An entry on disk: its key, its file, bytes, and when it was last used (seconds since the epoch)."""

    key: str
    path: Path
    size: int
    used: float


class _Writer:
    """A thread that writes one entry after the other; who submits waits while too many wait."""

    def __init__(self) -> None:
        self._pool, self._waiting = ThreadPoolExecutor(1, "xaibench-store"), list[Future[bool]]()

    def submit(self, keep: Callable[[str, bytes], bool], key: str, payload: bytes) -> None:
        self._waiting.append(self._pool.submit(keep, key, payload))
        while len(self._waiting) > _WAITING or (self._waiting and self._waiting[0].done()):
            self._waiting.pop(0).result()

    def close(self) -> None:
        self._pool.shutdown()
        for entry in self._waiting:
            entry.result()


@dataclass
class Store:
    """A folder of entries.

    Attributes:
        directory: made when the first entry is written.
        damaged: keys of the damaged entries that were taken away.
        stopped: why nothing is written any more (a full disk), None while all is well.
        hits, misses: how often entries were found, and not found.
    """

    directory: Path
    damaged: list[str] = field(default_factory=list)
    stopped: str | None = None
    hits: int = 0
    misses: int = 0
    _writers: list[_Writer] = field(default_factory=list, init=False, repr=False, compare=False)
    _reader: ThreadPoolExecutor | None = field(default=None, init=False, repr=False, compare=False)
    _begun: dict[str, Future[_Loaded]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self.directory = Path(self.directory).expanduser()
        if self.directory.exists() and not self.directory.is_dir():
            raise XaibenchError(f"the store {self.directory} is no folder: give another with --store DIR")
        self._sweep(STALE)

    def read(self, key: str) -> Found | None:
        """Return an entry, or None where there is none; a damaged one is taken away, and named in `damaged`."""
        path = self._path(key)
        begun = self._begun.pop(key, None)
        content, found = begun.result() if begun else _load(path)
        if content is None:
            self.misses += 1
            return None
        if found is None:
            self.damaged.append(key)
            self.misses += 1
            with contextlib.suppress(OSError):  # of another user: it will be noticed again
                path.unlink(missing_ok=True)
            return None
        self.hits += 1
        _touch(path)
        return found

    def begin(self, key: str) -> None:
        """Begin to read an entry that will soon be asked for, in a thread. Outside ``with store:`` it does nothing.

        The last two that were begun and not asked for are held; earlier ones are dropped.
        """
        if self._reader and key not in self._begun:
            self._begun[key] = self._reader.submit(_load, self._path(key))
            while len(self._begun) > _BEGUN:
                del self._begun[next(iter(self._begun))]

    def has(self, key: str) -> bool:
        """Tell whether there is an entry, without reading it."""
        return self._path(key).exists()

    def write(self, key: str, arrays: Mapping[str, Array], about: Mapping[str, Any] | None = None) -> bool:
        """Keep an entry and return whether it could be kept; on a full disk the store stops, and says so in `stopped`.

        Args:
            key: of `key_of`.
            arrays: any shapes; bool, integers and floats.
            about: whatever JSON can hold; numbers keep all their digits.
        """
        if self.stopped is not None:
            return False
        whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        payload = safetensors.numpy.save(whole, metadata={"about": json.dumps(dict(about or {}))})
        if not self._writers:
            return self._keep(key, payload)
        self._writers[int(key[:8], 16) % len(self._writers)].submit(self._keep, key, payload)  # in order for each key
        return True

    def remove(self, key: str) -> None:
        """Take an entry away, also one that is still being written."""
        if self._writers:
            self._writers[int(key[:8], 16) % len(self._writers)].submit(self._remove, key, b"")
        else:
            self._remove(key)

    def __enter__(self) -> Self:
        """Let threads write from now on; what `write` then returns is whether an entry was taken, not yet kept."""
        self._writers = [_Writer() for _ in range(_WRITERS)]
        self._reader = ThreadPoolExecutor(1, "xaibench-store")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Wait until everything is written."""
        if self._reader:
            self._reader.shutdown(cancel_futures=True)
        self._reader, self._begun = None, {}
        writers, self._writers = self._writers, []
        for writer in writers:
            writer.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_writers": [], "_reader": None, "_begun": {}}  # threads stay in their process

    def _keep(self, key: str, payload: bytes) -> bool:
        if self.stopped is not None:
            return False
        try:
            try:
                self._put(key, payload)
            except FileNotFoundError:  # another process took the part, or the whole folder, away
                self._put(key, payload)
        except OSError as error:
            reason = "no space left" if error.errno in (errno.ENOSPC, errno.EDQUOT) else str(error.strerror or error)
            self.stopped = f"{self.directory}: {reason}"
            return False
        return True

    def _remove(self, key: str, _: bytes = b"") -> bool:
        with contextlib.suppress(OSError):
            self._path(key).unlink(missing_ok=True)
        return True

    def _put(self, key: str, payload: bytes) -> None:
        path = self._path(key)
        part = self._parts / f"{key}.{os.getpid()}.{time.monotonic_ns()}"
        self._parts.mkdir(parents=True, exist_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(part, "xb") as file:
                hold(file)  # says that its writer lives
                file.write(MAGIC)
                file.write(hashlib.sha256(payload).digest())
                file.write(payload)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
            raise

    def entries(self) -> Iterator[Entry]:
        """Yield every entry, in the order of the keys."""
        for path in sorted(self._objects.glob("[0-9a-f][0-9a-f]/*")):
            try:
                known = path.stat()
            except OSError:  # another process pruned it
                continue
            yield Entry(path.name, path, known.st_size, known.st_mtime)

    def about(self, entry: Entry) -> Mapping[str, Any] | None:
        """Return what is known about an entry, without reading its arrays; None if its head is damaged."""
        try:
            with open(entry.path, "rb") as file:
                head = file.read(_HEAD + 8)
                length = int.from_bytes(head[_HEAD:], "little")
                if not head.startswith(MAGIC) or not 0 < length <= _LARGEST_ABOUT:
                    return None
                table = json.loads(file.read(length))
            return dict(json.loads(table["__metadata__"]["about"]))
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None

    def verify(self) -> tuple[int, list[Entry]]:
        """Read every entry; take the damaged ones away. Return how many there were, and the damaged ones."""
        count, damaged = 0, []
        for entry in self.entries():
            count += 1
            try:
                content = entry.path.read_bytes()
            except FileNotFoundError:
                continue
            except OSError:
                content = b""
            if _parse(content) is None:
                damaged.append(entry)
                entry.path.unlink(missing_ok=True)
        return count, damaged

    def prune(self, limit: int) -> tuple[int, int]:
        """Take away the entries not used for longest until `limit` bytes are left; return (entries, bytes) gone."""
        self._sweep(0.0 if limit == 0 else STALE)
        entries = sorted(self.entries(), key=lambda entry: entry.used)
        size, gone, freed = sum(entry.size for entry in entries), 0, 0
        for entry in entries:
            if size - freed <= limit:
                break
            entry.path.unlink(missing_ok=True)
            gone, freed = gone + 1, freed + entry.size
        return gone, freed

    @property
    def _objects(self) -> Path:
        return self.directory / "objects"

    @property
    def _parts(self) -> Path:
        return self.directory / "parts"

    def _path(self, key: str) -> Path:
        return self._objects / key[:2] / key

    def _sweep(self, age: float) -> None:
        """Take away what writers that were killed have left: parts that nobody holds, else those as old as `age`."""
        with contextlib.suppress(OSError):
            for part in self._parts.iterdir():
                with contextlib.suppress(OSError), open(part, "rb") as file:
                    held = hold(file)
                    if held or (held is None and time.time() - part.stat().st_mtime >= age):
                        part.unlink(missing_ok=True)


def _load(path: Path) -> _Loaded:
    try:
        with open(path, "rb") as file:
            content = file.read()
    except OSError:
        return None, None
    return content, _parse(content)


def _parse(content: bytes) -> Found | None:
    """Return what a file holds, None if one bit of it is wrong."""
    body = memoryview(content)[_HEAD:]
    if not content.startswith(MAGIC) or content[len(MAGIC) : _HEAD] != hashlib.sha256(body).digest():
        return None
    try:  # the checksum is right: only another writer's file can fail here
        length = int.from_bytes(body[:8], "little")
        about = json.loads(json.loads(bytes(body[8 : 8 + length]))["__metadata__"]["about"])
        arrays = safetensors.numpy.load(bytes(body))
    except (ValueError, KeyError, TypeError, RecursionError, safetensors.SafetensorError):
        return None
    return Found(arrays, about)


def _touch(path: Path) -> None:
    try:
        os.utime(path)
    except OSError:  # pruned meanwhile, or another user's: pruning by last use then knows less
        return
