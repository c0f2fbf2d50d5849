"""The parts of Prefect that carry no promise of stability, in one place: what to look at when Prefect moves."""

from __future__ import annotations

import threading
from contextvars import Context, copy_context
from typing import Any

from prefect._flow_run_suspension import raise_if_flow_run_suspension_requested
from prefect._internal.result_records import ResultRecord, ResultRecordMetadata
from prefect._internal.states import return_value_to_state_sync
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import SyncClientContext
from prefect.task_engine import _create_task_run_locally, run_task_async, run_task_sync
from prefect.utilities.engine import emit_task_run_state_change_event

create_task_run = _create_task_run_locally
return_value_to_state = return_value_to_state_sync

__all__ = [
    "SharedClient",
    "create_task_run",
    "emit_task_run_state_change_event",
    "raise_if_flow_run_suspension_requested",
    "record_state",
    "result_data",
    "return_value_to_state",
    "run_task_async",
    "run_task_sync",
    "state_result",
]


def state_result(state: State[Any], raise_on_failure: bool = True) -> Any:
    """What a state holds; `_sync` because Prefect would return a coroutine wherever an event loop runs."""
    error = state.data.result if isinstance(state.data, ResultRecord) else state.data
    if isinstance(error, BaseException) and not isinstance(error, Exception):
        # Prefect raises on an event loop of its own, in a thread that an interrupt or an exit would end for good.
        if raise_on_failure and not state.is_completed():
            raise error
        return error
    return state.result(raise_on_failure=raise_on_failure, _sync=True)  # type: ignore[call-overload] # not in the overloads


def result_data(value: Any) -> ResultRecord[Any]:
    """A value as the data of a Completed state: bare, a None would read as a missing result."""
    return ResultRecord(result=value, metadata=ResultRecordMetadata())


def record_state(task_run: TaskRun, state: State[Any]) -> None:
    """Put a task run into a state as the engine does, without telling the API."""
    state.state_details.task_run_id = task_run.id
    state.state_details.flow_run_id = task_run.flow_run_id
    task_run.state = state
    task_run.state_id, task_run.state_type, task_run.state_name = state.id, state.type, state.name
    if state.is_final():
        task_run.end_time = state.timestamp  # type: ignore[assignment] # both are aware datetimes at run time


class SharedClient:
    """One API client for the task runs of a runner that is used outside a flow run.

    Each of them would make its own there, which costs 30 ms of TLS setup. In a flow run they share the flow's, and
    this makes none.

    Mutable state: `_home` and `_shared`, guarded by `_lock`.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._home: Context | None = None  # where the client's context was entered, and has to be left
        self._shared: SyncClientContext | None = None

    def context(self) -> Context:
        """A copy of the calling context that has a client."""
        context = copy_context()
        if SyncClientContext.get() is None:
            context.run(SyncClientContext.__var__.set, self._opened())
        return context

    def close(self) -> None:
        """Close the client; no task run may use it any more."""
        with self._lock:
            home, shared, self._home, self._shared = self._home, self._shared, None, None
        if home is not None and shared is not None:
            home.run(shared.__exit__, None, None, None)

    def _opened(self) -> SyncClientContext:
        with self._lock:
            if self._shared is None:
                shared, home = SyncClientContext(), copy_context()
                home.run(shared.__enter__)
                self._shared, self._home = shared, home
            return self._shared
