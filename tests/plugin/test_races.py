"""Races, forced: what happens when a cancel, a shutdown or another runner comes in at the worst moment."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, field
from typing import Any

import prefect.futures
import pytest
from prefect import task
from prefect.task_runners import ThreadPoolTaskRunner

from prefect_fanout import ExecutorTaskRunner, Outcome, OutcomeStatus, fan_out, wait, worker_resource

pytestmark = pytest.mark.usefixtures("prefect_server", "prefect_client")

# Prefect's types know little of what a mapped list holds; the tests look at the values themselves.
Runner: Any = ExecutorTaskRunner


@task
def same(x: Any) -> Any:
    """Return the argument."""
    return x


@dataclass
class Watched:
    """A parameter that calls `hook` once when it is looked into, which happens while its task run is being made."""

    number: int
    hook: list[Callable[[], Any]] = field(default_factory=list, repr=False)

    def __getattribute__(self, name: str) -> Any:
        if name == "number":
            hook = object.__getattribute__(self, "hook")
            if hook:
                hook.pop()()
        return object.__getattribute__(self, name)


@dataclass
class Unset:
    """An instance breaks when it is looked into: the field `unset` has no value."""

    number: int
    unset: int = field(init=False)


def named(prefix: str) -> list[str]:
    """The threads that are alive under a prefix."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(prefix)]


def test_an_item_that_is_cancelled_while_it_is_cut_never_runs() -> None:
    """`cancel()` that says True and an item that runs would be two outcomes."""
    ran: list[int] = []
    release = threading.Event()
    said: list[bool] = []

    @task
    def run(x: Watched) -> None:
        assert release.wait(30)
        ran.append(x.number)

    items = [Watched(n) for n in range(5)]
    with Runner(max_workers=1, chunksize=1) as runner:
        futures = runner.map(run, {"x": items})
        items[3].hook.append(lambda: said.append(futures[3].cancel()))
        release.set()
        futures.wait()
        assert said == [not futures[3].cancelled()] or (said == [True] and futures[3].cancelled())
    assert ran == [0, 1, 2, 4]


def test_a_submit_that_meets_a_shutdown_is_refused_and_leaves_no_thread() -> None:
    """Whoever is still in `submit` when the runner ends gets an error, and no pool reopens."""
    inside, go_on = threading.Event(), threading.Event()
    got: list[Any] = []

    def pause() -> None:
        inside.set()
        assert go_on.wait(30)

    def submit() -> None:
        try:
            got.append(runner.submit(same, {"x": Watched(1, [pause])}))
        except RuntimeError as error:
            got.append(type(error))

    runner = Runner(max_workers=1, thread_name_prefix="meets")
    with runner:
        runner.submit(same, {"x": 0}).wait()
        late = threading.Thread(target=copy_context().run, args=(submit,))  # the API's address is in the context
        late.start()
        assert inside.wait(30)
    go_on.set()
    late.join()
    assert got == [RuntimeError]
    assert named("meets") == []


@pytest.mark.parametrize("chunksize", [1, 2, 3])
@pytest.mark.parametrize("broken", [0, 3, 6])
def test_an_item_that_cannot_be_looked_into_fails_alone(broken: int, chunksize: int) -> None:
    """Also when its chunk is cut late, by a worker: the others keep their values, and nothing hangs."""
    items: list[Any] = [0, 1, 2, 3, 4, 5, 6]
    items[broken] = Unset(broken)
    with Runner(max_workers=1, chunksize=chunksize) as runner:
        futures = runner.map(same, {"x": items})
        errors = [future.exception() for future in futures]
    assert [error is None for error in errors] == [position != broken for position in range(7)]
    assert "unset" in f"{errors[broken]} {errors[broken].__cause__}"


def test_a_source_that_cancels_the_runner_loses_no_item() -> None:
    """Everything that was read comes out once, then the error says that the input was not finished."""
    read: list[int] = []

    def cancels() -> Iterator[int]:
        for n in range(10):
            if n == 3:
                runner.cancel_all()
            read.append(n)
            yield n

    outcomes: list[Outcome] = []
    refused = pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown")
    with Runner(max_workers=1) as runner, refused:
        outcomes.extend(fan_out(same, cancels(), chunksize=1, in_flight=6, runner=runner))
    assert sorted(outcome.index for outcome in outcomes) == read
    for outcome in outcomes:
        assert outcome.ok or isinstance(outcome.error, CancelledError)


def test_a_consumer_that_ends_the_runner_gets_the_rest_as_cancelled() -> None:
    """`shutdown` between two outcomes: what was read is finished or cancelled, in one piece."""
    with Runner(max_workers=1) as runner:
        stream = fan_out(same, iter(range(100)), chunksize=2, in_flight=3, runner=runner)
        outcomes = [next(stream)]
        runner.shutdown(cancel_futures=True)
        with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
            outcomes.extend(stream)
    assert sorted(outcome.index for outcome in outcomes) == list(range(len(outcomes)))
    assert len(outcomes) <= 3 * 2 + 2
    assert {outcome.status for outcome in outcomes} <= {OutcomeStatus.OK, OutcomeStatus.CANCELLED}


@pytest.mark.parametrize("way", ["result", "wait", "fan_out"])
def test_a_worker_runs_its_own_queue_though_it_waits_for_another_runner(way: str) -> None:
    """What it waits for belongs to another runner, whose task needs one that only this worker can run."""

    @task
    def through_the_other() -> Any:
        mine = here.submit(same, {"x": 1})
        if way == "fan_out":
            return next(fan_out(same, [mine], runner=there)).value
        theirs = there.submit(same, {"x": mine})
        if way == "wait":
            wait([theirs])
        return theirs.result()

    with Runner(max_workers=1) as there, Runner(max_workers=1) as here:
        assert here.submit(through_the_other, {}).result() == 1


class SlowToClose:
    """A resource that is closed only when the test lets it, and notes by whom."""

    closed: list[str]
    let_go: threading.Event

    def __enter__(self) -> str:
        return threading.current_thread().name

    def __exit__(self, *_: object) -> None:
        assert self.let_go.wait(30)
        self.closed.append(threading.current_thread().name)


def test_shutdown_waits_for_threads_that_were_made_for_nested_work() -> None:
    """A task that becomes ready while its only worker sleeps in Prefect's as_completed gets a thread; it ends first."""
    SlowToClose.closed, SlowToClose.let_go = [], threading.Event()
    gate = threading.Event()

    @task
    def slow() -> int:
        assert gate.wait(30)
        return 1

    @task
    def uses(x: int) -> str:
        return worker_resource(SlowToClose)

    @task
    def sleeps() -> str:
        future = runner.submit(uses, {"x": stock.submit(slow, {})})
        threading.Timer(0.2, gate.set).start()
        (done,) = prefect.futures.as_completed([future])
        return str(done.result())

    with ThreadPoolTaskRunner[Any]() as stock:
        with Runner(max_workers=1, thread_name_prefix="ends") as runner:
            opened_in = runner.submit(sleeps, {}).result()
            threading.Timer(0.3, SlowToClose.let_go.set).start()
        assert SlowToClose.closed == [opened_in]
        assert named("ends") == []


def test_a_borrowed_executor_that_is_busy_does_not_hold_up_the_shutdown() -> None:
    """Its other thread is in the user's own work: with nothing to close there is nothing to wait for."""
    both, busy, release, gave_up = threading.Barrier(2), threading.Event(), threading.Event(), threading.Event()

    def own_work() -> None:
        busy.set()
        if not release.wait(10):
            gave_up.set()

    @task
    def meet(_: int) -> None:
        both.wait(30)

    with ThreadPoolExecutor(2) as executor:
        with Runner(executor) as runner:
            runner.map(meet, {"_": [1, 2]}).wait()
            executor.submit(own_work)
            assert busy.wait(30)
        release.set()
    assert not gave_up.is_set(), "the block was left only when the user's own work had ended"


def test_cancelling_from_many_threads_gives_one_answer() -> None:
    """Of ten threads that cancel ten queued futures, all are told the same, and none of the tasks runs."""
    release, entered = threading.Event(), threading.Event()
    ran: list[int] = []

    @task
    def hold(x: int) -> None:
        if x == 0:
            entered.set()
            assert release.wait(30)
        ran.append(x)

    for chunksize in (None, 4):
        ran.clear()
        release.clear()
        entered.clear()
        with Runner(max_workers=1, chunksize=chunksize) as runner:
            futures = runner.map(hold, {"x": range(11)})
            assert entered.wait(30)
            start = threading.Barrier(10)

            def cancel_all_of_them(futures: Any = futures, start: threading.Barrier = start) -> list[bool]:
                start.wait(30)
                return [future.cancel() for future in futures]

            with ThreadPoolExecutor(10) as threads:
                answers = [call.result() for call in [threads.submit(cancel_all_of_them) for _ in range(10)]]
            release.set()
        assert answers == [[False] + [True] * 10] * 10
        assert ran == [0]


@pytest.mark.parametrize("chunksize", [None, 1, 5])
def test_futures_are_waited_for_by_many_threads_at_once(chunksize: int | None) -> None:
    """Twenty threads wait for the same futures in different ways, and all see all of them."""
    start = threading.Barrier(20)
    with Runner(max_workers=2, chunksize=chunksize) as runner:
        futures = runner.map(same, {"x": range(20)})

        def see(way: int) -> list[Any]:
            start.wait(30)
            if way % 4 == 0:
                wait(futures)
            if way % 4 == 1:
                prefect.futures.wait(futures)
            if way % 4 == 2:
                futures.wait()
            return [future.result() for future in (futures if way % 2 else reversed(futures))]

        with ThreadPoolExecutor(20) as threads:
            seen = list(threads.map(see, range(20)))
    assert [sorted(values) for values in seen] == [list(range(20))] * 20
