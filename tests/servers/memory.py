"""The memory that a piece of work takes, measured in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

STATUS = Path("/proc/self/status")
PATIENCE_S = 280

# `prepare` and `work` come from the test. Writing 5 sets the peak back to the memory in use (proc_pid_clear_refs(5)).
PROGRAM = """
import contextlib, pathlib, sys

{code}

def _peak_kb():
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))

prepare()
with contextlib.suppress(OSError):
    pathlib.Path("/proc/self/clear_refs").write_text("5")
_before = _peak_kb()
work(*sys.argv[1:])
print()
print(_peak_kb() - _before)
"""


def growth_mb(code: str, *arguments: str, cwd: Path | None = None) -> float:
    """Return by how many MB the peak of resident memory (VmHWM) grows during a piece of work.

    Args:
        code: A program that defines `prepare()`, run before the first reading, for the imports, and
            `work(*arguments)`, which is measured.
        arguments: Texts for `work`.
        cwd: Folder to run in.
    """
    if not STATUS.exists():
        pytest.skip("there is no /proc/self/status here to read the peak of memory from")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(code=code), *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONSAFEPATH": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout.split()[-1]) / 1024
