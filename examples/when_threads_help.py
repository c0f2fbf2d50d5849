"""Which work runs faster on threads? The same four jobs, one after the other and on four threads.

Only one thread at a time runs Python code: it holds the global interpreter lock, the GIL. A thread lets go of it while
it waits, and inside many functions written in C. So threads help with waiting, and on several cores with work done by
such functions; they do not help with Python code, which needs processes.

Run it:  python examples/when_threads_help.py
         python examples/when_threads_help.py --scale 0.1      (a tenth of the work)
"""

import argparse
import hashlib
import os
import sys
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from prefect import flow, task

from prefect_fanout import ExecutorTaskRunner

THREADS = 4
JOBS = 4
DATA = bytes(range(256)) * 4096  # 1 MiB


def wait(scale: float) -> int:
    """Wait half a second: a server's answer, a slow disk, a lock."""
    time.sleep(0.5 * scale)
    return 1


def hash_bytes(scale: float) -> int:
    """Hash 256 MiB; hashlib releases the GIL for more than 2 KiB."""
    digest = hashlib.sha256()
    for _ in range(max(1, int(256 * scale))):
        digest.update(DATA)
    return len(digest.digest())


def compress(scale: float) -> int:
    """Compress 96 MiB, a mebibyte at a time; zlib releases the GIL."""
    return sum(len(zlib.compress(DATA, level=6)) for _ in range(max(1, int(96 * scale))))


def count_in_python(scale: float) -> int:
    """Add numbers in a Python loop: the GIL is held throughout."""
    total = 0
    for number in range(int(8_000_000 * scale)):
        total += number % 7
    return total


WORK: dict[str, Callable[[float], int]] = {
    "waiting": wait,
    "hashing": hash_bytes,
    "compressing": compress,
    "counting in Python": count_in_python,
}


def one_after_the_other(work: Callable[[float], int], scale: float) -> list[int]:
    """The baseline."""
    return [work(scale) for _ in range(JOBS)]


def with_a_pool(work: Callable[[float], int], scale: float) -> list[int]:
    """Four threads of the standard library."""
    with ThreadPoolExecutor(max_workers=THREADS) as pool:
        return list(pool.map(work, [scale] * JOBS))


@flow
def with_a_runner(name: str, scale: float) -> list[int]:
    """The same four threads, in a flow."""
    work = task(WORK[name])
    with ExecutorTaskRunner(max_workers=THREADS) as runner:
        return [future.result() for future in [runner.submit(work, {"scale": scale}) for _ in range(JOBS)]]


def seconds(run: Callable[[], list[int]], expected: list[int]) -> float:
    """Time `run`, which must give what the plain loop gave."""
    start = time.perf_counter()
    if run() != expected:
        raise RuntimeError("The threads gave another answer than the loop.")
    return time.perf_counter() - start


def main() -> None:
    """Print one line per kind of work: seconds for the loop, the pool and the flow, and the pool's gain."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0, help="how much work, 1 being a few seconds (default: 1)")
    scale: float = parser.parse_args().scale
    print(f"{os.cpu_count()} cores, Python {sys.version.split()[0]}, {JOBS} jobs on {THREADS} threads")
    with_a_runner("waiting", 0.0)  # Prefect may have to start a server: not part of the times
    print(f"{'work':20} {'loop':>8} {'pool':>8} {'flow':>8}   gain of the pool")
    for name, work in WORK.items():
        expected = one_after_the_other(work, scale)
        loop = seconds(partial(one_after_the_other, work, scale), expected)
        pool = seconds(partial(with_a_pool, work, scale), expected)
        flow_seconds = seconds(partial(with_a_runner, name, scale), expected)
        print(f"{name:20} {loop:6.2f} s {pool:6.2f} s {flow_seconds:6.2f} s   {loop / pool:.1f} times")


if __name__ == "__main__":
    main()
