"""The life of a pool: create, submit or map, wait or as_completed, shutdown.

Four tasks that each wait one second take four seconds one after the other and one second together. That they really
run together is shown by a `threading.Barrier(4)`: nobody passes it until all four have arrived.

Run it:  python examples/pool_lifecycle.py            (about ten seconds)
         python examples/pool_lifecycle.py --seconds 0.2
"""

import argparse
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager

from prefect import flow, task

import prefect_fanout
from prefect_fanout import ExecutorTaskRunner

NAMES = ["north", "east", "south", "west"]
MEETING_POINT = threading.Barrier(len(NAMES), timeout=60)  # seconds; a task that waits in vain fails instead of hanging


def rest(name: str, seconds: float) -> str:
    """Wait, as a program does for a server, a disk or a database."""
    time.sleep(seconds)
    return name


def rest_together(name: str, seconds: float) -> str:
    """Meet the other three, then wait: comes back only if all four run at the same time."""
    MEETING_POINT.wait()
    return rest(name, seconds)


@contextmanager
def timed(title: str) -> Iterator[None]:
    """Print a title, what the block prints, and how long the block took."""
    print(f"{title}:")
    start = time.perf_counter()
    yield
    print(f"  {time.perf_counter() - start:.1f} s")


def shorter_and_shorter(seconds: float) -> list[tuple[str, float]]:
    """North waits longest and west least, so they come back in the opposite order."""
    return [(name, seconds * (4 - position) / 4) for position, name in enumerate(NAMES)]


def one_after_the_other(seconds: float) -> None:
    """No pool at all: the baseline."""
    with timed("one after the other"):
        print(" ", [rest(name, seconds) for name in NAMES])


def by_hand(seconds: float) -> None:
    """Create, submit, wait, shut down: each step by its name."""
    with timed("submit, wait, shutdown"):
        pool = futures.ThreadPoolExecutor(max_workers=4)
        try:
            submitted = [pool.submit(rest_together, name, seconds) for name in NAMES]
            done, not_done = futures.wait(submitted)
            print(f"  done={len(done)} not_done={len(not_done)}")
            print(" ", [future.result() for future in submitted])
        finally:
            pool.shutdown()  # waits for what is running; without it, the threads stay until the program ends


def by_with(seconds: float) -> None:
    """The `with` block shuts the pool down, also after an exception. `map` keeps the order of its input."""
    with timed("with, map"), futures.ThreadPoolExecutor(max_workers=4) as pool:
        print(" ", list(pool.map(rest_together, NAMES, [seconds] * len(NAMES))))


def as_they_come(seconds: float) -> None:
    """`as_completed` hands over each future when it finishes, whichever was submitted first."""
    with timed("with, as_completed"), futures.ThreadPoolExecutor(max_workers=4) as pool:
        submitted = [pool.submit(rest_together, name, wait) for name, wait in shorter_and_shorter(seconds)]
        print(" ", [future.result() for future in futures.as_completed(submitted)])


rest_task = task(rest_together)


@flow(task_runner=ExecutorTaskRunner(max_workers=4))
def in_a_flow(seconds: float) -> None:
    """The flow creates the pool and shuts it down; submit, wait, map and as_completed keep their names."""
    with timed("flow: submit, wait"):
        submitted = [rest_task.submit(name, seconds) for name in NAMES]
        done, not_done = prefect_fanout.wait(submitted)
        print(f"  done={len(done)} not_done={len(not_done)}")
        print(" ", [future.result() for future in submitted])
    with timed("flow: map"):
        print(" ", rest_task.map(NAMES, seconds).result())
    with timed("flow: as_completed"):
        submitted = [rest_task.submit(name, wait) for name, wait in shorter_and_shorter(seconds)]
        print(" ", [future.result() for future in prefect_fanout.as_completed(submitted)])


def runner_by_with(seconds: float) -> None:
    """Outside a flow the runner itself is the `with` block."""
    with timed("runner: with, submit"), ExecutorTaskRunner(max_workers=4) as runner:
        submitted = [runner.submit(rest_task, {"name": name, "seconds": seconds}) for name in NAMES]
        print(" ", [future.result() for future in submitted])


def main() -> None:
    """Read the command line and show every form."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1.0, help="how long each task waits (default: 1)")
    seconds: float = parser.parse_args().seconds
    print("The standard library")
    one_after_the_other(seconds)
    by_hand(seconds)
    by_with(seconds)
    as_they_come(seconds)
    print()
    print("The same through a runner")
    in_a_flow(seconds)
    runner_by_with(seconds)


if __name__ == "__main__":
    main()
