"""Futures: the standard library's words on top of Prefect's."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from uuid import UUID

from prefect.client.schemas.objects import State
from prefect.exceptions import UnfinishedRun, UpstreamTaskError
from prefect.futures import PrefectFuture, PrefectTaskRunFuture
from prefect.states import Cancelled, Completed, Crashed, Failed, Pending
from prefect.task_engine import TaskRunTimeoutError

from prefect_fanout._help import run_what_is_queued, wait_for
from prefect_fanout._job import Job, JobStatus
from prefect_fanout._outcome import Outcome, OutcomeStatus
from prefect_fanout._prefect import raise_if_flow_run_suspension_requested, result_data, state_result

if TYPE_CHECKING:
    from prefect_fanout._map import Mapping
    from prefect_fanout._worker import Worker

R = TypeVar("R")
Callback = Callable[[PrefectFuture[Any]], None]


class ExecutorFuture(PrefectTaskRunFuture[R], Generic[R]):
    """A task run, or one item of a chunked `map`, that an `ExecutorTaskRunner` runs.

    It has Prefect's words (`wait`, `result`, `state`, `task_run_id`) and those of `concurrent.futures.Future`
    (`exception`, `cancel`, `cancelled`, `running`, `done`, `add_done_callback`).

    Cancellation and shutdown: `cancel()` succeeds until the work has begun. A wait inside a worker of the same runner
    runs queued work that it waits for itself, so it cannot deadlock; such a wait can therefore last longer than its
    timeout. After the runner's `shutdown()` every future is done.
    """

    def __init__(self, task_run_id: UUID) -> None:
        super().__init__(task_run_id)

    # What the two kinds of future answer themselves.

    @abstractmethod
    def _sleep(self, timeout: float | None) -> None:
        """Block until the future is done or `timeout` seconds have passed."""

    @abstractmethod
    def _candidate(self, workers: Iterable[Worker]) -> Job | None:
        """The job to run, or to look upstream of, to have it done; `workers` are those of the calling thread."""

    @abstractmethod
    def _on_done(self, callback: Callback) -> None:
        """Call `callback(self)` when done, without running anything for it."""

    @abstractmethod
    def _forget(self, callback: Callback) -> None:
        """Take back a callback given to `_on_done`."""

    @abstractmethod
    def cancel(self) -> bool:
        """Cancel the work unless it has begun; return whether it is cancelled."""

    @abstractmethod
    def running(self) -> bool:
        """Whether a worker runs the work now."""

    @abstractmethod
    def done(self) -> bool:
        """Whether the work has finished, failed or been cancelled."""

    # What follows from these.

    def cancelled(self) -> bool:
        """Whether the work was cancelled."""
        return self.done() and self.state.is_cancelled()

    def wait(self, timeout: float | None = None) -> None:
        """Wait until the work is done or `timeout` seconds have passed; never raise what the work raised."""
        wait_for(self.done, self._sleep, lambda: (self,), timeout)
        raise_if_flow_run_suspension_requested()

    def result(self, timeout: float | None = None, raise_on_failure: bool = True) -> R:
        """Return what the task returned, or raise what it raised.

        Args:
            timeout: Seconds to wait; None waits as long as it takes.
            raise_on_failure: False returns the exception instead of raising it.

        Raises:
            TimeoutError: The work is not done after `timeout` seconds.
            CancelledError: The work was cancelled (also a `prefect.exceptions.CancelledRun`).
        """
        self._finished(timeout)
        value: R = state_result(self.state, raise_on_failure)
        return value

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return what the task raised, or None where it succeeded.

        Raises:
            TimeoutError: The work is not done after `timeout` seconds.
            CancelledError: The work was cancelled.
        """
        try:
            self.result(timeout)
        except CancelledError:
            raise
        except BaseException as error:
            if not self.done():
                raise
            return error
        return None

    def add_done_callback(self, fn: Callback) -> None:
        """Call `fn(future)` when the work is done; at once where it is. What it raises is logged."""
        self._on_done(fn)

    def _add_prefect_done_callback(self, fn: Callback) -> None:
        # Prefect's own wait() and as_completed() register here and then block. In a worker that would deadlock,
        # so the worker first does what it is about to wait for.
        run_what_is_queued((self,))
        self._on_done(fn)

    def _finished(self, timeout: float | None) -> None:
        self.wait(timeout)
        if not self.done():
            raise TimeoutError(f"Task run {self.task_run_id} did not complete within {timeout} seconds")

    def __repr__(self) -> str:
        status = "done" if self.done() else "running" if self.running() else "not started"
        return f"<{type(self).__name__} {status}{f', {self.state}' if self.done() else ''}>"


class TaskRunFuture(ExecutorFuture[R]):
    """The future of one submitted task run."""

    def __init__(self, job: Job) -> None:
        super().__init__(job.task_run.id)
        self._job = job

    @property
    def state(self) -> State[R]:
        """The present state of the task run, as this process knows it."""
        state = self._job.state or self._job.task_run.state
        assert state is not None, "a task run is made with a state"
        return state

    @property
    def _final_state(self) -> State[R] | None:
        return self._job.state

    @_final_state.setter
    def _final_state(self, state: State[R] | None) -> None:
        """Prefect's base class sets None on creation; the job's state is the only truth."""

    def _sleep(self, timeout: float | None) -> None:
        self._job.done.wait(timeout)

    def _candidate(self, workers: Iterable[Worker]) -> Job | None:
        return self._job

    def _on_done(self, callback: Callback) -> None:
        self._job.add_done_callback(_JobCallback(self, callback))

    def _forget(self, callback: Callback) -> None:
        self._job.remove_done_callback(_JobCallback(self, callback))

    def cancel(self) -> bool:
        return self._job.cancel()

    def running(self) -> bool:
        return self._job.status is JobStatus.RUNNING

    def done(self) -> bool:
        return self._job.done.is_set()


class _JobCallback:
    """A future's callback in a job's list; equal to another for the same future and function."""

    def __init__(self, future: ExecutorFuture[Any], callback: Callback) -> None:
        self._key = (future, callback)

    def __call__(self, job: Job) -> None:
        future, callback = self._key
        callback(future)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _JobCallback) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)


class ItemFuture(ExecutorFuture[R]):
    """The future of one item of a chunked `map`. Its task run is that of the chunk that runs the item."""

    __slots__ = ("_index", "_mapping")

    def __init__(self, mapping: Mapping, index: int) -> None:
        # Not super().__init__: a million of these are made, and both attributes that it sets follow from the mapping.
        self._mapping = mapping
        self._index = index

    @property
    def task_run_id(self) -> UUID:
        """The id of the chunk's task run; an id of the mapping while the item is in no chunk yet."""
        job = self._mapping.job_of(self._index)
        return job.task_run.id if job else self._mapping.id

    @property
    def state(self) -> State[R]:
        """The present state of the item, as this process knows it."""
        final = self._final_state
        return final if final is not None else Pending(message="The item has no outcome yet.")

    @property
    def _final_state(self) -> State[R] | None:
        outcome = self._mapping.outcome_of(self._index)
        return None if outcome is None else state_of(outcome, self.task_run_id)

    @_final_state.setter
    def _final_state(self, state: State[R] | None) -> None:
        """See `TaskRunFuture`."""

    def result(self, timeout: float | None = None, raise_on_failure: bool = True) -> R:
        """Return what the task returned for this item, or raise what it raised. See `ExecutorFuture.result`."""
        outcome = self._mapping.outcome_of(self._index)
        if outcome is None:
            self._finished(timeout)
            outcome = self._mapping.outcome_of(self._index)
            assert outcome is not None, "a finished item has an outcome"
        value: R = result_of(outcome, raise_on_failure)
        return value

    def _sleep(self, timeout: float | None) -> None:
        self._mapping.sleep_until(self.done, timeout)

    def _candidate(self, workers: Iterable[Worker]) -> Job | None:
        return self._mapping.job_for(self._index, workers)

    def _on_done(self, callback: Callback) -> None:
        self._mapping.add_callback(self._index, self, callback)

    def _forget(self, callback: Callback) -> None:
        self._mapping.remove_callback(self._index, self, callback)

    def cancel(self) -> bool:
        return self._mapping.cancel_item(self._index)

    def running(self) -> bool:
        return not self.done() and self._mapping.item_has_begun(self._index)

    def done(self) -> bool:
        return self._mapping.outcome_of(self._index) is not None


def result_of(outcome: Outcome, raise_on_failure: bool) -> Any:
    """What a future's `result()` gives for an outcome."""
    if outcome.error is None:
        return outcome.value
    error: BaseException = outcome.error
    if isinstance(error, UpstreamTaskError):
        error = UnfinishedRun("Run is in PENDING state, its result is not available.")
        raise error from outcome.error
    if raise_on_failure:
        raise error
    return error


def state_of(outcome: Outcome, task_run_id: UUID) -> State[Any]:
    """The state that Prefect's own runner would give a task run with this outcome."""
    error = outcome.error
    state: State[Any]
    if error is None:
        state = Completed(data=result_data(outcome.value))
    elif outcome.status is OutcomeStatus.CANCELLED:
        state = Cancelled(message=str(error), data=error)
    elif isinstance(error, UpstreamTaskError):
        state = Pending(name="NotReady", message=str(error))
    elif isinstance(error, TaskRunTimeoutError):
        state = Failed(name="TimedOut", message=str(error), data=error)
    elif isinstance(error, Exception):
        state = Failed(message=f"Task run encountered an exception {type(error).__name__}: {error}", data=error)
    else:
        state = Crashed(message=f"The item was interrupted: {error!r}", data=error)
    state.state_details.task_run_id = task_run_id
    return state
