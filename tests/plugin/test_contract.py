"""The contract: the nine promises at the top of `_runner.py`, kept on every executor.

An executor joins by one line in EXECUTORS.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from prefect import flow, task

from prefect_fanout import ExecutorTaskRunner, Outcome, fan_out
from servers.eventually import eventually
from servers.inline_executor import InlineExecutor
from servers.prefect_server import PrefectServer
from servers.task_runs import all_final, task_runs_of, this_flow_run_id

pytestmark = pytest.mark.usefixtures("prefect_server")

EXECUTORS: dict[str, Callable[..., ExecutorTaskRunner]] = {
    "thread": lambda workers=2, **settings: ExecutorTaskRunner("thread", max_workers=workers, **settings),
    "factory": lambda workers=2, **settings: ExecutorTaskRunner(lambda: ThreadPoolExecutor(workers), **settings),
    "live": lambda workers=2, **settings: ExecutorTaskRunner(ThreadPoolExecutor(workers), **settings),
    "inline": lambda workers=1, **settings: ExecutorTaskRunner(InlineExecutor, **settings),
}
# An inline executor has no queue: what needs one to be seen does not apply to it.
CONCURRENT = [name for name in EXECUTORS if name != "inline"]

MakeRunner = Callable[..., ExecutorTaskRunner]


@pytest.fixture(params=EXECUTORS)
def make_runner(request: pytest.FixtureRequest) -> MakeRunner:
    """Each executor in turn."""
    return EXECUTORS[request.param]


@pytest.fixture(params=CONCURRENT)
def make_concurrent(request: pytest.FixtureRequest) -> MakeRunner:
    """Each executor that has workers beside the caller."""
    return EXECUTORS[request.param]


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_at_most_max_workers_tasks_run_at_once(make_concurrent: MakeRunner, workers: int) -> None:
    """Promise 1: as many tasks as there are workers meet at a barrier, and never one more."""
    lock, now, most = threading.Lock(), Counter[str](), Counter[str]()
    together = threading.Barrier(workers)

    @task
    def meet(_: int) -> None:
        with lock:
            now["running"] += 1
            most["running"] = max(most["running"], now["running"])
        together.wait(30)
        with lock:
            now["running"] -= 1

    @flow(task_runner=make_concurrent(workers))
    def crowd() -> None:
        meet.map(range(workers * 3)).result()

    crowd()
    assert most["running"] == workers


def test_a_task_that_waits_for_upstream_futures_holds_no_worker(make_concurrent: MakeRunner) -> None:
    """Promise 2: with one worker, what comes after a long chain of dependants runs before the chain is done."""
    free = threading.Event()

    @task
    def gate() -> int:
        assert free.wait(30)
        return 1

    @task
    def after(x: int) -> int:
        return x + 1

    @task
    def opens() -> str:
        free.set()
        return "ran"

    @flow(task_runner=make_concurrent(2))
    def chain() -> tuple[int, str]:
        last = first = gate.submit()
        dependants = [after.submit(first) for _ in range(10)]
        last = dependants[-1]
        return last.result() if opens.submit().result() else 0, "ran"

    assert chain() == (2, "ran")


@pytest.mark.parametrize("depth", [1, 2, 40])
def test_a_task_that_waits_for_its_own_runner_cannot_deadlock(make_runner: MakeRunner, depth: int) -> None:
    """Promise 3: tasks that submit tasks and wait for them complete with one worker, however deep."""

    @task
    def nest(level: int) -> int:
        return 0 if level == 0 else 1 + int(nest.submit(level - 1).result())

    @flow(task_runner=make_runner(1))
    def nesting() -> int:
        return int(nest.submit(depth).result())

    assert nesting() == depth


def test_a_waiting_worker_runs_what_is_upstream_of_what_it_waits_for(make_concurrent: MakeRunner) -> None:
    """Promise 3: a worker that waits for the end of a chain runs the chain itself."""

    @task
    def add(x: int, y: int) -> int:
        return x + y

    @task
    def waits() -> int:
        first = add.submit(1, 1)
        second = add.submit(first, 1)  # type: ignore[arg-type] # Prefect resolves the future
        return int(add.submit(second, 1).result())  # type: ignore[arg-type] # as above

    @flow(task_runner=make_concurrent(1))
    def waiting() -> int:
        return int(waits.submit().result())

    assert waiting() == 4


def test_two_workers_that_wait_for_each_others_queue_both_finish(make_concurrent: MakeRunner) -> None:
    """Promise 3: a job that becomes ready while every worker waits is run by the one that waits for it."""
    second_is_waiting = threading.Event()

    @task
    def slow() -> int:
        assert second_is_waiting.wait(30)
        return 1

    @task
    def increment(x: int) -> int:
        return x + 1

    @task
    def holds(future: Any) -> int:
        return int(future().result())

    @flow(task_runner=make_concurrent(2))
    def tangle() -> list[int]:
        gate = slow.submit()
        last = increment.submit(increment.submit(gate))  # type: ignore[arg-type] # Prefect resolves futures
        a = holds.submit(lambda: last)
        second_is_waiting.set()
        return [a.result(), last.result()]

    assert tangle() == [3, 3]


@pytest.mark.parametrize("count", [0, 1, 2, 57])
@pytest.mark.parametrize("chunksize", [1, 2, 10, "auto"])
def test_every_item_yields_exactly_one_outcome(make_runner: MakeRunner, count: int, chunksize: Any) -> None:
    """Promise 4: each index comes out once, with its value or its own error."""

    @task
    def odd_ones_fail(x: int) -> int:
        if x % 2:
            raise ValueError(f"odd {x}")
        return x * 10

    @flow(task_runner=make_runner())
    def stream() -> list[Outcome]:
        return list(fan_out(odd_ones_fail, range(count), chunksize=chunksize))

    outcomes = run_and_return(stream)
    assert sorted(o.index for o in outcomes) == list(range(count))
    for outcome in outcomes:
        assert outcome.item == outcome.index
        assert outcome.ok == (outcome.index % 2 == 0)
        assert outcome.value == (outcome.index * 10 if outcome.ok else None)
        assert str(outcome.error) == (str(None) if outcome.ok else f"odd {outcome.index}")


def run_and_return(flow_: Any) -> Any:
    """Run a flow and hand its return value out unchanged, whatever states Prefect would read from it."""
    kept: list[Any] = []

    def keep() -> None:
        kept.append(flow_.fn())

    flow(task_runner=flow_.task_runner)(keep)()
    return kept[0]


@pytest.mark.parametrize("chunksize", [None, 1, 3, 7, 8, 100, "auto"])
def test_chunk_size_changes_only_the_number_of_task_runs(make_runner: MakeRunner, chunksize: Any) -> None:
    """Promise 5: results keep their order and their items whatever the chunk size."""

    @task
    def square(x: int) -> int:
        return x * x

    @flow(task_runner=make_runner(chunksize=chunksize))
    def squares() -> list[int]:
        return list(square.map(range(7)).result())

    assert squares() == [x * x for x in range(7)]


@pytest.mark.parametrize(("in_flight", "chunksize"), [(1, 1), (2, 1), (2, 3), (5, 4)])
def test_input_is_read_lazily(make_runner: MakeRunner, in_flight: int, chunksize: int) -> None:
    """Promise 6: an endless input is never read further ahead than the window."""
    read = 0
    ahead = 0

    def endless() -> Iterator[int]:
        nonlocal read
        while True:
            read += 1
            yield read

    @task
    def same(x: int) -> int:
        return x

    @flow(task_runner=make_runner())
    def take_some() -> None:
        nonlocal ahead
        stream = fan_out(same, endless(), chunksize=chunksize, in_flight=in_flight)
        for consumed in range(1, 41):
            next(stream)
            ahead = max(ahead, read - consumed + 1)
        stream.close()

    take_some()
    assert 0 < ahead <= in_flight * chunksize


def test_api_traffic_grows_with_chunks_not_items(make_runner: MakeRunner, prefect_server: PrefectServer) -> None:
    """Promise 7: a hundred items in chunks of 25 are four task runs, named after their items."""

    @task
    def same(x: int) -> int:
        return x

    ids: list[Any] = []

    @flow(task_runner=make_runner(chunksize=25))
    def few() -> None:
        ids.append(this_flow_run_id())
        same.map(range(100)).result()

    few()
    runs = eventually(lambda: task_runs_of(ids[0]), lambda runs: all_final(runs, 4))
    assert sorted(run.name for run in runs) == ["same[0:25]", "same[25:50]", "same[50:75]", "same[75:100]"]


def test_after_shutdown_everything_is_final_here_and_on_the_server(make_concurrent: MakeRunner) -> None:
    """Promise 8: a flow that fails cancels what has not begun, and no task run is left Pending or Running."""
    started, release = threading.Event(), threading.Event()
    ids: list[Any] = []
    futures: list[Any] = []
    before = threading.active_count()

    @task
    def block(_: int) -> None:
        started.set()
        assert release.wait(30)

    @flow(task_runner=make_concurrent(1))
    def fails() -> None:
        ids.append(this_flow_run_id())
        futures.extend(block.submit(n) for n in range(4))
        assert started.wait(30)
        threading.Timer(0.2, release.set).start()
        raise ValueError("the flow gives up")

    with pytest.raises(ValueError, match="gives up"):
        fails()
    assert [f.state.type.value for f in futures] == ["COMPLETED", "CANCELLED", "CANCELLED", "CANCELLED"]
    runs = eventually(lambda: task_runs_of(ids[0]), lambda runs: all_final(runs, 4))
    assert Counter(run.state_name for run in runs) == {"Completed": 1, "Cancelled": 3}
    if make_concurrent is not EXECUTORS["live"]:
        assert threading.active_count() <= before + 1  # Prefect's own workers may start here for the first time


def test_an_executor_that_was_handed_in_is_used_and_never_shut_down() -> None:
    """Promise 9: the user's executor runs the task and works on after the flow; one that we make is closed."""
    made: list[ThreadPoolExecutor] = []

    def factory() -> ThreadPoolExecutor:
        made.append(ThreadPoolExecutor(1, thread_name_prefix="made"))
        return made[-1]

    @task
    def where() -> str:
        return threading.current_thread().name

    with ThreadPoolExecutor(1, thread_name_prefix="mine") as mine:

        @flow(task_runner=ExecutorTaskRunner(mine))
        def on_mine() -> str:
            return str(where.submit().result())

        assert on_mine().startswith("mine")
        assert mine.submit(lambda: "open").result() == "open"

    @flow(task_runner=ExecutorTaskRunner(factory))
    def on_made() -> str:
        return str(where.submit().result())

    assert on_made().startswith("made")
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        made[0].submit(print)
