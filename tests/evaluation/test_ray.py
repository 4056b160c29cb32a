"""Ray's workers give what one process gives, bit for bit: with workers that die, hang, or meet failing explainers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from tests.evaluation import ray_plugins
from tests.tiny import tiny_benchmark
from xaibench.errors import DataError, XaibenchError
from xaibench.evaluation.engine import Engine, Local
from xaibench.evaluation.evaluate import evaluate
from xaibench.progress import Progress
from xaibench.results.run import Run

ray = pytest.importorskip("ray", reason="pip install -e '.[test-ray]'")
pytestmark = pytest.mark.ray

from xaibench.evaluation.ray_engine import RayEngine  # noqa: E402 - needs Ray

EXPLAINERS = ["ray_brightness", "ray_fails", "ray_plain_late", "ray_plain_early", "ray_holes"]
ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A Ray of two CPUs on this machine, or the running one that XAIBENCH_TEST_RAY names."""
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_memory_monitor_refresh_ms": "0"}
    address = os.environ.get("XAIBENCH_TEST_RAY", "local")
    own: dict[str, Any] = {"num_cpus": 2, "include_dashboard": False, "object_store_memory": 100 * 2**20}
    ray.init(address, log_to_driver=False, logging_level="ERROR", **own if address == "local" else {})
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def engine(cluster: None) -> Iterator[RayEngine]:
    """Two workers, a batch for each shard."""
    with RayEngine(workers=2, threads=1, batches=1) as opened:
        yield opened


@pytest.fixture(autouse=True)
def _plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("XAIBENCH_CACHE", str(tmp_path / "cache"))
    ray_plugins.register()
    yield
    ray_plugins.unregister()


def run(out: Path, engine: Engine, *explainers: str, **options: Any) -> Run:
    settings: dict[str, Any] = {"batch_size": 8, "device": "cpu"}
    names = explainers or ("ray_brightness",)
    return evaluate("ray_small", names, tiny_benchmark(), out=out, engine=engine, **settings | options)


def same(first: Run, second: Run) -> None:
    assert [score.to_json() for score in first.scores] == [score.to_json() for score in second.scores]
    assert first.notes == second.notes
    assert first.record["failed"] == second.record["failed"]
    assert first.record["given_up"] == second.record["given_up"]
    assert first.record["id"] == second.record["id"]
    pd.testing.assert_frame_equal(first.images(), second.images(), check_exact=True)
    pd.testing.assert_frame_equal(first.predictions(), second.predictions(), check_exact=True)
    sheets = []
    for found in (first, second):
        assert found.directory is not None
        sheets.append({path.name: path.read_bytes() for path in found.directory.glob("contact-sheet-*.png")})
    assert sheets[0] == sheets[1]


def test_scores_notes_tables_and_contact_sheets_are_those_of_one_process(tmp_path: Path, engine: RayEngine) -> None:
    metrics = ["roc_auc", "hit_rate", "energy", "iou_best", "average_drop"]
    images: list[int] = []
    local = run(tmp_path / "local", Local(threads=1), *EXPLAINERS, metrics=metrics)
    there = run(tmp_path / "ray", engine, *EXPLAINERS, metrics=metrics, progress=Progress(advance=images.append))
    same(local, there)
    # what this rests on: a failure in a late shard, one on a plain image that counts, one that nobody asked for
    assert set(there.record["failed"]) == {"ray_fails", "ray_plain_early"}
    assert "phantom-0-test-00017" in there.record["failed"]["ray_fails"]  # image 16 has no region
    assert any("maps hold NaN" in note for note in there.notes)
    assert there.directory is not None
    assert len(list(there.directory.glob("contact-sheet-*.png"))) == len(EXPLAINERS)
    assert sum(images) == 28 + 12 + 1  # test, validation for iou_best, and the intervals' one step
    assert there.record["engine"] == {"name": "ray", "workers": 2, "threads": 1, "gpus": 0.0, "lost workers": 0}


def test_a_store_is_shared_and_what_one_engine_kept_the_other_finds(tmp_path: Path, engine: RayEngine) -> None:
    store = tmp_path / "store"
    there = run(tmp_path / "ray", engine, store=store)
    again = run(tmp_path / "local", Local(threads=1), store=store)
    same(there, again)
    assert again.record["seconds"]["ray_brightness"] == there.record["seconds"]["ray_brightness"] > 0


class _Killing:
    """Sends a signal to workers, one each time that images are done."""

    def __init__(self, engine: RayEngine, number: int, times: int = 1) -> None:
        self.engine, self.number, self.left = engine, number, times
        self.hit: list[int] = []

    def advance(self, _: int) -> None:
        if self.left and (pids := [pid for pid in self.engine.pids() if pid not in self.hit]):
            self.left -= 1
            self.hit.append(pids[0])
            os.kill(pids[0], self.number)


def test_a_killed_worker_costs_time_and_no_score(tmp_path: Path, engine: RayEngine) -> None:
    local = run(tmp_path / "local", Local(threads=1), "ray_slow")
    killing, lost = _Killing(engine, signal.SIGKILL), engine.lost
    there = run(tmp_path / "ray", engine, "ray_slow", progress=Progress(advance=killing.advance))
    same(local, there)
    assert len(killing.hit) == 1
    assert killing.hit[0] not in engine.pids() or engine.lost == lost + 1


@pytest.mark.slow
def test_a_shard_that_hangs_is_done_by_another_worker(
    tmp_path: Path, engine: RayEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xaibench.evaluation.ray_engine._SLOW_AT_LEAST", 0.5)
    local = run(tmp_path / "local", Local(threads=1), "ray_slow")
    while len(engine.pids()) < 2:
        run(tmp_path / "warm", engine, "ray_slow")
    stopping = _Killing(engine, signal.SIGSTOP)
    began = time.monotonic()
    try:
        there = run(tmp_path / "ray", engine, "ray_slow", progress=Progress(advance=stopping.advance))
    finally:
        for pid in stopping.hit:
            os.kill(pid, signal.SIGCONT)
    same(local, there)
    assert stopping.hit
    assert time.monotonic() - began < 60


def test_what_a_worker_meets_is_said_as_here(
    tmp_path: Path, engine: RayEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    from xaibench.evaluation import evaluate as module

    real = module.load_splits

    def damaged(*arguments: Any) -> Any:
        splits = real(*arguments)
        return replace(splits, test=ray_plugins.Damaged(splits.test))

    monkeypatch.setattr(module, "load_splits", damaged)
    monkeypatch.setattr(module, "glance", lambda *_: [])
    with pytest.raises(DataError, match="image 20 is damaged"):
        run(tmp_path / "ray", engine)


def test_a_network_of_one_s_own_is_sent_or_refused_in_one_line(tmp_path: Path, engine: RayEngine) -> None:
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3, stride=2), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
    )
    network.append(torch.nn.Linear(4, 4))
    found = [
        evaluate(network, ["gradcam"], tiny_benchmark(), out=tmp_path / str(number), engine=how, device="cpu")
        for number, how in enumerate((Local(threads=1), engine))
    ]
    same(*found)
    network.append(ray_plugins.Unsendable())
    with pytest.raises(XaibenchError, match="can't be sent to other processes") as caught:
        evaluate(network, ["gradcam"], tiny_benchmark(), engine=engine, device="cpu")
    assert "\n" not in str(caught.value)


def test_a_worker_too_large_for_the_cluster_is_refused(cluster: None) -> None:
    with pytest.raises(XaibenchError, match="no node has room for a worker of 64 CPUs"):
        RayEngine(cpus=64)
    with pytest.raises(XaibenchError, match="at least 1"):
        RayEngine(workers=0)


@pytest.mark.slow
def test_twenty_lost_workers_cost_no_score(tmp_path: Path, engine: RayEngine) -> None:
    local = run(tmp_path / "local", Local(threads=1), "ray_slow")
    lost = engine.lost
    for number in range(10):
        killing = _Killing(engine, signal.SIGKILL, times=2)
        there = run(tmp_path / f"ray{number}", engine, "ray_slow", progress=Progress(advance=killing.advance))
        same(local, there)
        assert len(killing.hit) == 2
    run(tmp_path / "last", engine)  # meets those that were killed after their last shard
    assert engine.lost - lost == 20


def _script(text: str, cache: Path) -> list[str]:
    head = f"import os\nos.environ |= {{'XAIBENCH_CACHE': {str(cache)!r}, 'RAY_memory_monitor_refresh_ms': '0'}}\n"
    return [sys.executable, "-c", head + text]


@pytest.mark.slow
def test_two_nodes_give_the_scores_of_one_process(tmp_path: Path) -> None:
    program = [sys.executable, str(ROOT / "benchmarks" / "speed" / "ray_nodes.py"), "--images", "32", "--rounds", "1"]
    environment = {**os.environ, "XAIBENCH_CACHE": str(tmp_path)}
    done = subprocess.run(program, capture_output=True, text=True, timeout=900, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert "identical scores" in done.stdout


@pytest.mark.slow
def test_ctrl_c_leaves_nothing_running(tmp_path: Path, wait_for: Callable[[Callable[[], bool]], None]) -> None:
    text = (
        "from tests.evaluation import ray_plugins\n"
        "from tests.tiny import tiny_benchmark\n"
        "from xaibench.evaluation.evaluate import evaluate\n"
        "from xaibench.evaluation.engine import make_engine\n"
        "from xaibench.progress import Progress\n"
        "ray_plugins.register()\n"
        "with make_engine('ray', workers=1, threads=1, batches=1) as engine:\n"
        "    def say(n):\n"
        "        print('pids', *engine.pids(), flush=True)\n"
        "    evaluate('ray_small', ['ray_slow'], tiny_benchmark(), engine=engine, batch_size=1, device='cpu',\n"
        "             progress=Progress(advance=say))\n"
    )
    command = _script(text, tmp_path)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline().split()[1])
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode in (1, 130, -signal.SIGINT)
    wait_for(lambda: not Path(f"/proc/{pid}").exists())


@pytest.fixture
def wait_for() -> Callable[[Callable[[], bool]], None]:
    def wait(condition: Callable[[], bool]) -> None:
        for _ in range(300):
            if condition():
                return
            time.sleep(0.1)
        raise AssertionError("it did not happen in 30 s")

    return wait
