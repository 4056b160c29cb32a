"""Hashes of files: right after every kind of change, cached, and safe from damage and from other processes."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xaibench.datasets import content
from xaibench.datasets.content import FileFacts, sha256_of, sha256_of_one
from xaibench.errors import DataError


class Counted(FileFacts):
    """Notes which files are read."""

    def __init__(self) -> None:
        super().__init__("counted", self.read)
        self.files: list[str] = []

    def read(self, path: str) -> str:
        self.files.append(os.path.basename(path))
        return Path(path).read_text()


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XAIBENCH_CACHE", str(tmp_path / "cache"))
    for n in range(3):
        (tmp_path / f"{n}.txt").write_text(f"content {n}")
    return tmp_path


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trust files at once: their changes in a test are many ticks of the clock apart."""
    monkeypatch.setattr(content, "FRESH_NS", -(10**9))


def paths(root: Path) -> list[Path]:
    return [root / f"{n}.txt" for n in range(3)]


def test_hashes_are_of_the_content_in_order(root: Path) -> None:
    expected = [hashlib.sha256(f"content {n}".encode()).hexdigest() for n in range(3)]
    assert sha256_of(paths(root), root) == expected
    assert [sha256_of_one(path, root) for path in reversed(paths(root))] == expected[::-1]


@pytest.mark.usefixtures("settled")
def test_a_second_process_reads_nothing_again(root: Path) -> None:
    first, second = Counted(), Counted()
    assert first(paths(root), root) == second(paths(root), root) == [f"content {n}" for n in range(3)]
    assert len(first.files) == 3
    assert second.files == []
    assert [second.one(path, root) for path in paths(root)] == first(paths(root), root)
    assert second.files == []
    assert len(list((root / "cache" / "content").glob("*.json"))) == 1


def rewrite(path: Path) -> None:
    path.write_text("CONTENT 1")


def replace(path: Path) -> None:
    (path.parent / "new").write_text("CONTENT 1")
    os.replace(path.parent / "new", path)


def rewrite_with_the_old_time(path: Path) -> None:
    before = path.stat()
    path.write_text("CONTENT 1")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replace_by_a_copy_with_the_old_time(path: Path) -> None:
    before = path.stat()
    new = path.parent / "new"
    new.write_text("CONTENT 1")
    os.utime(new, ns=(before.st_atime_ns, before.st_mtime_ns))
    os.replace(new, path)


def through_a_link(path: Path) -> None:
    other = path.parent / "other"
    other.write_text("CONTENT 1")
    path.unlink()
    path.symlink_to(other)


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize(
    "change",
    [rewrite, replace, rewrite_with_the_old_time, replace_by_a_copy_with_the_old_time, through_a_link],
)
def test_other_content_of_the_same_size_is_seen(root: Path, change: Callable[[Path], None]) -> None:
    facts = Counted()
    facts(paths(root), root)
    time.sleep(0.02)  # more than a tick of the file system's clock
    change(root / "1.txt")
    for reader in (facts, Counted()):
        assert reader.one(root / "1.txt", root) == "CONTENT 1"
        assert reader(paths(root), root) == ["content 0", "CONTENT 1", "content 2"]
    assert facts.files.count("0.txt") == 1


def test_a_file_that_changed_just_now_is_not_trusted_to_the_cache(root: Path) -> None:
    """A second write within one tick of the clock leaves size, inode and times as they are."""
    facts = Counted()
    for _ in range(2):
        facts(paths(root), root)
    assert len(facts.files) == 6
    assert not (root / "cache").exists()


def test_it_is_trusted_two_seconds_later(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts, now = Counted(), time.time_ns()
    monkeypatch.setattr(content.time, "time_ns", lambda: now + 3 * 10**9)
    for _ in range(2):
        facts(paths(root), root)
    assert len(facts.files) == 3


@pytest.mark.usefixtures("settled")
def test_a_file_that_changes_while_it_is_read_is_not_cached(root: Path) -> None:
    class Disturbed(Counted):
        def read(self, path: str) -> str:
            found = super().read(path)
            Path(path).write_text(found + "!")
            return found

    facts = Disturbed()
    assert facts([root / "0.txt"], root) == ["content 0"]
    assert facts([root / "0.txt"], root) == ["content 0!"]


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("damage", ["", "{}", "[1, 2]", "\x00\x01", "flip", "cut", "deep"])
def test_a_damaged_cache_is_ignored_and_written_anew(root: Path, damage: str) -> None:
    Counted()(paths(root), root)
    (file,) = (root / "cache" / "content").glob("*.json")
    good, known = file.read_text(), content._read(file)
    assert len(known) == 3
    digest = hashlib.sha256(b"[" * 10**6).hexdigest()
    changed = {"flip": good.replace("content 1", "content 7"), "cut": good[:-9], "deep": f"{digest}\n{'[' * 10**6}"}
    file.write_text(changed.get(damage, damage))
    facts = Counted()
    assert facts(paths(root), root) == [f"content {n}" for n in range(3)]
    assert len(facts.files) == 3
    assert content._read(file) == known


@given(st.binary(max_size=60), st.integers(0, 400))
def test_any_damage_to_the_cache_changes_no_answer(piece: bytes, at: int) -> None:
    good = content._written({"/a/b.png": ((1, 2, 3, 4), "f" * 64), "/a/c.png": ((1, 2, 3, 5), "e" * 64)}).encode()
    damaged = good[:at] + piece + good[at + len(piece) :]
    with tempfile.NamedTemporaryFile() as file:
        file.write(damaged)
        file.flush()
        found = content._read(Path(file.name))
    assert found == {} or damaged.replace(b"\r\n", b"\n") == good


@pytest.mark.usefixtures("settled")
def test_a_cache_that_can_not_be_written_costs_nothing_else(root: Path) -> None:
    (root / "cache").write_text("a file where the folder should be")
    assert Counted()(paths(root), root) == [f"content {n}" for n in range(3)]


def _hash_many(arguments: tuple[str, int]) -> int:
    root, part = arguments
    content.FRESH_NS = -(10**9)
    found = sha256_of([Path(root) / f"{n}.bin" for n in range(part * 20, part * 20 + 60)], root)
    return len(set(found))


def test_processes_at_once_keep_each_others_answers(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for n in range(160):
        (root / f"{n}.bin").write_bytes(str(n).encode() * 100)
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        assert pool.map(_hash_many, [(str(root), part) for part in range(6)]) == [60] * 6
    (file,) = (root / "cache" / "content").glob("*.json")
    known = content._read(file)
    assert len(known) == 160
    for n in (0, 80, 159):
        assert known[str(root / f"{n}.bin")][1] == hashlib.sha256(str(n).encode() * 100).hexdigest()


@pytest.mark.usefixtures("settled")
def test_a_long_reading_is_saved_on_the_way(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content, "SAVE_SECONDS", 0.0)

    class Interrupted(Counted):
        def read(self, path: str) -> str:
            if path.endswith("2.txt"):
                raise KeyboardInterrupt
            return super().read(path)

    with pytest.raises(KeyboardInterrupt):
        Interrupted()(paths(root), root)
    facts = Counted()
    facts(paths(root), root)
    assert facts.files == ["2.txt"]


def test_files_that_are_missing_or_never_end_are_named(root: Path) -> None:
    with pytest.raises(DataError, match=r"9\.txt: No such file or directory: put the file back"):
        sha256_of([root / "0.txt", root / "9.txt"], root)
    os.mkfifo(root / "pipe")
    with pytest.raises(DataError, match="pipe: it is no plain file"):
        sha256_of_one(root / "pipe", root)
    done = []
    Counted()(paths(root), root, progress=lambda *seen: done.append(seen))
    assert done == [(1, 3), (2, 3), (3, 3)]
