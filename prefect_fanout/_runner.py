"""The executor-backed task runner: create → submit/map → wait → shutdown.

What it promises:

1. At most `max_workers` tasks run at once. A bounded pool is the default (the standard library's default size).
2. A task that waits for upstream futures holds no worker; it is handed to the executor when they are done.
3. A task that waits for a future of its own runner cannot deadlock, at any `max_workers` including 1: work that is
   still queued is run by the waiting thread itself.
4. Every item yields exactly one outcome: none lost, none twice.
5. Chunk size never changes results, the order of `.map` results, or which items fail: only the number of task runs.
6. Input is read lazily: `fan_out` never holds more than `in_flight * chunksize` items ahead of the consumer.
7. API traffic grows with chunks, not with items.
8. After `shutdown()` nothing of ours runs, every future is in a final state, and the Prefect API agrees: no task run
   is left Pending or Running.
9. An executor that the user handed in is used, never shut down; one that we made, we close.

The races, and how each ends:

a. `shutdown` meets a task that submits: tasks that run may still submit until the runner is told to cancel.
b. `shutdown` twice, or from two threads: both wait for the same jobs; the pool gives its executor to one of them.
c. A second Ctrl-C while a shutdown waits: what runs cannot be ended, so its task runs are reported as Crashed.

Mutable state: `_jobs`, `_mappings`, `_counts`, `_not_ready`, `_timeline`, `_closed`, `_cancelled`, `_live` and
`_flow_run`, guarded by `CHANGES.lock`.
"""

from __future__ import annotations

import threading
import weakref
from collections import Counter, deque
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from dataclasses import replace
from typing import Any, Literal, Self

from prefect.client.schemas.objects import FlowRun, RunInput
from prefect.context import FlowRunContext
from prefect.futures import PrefectFuture, PrefectFutureList
from prefect.task_runners import TaskRunner
from prefect.tasks import Task

from prefect_fanout._binding import Upstream
from prefect_fanout._chunk import Chunk, refuse_what_a_chunk_cannot_honour
from prefect_fanout._executors import ExecutorLike, ExecutorSpec, LeftBehind
from prefect_fanout._future import ExecutorFuture, TaskRunFuture
from prefect_fanout._job import CHANGES, Job, JobStatus
from prefect_fanout._map import ItemFutureList, Mapping, plan_mapping
from prefect_fanout._pool import Pool
from prefect_fanout._prefect import SharedClient, create_task_run
from prefect_fanout._sizing import CHUNKS_PER_WORKER, Chunksize, ChunkSizer, checked_chunksize
from prefect_fanout._statistics import RunnerStatistics, TimelineEntry

# Task runs remembered for timeline(); older ones are dropped and counted. An entry is about 300 bytes.
MAX_TIMELINE = 10_000


class ExecutorTaskRunner(TaskRunner[PrefectFuture[Any]]):
    """Runs a flow's tasks on a `concurrent.futures.Executor`: bounded, chunked, cancellable, and closed when done.

        @flow(task_runner=ExecutorTaskRunner(max_workers=16))
        @flow(task_runner=ExecutorTaskRunner(chunksize=256))        # existing .map() code, unchanged

        with ExecutorTaskRunner(max_workers=4) as runner:           # outside a flow
            future = runner.submit(task, {"x": 1})

    Cancellation and shutdown: leaving the `with` block, or a flow that returns, lets what was submitted finish. An
    exception in the block, a flow that fails, Ctrl-C and SIGTERM cancel what has not begun and wait for what runs:
    Python cannot end a thread from outside, so a task should have timeouts of its own. Chunks stop between items.

    Args:
        executor: "thread" for a `ThreadPoolExecutor`, a function without arguments that makes an executor, or an
            executor that is already there. One that is handed in is never shut down.
        max_workers: Threads of the pool that "thread" makes; None means min(32, CPUs + 4), the standard library's.
        thread_name_prefix: Names of these threads are this, an underscore, and a number.
        initializer: Called with `*initargs` in each of these threads before its first task. If it raises, the pool is
            broken and its task runs crash.
        initargs: Arguments of the initializer.
        finalizer: Called in each of these threads after its last task, when the pool ends.
        chunksize: Items per task run in `.map`: None for one task run per item, a number, or "auto".

    Raises:
        UsageError: An argument is out of range or does not go with the others.
    """

    def __init__(
        self,
        executor: ExecutorLike = "thread",
        *,
        max_workers: int | None = None,
        thread_name_prefix: str = "fanout",
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        finalizer: Callable[[], object] | None = None,
        chunksize: int | Literal["auto"] | None = None,
    ) -> None:
        spec = ExecutorSpec(
            executor=executor,
            max_workers=max_workers,
            thread_name_prefix=thread_name_prefix,
            initializer=initializer,
            initargs=tuple(initargs),
            finalizer=finalizer,
        )
        self._configure(spec, None if chunksize is None else checked_chunksize(chunksize))

    def _configure(self, spec: ExecutorSpec, chunksize: Chunksize | None) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # Prefect has not annotated it
        self._spec = spec
        self._chunksize = chunksize
        self._template: ExecutorTaskRunner | None = None
        self._live: dict[int, weakref.ref[ExecutorTaskRunner]] = {}
        self._reset()

    def _reset(self) -> None:
        self._pool = Pool(self._spec)
        self._jobs: dict[Job, None] = {}
        self._mappings: dict[Mapping, None] = {}
        self._counts: Counter[str] = Counter()
        self._not_ready: list[Job] = []
        self._timeline: deque[TimelineEntry] = deque(maxlen=MAX_TIMELINE)
        self._closed = False
        self._cancelled = False
        self._client = SharedClient()
        self._flow_run: FlowRun | None = None

    # -- what Prefect asks of a task runner ----------------------------------------------------------------------

    def duplicate(self) -> Self:
        """A runner with the same settings and none of the state; `cancel_all` here reaches it while it is started."""
        new = type(self).__new__(type(self))
        new._configure(self._spec, self._chunksize)
        new._template = self
        return new

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, ExecutorTaskRunner) and self._spec == other._spec and self._chunksize == other._chunksize
        )

    # Compared by settings, which may hold anything, as Prefect's own runners are.
    __hash__ = None  # type: ignore[assignment]

    def __getstate__(self) -> dict[str, Any]:
        spec = self._spec
        if isinstance(spec.executor, Executor):
            spec = replace(spec, executor=LeftBehind(type(spec.executor).__name__))
        return {"spec": spec, "chunksize": self._chunksize}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._configure(state["spec"], state["chunksize"])

    def __enter__(self) -> Self:
        super().__enter__()
        self._reset()
        if self._template is not None:
            with CHANGES.lock:
                self._template._live[id(self)] = weakref.ref(self)
        return self

    def __exit__(self, exc_type: Any, exc_value: Any, traceback: Any) -> None:
        try:
            self.shutdown(wait=True, cancel_futures=exc_type is not None or self._flow_run_stopped())
        finally:
            if self._template is not None:
                with CHANGES.lock:
                    self._template._live.pop(id(self), None)
            super().__exit__(exc_type, exc_value, traceback)

    # -- submit, map ---------------------------------------------------------------------------------------------

    def submit(
        self,
        task: Task[..., Any],
        parameters: dict[str, Any],
        wait_for: Iterable[PrefectFuture[Any]] | None = None,
        dependencies: dict[str, set[RunInput]] | None = None,
    ) -> ExecutorFuture[Any]:
        """Submit one task run and return its future at once.

        Args:
            task: The task.
            parameters: Arguments by parameter name; futures among them are waited for without holding a worker.
            wait_for: Further futures to wait for.
            dependencies: Upstream task runs by parameter that Prefect's `map` has already resolved.

        Raises:
            RuntimeError: The runner has not been started, or was shut down.
        """
        self._check_open()
        wait_for = _as_list(wait_for)
        task_run = create_task_run(task=task, parameters=parameters, wait_for=wait_for, extra_task_inputs=dependencies)
        job = Job(self, task, task_run, self._client.context(), parameters=parameters, wait_for=wait_for)
        job.upstream = Upstream.of([*parameters.values(), *(wait_for or ())]).futures
        self._note_new(job)
        self._accept(job)
        return TaskRunFuture(job)

    def map(
        self,
        task: Task[..., Any],
        parameters: dict[str, Any],
        wait_for: Iterable[PrefectFuture[Any]] | None = None,
    ) -> PrefectFutureList[PrefectFuture[Any]]:
        """Submit a task for every item of its iterable parameters and return a future per item, in order.

        With a `chunksize`, one task run takes that many items; results, order and errors stay the same.

        Raises:
            RuntimeError: The runner has not been started, or was shut down.
            MappingMissingIterable: There is nothing to map over.
            MappingLengthMismatch: The iterables differ in length.
            UsageError: The task has a feature that a chunk cannot honour.
        """
        if self._chunksize is None:
            return super().map(task, parameters, wait_for)
        self._check_open()
        refuse_what_a_chunk_cannot_honour(task)
        items, binding, inputs = plan_mapping(task, parameters)
        mapping = Mapping(
            self,
            task,
            items,
            binding,
            sizer=ChunkSizer(self._chunksize, self.max_workers),
            window=CHUNKS_PER_WORKER * self.max_workers,
            wait_for=_as_list(wait_for),
            inputs=inputs,
        )
        if items:
            with CHANGES.lock:
                self._check_open()
                self._mappings[mapping] = None
            mapping.pump()
        return ItemFutureList.of(mapping)

    # -- the end -------------------------------------------------------------------------------------------------

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the runner, in the standard library's words.

        Args:
            wait: Return when everything has ended; False returns at once and ends in the background.
            cancel_futures: Cancel what has not begun, instead of letting it run first.

        Raises:
            RuntimeError: Called with `wait` in a task of this runner, which would wait for itself.
        """
        if wait and self._pool.worker_here() is not None:
            raise RuntimeError(
                "shutdown(wait=True) was called in a task of this runner, and would wait for that task for ever. "
                "Call it where the runner was made, or use shutdown(wait=False)."
            )
        with CHANGES.lock:
            self._closed = True
        if cancel_futures:
            self.cancel_all()
        if wait:
            self._end()
        else:
            threading.Thread(target=self._end, name=f"{self._spec.thread_name_prefix}-shutdown").start()

    def cancel_all(self) -> None:
        """Cancel everything that has not begun, and tell running chunks to stop after the item they are at.

        Prefect's engine calls this on the runner that decorates the flow; it reaches the started duplicates. Nothing
        can be submitted afterwards.
        """
        with CHANGES.lock:
            self._closed = self._cancelled = True
            jobs, mappings = list(self._jobs), list(self._mappings)
            live = [runner for ref in self._live.values() if (runner := ref()) is not None]
            if not self._started:
                self._closed = self._cancelled = False  # A template holds no work, and is started anew later.
        reason = "The runner was told to cancel what had not begun."
        for mapping in mappings:
            mapping.close(reason)
        for job in jobs:
            if not job.cancel(reason):
                job.stop.set()
        for runner in live:
            runner.cancel_all()

    def _end(self) -> None:
        try:
            CHANGES.until(lambda: not self._jobs and not self._mappings)
            with CHANGES.lock:
                not_ready, self._not_ready = self._not_ready, []
        except BaseException as error:
            # Somebody does not want to wait (a second Ctrl-C). Threads cannot be ended, but the API can be told.
            self.cancel_all()
            for job in list(self._jobs):
                job.finish(job.crash(error))
            raise
        for job in not_ready:
            job.close_not_ready()
        self._pool.close()
        self._client.close()

    def _flow_run_stopped(self) -> bool:
        """Whether the flow run that this runner serves has ended other than well.

        Prefect's engine catches what a flow raises before the runner's `__exit__`, so the state has to say it.
        """
        state = self._flow_run.state if self._flow_run is not None else None
        return state is not None and not state.is_completed()

    # -- seeing --------------------------------------------------------------------------------------------------

    @property
    def max_workers(self) -> int:
        """How many tasks run at once at most."""
        return self._pool.max_workers

    def statistics(self) -> RunnerStatistics:
        """How many task runs are in each condition now."""
        with CHANGES.lock:
            status = Counter(job.status for job in self._jobs)
            return RunnerStatistics(
                max_workers=self.max_workers,
                workers=self._pool.open_workers,
                waiting=status[JobStatus.WAITING],
                queued=status[JobStatus.QUEUED],
                running=status[JobStatus.RUNNING],
                completed=self._counts["completed"],
                failed=self._counts["failed"],
                cancelled=self._counts["cancelled"],
                items=self._counts["items"],
                timeline_dropped=self._counts["ran"] - len(self._timeline),
            )

    def timeline(self) -> list[TimelineEntry]:
        """The task runs that workers have run, oldest end first; at most the last 10,000."""
        with CHANGES.lock:
            return list(self._timeline)

    def __repr__(self) -> str:
        chunks = "" if self._chunksize is None else f", chunksize={self._chunksize!r}"
        text = f"{type(self).__name__}({self._spec.describe()}{chunks})"
        if not self._started:
            return f"<{text}, not started>"
        now = self.statistics()
        done = now.completed + now.failed + now.cancelled
        return f"<{text}: {now.running} running, {now.queued} queued, {now.waiting} waiting, {done} done>"

    # -- inside: jobs --------------------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if not self._started:
            raise RuntimeError(
                "The task runner must be started before submitting work: use it in a `with` block, or as a flow's "
                "task_runner."
            )
        # A task that runs while a shutdown waits for it may still need tasks of its own to finish.
        if self._cancelled or (self._closed and self._pool.worker_here() is None):
            raise RuntimeError("cannot schedule new futures after shutdown")

    def _new_chunk_job(
        self, chunk: Chunk, wait_for: Iterable[PrefectFuture[Any]] | None, inputs: dict[str, set[RunInput]]
    ) -> Job:
        """A job for a chunk, known to the API as Pending; `_accept` sends it on its way."""
        upstream, found = chunk.look_upstream()
        shared = Upstream.of([*chunk.binding.static.values(), *(wait_for or ())]).futures
        task_run = create_task_run(task=chunk.task, parameters=dict(chunk.binding.static), wait_for=wait_for)
        task_run.name = chunk.name
        for name in inputs.keys() | found.keys():
            known: Any = task_run.task_inputs.get(name, ())
            task_run.task_inputs[name] = list({*known, *inputs.get(name, ()), *found.get(name, ())})
        job = Job(self, chunk.task, task_run, self._client.context(), parameters={}, wait_for=wait_for, chunk=chunk)
        job.upstream = upstream + shared
        self._note_new(job)
        return job

    def _note_new(self, job: Job) -> None:
        context = FlowRunContext.get()
        with CHANGES.lock:
            self._check_open()  # Again, under the lock: what is noted here is waited for by a shutdown.
            if context is not None and context.task_runner is self:
                self._flow_run = context.flow_run
            self._jobs[job] = None
        job.set_state()

    def _accept(self, job: Job) -> None:
        """Queue the job when its upstream futures are done, which may be now."""
        upstream = list(dict.fromkeys(job.upstream))
        with CHANGES.lock:
            job.pending = len(upstream) + 1

        def arrived(_: object) -> None:
            if job.ready():
                self._pool.submit(job)

        for future in upstream:
            if isinstance(future, ExecutorFuture):
                future._on_done(arrived)
            else:
                future.add_done_callback(arrived)
        arrived(None)

    # -- inside: what others tell it -----------------------------------------------------------------------------

    def _note_done(self, job: Job) -> None:
        """Called by a job under the lock, when it is done."""
        self._jobs.pop(job, None)
        state = job.state
        assert state is not None, "a job that is done has a state"
        self._counts["completed" if state.is_completed() else "cancelled" if state.is_cancelled() else "failed"] += 1
        self._counts["items"] += job.items
        if not state.is_final():
            self._not_ready.append(job)
        if job.started_at:
            self._counts["ran"] += 1
            times = (job.queued_at, job.started_at, job.ended_at)
            self._timeline.append(TimelineEntry(job.task_run.name, job.worker, *times, job.items))
        CHANGES.note()

    def _note_mapping(self, mapping: Mapping) -> None:
        if mapping.finished:
            with CHANGES.lock:
                self._mappings.pop(mapping, None)
                CHANGES.note()

    def _call(self, callback: Callable[[PrefectFuture[Any]], None], future: PrefectFuture[Any]) -> None:
        try:
            callback(future)
        except Exception:
            self.logger.exception("exception calling callback for %r", future)


def _as_list(wait_for: Iterable[PrefectFuture[Any]] | None) -> list[PrefectFuture[Any]] | None:
    """`wait_for` as a list; Prefect also takes a single future."""
    if wait_for is None:
        return None
    return [wait_for] if isinstance(wait_for, PrefectFuture) else list(wait_for)
