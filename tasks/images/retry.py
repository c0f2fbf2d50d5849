"""When a failed try is repeated, and how long to wait before."""

from __future__ import annotations

import random
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from prefect_fanout.tasks.images.failure import FetchError
from prefect_fanout.tasks.images.options import ImageOptions

LONGEST_DELAY_S = 10.0**9
"""What a Retry-After beyond all reason counts as."""


def retry_after_s(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """Seconds that a server asks to wait, or None when it does not say so in a form that can be read.

    A date is compared with the response's own Date, so a server whose clock is wrong still gives the right wait.

    Args:
        headers: The response's headers; names in any case if the mapping allows it.
        now: The time that stands in for a missing Date.
    """
    value = headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit():
        return min(float(value[:12]), LONGEST_DELAY_S)
    until = _date(value)
    if until is None:
        return None
    sent = _date(headers.get("Date", "")) or now or datetime.now(UTC)
    return min(max((until - sent).total_seconds(), 0.0), LONGEST_DELAY_S)


def delay_before_retry(error: FetchError, attempt: int, elapsed_s: float, options: ImageOptions) -> float | None:
    """Seconds to wait before the next try, or None when there is none.

    Source: full jitter, from "Exponential Backoff And Jitter" (AWS Architecture Blog, 2015).

    Args:
        error: Why the last try failed.
        attempt: Number of that try, from 1.
        elapsed_s: Seconds since the item's first try began.
        options: The run's options.
    """
    if not error.retry or attempt > options.retries:
        return None
    ceiling = min(options.retry_wait_s * 2 ** (attempt - 1), options.retry_wait_cap_s)
    delay = random.uniform(0, ceiling)
    if error.retry_after_s is not None:
        if error.retry_after_s > options.retry_after_cap_s:
            return None
        delay += error.retry_after_s  # never earlier than the server asks; the jitter keeps workers apart
    return delay if elapsed_s + delay <= options.retry_limit_s else None


def _date(value: str) -> datetime | None:
    try:
        date = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)
