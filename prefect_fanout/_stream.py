"""`fan_out`: a task over any iterable, in chunks, bounded and lazy."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping
from typing import Any, Literal

from prefect.context import FlowRunContext
from prefect.tasks import Task

from prefect_fanout._binding import Binding
from prefect_fanout._chunk import Chunk, refuse_what_a_chunk_cannot_honour
from prefect_fanout._errors import UsageError, check_count
from prefect_fanout._future import TaskRunFuture
from prefect_fanout._help import wait_for
from prefect_fanout._job import CHANGES, Job
from prefect_fanout._outcome import FutureCancelled, Outcome
from prefect_fanout._prefect import raise_if_flow_run_suspension_requested
from prefect_fanout._runner import ExecutorTaskRunner
from prefect_fanout._sizing import CHUNKS_PER_WORKER, ChunkSizer, checked_chunksize

MAX_IN_FLIGHT = 10_000


def fan_out(
    task: Task[..., Any],
    *iterables: Iterable[Any],
    static: Mapping[str, Any] | None = None,
    chunksize: int | Literal["auto"] = "auto",
    in_flight: int | None = None,
    ordered: bool = False,
    runner: ExecutorTaskRunner | None = None,
) -> Generator[Outcome, None, None]:
    """Run `task` for every item of the iterables and yield what became of each.

    The iterables are zipped like `map`'s, end with the shortest, and may be infinite. They are read lazily, in the
    thread that consumes the generator: at most `in_flight * chunksize` items are ahead of the consumer. An error that
    reading raises comes after the outcomes of all items read before it.

    Cancellation and shutdown: closing the generator (or leaving a `for` loop over it in a way that drops it) cancels
    the chunks that have not begun, and the items of running chunks that have not begun. It does not wait for items
    that run; the runner's `shutdown()` does. When the runner is shut down while items remain, those that were read
    come out as cancelled, then a RuntimeError says that the input was not finished.

    Args:
        task: A Prefect task. Each chunk is one run of it, named like `download[512:768]`; its retries, delays and
            timeout apply to each item.
        *iterables: One iterable per parameter that varies, in the order of the task's parameters.
        static: The keyword arguments that all items share.
        chunksize: Items per chunk; "auto" learns the size at which a chunk takes one to two seconds, with many
            workers up to four.
        in_flight: Chunks submitted and not yet consumed; None means two per worker.
        ordered: Yield in input order instead of as they finish.
        runner: A started `ExecutorTaskRunner`; None means that of the flow run.

    Yields:
        One `Outcome` per item.

    Raises:
        UsageError: There is no `ExecutorTaskRunner` to run on, an argument is out of range, or the task has a feature
            that a chunk cannot honour.
    """
    if not iterables:
        raise UsageError("fan_out() needs at least one iterable, one per parameter of the task that varies.")
    if in_flight is not None:
        check_count("in_flight", in_flight, MAX_IN_FLIGHT, "chunks")
    refuse_what_a_chunk_cannot_honour(task)
    chosen = runner if runner is not None else _runner_of_the_flow()
    chosen._check_open()
    source = iter(iterables[0]) if len(iterables) == 1 else zip(*iterables, strict=False)
    stream = _Stream(
        chosen,
        task,
        Binding.positional(task.fn, len(iterables), static or {}),
        source,
        ChunkSizer(checked_chunksize(chunksize), chosen.max_workers),
        in_flight or CHUNKS_PER_WORKER * chosen.max_workers,
        ordered,
    )
    return stream.outcomes()


def _runner_of_the_flow() -> ExecutorTaskRunner:
    context = FlowRunContext.get()
    if context is None:
        raise UsageError(
            "fan_out() was called outside a flow, so there is no runner to run on. Call it in a flow decorated with "
            "@flow(task_runner=ExecutorTaskRunner()), or pass one: `with ExecutorTaskRunner() as runner: "
            "fan_out(..., runner=runner)`."
        )
    if not isinstance(context.task_runner, ExecutorTaskRunner):
        raise UsageError(
            f"This flow runs on {type(context.task_runner).__name__}. fan_out() needs an ExecutorTaskRunner: decorate "
            "the flow with @flow(task_runner=ExecutorTaskRunner()), or pass runner=."
        )
    return context.task_runner


class _Stream:
    """One `fan_out` call. `window` belongs to the consuming thread; `_finished` is shared and guarded by `_changed`."""

    def __init__(
        self,
        runner: ExecutorTaskRunner,
        task: Task[..., Any],
        binding: Binding,
        source: Iterator[Any],
        sizer: ChunkSizer,
        in_flight: int,
        ordered: bool,
    ) -> None:
        self.runner = runner
        self.task = task
        self.binding = binding
        self.source = source
        self.sizer = sizer
        self.in_flight = in_flight
        self.ordered = ordered
        self.window: deque[Job] = deque()
        self.read = 0
        self.end: BaseException | None = None
        self.unsent: Chunk | None = None
        self._finished: dict[Job, None] = {}
        self._changed = threading.Condition()

    def outcomes(self) -> Generator[Outcome, None, None]:
        try:
            while True:
                # What is done goes out before more is read: reading may take long, or for ever.
                while self.end is None and self._has_room() and not self._ready():
                    self._submit_next()
                if not self.window:
                    break
                job = self._next_finished()
                assert job.chunk is not None, "a stream's jobs run chunks"
                yield from job.chunk.hand_out()
                self.window.remove(job)
            if self.unsent is not None:
                yield from self.unsent.hand_out()
            if not isinstance(self.end, StopIteration) and self.end is not None:
                raise self.end
        finally:
            for job in self.window:
                if not job.cancel("The fan-out was closed before the item began."):
                    job.stop.set()

    def _has_room(self) -> bool:
        return len(self.window) < self.sizer.window(self.in_flight)

    def _submit_next(self) -> None:
        try:
            raise_if_flow_run_suspension_requested()
            self.runner._check_open()
            items = self._take()
        except Exception as error:  # noqa: BLE001 - raised again at the end of the stream
            # Held back until the outcomes of everything that was read are out.
            self.end = error
            return
        if not items:
            return
        chunk = Chunk(self.task, self.read, items, self.binding)
        self.read += len(items)
        try:
            job = self.runner._new_chunk_job(chunk, None, {})
        except Exception as error:  # noqa: BLE001 - raised again at the end of the stream
            chunk.finish(FutureCancelled(f"The item was read, but could not be submitted any more: {error}"))
            self.unsent, self.end = chunk, error
            return
        self.window.append(job)
        job.add_done_callback(self._note_finished)
        self.runner._accept(job)

    def _take(self) -> list[Any]:
        """The items of the next chunk. A slow source makes short chunks rather than late ones."""
        items: list[Any] = []
        size, started = self.sizer.size, time.monotonic()
        try:
            while len(items) < size:
                items.append(next(self.source))
                if self.sizer.auto and time.monotonic() - started > self.sizer.fast_s:
                    break
        except Exception as error:  # noqa: BLE001 - StopIteration, or the user's own, raised again at the end
            self.end = error
        return items

    def _note_finished(self, job: Job) -> None:
        assert job.chunk is not None, "a stream's jobs run chunks"
        if job.started_at:
            self.sizer.finished(len(job.chunk.items), job.ended_at - job.started_at)
        with self._changed:
            self._finished[job] = None
            self._changed.notify_all()
        CHANGES.note()

    def _ready(self) -> bool:
        if self.ordered:
            return bool(self.window) and self.window[0] in self._finished
        return bool(self._finished)

    def _next_finished(self) -> Job:
        def sleep(timeout: float | None) -> None:
            with self._changed:
                self._changed.wait_for(self._ready, timeout)

        wait_for(self._ready, sleep, lambda: map(TaskRunFuture, self.window), None)
        with self._changed:
            job = self.window[0] if self.ordered else next(iter(self._finished))
            del self._finished[job]
            return job
