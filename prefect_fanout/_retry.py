"""Per-item retries: what a Prefect task says about retries, applied to one item of a chunk."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from prefect.client.schemas.objects import State, TaskRun
from prefect.logging.loggers import get_logger
from prefect.states import Failed
from prefect.tasks import Task
from prefect.utilities.asyncutils import run_coro_as_sync
from prefect.utilities.math import clamped_poisson_interval

logger = get_logger("fanout.retry")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """The retry settings of a task, read once per chunk."""

    task: Task[..., Any]

    def delay_s(self, attempt: int, failure: BaseException | State[Any], task_run: TaskRun) -> float | None:
        """Seconds to wait before the next attempt, or None when there is none.

        Args:
            attempt: How often the item has been tried, from 1.
            failure: What the last attempt raised, or the failed state it returned.
            task_run: The chunk's task run, handed to the user's `retry_condition_fn`.

        Source: the rules are those of Prefect's task engine, so that chunking changes no outcome.
        """
        if attempt > self.task.retries or not self._wanted(failure, task_run):
            return None
        delays: Any = self.task.retry_delay_seconds  # a number or a sequence, though annotated as the latter
        if not delays:
            return 0.0
        delay = float(delays[min(attempt, len(delays)) - 1] if isinstance(delays, Sequence) else delays)
        if self.task.retry_jitter_factor and delay > 0:
            return clamped_poisson_interval(delay, clamping_factor=self.task.retry_jitter_factor)
        return delay

    def _wanted(self, failure: BaseException | State[Any], task_run: TaskRun) -> bool:
        condition = self.task.retry_condition_fn
        if condition is None:
            return True
        state = failure if isinstance(failure, State) else Failed(data=failure, message=f"The item failed: {failure!r}")
        try:
            answer: Any = condition(self.task, task_run, state)
            if inspect.isawaitable(answer):
                answer = run_coro_as_sync(_value_of(answer))
            return bool(answer)
        except Exception:
            # As in Prefect: a condition that cannot be evaluated is reported and counts as "no".
            logger.exception(
                "The retry_condition_fn of task %r raised an error, so the item is not retried.", self.task.name
            )
            return False


async def _value_of(awaitable: Any) -> Any:
    return await awaitable
