"""What every test can ask for: a real Prefect server, and the helpers below `servers/`."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogWorker
from prefect.settings import PREFECT_API_URL, PREFECT_FLOWS_HEARTBEAT_FREQUENCY, PREFECT_HOME, temporary_settings

# A shell that starts the tests in the background makes them ignore Ctrl-C, and every process that they start with them.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The project's root must not be on sys.path: the tests are for the installed wheel, not for the tree beside them.
sys.path.insert(0, str(Path(__file__).parent))

from servers.prefect_server import PrefectServer, prefect_server_process


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    """A real Prefect server with its own home, database and port; this process is its client."""
    with prefect_server_process(tmp_path_factory.mktemp("prefect")) as server:
        updates = {
            PREFECT_API_URL: server.api_url,
            PREFECT_HOME: server.home,
            # Each flow run would end by waiting up to a second for its heartbeat thread.
            PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None,
        }
        with temporary_settings(updates=updates):
            yield server
            # While the server is still there: what is sent after its end is an error on the terminal.
            APILogWorker.drain_all()
            EventsWorker.drain_all()
