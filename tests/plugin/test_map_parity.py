"""A chunked `.map` gives what Prefect's own `ThreadPoolTaskRunner` gives: each case runs on both and is compared."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
from prefect import flow, task
from prefect.client.schemas.objects import State
from prefect.futures import PrefectFuture
from prefect.states import Cancelled, Completed, Failed
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner
from prefect.utilities.annotations import allow_failure, opaque, quote, unmapped
from pydantic import BaseModel, ConfigDict

from prefect_fanout import ExecutorTaskRunner

pytestmark = pytest.mark.usefixtures("prefect_server")

N = 3
CHUNKSIZES = [None, 1, 2, N, N + 1, "auto"]
STOCK = "stock"
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")

seen_by_item: ContextVar[int | None] = ContextVar("seen_by_item", default=None)


@dataclass
class Pair:
    left: Any
    right: Any


class Model(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    value: Any


class OddError(Exception):
    def __init__(self, number: int, hint: str) -> None:
        super().__init__(number, hint)


@task
def same(x: Any) -> Any:
    """Return the argument."""
    return x


@task
async def same_async(x: Any) -> Any:
    """Return the argument, from a coroutine."""
    return x


@task
def add(x: Any, y: Any = 10) -> Any:
    """Two parameters, one with a default."""
    return x + y


@task
def join(first: Any, /, second: Any, *, third: Any = "c", **more: Any) -> str:
    """Every kind of parameter but *args."""
    return f"{first}{second}{third}{sorted(more.items())}"


@task
def gather(*values: Any) -> list[Any]:
    """Take any number of positional arguments."""
    return list(values)


@task
def gather_keywords(**values: Any) -> dict[str, Any]:
    """Take any number of keyword arguments."""
    return dict(sorted(values.items()))


@task
def odd_fails(x: int) -> int:
    """Fail on odd numbers."""
    if x % 2:
        raise OddError(x, "even ones pass")
    return x


@task
async def odd_fails_async(x: int) -> int:
    """Fail on odd numbers, from a coroutine."""
    if x % 2:
        raise OddError(x, "even ones pass")
    return x


@task
def numbers(count: int = N) -> list[int]:
    """A list to map over."""
    return list(range(count))


@task
def kind(x: Any) -> str:
    """What arrives, by type."""
    return f"{type(x).__name__}: {x}" if isinstance(x, str | int | Exception) else str(isinstance(x, PrefectFuture))


@task
def inside(x: Any) -> Any:
    """The value inside what arrives."""
    return x.value if isinstance(x, Model) else [x.left, x.right] if isinstance(x, Pair) else x


@task
def returns(x: Any) -> Any:
    """Make and return what the item asks for."""
    return x()


@task
def leaves_context(x: int) -> int | None:
    """Set a context variable and return what it was."""
    before = seen_by_item.get()
    seen_by_item.set(x)
    return before


class Scale:
    def __init__(self, factor: int) -> None:
        self.factor = factor

    @task
    def times(self, x: int) -> int:
        """Be a method."""
        return self.factor * x


def odd_and_even() -> list[PrefectFuture[int]]:
    """Futures that succeed and fail by turns."""
    return [odd_fails.submit(n) for n in range(N)]


def made_states() -> list[Callable[[], Any]]:
    """What makes states of each kind."""
    return [
        lambda: Completed(data=1),
        lambda: Completed(message="nothing to do", name="Skipped", data=2),
        lambda: Failed(data=ValueError("in a state")),
        lambda: Failed(message="without an error"),
        lambda: Cancelled(message="by the task"),
    ]


def lists_of_states() -> list[Callable[[], Any]]:
    """What makes several states at once."""
    return [
        lambda: [Completed(data=1), Completed(data=2)],
        lambda: [Completed(data=1), Failed(data=ValueError("second"))],
        list,
    ]


CASES: dict[str, Callable[[], Any]] = {
    "list": lambda: same.map(list(range(N))),
    "range": lambda: same.map(range(N)),
    "generator": lambda: same.map(n * n for n in range(N)),
    "iterator": lambda: same.map(iter([3, 1, 2])),
    "tuple": lambda: same.map(("a", "b", "c")),
    "dictionary is its keys": lambda: same.map({"a": 1, "b": 2}),
    "dictionary items": lambda: same.map({"a": 1, "b": 2}.items()),
    "list of lists": lambda: same.map([[1], [2, 3], []]),
    "text is not an iterable": lambda: add.map(["a", "b"], "cd"),
    "nothing in it": lambda: same.map([]),
    "an empty generator": lambda: add.map(iter(()), []),
    "no iterable": lambda: same.map(1),
    "different lengths": lambda: add.map([1, 2, 3], [1, 2]),
    "an empty one beside another": lambda: add.map([1, 2, 3], []),
    "unknown keyword": lambda: same.map([1], nothing=2),
    "two iterables": lambda: add.map(range(N), range(0, 10 * N, 10)),
    "default": lambda: add.map(range(N)),
    "static number": lambda: add.map(range(N), 100),
    "keywords": lambda: add.map(y=range(N), x=1000),
    "unmapped": lambda: add.map([[n] for n in range(N)], unmapped([7, 8])),
    "only unmapped": lambda: same.map(unmapped([1, 2])),
    "unmapped None": lambda: gather_keywords.map(a=range(3), b=unmapped(None)),
    "unmapped future": lambda: add.map([[n] for n in range(N)], unmapped(numbers.submit(2))),
    "unmapped failed future": lambda: add.map(range(N), unmapped(odd_fails.submit(1))),
    "every kind of parameter": lambda: join.map("ab", ["x", "y"], third=["1", "2"], fourth=[3, 4], fifth="static"),
    "keyword variadics": lambda: gather_keywords.map(a=range(N), b=range(N), c="s", d=unmapped([1, 2])),
    "positional variadics": lambda: gather.map([1, 2, 3]),
    "two positional variadics": lambda: gather.map([1, 2], [3, 4]),
    "method": lambda: Scale(3).times.map(range(N)),
    "quote": lambda: same.map(quote([1, "b", [2]])),
    "quoted items": lambda: same.map([quote([1]), quote("b"), quote([2])]),
    "quoted future": lambda: kind.map(quote([same.submit(1)])),
    "unmapped quote": lambda: add.map([[n] for n in range(N)], unmapped(quote([1, 2]))),
    "opaque": lambda: same.map(opaque([1, [2], {"three": 3}])),
    "opaque future items": lambda: same.map([opaque(numbers.submit(2)), opaque(same.submit({"a": 1}))]),
    "allow_failure": lambda: kind.map(allow_failure(odd_and_even())),
    "allow_failure of items": lambda: kind.map([allow_failure(future) for future in odd_and_even()]),
    "allow_failure of one for all": lambda: gather_keywords.map(
        a=range(N), b=unmapped(allow_failure(same.submit("fine")))
    ),
    "unmapped in allow_failure": lambda: gather_keywords.map(a=range(N), b=allow_failure(unmapped([1, 2]))),
    "list of futures": lambda: same.map([same.submit(n) for n in range(N)]),
    "list of futures, some failed": lambda: same.map(odd_and_even()),
    "future of a list": lambda: same.map(numbers.submit()),
    "failed future of a list": lambda: same.map(odd_fails.submit(1)),
    "futures of another map": lambda: add.map(same.map(range(N)), same.map(range(N))),
    "futures in lists": lambda: same.map([[same.submit(1), 2], [same.submit(3)], []]),
    "futures in dictionaries": lambda: same.map([{"a": same.submit(1)}, {"b": [same.submit(2)]}]),
    "futures in dataclasses": lambda: inside.map([Pair(same.submit(1), 2), Pair(3, same.submit(4))]),
    "futures in models": lambda: inside.map([Model(value=same.submit(1)), Model(value=2)]),
    "a failed future in one dictionary": lambda: same.map([{"a": odd_fails.submit(1)}, {"a": odd_fails.submit(2)}]),
    "states as items": lambda: same.map([Completed(data=1), Completed(data=2)]),
    "wait_for": lambda: same.map(range(N), wait_for=[same.submit(1)]),
    "wait_for a failed one": lambda: same.map(range(N), wait_for=[odd_fails.submit(1)]),
    "wait_for a failed one that may fail": lambda: same.map(range(N), wait_for=[allow_failure(odd_fails.submit(1))]),
    "wait_for a map": lambda: same.map(range(N), wait_for=same.map(range(N))),
    "async": lambda: same_async.map(range(N)),
    "async failures": lambda: odd_fails_async.map(range(N)),
    "failures": lambda: odd_fails.map(range(N)),
    "all fail": lambda: odd_fails.map([1, 3, 5]),
    "None": lambda: same.map([None, None]),
    "exceptions as values": lambda: kind.map([ValueError("a value"), KeyError("b")]),
    "returned exceptions": lambda: kind.map([ValueError("a value")]),
    "returned states": lambda: returns.map(made_states()),
    "returned lists of states": lambda: returns.map(lists_of_states()),
    "return_state": lambda: odd_fails.map(range(N), return_state=True),
    "context of an item": lambda: leaves_context.map(range(N)),
}


# An item keeps the kind of a state that it returns and what that state holds, not the state's own name.
RETURNED_STATES = ("returned states", "returned lists of states")


def answer_of(future: PrefectFuture[Any] | State[Any]) -> tuple[Any, ...]:
    """The state and the result of one item, in a form that can be compared."""
    result: Any = future.result
    if isinstance(future, State):
        state = future
    else:
        future.wait()
        state = future.state
    try:
        value: Any = result(raise_on_failure=True)
    except Exception as error:  # noqa: BLE001 - any kind, and it is compared
        value = (type(error), UUID.sub("id", str(error)))
    relaxed = value if state.is_pending() else result(raise_on_failure=False)
    return state.type, state.name, comparable(value), comparable(relaxed)


def comparable(value: Any) -> Any:
    """States and exceptions are compared by what they say, not by identity."""
    if isinstance(value, list):
        return [comparable(part) for part in value]
    if isinstance(value, State):
        return value.type, value.message, comparable(value.data)
    return (type(value), str(value)) if isinstance(value, BaseException) else value


@cache
def answers(chunksize: Any) -> dict[str, Any]:
    """What every case gives in one flow on a runner, or the error that the `map` call itself raises."""
    kept: dict[str, Any] = {}
    runner: TaskRunner[Any] = ThreadPoolTaskRunner()
    if chunksize != STOCK:
        runner = ExecutorTaskRunner(max_workers=2, chunksize=chunksize)

    @flow(task_runner=runner)
    def parity() -> None:
        for name, case in CASES.items():
            try:
                futures = case()
            except Exception as error:  # noqa: BLE001 - any kind, and it is compared
                kept[name] = type(error), UUID.sub("id", str(error))
            else:
                kept[name] = [answer_of(future) for future in futures]

    parity()
    return kept


@pytest.mark.parametrize("chunksize", CHUNKSIZES)
@pytest.mark.parametrize("case", CASES)
def test_a_map_gives_what_prefects_own_runner_gives(case: str, chunksize: Any) -> None:
    """States, values, errors, their order and which items fail are the same at every chunk size."""
    ours, stock = answers(chunksize)[case], answers(STOCK)[case]
    if case in RETURNED_STATES and chunksize is not None:
        ours, stock = ([(kind, value) for kind, _, value, _ in side] for side in (ours, stock))
    assert ours == stock
