"""ExecutorFuture: the words of `concurrent.futures.Future`, next to the real one, and Prefect's on top of them."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from prefect import flow, task
from prefect.exceptions import CancelledRun, UnfinishedRun
from prefect.task_runners import ThreadPoolTaskRunner
from prefect.tasks import Task

from prefect_fanout import ExecutorFuture, ExecutorTaskRunner
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
def fails(x: Any) -> Any:
    """Raise the argument."""
    raise x


class Gate:
    """A function and a task that hold their worker at item 0 until they are let go, and note what ran."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.opened = threading.Event()
        self.ran: list[int] = []
        self.task = Task(self.hold, name="hold")

    def hold(self, x: int) -> int:
        if x == 0:
            self.entered.set()
            assert self.opened.wait(30)
        self.ran.append(x)
        return x


# Each gives a gate and the futures of items 0 to 9 on one worker, which is at item 0.


@contextmanager
def standard_library() -> Iterator[tuple[Gate, list[Any]]]:
    """The real Future."""
    gate = Gate()
    with ThreadPoolExecutor(1) as executor:
        futures = [executor.submit(gate.hold, n) for n in range(10)]
        yield from held(gate, futures)


@contextmanager
def submitted() -> Iterator[tuple[Gate, list[Any]]]:
    """Ten task runs."""
    gate = Gate()
    with Runner(max_workers=1) as runner:
        yield from held(gate, [runner.submit(gate.task, {"x": n}) for n in range(10)])


@contextmanager
def mapped_alone() -> Iterator[tuple[Gate, list[Any]]]:
    """Ten chunks of one item."""
    gate = Gate()
    with Runner(max_workers=1, chunksize=1) as runner:
        yield from held(gate, list(runner.map(gate.task, {"x": range(10)})))


@contextmanager
def mapped_in_chunks() -> Iterator[tuple[Gate, list[Any]]]:
    """Chunks of three items."""
    gate = Gate()
    with Runner(max_workers=1, chunksize=3) as runner:
        yield from held(gate, list(runner.map(gate.task, {"x": range(10)})))


def held(gate: Gate, futures: list[Any]) -> Iterator[tuple[Gate, list[Any]]]:
    """Hand out the gate and the futures once the worker is at item 0; let it go in the end."""
    assert gate.entered.wait(30)
    try:
        yield gate, futures
    finally:
        gate.opened.set()


OURS = [submitted, mapped_alone, mapped_in_chunks]
# Of the ten items: the one that runs, the next one in line, and one that is far behind.
POSITIONS = {"running": 0, "queued": 4, "last": 9}


def seen(call: Callable[[], Any]) -> Any:
    """What a call gives: its value, or the family of its error."""
    try:
        return call()
    except (TimeoutError, CancelledError) as error:
        return next(kind.__name__ for kind in (TimeoutError, CancelledError) if isinstance(error, kind))


def observe(future: Any) -> list[Any]:
    """Every question a future answers, before and after `cancel()` is asked for, twice."""
    answers: list[Any] = []
    for _ in range(3):
        answers += [
            seen(lambda: future.result(timeout=0)),
            seen(lambda: future.exception(timeout=0)),
            future.done(),
            future.running(),
            future.cancelled(),
            future.cancel(),
        ]
    return answers


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("make", [submitted, mapped_alone])
def test_futures_answer_as_the_standard_librarys_do(make: Any, position: str) -> None:
    """Running, queued or far behind: every answer, and the effect of `cancel()`, is that of the real Future."""
    answers: list[Any] = []
    ran: list[Any] = []
    for side in (standard_library, make):
        with side() as (gate, futures):
            future = futures[POSITIONS[position]]
            answers.append(observe(future))
            gate.opened.set()
            concurrent.futures.wait(futures) if side is standard_library else [f.wait() for f in futures]
            answers[-1] += observe(future)
        ran.append(gate.ran)
    assert answers[1] == answers[0]
    assert ran[1] == ran[0]


def test_an_item_of_the_chunk_that_runs_can_be_cancelled_until_it_begins() -> None:
    """Item 0 runs; items 1 and 2 wait behind it in its chunk: 1 is cancelled and never runs, 2 runs."""
    with mapped_in_chunks() as (gate, futures):
        assert not futures[0].cancel()
        assert futures[1].cancel()
        assert futures[1].cancel()
        assert (futures[1].done(), futures[1].cancelled()) == (True, True)
        gate.opened.set()
        assert futures[2].result(30) == 2
        assert not futures[2].cancel()
    assert gate.ran == [0, 2, 3, 4, 5, 6, 7, 8, 9]
    assert [future.cancelled() for future in futures] == [n == 1 for n in range(10)]


def test_all_items_of_a_chunk_can_be_cancelled_one_by_one() -> None:
    """Nothing of the chunk runs then, and the other chunks are as they were."""
    with mapped_in_chunks() as (gate, futures):
        assert [futures[n].cancel() for n in (3, 4, 5, 9)] == [True] * 4
    assert gate.ran == [0, 1, 2, 6, 7, 8]


def test_a_result_that_needs_a_cancelled_item_raises() -> None:
    """`result()` of the list is that of its items: cancelled is not a value."""
    with Runner(max_workers=1, chunksize=2) as runner:
        gate = Gate()
        futures = runner.map(gate.task, {"x": range(6)})
        assert gate.entered.wait(30)
        assert futures[5].cancel()
        gate.opened.set()
        with pytest.raises(CancelledError):
            futures.result()
        values = futures.result(raise_on_failure=False)
    assert values[:5] == [0, 1, 2, 3, 4]
    assert isinstance(values[5], CancelledError)


@pytest.mark.parametrize("make", OURS)
def test_a_cancelled_future_speaks_both_protocols(make: Any) -> None:
    """Its error is the standard library's CancelledError and Prefect's CancelledRun, its state is Cancelled."""
    with make() as (_, futures):
        assert futures[9].cancel()
        with pytest.raises(CancelledError):
            futures[9].result()
        with pytest.raises(CancelledRun):
            futures[9].result()
        with pytest.raises(CancelledError):
            futures[9].exception()
        assert isinstance(futures[9].result(raise_on_failure=False), CancelledError)
        assert futures[9].state.is_cancelled()


def test_a_future_that_waits_for_another_can_be_cancelled_and_the_api_says_so() -> None:
    """Cancelling what waits for an upstream, and what is queued, leaves Cancelled task runs on the server."""
    ids: list[Any] = []

    @flow(task_runner=Runner(max_workers=1))
    def cancels() -> list[bool]:
        ids.append(this_flow_run_id())
        gate = Gate()
        running = gate.task.submit(0)
        assert gate.entered.wait(30)
        waiting = same.submit(running)
        behind = same.submit(waiting)
        queued = gate.task.submit(1)
        cancelled = [running.cancel(), waiting.cancel(), queued.cancel()]  # type: ignore[attr-defined] # ours
        gate.opened.set()
        assert running.result() == 0
        behind.wait()
        assert behind.state.name == "NotReady"
        return cancelled

    assert cancels() == [False, True, True]
    runs = eventually(lambda: task_runs_of(ids[0]), lambda found: all_final(found, 4))
    assert sorted(str(run.state_name) for run in runs) == ["Cancelled", "Cancelled", "Completed", "NotReady"]


@pytest.mark.parametrize("make", OURS)
@pytest.mark.parametrize("position", POSITIONS)
def test_callbacks_run_once_in_order_with_the_future(make: Any, position: str) -> None:
    """Those added before run when the future ends, those added after run at once."""
    called: list[tuple[str, Any]] = []
    with make() as (gate, futures):
        future = futures[POSITIONS[position]]
        for name in ("first", "second"):
            future.add_done_callback(lambda done, name=name: called.append((name, done)))
        assert called == []
        gate.opened.set()
        future.wait()
        futures[9].wait()
    future.add_done_callback(lambda done: called.append(("late", done)))
    assert called == [("first", future), ("second", future), ("late", future)]


@pytest.mark.parametrize("make", OURS)
def test_callbacks_run_when_a_future_is_cancelled(make: Any) -> None:
    """In the thread that cancels, before `cancel()` returns."""
    called: list[str] = []
    with make() as (_, futures):
        futures[9].add_done_callback(lambda done: called.append(threading.current_thread().name))
        assert futures[9].cancel()
        assert called == [threading.current_thread().name]


@pytest.mark.parametrize("make", OURS)
def test_a_callback_that_raises_is_logged_and_the_others_run(make: Any, caplog: pytest.LogCaptureFixture) -> None:
    """As in the standard library: the error of a callback harms nobody else."""
    called: list[int] = []

    def breaks(_: Any) -> None:
        raise RuntimeError("in the callback")

    with make() as (gate, futures):
        futures[9].add_done_callback(breaks)
        futures[9].add_done_callback(lambda _: called.append(1))
        gate.opened.set()
        assert futures[9].result(30) == 9
    futures[9].add_done_callback(breaks)
    assert called == [1]
    assert caplog.text.count("exception calling callback for") == 2
    assert "in the callback" in caplog.text


def test_a_callback_may_wait_for_later_items() -> None:
    """A callback runs in a worker; waiting there for an item that is in no chunk yet cannot deadlock."""
    got: list[Any] = []
    with mapped_in_chunks() as (gate, futures):
        futures[1].add_done_callback(lambda _: got.append(futures[9].result()))
        gate.opened.set()
        futures[9].wait()
    assert got == [9]


@pytest.mark.parametrize("chunksize", [None, 1, 3])
def test_errors_of_every_kind_come_out(chunksize: int | None) -> None:
    """`exception()` returns what the task raised and `result()` raises it, also what is no Exception."""
    errors = [ValueError("v"), TimeoutError("t"), KeyboardInterrupt("k"), SystemExit(3), asyncio.CancelledError("c")]
    with Runner(max_workers=1, chunksize=chunksize) as runner:
        futures = runner.map(fails, {"x": errors})
        for future, error in zip(futures, errors, strict=True):
            assert future.exception() is error
            with pytest.raises(type(error)):
                future.result()
            assert future.result(raise_on_failure=False) is error
            assert not future.cancelled()
            assert future.done()
    kinds = [future.state.type.value for future in futures]
    assert kinds == ["FAILED", "FAILED", "CRASHED", "CRASHED", "CRASHED"]


def test_the_exception_of_a_future_that_succeeded_is_none() -> None:
    """For one task run and for one item."""
    with Runner(chunksize=2) as runner:
        assert runner.submit(same, {"x": 1}).exception() is None
        assert [future.exception() for future in runner.map(same, {"x": [None, ValueError()]})] == [None, None]


@pytest.mark.parametrize("chunksize", [None, 2])
def test_what_depends_on_a_failure_is_not_ready(chunksize: int | None) -> None:
    """State and error are those that Prefect's own runner gives."""
    seen_on: list[Any] = []
    for runner in (ThreadPoolTaskRunner[Any](), Runner(max_workers=1, chunksize=chunksize)):
        with runner:
            failed = runner.submit(fails, {"x": ValueError("first")})
            for future in runner.map(same, {"x": [failed, failed]}):
                with pytest.raises(UnfinishedRun) as error:
                    future.result()
                seen_on.append((future.state.type, future.state.name, str(error.value)))
    assert seen_on[:2] == seen_on[2:]


@pytest.mark.parametrize("make", OURS)
def test_futures_outlive_their_runner(make: Any) -> None:
    """Results, states and new callbacks are there after the runner has ended."""
    with make() as (gate, futures):
        gate.opened.set()
    called: list[Any] = []
    futures[4].add_done_callback(called.append)
    assert [future.result() for future in futures] == list(range(10))
    assert {future.state.name for future in futures} == {"Completed"}
    assert called == [futures[4]]
    assert all(isinstance(future, ExecutorFuture) for future in futures)


@pytest.mark.parametrize("make", OURS)
def test_futures_are_compared_by_identity_and_say_how_they_are(make: Any) -> None:
    """Items of one chunk share a task run, and are still different futures."""
    with make() as (gate, futures):
        assert len(set(futures)) == 10
        assert "running" in repr(futures[0])
        assert "not started" in repr(futures[9])
        gate.opened.set()
        futures[9].wait()
        assert "done" in repr(futures[9])
        assert "Completed" in repr(futures[9])


@pytest.mark.parametrize("make", OURS)
def test_the_state_is_known_without_asking_the_server(make: Any) -> None:
    """Before it ends a future is Pending or Running; the last state names the task run."""
    with make() as (gate, futures):
        assert futures[9].state.is_pending()
        assert not futures[0].state.is_final()
        gate.opened.set()
        futures[9].wait()
        state = futures[9].state
    assert state.is_completed()
    assert state.state_details.task_run_id == futures[9].task_run_id


def test_waiting_for_a_list_honours_its_timeout() -> None:
    """`wait` returns, `result` raises TimeoutError, and a negative timeout is refused."""
    with Runner(max_workers=1, chunksize=2) as runner:
        gate = Gate()
        futures = runner.map(gate.task, {"x": range(5)})
        futures.wait(timeout=0)
        with pytest.raises(TimeoutError, match="within 0 seconds"):
            futures.result(timeout=0)
        with pytest.raises(ValueError, match="non-negative"):
            futures.result(timeout=-1)
        gate.opened.set()
        assert futures.result(timeout=30) == list(range(5))


class Value:
    """Something whose life can be watched."""


@pytest.mark.parametrize("chunksize", [None, 3])
def test_values_go_with_their_futures(chunksize: int | None) -> None:
    """When the futures are dropped, the runner holds on to none of their values, though it is still open."""
    made: list[weakref.ref[Value]] = []

    @task
    def make(_: int) -> Value:
        value = Value()
        made.append(weakref.ref(value))
        return value

    with Runner(max_workers=1, chunksize=chunksize) as runner:
        futures = runner.map(make, {"_": range(7)})
        assert len(futures.result()) == 7
        gc.collect()
        assert sum(ref() is not None for ref in made) == 7
        del futures
        runner.submit(same, {"x": 0}).wait()  # The worker has let go of the last job when it has run another.
        gc.collect()
        assert sum(ref() is not None for ref in made) == 0
