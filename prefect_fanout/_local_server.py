"""Prefect's embedded server for one run of the `fanout` command: started with it, gone with it.

Prefect starts such a server by itself when no API is configured. This module starts the same application differently
in three ways: in a session of its own, so that Ctrl-C ends the work first and the server last; on a port that the
system chose, so that two commands never collide; and tied to its parent by a pipe, so that it ends also when the
parent was killed.
"""

from __future__ import annotations

import atexit
import os
import select
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO

from prefect_fanout._errors import RunFailed

# A first start creates the database and takes about 10 s on two cores. The limit is for a machine that is very busy.
START_TIMEOUT_S = 120.0
# By then every event was sent and answered; what the server does after that is not worth a longer wait.
STOP_TIMEOUT_S = 10.0
LOG_LINES_SHOWN = 5

# Nothing may leave the machine and no optional call may slow a run; a variable that the user has set wins.
OFFLINE_SETTINGS = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED": "false",
    "DO_NOT_TRACK": "1",
}

# The server records task runs one by one otherwise, and refuses on SQLite the flow run that begins meanwhile ("database
# is locked"): the second run of a command would wait two seconds before it asks again. Task runs, and seconds: whole
# ones, because Prefect 3.8.8 cuts off the fraction, and its recorder takes a whole core when 0 is left.
RECORDER_SETTINGS = {
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "100",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
}

_addresses: set[str] = set()
"""Of the servers that this process has started; the thread that runs the command writes and reads it."""


def is_local_server(address: str) -> bool:
    """Whether a server was started by this process and ends with it."""
    return address in _addresses


def start_local_server(home: Path) -> str:
    """Start the server with its database and its log below `home`, and stop it when this process exits.

    Args:
        home: Prefect's home folder; made if it does not exist.

    Returns:
        The address of its API, which ends in `/api`.

    Raises:
        RunFailed: The server did not start; the text holds the end of its log.
    """
    home.mkdir(parents=True, exist_ok=True)
    log_path = home / "fanout-server.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "prefect_fanout._local_server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            # PYTHONSAFEPATH: a checkout as the current folder must not come before the installed package.
            env={**os.environ, **RECORDER_SETTINGS, "PREFECT_HOME": str(home), "PYTHONSAFEPATH": "1"},
            start_new_session=True,
        )
    # Registered with atexit, which runs after Prefect's own workers have sent their last events and logs.
    atexit.register(_stop, process)
    port = _read_port(process)
    if port is None:
        tail = "\n".join(log_path.read_text(errors="replace").splitlines()[-LOG_LINES_SHOWN:])
        raise RunFailed(
            f"Prefect's embedded server should have started within {START_TIMEOUT_S:.0f} s and did not. "
            f"Its log is {log_path}; it ends with:\n{tail}\n"
            "Set PREFECT_API_URL to use a server that is already running."
        )
    address = f"http://127.0.0.1:{port}/api"
    _addresses.add(address)
    return address


def _read_port(process: subprocess.Popen[bytes]) -> int | None:
    """The port that the server prints once it answers, or None when it ended or took too long."""
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], START_TIMEOUT_S)
    line = process.stdout.readline().strip() if ready else b""
    return int(line) if line.isdigit() else None


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ask the server to end by closing its pipe, then make certain."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    process.stdout.close()


def _serve(lifeline: IO[bytes], report: IO[bytes]) -> None:
    """Run the server in this process until `lifeline` ends; write the port to `report` once it answers."""
    import uvicorn
    from prefect.server.api.server import create_app

    class AnnouncedServer(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            report.write(b"%d\n" % port)
            report.flush()

    listener = socket.create_server(("127.0.0.1", 0))
    port: int = listener.getsockname()[1]
    server = AnnouncedServer(
        uvicorn.Config(
            create_app(ephemeral=True, final=True), log_level="error", lifespan="on", timeout_graceful_shutdown=3
        )
    )

    def end_with_the_parent() -> None:
        lifeline.read()
        server.should_exit = True

    threading.Thread(target=end_with_the_parent, name="lifeline", daemon=True).start()
    server.run(sockets=[listener])


if __name__ == "__main__":
    _serve(sys.stdin.buffer, sys.stdout.buffer)
