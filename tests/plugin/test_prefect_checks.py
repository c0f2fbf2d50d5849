"""What Prefect's own suites expect of a task runner, asked of ours."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import cloudpickle  # type: ignore[import-untyped] # it ships no types
import pytest
from prefect import flow, get_run_logger, tags, task
from prefect.assets import materialize
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import LogFilter, LogFilterTaskRunId
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import FlowRunContext, TagsContext, get_run_context
from prefect.events import emit_event
from prefect.task_runners import ThreadPoolTaskRunner

from prefect_fanout import ExecutorFuture, ExecutorTaskRunner, FanoutError, fan_out
from servers.eventually import eventually
from servers.task_runs import all_final, task_runs_of, this_flow_run_id

pytestmark = pytest.mark.usefixtures("prefect_server", "prefect_client")

# Prefect's types know little of what a mapped list holds; the tests look at the values themselves.
Runner: Any = ExecutorTaskRunner


@task
def same(x: Any) -> Any:
    """Return the argument."""
    return x


@task
async def same_async(x: Any) -> Any:
    """Return the argument, from a coroutine."""
    return x


@task
def fails(text: str) -> None:
    """Raise an error."""
    raise ValueError(text)


@task
async def fails_async(text: str) -> None:
    """Raise an error, from a coroutine."""
    raise ValueError(text)


@task
def current_tags(_: Any = None) -> set[str]:
    """The tags of the context."""
    return TagsContext.get().current_tags


@task
async def current_tags_async(_: Any = None) -> set[str]:
    """The tags of the context, from a coroutine."""
    return TagsContext.get().current_tags


@task
def total(numbers: Any) -> Any:
    """Add up."""
    return sum(numbers)


@pytest.fixture(params=[None, 2, "auto"])
def runner(request: pytest.FixtureRequest) -> Any:
    """A runner that is not started, with and without chunks."""
    return Runner(max_workers=2, chunksize=request.param)


DIFFERENT: list[Callable[[], Any]] = [
    ExecutorTaskRunner,
    lambda: Runner(max_workers=2),
    lambda: Runner(max_workers=3),
    lambda: Runner(chunksize=2),
    lambda: Runner(chunksize="auto"),
    lambda: Runner(thread_name_prefix="other"),
    lambda: Runner(initializer=print),
    lambda: Runner(initializer=print, initargs=(1,)),
    lambda: Runner(finalizer=print),
    lambda: Runner(ThreadPoolExecutor),
]


def test_a_duplicate_is_equal_and_another() -> None:
    """Runners are compared by their settings, whichever they are."""
    for position, make in enumerate(DIFFERENT):
        one = make()
        assert one.duplicate() == one
        assert one.duplicate() is not one
        assert one.duplicate().duplicate() == one
        assert repr(one.duplicate()) == repr(one)
        assert [make() == other() for other in DIFFERENT].index(True) == position
        assert one != ThreadPoolTaskRunner[Any]()


def test_a_runner_must_be_started_and_only_once(runner: Any) -> None:
    """Before and after its block it refuses work; inside, it cannot be started again."""
    with pytest.raises(RuntimeError, match="must be started"):
        runner.submit(same, {"x": 1})
    with pytest.raises(RuntimeError, match="must be started"):
        runner.map(same, {"x": [1]})
    with runner:
        assert runner.submit(same, {"x": 1}).result() == 1
        with pytest.raises(RuntimeError, match="already started"):
            runner.__enter__()
    with pytest.raises(RuntimeError, match=r"must be started|after shutdown"):
        runner.submit(same, {"x": 1})
    with runner:
        assert runner.map(same, {"x": [1, 2]}).result() == [1, 2], "it can be started anew"


@pytest.mark.parametrize("which", [same, same_async])
def test_submit_and_map_run_sync_and_async_tasks(runner: Any, which: Any) -> None:
    """In threads of the pool, with futures of ours whose ids are those of the task runs."""
    with runner:
        future = runner.submit(which, {"x": 1})
        futures = runner.map(which, {"x": [1, 2, 3]})
        assert isinstance(future, ExecutorFuture)
        assert (future.result(), futures.result()) == (1, [1, 2, 3])
        assert future.state.state_details.task_run_id == future.task_run_id
        assert all(f.state.state_details.task_run_id == f.task_run_id for f in futures)


@pytest.mark.parametrize("which", [current_tags, current_tags_async])
def test_tasks_see_the_tags_around_their_submission(runner: Any, which: Any) -> None:
    """Each submission has the tags that were current when it was made, also those that are cut later."""
    with runner:
        with tags("one"):
            first = runner.submit(which, {})
            mapped = runner.map(which, {"_": range(9)})
        with tags("two"):
            second = runner.submit(which, {})
        bare = runner.submit(which, {})
        assert [first.result(), second.result(), bare.result()] == [{"one"}, {"two"}, set()]
        assert mapped.result() == [{"one"}] * 9


def test_tags_that_a_task_sets_do_not_reach_the_next() -> None:
    """A context that a task leaves behind ends with it, in the same thread and in the same chunk."""

    @task
    def leaves_tags(x: int) -> set[str]:
        seen = set(TagsContext.get().current_tags)
        tags(f"left-{x}").__enter__()
        return seen

    with Runner(max_workers=1, chunksize=2) as runner:
        assert runner.map(leaves_tags, {"x": range(4)}).result() == [set()] * 4
        assert [runner.submit(leaves_tags, {"x": n}).result() for n in range(2)] == [set()] * 2


def test_submit_does_not_block() -> None:
    """More is submitted than there are workers, while they are all held."""
    release = threading.Event()

    @task
    def hold(x: int) -> int:
        assert release.wait(30)
        return x

    with Runner(max_workers=1) as runner:
        futures = [runner.submit(hold, {"x": n}) for n in range(5)]
        futures += runner.map(hold, {"x": range(5, 8)})
        assert not any(future.done() for future in futures)
        release.set()
        assert [future.result() for future in futures] == list(range(8))


def test_futures_are_resolved_as_parameters(runner: Any) -> None:
    """Alone, in a list, and a whole mapped list."""

    @flow(task_runner=runner)
    def resolves() -> list[int]:
        ones = [same.submit(1), same.submit(2)]
        mapped = same.map([1, 2, 3])
        sums = [total.submit(ones), total.submit(mapped), total.submit([mapped[0], 10])]
        return [*(s.result() for s in sums), same.submit(sums[0]).result(), sum(same.map(mapped).result())]

    assert resolves() == [3, 6, 11, 3, 6]


def test_a_flow_may_return_its_mapped_futures(runner: Any) -> None:
    """Prefect turns them into states; a failed one fails the flow run."""

    @flow(task_runner=runner)
    def returns(values: list[Any]) -> Any:
        return same.map(values) if all(values) else [*same.map([1]), fails.submit("no")]

    states: Any = returns([1, 2, 3])
    assert [state.result() for state in states] == [1, 2, 3]
    failed: Any = returns([0], return_state=True)
    assert failed.is_failed()


def test_wait_for_orders_tasks_that_share_no_data(runner: Any) -> None:
    """What waits runs after what it waits for; a single future, a list, and a mapped list are taken."""
    order: list[str] = []

    def append(text: str) -> None:
        order.append(text)

    note: Any = task(append)

    @flow(task_runner=runner)
    def ordered() -> int:
        first: Any = note.submit("first")
        second: Any = note.submit("second", wait_for=first)
        third: Any = note.map(["third"], wait_for=[second])
        note.submit("fourth", wait_for=third).wait()
        return 1

    ordered()
    assert order == ["first", "second", "third", "fourth"]


def test_what_waits_for_a_failure_is_not_ready(runner: Any) -> None:
    """The states of a failing flow are those that Prefect's own runner gives, down to the messages."""
    waits: Any = same

    def states_on(task_runner: Any) -> list[Any]:
        @flow(task_runner=task_runner)
        def failing() -> Any:
            a: Any = fails.submit("a fails")
            b = waits.submit(1, wait_for=[a])
            c = same.submit(a)
            d = same.submit([c])
            e = same_async.submit(2)
            return [a, b, c, d, e]

        state: Any = failing(return_state=True)
        assert state.is_failed()
        inner: list[State[Any]] = state.result(raise_on_failure=False)
        ids = {str(one.state_details.task_run_id): letter for one, letter in zip(inner, "abcde", strict=True)}
        return [(one.type, one.name, named(one.message, ids)) for one in inner]

    ours = states_on(runner)
    assert ours == states_on(ThreadPoolTaskRunner[Any]())
    assert [name for _, name, _ in ours] == ["Failed", "NotReady", "NotReady", "NotReady", "Completed"]


def named(message: str | None, ids: dict[str, str]) -> str | None:
    """A message with letters for ids."""
    for found, letter in ids.items():
        message = message and message.replace(found, letter)
    return message


@pytest.mark.parametrize("which", [fails, fails_async])
def test_the_error_of_a_task_comes_out(runner: Any, which: Any) -> None:
    """Of submit and of map, with its own type and text."""
    with runner:
        for future in (runner.submit(which, {"text": "oh"}), *runner.map(which, {"text": ["oh", "oh"]})):
            with pytest.raises(ValueError, match=r"^oh$"):
                future.result()
            assert future.state.message == "Task run encountered an exception ValueError: oh"


@pytest.mark.parametrize("isasync", [False, True])
def test_a_task_that_times_out_fails_and_only_its_dependents_with_it(isasync: bool) -> None:
    """The late one is TimedOut, what needs it NotReady, what does not Completed."""

    @task(timeout_seconds=0.2)
    async def late_async() -> None:
        await asyncio.Event().wait()

    @task(timeout_seconds=0.2)
    def late() -> None:
        while True:
            threading.Event().wait(0.01)

    @flow(task_runner=Runner(max_workers=2))
    def times_out() -> Any:
        first = (late_async if isasync else late).submit()
        return first, same.submit(first), same.submit(1)

    state: Any = times_out(return_state=True)
    assert [one.name for one in state.result(raise_on_failure=False)] == ["TimedOut", "NotReady", "Completed"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_in_a_task_is_a_crash_and_the_pool_lives_on(error: type[BaseException]) -> None:
    """`wait` does not raise it, the state here and on the server is Crashed, and the worker runs the next task."""
    ids: list[UUID] = []

    @task
    def interrupted() -> None:
        raise error

    @flow(task_runner=Runner(max_workers=1))
    def goes_on() -> tuple[bool, int]:
        ids.append(this_flow_run_id())
        future = interrupted.submit()
        future.wait()
        return future.state.is_crashed(), same.submit(1).result()

    assert goes_on() == (True, 1)
    runs = eventually(lambda: task_runs_of(ids[0]), lambda found: all_final(found, 2))
    assert sorted(str(run.state_name) for run in runs) == ["Completed", "Crashed"]


def test_a_subflow_uses_its_own_runner() -> None:
    """Two runners side by side: each flow's tasks run in its own threads, also a subflow that a task calls."""

    @task
    def where() -> str:
        return threading.current_thread().name.partition("_")[0]

    @task
    def where_again(_: int) -> str:
        return str(where.fn())

    @flow(task_runner=Runner(max_workers=1, thread_name_prefix="inner"))
    def inner() -> list[str]:
        return [where.submit().result(), *(outcome.value for outcome in fan_out(where_again, [1]))]

    @task
    def calls_inner() -> list[str]:
        return list(inner())

    @flow(task_runner=Runner(max_workers=1, thread_name_prefix="outer"))
    def outer() -> list[Any]:
        return [where.submit().result(), inner(), calls_inner.submit().result(), where.submit().result()]

    assert outer() == ["outer", ["inner", "inner"], ["inner", "inner"], "outer"]


@pytest.mark.parametrize("workers", [1, 2, None])
def test_tasks_that_submit_themselves_go_deep(workers: int | None) -> None:
    """Thirty-three levels, as in Prefect's own suite, with any number of workers."""

    @task
    def down(level: int) -> int:
        return level if level == 0 else int(down.submit(level - 1).result()) + 1

    @flow(task_runner=Runner(max_workers=workers))
    def deep() -> int:
        return int(down.submit(33).result())

    assert deep() == 33


def test_async_flows_and_nested_async_tasks() -> None:
    """In an async flow, tasks submit tasks of both kinds and wait for them, with one worker."""

    @task
    async def nests() -> list[Any]:
        mapped: Any = same_async.map([3, 4])
        return [same.submit(1).result(), same_async.submit(2).result(), *mapped.result()]

    @flow(task_runner=Runner(max_workers=1, chunksize=2))
    async def main() -> list[Any]:
        mapped: Any = same_async.map(range(3))
        nested: Any = nests.submit()
        return [*nested.result(), *mapped.result()]

    assert asyncio.run(main()) == [1, 2, 3, 4, 0, 1, 2]


@dataclass
class Point:
    x: int
    y: Any


def test_dataclasses_go_in_and_come_out(runner: Any) -> None:
    """As they are, and with futures inside resolved."""
    points = [Point(n, [n]) for n in range(5)]
    with runner:
        assert runner.map(same, {"x": points}).result() == points
        nested = runner.submit(same, {"x": Point(1, runner.submit(same, {"x": 2}))})
        assert nested.result() == Point(1, 2)


def test_fifty_tasks_one_after_another_and_at_once() -> None:
    """Many small submissions, with default settings, all known to the server in the end."""
    ids: list[UUID] = []

    @flow(task_runner=Runner)  # the class itself: Prefect makes the instance
    def many() -> int:
        ids.append(this_flow_run_id())
        assert [future.result() for future in [same.submit(n) for n in range(50)]] == list(range(50))
        return 1

    many()
    assert len(eventually(lambda: task_runs_of(ids[0]), lambda found: all_final(found, 50))) == 50


def test_two_runs_of_one_flow_at_once_do_not_meet() -> None:
    """Each has its own duplicate of the runner: threads, counts and futures are its own."""
    both = threading.Barrier(2)

    @flow(task_runner=Runner(max_workers=1))
    def twin(number: int) -> tuple[list[int], int]:
        both.wait(30)
        values = [future.result() for future in [same.submit(number * 10 + n) for n in range(3)]]
        context = FlowRunContext.get()
        assert context is not None
        assert isinstance(context.task_runner, ExecutorTaskRunner)
        return values, context.task_runner.statistics().completed

    with ThreadPoolExecutor(2) as executor:
        runs = [executor.submit(copy_context().run, twin, number) for number in (1, 2)]
        assert [run.result() for run in runs] == [([10, 11, 12], 3), ([20, 21, 22], 3)]
    assert repr(twin.task_runner).endswith("not started>")


def test_a_flow_that_is_retried_starts_its_runner_anew() -> None:
    """What the first attempt left behind is cancelled; the second runs on a fresh pool."""
    attempts: list[Any] = []

    @flow(task_runner=Runner(max_workers=1, chunksize=2), retries=1)
    def second_time() -> list[int]:
        attempts.append(same.map([1, 2, 3]))
        if len(attempts) == 1:
            raise ValueError("once")
        return list(attempts[-1].result())

    assert second_time() == [1, 2, 3]
    assert all(future.done() for futures in attempts for future in futures)


def test_results_that_cannot_be_pickled_stay_in_the_process(runner: Any) -> None:
    """Threads hand over anything, a lock too; where the result is to be stored, the error comes out as on stock."""
    lock = threading.Lock()

    @task
    def give_lock(_: int) -> Any:
        return lock

    with runner:
        assert runner.map(give_lock, {"_": [1, 2]}).result() == [lock, lock]
        assert runner.submit(give_lock, {"_": 1}).result() is lock
    answers = []
    for other in (ThreadPoolTaskRunner[Any](), Runner()):
        with other:
            future = other.submit(give_lock.with_options(persist_result=True), {"_": 1})
            future.wait()
            answers.append((future.state.type, future.state.name, future.result(raise_on_failure=False) is lock))
    assert answers[0] == answers[1]


@pytest.mark.parametrize("chunksize", [None, 2])
def test_a_pickled_flow_runs_on_an_equal_runner(chunksize: int | None) -> None:
    """Deployments and remote workers get a copy of the flow; a started or used runner is no obstacle."""

    @flow(task_runner=Runner(max_workers=1, chunksize=chunksize))
    def pickled() -> list[int]:
        context = FlowRunContext.get()
        assert context is not None
        again = cloudpickle.loads(cloudpickle.dumps(context.task_runner))
        assert again == context.task_runner
        with again:
            assert again.map(same, {"x": [4, 5]}).result() == [4, 5]
        return list(same.map([1, 2, 3]).result())

    assert pickled() == [1, 2, 3]
    copy = cloudpickle.loads(cloudpickle.dumps(pickled))
    assert copy.task_runner == pickled.task_runner
    assert copy() == [1, 2, 3]


def test_a_pickled_runner_with_a_live_executor_says_that_it_stayed_behind() -> None:
    """The copy can be looked at; using it fails with what to do instead."""
    with ThreadPoolExecutor(1) as executor:
        copy = cloudpickle.loads(cloudpickle.dumps(Runner(executor)))
    assert "not started" in repr(copy)
    with copy:
        future = copy.submit(same, {"x": 1})
        with pytest.raises(FanoutError, match="pass a factory"):
            future.result()


# -- what the server gets ----------------------------------------------------------------------------------------


def events_of(prefix: str, resource: str) -> list[dict[str, Any]]:
    """The events of a kind that are about, or related to, a resource."""
    with get_client(sync_client=True) as client:
        criteria = {"event": {"prefix": [prefix]}, "any_resource": {"id": [resource]}}
        found: list[dict[str, Any]] = client.request("POST", "/events/filter", json={"filter": criteria}).json()[
            "events"
        ]
        return found


@pytest.mark.parametrize("chunksize", [None, 2])
def test_events_and_logs_of_a_task_carry_its_runs(chunksize: int | None) -> None:
    """An event names the flow run and the task run as related, and a log line belongs to the task run."""
    ids: list[UUID] = []
    runs: list[UUID] = []

    @task
    def tells(x: int) -> None:
        context = get_run_context()
        assert isinstance(context.task_run, TaskRun)  # type: ignore[union-attr] # a task's context has it
        runs.append(context.task_run.id)  # type: ignore[union-attr] # as above
        get_run_logger().info("told %s", x)
        emit_event(f"told.{x}", resource={"prefect.resource.id": f"told.{ids[0]}"})

    @flow(task_runner=Runner(max_workers=1, chunksize=chunksize))
    def telling() -> None:
        ids.append(this_flow_run_id())
        tells.map([0, 1]).wait()

    telling()
    events = eventually(lambda: events_of("told.", f"told.{ids[0]}"), lambda found: len(found) == 2)
    related = {event["event"]: {one["prefect.resource.id"] for one in event["related"]} for event in events}
    for n in (0, 1):
        assert {f"prefect.flow-run.{ids[0]}", f"prefect.task-run.{runs[n]}"} <= related[f"told.{n}"]

    def logged() -> list[str]:
        with get_client(sync_client=True) as client:
            chosen = LogFilter(task_run_id=LogFilterTaskRunId(any_=runs))
            return sorted(
                log.message for log in client.read_logs(chosen, limit=200, offset=0) if log.message.startswith("told")
            )

    assert eventually(logged, lambda lines: len(lines) == 2) == ["told 0", "told 1"]


@pytest.mark.parametrize("chunksize", [None, 2])
def test_assets_are_materialized_with_their_upstream(chunksize: int | None) -> None:
    """A downstream asset refers to the upstream one: lineage goes through submit and through map."""
    up, down = f"test://up/{chunksize}", f"test://down/{chunksize}"

    @materialize(up)
    def makes_up() -> int:
        return 1

    @materialize(down)
    def makes_down(x: int, y: int) -> int:
        return x + y

    @flow(task_runner=Runner(max_workers=1, chunksize=chunksize))
    def lineage() -> list[int]:
        return list(makes_down.map([1, 2], makes_up.submit()).result())

    assert lineage() == [2, 3]
    expected = 1 if chunksize else 2
    found = eventually(
        lambda: [event for event in events_of("prefect.asset.materialization", down) if event["resource"]],
        lambda events: len(events) >= expected,
    )
    made = [event for event in found if event["resource"]["prefect.resource.id"] == down]
    assert len(made) == expected
    for event in made:
        assert up in {one["prefect.resource.id"] for one in event["related"]}
