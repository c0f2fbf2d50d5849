"""Progress: what the listener is told, what the server is told and how often, and what happens without a server."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from prefect import flow
from prefect.settings import PREFECT_API_URL, temporary_settings

from prefect_fanout.tasks.progress import API_INTERVAL_S, API_RETRY_S, LISTENER_INTERVAL_S, Progress, bound_listener
from servers.prefect_server import PrefectServer


class Clock:
    """A clock that stands still until it is moved."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Warnings(logging.Handler):
    """Keeps the texts of what is logged, whether or not Prefect's settings let it through to the root."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


def newest(server: PrefectServer, key: str) -> dict[str, Any]:
    """Give what the server holds of the newest artifact of a key."""
    wanted = {"artifacts": {"key": {"any_": [key]}}, "sort": "CREATED_DESC", "limit": 1}
    response = httpx.post(f"{server.api_url}/artifacts/filter", json=wanted)
    artifact: dict[str, Any]
    (artifact,) = response.raise_for_status().json()
    assert artifact["type"] == "progress"
    return artifact


def shown(server: PrefectServer, key: str) -> tuple[float, str]:
    """Give the percentage and the text that the UI shows."""
    artifact = newest(server, key)
    return artifact["data"], artifact["description"]


@contextmanager
def no_server() -> Iterator[socket.socket]:
    """Have Prefect's API point to a port that counts who knocks and answers nobody."""
    with socket.create_server(("127.0.0.1", 0)) as door:
        door.setblocking(False)
        url = f"http://127.0.0.1:{door.getsockname()[1]}/api"
        with temporary_settings(updates={PREFECT_API_URL: url}):
            yield door


def test_outside_a_run_there_is_no_api_call() -> None:
    """A pipeline that is called as a plain function shows nothing and waits for no server."""
    clock = Clock()
    with no_server() as door:
        with Progress("p", "Items", 10, clock=clock) as progress:
            clock.now += API_INTERVAL_S
            assert not progress.due(), "there is nobody to tell"
            progress.advance(ok=10)
        with pytest.raises(BlockingIOError):
            door.accept()


def test_the_listener_is_told_at_the_beginning_at_intervals_and_at_the_end() -> None:
    """A bar starts at once, moves no more often than the interval, and ends at the right numbers."""
    told: list[tuple[int, int, int | None]] = []
    clock = Clock()
    with bound_listener(lambda *state: told.append(state)), Progress("p", "Items", 6, clock=clock) as progress:
        assert told == [(0, 0, 6)]
        progress.advance(ok=1)
        assert told == [(0, 0, 6)]
        assert not progress.due()
        clock.now += LISTENER_INTERVAL_S
        assert progress.due()
        progress.advance(failed=1)
        assert told == [(0, 0, 6), (2, 1, 6)]
        progress.advance(skipped=3)
        progress.advance(ok=1)
    assert told == [(0, 0, 6), (2, 1, 6), (6, 1, 6)]


def test_a_listener_hears_the_total_at_the_end_when_nobody_knew_it() -> None:
    """A list of unknown length has no total until it ends."""
    told: list[tuple[int, int, int | None]] = []
    with bound_listener(lambda *state: told.append(state)):
        progress = Progress("p", "Items", None, clock=Clock())
        progress.advance(ok=3)
        progress.close()
        progress.close()
    assert told == [(0, 0, None), (3, 0, 3)]


def test_a_listener_is_bound_for_its_block_only() -> None:
    """After its block a listener hears nothing, and an inner one takes the place of the outer."""
    outer: list[int] = []
    inner: list[int] = []
    with bound_listener(lambda done, failed, total: outer.append(done)):
        with bound_listener(lambda done, failed, total: inner.append(done)):
            Progress("p", "Items", 0).close()
        Progress("p", "Items", 0).close()
    Progress("p", "Items", 0).close()
    assert (outer, inner) == ([0, 0], [0, 0])


def test_the_artifact_follows_the_run_at_intervals(prefect_server: PrefectServer) -> None:
    """In a flow the artifact is made at once, changed no more often than the interval, and right at the end."""
    clock = Clock()
    states = []

    @flow
    def work() -> None:
        with Progress("follows-the-run", "Images of urls.txt", 2000, clock=clock) as progress:
            states.append(shown(prefect_server, "follows-the-run"))
            progress.advance(ok=500)
            clock.now += API_INTERVAL_S - 0.1
            progress.advance(failed=10)
            states.append(shown(prefect_server, "follows-the-run"))
            clock.now += 0.1
            progress.advance(skipped=200)
            states.append(shown(prefect_server, "follows-the-run"))
            progress.advance(ok=1290)
            states.append(shown(prefect_server, "follows-the-run"))

    work()
    first = (0.0, "0 of 2,000 done · Images of urls\\.txt")
    middle = (35.5, "710 of 2,000 done, 10 failed, 200 finished earlier · Images of urls\\.txt")
    assert states == [first, first, middle, middle]
    assert shown(prefect_server, "follows-the-run") == (
        100.0,
        "2,000 of 2,000 done, 10 failed, 200 finished earlier · Images of urls\\.txt",
    )


@pytest.mark.parametrize(
    ("total", "done", "expected"),
    [
        (0, 0, (100.0, "0 of 0 done · Items")),
        (1, 0, (0.0, "0 of 1 done · Items")),
        (2, 1, (50.0, "1 of 2 done · Items")),
        (2, 3, (100.0, "3 of 2 done · Items")),
        (None, 0, (100.0, "0 of 0 done · Items")),
        (None, 7, (100.0, "7 of 7 done · Items")),
    ],
)
def test_the_artifact_ends_at_what_was_done(
    prefect_server: PrefectServer, total: int | None, done: int, expected: tuple[float, str]
) -> None:
    """Nothing to do, nothing done, part of it, more than expected, and a total that nobody knew."""

    @flow
    def work() -> None:
        with Progress("ends-at", "Items", total, clock=Clock()) as progress:
            progress.advance(ok=done)

    work()
    assert shown(prefect_server, "ends-at") == expected


def test_a_server_that_refuses_the_artifact_does_not_end_the_run(prefect_server: PrefectServer) -> None:
    """When somebody deletes the artifact the run goes on, with one warning, and asks again after a while only."""
    clock = Clock()
    told: list[int] = []
    logger, warnings = logging.getLogger("prefect.fanout"), Warnings()
    logger.addHandler(warnings)

    @flow
    def work() -> None:
        with Progress("is-deleted", "Items", 4, clock=clock) as progress:
            key = newest(prefect_server, "is-deleted")["id"]
            httpx.delete(f"{prefect_server.api_url}/artifacts/{key}").raise_for_status()
            for wait in (API_INTERVAL_S, API_INTERVAL_S, API_RETRY_S, API_RETRY_S):
                clock.now += wait
                progress.advance(ok=1)

    try:
        with bound_listener(lambda done, failed, total: told.append(done)):
            work()
    finally:
        logger.removeHandler(warnings)
    (text,) = warnings.texts
    assert "does not take the progress of this run" in text
    assert told == [0, 1, 2, 3, 4, 4]
