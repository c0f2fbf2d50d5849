"""Thread names: give the threads of each pool a prefix of their own, and every log line says who wrote it.

Run it:  python examples/thread_names.py
"""

import logging
import threading
from concurrent.futures import ThreadPoolExecutor

from prefect import flow, task

from prefect_fanout import ExecutorTaskRunner

LOG = logging.getLogger("lesson")
MEETING_POINT = threading.Barrier(2, timeout=60)  # seconds; makes sure that both threads of a pool take part


def whoami(letter: str) -> str:
    """Return the letter with the name of the thread that handled it."""
    MEETING_POINT.wait()
    name = threading.current_thread().name
    LOG.info("handling %s", letter)
    return f"{letter} by {name}"


def with_a_pool() -> None:
    """The pool numbers its threads: porter_0, porter_1."""
    with ThreadPoolExecutor(max_workers=2, thread_name_prefix="porter") as pool:
        for line in pool.map(whoami, "abcd"):
            print(line)


whoami_task = task(whoami)


@flow(task_runner=ExecutorTaskRunner(max_workers=2, thread_name_prefix="courier"))
def with_a_runner() -> None:
    """The runner does the same, so that the names in Prefect's logs are ours too."""
    for line in whoami_task.map(["a", "b", "c", "d"]).result():
        print(line)


if __name__ == "__main__":
    handler = logging.StreamHandler()  # to standard error, beside Prefect's log
    handler.setFormatter(logging.Formatter("%(threadName)s: %(message)s"))
    LOG.addHandler(handler)
    LOG.setLevel(logging.INFO)
    print(f"main: {threading.current_thread().name}")
    with_a_pool()
    with_a_runner()
