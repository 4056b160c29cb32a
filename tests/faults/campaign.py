"""Break runs of ``xaibench run`` in every way that a machine knows, and see that the same command mends each.

    python -m tests.faults.campaign --kills 50 --corruptions 30 --full-disks 5 [--seed 0] [--json FILE]

One process imports everything once and forks a child for each run, which therefore costs a fraction of a second. After
each fault, files under a final name are inspected; then the same command runs to its end, and scores, per-image tables,
predictions, sheets and weights must be those of an undisturbed run, bit for bit.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from tests.faults.damage import Damage
from tests.faults.harness import Row


def campaign(
    harness: Damage, kills: int, corruptions: int, full_disks: int, only: set[str], say: Callable[[Row], Any]
) -> list[Row]:
    """Make so many faults of each kind (or of some kinds only), and return what came of them."""
    share, few, disks = max(1, corruptions // 10), max(2, kills // 100), max(1, full_disks // 2)
    plan: list[tuple[str, Callable[[], Row]]] = [
        ("flush", harness.order),
        ("kill", lambda: harness.kills("ready", kills * 5 // 10)),
        ("kill", lambda: harness.kills("trained", kills * 2 // 10)),
        ("call", lambda: harness.kills_at_calls("ready", kills // 10)),
        ("call", lambda: harness.kills_at_calls("trained", kills // 10)),
        ("call", lambda: harness.kills_at_calls("trained", kills // 10, power=True)),
        ("again", lambda: harness.kills_again_and_again("trained", 7)),
        ("again", harness.pictures),
        ("interrupt", lambda: harness.interrupts("ready", few)),
        ("interrupt", lambda: harness.interrupts("trained", few)),
        ("disk", lambda: harness.full_disks("ready", disks)),
        ("disk", lambda: harness.full_disks("trained", disks)),
        ("disk", lambda: harness.small_files("trained", disks)),
        ("corrupt", lambda: harness.corruptions("store entry", corruptions - 6 * share)),
        ("corrupt", lambda: harness.corruptions("checkpoint", 2 * share)),
        ("corrupt", lambda: harness.corruptions("run table", 2 * share)),
        ("corrupt", lambda: harness.corruptions("mean-box cache", share)),
        ("corrupt", lambda: harness.corruptions("interrupted training", share)),
        ("together", lambda: harness.together(few)),
        ("together", lambda: harness.together(few, kill=True)),
    ]
    rows = []
    for kind, make in plan:
        if not only or kind in only:
            rows.append(make())
            say(rows[-1])
    return rows


def main(arguments: list[str] | None = None) -> int:
    """Run a campaign; print its table, and return 1 where a fault was not mended."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--corruptions", type=int, default=200)
    parser.add_argument("--full-disks", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--only", nargs="*", default=[], metavar="KIND", help="flush kill call again interrupt disk ..."
    )
    parser.add_argument("--json", type=Path, help="write the rows there too")
    given = parser.parse_args(arguments)
    began = time.monotonic()
    ram = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="faults-", dir=ram if os.access(ram, os.W_OK) else None) as folder:
        harness = Damage(Path(folder), given.seed)
        print("| Fault | Times | Then identical | What was said |\n| --- | ---: | ---: | --- |", flush=True)
        rows = campaign(harness, given.kills, given.corruptions, given.full_disks, set(given.only), _print)
    killed = sum(row.times for row in rows if "kill" in row.fault or "power" in row.fault)
    print(f"\n{killed} kills in {time.monotonic() - began:.0f} s, seed {given.seed}", flush=True)
    if given.json:
        given.json.write_text(json.dumps([vars(row) for row in rows], indent=1))
    return int(any(row.problems for row in rows))


def _print(row: Row) -> None:
    said = ", ".join(f"{count} {outcome}" for outcome, count in row.outcomes.items() if count)
    print(f"| {row.fault} | {row.times} | {row.identical} | {row.skipped or said} |", flush=True)
    for problem in row.problems:
        print(f"PROBLEM {problem}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
