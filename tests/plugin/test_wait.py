"""`wait` and `as_completed`: the standard library's semantics, for our futures, Prefect's, and inside workers."""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import prefect.futures
import pytest
from prefect import flow, task
from prefect.task_runners import ThreadPoolTaskRunner
from prefect.tasks import Task

from prefect_fanout import ExecutorTaskRunner, as_completed, wait

pytestmark = pytest.mark.usefixtures("prefect_server", "prefect_client")

# Prefect's types know little of what a mapped list holds; the tests look at the values themselves.
Runner: Any = ExecutorTaskRunner


@task
def same(x: Any) -> Any:
    """Return the argument."""
    return x


class Controlled:
    """Futures that end, well or badly, when the test says so; one worker each, so that they do not wait in line."""

    def __init__(self, count: int) -> None:
        self.gates = [threading.Event() for _ in range(count)]
        self.errors: dict[int, Exception] = {}
        self.task = Task(self.run, name="run")
        self.futures: list[Any] = []

    def run(self, x: int) -> int:
        assert self.gates[x].wait(30)
        if x in self.errors:
            raise self.errors[x]
        return x

    def end(self, x: int, error: Exception | None = None) -> None:
        """Let future `x` end, and return when it has."""
        if error is not None:
            self.errors[x] = error
        self.gates[x].set()
        if error is None:
            assert self.futures[x].result(30) == x
        else:
            with pytest.raises(type(error)):
                self.futures[x].result(30)

    def positions(self, futures: Any) -> list[int]:
        return sorted(self.futures.index(future) for future in futures)


@contextmanager
def standard_library(count: int) -> Iterator[Controlled]:
    """The real thing."""
    controlled = Controlled(count)
    with ThreadPoolExecutor(count or 1) as executor:
        controlled.futures = [executor.submit(controlled.run, n) for n in range(count)]
        yield from let_go(controlled)


@contextmanager
def submitted(count: int) -> Iterator[Controlled]:
    """Our task runs."""
    controlled = Controlled(count)
    with Runner(max_workers=count or 1) as runner:
        controlled.futures = [runner.submit(controlled.task, {"x": n}) for n in range(count)]
        yield from let_go(controlled)


@contextmanager
def mapped(count: int) -> Iterator[Controlled]:
    """Our chunks of one item."""
    controlled = Controlled(count)
    with Runner(max_workers=count or 1, chunksize=1) as runner:
        controlled.futures = list(runner.map(controlled.task, {"x": range(count)}))
        yield from let_go(controlled)


@contextmanager
def prefects_own(count: int) -> Iterator[Controlled]:
    """Futures of Prefect's own runner."""
    controlled = Controlled(count)
    with ThreadPoolTaskRunner[Any]() as runner:
        controlled.futures = [runner.submit(controlled.task, {"x": n}) for n in range(count)]
        yield from let_go(controlled)


@contextmanager
def mixed(count: int) -> Iterator[Controlled]:
    """Ours and Prefect's by turns."""
    controlled = Controlled(count)
    with Runner(max_workers=count or 1) as ours, ThreadPoolTaskRunner[Any]() as stock:
        controlled.futures = [(ours, stock)[n % 2].submit(controlled.task, {"x": n}) for n in range(count)]
        yield from let_go(controlled)


def let_go(controlled: Controlled) -> Iterator[Controlled]:
    """Let all end when the test has."""
    try:
        yield controlled
    finally:
        for gate in controlled.gates:
            gate.set()


OURS = [submitted, mapped, prefects_own, mixed]


def ended_first(controlled: Controlled, wait_: Any, **options: Any) -> Any:
    """`wait` after future 1 has ended well."""
    controlled.end(1)
    done, not_done = wait_(controlled.futures, **options)
    return controlled.positions(done), controlled.positions(not_done)


def ended_badly(controlled: Controlled, wait_: Any, **options: Any) -> Any:
    """`wait` after future 0 has ended well and future 2 badly."""
    controlled.end(0)
    controlled.end(2, ValueError("two"))
    done, not_done = wait_(controlled.futures, **options)
    return controlled.positions(done), controlled.positions(not_done)


def all_ended(controlled: Controlled, wait_: Any, **options: Any) -> Any:
    """`wait` after all have ended, with duplicates and through a generator."""
    for n in range(len(controlled.futures)):
        controlled.end(n)
    done, not_done = wait_((future for future in controlled.futures * 2), **options)
    return controlled.positions(done), controlled.positions(not_done)


def ends_meanwhile(controlled: Controlled, wait_: Any, **options: Any) -> Any:
    """`wait` while another thread ends first one, and after the wait the rest."""
    starter = threading.Thread(target=controlled.gates[1].set)
    starter.start()
    done, _ = wait_(controlled.futures, **{"return_when": FIRST_COMPLETED, **options})
    starter.join()
    return controlled.positions(done)


SCENARIOS: list[tuple[Callable[..., Any], dict[str, Any]]] = [
    (ended_first, {"return_when": FIRST_COMPLETED}),
    (ended_first, {"timeout": 0}),
    (ended_first, {"timeout": 0.05, "return_when": FIRST_EXCEPTION}),
    (ended_badly, {"return_when": FIRST_EXCEPTION}),
    (ended_badly, {"return_when": FIRST_COMPLETED}),
    (ended_badly, {"timeout": 0.05, "return_when": ALL_COMPLETED}),
    (all_ended, {}),
    (all_ended, {"timeout": 0}),
    (all_ended, {"return_when": FIRST_EXCEPTION}),
    (all_ended, {"return_when": FIRST_COMPLETED}),
    (ends_meanwhile, {}),
]


@pytest.mark.parametrize("make", OURS)
@pytest.mark.parametrize(("scenario", "options"), SCENARIOS)
def test_wait_gives_what_the_standard_library_gives(make: Any, scenario: Any, options: dict[str, Any]) -> None:
    """The same futures are done and not done, for each `return_when`, with and without a timeout."""
    with standard_library(3) as controlled:
        expected = scenario(controlled, concurrent.futures.wait, **options)
    with make(3) as controlled:
        assert scenario(controlled, wait, **options) == expected


@pytest.mark.parametrize("module", [concurrent.futures, prefect.futures])
def test_nothing_to_wait_for_is_done(module: Any) -> None:
    """An empty wait returns two empty sets, an empty as_completed nothing, whatever the timeout."""
    for timeout in (None, 0):
        assert tuple(wait([], timeout)) == tuple(module.wait([], timeout)) == (set(), set())
        assert list(as_completed([], timeout)) == list(module.as_completed([], timeout)) == []


def test_arguments_that_are_not_valid_are_refused() -> None:
    """An unknown `return_when` is a ValueError in the standard library's words; so is a negative timeout."""
    with pytest.raises(ValueError, match="Invalid return condition: 'SOMETIMES'"):
        wait([], return_when="SOMETIMES")
    for call in (wait, as_completed):
        with pytest.raises(ValueError, match="non-negative"):
            call([], timeout=-1)


@pytest.mark.parametrize("make", OURS)
def test_as_completed_yields_in_the_order_of_the_ends(make: Any) -> None:
    """Each future once, also one given twice, as it ends."""
    with make(4) as controlled:
        order = []
        stream = as_completed(controlled.futures + controlled.futures[:2])
        for n in (2, 0, 3, 1):
            controlled.gates[n].set()
            order.append(controlled.futures.index(next(stream)))
        assert list(stream) == []
    assert order == [2, 0, 3, 1]


@pytest.mark.parametrize("make", OURS)
def test_as_completed_times_out_as_in_the_standard_library(make: Any) -> None:
    """What has ended comes out first, then a TimeoutError with the same text."""
    results = []
    for side, module in ((standard_library, concurrent.futures), (make, None)):
        with side(3) as controlled:
            controlled.end(1)
            stream = (module.as_completed if module else as_completed)(controlled.futures, timeout=0.05)
            first = controlled.futures.index(next(stream))
            with pytest.raises(TimeoutError) as error:
                next(stream)
            results.append((first, str(error.value)))
    assert results[0] == results[1] == (1, "2 (of 3) futures unfinished")


@pytest.mark.parametrize("make", [submitted, mapped])
def test_what_is_cancelled_counts_as_done(make: Any) -> None:
    """For `wait`, for FIRST_COMPLETED, and for as_completed; but it is no exception for FIRST_EXCEPTION."""
    with Runner(max_workers=1, chunksize=1 if make is mapped else None) as runner:
        controlled = Controlled(2)
        controlled.futures = list(runner.map(controlled.task, {"x": range(2)}))
        assert controlled.futures[1].cancel()
        assert wait(controlled.futures, return_when=FIRST_COMPLETED).done == {controlled.futures[1]}
        assert wait(controlled.futures, 0.05, FIRST_EXCEPTION).not_done == {controlled.futures[0]}
        assert next(as_completed(controlled.futures)) is controlled.futures[1]
        controlled.end(0)
        assert wait(controlled.futures).not_done == set()


def test_what_is_not_ready_counts_as_failed() -> None:
    """FIRST_EXCEPTION returns for a future whose `result()` raises because what it depends on has failed."""
    found: list[Any] = []
    with Runner(max_workers=2) as runner:
        controlled = Controlled(2)
        controlled.futures = [runner.submit(controlled.task, {"x": n}) for n in range(2)]
        dependent = runner.submit(same, {"x": controlled.futures[0]})
        controlled.end(0, ValueError("zero"))
        dependent.wait()
        futures = [dependent, controlled.futures[1]]
        waiter = threading.Thread(target=lambda: found.append(wait(futures, return_when=FIRST_EXCEPTION)))
        waiter.start()
        waiter.join(10)
        in_time = list(found)
        controlled.end(1)
        waiter.join()
    assert in_time == [({dependent}, {controlled.futures[1]})]


def test_leaving_as_completed_early_leaves_nothing_behind() -> None:
    """A closed iterator, and one that was never started, hold no callbacks on the futures that are not done."""
    with submitted(2) as controlled:
        controlled.end(0)
        stream = as_completed(controlled.futures)
        next(stream)
        stream.close()  # type: ignore[attr-defined] # an Iterator to type checkers, a generator in fact
        assert controlled.futures[1]._job.callbacks == []


# -- inside workers ----------------------------------------------------------------------------------------------

WAYS: dict[str, Callable[[list[Any]], Any]] = {
    "wait": lambda futures: wait(futures).not_done == set(),
    "wait with a timeout": lambda futures: wait(futures, timeout=30).not_done == set(),
    "wait for the first": lambda futures: wait(futures, return_when=FIRST_COMPLETED).done != set(),
    "as_completed": lambda futures: set(as_completed(futures)) == set(futures),
    "as_completed with a timeout": lambda futures: set(as_completed(futures, timeout=30)) == set(futures),
    "Prefect's wait": lambda futures: prefect.futures.wait(futures).not_done == set(),
    "Prefect's wait with a timeout": lambda futures: prefect.futures.wait(futures, timeout=30).not_done == set(),
    "Prefect's as_completed": lambda futures: set(prefect.futures.as_completed(futures)) == set(futures),
    "future.wait": lambda futures: all(f.wait() is None for f in futures),
    "future.result": lambda futures: all(f.exception() is None for f in futures),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("chunksize", [None, 2])
def test_every_way_to_wait_works_inside_the_only_worker(way: str, chunksize: int | None) -> None:
    """A task waits for a map on its own runner, behind a chain of dependants: the worker does it all itself."""

    @task
    def waits() -> bool:
        first = same.submit(1)
        second = same.submit(first)
        return bool(WAYS[way]([*same.map([second, 2, 3]), first]))

    @flow(task_runner=Runner(max_workers=1, chunksize=chunksize))
    def inside() -> bool:
        return bool(waits.submit().result())

    assert inside()


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_wait_works_for_what_becomes_ready_later(way: str) -> None:
    """In the only worker, a future that waits for another runner's is run when that one is done."""
    gate = threading.Event()

    @task
    def slow() -> int:
        assert gate.wait(30)
        return 1

    @task
    def waits() -> bool:
        future = runner.submit(same, {"x": stock.submit(slow, {})})
        threading.Timer(0.2, gate.set).start()
        return bool(WAYS[way]([future]))

    with ThreadPoolTaskRunner[Any]() as stock, Runner(max_workers=1) as runner:
        assert runner.submit(waits, {}).result()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("order", [1, -1])
def test_futures_of_two_runners_can_be_waited_for_in_a_worker_of_either(way: str, order: int) -> None:
    """Whichever comes first, the worker runs what its own runner has queued."""

    @task
    def waits() -> bool:
        futures = [there.submit(same, {"x": 1}), here.submit(same, {"x": 2})][::order]
        return bool(WAYS[way](futures))

    with Runner(max_workers=1) as there, Runner(max_workers=1) as here:
        assert here.submit(waits, {}).result()


def test_waiting_for_the_first_in_a_worker_runs_no_more_than_it_needs() -> None:
    """With one worker, one of ten queued tasks is run by the waiting one; the rest follow later."""
    ran: list[int] = []

    @task
    def note(x: int) -> None:
        ran.append(x)

    @task
    def waits() -> tuple[int, int]:
        futures = [runner.submit(note, {"x": n}) for n in range(10)]
        done, _ = wait(futures, return_when=FIRST_COMPLETED)
        return len(done), len(ran)

    with Runner(max_workers=1) as runner:
        assert runner.submit(waits, {}).result() == (1, 1)
    assert ran == list(range(10))


def test_a_timeout_in_a_worker_ends_the_wait_for_what_another_worker_runs() -> None:
    """Nothing to help with: the wait is over in time, and says what is not done."""
    with Runner(max_workers=2) as runner:
        controlled = Controlled(1)
        entered = threading.Event()

        @task
        def holds() -> None:
            entered.set()
            assert controlled.gates[0].wait(30)

        @task
        def waits() -> int:
            return len(wait([held], timeout=0.05).not_done)

        held = runner.submit(holds, {})
        assert entered.wait(30)
        assert runner.submit(waits, {}).result() == 1
        controlled.gates[0].set()


def test_crosswise_waiting_tasks_complete() -> None:
    """Two workers, two tasks, each waiting for all subtasks of both: whoever is free runs them."""
    both = threading.Barrier(2)
    shared: list[Any] = []

    @task
    def waits() -> int:
        shared.extend(same.submit(n) for n in range(5))
        both.wait(30)
        return len(wait(shared).done)

    @flow(task_runner=Runner(max_workers=2))
    def crosswise() -> list[int]:
        futures = [waits.submit(), waits.submit()]
        return [future.result() for future in futures]

    assert crosswise() == [10, 10]
