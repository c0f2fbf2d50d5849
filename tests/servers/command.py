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
    arguments: Sequence[str | Path], *, cwd: Path, environment: Mapping[str, str | None], stderr: int = subprocess.PIPE
) -> subprocess.Popen[bytes]:
    """Start the command at the head of a process group, as a shell does, so that it can be sent a Ctrl-C."""
    return subprocess.Popen(
        [FANOUT, *arguments],
        cwd=cwd,
        env=_changed(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=stderr,
        process_group=0,
    )


def _changed(changes: Mapping[str, str | None]) -> dict[str, str]:
    """The environment of this process with some variables set and those that are None removed."""
    return {name: value for name, value in {**os.environ, **changes}.items() if value is not None}
