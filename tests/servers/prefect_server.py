"""A real Prefect server as a subprocess: its own home, database and port; readiness is asked for, not slept for."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from prefect.logging.handlers import APILogWorker

from servers.process import free_port, started

READY_TRIES = 900  # three minutes: creating the database takes long on a busy machine
READY_INTERVAL_S = 0.2

# Nothing of Prefect's may leave the machine, and no call of its own may disturb a test.
OFFLINE_SETTINGS = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED": "false",
    "DO_NOT_TRACK": "1",
}

# The server records task runs one by one otherwise, and on SQLite a flow run that begins meanwhile is refused (503,
# "database is locked"); Prefect's client asks again two seconds later. Most tests waited longer for that than they ran.
# Task runs, and seconds: whole ones, because Prefect 3.8.8 cuts off the fraction, and with 0 it takes a whole core.
RECORDER_SETTINGS = {
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "100",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
}


@dataclass(frozen=True, kw_only=True)
class PrefectServer:
    """Where a running server is: `api_url` ends in `/api`, `log` holds everything that it printed."""

    api_url: str
    ui_url: str
    home: Path
    log: Path
    environment: dict[str, str]


@contextmanager
def prefect_server_process(home: Path, *, password: str | None = None) -> Iterator[PrefectServer]:
    """Run Prefect's server with everything it owns below `home`; stop it also after a failure."""
    home.mkdir(parents=True, exist_ok=True)
    port = free_port()
    base = f"http://127.0.0.1:{port}"
    environment = {
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": f"{base}/api",
        "PREFECT_SERVER_UI_API_URL": f"{base}/api",
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": base,
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{home / 'prefect.db'}",
        **OFFLINE_SETTINGS,
        **RECORDER_SETTINGS,
    }
    if password is not None:
        environment |= {"PREFECT_SERVER_API_AUTH_STRING": password, "PREFECT_API_AUTH_STRING": password}
    log = home / "server.log"
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with started(command, log=log, environment={**os.environ, **environment}) as process:
        _wait_until_ready(process, f"{base}/api/health", log)
        yield PrefectServer(api_url=f"{base}/api", ui_url=base, home=home, log=log, environment=environment)


def logs_of(server: PrefectServer, flow_run_id: str) -> list[str]:
    """Give what a flow run of this process has logged, as the server has it."""
    APILogWorker.drain_all()
    wanted = {"logs": {"flow_run_id": {"any_": [flow_run_id]}}}
    answer = httpx.post(f"{server.api_url}/logs/filter", json=wanted)
    return [log["message"] for log in answer.raise_for_status().json()]


def _wait_until_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    transport = httpx.HTTPTransport(retries=0)
    with httpx.Client(transport=transport, timeout=READY_INTERVAL_S * 10) as client:
        for _ in range(READY_TRIES):
            try:
                if client.get(url).status_code == httpx.codes.OK:
                    return
            except httpx.TransportError:
                pass  # Not listening yet: asking again is what this loop is for.
            try:
                process.wait(READY_INTERVAL_S)
            except subprocess.TimeoutExpired:
                continue
            break
    raise RuntimeError(f"The Prefect server did not become ready. It printed:\n{log.read_text(errors='replace')}")
