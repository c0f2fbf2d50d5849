"""How many items a chunk takes."""

from __future__ import annotations

import threading
from typing import Literal

from prefect_fanout._errors import UsageError, check_count

Chunksize = int | Literal["auto"]

# "auto" aims between these: long enough that the 15 ms and three events of a task run do not matter, short enough that
# progress, cancelling and a fair share for every worker still do.
FAST_CHUNK_S = 1.0
SLOW_CHUNK_S = 2.0
# Many workers make many task runs, which one interpreter and one server have to bear: from 8 workers on chunks get
# longer, up to twice. With 16, a third of the task runs made an image download a tenth faster.
WORKERS_AT_FULL_PACE = 8
MAX_STRETCH = 2.0
# How much one chunk may teach: by doubling alone a list of 3,000 quick items took 215 task runs to get up to speed. And
# a clock that shows no time at all must not divide.
MAX_GROWTH = 16
MIN_CHUNK_S = 0.001
# A chunk's items and outcomes wait in memory: about 300 bytes an item, so 2 MB a chunk at this size.
MAX_AUTO_CHUNKSIZE = 8_192
MAX_CHUNKSIZE = 1_000_000
# Chunks submitted and not yet finished, per worker: one that runs and one that waits for its turn.
CHUNKS_PER_WORKER = 2


def checked_chunksize(chunksize: object) -> Chunksize:
    """Return `chunksize` if it is "auto" or a whole number from 1 to `MAX_CHUNKSIZE`, else raise a `UsageError`."""
    if chunksize == "auto":
        return "auto"
    if isinstance(chunksize, str):
        raise UsageError(f"chunksize must be 'auto' or a whole number of items, got {chunksize!r}.")
    check_count("chunksize", chunksize, MAX_CHUNKSIZE, "items")
    assert isinstance(chunksize, int), "check_count lets nothing else through"
    return chunksize


class ChunkSizer:
    """Chunk sizes, fixed or learnt: "auto" starts at one item, grows after a fast chunk and halves after a slow one.

    It at least doubles, and grows up to sixteenfold where a chunk was that much too fast.

    Args:
        chunksize: Items per chunk, or "auto".
        workers: How many run at once.

    Mutable state: `_size` and `_learning`, guarded by `_lock`.
    """

    def __init__(self, chunksize: Chunksize, workers: int) -> None:
        self.auto = chunksize == "auto"
        stretch = min(max(workers / WORKERS_AT_FULL_PACE, 1.0), MAX_STRETCH)
        self.fast_s, self.slow_s = FAST_CHUNK_S * stretch, SLOW_CHUNK_S * stretch
        self._workers = workers
        self._learning = self.auto
        self._size = 1 if chunksize == "auto" else chunksize
        self._lock = threading.Lock()

    @property
    def size(self) -> int:
        """Items that the next chunk should take."""
        return self._size

    def window(self, most: int) -> int:
        """Chunks that may be out, of at most `most`.

        While the size is being learnt that is one per worker: those that wait for their turn would be of the old size.
        """
        return min(most, self._workers) if self._learning else most

    def finished(self, items: int, seconds: float) -> None:
        """Learn from a chunk of `items` items that ran for `seconds`.

        Only a chunk of the present size makes it grow: those that were cut before the last change would repeat it.
        """
        if not self.auto:
            return
        with self._lock:
            if seconds / items * self._size > self.slow_s:
                self._size = max(self._size // 2, 1)
                self._learning = False
            elif items == self._size and seconds < self.fast_s:
                growth = max(2, min(MAX_GROWTH, int(self.fast_s / max(seconds, MIN_CHUNK_S))))
                self._size = min(self._size * growth, MAX_AUTO_CHUNKSIZE)
                self._learning = self._learning and self._size < MAX_AUTO_CHUNKSIZE
            elif items == self._size:
                self._learning = False
