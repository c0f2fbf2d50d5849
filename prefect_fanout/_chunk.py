"""A chunk: consecutive items that one worker runs in one Prefect task run.

The code here runs inside a worker. Every item of a chunk gets exactly one outcome:

1. items run in input order; an item that waits for its retry lets the others go first;
2. what an item raises is its own: the others still run, and fail or succeed as they would alone;
3. when the chunk is told to stop, what has not begun is cancelled, what is running ends as it ends;
4. when the task run breaks around the items (the engine, the executor), what has no outcome yet gets that error.
"""

from __future__ import annotations

import asyncio
import heapq
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextvars import copy_context
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any

from prefect.cache_policies import DEFAULT, NO_CACHE
from prefect.client.schemas.objects import RunInput, State, TaskRun
from prefect.context import TaskRunContext
from prefect.exceptions import ExternalSignal, PrefectSignal, UpstreamTaskError
from prefect.futures import PrefectFuture
from prefect.results import get_result_store, should_persist_result
from prefect.settings.context import get_current_settings
from prefect.states import Cancelled, Completed, Failed, is_state_iterable
from prefect.task_engine import TaskRunTimeoutError
from prefect.tasks import Task
from prefect.utilities.annotations import NotSet
from prefect.utilities.timeout import timeout, timeout_async

from prefect_fanout._binding import ATOMIC, Binding, Upstream
from prefect_fanout._errors import UsageError
from prefect_fanout._outcome import FutureCancelled, Outcome, OutcomeStatus
from prefect_fanout._prefect import return_value_to_state, state_result
from prefect_fanout._retry import RetryPolicy

# An async item that waits for its retry looks this often whether the chunk was told to stop.
STOP_CHECK_S = 0.2


def refuse_what_a_chunk_cannot_honour(task: Task[..., Any]) -> None:
    """Raise a `UsageError` that names each feature of `task` that works per task run, so not per item."""
    setting = get_current_settings().tasks.default_persist_result
    persists = task.persist_result if task.persist_result is not None else setting
    refused = {
        "it is a generator": task.isgenerator,
        "cache_policy": task.cache_policy not in (None, NotSet, DEFAULT, NO_CACHE) and task.cache_key_fn is None,
        "cache_key_fn": task.cache_key_fn is not None,
        "cache_expiration": task.cache_expiration is not None,
        "result_storage_key": task.result_storage_key is not None,
        "persist_result": should_persist_result() if persists is None else persists,
        "on_commit": bool(task.on_commit_hooks),
        "on_rollback": bool(task.on_rollback_hooks),
    }
    names = [name for name, present in refused.items() if present]
    if names:
        raise UsageError(
            f"Task {task.name!r} cannot run in chunks, because of: {', '.join(names)}. These work per task run, and a "
            "chunk is one task run for many items. Use chunksize=None (one task run per item), or take them off the "
            f"task, for example {task.name}.with_options(persist_result=False)."
        )


@dataclass(eq=False)
class Chunk:
    """Some consecutive items, how to call the task with each, and their outcomes as they come.

    Mutable state: `outcomes`, `skipped` and `_begun`, written by the one worker that runs the chunk and by threads
    that cancel single items; `lock` guards them.
    """

    task: Task[..., Any]
    start: int
    items: Sequence[Any]
    binding: Binding
    stop: threading.Event = field(default_factory=threading.Event)
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    skipped: set[int] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)
    _begun: set[int] = field(default_factory=set)

    @property
    def name(self) -> str:
        """The name of the chunk's task run, for example `download[512:768]`."""
        return f"{self.task.name}[{self.start}:{self.start + len(self.items)}]"

    def look_upstream(self) -> tuple[list[PrefectFuture[Any]], dict[str, set[RunInput]]]:
        """The futures among the items, and the task runs behind them by parameter.

        Notes on the way whether the items have to be resolved at all, which most have not.
        """
        futures: list[PrefectFuture[Any]] = []
        inputs: dict[str, set[RunInput]] = {}
        resolve = bool(self.binding.annotations)
        if len(self.binding.names) > 1 or not set(map(type, self.items)) <= ATOMIC:
            for name, value in self.binding.parts(self.items):
                try:
                    seen = Upstream.of((value,))
                except Exception:  # noqa: BLE001 - it is the item's: resolving it in the worker raises it again, there
                    resolve = True
                    continue
                if seen.found:
                    resolve = True
                    futures += seen.futures
                    inputs.setdefault(name, set()).update(seen.inputs)
        self.binding = replace(self.binding, resolve=resolve)
        return futures, inputs

    def as_task(self) -> Task[..., Any]:
        """The user's own task (name, key, tags, hooks), running this chunk instead of one item."""
        chunk_task = copy(self.task)
        chunk_task.fn = self._run_async if self.task.isasync else self._run_sync
        # What these mean is done per item, below; the task run around the items must not do it again.
        chunk_task.retries = 0
        chunk_task.retry_condition_fn = None
        chunk_task.timeout_seconds = None
        chunk_task.task_run_name = None
        chunk_task.cache_policy = NO_CACHE
        chunk_task.persist_result = False
        return chunk_task

    def cancel_item(self, offset: int) -> bool:
        """Cancel one item unless it has begun; True when it is cancelled now or was before."""
        with self.lock:
            known = self.outcomes.get(offset)
            if known is not None:
                return known.status is OutcomeStatus.CANCELLED
            if offset in self.skipped:
                return True
            if offset in self._begun:
                return False
            self.skipped.add(offset)
            return True

    def finish(self, error: BaseException) -> None:
        """Give every item that has no outcome yet one: cancelled, or failed with `error`."""
        cancelled = isinstance(error, FutureCancelled)
        with self.lock:
            for offset in range(len(self.items)):
                if offset not in self.outcomes:
                    gone = cancelled or offset in self.skipped
                    status = OutcomeStatus.CANCELLED if gone else OutcomeStatus.FAILED
                    reason = error if cancelled or not gone else FutureCancelled("The item was cancelled.")
                    attempts = 1 if offset in self._begun else 0
                    self.outcomes[offset] = self._outcome(offset, status, attempts, error=reason)

    def in_order(self) -> Iterator[Outcome]:
        """The outcomes of a finished chunk in input order."""
        return (self.outcomes[offset] for offset in range(len(self.items)))

    def hand_out(self) -> Iterator[Outcome]:
        """The outcomes in input order, each for the last time.

        The chunk outlives its task run: in the frames that an error keeps, and in the contexts of events that Prefect
        has yet to send. Emptied, it keeps nothing else alive.
        """
        count, outcomes = len(self.items), self.outcomes
        self.items, self.outcomes, self._begun, self.skipped = (), {}, set(), set()
        return (outcomes.pop(offset) for offset in range(count))

    # -- inside the worker ---------------------------------------------------------------------------------------

    def _run_sync(self) -> State[Any]:
        schedule = _Schedule(len(self.items), self.stop)
        call, task_run, policy = self._prepare()
        for offset, attempt in schedule.attempts():
            if self._begin(offset):
                self._ended(offset, attempt, _attempt(call, self.items[offset]), schedule, policy, task_run)
        return self._state()

    async def _run_async(self) -> State[Any]:
        schedule = _Schedule(len(self.items), self.stop)
        call, task_run, policy = self._prepare()
        async for offset, attempt in schedule.async_attempts():
            if self._begin(offset):
                attempted = asyncio.create_task(_attempt_async(call, self.items[offset]), context=copy_context())
                self._ended(offset, attempt, await attempted, schedule, policy, task_run)
        return self._state()

    def _prepare(self) -> tuple[Callable[[Any], Any], TaskRun, RetryPolicy]:
        context = TaskRunContext.get()
        assert context is not None, "a chunk runs inside a task run"
        call = self.binding.caller(self.task.fn)
        if (seconds := self.task.timeout_seconds) is not None:
            call = (_timed_async if self.task.isasync else _timed)(call, seconds)
        return call, context.task_run, RetryPolicy(self.task)

    def _begin(self, offset: int) -> bool:
        with self.lock:
            if offset in self.skipped:
                reason = FutureCancelled("The item was cancelled.")
                self.outcomes[offset] = self._outcome(offset, OutcomeStatus.CANCELLED, 0, error=reason)
                return False
            self._begun.add(offset)
            return True

    def _ended(
        self,
        offset: int,
        attempt: int,
        result: tuple[Any, BaseException | None],
        schedule: _Schedule,
        policy: RetryPolicy,
        task_run: TaskRun,
    ) -> None:
        value, error = result
        state = _as_state(value)
        failure = error or (state if state is not None and state.is_failed() else None)
        # An upstream that failed fails again, and of what is raised only Exceptions are retried, as in Prefect.
        retriable = isinstance(failure, (Exception, State)) and not isinstance(failure, UpstreamTaskError)
        if failure is not None and retriable:
            delay = policy.delay_s(attempt, failure, task_run)
            if delay is not None:
                schedule.again(offset, attempt + 1, delay)
                return
        if error is not None:
            outcome = self._outcome(offset, OutcomeStatus.FAILED, attempt, error=error)
        elif state is not None:
            outcome = self._outcome_of_state(offset, attempt, state)
        else:
            outcome = self._outcome(offset, OutcomeStatus.OK, attempt, value=value)
        with self.lock:
            self.outcomes[offset] = outcome

    def _outcome_of_state(self, offset: int, attempt: int, state: State[Any]) -> Outcome:
        try:
            value = None if state.is_completed() and state.data is None else state_result(state)
        except BaseException as error:  # noqa: BLE001 - what the user's state carries is the item's error
            status = OutcomeStatus.CANCELLED if state.is_cancelled() else OutcomeStatus.FAILED
            return self._outcome(offset, status, attempt, error=error)
        return self._outcome(offset, OutcomeStatus.OK, attempt, value=value)

    def _outcome(self, offset: int, status: OutcomeStatus, attempts: int, **what: Any) -> Outcome:
        return Outcome(self.start + offset, self.items[offset], status, attempts=attempts, **what)

    def _state(self) -> State[Any]:
        if self.stop.is_set():
            self.finish(FutureCancelled("The runner was told to stop before the item began."))
        total = len(self.items)
        failed = [outcome for outcome in self.outcomes.values() if outcome.status is OutcomeStatus.FAILED]
        cancelled = sum(outcome.status is OutcomeStatus.CANCELLED for outcome in self.outcomes.values())
        counts = f"{total - len(failed) - cancelled} of {total} items done"
        if failed:
            return Failed(message=f"{counts}, {len(failed)} failed, the first with {failed[0].error!r}")
        if cancelled and self.stop.is_set():
            return Cancelled(message=f"{counts}, {cancelled} cancelled")
        return Completed(message=counts)


def _attempt(call: Callable[[Any], Any], item: Any) -> tuple[Any, BaseException | None]:
    """Call with an item in a context of its own, as a task run would have; what it raises is returned."""
    try:
        return copy_context().run(call, item), None
    except (PrefectSignal, ExternalSignal):
        raise  # Prefect's own control flow: it is about the run, not about the item.
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is this item's outcome
        return None, error


async def _attempt_async(call: Callable[[Any], Any], item: Any) -> tuple[Any, BaseException | None]:
    """As `_attempt`; returned and not raised, because asyncio lets some errors out past whoever awaits."""
    try:
        return await call(item), None
    except (PrefectSignal, ExternalSignal):
        raise  # As above.
    except BaseException as error:  # noqa: BLE001 - as above
        return None, error


def _as_state(value: Any) -> State[Any] | None:
    """The state that Prefect would make of a state, or of some states, that a task returned; None for plain data."""
    if isinstance(value, State):
        return value
    if isinstance(value, (list, tuple, set)) and is_state_iterable(value):
        return return_value_to_state(value, get_result_store())
    return None


def _timed(call: Callable[[Any], Any], seconds: float) -> Callable[[Any], Any]:
    """`timeout_seconds` per item: per chunk it would fail items that pass when they run alone."""

    def timed(item: Any) -> Any:
        with timeout(seconds, timeout_exc_type=TaskRunTimeoutError):
            return call(item)

    return timed


def _timed_async(call: Callable[[Any], Any], seconds: float) -> Callable[[Any], Any]:
    async def timed(item: Any) -> Any:
        with timeout_async(seconds, timeout_exc_type=TaskRunTimeoutError):
            return await call(item)

    return timed


class _Schedule:
    """Which item to try next: the fresh ones in order, retries as soon as they are due."""

    def __init__(self, count: int, stop: threading.Event) -> None:
        self._fresh = iter(range(count))
        self._later: list[tuple[float, int, int]] = []
        self._stop = stop

    def again(self, offset: int, attempt: int, delay_s: float) -> None:
        heapq.heappush(self._later, (time.monotonic() + delay_s, offset, attempt))

    def attempts(self) -> Iterator[tuple[int, int]]:
        while not self._stop.is_set() and (step := self._next()) is not None:
            wait_s, offset, attempt = step
            if wait_s > 0:
                self._stop.wait(wait_s)
                continue
            yield offset, attempt

    async def async_attempts(self) -> AsyncIterator[tuple[int, int]]:
        while not self._stop.is_set() and (step := self._next()) is not None:
            wait_s, offset, attempt = step
            if wait_s > 0:
                await asyncio.sleep(min(wait_s, STOP_CHECK_S))
                continue
            yield offset, attempt

    def _next(self) -> tuple[float, int, int] | None:
        """Seconds to wait, the item's offset and attempt; None when all is done."""
        if self._later and self._later[0][0] <= time.monotonic():
            _, offset, attempt = heapq.heappop(self._later)
            return 0.0, offset, attempt
        offset = next(self._fresh, -1)
        if offset >= 0:
            return 0.0, offset, 1
        if self._later:
            return max(self._later[0][0] - time.monotonic(), 0.001), -1, 0
        return None
