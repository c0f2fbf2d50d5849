"""Create, submit or map, wait, shutdown: the runner outside a flow, its threads, and what they open and close."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, CancelledError, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from prefect import flow, task

from prefect_fanout import ExecutorTaskRunner, FanoutError, as_completed, fan_out, wait, worker_resource

pytestmark = pytest.mark.usefixtures("prefect_server")


@task
def double(x: int) -> int:
    """The simplest task."""
    return 2 * x


@task
def thread_name() -> str:
    """Who runs it."""
    return threading.current_thread().name


class Gate:
    """A task that holds its worker until it is let go."""

    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)
        self.opened = threading.Event()

        @task
        def hold(x: int = 0) -> int:
            self.entered.release()
            assert self.opened.wait(30)
            return x

        self.hold = hold

    def wait_for_worker(self) -> None:
        """Return when a worker has come in."""
        assert self.entered.acquire(timeout=30)


def test_the_whole_lifecycle_by_hand() -> None:
    """Create, submit, map, wait, as_completed and shutdown work without a flow and without a with block."""
    runner = ExecutorTaskRunner(max_workers=2)
    runner.__enter__()
    first = runner.submit(double, {"x": 1})
    mapped = runner.map(double, {"x": [2, 3]})
    done, not_done = wait([first, *mapped])
    assert not not_done
    assert {future.result() for future in done} == {2, 4, 6}
    assert sorted(future.result() for future in as_completed(mapped)) == [4, 6]
    runner.shutdown()
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        runner.submit(double, {"x": 4})
    runner.shutdown()  # a second time does nothing


def test_leaving_the_with_block_lets_what_was_submitted_finish() -> None:
    """As in the standard library, nothing that was submitted is dropped by a block that ends well."""
    with ExecutorTaskRunner(max_workers=1) as runner:
        futures = [runner.submit(double, {"x": n}) for n in range(5)]
        mapped = runner.map(double, {"x": range(5)})
    assert [future.result() for future in [*futures, *mapped]] == [0, 2, 4, 6, 8] * 2


def test_an_exception_in_the_with_block_cancels_what_has_not_begun() -> None:
    """What runs ends as it ends; what is queued is cancelled."""
    gate = Gate()
    futures: list[Any] = []

    def leaves_early() -> None:
        with ExecutorTaskRunner(max_workers=1) as runner:
            futures.extend(runner.submit(gate.hold, {}) for _ in range(3))
            gate.wait_for_worker()
            futures[1].add_done_callback(lambda _: gate.opened.set())  # it is cancelled while the first still runs
            raise KeyError("out")

    with pytest.raises(KeyError):
        leaves_early()
    assert [future.cancelled() for future in futures] == [False, True, True]


def test_a_runner_that_is_not_started_refuses_work() -> None:
    """The error says what to do."""
    with pytest.raises(RuntimeError, match="must be started before submitting work"):
        ExecutorTaskRunner().submit(double, {"x": 1})


def test_shutdown_without_wait_returns_and_ends_in_the_background() -> None:
    """The work that is there is still done, and the pool closes after it."""
    gate, closed = Gate(), threading.Event()
    runner = ExecutorTaskRunner(max_workers=1, finalizer=closed.set)
    runner.__enter__()
    future = runner.submit(gate.hold, {"x": 7})
    gate.wait_for_worker()
    runner.shutdown(wait=False)
    assert not future.done()
    gate.opened.set()
    assert future.result(30) == 7
    assert closed.wait(30)


def test_shutdown_with_cancel_futures_cancels_what_is_queued() -> None:
    """The words and the effect are the standard library's."""
    gate = Gate()
    runner = ExecutorTaskRunner(max_workers=1)
    runner.__enter__()
    running, queued = (runner.submit(gate.hold, {}) for _ in range(2))
    gate.wait_for_worker()
    queued.add_done_callback(lambda _: gate.opened.set())
    runner.shutdown(cancel_futures=True)
    assert running.result() == 0
    with pytest.raises(CancelledError):
        queued.result()


def test_shutdown_inside_a_task_is_refused() -> None:
    """It would wait for itself, so it says so instead."""
    with ExecutorTaskRunner(max_workers=1) as runner:

        @task
        def ends_the_pool() -> None:
            runner.shutdown()

        with pytest.raises(RuntimeError, match="would wait for that task for ever"):
            runner.submit(ends_the_pool, {}).result()


def test_threads_carry_the_prefix() -> None:
    """The names are the standard library's: prefix, underscore, number."""
    with ExecutorTaskRunner(max_workers=1, thread_name_prefix="crawler") as runner:
        assert runner.submit(thread_name, {}).result() == "crawler_0"
    with ExecutorTaskRunner(max_workers=1) as runner:
        assert runner.submit(thread_name, {}).result() == "fanout_0"


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_initializer_and_finalizer_run_once_in_each_thread(workers: int) -> None:
    """Each thread that began also ended, in itself, after its last task."""
    begun, ended = Counter[str](), Counter[str]()
    met = threading.Barrier(workers)

    def begin(counter: Counter[str]) -> None:
        counter[threading.current_thread().name] += 1

    @task
    def work() -> str:
        met.wait(30)
        assert threading.current_thread().name not in ended
        return threading.current_thread().name

    with ExecutorTaskRunner(
        max_workers=workers,
        initializer=begin,
        initargs=(begun,),
        finalizer=lambda: ended.update([threading.current_thread().name]),
    ) as runner:
        used = {future.result() for future in [runner.submit(work, {}) for _ in range(workers)]}
    assert used <= set(begun)
    assert begun == ended
    assert set(begun.values()) == {1}


def test_an_initializer_that_raises_crashes_the_task_runs_and_nothing_hangs() -> None:
    """The pool is broken, as in the standard library; every future is final and says why."""

    def fails() -> None:
        raise OSError("no database")

    with ExecutorTaskRunner(max_workers=1, initializer=fails) as runner:
        futures = [runner.submit(double, {"x": n}) for n in range(3)]
        wait(futures)
    assert [future.state.is_crashed() for future in futures] == [True] * 3
    with pytest.raises(Exception, match=r"initializer failed|not usable anymore"):
        futures[0].result()


def test_a_finalizer_that_raises_is_logged_and_the_others_still_run(caplog: pytest.LogCaptureFixture) -> None:
    """One broken end does not keep the other threads from ending."""
    met, ended = threading.Barrier(2), Counter[str]()

    @task
    def work() -> None:
        met.wait(30)

    def end() -> None:
        ended.update(["end"])
        raise OSError("too late")

    with ExecutorTaskRunner(max_workers=2, finalizer=end) as runner:
        wait([runner.submit(work, {}) for _ in range(2)])
    assert ended["end"] == 2
    assert "finalizer of worker" in caplog.text


class Resource:
    """A context manager factory that notes who opened and closed what, and where."""

    def __init__(self) -> None:
        self.opened: list[str] = []
        self.closed: list[str] = []

    @contextmanager
    def open(self) -> Iterator[str]:
        """A resource that belongs to the thread that opens it."""
        name = threading.current_thread().name
        self.opened.append(name)
        yield name
        self.closed.append(threading.current_thread().name)


RUNNERS: dict[str, Callable[[int], ExecutorTaskRunner]] = {
    "thread": lambda workers: ExecutorTaskRunner(max_workers=workers),
    "factory": lambda workers: ExecutorTaskRunner(lambda: ThreadPoolExecutor(workers)),
    "live": lambda workers: ExecutorTaskRunner(ThreadPoolExecutor(workers)),
}


@pytest.mark.parametrize("kind", RUNNERS)
@pytest.mark.parametrize("workers", [1, 3])
def test_a_worker_resource_is_opened_and_closed_once_per_worker_in_that_worker(kind: str, workers: int) -> None:
    """Every item of a worker gets the same resource, chunked or not, and its own thread closes it."""
    resource = Resource()
    open_resource = resource.open

    @task
    def use(_: int) -> str:
        held = worker_resource(open_resource)
        assert held == threading.current_thread().name
        return held

    with RUNNERS[kind](workers) as runner:
        used = {outcome.result() for outcome in fan_out(use, range(50), chunksize=2, runner=runner)}
        used |= {runner.submit(use, {"_": 0}).result()}
        assert resource.closed == []
    assert set(resource.opened) == used
    assert sorted(resource.opened) == sorted(resource.closed)
    assert len(resource.opened) == len(set(resource.opened))


def test_a_resource_that_only_one_of_two_workers_opened_is_closed_in_that_worker() -> None:
    """A closing call that lands in the worker without resources does not take the place of the one that has them."""
    resource = Resource()
    open_resource = resource.open
    met, plain_is_done = threading.Barrier(2), threading.Event()

    @task
    def plain() -> None:
        met.wait(30)

    @task
    def holds() -> str:
        held = worker_resource(open_resource)
        met.wait(30)
        assert plain_is_done.wait(30)
        return held

    with ExecutorTaskRunner(max_workers=2) as runner:
        idle_first = runner.submit(plain, {})
        idle_last = runner.submit(holds, {})
        idle_first.add_done_callback(lambda _: plain_is_done.set())
        wait([idle_first, idle_last])
    assert resource.closed == resource.opened == [idle_last.result()]


def test_worker_resource_outside_a_worker_says_what_to_do() -> None:
    """There is no pool that could close it."""
    with pytest.raises(FanoutError, match="works only inside a task"):
        worker_resource(Resource().open)


def test_cancel_all_on_the_template_reaches_the_running_duplicate() -> None:
    """Prefect's engine calls it on the runner that decorates the flow, not on the one that runs."""
    gate = Gate()
    template = ExecutorTaskRunner(max_workers=1)

    @flow(task_runner=template)
    def run() -> list[bool]:
        futures = [gate.hold.submit() for _ in range(3)]
        gate.wait_for_worker()
        template.cancel_all()
        gate.opened.set()
        wait(futures)
        with pytest.raises(RuntimeError, match="after shutdown"):
            gate.hold.submit()
        return [future.cancelled() for future in futures]

    assert run() == [False, True, True]
    assert template._live == {}
    with template as again:  # the template itself is not spent
        assert again.submit(double, {"x": 1}).result() == 2


def test_cancel_all_stops_a_running_chunk_after_the_item_it_is_at() -> None:
    """The items of the chunk that have not begun come out as cancelled, the one that runs as done."""
    gate = Gate()
    with ExecutorTaskRunner(max_workers=1, chunksize=10) as runner:
        futures = runner.map(gate.hold, {"x": range(10)})
        gate.wait_for_worker()
        runner.cancel_all()
        gate.opened.set()
        wait(futures)
    assert futures[0].result() == 0
    assert [future.cancelled() for future in futures] == [False] + [True] * 9


def test_unwaited_task_runs_of_a_flow_that_completes_still_run() -> None:
    """A bounded pool must not drop what Prefect's unbounded one would have run."""
    ran: list[int] = []

    @task
    def note(x: int) -> None:
        ran.append(x)

    @flow(task_runner=ExecutorTaskRunner(max_workers=1))
    def forgets() -> str:
        for n in range(5):
            note.submit(n)
        return "done"

    assert forgets() == "done"
    assert ran == [0, 1, 2, 3, 4]


def test_statistics_timeline_and_repr_show_what_goes_on() -> None:
    """Waiting, queued, running and done task runs are counted, and who ran what is remembered."""
    gate = Gate()
    runner = ExecutorTaskRunner(max_workers=1, chunksize=2)
    assert repr(runner) == "<ExecutorTaskRunner('thread', max_workers=1, chunksize=2), not started>"
    with runner:
        held = runner.submit(gate.hold, {"x": 1})
        gate.wait_for_worker()
        after = runner.submit(double, {"x": held})
        queued = runner.submit(double, {"x": 2})
        now = runner.statistics()
        assert (now.max_workers, now.waiting, now.queued, now.running, now.completed) == (1, 1, 1, 1, 0)
        assert repr(runner).endswith(": 1 running, 1 queued, 1 waiting, 0 done>")
        gate.opened.set()
        wait([held, after, queued], return_when=FIRST_COMPLETED)
        runner.map(double, {"x": range(4)}).wait()
        wait([after, queued])
        then = runner.statistics()
        assert (then.completed, then.items, then.workers) == (5, 7, 1)
        timeline = runner.timeline()
    assert [entry.items for entry in timeline] == [1, 1, 1, 2, 2]
    assert {entry.name for entry in timeline if entry.items == 2} == {"double[0:2]", "double[2:4]"}
    for entry in timeline:
        assert entry.worker == "fanout_0"
        assert 0 < entry.queued <= entry.started <= entry.ended


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_workers": 0}, "max_workers must be a whole number of workers from 1"),
        ({"max_workers": 1.5}, "max_workers must be a whole number"),
        ({"chunksize": 0}, "chunksize must be a whole number of items from 1"),
        ({"chunksize": "some"}, "chunksize must be 'auto' or a whole number"),
        ({"executor": "threads"}, "executor must be 'thread'"),
        ({"executor": "process"}, "not part of this release"),
        ({"executor": 3}, "executor must be 'thread'"),
        ({"initializer": 3}, "initializer must be callable"),
        ({"executor": ThreadPoolExecutor, "max_workers": 3}, "max_workers can be set only for executor='thread'"),
        ({"executor": ProcessPoolExecutor(1)}, "runs calls in other processes"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(arguments: dict[str, Any], message: str) -> None:
    """The error names the argument, what was expected and what was got."""
    with pytest.raises(FanoutError, match=message):
        ExecutorTaskRunner(**arguments)


def test_a_factory_that_makes_no_executor_crashes_the_task_run_with_its_reason() -> None:
    """The mistake shows in the first future, not as a hang."""
    with ExecutorTaskRunner(lambda: "a pool") as runner:  # type: ignore[arg-type, return-value] # the mistake
        future = runner.submit(double, {"x": 1})
    with pytest.raises(FanoutError, match=r"must return a concurrent\.futures\.Executor"):
        future.result()


def test_a_live_executor_that_its_owner_shut_down_crashes_the_task_run() -> None:
    """Nothing hangs when the executor takes no more calls."""
    with ThreadPoolExecutor(1) as mine:
        pass
    with ExecutorTaskRunner(mine) as runner:
        future = runner.submit(double, {"x": 1})
        with pytest.raises(RuntimeError, match="after shutdown"):
            future.result()
        assert future.state.is_crashed()
