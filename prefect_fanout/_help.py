"""How a worker waits: it runs queued jobs itself, but only those it waits for, and what is upstream of them.

So everything on a worker's stack waits for what is above it, and a deadlock could only be a circle in the user's own
dependencies. It helps in every pool that the calling thread is a worker of, innermost first.

The race, and how it ends: a worker finds nothing to run while another thread queues or finishes what it needs. Every
change raises the version under the lock, and the waiter sleeps only if the version is still the one it looked at.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from prefect_fanout._job import CHANGES, Job, JobStatus
from prefect_fanout._worker import Worker, current_workers

if TYPE_CHECKING:
    from prefect.futures import PrefectFuture


@runtime_checkable
class Awaited(Protocol):
    """A future of ours, as far as a worker that waits for it has to know it."""

    def done(self) -> bool:
        """Whether there is nothing to wait for."""

    def _candidate(self, workers: Iterable[Worker]) -> Job | None:
        """The job to run, or to look upstream of, to have the future done."""


def wait_for(
    done: Callable[[], bool],
    sleep: Callable[[float | None], object],
    futures: Callable[[], Iterable[PrefectFuture[Any]]],
    timeout: float | None,
) -> None:
    """Return when `done()` or after `timeout` seconds; in a worker, run what `futures()` need meanwhile.

    Args:
        done: Whether the wait is over; every change of its answer is followed by `CHANGES.note()`.
        sleep: Blocks a thread that is no worker until `done()`, for at most the given seconds.
        futures: What is waited for.
        timeout: Seconds, or None.
    """
    workers = current_workers()
    if not workers:
        if not done():
            sleep(timeout)
        return
    late = threading.Event()
    timer = _after(timeout, late)
    try:
        while not done() and not late.is_set():
            version = CHANGES.version
            if not _run_one(workers, futures()):
                CHANGES.sleep(version)
    finally:
        if timer is not None:
            timer.cancel()


def run_what_is_queued(futures: Iterable[PrefectFuture[Any]]) -> None:
    """In a worker that will sleep until `futures` are done, run the queued jobs that they need; elsewhere nothing.

    What is not ready yet gets a thread of its own when it is, in the place of the one that sleeps.
    """
    workers = current_workers()
    while workers and _run_one(workers, futures, beside=True):
        pass


def _run_one(workers: list[Worker], futures: Iterable[PrefectFuture[Any]], *, beside: bool = False) -> bool:
    """Run one queued job that the futures need, if there is one that a worker of this thread may run."""
    pools = {worker.pool: worker for worker in workers}
    seen: set[Job] = set()
    for future in futures:
        stack: list[Any] = [future]
        while stack:
            needed = stack.pop()
            if not isinstance(needed, Awaited) or needed.done():
                continue
            job = needed._candidate(workers)
            if job is None or job in seen:
                continue
            seen.add(job)
            worker = pools.get(job.pool)
            if worker is not None:
                with CHANGES.lock:
                    job.beside |= beside and job.status is JobStatus.WAITING
                if job.claim():
                    worker.pool.run_inline(worker, job)
                    return True
            stack.extend(job.upstream)
    return False


def _after(timeout: float | None, late: threading.Event) -> threading.Timer | None:
    if timeout is None:
        return None

    def ring() -> None:
        late.set()
        CHANGES.note()

    timer = threading.Timer(timeout, ring)
    timer.daemon = True
    timer.start()
    return timer
