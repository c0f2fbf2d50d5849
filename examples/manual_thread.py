"""A thread made by hand: start it, wait for it, read what it left behind.

A `threading.Thread` gives nothing back: no return value, no exception. Whoever starts it must agree with it on a place
for the answer. A future is exactly that place, ready-made: the second half does the same through a runner in a flow.

Run it:  python examples/manual_thread.py
"""

import threading

from prefect import flow, task

from prefect_fanout import ExecutorTaskRunner


def greet(name: str) -> str:
    """Return a greeting that says which thread wrote it."""
    return f"Hello {name}, from the thread {threading.current_thread().name}."


def with_a_thread() -> None:
    """Start one thread, join it, and fetch the answer from the list it was given."""
    answers: list[str] = []
    thread = threading.Thread(target=lambda: answers.append(greet("Ada")), name="greeter")
    print(f"created:  alive={thread.is_alive()}  answers={len(answers)}")
    thread.start()
    thread.join()  # waits until the function has returned; without it, the answer may not be there yet
    print(f"joined:   alive={thread.is_alive()}  answers={len(answers)}")
    print(answers[0])


greet_task = task(greet)


@flow(task_runner=ExecutorTaskRunner(max_workers=1, thread_name_prefix="greeter"))
def with_a_runner() -> None:
    """Submit the same function: the future carries the answer, or the exception, back to us."""
    future = greet_task.submit("Ada")
    print(future.result())
    print(f"finished: state={future.state.name}")


if __name__ == "__main__":
    print("A thread by hand")
    with_a_thread()
    print()
    print("The same through a runner, in a flow")
    with_a_runner()
