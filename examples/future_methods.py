"""What a future can tell: done, running, cancel, cancelled, result, exception.

One worker, three tasks. The first waits at a gate until we open it, so the second can still be cancelled while it is
queued; the third fails on purpose.

Run it:  python examples/future_methods.py
"""

import threading
from concurrent import futures

from prefect import flow, task

import prefect_fanout
from prefect_fanout import ExecutorTaskRunner

STARTED = threading.Event()  # the first task is running
GATE = threading.Event()  # it may go on


def wait_at_the_gate() -> str:
    """Say that we run, then wait until the gate opens."""
    STARTED.set()
    if not GATE.wait(timeout=60):  # seconds
        raise TimeoutError("Nobody opened the gate within 60 s.")
    return "through the gate"


def never_runs() -> str:
    """Be cancelled before the only worker comes to us."""
    return "this is not printed"


def fails() -> str:
    """Raise, so that the future holds an exception."""
    raise ValueError("seven is not an answer")


def with_a_pool() -> None:
    """The methods of `concurrent.futures.Future`."""
    with futures.ThreadPoolExecutor(max_workers=1) as pool:
        first, second, third = pool.submit(wait_at_the_gate), pool.submit(never_runs), pool.submit(fails)
        STARTED.wait()
        print(f"first:  done={first.done()} running={first.running()} cancel={first.cancel()}")  # too late to cancel
        print(f"second: cancel={second.cancel()} cancelled={second.cancelled()} done={second.done()}")
        GATE.set()
        futures.wait([first, second, third])
        print(f"first:  done={first.done()} result={first.result()!r} exception={first.exception()!r}")
        print(f"third:  done={third.done()} exception={third.exception()!r}")
        try:
            third.result()
        except ValueError as error:
            print(f"third:  result raises {type(error).__name__}: {error}")
        try:
            second.result()
        except futures.CancelledError as error:
            print(f"second: result raises {type(error).__name__}")


first_task, second_task, third_task = task(wait_at_the_gate), task(never_runs), task(fails)


@flow
def with_a_runner() -> None:
    """The same methods on an `ExecutorFuture`, which has a Prefect state besides."""
    with ExecutorTaskRunner(max_workers=1) as runner:
        first, second, third = (runner.submit(work, {}) for work in (first_task, second_task, third_task))
        STARTED.wait()
        print(f"first:  done={first.done()} running={first.running()} cancel={first.cancel()}")
        print(f"second: cancel={second.cancel()} cancelled={second.cancelled()} done={second.done()}")
        GATE.set()
        prefect_fanout.wait([first, second, third])
        print(f"first:  done={first.done()} result={first.result()!r} exception={first.exception()!r}")
        print(f"third:  done={third.done()} exception={third.exception()!r}")
        print(f"states: {first.state.name}, {second.state.name}, {third.state.name}")


if __name__ == "__main__":
    print("The standard library")
    with_a_pool()
    STARTED.clear()
    GATE.clear()
    print()
    print("The same through a runner, in a flow")
    with_a_runner()
