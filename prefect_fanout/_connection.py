"""Which Prefect server the `fanout` command talks to, and how little Prefect says meanwhile."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prefect_fanout._errors import RunFailed
from prefect_fanout._local_server import OFFLINE_SETTINGS, is_local_server, make_home, start_local_server

CONSOLE_LEVEL = "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"
# Settings that lead to a server or a database outside a folder that is to hold everything.
ELSEWHERE = (
    "PREFECT_API_URL",
    "PREFECT_API_KEY",
    "PREFECT_API_DATABASE_CONNECTION_URL",
    "PREFECT_SERVER_DATABASE_CONNECTION_URL",
)


def quiet_prefect() -> None:
    """Keep Prefect's log off the terminal, where the bar and the summary are, and Prefect's own telemetry off the net.

    The server still gets the log. A user who set PREFECT_LOGGING_LEVEL asked to see it, and does. Call this before
    Prefect is imported: on a terminal, its first import would announce its telemetry and send some.
    """
    for name, value in OFFLINE_SETTINGS.items():
        os.environ.setdefault(name, value)
    if "PREFECT_LOGGING_LEVEL" not in os.environ:
        os.environ.setdefault(CONSOLE_LEVEL, "CRITICAL")


def connect(home: Path | None = None) -> str:
    """Use the server that the user's environment or profile names; without one, start one for this process.

    Args:
        home: Always start a server, with everything it keeps in this folder; the user's settings do not count.

    Returns:
        The address of the API.

    Raises:
        UsageError: The home belongs to another user.
        RunFailed: The server that is named cannot be used, or the one to start did not start.
    """
    from prefect.context import refresh_global_settings_context
    from prefect.logging.configuration import setup_logging
    from prefect.settings import PREFECT_API_URL, PREFECT_HOME

    setup_logging()  # once more: whoever imported Prefect may have done so before quiet_prefect()
    if home is not None:
        for name in ELSEWHERE:
            os.environ.pop(name, None)
        make_home(home)  # before its settings are read
        os.environ["PREFECT_HOME"] = str(home)
        os.environ["PREFECT_PROFILE"] = "ephemeral"
    refresh_global_settings_context()
    configured: str | None = PREFECT_API_URL.value()
    if configured is not None:
        if not is_local_server(configured):
            _check(configured)
        return configured
    os.environ.update(start_local_server(PREFECT_HOME.value()))
    refresh_global_settings_context()
    return os.environ["PREFECT_API_URL"]


def _check(address: str) -> None:
    """Raise a `RunFailed` unless the server at `address` answers and accepts this process as a client."""
    import httpx
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        problem = client.api_healthcheck()
        if problem is None:
            try:
                client.read_flows(limit=1)  # /health is open to everyone: it says nothing about the password
            except (httpx.HTTPError, ValueError) as error:  # ValueError: the answer is not that of a Prefect server
                problem = error
    if problem is None:
        return
    if isinstance(problem, httpx.HTTPStatusError) and problem.response.status_code == httpx.codes.UNAUTHORIZED:
        raise RunFailed(
            f"The Prefect server at {address} asks for a password, and PREFECT_API_AUTH_STRING does not hold it. "
            "Set it to the string that the server was started with (for Prefect Cloud, set PREFECT_API_KEY)."
        ) from problem
    reason = str(problem).partition("\n")[0]  # httpx goes on with a link to a page about the status
    raise RunFailed(
        f"The Prefect server at {address} cannot be used: {reason}. Start it, or unset PREFECT_API_URL "
        "(and `prefect config unset PREFECT_API_URL`) to let the command bring its own."
    ) from problem


@contextmanager
def suited_to(address: str) -> Iterator[None]:
    """Have flow runs in this block send no heartbeats to a server that ends with this process.

    Nobody looks there for runs that died without a word, and at its end a flow waits up to a second for the thread
    that sends them.
    """
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    if not is_local_server(address):
        yield
        return
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        yield
