"""Which executor a runner uses, and who closes it."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

from prefect_fanout._errors import UsageError, check_count

# The standard library's own default for threads.
# Source: https://docs.python.org/3/library/concurrent.futures.html#threadpoolexecutor
DEFAULT_MAX_WORKERS = min(32, (os.cpu_count() or 1) + 4)
MAX_WORKERS_LIMIT = 10_000

ExecutorLike = Literal["thread"] | Callable[[], Executor] | Executor

_LATER = ("process", "loky", "dask")
# Modules of executors that run calls in another process, which this release cannot follow yet.
_REMOTE_MODULES = ("loky", "distributed", "mpi4py")


@dataclass(frozen=True, kw_only=True)
class ExecutorSpec:
    """How to get the executor: the settings of a runner, compared by value.

    Raises:
        UsageError: A setting is out of range, or does not go with the others.
    """

    executor: ExecutorLike
    max_workers: int | None
    thread_name_prefix: str
    initializer: Callable[..., object] | None
    initargs: tuple[Any, ...]
    finalizer: Callable[[], object] | None

    def __post_init__(self) -> None:
        if isinstance(self.executor, str):
            if self.executor in _LATER:
                raise UsageError(
                    f"The executor {self.executor!r} is not part of this release. Use 'thread' or a thread executor."
                )
            if self.executor != "thread":
                raise UsageError(f"executor must be 'thread', a factory or an Executor, got {self.executor!r}.")
        elif not isinstance(self.executor, Executor) and not callable(self.executor):
            raise UsageError(f"executor must be 'thread', a factory or an Executor, got {self.executor!r}.")
        if self.max_workers is not None:
            check_count("max_workers", self.max_workers, MAX_WORKERS_LIMIT, "workers")
        for name, value in (("initializer", self.initializer), ("finalizer", self.finalizer)):
            if value is not None and not callable(value):
                raise UsageError(f"{name} must be callable, got {value!r}.")
        if self.executor != "thread":
            theirs = [n for n in ("max_workers", "initializer", "finalizer") if getattr(self, n) is not None]
            if theirs:
                raise UsageError(
                    f"{' and '.join(theirs)} can be set only for executor='thread'. An executor that you make is "
                    "configured where you make it; for what a worker opens and closes, use worker_resource()."
                )
        if isinstance(self.executor, Executor):
            _refuse_remote(self.executor)

    @property
    def threads(self) -> int:
        """The size of the pool that "thread" makes."""
        return self.max_workers or DEFAULT_MAX_WORKERS

    @property
    def owned(self) -> bool:
        """Whether the runner makes the executor, and so closes it."""
        return not isinstance(self.executor, Executor)

    def make(self, initializer: Callable[[], None]) -> Executor:
        """The executor: the one handed in, or a new one.

        Args:
            initializer: Called in each new thread of the pool that "thread" makes.
        """
        if isinstance(self.executor, Executor):
            return self.executor
        if callable(self.executor):
            made = self.executor()
            if not isinstance(made, Executor):
                raise UsageError(
                    f"The executor factory must return a concurrent.futures.Executor, it returned {made!r}."
                )
            _refuse_remote(made)
            return made
        return ThreadPoolExecutor(self.threads, self.thread_name_prefix, initializer)

    def describe(self) -> str:
        """The executor in words for `repr`."""
        if isinstance(self.executor, str):
            return f"{self.executor!r}, max_workers={self.threads}"
        if isinstance(self.executor, Executor):
            return f"{type(self.executor).__name__} (handed in)"
        return f"factory {getattr(self.executor, '__name__', repr(self.executor))}"


def worker_count(executor: Executor | None) -> int:
    """How many workers an executor has; the default where it does not say."""
    count = getattr(executor, "_max_workers", None)
    return count if isinstance(count, int) else DEFAULT_MAX_WORKERS


def _refuse_remote(executor: Executor) -> None:
    module = type(executor).__module__.partition(".")[0]
    if isinstance(executor, ProcessPoolExecutor) or module in _REMOTE_MODULES:
        raise UsageError(
            f"{type(executor).__name__} runs calls in other processes, which is not part of this release. "
            "Use 'thread', or an executor whose workers are threads of this process."
        )


class LeftBehind:
    """Stands for a live executor in a pickled runner."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self) -> Executor:
        raise UsageError(
            f"This runner was made with a live {self._name}, which stays in the process that made it. "
            "To use the flow in other processes, pass a factory: ExecutorTaskRunner(lambda: ...)."
        )
