"""The state of a training after each epoch, on disk: whole and unchanged, or not taken for one.

A state's name holds the epoch and its content's sha256, as what torch writes has no checksum that torch would look at.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from xaibench.io.files import flush


def keep_state(part: Path, epoch: int) -> Path:
    """Give a file that was just written its name, and take the states of other epochs away."""
    flush(part)
    kept = part.with_name(f"epoch-{epoch:06d}-{_sum(part)}.ckpt")
    part.replace(kept)
    flush(kept.parent)
    for other in _states(kept.parent):
        if other != kept:
            other.unlink(missing_ok=True)
    return kept


def find_state(folder: Path) -> Path | None:
    """Return the state of the last epoch, None where there is none; damaged ones are taken away."""
    for path in reversed(_states(folder)):
        if path.stem.rpartition("-")[2] == _sum(path):
            return path
        path.unlink(missing_ok=True)
    return None


def _states(folder: Path) -> list[Path]:
    return sorted(folder.glob("epoch-*.ckpt"))


def _sum(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:32]
