"""The store: what goes in comes out bit for bit, or not at all, whatever happens to the files."""

from __future__ import annotations

import errno
import multiprocessing
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from xaibench.errors import XaibenchError
from xaibench.io import store as module
from xaibench.io.files import hold
from xaibench.io.store import MAGIC, Store, default_store, key_of

KEY = key_of("maps", {"a": 1})
ANY_ARRAY = arrays.arrays(
    st.sampled_from([np.float64, np.float32, np.int64, np.uint8, np.bool_]), arrays.array_shapes(min_dims=1, min_side=0)
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def file_of(store: Store, key: str = KEY) -> Path:
    return store.directory / "objects" / key[:2] / key


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(made=st.dictionaries(st.text("abc:é", min_size=1), ANY_ARRAY, max_size=3), number=st.floats(allow_nan=False))
def test_what_goes_in_comes_out_bit_for_bit(store: Store, made: dict[str, np.ndarray], number: float) -> None:
    assert store.write(KEY, made, {"number": number, "text": "肺 <b>"})
    found = Store(store.directory).read(KEY)
    assert found is not None
    assert found.about == {"number": number, "text": "肺 <b>"}
    assert set(found.arrays) == set(made)
    for name, array in made.items():
        assert found.arrays[name].dtype == array.dtype
        assert found.arrays[name].shape == array.shape
        assert found.arrays[name].tobytes() == array.tobytes()


def test_a_key_names_all_that_decides_it() -> None:
    parts = {"weights": "aa", "images": ["x", "y"], "nested": {"b": 2.5, "a": None}}
    assert key_of("maps", parts) == key_of("maps", dict(reversed(parts.items())))
    others = [
        ("scores", parts),
        ("maps", parts | {"weights": "ab"}),
        ("maps", parts | {"images": ["y", "x"]}),
        ("maps", parts | {"nested": {"b": 2.5, "a": False}}),
        ("maps", {name: value for name, value in parts.items() if name != "nested"}),
    ]
    assert len({key_of(*other) for other in others} | {key_of("maps", parts)}) == 6


def test_nothing_there_is_none(store: Store) -> None:
    assert store.read(KEY) is None
    assert not store.has(KEY)
    assert (store.hits, store.misses, store.damaged) == (0, 1, [])
    assert list(store.entries()) == []


@pytest.mark.parametrize("kind", ["flip", "cut", "grow", "empty", "other"])
def test_a_damaged_entry_is_noticed_taken_away_and_made_again(store: Store, kind: str) -> None:
    rng = np.random.default_rng(0)
    made = {"maps": rng.random((3, 8, 8))}
    for trial in range(40):
        store.write(KEY, made)
        path = file_of(store)
        content = bytearray(path.read_bytes())
        at = int(rng.integers(len(content)))
        if kind == "flip":
            content[at] ^= 1 << int(rng.integers(8))
        elif kind == "cut":
            del content[at:]
        elif kind == "grow":
            content.append(at % 256)
        elif kind == "empty":
            content.clear()
        else:
            content[:] = b"PK\x03\x04" + bytes(content)
        path.write_bytes(content)
        assert store.read(KEY) is None
        assert store.damaged == [KEY] * (trial + 1)
        assert not path.exists()


def test_verify_takes_only_the_damaged_ones_away(store: Store) -> None:
    keys = [key_of("maps", {"n": n}) for n in range(5)]
    for key in keys:
        store.write(key, {"a": np.arange(4)})
    path = file_of(store, keys[2])
    path.write_bytes(path.read_bytes()[:-1])
    count, damaged = store.verify()
    assert (count, [entry.key for entry in damaged]) == (5, [keys[2]])
    assert store.verify() == (4, [])


def test_prune_takes_those_not_used_for_longest(store: Store) -> None:
    keys = [key_of("maps", {"n": n}) for n in range(4)]
    for age, key in enumerate(keys):
        store.write(key, {"a": np.zeros(1000)})
        os.utime(file_of(store, key), (1000.0 + age, 1000.0 + age))
    store.read(keys[0])  # used again: the newest now
    size = file_of(store, keys[0]).stat().st_size
    assert store.prune(2 * size + 1) == (2, 2 * size)
    assert [store.has(key) for key in keys] == [True, False, False, True]
    assert store.prune(0) == (2, 2 * size)


def test_about_reads_the_head_alone(store: Store) -> None:
    store.write(KEY, {"maps": np.zeros((100, 100))}, {"kind": "maps"})
    (entry,) = store.entries()
    assert store.about(entry) == {"kind": "maps"}
    file_of(store).write_bytes(MAGIC + b"\xff" * 60)
    assert store.about(entry) is None


def test_a_full_disk_stops_the_store_and_leaves_no_part(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.write(KEY, {"a": np.zeros(3)})

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    other = key_of("maps", {"b": 1})
    assert not store.write(other, {"a": np.zeros(3)})
    assert store.stopped is not None
    assert "no space left" in store.stopped
    monkeypatch.undo()
    assert not store.write(other, {"a": np.zeros(3)})  # it does not try again
    assert not store.has(other)
    assert list((store.directory / "parts").iterdir()) == []
    assert store.read(KEY) is not None


def test_what_a_killed_writer_left_is_swept_up_and_what_is_being_written_is_not(store: Store) -> None:
    store.write(KEY, {"a": np.zeros(3)})
    left, living = (store.directory / "parts" / name for name in ("left", "living"))
    left.write_bytes(b"x")
    with open(living, "xb") as file:
        assert hold(file)
        Store(store.directory)
        Store(store.directory).prune(0)
        assert not left.exists()
        assert living.exists()
    Store(store.directory)
    assert not living.exists()


def test_without_locks_a_part_is_swept_up_after_a_day(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xaibench.io.files.fcntl", None)
    store.write(KEY, {"a": np.zeros(3)})
    old, new = (store.directory / "parts" / name for name in ("old", "new"))
    old.write_bytes(b"x")
    new.write_bytes(b"x")
    os.utime(old, (1000.0, 1000.0))
    Store(store.directory)
    assert not old.exists()
    assert new.exists()


def test_a_part_that_was_swept_up_is_written_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    original, times = Path.replace, [0]

    def stolen(self: Path, target: Path) -> Path:
        times[0] += 1
        if times[0] == 1:
            self.unlink()
        return original(self, target)

    monkeypatch.setattr(Path, "replace", stolen)
    assert store.write(KEY, {"a": np.zeros(3)})
    assert times == [2]
    assert store.read(KEY) is not None


def test_a_file_in_its_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("")
    with pytest.raises(XaibenchError, match=r"store is no folder: give another with --store DIR"):
        Store(tmp_path / "store")


def test_where_the_command_line_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XAIBENCH_CACHE", str(tmp_path))
    monkeypatch.delenv("XAIBENCH_STORE", raising=False)
    assert default_store() == tmp_path / "store"
    monkeypatch.setenv("XAIBENCH_STORE", str(tmp_path / "elsewhere"))
    assert default_store() == tmp_path / "elsewhere"


def _hammer(folder: Path, seed: int, errors: Any) -> None:
    store, rng = Store(folder), np.random.default_rng(seed)
    for _ in range(150):
        n = int(rng.integers(5))
        key = key_of("maps", {"n": n})
        found = store.read(key)
        if found is not None and not np.array_equal(found.arrays["a"], np.full(2000, n)):
            errors.put(f"{key} holds something else")
        store.write(key, {"a": np.full(2000, n)})
    if store.damaged:
        errors.put(f"saw {len(store.damaged)} partial entries")


def test_several_processes_share_one_store(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    errors = context.Queue()
    workers = [context.Process(target=_hammer, args=(tmp_path / "store", seed, errors)) for seed in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert errors.empty()
    assert Store(tmp_path / "store").verify() == (5, [])


def test_threads_write_what_one_writes_and_the_last_of_a_key_stays(store: Store) -> None:
    keys = [key_of("maps", {"n": n}) for n in range(40)]
    with store:
        for turn in range(3):
            for number, key in enumerate(keys):
                assert store.write(key, {"a": np.full(2000, number + turn)}, {"turn": turn})
        assert pickle.loads(pickle.dumps(store)).write(KEY, {"a": np.zeros(1)})  # threads stay in their process
    assert len(list(store.entries())) == 41
    for number, key in enumerate(keys):
        found = store.read(key)
        assert found is not None
        assert found.about == {"turn": 2}
        np.testing.assert_array_equal(found.arrays["a"], np.full(2000, number + 2))


def test_what_was_begun_is_read_as_it_is(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    others = [key_of("maps", {"a": number}) for number in range(2, 6)]
    for number, key in enumerate([KEY, *others]):
        store.write(key, {"maps": np.full(3, number)})
    loaded: list[str] = []
    load = module._load
    monkeypatch.setattr(module, "_load", lambda path: loaded.append(path.name) or load(path))
    store.begin(KEY)  # outside the block: nothing
    assert loaded == []
    with store:
        for key in (KEY, KEY, others[0]):
            store.begin(key)
        for number, key in enumerate((KEY, others[0])):
            found = store.read(key)
            assert found is not None
            assert found.arrays["maps"].tolist() == [number] * 3
        assert loaded == [KEY, others[0]]  # once each
        store.begin(key_of("maps", {"nothing": "there"}))
        assert store.read(key_of("maps", {"nothing": "there"})) is None
        content = bytearray(file_of(store, others[1]).read_bytes())
        content[-1] ^= 1
        file_of(store, others[1]).write_bytes(bytes(content))
        store.begin(others[1])
        assert store.read(others[1]) is None
        for key in (KEY, others[0], others[2], others[3]):  # more than are held
            store.begin(key)
        assert len(store._begun) == 2
    assert store._begun == {}
    assert store.damaged == [others[1]]
    assert not file_of(store, others[1]).exists()
    assert (store.hits, store.misses) == (2, 2)


def test_a_disk_that_fills_while_threads_write_stops_the_store(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
    with store:
        store.write(KEY, {"a": np.zeros(3)})
    assert store.stopped is not None
    assert not store.has(KEY)
    assert list((store.directory / "parts").iterdir()) == []
