"""A job: one task run on its way through the executor.

    WAITING ──ready──▶ QUEUED ──claim──▶ RUNNING ──finish──▶ DONE
       └──────────────────┴──────cancel──────────────────────▲

The races, and how each ends:

1. A worker of the executor, a waiting worker that helps, and `cancel` want the same queued job: `claim` and `cancel`
   decide under the lock; the losers find it taken and go on.
2. An upstream future finishes while the job is cancelled: `ready` finds it DONE and does nothing.
3. The executor breaks while a job is queued or runs: whoever notices calls `finish`; the first call counts.
4. A callback is added while the job finishes: it is either in the list that `finish` takes, or runs at once.

Mutable state: `status`, `state`, `pending`, `beside` and `callbacks`, guarded by `CHANGES.lock`, one for the process:
a worker of one runner can wait for jobs of another.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextvars import Context
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from prefect.client.schemas.objects import State, StateType, TaskRun
from prefect.exceptions import PrefectSignal, UpstreamTaskError
from prefect.logging.loggers import get_logger
from prefect.states import Cancelled, Crashed
from prefect.tasks import Task

from prefect_fanout._chunk import Chunk
from prefect_fanout._outcome import FutureCancelled
from prefect_fanout._prefect import (
    emit_task_run_state_change_event,
    record_state,
    run_task_async,
    run_task_sync,
    state_result,
)

if TYPE_CHECKING:
    from prefect.futures import PrefectFuture

    from prefect_fanout._runner import ExecutorTaskRunner

logger = get_logger("fanout.job")


class Changes:
    """Says that something about some job has changed: it was queued, has finished, or arrived where it is awaited.

    Mutable state: `version`, guarded by `lock`.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.version = 0
        self._condition = threading.Condition(self.lock)

    def note(self) -> None:
        """Wake whoever waits for a change."""
        with self._condition:
            self.version += 1
            self._condition.notify_all()

    def sleep(self, version: int) -> None:
        """Return when there has been a change since `version`."""
        self.until(lambda: self.version != version)

    def until(self, done: Callable[[], bool]) -> None:
        """Return when `done()`, which is asked under the lock after each change."""
        with self._condition:
            self._condition.wait_for(done)


CHANGES = Changes()


class JobStatus(StrEnum):
    """Where a job is: waiting for upstream futures, for a worker, in one, on its way out, or through."""

    WAITING = "waiting"
    QUEUED = "queued"
    RUNNING = "running"
    CANCELLING = "cancelling"
    DONE = "done"


class Job:
    """One task run of one runner. See the module's text for its states and races."""

    def __init__(
        self,
        runner: ExecutorTaskRunner,
        task: Task[..., Any],
        task_run: TaskRun,
        context: Context,
        *,
        parameters: dict[str, Any],
        wait_for: Iterable[PrefectFuture[Any]] | None,
        chunk: Chunk | None = None,
    ) -> None:
        self.runner = runner
        self.task = task
        self.task_run = task_run
        self.chunk = chunk
        self.pool = runner._pool
        self.lock = CHANGES.lock
        self.done = threading.Event()
        self.stop = chunk.stop if chunk else threading.Event()
        self.status = JobStatus.WAITING
        self.state: State[Any] | None = None
        self.pending = 0
        self.beside = False  # run it in a thread of its own, because a worker sleeps for it
        self.upstream: list[PrefectFuture[Any]] = []
        self.call: Future[None] | None = None
        self.callbacks: list[Callable[[Job], None]] = []
        self.worker = ""
        self.queued_at = time.time()
        self.started_at = self.ended_at = 0.0
        self._context = context
        self._parameters = parameters
        self._wait_for = wait_for

    @property
    def items(self) -> int:
        """How many items the job runs."""
        return len(self.chunk.items) if self.chunk else 1

    # -- transitions ---------------------------------------------------------------------------------------------

    def ready(self) -> bool:
        """WAITING → QUEUED once the last upstream future is done; True for the caller that made it so."""
        with self.lock:
            self.pending -= 1
            if self.pending > 0 or self.status is not JobStatus.WAITING:
                return False
            self.status = JobStatus.QUEUED
            self.upstream = []
            CHANGES.note()
            return True

    def claim(self) -> bool:
        """QUEUED → RUNNING; True for the one caller that may, and must, run the job."""
        with self.lock:
            if self.status is not JobStatus.QUEUED:
                return False
            self.status = JobStatus.RUNNING
            CHANGES.note()
            return True

    def cancel(self, reason: str = "The task run was cancelled before it began.") -> bool:
        """WAITING or QUEUED → DONE with a Cancelled state; False where it has begun."""
        error = FutureCancelled(reason)
        with self.lock:
            if self.status is JobStatus.DONE:
                return self.state is not None and self.state.is_cancelled()
            if self.status in (JobStatus.RUNNING, JobStatus.CANCELLING):
                return self.status is JobStatus.CANCELLING
            self.status = (
                JobStatus.CANCELLING
            )  # Its last state is set outside the lock, and nobody may take it meanwhile.
        self.finish(self.set_state(Cancelled(message=reason, data=error)))
        if self.call is not None:
            self.call.cancel()
        return True

    def finish(self, state: State[Any]) -> None:
        """→ DONE with a last state; the first call counts."""
        if self.chunk is not None:
            self._finish_chunk(self.chunk, state)
        with self.lock:
            if self.status is JobStatus.DONE:
                return
            self.status = JobStatus.DONE
            self.state = state
            self.ended_at = time.time()
            callbacks, self.callbacks = self.callbacks, []
            self.upstream = []
            self._parameters, self._wait_for = {}, None
            self.done.set()
            self.runner._note_done(self)
        for callback in callbacks:
            self._call(callback)

    def add_done_callback(self, callback: Callable[[Job], None]) -> None:
        """Call `callback(job)` when the job is done; at once where it is."""
        with self.lock:
            if self.status is not JobStatus.DONE:
                self.callbacks.append(callback)
                return
        self._call(callback)

    def remove_done_callback(self, callback: Callable[[Job], None]) -> None:
        """Forget a callback that has not been called."""
        with self.lock:
            if callback in self.callbacks:
                self.callbacks.remove(callback)

    # -- in the worker -------------------------------------------------------------------------------------------

    def run(self, worker_name: str) -> None:
        """Run the claimed job to its end in the calling thread; nothing that it raises gets out."""
        self.worker = worker_name
        self.started_at = time.time()
        try:
            state = self._context.run(self._engine)
        except BaseException as error:  # noqa: BLE001 - see below
            # The engine lets crashes and Prefect's own signals through, and the thread belongs to the pool.
            state = self._state_after(error)
        self.finish(state)

    def _engine(self) -> State[Any]:
        arguments: dict[str, Any] = {
            "task": self.chunk.as_task() if self.chunk else self.task,
            "task_run": self.task_run,
            "parameters": self._parameters,
            "wait_for": self._wait_for,
            "return_type": "state",
            "context": {"cancel_event": self.stop},
        }
        state: Any = asyncio.run(run_task_async(**arguments)) if self.task.isasync else run_task_sync(**arguments)
        assert isinstance(state, State), "return_type='state' gives a state"
        return state

    def _state_after(self, error: BaseException) -> State[Any]:
        if self.stop.is_set() and isinstance(error, asyncio.CancelledError):
            return self.set_state(
                Cancelled(message="The task run was cancelled.", data=FutureCancelled("The task run was cancelled."))
            )
        if isinstance(error, PrefectSignal):
            return self.set_state(
                Cancelled(message=f"The flow run stopped: {error!r}", data=FutureCancelled(repr(error)))
            )
        state = self.task_run.state
        if state is not None and state.is_final():
            return state
        return self.crash(error)

    def crash(self, error: BaseException) -> State[Any]:
        """Set a Crashed state for an error around the task, and return it."""
        return self.set_state(Crashed(message=f"The task run could not go on: {error!r}", data=error))

    def set_state(self, state: State[Any] | None = None) -> State[Any]:
        """Tell the Prefect API of a state that the engine does not set itself: Pending (None) and the abrupt ends."""
        previous, run = (None, self.task_run) if state is None else (self.task_run.state, self.task_run)
        if state is None:
            assert run.state is not None, "a task run is made with a state"
            state = run.state
        else:
            record_state(run, state)
        # A copy, because the context itself may be in use by the worker that runs the job.
        self._context.copy().run(
            emit_task_run_state_change_event, task_run=run, initial_state=previous, validated_state=state
        )
        return state

    def close_not_ready(self) -> None:
        """Turn NotReady, which Prefect leaves as Pending for ever, into a final state when the runner ends."""
        state = self.state
        if state is not None and state.is_pending():
            message = state.message or "An upstream task run did not complete."
            self.state = self.set_state(
                State(type=StateType.CANCELLED, name="NotReady", message=message, data=FutureCancelled(message))
            )

    def _finish_chunk(self, chunk: Chunk, state: State[Any]) -> None:
        if len(chunk.outcomes) < len(chunk.items):
            chunk.finish(_error_of(state))

    def _call(self, callback: Callable[[Job], None]) -> None:
        try:
            callback(self)
        except Exception:
            logger.exception("exception calling callback for %r", self)

    def __repr__(self) -> str:
        return f"<Job {self.task_run.name!r} {self.status}>"


def _error_of(state: State[Any]) -> BaseException:
    """What the items of a chunk that broke as a whole have met."""
    if state.is_pending():
        return UpstreamTaskError(state.message or "An upstream task run did not complete.")
    try:
        state_result(state)
    except BaseException as error:  # noqa: BLE001 - it is returned
        return error
    return RuntimeError(f"The task run ended in state {state} without an outcome for this item.")
