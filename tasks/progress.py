"""Progress of a run: the artifact in Prefect's UI, and a listener for whoever draws a live bar.

A run has one `Progress`, in the thread of the flow. It tells the listener of the current context (`bound_listener`) at
most once per `LISTENER_INTERVAL_S`, and Prefect's API at most once per `API_INTERVAL_S`, for the flow waits for each
request. Outside a flow or task run there is no API call at all. A server that does not take the progress does not end
the run: one warning says so, and it is asked again after `API_RETRY_S`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import Protocol
from uuid import UUID

import httpx
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.context import FlowRunContext, TaskRunContext
from prefect.exceptions import PrefectException
from prefect.logging import get_logger

from prefect_fanout._text import markdown_text

API_INTERVAL_S = 2.0
"""Least time between two requests, in seconds: the UI reloads no faster, and a request costs a flow some 10 ms."""

API_RETRY_S = 60.0
"""Time without a request after one that failed, in seconds: a server in trouble must not slow the run down."""

LISTENER_INTERVAL_S = 0.1
"""Least time between two calls of the listener, in seconds: a bar need not move faster than the eye."""


class ProgressListener(Protocol):
    """What a listener is called with, in the thread of the flow."""

    def __call__(self, done: int, failed: int, total: int | None, /) -> object:
        """Take the new state.

        Args:
            done: items that are finished in any way: ok, failed, or skipped because an earlier run finished them.
            failed: those of them that failed.
            total: items in all, or None when nobody knows.
        """


_listener: ContextVar[ProgressListener | None] = ContextVar("prefect_fanout_progress_listener", default=None)


@contextmanager
def bound_listener(listener: ProgressListener) -> Iterator[None]:
    """Have the runs that are started in this block tell a listener of their progress."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def in_run() -> bool:
    """Say whether this code runs inside a flow or task run, so that artifacts have something to belong to."""
    return FlowRunContext.get() is not None or TaskRunContext.get() is not None


class Progress:
    """How far a run is; use it as a context manager, or call `close` at its end. Belongs to the thread of the flow."""

    def __init__(
        self, key: str, description: str, total: int | None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Show a run that is at its beginning.

        Args:
            key: of the artifact: lowercase letters, digits and dashes. The UI keeps the artifacts of one key together.
            description: what is being done, such as "Images of urls.txt".
            total: items in all, or None when nobody knows.
            clock: seconds from some beginning.
        """
        self._key = key
        self._description = description
        self._total = total
        self._clock = clock
        self._done = self._failed = self._skipped = 0
        self._listener = _listener.get()
        self._artifact: UUID | None = None
        self._shown: tuple[float, str] | None = None  # what the server was last told
        self._told_at = self._next_request = clock()
        self._warned = self._closed = False
        self._in_run = in_run()
        if self._in_run:
            self._request()
        if self._listener is not None:
            self._tell(self._listener)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def advance(self, ok: int = 0, failed: int = 0, skipped: int = 0) -> None:
        """Count items that have just been finished.

        Args:
            ok: done well.
            failed: done without success.
            skipped: not done, because an earlier run had finished them.
        """
        self._done += ok + failed + skipped
        self._failed += failed
        self._skipped += skipped
        listener_due, request_due = self._due()
        if listener_due and self._listener is not None:
            self._tell(self._listener)
        if request_due:
            self._request()

    def due(self) -> bool:
        """Whether `advance` would show anything now: who counts for itself need not tell of every item."""
        return any(self._due())

    def _due(self) -> tuple[bool, bool]:
        """Whether it is time for the listener, and for a request."""
        now = self._clock()
        listener = self._listener is not None and now - self._told_at >= LISTENER_INTERVAL_S
        return listener, self._in_run and now >= self._next_request

    def close(self) -> None:
        """Show where the run ended; closing twice is allowed. Where nobody knew the total, it is what was done."""
        if self._closed:
            return
        self._closed = True
        if self._total is None:
            self._total = self._done
        if self._listener is not None:
            self._tell(self._listener)
        if self._in_run:
            self._request()

    def _percent(self) -> float:
        if self._total is None:
            return 0.0
        # Never more than all: a list may turn out longer than expected.
        return 100.0 if self._total == 0 else round(min(100.0, 100.0 * self._done / self._total), 1)

    def _text(self) -> str:
        of = "" if self._total is None else f" of {self._total:,}"
        failed = f", {self._failed:,} failed" if self._failed else ""
        skipped = f", {self._skipped:,} finished earlier" if self._skipped else ""
        # The UI takes it for Markdown, and cuts a long text at its end: the numbers come first.
        return f"{self._done:,}{of} done{failed}{skipped} · {markdown_text(self._description)}"

    def _tell(self, listener: ProgressListener) -> None:
        listener(self._done, self._failed, self._total)
        self._told_at = self._clock()

    def _request(self) -> None:
        """Tell the server what it does not know yet."""
        percent, text = state = self._percent(), self._text()
        if self._shown == state:
            return
        interval = API_INTERVAL_S
        try:
            if self._artifact is None:
                created = create_progress_artifact(percent, key=self._key, description=text)
                assert isinstance(created, UUID)  # not a coroutine: the flow's code is synchronous
                self._artifact = created
            else:
                update_progress_artifact(self._artifact, percent, description=text)
            self._shown = state
        except (httpx.HTTPError, PrefectException) as error:
            interval = API_RETRY_S
            if not self._warned:
                self._warned = True
                get_logger("fanout").warning("Prefect's server does not take the progress of this run: %s", error)
        self._next_request = self._clock() + interval
