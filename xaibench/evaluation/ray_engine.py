"""Shards of a split on the workers of a Ray cluster: lost workers are replaced, slow ones overtaken.

A shard ends where a batch ends, so that every batch has the images that it has in one process, and with equal threads
on the CPU every score the same bits.
"""

from __future__ import annotations

import hashlib
import logging
import os
import statistics
import sys
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import ray
from ray.exceptions import RayError, RayTaskError

from xaibench.errors import UsageError, XaibenchError
from xaibench.evaluation.batch import Work
from xaibench.evaluation.merge import Settling, copied
from xaibench.evaluation.ray_worker import Done, Shard, Worker, fingerprint, pack
from xaibench.evaluation.records import Part, Records, join
from xaibench.evaluation.sheets import ContactSheets
from xaibench.progress import Progress
from xaibench.registry import one_line

_SHARDS_EACH = 8
"""Shards for each worker, so that the last ones end together."""
_LONGEST = 16
"""Batches in a shard, at most: what is lost with a worker."""
_LOSSES = 20
"""Workers lost over one shard before it is given up: it may be what kills them."""
_STARTS = 3
"""Workers in a row that do not start, before all is given up."""
_PATIENCE = 600.0
"""Seconds without any worker."""
_SLOW, _SLOW_AT_LEAST = 2.0, 2.0
"""A shard that takes so many times the median, and so many seconds, is begun again on an idle worker."""


class RayEngine:
    """The workers of a Ray cluster, which are kept until the engine is closed.

    Args:
        address: of a running cluster, or "auto"; by default ``$RAY_ADDRESS``, else Ray is started on this machine.
        workers: how many; as many as the cluster has room for by default.
        cpus, gpus: of each worker, as Ray counts them; a part of a GPU is possible. By default one CPU, and one GPU
            where the cluster has any and `device` is not "cpu".
        threads: of each worker, on the CPU; `cpus` by default.
        device: of the evaluation.
        batches: in a shard; by default so many that each worker gets several shards.

    Raises:
        UsageError: an option out of its range, or workers that no node has room for.
        XaibenchError: the cluster can't be reached.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        workers: int | None = None,
        cpus: float = 1,
        gpus: float | None = None,
        threads: int | None = None,
        device: str = "auto",
        batches: int | None = None,
    ) -> None:
        for name, value, least in (("workers", workers, 1), ("threads", threads, 1), ("batches", batches, 1)):
            if value is not None and value < least:
                raise UsageError(f"{name} = {value}; it is at least {least}")
        if cpus <= 0 or (gpus is not None and gpus < 0):
            raise UsageError(f"a worker needs a CPU or a part of one, got cpus = {cpus:g}, gpus = {gpus}")
        self._mine = _connect(address)
        has_gpus = any(node.get("GPU", 0) for node in _nodes())
        self.cpus = cpus
        self.gpus = gpus if gpus is not None else float(has_gpus and device != "cpu")
        self.threads = threads or max(1, int(cpus))
        self.device = "cuda" if self.gpus else "cpu"
        self.workers, self._batches = workers, batches
        self.lost = 0
        """Workers that were lost."""
        self._here = fingerprint()
        self._members: list[_Member] = []
        self._failed_starts = 0
        try:
            self._check_room()
        except BaseException:
            self.close()
            raise

    def records(self, work: Work, batch_size: int, progress: Progress) -> Records:
        """Run a split through on the workers; see `xaibench.evaluation.engine.Engine`.

        Raises:
            XaibenchError: what a worker met that the user can mend; workers that do not start, or die over one shard.
        """
        if work.sheet is not None and not isinstance(work.sheet, ContactSheets):
            raise UsageError("only contact sheets can be filled by other processes")
        if not len(work.split):
            return join([], work.metrics, list(work.explainers))
        return _Pass(self, work, batch_size, progress).records()

    def about(self) -> Mapping[str, Any]:
        """Return the device and how many workers there are, with threads and GPUs of each."""
        engine = {"name": "ray", "workers": len(self._members), "threads": self.threads, "gpus": self.gpus}
        return {"device": self.device, "engine": {**engine, "lost workers": self.lost}}

    def pids(self) -> dict[int, str]:
        """Return the process id of each worker that is ready, and the node it is on."""
        return {member.pid: member.node for member in self._members if member.ready}

    def close(self) -> None:
        """End the workers, and Ray if it was started here."""
        if ray.is_initialized():
            for member in self._members:
                ray.kill(member.actor)
        self._members.clear()
        if self._mine:
            ray.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    # the workers

    def size(self) -> int:
        """Return how many workers there should be."""
        if self.workers is not None:
            return self.workers
        return max(1, sum(self._room(node) for node in _nodes()))

    def fill(self, most: int) -> None:
        """Start what is missing of the workers, of which no more than `most` are needed."""
        for _ in range(min(self.size(), most) - len(self._members)):
            options = {"num_cpus": self.cpus, "num_gpus": self.gpus, "scheduling_strategy": "SPREAD"}
            actor: Any = ray.remote(Worker).options(**options).remote(self.threads, self.device, list(sys.path))
            self._members.append(_Member(actor, actor.hello.remote(), time.monotonic()))

    def welcome(self, member: _Member) -> None:
        """Take a worker in that has started, or find out why it has not.

        Raises:
            XaibenchError: several in a row did not start, or it has other versions than this process.
        """
        try:
            there, member.pid, member.node = ray.get(member.ref)
        except RayError as error:
            ray.kill(member.actor)
            self._members.remove(member)
            self._failed_starts += 1
            if self._failed_starts >= _STARTS and not any(known.ready for known in self._members):
                raise XaibenchError(
                    f"no worker can be started ({_reason(error)}): the cluster's machines need the same xaibench[ray], "
                    "in the Python that ray start runs with"
                ) from error
            return
        other = [name for name in sorted({*there, *self._here}) if there.get(name) != self._here.get(name)]
        if other:
            name = other[0]
            raise XaibenchError(
                f"a worker on {member.node} has {name} {there.get(name, 'missing')}, here is {self._here.get(name)}: "
                "install the same versions on all machines"
            )
        self._failed_starts, member.ready, member.ref = 0, True, None

    def lose(self, member: _Member) -> None:
        """Give a worker up that died."""
        self.lost += 1
        self._members.remove(member)

    @property
    def members(self) -> list[_Member]:
        return self._members

    def _room(self, node: Mapping[str, float]) -> int:
        room = int(node.get("CPU", 0) / self.cpus + 1e-6)
        return min(room, int(node.get("GPU", 0) / self.gpus + 1e-6)) if self.gpus else room

    def _check_room(self) -> None:
        nodes = _nodes()
        if not any(self._room(node) for node in nodes):
            most = {what: max((node.get(what, 0) for node in nodes), default=0) for what in ("CPU", "GPU")}
            raise UsageError(
                f"no node has room for a worker of {self.cpus:g} CPUs and {self.gpus:g} GPUs (the largest has "
                f"{most['CPU']:g} and {most['GPU']:g}): give fewer with --cpus-per-worker and --gpus-per-worker"
            )


@dataclass(eq=False)
class _Member:
    """A worker, and what it is doing: starting (`ref` and not `ready`), a shard of a pass, or nothing (no `ref`)."""

    actor: Any
    ref: Any
    began: float
    ready: bool = False
    task: _Pass | None = None
    shard: int = -1
    pid: int = 0
    node: str = ""


class _Pass:
    """One pass through a split."""

    def __init__(self, engine: RayEngine, work: Work, batch_size: int, progress: Progress) -> None:
        self.engine, self.work, self.batch_size, self.progress = engine, work, batch_size, progress
        payload = pack(work)
        self.name = hashlib.sha256(payload).hexdigest()
        self.payload = [ray.put(payload)]
        self.shards = self._plan()
        self.waiting = deque(range(len(self.shards)))
        self.done: dict[int, Done] = {}
        self.losses = [0] * len(self.shards)
        self.settling, self.parts = Settling(work.sheet), list[Part]()
        self.settled = 0
        self.seconds: list[float] = []
        self.since = self.said = time.monotonic()

    def records(self) -> Records:
        while len(self.done) < len(self.shards):
            self.engine.fill(len(self.shards) - len(self.done))
            self._assign()
            self._look()
            self._settle()
        return join(self.parts, self.work.metrics, list(self.work.explainers))

    def _plan(self) -> list[range]:
        rows, size = len(self.work.split), self.batch_size
        batches = -(-rows // size)
        each = self.engine._batches or max(1, min(_LONGEST, batches // (self.engine.size() * _SHARDS_EACH)))
        return [range(start, min(start + each * size, rows)) for start in range(0, rows, each * size)]

    def _assign(self) -> None:
        for member in self.engine.members:
            if member.ready and member.ref is None:
                shard = self.waiting.popleft() if self.waiting else self._slow()
                if shard is None:
                    return
                member.task, member.shard, member.began = self, shard, time.monotonic()
                member.ref = member.actor.run.remote(self.name, self.payload, self._shard(shard))

    def _slow(self) -> int | None:
        """Return a shard to begin once more: one whose latest attempt takes far longer than others took."""
        if not self.seconds:
            return None
        limit = max(_SLOW * statistics.median(self.seconds), _SLOW_AT_LEAST)
        latest: dict[int, float] = {}
        for member in self.engine.members:
            if member.task is self and member.shard not in self.done:
                latest[member.shard] = max(latest.get(member.shard, 0.0), member.began)
        slow = [shard for shard, began in latest.items() if time.monotonic() - began > limit]
        return min(slow, default=None)

    def _shard(self, number: int) -> Shard:
        settled, sheet = self.settling, self.work.sheet  # nothing of it comes after this shard
        assert sheet is None or isinstance(sheet, ContactSheets)
        rest = sheet.rest() if sheet else None
        return Shard(self.shards[number], self.batch_size, dict(settled.failed), copied(settled.given_up), rest)

    def _look(self) -> None:
        """Wait until a worker has something to say, or it is time to look around."""
        busy = {member.ref: member for member in self.engine.members if member.ref is not None}
        if any(member.ready for member in self.engine.members):
            self.since = self.said = time.monotonic()
        else:
            self._be_patient()
        if not busy:
            time.sleep(0.05)
            return
        for ref in ray.wait(list(busy), num_returns=1, timeout=0.5)[0]:
            member = busy[ref]
            if member.ready:
                self._finished(member)
            else:
                self.engine.welcome(member)

    def _finished(self, member: _Member) -> None:
        shard, mine = member.shard, member.task is self
        ref, member.ref, member.task = member.ref, None, None
        try:
            done: Done = ray.get(ref)
        except RayTaskError as error:
            if mine and shard not in self.done:
                raise _cause(error) from error
            return
        except RayError as error:
            self.engine.lose(member)
            if mine:
                self._lost(shard, member, error)
            return
        if mine and shard not in self.done:
            self.done[shard] = done
            self.seconds.append(done.seconds)
            self.progress.advance(len(self.shards[shard]))

    def _lost(self, shard: int, member: _Member, error: RayError) -> None:
        if shard in self.done or any(known.task is self and known.shard == shard for known in self.engine.members):
            return
        self.losses[shard] += 1
        rows = self.shards[shard]
        if self.losses[shard] >= _LOSSES:
            raise XaibenchError(
                f"{_LOSSES} workers were lost over images {rows.start + 1} to {rows.stop} ({_reason(error)}): if it is "
                "memory, give a smaller --batch-size"
            ) from error
        self.progress.say(f"a worker on {member.node} was lost: images {rows.start + 1} to {rows.stop} are done again")
        self.waiting.appendleft(shard)

    def _settle(self) -> None:
        """Take what is done without a gap before it."""
        while self.settled in self.done:
            done = self.done[self.settled]
            self.parts += [self.settling.take(part) for part in done.parts]
            if self.work.kept is not None:
                store = self.work.kept.store
                store.damaged += done.damaged
                store.stopped = store.stopped or done.stopped
            self.settled += 1

    def _be_patient(self) -> None:
        now = time.monotonic()
        if now - self.since > _PATIENCE:
            raise XaibenchError(
                f"no worker could start in {_PATIENCE:.0f} s: see what the cluster is doing with ray status"
            )
        if now - self.said > 30:
            self.said = now
            self.progress.say("waiting for a worker to start (ray status says what the cluster is doing)")


def _connect(address: str | None) -> bool:
    """Connect to a cluster, or start one here; return whether that was done now.

    Raises:
        XaibenchError: no cluster there.
    """
    if ray.is_initialized():
        return False
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == "local":
        options["include_dashboard"] = False
    try:
        ray.init(address=address, **options)
    except Exception as error:  # ConnectionError, ValueError or RuntimeError, by what is wrong
        raise XaibenchError(
            f"no Ray cluster at {address} ({one_line(error, 160)}): start one with ray start --head (one that "
            "asks for a token needs RAY_AUTH_MODE=token), or leave --address out to start Ray here"
        ) from error
    return True


def _nodes() -> list[Mapping[str, float]]:
    """Return the resources of each node that is alive."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [node["Resources"] for node in nodes if node["Alive"]]


def _cause(error: RayTaskError) -> BaseException:
    cause = error.cause
    return cause if isinstance(cause, BaseException) else error


def _reason(error: BaseException) -> str:
    """Say what Ray's long message ends with."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, BaseException):
        return one_line(cause, 200)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return f"{type(error).__name__}: {lines[-1]}"[:200]
