"""Die at the n-th call that touches the disk, with or without the power; and see what reached the disk when."""

from __future__ import annotations

import builtins
import io
import os
import signal
from pathlib import Path
from typing import Any

_PLAIN = ("fsync", "mkdir", "unlink", "rmdir", "utime", "posix_fallocate")


class Disk:
    """Stands before the calls of `os` and `open` that change the disk, in a child.

    Args:
        work: only files in here count.
        die_at: the number of the call before which the process kills itself, None for never.
        names: count only the calls that give a file its final name: each is a step forward.
        power: when it dies, what was not flushed to the disk before it was renamed is emptied, as a power loss may.

    Attributes:
        calls: how many there were.
        unflushed: files that got their name before their content was flushed.
    """

    def __init__(self, work: Path, die_at: int | None = None, *, power: bool = False, names: bool = False) -> None:
        self.work, self.die_at, self.power, self.names = str(work), die_at, power, names
        self.calls = 0
        self.renamed = 0
        self.unflushed: set[str] = set()
        self._flushed: dict[int, tuple[int, int]] = {}

    def install(self) -> None:
        """Wrap the calls; there is no way back, so do it in a child."""
        for name in _PLAIN:
            self._wrap(name)
        fsync, replace, opened = os.fsync, os.replace, builtins.open

        def flushing(handle: Any) -> None:
            fsync(handle)
            stat = os.stat(handle)
            self._flushed[stat.st_ino] = (stat.st_size, stat.st_mtime_ns)

        def renaming(old: Any, new: Any, **options: Any) -> None:
            self._count(new, named=".part" not in Path(new).name)
            stat = os.stat(old)
            if str(new).startswith(self.work) and ".part" not in Path(new).name:
                self.renamed += 1
                if self._flushed.get(stat.st_ino) != (stat.st_size, stat.st_mtime_ns):
                    self.unflushed.add(str(new))
            replace(old, new, **options)

        def opening(file: Any, mode: str = "r", *rest: Any, **options: Any) -> Any:
            if set(mode) & set("wxa+"):
                self._count(file)
            return opened(file, mode, *rest, **options)

        os.fsync, os.replace, os.rename = flushing, renaming, renaming
        builtins.open = io.open = opening  # type: ignore[assignment]

    def _wrap(self, name: str) -> None:
        original = getattr(os, name)

        def call(first: Any, *rest: Any, **options: Any) -> Any:
            self._count(first)
            return original(first, *rest, **options)

        setattr(os, name, call)

    def _count(self, target: Any, *, named: bool = False) -> None:
        if self.names and not named:
            return
        if isinstance(target, int):
            try:
                target = os.readlink(f"/proc/self/fd/{target}")
            except OSError:
                return
        elif isinstance(target, str | os.PathLike) and not os.path.isabs(target):
            return  # rmtree's names, relative to an open folder, and what is not ours
        if not str(target).startswith(self.work):
            return
        self.calls += 1
        if self.calls == self.die_at:
            if self.power:
                for path in self.unflushed:
                    os.truncate(path, 0)
            os.kill(os.getpid(), signal.SIGKILL)
