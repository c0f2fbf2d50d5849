"""A worker: a thread that runs tasks for one runner, what it keeps between items, and how it ends."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from prefect.logging.loggers import get_logger

from prefect_fanout._errors import FanoutError

if TYPE_CHECKING:
    from prefect_fanout._pool import Pool

T = TypeVar("T")

logger = get_logger("fanout.worker")

# How long a shutdown waits for threads of an executor that is not ours, which may be busy with work that is not ours,
# to come and close what they opened.
BORROWED_TEARDOWN_S = 30.0


@dataclass(eq=False)
class Worker:
    """One thread of one pool. Used by its own thread only, so it needs no lock."""

    pool: Pool
    name: str
    finalizer: Callable[[], object] | None = None
    depth: int = 0
    closed: bool = False
    _resources: dict[Callable[[], Any], Any] = field(default_factory=dict)
    _stack: ExitStack = field(default_factory=ExitStack)

    @property
    def holds_something(self) -> bool:
        """Whether closing the worker does anything."""
        return not self.closed and bool(self._resources or self.finalizer)

    def resource(self, factory: Callable[[], AbstractContextManager[T]]) -> T:
        """The value of `factory()`, entered on the first call and kept until the worker closes."""
        if factory not in self._resources:
            self._resources[factory] = self._stack.enter_context(factory())
        value: T = self._resources[factory]
        return value

    def close(self) -> None:
        """Close the resources, newest first, then run the finalizer. What they raise is logged; the rest still ends."""
        self.closed = True
        self._resources.clear()
        for what, action in (("resource", self._stack.close), ("finalizer", self.finalizer)):
            try:
                if action is not None:
                    action()
            except Exception:
                logger.exception("A %s of worker %s raised an error while the pool was ending.", what, self.name)

    @contextlib.contextmanager
    def active(self) -> Iterator[Worker]:
        """Make this the current worker of its thread while the block runs."""
        active = _local.active
        active.append(self)
        self.depth += 1
        try:
            yield self
        finally:
            self.depth -= 1
            active.pop()


class _Local(threading.local):
    """The workers whose jobs the calling thread is in the middle of, outermost first."""

    def __init__(self) -> None:
        self.active: list[Worker] = []


_local = _Local()


def current_workers() -> list[Worker]:
    """The workers that the calling code runs in, innermost first; none outside of tasks."""
    return list(dict.fromkeys(reversed(_local.active)))


def worker_resource(factory: Callable[[], AbstractContextManager[T]]) -> T:
    """Give the calling worker's own resource: an HTTP session, a connection, anything costly to open.

    Call it inside a task. The first call in a worker runs `factory()` and enters the context manager that it returns;
    later calls in that worker with the same `factory` return the same value. So pass a function that lasts, not a
    lambda written at the call.

    Cancellation and shutdown: the context manager is exited once, in the thread that entered it, when the pool ends,
    after the last task. It is closed with no exception, also after tasks that failed.

    Args:
        factory: A function without arguments that returns a context manager.

    Returns:
        What the context manager's `__enter__` returned.

    Raises:
        FanoutError: The caller does not run in a worker of an `ExecutorTaskRunner`.
    """
    workers = current_workers()
    if not workers:
        raise FanoutError(
            "worker_resource() works only inside a task that an ExecutorTaskRunner runs, because the runner closes "
            "the resource when its pool ends. Elsewhere, open it yourself: `with factory() as resource:`."
        )
    return workers[0].resource(factory)


def close_workers(
    executor: Executor, workers: list[Worker], enlist: Callable[[], Worker], patience_s: float | None
) -> None:
    """Close each worker in its own thread, through the executor that owns the threads.

    The executor does not say which thread takes a call. So each closing call holds its thread until all workers are
    closed: no thread can take two, and as many calls as there are workers reach them all. A call that lands in a thread
    that was not counted sends one more after it.

    Args:
        executor: The executor whose threads the workers are.
        workers: The workers known so far.
        enlist: Gives the worker of the calling thread.
        patience_s: Seconds to wait for threads that other work may hold, or None when there is no other work.
    """
    changed = threading.Condition()
    left = {worker for worker in workers if worker.holds_something}
    counted = set(left)

    def close_this_one() -> None:
        worker = enlist()
        if worker not in counted:
            with contextlib.suppress(RuntimeError):  # The executor was shut down by its owner meanwhile.
                executor.submit(close_this_one)
        if not worker.closed:
            worker.close()
        with changed:
            left.discard(worker)
            changed.notify_all()
            changed.wait_for(lambda: not left, patience_s)

    try:
        for _ in list(left):
            executor.submit(close_this_one)
        with changed:
            changed.wait_for(lambda: not left, patience_s)
    except RuntimeError as error:
        # Shut down by its owner, or broken by an initializer: its threads take no calls any more.
        logger.debug("The executor takes no closing calls: %s", error)
    for worker in [worker for worker in left if not worker.closed]:
        logger.warning("Worker %s could not be reached in its own thread, so it is closed from another.", worker.name)
        worker.close()
