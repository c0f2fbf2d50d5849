"""What became of one item."""

from __future__ import annotations

from concurrent.futures import CancelledError
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from prefect.exceptions import CancelledRun


class OutcomeStatus(StrEnum):
    """The three ways in which an item can end."""

    OK = "ok"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one item: its value, its error, or cancelled. Never two of them, never none.

    Attributes:
        index: Position of the item in the input, from 0.
        item: The item as it was given; a tuple where several iterables were zipped.
        status: `ok`, `failed` or `cancelled`.
        value: What the task returned for the item; None unless `status` is `ok`.
        error: What the task raised for the item; None where `status` is `ok`.
        attempts: How often the item was tried; 0 for one that was cancelled before it began.
    """

    index: int
    item: Any
    status: OutcomeStatus
    value: Any = None
    error: BaseException | None = None
    attempts: int = 1

    @property
    def ok(self) -> bool:
        """Whether the item succeeded."""
        return self.status is OutcomeStatus.OK

    def result(self) -> Any:
        """Return the value, or raise the error."""
        if self.error is not None:
            raise self.error
        return self.value


class FutureCancelled(CancelledRun, CancelledError):
    """A task run or an item was cancelled before it could run.

    It is Prefect's `CancelledRun` and the standard library's `CancelledError` at once, so code written for
    either protocol catches it.
    """
