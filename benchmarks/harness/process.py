"""Processes that a benchmark starts, and that are gone when it ends, however it ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

STOP_PATIENCE_S = 15.0
READY_PATIENCE_S = 120.0
READY_INTERVAL_S = 0.1

# The process group ends with its parent, even with one that was killed: then the pipe that it reads ends.
TIED_TO_PARENT = 'exec 3<&0 </dev/null; (cat <&3 >/dev/null; kill -TERM -$$) & exec 3<&-; exec "$@"'


class BenchmarkError(Exception):
    """A benchmark cannot go on; the text says why and what to do."""


class Missing(BenchmarkError):
    """Something that has to be installed first is not there."""


def end_on_sigterm() -> None:
    """Let SIGTERM end the program like Ctrl-C does, so that what was started is stopped."""

    def end(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, end)


def free_port() -> int:
    """A loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def stop(process: subprocess.Popen[bytes]) -> None:
    """Stop the process group that `process` leads: politely, then for certain."""
    for wish in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            return
        os.killpg(process.pid, wish)
        try:
            process.wait(STOP_PATIENCE_S)
        except subprocess.TimeoutExpired:
            continue


@contextmanager
def background(
    command: list[str], log: Path, ready: Callable[[], bool], environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run `command` while the block lasts, from when `ready()` says so.

    Args:
        command: Program and arguments.
        log: Gets everything that the process prints.
        ready: Asked again and again until it is true; may raise OSError meanwhile.
        environment: The whole environment of the process; None means that of this one.

    Raises:
        BenchmarkError: The process ended early or took longer than `READY_PATIENCE_S`; the text holds its log.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["sh", "-c", TIED_TO_PARENT, "sh", *command],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
    assert process.stdin is not None
    try:
        deadline = time.monotonic() + READY_PATIENCE_S
        while not _is_ready(ready):
            if process.poll() is not None or time.monotonic() > deadline:
                tail = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
                raise BenchmarkError(f"{command[0]} should answer after its start and does not. It printed:\n{tail}")
            time.sleep(READY_INTERVAL_S)
        yield process
    finally:
        stop(process)
        process.stdin.close()


def _is_ready(ready: Callable[[], bool]) -> bool:
    try:
        return ready()
    except OSError:
        return False  # Not listening yet: asking again is what the caller's loop is for.
