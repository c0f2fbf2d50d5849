"""Runs one contender in this process and prints what it took: `child.py FILE FUNCTION`, the specification on stdin.

The function gets the specification (JSON) and returns the work, a callable without arguments. Imports, starting the
interpreter and preparing the work are not timed; the work is, with the processes that it starts. Only the standard
library is used here, so that it runs in the peers' environments too.
"""

from __future__ import annotations

import json
import resource
import runpy
import sys
import time
from pathlib import Path

RESULT_MARK = "benchmark-result:"


def main() -> None:
    """Run the contender and print one line: the mark, then its measures as JSON."""
    # At the end, so that nothing in the tree hides what is installed.
    sys.path.append(str(Path(__file__).resolve().parents[2]))
    from benchmarks.harness.memory import peak_mb

    file, function = sys.argv[1:]
    work = runpy.run_path(file)[function](json.load(sys.stdin))
    cpu, started = _cpu_s(), time.perf_counter()
    told = work()
    seconds, cpu = time.perf_counter() - started, _cpu_s() - cpu
    measures = {"seconds": seconds, "cpu_s": cpu, "peak_mb": peak_mb()} | (told or {})
    sys.stdout.write(f"\n{RESULT_MARK}{json.dumps(measures)}\n")


def _cpu_s() -> float:
    uses = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(use.ru_utime + use.ru_stime for use in uses)


if __name__ == "__main__":
    main()
