"""A contender: a function of a file, run in a process of its own with the interpreter that has its packages."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.harness.child import RESULT_MARK
from benchmarks.harness.process import BenchmarkError, stop

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
