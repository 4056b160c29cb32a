"""How long work tells its caller how far it is; the command line draws bars from it, a library call is silent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass


def _silent(*said: object) -> None:
    """Report nothing; a function of the module, so that a Progress can be sent to another process."""


@dataclass
class Progress:
    """Callbacks; each may be replaced."""

    stage: Callable[[str, int], None] = _silent
    """A stage begins: its name and its number of steps."""
    advance: Callable[[int], None] = _silent
    """So many steps of the stage are done."""
    epoch: Callable[[Mapping[str, float | None]], None] = _silent
    """An epoch of training has ended: epoch, loss, auc (None where nothing is held out)."""
    say: Callable[[str], None] = _silent
    """Something the user should know now."""
    metric: Callable[[str, int, int, float], None] = _silent
    """A metric that asks the network goes on: its name, maps scored, maps in all, and its own seconds so far."""
