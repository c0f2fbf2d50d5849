"""A contender: a function of a file, or a command as a person types it, run in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.harness.child import RESULT_MARK
from benchmarks.harness.process import BenchmarkError, stop

FANOUT = Path(sys.executable).with_name("fanout")
KIB_PER_MB = 1_000_000 / 1024
FOLDER = Path(__file__).parents[1] / "contenders"
CHILD = Path(__file__).with_name("child.py")


@dataclass(frozen=True, kw_only=True)
class Contender:
    """What is compared.

    Attributes:
        name: What the tables call it.
        file: Its file below contenders/.
        function: The function in that file.
        python: The interpreter; None means this one.
        spec: What the function gets besides what each run adds.
        environment: The whole environment of the process; None means that of this one.
    """

    name: str
    file: str
    function: str
    python: Path | None = None
    spec: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] | None = None

    def run(self, **spec: Any) -> dict[str, Any]:
        """Run once in a new process and return its measures.

        Returns:
            `seconds`, `cpu_s` and `peak_mb` of the work, `process_s` for the whole process with its start, its
            imports and its end, and whatever else the contender tells.

        Raises:
            BenchmarkError: It failed; the text holds what it printed.
        """
        started = time.perf_counter()
        process = subprocess.Popen(
            [str(self.python or sys.executable), "-P", str(CHILD), str(FOLDER / self.file), self.function],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=dict(self.environment if self.environment is not None else os.environ),
            start_new_session=True,
        )
        try:
            printed = process.communicate(json.dumps({**self.spec, **spec}).encode())[0].decode(errors="replace")
        finally:
            stop(process)
        results = [line for line in printed.splitlines() if line.startswith(RESULT_MARK)]
        if process.returncode != 0 or not results:
            tail = "\n".join(printed.splitlines()[-25:])
            raise BenchmarkError(f"The contender {self.name!r} failed (exit code {process.returncode}):\n{tail}")
        measures: dict[str, Any] = json.loads(results[-1].removeprefix(RESULT_MARK))
        return {"process_s": time.perf_counter() - started, **measures}


@dataclass(frozen=True, kw_only=True)
class AsTyped:
    """The `fanout` command as a person types it, from exec to exit, with a Prefect server of its own.

    Attributes:
        name: What the tables call it.
        arguments: The arguments, made from what each run adds.
        home: Prefect's home. The first run makes the database there, which takes some seconds once.
    """

    name: str
    arguments: Callable[[Mapping[str, Any]], list[str]]
    home: Path

    def run(self, **spec: Any) -> dict[str, Any]:
        """Run once and return its measures.

        Returns:
            `seconds` and `process_s`, both for the whole process; `cpu_s` with its server's; `peak_mb`, that of the
            larger of the two processes.

        Raises:
            BenchmarkError: It failed; the text holds what it printed.
        """
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        with tempfile.TemporaryFile() as output:
            started = time.perf_counter()
            process = subprocess.Popen(
                [FANOUT, *self.arguments(spec)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**inherited, "PREFECT_HOME": str(self.home)},
                start_new_session=True,
            )
            try:
                # The process waits for its server, so that the server's use is a part of its own.
                _, status, use = os.wait4(process.pid, 0)
                process.returncode = os.waitstatus_to_exitcode(status)
            finally:
                stop(process)
            seconds = time.perf_counter() - started
            if process.returncode != 0:
                output.seek(0)
                printed = output.read().decode(errors="replace")
                raise BenchmarkError(f"{self.name!r} failed (exit code {process.returncode}):\n{printed}")
        return {
            "seconds": seconds,
            "process_s": seconds,
            "cpu_s": use.ru_utime + use.ru_stime,
            "peak_mb": use.ru_maxrss / KIB_PER_MB,  # in KiB on Linux, where the benchmarks run
        }
