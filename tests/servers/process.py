"""Processes that a test starts, and that are gone when it ends, however it ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

# The process group ends with its parent, even with one that was killed: then the pipe that it reads ends.
TIED_TO_PARENT = 'exec 3<&0 </dev/null; (cat <&3 >/dev/null; kill -TERM -$$) & exec 3<&-; exec "$@"'


def free_port() -> int:
    """A loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def started(
    command: Sequence[str | Path], *, log: Path, environment: Mapping[str, str], cwd: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command, and whatever it starts in its process group, while the block lasts; its output goes to `log`."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["sh", "-c", TIED_TO_PARENT, "sh", *command],
            cwd=cwd,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    assert process.stdin is not None
    try:
        yield process
    finally:
        _stop(process)
        process.stdin.close()


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Stop the process group that `process` leads: politely, then for certain."""
    for wish, patience_s in ((signal.SIGTERM, 15), (signal.SIGKILL, 15)):
        try:
            os.killpg(process.pid, wish)
            process.wait(patience_s)
        except subprocess.TimeoutExpired:
            continue
        except ProcessLookupError:
            process.wait(patience_s)
        return
