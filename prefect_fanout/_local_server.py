"""Prefect's embedded server for one run of the `fanout` command: started with it, gone with it.

Prefect starts such a server by itself when no API is configured. This module starts the same application differently
in four ways: in a session of its own, so that Ctrl-C ends the work first and the server last; on a port that the
system chose, so that two commands never collide; tied to its parent by a pipe, so that it ends also when the parent
was killed; and closed to everyone else. Each user of the machine, and each web page in a browser on it, can reach a
port of 127.0.0.1, so the server asks for a random password, and only its user can read the files that it makes.
"""

from __future__ import annotations

import atexit
import os
import secrets
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from prefect_fanout._errors import RunFailed, UsageError

# A first start creates the database and takes about 10 s on two cores. The limit is for a machine that is very busy.
START_TIMEOUT_S = 120.0
# By then every event was sent and answered; what the server does after that is not worth a longer wait.
STOP_TIMEOUT_S = 10.0
LOG_LINES_SHOWN = 5

HOST = "127.0.0.1"
# 256 bits, written in characters that need no quoting in a shell, a header or a URL.
PASSWORD_BYTES = 32
PRIVATE_FOLDER, PRIVATE_FILE, PRIVATE_UMASK = 0o700, 0o600, 0o077

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


def new_password() -> str:
    """Return a random password for a Prefect server, in the form `user:password` that its settings expect."""
    return f"fanout:{secrets.token_urlsafe(PASSWORD_BYTES)}"


def without_proxy(environment: Mapping[str, str]) -> dict[str, str]:
    """Return both spellings of NO_PROXY with 127.0.0.1 added to the hosts that the user has listed.

    A proxy cannot reach a server on this machine; what goes to other hosts keeps its way.
    """
    changed = {}
    for name, other in (("no_proxy", "NO_PROXY"), ("NO_PROXY", "no_proxy")):
        hosts = environment.get(name, environment.get(other, "")).strip()
        # An asterisk alone means every host; in a longer list some clients would not know it.
        changed[name] = hosts if hosts == "*" else ",".join(filter(None, (hosts, HOST)))
    return changed


def make_home(home: Path) -> None:
    """Make Prefect's home so that only this user can look into it, or check that the one there is this user's.

    Raises:
        UsageError: It belongs to another user, who could have put settings and links of any kind into it.
    """
    home.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
    owner = home.stat().st_uid
    if owner != os.geteuid():
        raise UsageError(
            f"{home} holds Prefect's settings and database, so it should belong to the user of this command "
            f"({os.geteuid()}), and it belongs to user {owner}. Set PREFECT_HOME to another folder, or give "
            "`fanout demo` another --out."
        )


def start_local_server(home: Path) -> dict[str, str]:
    """Start the server with its database and its log below `home`, and stop it when this process exits.

    Args:
        home: Prefect's home folder; if it does not exist, it is made so that only this user can look into it.

    Returns:
        The variables that make a process the server's client. Only they hold its password.

    Raises:
        UsageError: The home belongs to another user.
        RunFailed: The server did not start; the text holds the end of its log.
    """
    make_home(home)
    password = new_password()
    log_path = home / "fanout-server.log"
    with log_path.open("wb") as log:
        os.fchmod(log.fileno(), PRIVATE_FILE)
        process = subprocess.Popen(
            [sys.executable, "-m", "prefect_fanout._local_server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env={
                **os.environ,
                **RECORDER_SETTINGS,
                "PREFECT_HOME": str(home),
                "PREFECT_SERVER_API_AUTH_STRING": password,
                # A checkout as the current folder must not come before the installed package.
                "PYTHONSAFEPATH": "1",
            },
            umask=PRIVATE_UMASK,
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
    address = f"http://{HOST}:{port}/api"
    _addresses.add(address)
    return {"PREFECT_API_URL": address, "PREFECT_API_AUTH_STRING": password, **without_proxy(os.environ)}


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
    listener = socket.create_server((HOST, 0))
    port: int = listener.getsockname()[1]
    # Before Prefect is imported, which reads its settings then. This name comes before every other way to set it.
    os.environ["PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS"] = f"http://{HOST}:{port}"

    import uvicorn
    from prefect.server.api.server import create_app

    class AnnouncedServer(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            report.write(b"%d\n" % port)
            report.flush()

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
