"""Which Prefect server the `fanout` command talks to, and how little Prefect says meanwhile."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prefect_fanout._errors import RunFailed
from prefect_fanout._local_server import OFFLINE_SETTINGS, is_local_server, start_local_server

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
        RunFailed: The server that is named does not answer, or the one to start did not start.
    """
    from prefect.client.orchestration import get_client
    from prefect.context import refresh_global_settings_context
    from prefect.logging.configuration import setup_logging
    from prefect.settings import PREFECT_API_URL, PREFECT_HOME

    setup_logging()  # once more: whoever imported Prefect may have done so before quiet_prefect()
    if home is not None:
        for name in ELSEWHERE:
            os.environ.pop(name, None)
        home.mkdir(parents=True, exist_ok=True)
        os.environ["PREFECT_HOME"] = str(home)
        os.environ["PREFECT_PROFILE"] = "ephemeral"
    refresh_global_settings_context()
    configured: str | None = PREFECT_API_URL.value()
    if configured is not None:
        with get_client(sync_client=True) as client:
            problem = client.api_healthcheck()
        if problem is not None:
            raise RunFailed(
                f"The Prefect server at {configured} does not answer: {problem}. Start it, or unset PREFECT_API_URL "
                "(and `prefect config unset PREFECT_API_URL`) to let the command bring its own."
            ) from problem
        return configured
    address = start_local_server(PREFECT_HOME.value())
    os.environ["PREFECT_API_URL"] = address
    refresh_global_settings_context()
    return address


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
