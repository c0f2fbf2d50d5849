"""A local Prefect server that belongs to one benchmark, and what its log says about lost messages."""

from __future__ import annotations

import base64
import http.client
import json
import os
import secrets
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.harness.process import background, free_port

DROPPED = "dropping message"
TIMEOUT_S = 30.0

# Nothing leaves the machine, and no call is made that is not part of the work.
SETTINGS = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    # The line that is counted is a warning; a quieter setting of the user's would hide it.
    "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
    # A flow's own start and end lines are no part of a measurement.
    "PREFECT_LOGGING_LEVEL": "WARNING",
}

# The server counts as idle when it uses less of a core than this over SETTLE_INTERVAL_S. At rest it uses about 4 %.
IDLE_SHARE = 0.2
SETTLE_INTERVAL_S = 1.0
SETTLE_PATIENCE_S = 180.0
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, kw_only=True)
class PrefectServer:
    """A running server; `environment` makes a process its client."""

    port: int
    pid: int
    log: Path
    password: str = field(repr=False)
    environment: Mapping[str, str] = field(repr=False)

    def dropped(self) -> int:
        """How many messages the server has said to have dropped."""
        return self.log.read_text(errors="replace").count(DROPPED)

    def settle(self) -> None:
        """Wait until the server has digested what it was sent, so that it does not slow down what comes next."""
        deadline = time.monotonic() + SETTLE_PATIENCE_S
        used = cpu_s(self.pid)
        while time.monotonic() < deadline:
            time.sleep(SETTLE_INTERVAL_S)
            before, used = used, cpu_s(self.pid)
            if used - before < IDLE_SHARE * SETTLE_INTERVAL_S:
                return

    def task_runs(self, state: str | None = None) -> int:
        """How many task runs the server knows: all, or those in one state type such as COMPLETED."""
        wanted = {} if state is None else {"state": {"type": {"any_": [state]}}}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT_S)
        try:
            body = json.dumps({"task_runs": wanted})
            proof = f"Basic {base64.b64encode(self.password.encode()).decode()}"
            headers = {"Content-Type": "application/json", "Authorization": proof}
            connection.request("POST", "/api/task_runs/count", body, headers)
            return int(connection.getresponse().read())
        finally:
            connection.close()


@contextmanager
def prefect_server(home: Path) -> Iterator[PrefectServer]:
    """Run a Prefect server with its database, its log and its port to itself; stop it also after a failure.

    Args:
        home: Folder for all that it writes.
    """
    home.mkdir(parents=True)
    port = free_port()
    password = f"benchmark:{secrets.token_urlsafe(32)}"
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment = {
        **inherited,
        **SETTINGS,
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        # Every user and every web page of this machine can reach the port.
        "PREFECT_API_AUTH_STRING": password,
        "PREFECT_SERVER_API_AUTH_STRING": password,
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": f"http://127.0.0.1:{port}",
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{home / 'prefect.db'}",
        # A checkout as the current folder must not come before the installed package.
        "PYTHONSAFEPATH": "1",
    }
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    log = home / "server.log"

    def answers() -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
        try:
            connection.request("GET", "/api/health")
            return connection.getresponse().status == http.client.OK
        finally:
            connection.close()

    with background(command, log, answers, environment) as process:
        yield PrefectServer(port=port, pid=process.pid, log=log, password=password, environment=environment)


def cpu_s(pid: int) -> float:
    """User and system seconds that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S
