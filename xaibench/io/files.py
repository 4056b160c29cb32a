"""Where things are kept, and how a file gets its final name: whole and on the disk, or not at all."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

try:
    import fcntl
except ImportError:  # Windows: no lock, so two processes may do the same work twice
    fcntl = None  # type: ignore[assignment]

STALE = 24 * 3600.0
"""Seconds after which a part is taken for left over where no lock can tell."""


def cache_dir() -> Path:
    """Return the folder of checkpoints and features: ``$XAIBENCH_CACHE``, else ``$XDG_CACHE_HOME/xaibench``."""
    given = os.environ.get("XAIBENCH_CACHE")
    if given:
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser() / "xaibench"


def write_atomically(path: Path, write: Callable[[Path], Any]) -> None:
    """Call ``write(part)`` on a file beside `path` and put it in place in one step, or leave `path` as it was.

    The part is flushed to the disk before it gets its name, so that not even a power loss leaves half a file under it.
    """
    write_together({path: write})


def write_together(writers: Mapping[Path, Callable[[Path], Any]]) -> None:
    """Write several files, as `write_atomically`, and put them in place one right after the other, in their order.

    Where one can't be written, none is put in place, and the error names it.
    """
    parts = {path: _part(path) for path in writers}
    at = next(iter(writers))
    try:
        for at, write in writers.items():
            write(parts[at])
            flush(parts[at])
        for at, part in parts.items():
            part.replace(at)
        for folder in {path.parent for path in writers}:
            flush(folder)
    except OSError as error:
        if error.filename in (None, str(parts[at])):
            error.filename = str(at)
        raise
    finally:
        for part in parts.values():
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)


def _part(path: Path) -> Path:
    # No other writer has this name, be it on another machine with the same process number.
    return path.with_name(f".{path.stem}.{os.getpid()}-{os.urandom(4).hex()}.part{path.suffix}")


def flush(path: Path) -> None:
    """Have the disk hold a file's content, or a folder's names; where folders can't be flushed, nothing is done."""
    folder = path.is_dir()
    try:
        handle = os.open(path, os.O_RDONLY if folder or os.name == "posix" else os.O_RDWR)
    except OSError:
        if folder:  # Windows can't open one
            return
        raise
    try:
        os.fsync(handle)
    except OSError:
        if not folder:
            raise
    finally:
        os.close(handle)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, and have the disk hold their names."""
    missing = [near for near in (folder, *folder.parents) if not near.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for made in missing:
        flush(made.parent)


def remove_parts(folder: Path) -> None:
    """Take away what writers that were killed have left in a folder: parts of `write_atomically`, an hour old."""
    with contextlib.suppress(OSError):
        for part in folder.glob(".*.part*"):
            if time.time() - part.stat().st_mtime >= STALE / 24:
                part.unlink(missing_ok=True)


def hold(file: IO[bytes], *, wait: bool = False) -> bool | None:
    """Lock an open file until it is closed or its process ends.

    Returns:
        True: nobody else holds it; False: another does; None: the file system knows no locks.
    """
    if fcntl is None:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


@contextlib.contextmanager
def alone(path: Path, waiting: Callable[[], Any] = lambda: None) -> Iterator[None]:
    """Let one process at a time do what follows; the lock `path` is free as soon as its holder ends or is killed.

    Where no lock can be had (no such file system, a full disk, another user's folder), nobody waits.

    Args:
        waiting: called when another process is at it, before waiting for it.
    """
    with contextlib.ExitStack() as open_files:
        file = None
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            file = open_files.enter_context(open(path, "ab"))
        if file is not None and hold(file) is False:
            waiting()
            hold(file, wait=True)
        yield
