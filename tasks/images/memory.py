"""The memory that all checks of images in this process may take together.

Promises:

1. The checks that run hold no more than the total, by the measured needs of the codecs.
2. First come, first served: small images do not overtake a large one, so it never waits for ever.
3. A check takes its memory once and asks for no more, so no two wait for each other.
4. A wait ends within `STOP_CHECK_S` of the moment at which the run is stopped.
5. Freed memory goes back to the system: what the C library keeps is a quarter of the total, at most.
"""

from __future__ import annotations

import ctypes
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from prefect_fanout.tasks.images.deadline import STOP_CHECK_S

CHECK_BYTES = 1024**3
"""1 GiB: enough for one image of 80 million pixels, the default of `max_pixels`; but for 67 million of a WebP that is
decoded, for 59 million of an AVIF with more than 8 bits a channel, and for fewer where frames build on each other."""
UNCOUNTED_BYTES = 256 * 1024
"""A check that takes no more than this waits for nobody: most images on the web, which are not decoded by default. 256
of them, the most workers there can be, take 64 MiB."""

_UNCOUNTED: AbstractContextManager[None] = nullcontext()
# Only glibc has it, and only glibc needs it: it keeps up to 64 MiB of freed memory for every thread.
_trim_heap = getattr(ctypes.CDLL(None), "malloc_trim", None)


class CheckMemory:
    """A number of bytes that threads take and return.

    State: `_free` and `_returned`, in bytes, and `_queue`, of the threads that wait; guarded by `_changed`.
    """

    def __init__(self, total_bytes: int = CHECK_BYTES) -> None:
        """Args: total_bytes: bytes for all checks together."""
        self.total_bytes = total_bytes
        self._free = total_bytes
        self._returned = 0
        self._queue: deque[object] = deque()
        self._changed = threading.Condition()

    def taken(self, size_bytes: int, stopped: Callable[[], object]) -> AbstractContextManager[None]:
        """Wait for the memory when the block begins, and hold it until it ends.

        Args:
            size_bytes: Bytes, at most the total.
            stopped: Called now and then while waiting; raises when the run is stopped.
        """
        return _UNCOUNTED if size_bytes <= UNCOUNTED_BYTES else self._held(size_bytes, stopped)

    @contextmanager
    def _held(self, size_bytes: int, stopped: Callable[[], object]) -> Iterator[None]:
        self._take(size_bytes, stopped)
        try:
            yield
        finally:
            self._give_back(size_bytes)

    def _take(self, size_bytes: int, stopped: Callable[[], object]) -> None:
        place = object()
        with self._changed:
            self._queue.append(place)
            try:
                while self._queue[0] is not place or self._free < size_bytes:
                    self._changed.wait(STOP_CHECK_S)
                    stopped()
                self._free -= size_bytes
            finally:
                self._queue.remove(place)
                self._changed.notify_all()  # the next one may have waited for its turn only

    def _give_back(self, size_bytes: int) -> None:
        with self._changed:
            self._returned += size_bytes
            is_due = self._returned >= self.total_bytes // 4
            if is_due:
                self._returned = 0
        if is_due and _trim_heap is not None:
            _trim_heap(0)  # outside the lock: it takes some milliseconds
        with self._changed:
            self._free += size_bytes
            self._changed.notify_all()
