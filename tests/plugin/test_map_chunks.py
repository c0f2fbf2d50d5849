"""What a chunk is to Prefect: one task run with its name, tags, hooks and upstream links, and what it refuses."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prefect import flow, tags, task
from prefect.cache_policies import INPUTS, NO_CACHE
from prefect.client.schemas.objects import TaskRun, TaskRunResult
from prefect.futures import PrefectFuture
from prefect.settings import (
    PREFECT_RESULTS_PERSIST_BY_DEFAULT,
    PREFECT_TASKS_DEFAULT_PERSIST_RESULT,
    temporary_settings,
)
from prefect.tasks import Task

from prefect_fanout import ExecutorTaskRunner, FanoutError, fan_out
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
def odd_fails(x: int) -> int:
    """Fail on odd numbers."""
    if x % 2:
        raise ValueError(f"odd {x}")
    return x


def runs_in_flow(chunksize: Any, count: int, body: Callable[[], Any], **options: Any) -> dict[str, TaskRun]:
    """The task runs, by name, that the API has of a flow that runs `body`, once `count` of them are final."""
    ids: list[UUID] = []

    @flow(task_runner=Runner(max_workers=2, chunksize=chunksize), **options)
    def chunked() -> None:
        ids.append(this_flow_run_id())
        body()

    chunked()
    runs = eventually(lambda: task_runs_of(ids[0]), lambda found: all_final(found, count))
    return {run.name: run for run in runs}


@pytest.mark.parametrize(
    ("chunksize", "names"),
    [
        (1, ["same[0:1]", "same[1:2]", "same[2:3]", "same[3:4]", "same[4:5]"]),
        (2, ["same[0:2]", "same[2:4]", "same[4:5]"]),
        (5, ["same[0:5]"]),
        (6, ["same[0:5]"]),
    ],
)
def test_a_chunk_is_one_task_run_named_after_its_items(chunksize: int, names: list[str]) -> None:
    """The API has as many task runs as there are chunks; the last one is as short as what is left."""
    assert list(runs_in_flow(chunksize, len(names), lambda: same.map(range(5)).wait())) == names


def test_an_empty_map_makes_no_task_run() -> None:
    """Nothing to do is nothing to see."""

    def body() -> None:
        assert same.map([]).result() == []
        same.submit(1).wait()

    assert [name.partition("-")[0] for name in runs_in_flow(3, 1, body)] == ["same"]


def test_the_auto_size_makes_fewer_task_runs_than_items() -> None:
    """Fast chunks double, so that 64 items need far fewer than 64 task runs; every item is in exactly one."""
    counts: list[int] = []

    @flow(task_runner=Runner(max_workers=1, chunksize="auto"))
    def grows() -> list[int]:
        futures = same.map(range(64))
        values = list(futures.result())
        counts.append(len({future.task_run_id for future in futures}))
        return values

    assert grows() == list(range(64))
    assert counts[0] < 32


def test_a_chunk_carries_the_tasks_tags_and_those_of_the_context() -> None:
    """Chunks that are cut after the `tags` block has ended carry them too."""
    tagged = same.with_options(tags=["of-the-task"])

    def body() -> None:
        with tags("of-the-block"):
            futures = tagged.map(range(12))
        futures.wait()

    runs = runs_in_flow(2, 6, body)
    assert [set(run.tags) for run in runs.values()] == [{"of-the-task", "of-the-block"}] * 6


def test_a_chunk_with_failed_items_is_failed_and_says_how_many() -> None:
    """On the server one bad item makes its chunk Failed, with the counts in the message, and harms no other chunk."""
    runs = runs_in_flow(2, 3, lambda: odd_fails.map([0, 1, 2, 4, 5]).wait())
    assert {name: run.state_name for name, run in runs.items()} == {
        "odd_fails[0:2]": "Failed",
        "odd_fails[2:4]": "Completed",
        "odd_fails[4:5]": "Failed",
    }
    first = runs["odd_fails[0:2]"].state
    assert first is not None
    assert first.message == "1 of 2 items done, 1 failed, the first with ValueError('odd 1')"


def test_a_chunk_whose_upstream_failed_ends_in_a_final_state() -> None:
    """NotReady, which Prefect leaves Pending for ever, is final once the runner has ended."""

    def body() -> None:
        same.map(range(3), wait_for=[odd_fails.submit(1)]).wait()

    runs = runs_in_flow(2, 3, body)
    assert {run.state_name for name, run in runs.items() if name.startswith("same[")} == {"NotReady"}


def test_a_chunk_is_linked_to_what_its_items_come_from() -> None:
    """Upstream task runs of items, of shared arguments and of `wait_for` are the chunk's inputs on the server."""
    upstream: list[PrefectFuture[Any]] = []
    pair = Task(lambda x, y: (x, y), name="pair")

    def body() -> None:
        upstream.extend(same.submit(n) for n in range(5))
        pair.map([upstream[0], [upstream[1]], {"k": upstream[2]}], upstream[3], wait_for=[upstream[4]]).wait()

    def ids(*positions: int) -> set[UUID]:
        return {upstream[position].task_run_id for position in positions}

    runs = runs_in_flow(3, 6, body)
    inputs = {
        name: {found.id for found in of_name if isinstance(found, TaskRunResult)}
        for name, of_name in runs["pair[0:3]"].task_inputs.items()
    }
    assert inputs == {"x": ids(0, 1, 2), "y": ids(3), "wait_for": ids(4)}


@pytest.mark.parametrize("fails", [False, True])
def test_hooks_run_once_per_chunk(fails: bool) -> None:
    """The task's own hooks see the chunk's task run, not each item."""
    calls: list[tuple[str, str]] = []

    def hook(kind: str) -> Callable[..., None]:
        return lambda task_, run, state: calls.append((kind, run.name))

    watched = (odd_fails if fails else same).with_options(
        name="watched",
        on_running=[hook("running")],
        on_completion=[hook("completion")],
        on_failure=[hook("failure")],
    )
    with Runner(max_workers=1, chunksize=2) as runner:
        runner.map(watched, {"x": [1, 2, 3, 5]}).wait()
    end = "failure" if fails else "completion"
    assert calls == [
        ("running", "watched[0:2]"),
        (end, "watched[0:2]"),
        ("running", "watched[2:4]"),
        (end, "watched[2:4]"),
    ]


def test_a_chunk_is_cut_only_when_a_worker_is_near() -> None:
    """Of a long map only two chunks per worker are known to the API before the first has ended."""
    release = threading.Event()
    made = 0

    @task
    def block(x: int) -> int:
        assert release.wait(30)
        return x

    with Runner(max_workers=1, chunksize=2) as runner:
        futures = runner.map(block, {"x": range(20)})
        now = runner.statistics()
        made = now.waiting + now.queued + now.running
        release.set()
        assert futures.result() == list(range(20))
    assert made == 2


@given(count=st.integers(0, 23), chunksize=st.integers(1, 25), workers=st.integers(1, 3))
@settings(max_examples=20, deadline=None)
def test_cutting_and_putting_together_is_identity(count: int, chunksize: int, workers: int) -> None:
    """For any number of items and any chunk size, the results are the items, in order, each once."""
    with Runner(max_workers=workers, chunksize=chunksize) as runner:
        futures = runner.map(same, {"x": range(count)})
        assert futures.result() == [future.result() for future in futures] == list(range(count))
        assert len({future.task_run_id for future in futures}) == -(-count // chunksize)
        outcomes = list(fan_out(same, range(count), chunksize=chunksize, runner=runner))
    assert sorted((o.index, o.item, o.value) for o in outcomes) == [(n, n, n) for n in range(count)]


def generate(x: int) -> Iterator[int]:
    """A generator task's function."""
    yield x


REFUSED: dict[str, Callable[[], Task[..., Any]]] = {
    "it is a generator": lambda: Task(generate),
    "cache_policy": lambda: same.with_options(cache_policy=INPUTS),
    "cache_key_fn": lambda: same.with_options(cache_key_fn=lambda context, parameters: "key"),
    "cache_expiration": lambda: same.with_options(cache_expiration=timedelta(days=1)),
    "result_storage_key": lambda: same.with_options(result_storage_key="key-{parameters[x]}"),
    "persist_result": lambda: same.with_options(persist_result=True),
    "on_commit": lambda: with_hook("on_commit"),
    "on_rollback": lambda: with_hook("on_rollback"),
}


def with_hook(name: str) -> Task[..., Any]:
    """A task with a transaction hook."""
    fresh: Task[..., Any] = Task(same.fn, name="hooked")
    getattr(fresh, name)(lambda transaction: None)
    return fresh


@pytest.mark.filterwarnings(
    "ignore:.*persist_result.*:UserWarning"
)  # Prefect warns of settings that do not go together
@pytest.mark.parametrize("feature", REFUSED)
def test_what_a_chunk_cannot_honour_is_refused_by_name(feature: str) -> None:
    """The error names the task and the feature, says what to do, and nothing has been submitted."""
    refused = REFUSED[feature]()
    with Runner(chunksize=2) as runner:
        with pytest.raises(FanoutError, match=f"because of: .*{feature}.*chunksize=None") as by_map:
            runner.map(refused, {"x": [1, 2]})
        with pytest.raises(FanoutError, match=f"because of: .*{feature}"):
            fan_out(refused, [1, 2], runner=runner)
        assert runner.statistics().completed == 0
    assert repr(refused.name) in str(by_map.value)


@pytest.mark.parametrize("setting", [PREFECT_TASKS_DEFAULT_PERSIST_RESULT, PREFECT_RESULTS_PERSIST_BY_DEFAULT])
def test_results_persisted_by_a_setting_are_refused_and_can_be_turned_off(setting: Any) -> None:
    """A setting counts like the task's own option, and the way out that the error names works."""
    with temporary_settings(updates={setting: True}), Runner(chunksize=2) as runner:
        with pytest.raises(FanoutError, match="persist_result"):
            runner.map(same, {"x": [1, 2]})
        assert runner.map(same.with_options(persist_result=False), {"x": [1, 2]}).result() == [1, 2]


def test_results_persisted_by_the_flow_are_refused() -> None:
    """`@flow(persist_result=True)` counts for the tasks in it."""

    @flow(task_runner=Runner(chunksize=2), persist_result=True)
    def persists() -> int:
        with pytest.raises(FanoutError, match="persist_result"):
            same.map([1, 2])
        return 1

    assert persists() == 1


@pytest.mark.parametrize("policy", [None, NO_CACHE])
def test_a_task_without_caching_is_not_refused(policy: Any) -> None:
    """Turning caching off on the task is no reason to refuse it."""
    with Runner(chunksize=2) as runner:
        assert runner.map(same.with_options(cache_policy=policy), {"x": [1, 2, 3]}).result() == [1, 2, 3]


def test_one_task_run_per_item_takes_what_a_chunk_refuses() -> None:
    """Without a chunk size nothing is refused."""
    with Runner() as runner:
        assert runner.map(same.with_options(cache_policy=INPUTS), {"x": [1, 2]}).result() == [1, 2]
