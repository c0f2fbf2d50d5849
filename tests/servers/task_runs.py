"""What the Prefect API knows of a flow run's task runs."""

from __future__ import annotations

from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import TaskRun
from prefect.client.schemas.sorting import TaskRunSort
from prefect.context import FlowRunContext


def task_runs_of(flow_run_id: UUID) -> list[TaskRun]:
    """The task runs of a flow run, by name; at most 200, the API's page."""
    with get_client(sync_client=True) as client:
        chosen = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run_id]))
        return client.read_task_runs(flow_run_filter=chosen, sort=TaskRunSort.NAME_ASC, limit=200)


def this_flow_run_id() -> UUID:
    """The id of the flow run that calls this."""
    context = FlowRunContext.get()
    assert context is not None
    assert context.flow_run is not None
    return context.flow_run.id


def all_final(runs: list[TaskRun], count: int) -> bool:
    """Whether the API has `count` task runs, each in a final state."""
    return len(runs) == count and all(run.state is not None and run.state.is_final() for run in runs)
