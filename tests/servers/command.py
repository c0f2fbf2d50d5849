"""The `fanout` command as a user runs it: a process of its own, from the installed package."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

FANOUT = Path(sys.executable).with_name("fanout")
PATIENCE_S = 240


def run_fanout(
    *arguments: str | Path, cwd: Path, environment: Mapping[str, str | None] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the command to its end, away from any terminal, and give what it wrote."""
    return subprocess.run(
        [FANOUT, *arguments],
        cwd=cwd,
        env=_changed(environment or {}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def start_fanout(
    arguments: Sequence[str | Path],
    *,
    cwd: Path,
    environment: Mapping[str, str | None],
    stdout: int = subprocess.PIPE,
    stderr: int = subprocess.PIPE,
) -> subprocess.Popen[bytes]:
    """Start the command at the head of a process group, as a shell does, so that it can be sent a Ctrl-C."""
    return subprocess.Popen(
        [FANOUT, *arguments],
        cwd=cwd,
        env=_changed(environment),
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        process_group=0,
    )


def run_on_terminal(
    *arguments: str | Path, cwd: Path, environment: Mapping[str, str | None]
) -> tuple[int | None, bytes]:
    """Run the command to its end on a terminal of 120 columns; give its exit code and everything it wrote there."""
    master, slave = os.openpty()
    settings = {**environment, "TERM": "xterm-256color", "COLUMNS": "120"}
    process = start_fanout(arguments, cwd=cwd, environment=settings, stdout=slave, stderr=slave)
    os.close(slave)
    shown = read_terminal(master)
    return process.wait(PATIENCE_S), shown


def read_terminal(master: int) -> bytes:
    """Read a pseudo-terminal until all who write to it have ended, and close it."""
    shown = b""
    while True:
        try:
            data = os.read(master, 65_536)
        except OSError:  # what Linux gives when the other side of a pty is closed
            break
        if not data:
            break
        shown += data
    os.close(master)
    return shown


def _changed(changes: Mapping[str, str | None]) -> dict[str, str]:
    """The environment of this process with some variables set and those that are None removed."""
    return {name: value for name, value in {**os.environ, **changes}.items() if value is not None}
