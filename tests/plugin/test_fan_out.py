"""`fan_out`: any iterable, read lazily, in chunks, with one outcome per item whatever happens."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any
from uuid import UUID

import pytest
from prefect import flow, task
from prefect.futures import PrefectFuture
from prefect.task_runners import ThreadPoolTaskRunner
from prefect.utilities.annotations import allow_failure

from prefect_fanout import ExecutorTaskRunner, FanoutError, Outcome, OutcomeStatus, fan_out
from prefect_fanout._sizing import FAST_CHUNK_S, MAX_AUTO_CHUNKSIZE, SLOW_CHUNK_S, ChunkSizer
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
    await asyncio.sleep(0)
    return x


@task
def odd_fails(x: int) -> int:
    """Fail on odd numbers."""
    if x % 2:
        raise ValueError(f"odd {x}")
    return x


@task
def label(x: Any, y: Any = "y", *, z: Any = "z") -> str:
    """Three parameters, two with defaults."""
    return f"{x}{y}{z}"


class Source:
    """An iterable that notes how much of it was read; `n` items, or without end."""

    def __init__(self, n: int | None = None, error: Exception | None = None) -> None:
        self.read = 0
        self.n = n
        self.error = error

    def __iter__(self) -> Iterator[int]:
        while self.n is None or self.read < self.n:
            self.read += 1
            yield self.read - 1
        if self.error is not None:
            raise self.error


class Gate:
    """A task that holds its worker at chosen items until it is let go, and notes what ran."""

    def __init__(self, *closed: int) -> None:
        self.entered = threading.Event()
        self.opened = threading.Event()
        self.ran: list[int] = []

        @task
        def pass_gate(x: int) -> int:
            if x in closed:
                self.entered.set()
                assert self.opened.wait(30)
            self.ran.append(x)
            return x

        self.task = pass_gate

    def open_when_entered(self, before: Callable[[], object] = lambda: None) -> None:
        """Let the held worker go as soon as it has come, after a call of `before`."""
        assert self.entered.wait(30)
        before()
        self.opened.set()


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize(("in_flight", "chunksize"), [(1, 1), (1, 3), (2, 1), (2, 2), (5, 4)])
def test_never_more_than_the_window_is_read_ahead(in_flight: int, chunksize: int, ordered: bool) -> None:
    """At each outcome, what was read and not handed out fits the window; nothing is read before the first next()."""
    source, most = Source(23), 0
    with Runner(max_workers=2) as runner:
        stream = fan_out(same, source, chunksize=chunksize, in_flight=in_flight, ordered=ordered, runner=runner)
        assert source.read == 0
        for handed_out, _ in enumerate(stream):
            most = max(most, source.read - handed_out)
    assert source.read == 23
    assert most <= in_flight * chunksize


@pytest.mark.parametrize("ordered", [False, True])
def test_an_endless_input_can_be_left(ordered: bool) -> None:
    """A generator without end is read no further once the stream is closed, and the runner ends."""
    source = Source()
    with Runner(max_workers=2) as runner:
        stream = fan_out(same, source, chunksize=2, in_flight=3, ordered=ordered, runner=runner)
        first = [next(stream) for _ in range(10)]
        stream.close()
        read = source.read
    assert len({outcome.index for outcome in first}) == 10
    assert source.read == read <= 10 + 2 * 3


@pytest.mark.parametrize("ordered", [False, True])
def test_order_is_that_of_the_input_only_if_asked_for(ordered: bool) -> None:
    """Unordered, a chunk that is held up lets the others out first; ordered, they wait for it."""
    gate = Gate(0)
    with Runner(max_workers=2) as runner:
        stream = fan_out(gate.task, range(6), chunksize=2, in_flight=3, ordered=ordered, runner=runner)
        if ordered:
            threading.Thread(target=gate.open_when_entered).start()
            assert [outcome.index for outcome in stream] == [0, 1, 2, 3, 4, 5]
        else:
            early = [next(stream).index for _ in range(4)]
            gate.opened.set()
            assert early == [2, 3, 4, 5]
            assert [outcome.index for outcome in stream] == [0, 1]


@pytest.mark.parametrize("chunksize", [1, 2, 5, "auto"])
@pytest.mark.parametrize("which", [odd_fails, odd_fails.with_options(name="again")])
def test_every_index_comes_out_exactly_once(which: Any, chunksize: Any) -> None:
    """With failures among them, on several workers, unordered."""
    with Runner(max_workers=3) as runner:
        outcomes = list(fan_out(which, iter(range(41)), chunksize=chunksize, runner=runner))
    assert Counter(outcome.index for outcome in outcomes) == Counter(range(41))
    for outcome in outcomes:
        assert outcome.item == outcome.index
        assert (outcome.value, str(outcome.error)) == (
            (None, f"odd {outcome.index}") if outcome.index % 2 else (outcome.index, "None")
        )


def test_an_outcome_gives_its_value_or_raises_its_error() -> None:
    """`result()` is a future's: the value, or the error."""
    with Runner() as runner:
        good, bad = fan_out(odd_fails, [2, 3], chunksize=2, runner=runner)
    assert good == Outcome(0, 2, OutcomeStatus.OK, value=2)
    assert (good.ok, good.result()) == (True, 2)
    assert (bad.ok, bad.status, bad.value, bad.attempts) == (False, OutcomeStatus.FAILED, None, 1)
    with pytest.raises(ValueError, match="odd 3"):
        bad.result()


def test_several_iterables_are_zipped_and_end_with_the_shortest() -> None:
    """The items of an outcome are the tuples; static arguments go to all."""
    with Runner() as runner:
        outcomes = list(fan_out(label, "abc", Source(), static={"z": "!"}, chunksize=2, ordered=True, runner=runner))
    assert [outcome.item for outcome in outcomes] == [("a", 0), ("b", 1), ("c", 2)]
    assert [outcome.value for outcome in outcomes] == ["a0!", "b1!", "c2!"]


def test_static_arguments_may_be_futures_and_are_not_iterated() -> None:
    """A list in `static` goes to every item as it is; a future is resolved first."""
    with Runner(max_workers=1) as runner:
        static = {"y": [1, 2], "z": runner.submit(same, {"x": "later"})}
        outcomes = list(fan_out(label, "ab", static=static, chunksize=1, ordered=True, runner=runner))
    assert [outcome.value for outcome in outcomes] == ["a[1, 2]later", "b[1, 2]later"]


@pytest.mark.parametrize(
    ("iterables", "static", "message"),
    [
        ((), {}, "needs at least one iterable"),
        (([1],), {"x": 2}, "multiple values for argument 'x'"),
        (([1],), {"unknown": 2}, "unexpected keyword argument 'unknown'"),
        (([1], [2], [3]), {}, "too many positional arguments"),
    ],
)
def test_arguments_that_do_not_fit_the_task_are_refused_at_the_call(iterables: Any, static: Any, message: str) -> None:
    """The error comes from the call itself, not from the first next(), and nothing has been read."""
    with Runner() as runner, pytest.raises(FanoutError, match=message):
        fan_out(label, *iterables, static=static, runner=runner)


@pytest.mark.parametrize(
    ("name", "value"),
    [("chunksize", value) for value in (0, -1, 1.5, "big", True, None, 1_000_001)]
    + [("in_flight", value) for value in (0, -1, 2.0, 10_001)],
)
def test_sizes_out_of_range_are_refused_at_the_call(name: str, value: Any) -> None:
    """The error names the argument and what was given."""
    with Runner() as runner, pytest.raises(FanoutError, match=f"{name} must be .*got {value!r}"):
        fan_out(same, [1], runner=runner, **{name: value})


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("readable", [0, 1, 2, 7])
def test_an_input_that_raises_is_reported_after_the_outcomes_of_what_was_read(readable: int, ordered: bool) -> None:
    """Nothing that was read is lost: the outcomes come first, then the input's own error."""
    got: list[int] = []
    with Runner(max_workers=2) as runner:
        stream = fan_out(
            same, Source(readable, OSError("disk")), chunksize=2, in_flight=2, ordered=ordered, runner=runner
        )
        with pytest.raises(OSError, match="disk"):
            got.extend(outcome.index for outcome in stream)
    assert sorted(got) == list(range(readable))


@dataclass
class Unset:
    """An instance breaks when Prefect looks through it for futures: the field `unset` has no value."""

    number: int
    unset: int = field(init=False)


@pytest.mark.parametrize("broken", [0, 1, 4])
def test_an_item_that_cannot_be_looked_into_loses_no_other_outcome(broken: int) -> None:
    """The outcomes of all items read before it still come out."""
    items: list[Any] = [0, 1, 2, 3, 4, 5, 6]
    items[broken] = Unset(broken)
    got: dict[int, Outcome] = {}
    with Runner(max_workers=1) as runner:
        try:
            for outcome in fan_out(same, items, chunksize=1, in_flight=2, runner=runner):
                got[outcome.index] = outcome
        except AttributeError as error:
            assert "unset" in str(error)  # noqa: PT017 - either the item fails or the stream ends; both name the field
    assert set(range(broken)) <= set(got)
    assert all(outcome.ok for index, outcome in got.items() if index != broken)


def test_closing_early_cancels_what_has_not_begun(prefect_server: Any) -> None:
    """Queued chunks and the rest of the running one never run, and the API says so."""
    gate = Gate(0)
    ids: list[UUID] = []

    @flow(task_runner=Runner(max_workers=1))
    def leaves() -> int:
        ids.append(this_flow_run_id())
        stream = fan_out(gate.task, Source(), chunksize=2, in_flight=4)
        opening = threading.Thread(target=gate.open_when_entered)
        opening.start()
        assert next(stream).index == 0
        stream.close()
        opening.join()
        return 1

    assert leaves() == 1
    runs = eventually(lambda: task_runs_of(ids[0]), lambda found: bool(found) and all_final(found, len(found)))
    assert all(run.state is not None and run.state.is_final() for run in runs)
    assert len(gate.ran) <= 2 * 4


def test_closing_cancels_the_rest_of_a_running_chunk() -> None:
    """The item that runs ends as it ends; the items after it in its chunk are not begun."""
    gate = Gate(2)
    with Runner(max_workers=2) as runner:
        stream = fan_out(gate.task, [0, 1, 2, 3, 4, 5], chunksize=2, in_flight=3, runner=runner)
        assert next(stream).index in (0, 4)
        assert gate.entered.wait(30)
        stream.close()
        gate.opened.set()
    assert 3 not in gate.ran
    assert 2 in gate.ran


def test_a_stream_that_was_never_started_has_no_effect() -> None:
    """Reading begins with the first next(): closing before it reads and runs nothing."""
    source = Source()
    with Runner() as runner:
        fan_out(same, source, runner=runner).close()
        assert runner.statistics().completed == 0
    assert source.read == 0


def test_outcomes_of_a_runner_that_was_told_to_cancel_are_cancelled_then_an_error() -> None:
    """What was read comes out as cancelled, then the stream says that the input was not finished."""
    gate = Gate(0)
    with Runner(max_workers=1) as runner:
        stream = fan_out(gate.task, Source(), chunksize=1, in_flight=3, runner=runner)
        canceller = threading.Thread(target=gate.open_when_entered, args=(runner.cancel_all,))
        canceller.start()
        outcomes: list[Outcome] = []
        with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
            outcomes.extend(stream)
        canceller.join()
    assert {outcome.index for outcome in outcomes} == {0, 1, 2}
    for outcome in outcomes:
        assert outcome.index == 0 or isinstance(outcome.error, CancelledError)
        assert outcome.status is (OutcomeStatus.OK if outcome.index == 0 else OutcomeStatus.CANCELLED)
        assert outcome.attempts == (1 if outcome.index == 0 else 0)


def test_without_a_runner_the_error_says_what_to_do() -> None:
    """Outside a flow, on the stock runner, and on a runner that is not started, the call itself fails."""
    with pytest.raises(FanoutError, match=r"outside a flow.*task_runner=ExecutorTaskRunner\(\).*runner=runner"):
        fan_out(same, [1])
    stock: Any = ThreadPoolTaskRunner()
    with pytest.raises(RuntimeError, match="must be started"):
        fan_out(same, [1], runner=Runner())

    @flow(task_runner=stock)
    def on_stock() -> int:
        with pytest.raises(FanoutError, match=r"runs on ThreadPoolTaskRunner.*pass runner="):
            fan_out(same, [1])
        with Runner() as runner:
            return sum(outcome.value for outcome in fan_out(same, [1, 2], runner=runner))

    assert on_stock() == 3


def test_nested_streams_complete_with_one_worker() -> None:
    """A task that fans out on the runner that runs it does the work itself, two levels deep."""

    @task
    def middle(x: int) -> int:
        return sum(outcome.result() for outcome in fan_out(same, range(x), chunksize=2, ordered=True))

    @task
    def outer() -> list[int]:
        return [outcome.result() for outcome in fan_out(middle, range(5), chunksize=2, ordered=True)]

    @flow(task_runner=Runner(max_workers=1))
    def nested() -> list[int]:
        return list(outer.submit().result())

    assert nested() == [0, 0, 1, 3, 6]


@pytest.mark.parametrize("nested", [False, True])
def test_async_tasks_fan_out(nested: bool) -> None:
    """Coroutines run in chunks too, also from inside an async task on the only worker."""

    @task
    async def outer() -> list[Any]:
        return [outcome.result() for outcome in fan_out(same_async, range(7), chunksize=3, ordered=True, runner=runner)]

    with Runner(max_workers=1) as runner:
        values = runner.submit(outer, {}).result() if nested else asyncio.run(outer.fn())
    assert values == list(range(7))


def test_a_slow_input_does_not_hold_back_outcomes() -> None:
    """While the input has nothing to give, what is done comes out: item 1 is made from the outcome of item 0."""
    received: list[int] = []

    def answers_itself() -> Iterator[int]:
        yield 0
        for n in range(1, 4):
            assert received[-1] == n - 1, "the outcome before this item is out"
            yield n

    with Runner(max_workers=1) as runner:
        received.extend(
            outcome.index for outcome in fan_out(same, answers_itself(), chunksize=1, in_flight=1, runner=runner)
        )
    assert received == [0, 1, 2, 3]


def test_items_may_be_futures() -> None:
    """Futures, alone or inside collections, are resolved before the item runs; a failed one fails its item only."""
    with Runner(max_workers=1) as runner:
        futures: list[PrefectFuture[Any]] = [runner.submit(odd_fails, {"x": n}) for n in range(3)]
        items: list[Any] = [*futures, {"in": [futures[2]]}, allow_failure(futures[1])]
        outcomes = list(fan_out(same, items, chunksize=5, runner=runner))
    assert [outcome.ok for outcome in outcomes] == [True, False, True, True, True]
    assert [outcomes[n].value for n in (0, 2, 3)] == [0, 2, {"in": [2]}]
    assert isinstance(outcomes[4].value, ValueError)
    assert outcomes[0].item is futures[0]


def test_the_auto_size_grows_on_fast_chunks() -> None:
    """A thousand quick items are few task runs, and no chunk is more than sixteen times the one before it."""
    with Runner(max_workers=1) as runner:
        assert sum(1 for _ in fan_out(same, range(1000), in_flight=1, runner=runner)) == 1000
        *sizes, last = [entry.items for entry in runner.timeline()]
    assert sum(sizes) + last == 1000
    assert sizes[0] == 1
    assert len(sizes) < 100
    assert all(after <= 16 * before for before, after in pairwise(sizes))


def test_the_sizer_doubles_halves_and_stays_within_its_bounds() -> None:
    """Fast chunks of the present size double it, slow ones halve it, others and fixed sizes change nothing."""
    sizer = ChunkSizer("auto", 1)
    for expected in (1, 2, 4, 8):
        assert sizer.size == expected
        sizer.finished(expected, FAST_CHUNK_S / 2)
    sizer.finished(8, FAST_CHUNK_S / 2)
    assert sizer.size == 16, "a chunk cut before the last change teaches nothing"
    sizer.finished(16, (FAST_CHUNK_S + SLOW_CHUNK_S) / 2)
    assert sizer.size == 16
    sizer.finished(16, SLOW_CHUNK_S * 2)
    assert sizer.size == 8
    while sizer.size > 1:
        sizer.finished(sizer.size, SLOW_CHUNK_S * 2)
    sizer.finished(1, SLOW_CHUNK_S * 2)
    assert sizer.size == 1
    sizer.finished(1, FAST_CHUNK_S / 5)
    assert sizer.size == 5
    sizer.finished(5, FAST_CHUNK_S / 100)
    assert sizer.size == 80, "one chunk teaches sixteenfold at most"
    sizer.finished(1, SLOW_CHUNK_S)
    assert sizer.size == 40, "one slow item shows that 80 take too long"
    for _ in range(30):
        sizer.finished(sizer.size, 0.0)
    assert sizer.size == MAX_AUTO_CHUNKSIZE
    fixed = ChunkSizer(7, 1)
    fixed.finished(7, 0.0)
    fixed.finished(7, SLOW_CHUNK_S * 2)
    assert fixed.size == 7


def test_the_window_is_one_chunk_per_worker_while_the_size_is_learnt() -> None:
    """Chunks wait for their turn only once the size is found, by a chunk that is right, too slow, or of the most."""
    for last in (FAST_CHUNK_S, SLOW_CHUNK_S + 1, 0.0):
        sizer = ChunkSizer("auto", 4)
        assert (sizer.window(8), sizer.window(2)) == (4, 2)
        sizer.finished(1, FAST_CHUNK_S / 2)
        assert sizer.window(8) == 4
        for _ in range(4):
            sizer.finished(sizer.size, last)
        assert sizer.window(8) == 8
    assert ChunkSizer(7, 4).window(8) == 8


def test_many_workers_make_longer_chunks() -> None:
    """The time that a chunk aims at grows with the workers, from eight on, and up to twice."""
    assert [ChunkSizer("auto", workers).fast_s for workers in (1, 8, 12, 16, 1000)] == [1.0, 1.0, 1.5, 2.0, 2.0]


class Value:
    """Something whose life can be watched."""


def test_values_live_no_longer_than_the_window() -> None:
    """A consumer that drops outcomes keeps the values of at most the window alive, and none after the end."""
    made: list[weakref.ref[Value]] = []

    @task
    def make(_: int) -> Value:
        value = Value()
        made.append(weakref.ref(value))
        return value

    alive: list[int] = []
    with Runner(max_workers=1) as runner:
        for outcome in fan_out(make, range(120), chunksize=10, in_flight=2, runner=runner):
            index = outcome.index
            del outcome
            if index % 30 == 29:
                gc.collect()
                alive.append(sum(ref() is not None for ref in made))
    gc.collect()
    assert max(alive) <= 3 * 10  # the window, and the chunk that was read out last
    assert sum(ref() is not None for ref in made) == 0


def test_a_kept_error_does_not_keep_its_chunk_alive() -> None:
    """A consumer that collects errors does not collect the values of the items beside them."""
    made: list[weakref.ref[Value]] = []

    @task
    def make(x: int) -> Value:
        if x == 3:
            raise ValueError("kept")
        value = Value()
        made.append(weakref.ref(value))
        return value

    with Runner(max_workers=1) as runner:
        stream = fan_out(make, range(10), chunksize=10, runner=runner)
        errors = [outcome.error for outcome in stream if not outcome.ok]
    gc.collect()
    assert len(errors) == 1
    assert sum(ref() is not None for ref in made) == 0
