"""What a runner tells of itself."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class RunnerStatistics:
    """How many task runs a runner has in each condition; `items` counts the items of those that are done."""

    max_workers: int
    workers: int
    waiting: int
    queued: int
    running: int
    completed: int
    failed: int
    cancelled: int
    items: int
    timeline_dropped: int


@dataclass(frozen=True, slots=True)
class TimelineEntry:
    """One task run that a worker ran: times are seconds since the Unix epoch."""

    name: str
    worker: str
    queued: float
    started: float
    ended: float
    items: int
