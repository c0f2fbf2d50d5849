"""The pool: an executor, its workers, and how a worker waits without holding up what it waits for.

A worker that waits runs queued jobs itself, but only those it waits for, and what is upstream of them. So everything
on its stack waits for what is above it, and a deadlock could only be a circle in the user's own dependencies.

The races, and how each ends:

1. A worker waits while another thread queues or finishes what it needs: every change raises `_version` under the lock,
   and the waiter sleeps only if the version is still the one it looked at.
2. A waiting worker and a worker of the executor want the same queued job: `Job.claim` has one winner.
3. The executor breaks, or its owner shuts it down, with jobs in it: the call's own future says so, and the job that
   nobody has claimed crashes with that error.

Mutable state: `_executor`, `_closed`, `_workers` and `_version`, guarded by `changed`, which guards the jobs' states
too.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, Future
from typing import Any

from prefect.futures import PrefectFuture

from prefect_fanout._executors import ExecutorSpec, worker_count
from prefect_fanout._future import ExecutorFuture
from prefect_fanout._job import Job, JobStatus
from prefect_fanout._worker import BORROWED_TEARDOWN_S, Worker, close_workers

# Task runs that a waiting worker runs on top of each other in its own stack. Each takes about 30 Python frames of the
# interpreter's 1,000; what is nested deeper gets a thread of its own, while the waiting one sleeps.
MAX_INLINE_DEPTH = 8


class Pool:
    """What a started runner runs its jobs on; made anew for each start, the executor itself at the first job."""

    def __init__(self, spec: ExecutorSpec) -> None:
        self.changed = threading.Condition()
        self._spec = spec
        self._executor: Executor | None = None
        self._workers: list[Worker] = []
        self._version = 0
        self._closed = False
        self._here = threading.local()

    @property
    def max_workers(self) -> int:
        """How many jobs run at once at most."""
        return worker_count(self._executor) if self._spec.executor != "thread" else self._spec.threads

    @property
    def open_workers(self) -> int:
        """How many workers have begun and not ended."""
        return sum(not worker.closed for worker in self._workers)

    def submit(self, job: Job) -> None:
        """Hand a queued job to the executor. Where that fails, the job crashes: nothing is raised."""

        def ended(call: Future[None]) -> None:
            error = ExecutorGone() if call.cancelled() else call.exception()
            if error is not None and job.claim():
                job.finish(job.crash(error))

        if job.beside:
            threading.Thread(
                target=self._run_beside, args=(job,), name=f"{self._spec.thread_name_prefix}-nested"
            ).start()
            return
        try:
            job.call = self._opened().submit(self._run, job)
        except Exception as error:  # noqa: BLE001 - a factory of the user's may raise anything, and the job must end
            if job.claim():
                job.finish(job.crash(error))
        else:
            job.call.add_done_callback(ended)

    def note_change(self) -> None:
        """Wake the workers that wait: something was queued, has finished, or arrived."""
        with self.changed:
            self._version += 1
            self.changed.notify_all()

    def close(self) -> None:
        """Close every worker in its own thread, then the executor if it is ours. Nothing may be queued or running."""
        with self.changed:
            self._closed = True
            executor, self._executor = self._executor, None
            workers = list(self._workers)
        if executor is not None:
            close_workers(executor, workers, self._enlist, None if self._spec.owned else BORROWED_TEARDOWN_S)
            if self._spec.owned:
                executor.shutdown(wait=True)

    # -- workers -------------------------------------------------------------------------------------------------

    def worker_here(self) -> Worker | None:
        """The worker that the calling code runs in, if it is one of this pool with a job under way."""
        worker: Worker | None = getattr(self._here, "worker", None)
        return worker if worker is not None and worker.depth else None

    def _opened(self) -> Executor:
        with self.changed:
            if self._closed:
                raise RuntimeError("cannot schedule new futures after shutdown")
            if self._executor is None:
                self._executor = self._spec.make(self._begin_thread)
            return self._executor

    def _begin_thread(self) -> None:
        if self._spec.initializer is not None:
            self._spec.initializer(*self._spec.initargs)
        self._enlist()

    def _enlist(self) -> Worker:
        worker: Worker | None = getattr(self._here, "worker", None)
        if worker is None or worker.closed:
            worker = self._here.worker = Worker(threading.current_thread().name, self._spec.finalizer)
            with self.changed:
                self._workers.append(worker)
        return worker

    def _run(self, job: Job) -> None:
        if job.claim():
            with self._enlist().active() as worker:
                job.run(worker.name)

    # -- waiting -------------------------------------------------------------------------------------------------

    def wait_for(
        self,
        done: Callable[[], bool],
        sleep: Callable[[float | None], object],
        futures: Callable[[], Iterable[ExecutorFuture[Any]]],
        timeout: float | None,
    ) -> None:
        """Return when `done()` or after `timeout` seconds. A worker of this pool runs what `futures()` need itself.

        Args:
            done: Whether the wait is over; every change of its answer is followed by `note_change`.
            sleep: Blocks a thread that is no worker until `done()`, for at most the given seconds.
            futures: What is waited for.
            timeout: Seconds, or None.
        """
        worker = self.worker_here()
        if worker is None:
            if not done():
                sleep(timeout)
            return
        late = threading.Event()
        timer = _after(timeout, late, self.note_change)
        try:
            while not done() and not late.is_set():
                with self.changed:
                    version = self._version
                job = self._claim_for(futures())
                if job is not None:
                    self._run_inline(worker, job)
                    continue
                with self.changed:
                    while self._version == version:
                        self.changed.wait()
        finally:
            if timer is not None:
                timer.cancel()

    def run_what_is_queued(self, futures: Iterable[ExecutorFuture[Any]]) -> None:
        """In a worker that will sleep until `futures` are done, run the queued jobs that they need; elsewhere nothing.

        What is not ready yet gets a thread of its own when it is, in the place of the one that sleeps.
        """
        worker = self.worker_here()
        if worker is None:
            return
        while (job := self._claim_for(futures, beside=True)) is not None:
            self._run_inline(worker, job)

    def _claim_for(self, futures: Iterable[PrefectFuture[Any]], *, beside: bool = False) -> Job | None:
        """Claim a queued job that one of the futures needs: its own, or one upstream of it."""
        seen: set[Job] = set()
        for future in futures:
            stack: list[PrefectFuture[Any]] = [future]
            while stack:
                needed = stack.pop()
                if not isinstance(needed, ExecutorFuture) or needed._pool() is not self or needed.done():
                    continue
                job = needed._candidate()
                if job is None or job in seen:
                    continue
                seen.add(job)
                with self.changed:
                    job.beside |= beside and job.status is JobStatus.WAITING
                if job.claim():
                    return job
                stack.extend(job.upstream)
        return None

    def _run_inline(self, worker: Worker, job: Job) -> None:
        if worker.depth < MAX_INLINE_DEPTH and not _in_event_loop():
            with worker.active():
                job.run(worker.name)
            return
        # An event loop that runs in this thread cannot take the job, nor can a stack that is deep already.
        self._start_beside(job, worker.name).join()

    def _start_beside(self, job: Job, name: str) -> threading.Thread:
        thread = threading.Thread(target=self._run_beside, args=(job,), name=f"{name}-nested")
        thread.start()
        return thread

    def _run_beside(self, job: Job) -> None:
        """Run one job in a thread that is made for it: begun, used and closed like any other worker."""
        try:
            if job.status is JobStatus.QUEUED and not job.claim():
                return
            self._begin_thread()
        except BaseException as error:  # noqa: BLE001 - the user's initializer may raise anything
            job.finish(job.crash(error))
            return
        with self._enlist().active() as worker:
            job.run(worker.name)
        worker.close()
        with self.changed:
            self._workers.remove(worker)


class ExecutorGone(RuntimeError):
    """The executor dropped a task run without running it."""

    def __init__(self) -> None:
        super().__init__(
            "The executor was shut down before it ran this task run. Keep it open until the runner has ended."
        )


def _after(timeout: float | None, late: threading.Event, wake: Callable[[], None]) -> threading.Timer | None:
    if timeout is None:
        return None

    def ring() -> None:
        late.set()
        wake()

    timer = threading.Timer(timeout, ring)
    timer.daemon = True
    timer.start()
    return timer


def _in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
