"""When a try is repeated, and after how long."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from requests.structures import CaseInsensitiveDict

from prefect_fanout.tasks.images.failure import FetchError
from prefect_fanout.tasks.images.options import ImageOptions
from prefect_fanout.tasks.images.retry import delay_before_retry, retry_after_s

NOW = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"Retry-After": "0"}, 0),
        ({"retry-after": " 2 "}, 2),
        ({"Retry-After": "1000000000000000000000"}, 10**9),
        ({"Retry-After": "-1"}, None),
        ({"Retry-After": "2.5"}, None),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "\u0662"}, None),
        ({"Retry-After": "Sun, 22 Nov 2026 12:00:05 GMT"}, 5),
        ({"Retry-After": "Sun, 22 Nov 2026 11:00:00 GMT"}, 0),
        ({"Retry-After": "Sun, 22 Nov 2020 12:00:05 GMT", "Date": "Sun, 22 Nov 2020 12:00:00 GMT"}, 5),
        ({"Retry-After": "Sun, 22 Nov 2026 12:00:05 GMT", "Date": "rubbish"}, 5),
        ({"Retry-After": "Sun, 99 Nov 2026 12:00:05 GMT"}, None),
    ],
)
def test_retry_after(headers: dict[str, str], seconds: float | None) -> None:
    """Seconds and dates are understood, a wrong clock is corrected by the response's Date, the rest is ignored."""
    assert retry_after_s(CaseInsensitiveDict(headers), NOW) == seconds


@pytest.mark.parametrize("attempt", [1, 2, 3, 10])
def test_the_wait_is_random_below_a_ceiling_that_doubles(attempt: int) -> None:
    """Full jitter: any wait from nothing up to the ceiling, which has a cap."""
    options = ImageOptions(retries=10, retry_wait_s=1, retry_wait_cap_s=3)
    delays = [delay_before_retry(FetchError("reset", "", retry=True), attempt, 0, options) or 0.0 for _ in range(500)]
    ceiling = min(2 ** (attempt - 1), 3)
    assert 0 <= min(delays) < ceiling * 0.2
    assert ceiling * 0.8 < max(delays) <= ceiling


@pytest.mark.parametrize(
    ("retry", "after", "attempt", "elapsed", "tried"),
    [
        (False, None, 1, 0, False),
        (True, None, 2, 0, True),
        (True, None, 3, 0, False),
        (True, 30.0, 1, 0, True),
        (True, 30.1, 1, 0, False),
        (True, 5.0, 1, 55, True),
        (True, 5.0, 1, 55.1, False),
        (True, None, 1, 60.1, False),
    ],
)
def test_when_there_is_no_further_try(
    retry: bool, after: float | None, attempt: int, elapsed: float, tried: bool
) -> None:
    """Tries end with the retries, with a Retry-After beyond the cap, and with the time for the item."""
    options = ImageOptions(retries=2, retry_wait_s=0, retry_after_cap_s=30, retry_limit_s=60)
    delay = delay_before_retry(FetchError("x", "", retry=retry, retry_after_s=after), attempt, elapsed, options)
    assert (delay is not None) == tried
