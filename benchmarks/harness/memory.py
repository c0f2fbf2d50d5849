"""The resident memory of this process, now and at its highest."""

from __future__ import annotations

import threading
from pathlib import Path
from types import TracebackType
from typing import Self

SAMPLE_INTERVAL_S = 0.02
KIB_PER_MB = 1_000_000 / 1024


def resident_mb() -> float:
    """Resident memory of this process, in megabytes of 1,000,000 bytes."""
    return _status_mb("VmRSS")


def peak_mb() -> float:
    """The highest resident memory of this process since its start, in megabytes."""
    return _status_mb("VmHWM")


def _status_mb(name: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / KIB_PER_MB
    raise RuntimeError(f"/proc/self/status should have a line {name} and has none: memory is measured on Linux only.")


class MemorySampler:
    """Samples the resident memory while its block lasts: `start`, `end` and `peak`, in megabytes."""

    def __init__(self) -> None:
        self.start = self.end = self.peak = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="memory-sampler")

    def __enter__(self) -> Self:
        self.start = self.peak = resident_mb()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self.end = resident_mb()
        self.peak = max(self.peak, self.end)

    def _sample(self) -> None:
        while not self._stop.wait(SAMPLE_INTERVAL_S):
            self.peak = max(self.peak, resident_mb())
