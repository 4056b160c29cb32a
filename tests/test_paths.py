"""A file gets its name when it is whole and on the disk; a lock is free when its holder ends."""

from __future__ import annotations

import errno
import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

import pytest

from xaibench.io.files import STALE, alone, hold, make_folder, remove_parts, write_atomically, write_together


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_content_is_flushed_then_named_then_the_name_is_flushed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(
        "os.fsync",
        lambda handle: (done.append("flush " + Path(os.readlink(f"/proc/self/fd/{handle}")).name), fsync(handle)),
    )
    monkeypatch.setattr("os.replace", lambda old, new: (done.append(f"name {Path(new).name}"), replace(old, new)))
    write_together({tmp_path / name: lambda part: part.write_text("x") for name in ("a.txt", "b.txt")})
    assert [what.split()[0] for what in done] == ["flush", "flush", "name", "name", "flush"]
    assert done[2:] == ["name a.txt", "name b.txt", f"flush {tmp_path.name}"]
    assert done[0].startswith("flush .a.")
    assert names(tmp_path) == {"a.txt", "b.txt"}


def test_what_fails_leaves_all_as_it_was_and_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("old")

    def full(part: Path) -> None:
        part.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space") as caught:
        write_together({tmp_path / "a.txt": lambda part: part.write_text("new"), tmp_path / "b.txt": full})
    assert caught.value.filename == str(tmp_path / "b.txt")
    assert names(tmp_path) == {"a.txt"}
    assert (tmp_path / "a.txt").read_text() == "old"
    with pytest.raises(OSError, match="No such file") as caught:
        write_atomically(tmp_path / "nowhere" / "c.txt", lambda part: part.write_text("x"))
    assert caught.value.filename == str(tmp_path / "nowhere" / "c.txt")


def test_parts_of_the_dead_are_taken_away(tmp_path: Path) -> None:
    for name, age in ((".a.1-ff.part.txt", STALE), (".b.1-ff.part.txt", 0), ("a.txt", STALE)):
        (tmp_path / name).write_text("x")
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    remove_parts(tmp_path)
    assert names(tmp_path) == {".b.1-ff.part.txt", "a.txt"}


def test_a_folder_is_made_with_those_above_it(tmp_path: Path) -> None:
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()


def _critical(folder: Path, seen: Any) -> None:
    for _ in range(20):
        with alone(folder / "lock"):
            (folder / "here").mkdir()  # fails where somebody is in
            (folder / "here").rmdir()
            seen.put(1)


def test_one_at_a_time(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    seen = context.Queue()
    workers = [context.Process(target=_critical, args=(tmp_path, seen)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert sum(seen.get(timeout=5) for _ in range(40)) == 40


def test_who_waits_is_told_and_who_can_have_no_lock_goes_on(tmp_path: Path) -> None:
    told: list[str] = []
    with alone(tmp_path / "lock", lambda: told.append("first")), open(tmp_path / "lock", "ab") as file:
        assert hold(file) is False
    assert told == []
    (tmp_path / "file").write_text("")
    with alone(tmp_path / "file" / "lock", lambda: told.append("second")):
        pass
    assert told == []
