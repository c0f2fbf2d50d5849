"""`wait` and `as_completed`, in the standard library's words, for the futures of any Prefect runner."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION
from typing import Any, TypeVar

from prefect.futures import DoneAndNotDoneFutures, PrefectFuture

from prefect_fanout._errors import UsageError
from prefect_fanout._future import ExecutorFuture
from prefect_fanout._help import wait_for
from prefect_fanout._job import CHANGES
from prefect_fanout._prefect import raise_if_flow_run_suspension_requested

R = TypeVar("R")


class _Arrivals:
    """Collects futures as they finish; one object serves all callbacks of one wait.

    Mutable state: `_arrived`, guarded by `_changed`.
    """

    def __init__(self, futures: Iterable[PrefectFuture[Any]]) -> None:
        self.waiting: dict[PrefectFuture[Any], None] = dict.fromkeys(futures)
        self._arrived: list[PrefectFuture[Any]] = []
        self._changed = threading.Condition()
        for future in list(self.waiting):
            if isinstance(future, ExecutorFuture):
                future._on_done(self._arrive)
            elif future._final_state:
                self._arrive(future)
            else:
                future.add_done_callback(self._arrive)

    def _arrive(self, future: PrefectFuture[Any]) -> None:
        with self._changed:
            self._arrived.append(future)
            self._changed.notify_all()
        CHANGES.note()  # For a worker that waits here while it helps.

    def take(self, timeout: float | None) -> list[PrefectFuture[Any]]:
        """The futures that finished since the last call; wait up to `timeout` seconds for one. Help in a worker."""
        wait_for(lambda: bool(self._arrived), self._sleep, lambda: list(self.waiting), timeout)
        with self._changed:
            arrived, self._arrived = self._arrived, []
        for future in arrived:
            self.waiting.pop(future, None)
        return arrived

    def _sleep(self, timeout: float | None) -> None:
        with self._changed:
            self._changed.wait_for(lambda: bool(self._arrived), timeout)

    def close(self) -> None:
        for future in self.waiting:
            if isinstance(future, ExecutorFuture):
                future._forget(self._arrive)


def wait(
    futures: Iterable[PrefectFuture[R]], timeout: float | None = None, return_when: str = ALL_COMPLETED
) -> DoneAndNotDoneFutures[R]:
    """Wait for futures, as `concurrent.futures.wait` does.

    Cancellation and shutdown: a future that is cancelled counts as completed. Called in a worker of the runner that
    the futures belong to, it runs queued ones itself.

    Args:
        futures: The futures; duplicates count once. Futures of other Prefect runners may be among them.
        timeout: Seconds to wait at most; None waits as long as it takes.
        return_when: `FIRST_COMPLETED`, `FIRST_EXCEPTION` or `ALL_COMPLETED` of `concurrent.futures`.

    Returns:
        The sets `done` and `not_done`.

    Raises:
        ValueError: `return_when` or `timeout` is not valid.
    """
    if return_when not in (FIRST_COMPLETED, FIRST_EXCEPTION, ALL_COMPLETED):
        raise UsageError(f"Invalid return condition: {return_when!r}")
    deadline = _deadline(timeout)
    arrivals = _Arrivals(futures)
    done: set[PrefectFuture[R]] = set()
    try:
        while arrivals.waiting:
            new = arrivals.take(0 if done and return_when == FIRST_COMPLETED else _remaining(deadline))
            done.update(new)
            if not new or (return_when == FIRST_EXCEPTION and any(_failed(future) for future in new)):
                break
        raise_if_flow_run_suspension_requested()
        return DoneAndNotDoneFutures(done, set(arrivals.waiting))
    finally:
        arrivals.close()


def as_completed(futures: Iterable[PrefectFuture[R]], timeout: float | None = None) -> Iterator[PrefectFuture[R]]:
    """Yield futures as they finish, as `concurrent.futures.as_completed` does.

    Cancellation and shutdown: a future that is cancelled is yielded like one that finished. Called in a worker of the
    runner that the futures belong to, it runs queued ones itself.

    Args:
        futures: The futures; duplicates are yielded once.
        timeout: Seconds from the call after which waiting ends; None waits as long as it takes.

    Raises:
        TimeoutError: Not all futures finished in time.
        ValueError: `timeout` is negative.
    """
    # The clock starts at the call, not at the first next(), as in the standard library.
    return _as_completed(_Arrivals(futures), _deadline(timeout))


def _as_completed(arrivals: _Arrivals, deadline: float | None) -> Iterator[PrefectFuture[Any]]:
    total = len(arrivals.waiting)
    try:
        while arrivals.waiting:
            new = arrivals.take(_remaining(deadline))
            if not new:
                raise TimeoutError(f"{len(arrivals.waiting)} (of {total}) futures unfinished")
            yield from new
            raise_if_flow_run_suspension_requested()
    finally:
        arrivals.close()


def _failed(future: PrefectFuture[Any]) -> bool:
    state = future.state
    return not state.is_completed() and not state.is_cancelled()


def _deadline(timeout: float | None) -> float | None:
    if timeout is not None and timeout < 0:
        raise UsageError(f"'timeout' must be a non-negative number of seconds, got {timeout}.")
    return None if timeout is None else time.monotonic() + timeout


def _remaining(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.monotonic())
