"""Runs of ``xaibench run`` in children, killed and interrupted, and what must be true afterwards.

One process imports everything once and forks a child for each run, which therefore costs a fraction of a second. After
each fault, files under a final name are inspected; then the same command runs to its end, and scores, per-image tables,
predictions, sheets and weights must be those of an undisturbed run, bit for bit.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import math
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from tests.faults import scene
from tests.faults.syscalls import Disk
from xaibench.evaluation import scoring

CLASSIFIERS = ("ready", "trained")
MANY = 100
"""Restarts after which a run that is killed again and again is taken never to end."""


@dataclass
class Row:
    """What came of one kind of fault."""

    fault: str
    times: int = 0
    identical: int = 0
    """How often the same command then ended with the results of an undisturbed run."""
    outcomes: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    skipped: str | None = None

    def problem(self, what: str) -> None:
        self.problems.append(what[:2000])


class Harness:
    """Makes faults in folders of `root`, which is on a RAM disk where there is one: only processes die here."""

    def __init__(self, root: Path, seed: int = 0) -> None:
        self.root, self.random = root, random.Random(seed)
        self.work = root / "work"
        self.log = root / "log"
        torch.set_num_threads(1)
        scoring._KEEP_AFTER = math.inf  # how often scores are kept must not depend on how busy the machine is
        self.benchmark = scene.install(root)
        self.expected: dict[str, dict[str, Any]] = {}
        self.seconds: dict[str, float] = {}
        self.calls: dict[str, int] = {}
        self.kept: dict[str, set[str]] = {}
        self._warm()
        for name in CLASSIFIERS:
            self._undisturbed(name)

    # the parts that all faults are made of

    def start(self, name: str, before: Callable[[], Any] = lambda: None, *, draw: bool = False, log: str = "") -> int:
        def call() -> int:
            before()
            return scene.command(self.work, name, self.benchmark, draw=draw)

        return scene.child(self.root / f"log{log}", call)

    def run(self, name: str, before: Callable[[], Any] = lambda: None, *, draw: bool = False) -> int:
        return scene.wait(self.start(name, before, draw=draw))

    def fresh(self, template: str | None = None) -> None:
        shutil.rmtree(self.work, ignore_errors=True)
        (self.root / "epochs.log").unlink(missing_ok=True)
        if template:
            shutil.copytree(self.root / template, self.work)
        else:
            self.work.mkdir()

    def inspect(self, row: Row, what: str) -> None:
        """See that nothing partial has a final name."""
        log = self.root / "inspection"
        if scene.wait(scene.child(log, lambda: scene.inspect(self.work))):
            row.problem(f"{what}: partial under a final name: {log.read_text()}")

    def finish(self, row: Row, name: str, what: str, *, draw: bool = False) -> None:
        """Run the same command to its end and compare; what was kept before must not be made again."""
        kept, epochs = scene.entries(self.work), self._state()
        (self.root / "epochs.log").unlink(missing_ok=True)
        if code := self.run(name, draw=draw):
            row.problem(f"{what}: the same command then ended with {code}: {self.log.read_text()}")
            return
        if self.same(name, what, row):
            row.identical += 1
        if left := list(self.work.glob("cache/training/*")):
            row.problem(f"{what}: a finished training leaves {left}")
        after = scene.entries(self.work)
        if again := [key for key, known in kept.items() if after.get(key) != known]:
            row.problem(f"{what}: {len(again)} entries of the store were made again")
        if (early := [epoch for epoch in self._epochs() if epoch < epochs]) or not kept.keys() <= self.kept[name]:
            row.problem(f"{what}: epochs {early} were trained again after {epochs}, or entries of other keys")

    def same(self, name: str, what: str, row: Row) -> bool:
        found, expected = scene.results(self.work), self.expected[name]
        differ = sorted(key for key in found.keys() | expected.keys() if found.get(key) != expected.get(key))
        if differ:
            row.problem(f"{what}: other {', '.join(differ)} than undisturbed: {found.get(differ[0])}")
        return not differ

    def _state(self) -> int:
        """Return how many epochs are kept."""
        if list(self.work.glob("cache/checkpoints/*.json")):
            return 99
        return max(
            (int(path.name.split("-")[1]) for path in self.work.glob("cache/training/*/epoch-*.ckpt")), default=0
        )

    def _epochs(self) -> list[int]:
        log = self.root / "epochs.log"
        return [int(line) for line in log.read_text().split()] if log.exists() else []

    def _warm(self) -> None:
        """Import here what runs import, so that the children need not."""
        self.fresh()
        listing = self.root / "modules"

        def call() -> int:
            code = scene.command(self.work, "trained", self.benchmark, draw=True)
            listing.write_text("\n".join(sys.modules))
            return code

        if code := scene.wait(scene.child(self.log, call)):
            raise SystemExit(f"the undisturbed run ended with {code}:\n{self.log.read_text()}")
        for module in listing.read_text().split("\n"):
            if not module.startswith("__"):
                with contextlib.suppress(Exception):
                    importlib.import_module(module)
        gc.collect()
        gc.freeze()  # a child's collector then touches, and so copies, less of the parent's memory

    def _undisturbed(self, name: str) -> None:
        self.fresh()
        count = self.root / "calls"

        def before() -> None:
            disk = Disk(self.work)
            disk.install()
            leave = os._exit

            def left(code: int) -> None:
                unflushed = sorted(Path(path).relative_to(self.work).as_posix() for path in disk.unflushed)
                count.write_text(json.dumps([disk.calls, disk.renamed, unflushed]))
                leave(code)

            os._exit = left  # type: ignore[assignment]

        if code := self.run(name, before):
            raise SystemExit(f"the undisturbed run of {name} ended with {code}:\n{self.log.read_text()}")
        self.calls[name], self.renamed, self.unflushed = json.loads(count.read_text())
        self.expected[name] = scene.results(self.work)
        self.kept[name] = set(scene.entries(self.work))
        shutil.copytree(self.work, self.root / f"whole-{name}")
        self.fresh()
        number, began = self.start(name), time.monotonic()
        _, status, usage = os.wait4(number, 0)
        assert status == 0, self.log.read_text()
        self.seconds[name] = usage.ru_utime + usage.ru_stime
        self.wall = time.monotonic() - began

    # faults

    def kills(self, name: str, count: int) -> Row:
        """SIGKILL at moments uniform over the run's processor time."""
        row = Row(f"kill -9 at a random moment, {what_runs(name)}")
        while row.times < count:
            self.fresh()
            when = self.random.uniform(0, self.seconds[name])
            number = self.start(name)
            _sleep(number, when)
            os.kill(number, signal.SIGKILL)
            if scene.wait(number) != -signal.SIGKILL:
                row.outcomes["had ended"] += 1
                if row.outcomes["had ended"] > 10 + count:
                    row.problem("most runs had ended before they were killed")
                    break
                continue
            row.times += 1
            what = f"{name} killed after {when:.3f} s"
            row.outcomes["entries kept"] += len(list(self.work.glob("store/objects/*/*")))
            self.inspect(row, what)
            self.finish(row, name, what)
        return row

    def kills_at_calls(self, name: str, count: int, *, power: bool = False) -> Row:
        """SIGKILL before the n-th call that touches the disk, for n evenly from the first to the last."""
        how = "power cut (what was not flushed is emptied)" if power else "kill -9"
        row = Row(f"{how} at each of {count} disk calls, {what_runs(name)}")
        total = self.calls[name]
        for at in sorted({1 + round(step * (total - 1) / max(count - 1, 1)) for step in range(min(count, total))}):
            self.fresh()
            code = self.run(name, lambda at=at: Disk(self.work, at, power=power).install())  # type: ignore[misc]
            if code == 0:
                row.outcomes["had ended"] += 1
            elif code != -signal.SIGKILL:
                row.problem(f"{name} ended with {code} before call {at}: {self.log.read_text()}")
            if code != -signal.SIGKILL:
                continue
            row.times += 1
            what = f"{name} killed at call {at} of {total}"
            self.inspect(row, what)
            self.finish(row, name, what)
        return row

    def kills_again_and_again(self, name: str, every: int) -> Row:
        """Kill each start before it names its n-th file: only what earlier starts have kept brings the end nearer."""
        row = Row(f"kill -9 at every {every}th file that is kept, again and again, {what_runs(name)}")
        self.fresh()
        while (
            code := self.run(name, lambda: Disk(self.work, every, names=True).install())
        ) == -signal.SIGKILL and row.times < MANY:
            row.times += 1
        if code:
            row.problem(f"{name} did not end in {row.times} starts but with {code}: {self.log.read_text()}")
        elif self.same(name, "killed again and again", row):
            row.identical = row.times
        return row

    def interrupts(self, name: str, count: int) -> Row:
        """Ctrl-C at random moments: exit code 130, one line."""
        row = Row(f"Ctrl-C at a random moment, {what_runs(name)}")
        while row.times < count and row.outcomes["had ended"] < 20 + count:
            self.fresh()
            when = self.random.uniform(0.05, 0.9) * self.seconds[name]
            number = self.start(name)
            _sleep(number, when)
            os.kill(number, signal.SIGINT)
            if (code := scene.wait(number)) == 0:
                row.outcomes["had ended"] += 1
                continue
            row.times += 1
            what = f"{name} interrupted after {when:.3f} s"
            said = self.log.read_text().strip()
            if code != 130 or "error: interrupted" not in said or "Traceback" in said:
                row.problem(f"{what}: ended with {code}: {said}")
            self.inspect(row, what)
            self.finish(row, name, what)
        return row

    def together(self, count: int, *, kill: bool = False) -> Row:
        """Two processes at once on one cache, store and folder of runs, both of which want to train."""
        row = Row("two processes at once, both train" + (", one is killed" if kill else ""))
        for _ in range(count):
            self.fresh()
            numbers = [self.start("trained", log=str(index)) for index in range(2)]
            what = "two at once"
            if kill:
                when = self.random.uniform(0, self.seconds["trained"])
                _sleep(numbers[0], when)
                os.kill(numbers[0], signal.SIGKILL)
                what = f"two at once, one killed after {when:.3f} s"
            codes = [scene.wait(number) for number in numbers]
            row.times += 1
            if codes[1] != 0 or codes[0] not in (0, -signal.SIGKILL):
                logs = "\n".join((self.root / f"log{index}").read_text() for index in range(2))
                row.problem(f"{what}: ended with {codes}: {logs}")
                continue
            self.same("trained", what, row)
            self.inspect(row, what)
            self.finish(row, "trained", what)
        return row

    def order(self) -> Row:
        """Over a whole run: was each file's content flushed to the disk before it got its name?"""
        row = Row("files flushed before they get their name", times=self.renamed)
        row.identical = self.renamed - len(self.unflushed)
        if self.unflushed:
            row.problem(f"not flushed: {self.unflushed}")
        return row

    def pictures(self) -> Row:
        """Draw the sheets: a kill amid the drawing, then the same command."""
        row = Row("kill -9 amid the drawing of the sheets, as pictures")
        self.fresh()
        assert self.run("ready", draw=True) == 0
        (sheet,) = (self.work / "runs").glob("*/*.png")
        expected, place = sheet.read_bytes(), sheet.relative_to(self.work)
        self.fresh()
        number = self.start("ready", draw=True)
        _sleep(number, self.seconds["ready"])
        os.kill(number, signal.SIGKILL)
        row.times = int(scene.wait(number) == -signal.SIGKILL)
        self.inspect(row, "killed amid the drawing")
        if self.run("ready", draw=True) or (self.work / place).read_bytes() != expected:
            row.problem(f"another sheet than undisturbed: {self.log.read_text()}")
        row.identical = row.times
        return row


def what_runs(name: str) -> str:
    return "training first" if name == "trained" else "a classifier that comes trained"


def one_line(said: str) -> bool:
    errors = [line for line in said.splitlines() if line.startswith("error:")]
    return len(errors) == 1 and "Traceback" not in said and "Not expected" not in said


def _sleep(number: int, seconds: float) -> None:
    """Wait until a child has used so much processor time, or has ended; so a busy machine shifts nothing."""
    while True:
        try:
            used = int(Path(f"/proc/{number}/schedstat").read_text().split()[0]) / 1e9
            state = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]
        except (OSError, IndexError):
            time.sleep(seconds)
            return
        if used >= seconds or state == "Z":
            return
        time.sleep(0.002)
