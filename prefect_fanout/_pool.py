"""The pool: an executor, its workers, and the way of a job into one of them.

The races, and how each ends:

1. A waiting worker and a worker of the executor want the same queued job: `Job.claim` has one winner.
2. The executor breaks, or its owner shuts it down, with jobs in it: the call's own future says so, and the job that
   nobody has claimed crashes with that error.

Mutable state: `_executor`, `_closed`, `_workers` and `_beside`, guarded by `CHANGES.lock`.
"""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Executor, Future

from prefect_fanout._executors import ExecutorSpec, worker_count
from prefect_fanout._job import CHANGES, Job, JobStatus
from prefect_fanout._worker import BORROWED_TEARDOWN_S, Worker, close_workers

# Task runs that a waiting worker runs on top of each other in its own stack. Each takes about 30 Python frames of the
# interpreter's 1,000; what is nested deeper gets a thread of its own, while the waiting one sleeps.
MAX_INLINE_DEPTH = 8


class Pool:
    """What a started runner runs its jobs on; made anew for each start, the executor itself at the first job."""

    def __init__(self, spec: ExecutorSpec) -> None:
        self._spec = spec
        self._executor: Executor | None = None
        self._workers: list[Worker] = []
        self._beside: list[threading.Thread] = []
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
            thread = self._beside_thread(job, self._spec.thread_name_prefix)
            with CHANGES.lock:
                self._beside = [*filter(threading.Thread.is_alive, self._beside), thread]
                thread.start()
            return
        try:
            job.call = self._opened().submit(self._run, job)
        except Exception as error:  # noqa: BLE001 - a factory of the user's may raise anything, and the job must end
            if job.claim():
                job.finish(job.crash(error))
        else:
            job.call.add_done_callback(ended)

    def close(self) -> None:
        """Close every worker in its own thread, then the executor if it is ours. Nothing may be queued or running."""
        with CHANGES.lock:
            self._closed = True
            executor, self._executor = self._executor, None
            beside = list(self._beside)
        for thread in beside:
            thread.join()
        with CHANGES.lock:
            workers = list(self._workers)
        if executor is not None:
            close_workers(executor, workers, self._enlist, None if self._spec.owned else BORROWED_TEARDOWN_S)
            if self._spec.owned:
                executor.shutdown(wait=True)

    def worker_here(self) -> Worker | None:
        """The worker that the calling code runs in, if it is one of this pool with a job under way."""
        worker: Worker | None = getattr(self._here, "worker", None)
        return worker if worker is not None and worker.depth else None

    def _opened(self) -> Executor:
        with CHANGES.lock:
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
            worker = self._here.worker = Worker(self, threading.current_thread().name, self._spec.finalizer)
            with CHANGES.lock:
                self._workers.append(worker)
        return worker

    def _run(self, job: Job) -> None:
        if job.claim():
            with self._enlist().active() as worker:
                job.run(worker.name)

    def run_inline(self, worker: Worker, job: Job) -> None:
        """Run a claimed job in the calling thread, which is `worker`, or in one beside it while it sleeps."""
        if worker.depth < MAX_INLINE_DEPTH and not _in_event_loop():
            with worker.active():
                job.run(worker.name)
            return
        # An event loop that runs in this thread cannot take the job, nor can a stack that is deep already.
        thread = self._beside_thread(job, worker.name)
        thread.start()
        thread.join()

    def _beside_thread(self, job: Job, name: str) -> threading.Thread:
        return threading.Thread(target=self._run_beside, args=(job,), name=f"{name}-nested")

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
        with CHANGES.lock:
            self._workers.remove(worker)


class ExecutorGone(RuntimeError):
    """The executor dropped a task run without running it."""

    def __init__(self) -> None:
        super().__init__(
            "The executor was shut down before it ran this task run. Keep it open until the runner has ended."
        )


def _in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
