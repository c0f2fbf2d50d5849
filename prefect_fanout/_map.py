"""A chunked `map`: one future per item at once, task runs cut from the items as workers come free.

Chunks are cut late, so that "auto" can learn their size, and so that the Prefect API sees a few queued task runs
instead of all of them.

Mutable state: `_starts`, `_chunks`, `_jobs`, `_next`, `_open`, `_pumping`, `_closed`, `_reason`, `_failed`, `_skipped`,
`_callbacks` and `_futures`, guarded by `_changed`.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from contextvars import copy_context
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

from prefect.client.schemas.objects import RunInput
from prefect.exceptions import MappingLengthMismatch, MappingMissingIterable
from prefect.futures import PrefectFuture, PrefectFutureList
from prefect.tasks import Task
from prefect.utilities.annotations import allow_failure, opaque, quote, unmapped
from prefect.utilities.callables import explode_variadic_parameter
from prefect.utilities.collections import isiterable
from prefect.utilities.engine import collect_task_run_inputs_sync, resolve_inputs_sync

from prefect_fanout._binding import Binding
from prefect_fanout._chunk import Chunk
from prefect_fanout._future import ExecutorFuture, ItemFuture, result_of
from prefect_fanout._help import wait_for
from prefect_fanout._job import CHANGES, Job, JobStatus
from prefect_fanout._outcome import FutureCancelled, Outcome, OutcomeStatus
from prefect_fanout._sizing import ChunkSizer

if TYPE_CHECKING:
    from prefect_fanout._runner import ExecutorTaskRunner
    from prefect_fanout._worker import Worker

# Annotations of a mapped iterable that belong to each of its items.
_REAPPLIED: tuple[type[Any], ...] = (allow_failure, opaque, quote)


class Mapping:
    """The items of one `map` call and what became of them."""

    def __init__(
        self,
        runner: ExecutorTaskRunner,
        task: Task[..., Any],
        items: Sequence[Any],
        binding: Binding,
        *,
        sizer: ChunkSizer,
        window: int,
        wait_for: Iterable[PrefectFuture[Any]] | None,
        inputs: dict[str, set[RunInput]],
    ) -> None:
        self.runner = runner
        self.id: UUID = uuid4()
        self.items = items
        self._task = task
        self._binding = binding
        self._sizer = sizer
        self._window = window
        self._wait_for = wait_for
        self._inputs = inputs
        self._context = copy_context()
        self._changed = threading.Condition()
        self._starts: list[int] = []
        self._chunks: list[Chunk] = []
        self._jobs: list[Job] = []
        self._next = 0
        self._open = 0
        self._closed = False
        self._reason = ""
        self._pumping = False
        self._failed: Outcome | None = None
        self._skipped: dict[int, Outcome] = {}
        self._callbacks: dict[int, list[Callable[[PrefectFuture[Any]], None]]] = {}
        self._futures: dict[int, ItemFuture[Any]] = {}

    # -- cutting -------------------------------------------------------------------------------------------------

    def pump(self) -> None:
        """Cut chunks until the window is full or all items are cut.

        A chunk that finishes calls this again, perhaps before the submit that started it has returned: then the
        call that is under way goes round once more instead of nesting.
        """
        while self._may_cut():
            self._cut()

    def _may_cut(self) -> bool:
        with self._changed:
            full = self._open >= self._sizer.window(self._window)
            if self._pumping or full or self._next >= len(self.items) or self._closed:
                return False
            self._pumping = True
            return True

    def _cut(self) -> None:
        """Make the next chunk and submit it. The caller has set `_pumping`, so no other thread is here."""
        try:
            with self._changed:
                start, stop = self._next, min(self._next + self._sizer.size, len(self.items))
                skipped = {index - start for index in self._skipped if start <= index < stop}
                chunk = Chunk(self._task, start, self.items[start:stop], self._binding, skipped=skipped)
                # From here on the chunk answers for its items: one that is cancelled now must not run.
                self._starts.append(start)
                self._chunks.append(chunk)
                self._next = stop
                self._open += 1
            # Created in the context of the map() call, whoever cuts: it says which flow run this belongs to.
            job = self._context.copy().run(self.runner._new_chunk_job, chunk, self._wait_for, self._inputs)
            with self._changed:
                self._jobs.append(job)
                closed = self._closed
            job.add_done_callback(self._chunk_done)
            if closed:
                job.cancel(self._reason)
            else:
                self.runner._accept(job)
        except Exception as error:
            # Nothing can be submitted any more (the runner was shut down meanwhile): no item may stay open.
            self._give_up(chunk, error)
            raise
        finally:
            with self._changed:
                self._pumping = False
                closed = self._closed
                self._changed.notify_all()
            CHANGES.note()
            if closed:
                self._drop_the_rest()

    def _give_up(self, chunk: Chunk, error: Exception) -> None:
        with self._changed:
            self._closed, self._reason = True, f"No more task runs could be submitted: {error}"
            if len(self._jobs) < len(self._chunks):
                self._chunks.pop()
                self._starts.pop()
                self._next = chunk.start
                self._open -= 1

    def _chunk_done(self, job: Job) -> None:
        chunk = job.chunk
        assert chunk is not None, "the jobs of a mapping run chunks"
        if job.started_at:
            self._sizer.finished(len(chunk.items), job.ended_at - job.started_at)
        failed = next((o for o in chunk.in_order() if o.error is not None), None)
        with self._changed:
            self._open -= 1
            self._failed = self._failed or failed
            due = [i for i in self._callbacks if chunk.start <= i < chunk.start + len(chunk.items)]
            called = [(self._futures[index], fn) for index in sorted(due) for fn in self._callbacks.pop(index)]
            self._changed.notify_all()
        for future, callback in called:
            self.runner._call(callback, future)
        self.pump()
        self.runner._note_mapping(self)

    def close(self, reason: str) -> None:
        """Cancel the items that are in no chunk yet."""
        with self._changed:
            self._closed, self._reason = True, reason
            if self._pumping:
                return  # Whoever cuts now sees `_closed` when it is through, and does the rest.
        self._drop_the_rest()

    def _drop_the_rest(self) -> None:
        with self._changed:
            rest = range(self._next, len(self.items))
            self._next = len(self.items)
            for index in rest:
                self._skipped.setdefault(index, self._cancelled_outcome(index, self._reason))
            if rest and self._failed is None:
                self._failed = self._skipped[rest[0]]
            called = [(self._futures[i], fn) for i in rest for fn in self._callbacks.pop(i, ())]
            self._changed.notify_all()
        for future, callback in called:
            self.runner._call(callback, future)
        self.runner._note_mapping(self)

    @property
    def finished(self) -> bool:
        """Whether every item has its outcome."""
        with self._changed:
            return self._next >= len(self.items) and self._open == 0

    # -- items ---------------------------------------------------------------------------------------------------

    def _place_of(self, index: int) -> int | None:
        """Which chunk holds the item, or None while it is in none."""
        place = bisect_right(self._starts, index) - 1
        if place < 0:
            return None
        chunk = self._chunks[place]
        return place if index < chunk.start + len(chunk.items) else None

    def job_of(self, index: int) -> Job | None:
        """The job of the chunk that holds the item, or None while there is none."""
        with self._changed:
            place = self._place_of(index)
            return None if place is None or place >= len(self._jobs) else self._jobs[place]

    def job_for(self, index: int, workers: Iterable[Worker]) -> Job | None:
        """The job that has to run for the item; for a worker that waits for it, cut beyond the window."""
        if all(worker.pool is not self.runner._pool for worker in workers):
            return self.job_of(index)  # Not theirs to run, so nothing is gained by cutting early.
        while (job := self.job_of(index)) is None:
            with self._changed:
                if self._pumping or self._closed:
                    return None
                self._pumping = True
            self._cut()
        return job

    def outcome_of(self, index: int) -> Outcome | None:
        """What became of the item, or None while that is open."""
        if index in self._skipped:
            return self._skipped[index]
        job = self.job_of(index)
        if job is None or not job.done.is_set():
            return None
        assert job.chunk is not None, "the jobs of a mapping run chunks"
        return job.chunk.outcomes[index - job.chunk.start]

    def item_has_begun(self, index: int) -> bool:
        """Whether the chunk of the item runs."""
        job = self.job_of(index)
        return job is not None and job.status is JobStatus.RUNNING

    def cancel_item(self, index: int) -> bool:
        """Cancel one item unless it has begun."""
        outcome = self.outcome_of(index)
        if outcome is not None:
            return outcome.status is OutcomeStatus.CANCELLED
        with self._changed:
            place = self._place_of(index)
            chunk = None if place is None else self._chunks[place]
            if chunk is not None and not chunk.cancel_item(index - chunk.start):
                return False
            self._skipped[index] = self._cancelled_outcome(index, "The item was cancelled.")
            callbacks = self._callbacks.pop(index, [])
            future = self._futures.get(index)
            self._changed.notify_all()
        CHANGES.note()
        for callback in callbacks:
            assert future is not None, "a callback comes with its future"
            self.runner._call(callback, future)
        return True

    def add_callback(self, index: int, future: ItemFuture[Any], fn: Callable[[PrefectFuture[Any]], None]) -> None:
        """Call `fn(future)` when the item has its outcome; at once where it has."""
        with self._changed:
            if self.outcome_of(index) is None:
                self._futures[index] = future
                self._callbacks.setdefault(index, []).append(fn)
                return
        self.runner._call(fn, future)

    def remove_callback(self, index: int, future: ItemFuture[Any], fn: Callable[[PrefectFuture[Any]], None]) -> None:
        """Forget a callback that has not been called."""
        with self._changed:
            known = self._callbacks.get(index, [])
            if fn in known:
                known.remove(fn)

    def sleep_until(self, done: Callable[[], bool], timeout: float | None) -> None:
        """Block the calling thread until `done()` or `timeout` seconds have passed."""
        with self._changed:
            self._changed.wait_for(done, timeout)

    def settled(self, raise_on_failure: bool) -> bool:
        """Whether `result()` of the whole list has its answer: all done, or one failed and failures are raised."""
        return (raise_on_failure and self._failed is not None) or self.finished

    def results(self, raise_on_failure: bool) -> list[Any]:
        """The values in input order; a failure is raised, or stands in its place."""
        if raise_on_failure and self._failed is not None:
            result_of(self._failed, raise_on_failure)
        if self._skipped:
            return [result_of(o, raise_on_failure) for o in map(self.outcome_of, range(len(self.items))) if o]
        outcomes = (outcome for job in self._jobs if job.chunk for outcome in job.chunk.in_order())
        return [o.value if o.error is None else result_of(o, raise_on_failure) for o in outcomes]

    def _cancelled_outcome(self, index: int, reason: str) -> Outcome:
        return Outcome(index, self.items[index], OutcomeStatus.CANCELLED, error=FutureCancelled(reason), attempts=0)


class ItemFutureList(PrefectFutureList[Any]):
    """The futures of a chunked `map`, in input order; waiting and results go by chunk, not by item."""

    _mapping: Mapping | None = None  # Prefect rebuilds lists from their items; such a copy waits for each future

    @classmethod
    def of(cls, mapping: Mapping) -> ItemFutureList:
        """The futures of all items of `mapping`."""
        futures = cls(ItemFuture(mapping, index) for index in range(len(mapping.items)))  # type: ignore[abstract] # a list, though Prefect also calls it an Iterator
        futures._mapping = mapping
        return futures

    def wait(self, timeout: float | None = None) -> None:
        """Wait until all items are done or `timeout` seconds have passed."""
        mapping = self._mapping
        if mapping is None:
            super().wait(timeout)
        else:
            self._settle(mapping, lambda: mapping.finished, timeout)

    def result(self, timeout: float | None = None, raise_on_failure: bool = True) -> list[Any]:
        """The values in input order; as soon as an item fails, its error is raised.

        Raises:
            TimeoutError: Not all items are done after `timeout` seconds.
        """
        mapping = self._mapping
        if mapping is None:
            return super().result(timeout, raise_on_failure)
        if timeout is not None and timeout < 0:
            raise ValueError(f"'timeout' must be a non-negative number, got {timeout}")
        self._settle(mapping, lambda: mapping.settled(raise_on_failure), timeout)
        if not mapping.settled(raise_on_failure):
            raise TimeoutError(f"Timed out waiting for all futures to complete within {timeout} seconds")
        return mapping.results(raise_on_failure)

    def _settle(self, mapping: Mapping, done: Callable[[], bool], timeout: float | None) -> None:
        def open_items() -> Iterable[ExecutorFuture[Any]]:
            return (future for future in self if isinstance(future, ExecutorFuture) and not future.done())

        wait_for(done, lambda left: mapping.sleep_until(done, left), open_items, timeout)


def plan_mapping(
    task: Task[..., Any], parameters: dict[str, Any]
) -> tuple[list[Any], Binding, dict[str, set[RunInput]]]:
    """Split the parameters of a `map` call into items and what they share, as Prefect documents it.

    Returns:
        The items (bare values for one mapped parameter, else tuples), how to call the task with one, and the upstream
        task runs of each parameter.

    Raises:
        MappingMissingIterable: Nothing to map over was given.
        MappingLengthMismatch: The iterables differ in length.
    """
    inputs: dict[str, set[RunInput]] = {
        name: set(collect_task_run_inputs_sync(value, max_depth=0)) for name, value in parameters.items()
    }
    # Only what is a future itself is waited for here: its data decides how many items there are.
    resolved = explode_variadic_parameter(task.fn, resolve_inputs_sync(parameters, max_depth=0))
    columns: dict[str, list[Any]] = {}
    static: dict[str, Any] = {}
    annotations: dict[str, Callable[[Any], Any]] = {}
    for name, given in resolved.items():
        value = given
        if isinstance(given, _REAPPLIED):
            annotations[name] = type(given)
            value = given.unwrap()
        if isinstance(value, unmapped):
            static[name] = _annotated(annotations.pop(name, None), value.value)
        elif isiterable(value):
            columns[name] = list(value)
        else:
            static[name] = _annotated(annotations.pop(name, None), value)
    if not columns:
        raise MappingMissingIterable(
            "No iterable parameters were received. Parameters for map must include at least one iterable. "
            f"Parameters: {resolved}"
        )
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise MappingLengthMismatch(
            "Received iterable parameters with different lengths. Parameters for map must all be the same length. "
            f"Got lengths: {lengths}"
        )
    items = list(zip(*columns.values(), strict=True)) if len(columns) > 1 else next(iter(columns.values()))
    return items, Binding(names=tuple(columns), static=static, annotations=annotations), inputs


def _annotated(annotation: Callable[[Any], Any] | None, value: Any) -> Any:
    return value if annotation is None else annotation(value)
