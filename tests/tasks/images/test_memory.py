"""The memory that checks of images share: bounded, fair, and left when the run is stopped."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from prefect_fanout.tasks.images.deadline import Stopped
from prefect_fanout.tasks.images.memory import UNCOUNTED_BYTES, CheckMemory

UNIT = UNCOUNTED_BYTES + 1
PATIENCE_S = 60


class Taker:
    """A thread that takes some memory and holds it until it is told to return it."""

    def __init__(self, memory: CheckMemory, units: int, stop: threading.Event) -> None:
        self.has_it, self.polled, self.error = threading.Event(), threading.Event(), ""
        self._done = threading.Event()
        self._memory, self._units, self._stop = memory, units, stop
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            with self._memory.taken(self._units * UNIT, self._stopped):
                self.has_it.set()
                self._done.wait(PATIENCE_S)
        except Stopped as error:
            self.error = str(error)

    def _stopped(self) -> None:
        self.polled.set()
        if self._stop.is_set():
            raise Stopped("stopped")

    def give_back(self) -> None:
        """Return the memory, and wait for the end of the thread."""
        self._done.set()
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()


@pytest.fixture
def stop() -> Iterator[threading.Event]:
    """Set when the run is stopped, at the end of the test at the latest."""
    event = threading.Event()
    yield event
    event.set()


@pytest.mark.parametrize("units", [1, 2, 3])
def test_what_fits_is_held_at_the_same_time(stop: threading.Event, units: int) -> None:
    """As many takers as fit hold their memory together; the next one waits for the first that returns it."""
    memory = CheckMemory(units * UNIT)
    first = [Taker(memory, 1, stop) for _ in range(units)]
    assert all(taker.has_it.wait(PATIENCE_S) for taker in first)
    late = Taker(memory, 1, stop)
    assert late.polled.wait(PATIENCE_S)
    assert not late.has_it.is_set()
    first[0].give_back()
    assert late.has_it.wait(PATIENCE_S)
    for taker in [*first[1:], late]:
        taker.give_back()


def test_small_ones_do_not_overtake_a_large_one(stop: threading.Event) -> None:
    """A large request is served before the small ones that came later, though these would fit at once."""
    memory = CheckMemory(4 * UNIT)
    holder = Taker(memory, 2, stop)
    assert holder.has_it.wait(PATIENCE_S)
    large = Taker(memory, 4, stop)
    assert large.polled.wait(PATIENCE_S)
    small = Taker(memory, 1, stop)
    assert small.polled.wait(PATIENCE_S)
    assert not small.has_it.is_set()
    holder.give_back()
    assert large.has_it.wait(PATIENCE_S)
    assert not small.has_it.is_set()
    large.give_back()
    assert small.has_it.wait(PATIENCE_S)
    small.give_back()


def test_a_stopped_run_leaves_the_queue(stop: threading.Event) -> None:
    """Waiting ends with Stopped, and takes nothing away from the others."""
    memory, never = CheckMemory(2 * UNIT), threading.Event()
    holder = Taker(memory, 1, never)
    assert holder.has_it.wait(PATIENCE_S)
    large = Taker(memory, 2, stop)
    assert large.polled.wait(PATIENCE_S)
    small = Taker(memory, 1, never)
    assert small.polled.wait(PATIENCE_S)
    stop.set()
    assert small.has_it.wait(PATIENCE_S)
    large.give_back()
    assert (large.error, large.has_it.is_set()) == ("stopped", False)
    for taker in holder, small:
        taker.give_back()
    everything = Taker(memory, 2, never)
    assert everything.has_it.wait(PATIENCE_S)
    everything.give_back()


def test_a_failure_returns_the_memory(stop: threading.Event) -> None:
    """Memory is free again after an error, and the smallest checks never wait."""
    memory = CheckMemory(UNIT)
    with pytest.raises(ValueError, match="damaged"), memory.taken(UNIT, stop.is_set):
        raise ValueError("damaged")
    with memory.taken(UNIT, stop.is_set), memory.taken(UNCOUNTED_BYTES, stop.is_set), memory.taken(0, stop.is_set):
        pass
