"""Where a split is run through: in this process, or on the workers of a Ray cluster. The scores are the same."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Protocol, Self

import torch

from xaibench.errors import UsageError, XaibenchError, did_you_mean
from xaibench.evaluation.batch import Work
from xaibench.evaluation.records import Records
from xaibench.evaluation.stream import records_of
from xaibench.progress import Progress

ENGINES = ("local", "ray")


class Engine(Protocol):
    """Runs splits through; a context manager, which gives back what it holds."""

    def records(self, work: Work, batch_size: int, progress: Progress) -> Records:
        """Run the whole split of `work` through, batch by batch, and tell `progress` how many images are done.

        Raises:
            XaibenchError: anything that the user can mend.
        """

    def about(self) -> Mapping[str, Any]:
        """Return what a run's record should say of the engine; it comes on top of the record."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None: ...


class Local:
    """This process.

    Args:
        threads: how many compute on the CPU; torch's own choice by default.
    """

    def __init__(self, threads: int | None = None) -> None:
        if threads is not None and threads < 1:
            raise UsageError(f"threads = {threads}; it is at least 1")
        self.threads = threads

    def records(self, work: Work, batch_size: int, progress: Progress) -> Records:
        with _threads(self.threads):
            return records_of(work, batch_size, progress.advance)

    def about(self) -> Mapping[str, Any]:
        return {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        return None


def check_engine(name: str) -> None:
    """Return if there is such an engine, so that a wrong name is no surprise after hours of training.

    Raises:
        UsageError: no such engine.
        XaibenchError: Ray is not installed.
    """
    if name not in ENGINES:
        raise UsageError(f"there is no engine {name!r}. {did_you_mean(name, ENGINES)}")
    if name == "ray":
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        try:
            import ray  # noqa: F401
        except ImportError as error:
            raise XaibenchError(f"--engine ray needs Ray ({error}): pip install 'xaibench[ray]'") from error


def make_engine(name: str, *, threads: int | None = None, device: str = "auto", **options: Any) -> Engine:
    """Make an engine by its name.

    Args:
        name: "local" or "ray".
        threads: how many compute on the CPU, in each process.
        device: of the evaluation; "cpu" asks a cluster for no GPU.
        options: of `xaibench.evaluation.ray_engine.RayEngine`: address, workers, cpus, gpus.

    Raises:
        UsageError: no such engine, or an option that it does not have.
        XaibenchError: Ray is not installed, or the cluster can't be reached.
    """
    check_engine(name)
    given = {key: value for key, value in options.items() if value is not None}
    if name == "local":
        if given:
            raise UsageError(f"the local engine has no {min(given)}: add --engine ray")
        return Local(threads)
    from xaibench.evaluation.ray_engine import RayEngine

    return RayEngine(threads=threads, device=device, **given)


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
