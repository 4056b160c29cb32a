"""Full disks and random bytes: a run is one line or a note, and goes on afterwards."""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.faults import scene
from tests.faults.harness import Harness, Row, one_line, what_runs


class Damage(Harness):
    """The faults of files and disks, beside those of processes."""

    def full_disks(self, name: str, count: int) -> Row:
        """Cache, store and runs on a small tmpfs of growing sizes, then with room made."""
        row = Row(f"full disk (tmpfs), {what_runs(name)}")
        need = sum(path.stat().st_blocks * 512 for path in (self.root / f"whole-{name}").rglob("*")) // 1024 + 64
        for step in range(count):
            size = 8 + round((need - 8) * step / max(count - 1, 1))
            self.fresh()
            if not _mount(self.work, size):
                row.skipped = "no right to mount a tmpfs here"
                return row
            try:
                self._full(
                    row,
                    name,
                    f"{name} on a disk of {size} KiB",
                    lambda: None,
                    lambda: _mount(self.work, 65536, again=True),
                )
            finally:
                subprocess.run(["umount", str(self.work)], check=True)
        return row

    def small_files(self, name: str, count: int) -> Row:
        """A limit on a file's size: writing fails in the middle of a file."""
        row = Row(f"file-size limit, {what_runs(name)}")
        sizes = sorted({path.stat().st_size for path in (self.root / f"whole-{name}").rglob("*") if path.is_file()})
        for step in range(count):
            limit = sizes[round((len(sizes) - 1) * step / max(count, 1))] - 1
            self.fresh()

            def before(limit: int = limit) -> None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

            self._full(row, name, f"{name} with files of {limit} bytes at most", before, lambda: None, limit)
        return row

    def _full(
        self,
        row: Row,
        name: str,
        what: str,
        before: Callable[[], Any],
        make_room: Callable[[], Any],
        limit: int | None = None,
    ) -> None:
        row.times += 1
        code, said = self.run(name, before), self.log.read_text().strip()
        muted = limit is not None and self.log.stat().st_size >= limit  # what it said went into a file like the others
        if code == 0:
            if "store took no more" in said:
                row.outcomes["ended with a note"] += 1
            self.same(name, what, row)
        elif code == 1 and one_line(said):
            row.outcomes["one-line error"] += 1
        elif code == 1 and muted:
            row.outcomes["exit code 1 without room for the line"] += 1
        else:
            row.problem(f"{what}: ended with {code}: {said}")
        self.inspect(row, what)
        make_room()
        self.finish(row, name, what)

    def corruptions(self, kind: str, count: int) -> Row:
        """Change random bytes of a random file of a kind, or cut it, and run again."""
        template, pattern = {
            "store entry": ("whole-ready", "store/objects/*/*"),
            "checkpoint": ("whole-trained", "cache/checkpoints/*.*"),
            "run table": ("whole-ready", "runs/*/[rsp]*.*"),
            "mean-box cache": ("whole-trained", "cache/mean-boxes/*"),
            "interrupted training": ("half", "cache/training/*/**/*.*"),
        }[kind]
        name = "ready" if template == "whole-ready" else "trained"
        if template == "half" and not (self.root / "half").exists():
            self._half()
        article = "an" if kind.startswith("i") else "a"
        row = Row(f"random bytes of {article} {kind}")
        for _ in range(count):
            self.fresh(template)
            if kind == "mean-box cache":  # else the maps of the store are taken
                shutil.rmtree(self.work / "store")
            path = self.random.choice(sorted(path for path in self.work.glob(pattern) if path.is_file()))
            what = f"{path.relative_to(self.work)} {self._corrupt(path)}"
            row.times += 1
            if kind == "run table":
                self._read(row, what, path)
            code, said = self.run(name), self.log.read_text().strip()
            if code == 1 and one_line(said) and (remedy := re.search(r"(\S+) is damaged.*delete\s+it", said)):
                row.outcomes["one line that names the file and the remedy"] += 1
                named = remedy[1]
                if (
                    not Path(named).with_suffix("").samefile(path.with_suffix(""))
                    if Path(named).with_suffix("").exists()
                    else Path(named).stem != path.stem
                ):
                    row.problem(f"{what}: another file is named: {said}")
                Path(named).unlink()
                code, said = self.run(name), self.log.read_text().strip()
            elif code == 0 and kind != "run table":
                row.outcomes["mended without a word" if "damaged" not in said else "mended, with a note"] += 1
            if code:
                row.problem(f"{what}: ended with {code}: {said}")
            elif self.same(name, what, row):
                row.identical += 1
        return row

    def _corrupt(self, path: Path) -> str:
        content = bytearray(path.read_bytes())
        if self.random.random() < 0.15:
            at = self.random.randrange(len(content))
            del content[at:]
            how = f"cut at {at}"
        else:
            places = [self.random.randrange(len(content)) for _ in range(self.random.choice((1, 1, 2, 8)))]
            for at in places:
                content[at] ^= self.random.randrange(1, 256)
            how = f"changed at {places}"
        path.write_bytes(content)
        return how

    def _read(self, row: Row, what: str, path: Path) -> None:
        """Read a damaged run: as it was, or one line that names the file and the remedy."""

        def call() -> int:
            from xaibench.errors import XaibenchError
            from xaibench.results.run import Run

            whole = Run.load(next((self.root / "whole-ready" / "runs").iterdir()))
            try:
                run = Run.load(path.parent)
                same = run.images().equals(whole.images()) and run.predictions().equals(whole.predictions())
                return (
                    0 if same and run.scores == whole.scores and run.record["weights"] == whole.record["weights"] else 2
                )
            except XaibenchError as error:
                print(error)
                return 1

        code, said = scene.wait(scene.child(self.log, call)), self.log.read_text().strip()
        if code == 1 and path.name in said and "run the same xaibench run again" in said and "\n" not in said:
            row.outcomes["one line that names the file and the remedy"] += 1
        elif code == 0:
            row.outcomes["read as it was"] += 1
        else:
            row.problem(f"{what}: read with {code}: {said}")

    def _half(self) -> None:
        """Keep a training that was killed in its third epoch."""
        self.fresh()

        def before() -> None:
            from xaibench.training.train import _EpochEnd

            original = _EpochEnd.on_train_epoch_end

            def ended(callback: Any, trainer: Any, module: Any) -> None:
                original(callback, trainer, module)
                if trainer.current_epoch == 1:
                    os.kill(os.getpid(), signal.SIGKILL)

            _EpochEnd.on_train_epoch_end = ended  # type: ignore[method-assign]

        assert self.run("trained", before) == -signal.SIGKILL
        shutil.copytree(self.work, self.root / "half")


def _mount(folder: Path, kibibytes: int, *, again: bool = False) -> bool:
    options = f"size={kibibytes}k" + (",remount" if again else "")
    return (
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, check=False
        ).returncode
        == 0
        if shutil.which("mount")
        else False
    )
