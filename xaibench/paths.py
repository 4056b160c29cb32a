"""Where things are kept: the user's cache, and what travels with the package."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


def cache_dir() -> Path:
    """Return the folder of checkpoints and features: ``$XAIBENCH_CACHE``, else ``$XDG_CACHE_HOME/xaibench``."""
    given = os.environ.get("XAIBENCH_CACHE")
    if given:
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser() / "xaibench"


def write_atomically(path: Path, write: Callable[[Path], Any]) -> None:
    """Call ``write(part)`` on a file beside `path` and put it in place in one step, or leave `path` as it was."""
    part = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        write(part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
