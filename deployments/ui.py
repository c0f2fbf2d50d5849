"""Prefect's server with its UI, both deployments and a worker, until Ctrl-C: what `make ui` runs.

    python deployments/ui.py [--home FOLDER] [--port N]

Each user of the machine, and each web page in a browser on it, can reach a port of 127.0.0.1, and a server with a
process worker runs commands for its clients. So the server asks for a password, which is new at each start, and its
home is closed to other users.
"""

from __future__ import annotations

import argparse
import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NoReturn

from prefect_fanout._demo_tables import write_demo_tables
from prefect_fanout._local_server import (
    HOST,
    OFFLINE_SETTINGS,
    PRIVATE_FOLDER,
    PRIVATE_UMASK,
    RECORDER_SETTINGS,
    START_TIMEOUT_S,
    new_password,
    without_proxy,
)

ROOT = Path(__file__).resolve().parents[1]
PREFECT = [sys.executable, "-m", "prefect"]
POOL = "fanout"
DEPLOY = (
    ["work-pool", "create", POOL, "--type", "process", "--overwrite"],
    ["--no-prompt", "deploy", "--all", "--prefect-file", "deployments/prefect.yaml"],
)
LOOK_EVERY_S = 0.5
# A worker that stops ends its runs first, and gives them 30 s.
STOP_TIMEOUT_S = 45.0
LOG_LINES_SHOWN = 10


def main() -> NoReturn:
    """Start the parts one after the other, print where the UI is, and wait until a signal comes or a part ends."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--home", type=Path, default=ROOT / ".prefect", help="folder for all files (%(default)s)")
    parser.add_argument("--port", type=int, default=4200, help="port of the server on 127.0.0.1 (%(default)s)")
    options = parser.parse_args()
    home = options.home.expanduser().absolute()
    work = home / "work"
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)
    os.umask(PRIVATE_UMASK)
    _make_private(home)
    _check_port(options.port)
    password = new_password()
    (home / "login").unlink(missing_ok=True)
    (home / "login").write_text(f"{password}\n")
    address = f"http://{HOST}:{options.port}"
    environment = _environment(home, address, password)
    with ExitStack() as parts:
        parts.callback(print, "Stopped.")
        command = ["server", "start", "--host", HOST, "--port", str(options.port)]
        server = parts.enter_context(_running(command, home / "server.log", environment, ROOT))
        _wait_until_ready(server, options.port, home / "server.log")
        for step, command in enumerate(DEPLOY):
            with _running(command, log := home / f"deploy-{step}.log", environment, ROOT) as deploying:
                if deploying.wait() != 0:
                    raise SystemExit(f"`prefect {' '.join(command)}` failed. {_end_of(log)}")
        write_demo_tables(work / "incoming")
        shutil.copyfile(ROOT / "examples" / "wikimedia.txt", work / "images.txt")
        command = ["worker", "start", "--pool", POOL]
        worker = parts.enter_context(_running(command, home / "worker.log", environment, work))
        print(
            f"\nPrefect's UI, with both deployments and a worker:  {address}\n"
            f"Log in with:  {password}\n"
            f"This password is new at each start. Only you can read {home / 'login'}, which holds it too.\n"
            "Choose Deployments, then Run > Quick run. ingest-csv has ten demo files; download-images needs the "
            f"internet.\nRuns are written to {work / 'runs'}, logs to {home}. Ctrl-C stops everything.",
            flush=True,
        )
        while server.poll() is None and worker.poll() is None:
            time.sleep(LOOK_EVERY_S)
        name = "worker" if server.poll() is None else "server"
        raise SystemExit(f"The {name} ended by itself. {_end_of(home / f'{name}.log')}")


def _stop(_number: int, _frame: object) -> NoReturn:
    """End the program; a second signal does not disturb the stopping of its parts."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    raise SystemExit


def _make_private(home: Path) -> None:
    """Make the home, or refuse one that is there and that others can read or may have filled."""
    home.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
    status = home.stat()
    if status.st_uid != os.geteuid() or status.st_mode & 0o777 != PRIVATE_FOLDER:
        raise SystemExit(
            f"{home} should be yours and have mode 700, because it holds the server's password and database. It "
            f"belongs to user {status.st_uid} and has mode {status.st_mode & 0o777:o}. Type `chmod 700 {home}`, or "
            "name another folder: make ui UI_HOME=..."
        )


def _check_port(port: int) -> None:
    """Refuse a port that is taken: the password would go to the server that listens there."""
    try:
        socket.create_server((HOST, port)).close()
    except OSError as error:
        raise SystemExit(f"Port {port}: {error.strerror}. Name another: make ui UI_PORT={port + 1}") from error


def _environment(home: Path, address: str, password: str) -> dict[str, str]:
    """Return the environment of all parts, without the settings of Prefect that the user has for other servers."""
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")},
        **without_proxy(os.environ),
        **OFFLINE_SETTINGS,
        **RECORDER_SETTINGS,
        "PREFECT_HOME": str(home),
        "PREFECT_PROFILE": "ephemeral",
        "PREFECT_API_URL": f"{address}/api",
        "PREFECT_API_AUTH_STRING": password,
        "PREFECT_SERVER_API_AUTH_STRING": password,
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": address,
        "PREFECT_SERVER_UI_API_URL": f"{address}/api",
    }


@contextmanager
def _running(
    command: list[str], log: Path, environment: Mapping[str, str], folder: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command of Prefect while the block lasts, in a session of its own: Ctrl-C is for this program alone."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*PREFECT, *command],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait_until_ready(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Wait until the server answers."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while server.poll() is None and time.monotonic() < deadline:
        connection = http.client.HTTPConnection(HOST, port, timeout=START_TIMEOUT_S)
        try:
            connection.request("GET", "/api/health")
            if connection.getresponse().status == http.client.OK:
                return
        except OSError:
            pass  # not listening yet
        finally:
            connection.close()
        time.sleep(LOOK_EVERY_S)
    raise SystemExit(f"The server did not start. {_end_of(log)}")


def _end_of(log: Path) -> str:
    return "\n".join((f"{log} ends with:", *log.read_text(errors="replace").splitlines()[-LOG_LINES_SHOWN:]))


if __name__ == "__main__":
    main()
