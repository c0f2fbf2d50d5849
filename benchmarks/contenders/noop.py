"""A task that does nothing, for many items: what is left is the cost of the runner."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Any, TypeVar

from prefect import flow, task
from prefect.context import FlowRunContext
from prefect.task_runners import ThreadPoolTaskRunner

from benchmarks.harness.memory import MemorySampler
from prefect_fanout import ExecutorTaskRunner, fan_out

WARM_UP_ITEMS = 50
# The streams warm up with more: the pool's threads, the sizer and the allocator shall be where they stay.
STREAM_WARM_UP_ITEMS = 20_000

T = TypeVar("T")
Work = Callable[[], dict[str, Any]]


@task
def nothing(number: int) -> int:
    """Return the item: no work, but a result that can be checked."""
    return number


# Any: Prefect types the argument of @flow so that no runner but one of plain PrefectFutures fits, its own included.
def _flow(name: str, runner: Any, body: Callable[[int], T]) -> Callable[[int], T]:
    return flow(name=name, task_runner=runner)(body)


def _map(count: int) -> dict[str, Any]:
    started = time.perf_counter()
    results = nothing.map(range(count)).result()
    seconds = time.perf_counter() - started
    if results != list(range(count)):
        raise RuntimeError("The results should be the items in their order, and are not.")
    return {"seconds": seconds, "items": count}


def stock_map(spec: dict[str, Any]) -> Work:
    """Prefect's own ThreadPoolTaskRunner with its default settings."""
    mapped = _flow("stock map", ThreadPoolTaskRunner(), _map)
    mapped(WARM_UP_ITEMS)
    return lambda: mapped(int(spec["items"]))


def our_map(spec: dict[str, Any]) -> Work:
    """ExecutorTaskRunner with its default number of threads, and chunks."""
    mapped = _flow("chunked map", ExecutorTaskRunner(chunksize=spec["chunksize"]), _map)
    mapped(WARM_UP_ITEMS)
    return lambda: mapped(int(spec["items"]))


def _stream(count: int) -> tuple[float, int]:
    started = time.perf_counter()
    ok = total = 0
    for outcome in fan_out(nothing, range(count)):
        ok += outcome.ok
        total += outcome.index
    if ok != count or total != count * (count - 1) // 2:
        raise RuntimeError(f"{count} items should have one outcome each and be ok; {ok} are.")
    seconds = time.perf_counter() - started
    context = FlowRunContext.get()
    assert context is not None, "this runs in a flow"
    assert isinstance(context.task_runner, ExecutorTaskRunner), "the flow below says so"
    return seconds, context.task_runner.statistics().completed


def our_stream(spec: dict[str, Any]) -> Work:
    """fan_out with default settings; tells how much the memory of the process grew while it ran."""
    stream = _flow("stream", ExecutorTaskRunner(), _stream)
    stream(STREAM_WARM_UP_ITEMS)
    gc.collect()

    def work() -> dict[str, Any]:
        with MemorySampler() as memory:
            seconds, chunks = stream(int(spec["items"]))
        return {
            "seconds": seconds,
            "items": spec["items"],
            "chunks": chunks,
            "start_mb": memory.start,
            "end_mb": memory.end,
            "growth_mb": memory.peak - memory.start,
        }

    return work
