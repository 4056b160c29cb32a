"""Where things are kept: the user's cache, and what travels with the package."""

from __future__ import annotations

import os
from pathlib import Path


def cache_dir() -> Path:
    """Return the folder of checkpoints and features: ``$XAIBENCH_CACHE``, else ``$XDG_CACHE_HOME/xaibench``."""
    given = os.environ.get("XAIBENCH_CACHE")
    if given:
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser() / "xaibench"
