"""Retries and timeouts inside a chunk are each item's own, and what Prefect's engine does with one item alone."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from typing import Any

import pytest
from prefect import task
from prefect.client.schemas.objects import State
from prefect.futures import PrefectFuture
from prefect.states import Failed
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner
from prefect.tasks import Task

from prefect_fanout import ExecutorTaskRunner, Outcome, fan_out
from prefect_fanout._retry import RetryPolicy

pytestmark = pytest.mark.usefixtures("prefect_server", "prefect_client")

# Prefect's types know little of what a mapped list holds; the tests look at the values themselves.
Runner: Any = ExecutorTaskRunner

CHUNKSIZES = [None, 1, 2, 5]
RUN: Any = None  # the task run that RetryPolicy hands on to a retry_condition_fn


class Flaky:
    """A task that fails `x` times for item `x`, and counts its tries."""

    def __init__(self, *, isasync: bool, state: bool = False, **options: Any) -> None:
        self.tries = Counter[int]()
        self.order: list[int] = []

        def attempt(x: int) -> Any:
            self.tries[x] += 1
            self.order.append(x)
            if self.tries[x] <= x:
                error = ValueError(f"{x}, try {self.tries[x]}")
                if state:
                    return Failed(data=error)
                raise error
            return x

        async def attempt_async(x: int) -> Any:
            return attempt(x)

        self.task: Task[..., Any] = Task(attempt_async if isasync else attempt, **options)


def ended(futures: list[PrefectFuture[Any]]) -> list[Any]:
    """How each item ended, in words."""
    for future in futures:
        future.wait()
    return [(f.state.name, *type_and_text(f.result(raise_on_failure=False))) for f in futures]


def type_and_text(value: Any) -> tuple[str, str]:
    """What a result is, in words."""
    return type(value).__name__, str(value)


def tried_on(runner: TaskRunner[Any], **options: Any) -> tuple[Any, Any]:
    """How the items of `Flaky` ended on a runner, and how often each was tried."""
    flaky = Flaky(**options)
    with runner:
        return ended(runner.map(flaky.task, {"x": range(4)})), flaky.tries


def same_on_stock_and_on_ours(**options: Any) -> Counter[int]:
    """How often each item is tried, once it is sure that Prefect's runner and ours give the same at every size."""
    stock = tried_on(ThreadPoolTaskRunner[Any](), **options)
    for chunksize in CHUNKSIZES:
        assert tried_on(Runner(max_workers=2, chunksize=chunksize), **options) == stock, chunksize
    tries: Counter[int] = stock[1]
    return tries


@pytest.mark.parametrize("isasync", [False, True])
@pytest.mark.parametrize("state", [False, True])
@pytest.mark.parametrize("retries", [0, 1, 3])
def test_each_item_is_retried_as_it_would_be_alone(retries: int, state: bool, isasync: bool) -> None:
    """Items that need no more tries than they have succeed, the others fail with their last error."""
    tries = same_on_stock_and_on_ours(isasync=isasync, state=state, retries=retries)
    assert tries == {n: min(n, retries) + 1 for n in range(4)}


def identity(x: Any) -> Any:
    """Nothing to do."""
    return x


async def wants_async(task_: Any, run: Any, state: State[Any]) -> bool:
    """As `wants`, from a coroutine."""
    return wants(task_, run, state)


def wants(task_: Any, run: Any, state: State[Any]) -> bool:
    """Only item 3 is worth another try."""
    assert run.id
    return str(state.data).startswith("3")


def breaks(task_: Any, run: Any, state: State[Any]) -> bool:
    """A condition with a fault of its own."""
    raise RuntimeError("a condition with a fault")


@pytest.mark.parametrize("isasync", [False, True])
@pytest.mark.parametrize(("condition", "expected"), [(wants, 4), (wants_async, 4), (breaks, 1)])
def test_the_retry_condition_decides_for_each_item(condition: Any, expected: int, isasync: bool) -> None:
    """Only the items it chooses are tried again; one that raises counts as no."""
    tries = same_on_stock_and_on_ours(isasync=isasync, retries=5, retry_condition_fn=condition)
    assert tries == {0: 1, 1: 1, 2: 1, 3: expected}


@pytest.mark.parametrize("isasync", [False, True])
def test_an_item_that_waits_for_its_retry_lets_the_others_go_first(isasync: bool) -> None:
    """The delay of one item is the time of the others, not time lost."""
    flaky = Flaky(isasync=isasync, retries=1, retry_delay_seconds=1)
    with Runner(max_workers=1, chunksize=4) as runner:
        assert ended(runner.map(flaky.task, {"x": [1, 0, 0, 0]}))[0][0] == "Completed"
    assert flaky.order == [1, 0, 0, 0, 1]


@pytest.mark.parametrize("isasync", [False, True])
def test_outcomes_say_how_often_an_item_was_tried(isasync: bool) -> None:
    """`attempts` counts the tries of one item, whether it ended well or not."""
    flaky = Flaky(isasync=isasync, retries=2)
    with Runner(max_workers=1) as runner:
        outcomes: list[Outcome] = list(fan_out(flaky.task, range(5), chunksize=5, runner=runner))
    assert [(o.index, o.ok, o.attempts) for o in outcomes] == [
        (0, True, 1),
        (1, True, 2),
        (2, True, 3),
        (3, False, 3),
        (4, False, 3),
    ]


@pytest.mark.parametrize("isasync", [False, True])
def test_a_chunk_told_to_stop_does_not_wait_for_retries(isasync: bool) -> None:
    """An item that waits a minute for its retry is cancelled at once when the runner is told to cancel."""
    flaky = Flaky(isasync=isasync, retries=1, retry_delay_seconds=60)
    tried = threading.Event()
    notes = Task(lambda x: tried.set(), name="notes")
    with Runner(max_workers=2, chunksize=2) as runner:
        futures = runner.map(flaky.task, {"x": [1, 0]})
        while flaky.tries[0] == 0:
            runner.submit(notes, {"x": 0}).result()
        runner.cancel_all()
        futures.wait()
    assert [future.state.name for future in futures] == ["Cancelled", "Completed"]
    assert flaky.tries == {1: 1, 0: 1}


@pytest.mark.parametrize(
    ("delay", "expected"),
    [
        (0, [0.0, 0.0, 0.0, None]),
        (2, [2.0, 2.0, 2.0, None]),
        ([1, 5], [1.0, 5.0, 5.0, None]),
        ([1, 2, 3], [1.0, 2.0, 3.0, None]),
        (lambda retries: [10 * (n + 1) for n in range(retries)], [10.0, 20.0, 30.0, None]),
    ],
)
def test_delays_follow_the_tasks_list_and_repeat_its_last(delay: Any, expected: list[float | None]) -> None:
    """The n-th retry waits the n-th delay; there is none after the last retry."""
    policy = RetryPolicy(Task(identity, name="delayed", retries=3, retry_delay_seconds=delay))
    assert [policy.delay_s(attempt, ValueError(), RUN) for attempt in (1, 2, 3, 4)] == expected


def test_jitter_spreads_the_delay_within_its_bounds() -> None:
    """With a factor f the delay is random, and at most (1 + f) times what was asked for."""
    policy = RetryPolicy(Task(identity, name="spread", retries=1, retry_delay_seconds=10, retry_jitter_factor=0.5))
    delays = [policy.delay_s(1, ValueError(), RUN) for _ in range(50)]
    assert all(delay is not None and 0 <= delay <= 15 for delay in delays)
    assert len(set(delays)) > 1


@pytest.mark.parametrize("chunksize", CHUNKSIZES)
def test_an_async_timeout_ends_only_the_item_that_is_late(chunksize: Any) -> None:
    """As with Prefect's runner: TimedOut for the late item, and its chunk goes on."""

    @task(timeout_seconds=0.2)
    async def stuck_on_two(x: int) -> int:
        if x == 2:
            await asyncio.Event().wait()
        return x

    assert_timed_out_at_two(stuck_on_two, chunksize)


@pytest.mark.parametrize("chunksize", CHUNKSIZES)
def test_a_sync_timeout_ends_only_the_item_that_is_late(chunksize: Any) -> None:
    """In a thread, Python code that is late is interrupted between two steps; the chunk goes on."""

    @task(timeout_seconds=0.2)
    def stuck_on_two(x: int) -> int:
        while x == 2:
            threading.Event().wait(0.01)
        return x

    assert_timed_out_at_two(stuck_on_two, chunksize)


def assert_timed_out_at_two(stuck_on_two: Task[..., Any], chunksize: Any) -> None:
    """Item 2 of five is TimedOut, the others are Completed."""
    with Runner(max_workers=1, chunksize=chunksize) as runner:
        futures = runner.map(stuck_on_two, {"x": range(5)})
        futures.wait()
    assert [future.state.name for future in futures] == ["Completed"] * 2 + ["TimedOut"] + ["Completed"] * 2
    with pytest.raises(TimeoutError):
        futures[2].result()


def test_an_item_that_times_out_is_retried() -> None:
    """A timeout is a failure like any other."""
    tries = Counter[int]()

    @task(timeout_seconds=0.2, retries=1)
    async def slow_at_first(x: int) -> int:
        tries[x] += 1
        if tries[x] == 1:
            await asyncio.Event().wait()
        return x

    with Runner(max_workers=1, chunksize=3) as runner:
        assert runner.map(slow_at_first, {"x": range(3)}).result() == [0, 1, 2]
