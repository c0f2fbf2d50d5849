"""One database connection per thread: opened when the thread starts, closed when the pool ends.

A connection of sqlite3 may be used only by the thread that opened it, as is the rule for many clients and sessions.
So each thread of the pool opens its own, once, and keeps it for all the items it handles.

Run it:  python examples/worker_resources.py
"""

import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager

from prefect import flow, task

from prefect_fanout import ExecutorTaskRunner, worker_resource

NUMBERS = [1, 2, 3, 4, 5, 6]
MINE = threading.local()  # every thread sees attributes of its own here
MEETING_POINT = threading.Barrier(2, timeout=60)  # seconds; makes sure that both threads of a pool take part


def say(event: str) -> None:
    """Print what happened and in which thread, with its line end in one piece, as two threads may print at once."""
    print(f"{event} in {threading.current_thread().name}\n", end="")


def square(number: int, connection: sqlite3.Connection) -> int:
    """Let the database work out the square of a number."""
    MEETING_POINT.wait()
    (answer,) = connection.execute("select ? * ?", (number, number)).fetchone()
    return int(answer)


# --- The standard library: an initializer, and no finalizer ----------------------------------------------------------


def with_a_pool() -> None:
    """The pool can open things in its threads, but not close them there: the main thread must, after the shutdown."""
    with ExitStack() as to_close:

        def open_connection() -> None:
            # check_same_thread=False only because the thread that closes it is not the one that opened it.
            MINE.connection = to_close.enter_context(closing(sqlite3.connect(":memory:", check_same_thread=False)))
            to_close.callback(say, "closed")
            say("opened")

        with ThreadPoolExecutor(max_workers=2, thread_name_prefix="pool", initializer=open_connection) as pool:
            print(list(pool.map(lambda number: square(number, MINE.connection), NUMBERS)))


# --- Our runner: initializer and finalizer, both in the worker -------------------------------------------------------


def open_mine() -> None:
    """Open this thread's connection."""
    MINE.connection = sqlite3.connect(":memory:")
    say("opened")


def close_mine() -> None:
    """Close this thread's connection, in the thread that opened it."""
    MINE.connection.close()
    say("closed")


@task
def square_with_mine(number: int) -> int:
    """Use the connection that the initializer opened."""
    return square(number, MINE.connection)


@flow(
    task_runner=ExecutorTaskRunner(
        max_workers=2, thread_name_prefix="runner", initializer=open_mine, finalizer=close_mine
    )
)
def with_a_runner() -> None:
    """Each worker thread runs the initializer first and the finalizer last."""
    print(square_with_mine.map(NUMBERS).result())


# --- The short form: a worker resource -------------------------------------------------------------------------------


@contextmanager
def connection() -> Iterator[sqlite3.Connection]:
    """Open a connection, lend it, close it."""
    with closing(sqlite3.connect(":memory:")) as opened:
        say("opened")
        yield opened
    say("closed")


@task
def square_with_resource(number: int) -> int:
    """Ask for the resource: it is opened at the first item of each worker and closed when the pool ends."""
    return square(number, worker_resource(connection))


@flow(task_runner=ExecutorTaskRunner(max_workers=2, thread_name_prefix="resource"))
def with_a_resource() -> None:
    """No thread-local variable, no pair of functions: the task names what it needs."""
    print(square_with_resource.map(NUMBERS).result())


if __name__ == "__main__":
    print("Initializer of a pool")
    with_a_pool()
    print()
    print("Initializer and finalizer of a runner")
    with_a_runner()
    print()
    print("Worker resource")
    with_a_resource()
